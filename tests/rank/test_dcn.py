"""DCN: the contract, the formula with weights set by hand, the published parameter counts, and an interaction that LR cannot learn."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch

from palate.config import Training
from palate.features.collate import collate
from palate.features.encode import Encoded
from palate.features.spec import Categorical, FeatureSet
from palate.metrics import pointwise
from palate.nn.embedding import Embeddings
from palate.rank.dcn import DCN, DCNNetwork
from palate.rank.lr import LR
from palate.rank.neural import NeuralRanker
from palate.testing.ranker_contract import RankerContract, planted_examples, run_for
from palate.types import Inputs, Ragged, SparseInput

DENSE = Training(sparse="dense")


class TestContract(RankerContract):
    ranker = DCN
    settings: ClassVar[dict[str, Any]] = {
        "width": 8,
        "cross": 2,
        "layers": (16,),
        "batch_norm": True,
        "dropout": 0.1,
        "train": {"epochs": 4, "batch_size": 256, "lr": 1e-2},
    }


def test_network_by_hand() -> None:
    inputs = Inputs(("a",), (SparseInput("user", "user", 3),))
    batch = collate(Encoded(np.array([[-2.0]], dtype=np.float32), {"user": Ragged.of([[2]])}, inputs))
    network = DCNNetwork(inputs, Embeddings(inputs, 1, DENSE), cross=1, layers=(1,))
    assert network.deep is not None
    with torch.no_grad():
        network.stack.embeddings.tables()["user"].copy_(torch.tensor([[0.0], [9.0], [3.0]]))
        network.cross.weights[0].weight.copy_(torch.tensor([[1.0, 2.0]]))
        network.cross.biases.copy_(torch.tensor([[0.5, 0.25]]))
        network.deep.hidden[0].weight.copy_(torch.tensor([[2.0, 1.0]]))
        network.deep.hidden[0].bias.fill_(-1.0)
        network.head.weight.copy_(torch.tensor([[1.0, 10.0, 100.0]]))
        network.head.bias.fill_(0.125)
    # x0 = (3, -2); <x0, w> = 3 - 4 = -1; x1 = -x0 + b + x0 = (.5, .25). Deep: relu(6 - 2 - 1) = 3. Logit: .5 + 2.5 + 300 + .125.
    assert network.represent(batch).tolist() == [[0.5, 0.25, 3.0]]
    assert network(batch).tolist() == [[303.125]]


def count(cross: int, layers: tuple[int, ...], batch_norm: bool) -> int:
    # Frappe: 10 categorical fields of 5,389 ids in all, width 10.
    inputs = Inputs((), tuple(SparseInput(f"f{place}", f"f{place}", size) for place, size in enumerate([*[100] * 9, 4489])))
    network = DCNNetwork(inputs, Embeddings(inputs, 10, DENSE), cross, layers, batch_norm=batch_norm)
    return sum(weight.numel() for weight in network.parameters())


def test_parameter_counts_of_the_published_models() -> None:
    # BARS logs: DCN with 3 cross layers beside 400-400-400 with batch normalisation, and CrossNet, 6 cross layers alone.
    assert count(3, (400, 400, 400), True) == 418_591
    assert count(6, (), False) == 55_191


def test_it_learns_an_interaction_that_lr_cannot() -> None:
    # Only the user's taste and the item's kind: which item is wanted depends on the two together, and on neither alone.
    features = FeatureSet(features=(Categorical(source="user.taste"), Categorical(source="item.kind")))
    examples = planted_examples(features, said=False).examples
    held = examples.validation[:, None] & examples.candidates.present
    found = {}
    rankers: tuple[NeuralRanker, ...] = (
        DCN(width=8, cross=2, layers=(16,), train={"epochs": 12, "batch_size": 128, "lr": 1e-2, "sparse_lr": 0.2}),
        LR(train={"epochs": 12, "batch_size": 128}),
    )
    for ranker in rankers:
        scores = ranker.fit(examples, run_for(ranker)).score(examples.queries, examples.candidates, examples.encoder)
        found[ranker.name] = pointwise.auc(examples.labels[held][:, 0], scores[held][:, 0])
    assert found["dcn"] > 0.9
    assert found["lr"] < 0.65

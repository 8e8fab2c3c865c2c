"""xDeepFM: the contract, the formula with weights set by hand, the published parameter counts, an interaction that LR cannot learn."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from palate.config import Training
from palate.features.collate import collate
from palate.features.encode import Encoded
from palate.features.spec import Categorical, FeatureSet
from palate.metrics import pointwise
from palate.nn.embedding import Embeddings
from palate.rank.lr import LR
from palate.rank.neural import NeuralRanker
from palate.rank.xdeepfm import XDeepFM, XDeepFMNetwork
from palate.testing.ranker_contract import RankerContract, planted_examples, run_for
from palate.types import ConfigError, Inputs, Ragged, SparseInput

DENSE = Training(sparse="dense")


class TestContract(RankerContract):
    ranker = XDeepFM
    settings: ClassVar[dict[str, Any]] = {
        "width": 8,
        "cin": (6, 4),
        "layers": (16,),
        "batch_norm": True,
        "dropout": 0.1,
        "train": {"epochs": 4, "batch_size": 256, "lr": 1e-2},
    }


def test_network_by_hand() -> None:
    inputs = Inputs(("a",), (SparseInput("user", "user", 3),))
    batch = collate(Encoded(np.array([[-2.0]], dtype=np.float32), {"user": Ragged.of([[2]])}, inputs))
    network = XDeepFMNetwork(inputs, Embeddings(inputs, 2, DENSE), Embeddings(inputs, 1, DENSE), cin=(1,), layers=(1,))
    assert network.deep is not None
    with torch.no_grad():
        network.fields.embeddings.tables()["user"][2] = torch.tensor([1.0, 2.0])
        assert network.fields.vectors is not None
        network.fields.vectors.copy_(torch.tensor([[-1.5, 0.5]]))
        network.first.embeddings.tables()["user"][2] = 7.0
        network.first.dense.weight.fill_(-3.0)
        network.cin.layers[0].weight.copy_(torch.tensor([[1.0, 10.0, 100.0, 1000.0]]))
        network.cin.layers[0].bias.fill_(0.25)
        network.deep.hidden[0].weight.copy_(torch.tensor([[1.0, 1.0, 2.0, 2.0]]))
        network.deep.hidden[0].bias.fill_(0.5)
        network.head.weight.copy_(torch.tensor([[0.5, 8.0]]))
        network.head.bias.copy_(torch.tensor([[0.125], [0.0625]]))
    # Vectors (1, 2) and -2 (-1.5, .5) = (3, -1). CIN: 5 + 10 + 100 + 10,000 + 2 * .25. Deep: relu(1 + 2 + 6 - 2 + .5) = 7.5.
    # Linear: 7 + 6. Logit: 10,115.5 / 2 + 60 + 13 + .1875.
    assert network.represent(batch).tolist() == [[10_115.5, 7.5]]
    assert network(batch).tolist() == [[5057.75 + 60 + 13 + 0.1875]]


def count(fields: int, rows: int, cin: tuple[int, ...], layers: tuple[int, ...], batch_norm: bool = False) -> int:
    sizes = [100] * (fields - 1)
    inputs = Inputs((), tuple(SparseInput(f"f{place}", f"f{place}", size) for place, size in enumerate([*sizes, rows - sum(sizes)])))
    network = XDeepFMNetwork(inputs, Embeddings(inputs, 10, DENSE), Embeddings(inputs, 1, DENSE), cin, layers, batch_norm=batch_norm)
    return sum(weight.numel() for weight in network.parameters())


def test_parameter_counts_of_the_published_models() -> None:
    # BARS logs. Frappe (10 fields, 5,389 ids): xDeepFM and CIN alone. MovieLens (3 fields, 90,239 ids): xDeepFM of three CIN layers.
    assert count(10, 5389, (64,), (400, 400, 400), batch_norm=True) == 429_809
    assert count(10, 5389, (64, 64, 64), ()) == 147_984
    assert count(3, 90_239, (64, 64, 64), (400, 400, 400)) == 1_351_767


def test_nothing_to_interact_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"xdeepfm\.cin"):
        XDeepFM(cin=()).build(Inputs(("a",), ()))
    with pytest.raises(ConfigError, match="give it a feature"):
        XDeepFM().build(Inputs())


def test_it_learns_an_interaction_that_lr_cannot() -> None:
    # Only the user's taste and the item's kind: which item is wanted depends on the two together, and on neither alone.
    features = FeatureSet(features=(Categorical(source="user.taste"), Categorical(source="item.kind")))
    examples = planted_examples(features, said=False).examples
    held = examples.validation[:, None] & examples.candidates.present
    found = {}
    rankers: tuple[NeuralRanker, ...] = (
        XDeepFM(width=8, cin=(8,), layers=(), train={"epochs": 12, "batch_size": 128, "lr": 1e-2, "sparse_lr": 0.2}),
        LR(train={"epochs": 12, "batch_size": 128}),
    )
    for ranker in rankers:
        scores = ranker.fit(examples, run_for(ranker)).score(examples.queries, examples.candidates, examples.encoder)
        found[ranker.name] = pointwise.auc(examples.labels[held][:, 0], scores[held][:, 0])
    assert found["xdeepfm"] > 0.9
    assert found["lr"] < 0.65

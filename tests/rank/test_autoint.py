"""AutoInt: the contract, the formula with weights set by hand, the published parameter counts, an interaction that LR cannot learn."""

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
from palate.rank.autoint import AutoInt, AutoIntNetwork
from palate.rank.lr import LR
from palate.rank.neural import NeuralRanker
from palate.testing.ranker_contract import RankerContract, planted_examples, run_for
from palate.types import ConfigError, Inputs, Ragged, SparseInput

DENSE = Training(sparse="dense")


class TestPlus(RankerContract):
    ranker = AutoInt
    settings: ClassVar[dict[str, Any]] = {
        "width": 8,
        "attention": 8,
        "layers": (16,),
        "layer_norm": True,
        "batch_norm": True,
        "wide": True,
        "dropout": 0.1,
        "train": {"epochs": 4, "batch_size": 256, "lr": 1e-2},
    }


def test_network_by_hand() -> None:
    inputs = Inputs(("a",), (SparseInput("user", "user", 3),))
    batch = collate(Encoded(np.array([[-2.0]], dtype=np.float32), {"user": Ragged.of([[2]])}, inputs))
    network = AutoIntNetwork(
        inputs, Embeddings(inputs, 1, DENSE), attention=1, heads=1, depth=2, layers=(1,), first=Embeddings(inputs, 1, DENSE)
    )
    assert network.deep is not None
    assert network.first is not None
    assert network.fields.vectors is not None
    with torch.no_grad():
        network.fields.embeddings.tables()["user"][2] = 1.0
        network.fields.vectors.fill_(-1.5)
        for layer, value in zip(network.attention, (2.0, -1.0), strict=True):  # Q = K = 0: each field takes the mean of V x
            layer.project.weight.copy_(torch.tensor([[0.0], [0.0], [value]]))
        network.deep.hidden[0].weight.copy_(torch.tensor([[1.0, 2.0]]))
        network.deep.hidden[0].bias.fill_(0.5)
        network.first.embeddings.tables()["user"][2] = 7.0
        network.first.dense.weight.fill_(-3.0)
        network.head.weight.copy_(torch.tensor([[100.0, 10.0, 2.0]]))
        network.head.bias.copy_(torch.tensor([[0.125], [0.0625]]))
    # Fields 1 and -2 * -1.5 = 3. First layer: mean of 2 x is 4, + x: 5 and 7. Second: mean of -x is -6, + x: -1 and 1; relu 0 and 1.
    # Deep: relu(1 + 6 + .5) = 7.5. Linear: 7 + 6. Logit: 10 + 15 + 13 + .1875.
    assert network.represent(batch).tolist() == [[0.0, 1.0, 7.5]]
    assert network(batch).tolist() == [[38.1875]]


def count(fields: int, rows: int, depth: int, layers: tuple[int, ...], wide: bool = False, **settings: Any) -> int:
    sizes = [100] * (fields - 1)
    inputs = Inputs((), tuple(SparseInput(f"f{place}", f"f{place}", size) for place, size in enumerate([*sizes, rows - sum(sizes)])))
    first = Embeddings(inputs, 1, DENSE) if wide else None
    network = AutoIntNetwork(inputs, Embeddings(inputs, 10, DENSE), 128, 4, depth, layers, first=first, **settings)
    return sum(weight.numel() for weight in network.parameters())


def test_parameter_counts_of_the_published_models() -> None:
    # BARS logs, width 128 over 4 heads. Frappe (10 fields, 5,389 ids): AutoInt+ and AutoInt. MovieLens (3 fields, 90,239 ids): both, wide.
    deep = (400, 400, 400)
    assert count(10, 5389, 5, deep, layer_norm=True, batch_norm=True) == 622_180
    assert count(10, 5389, 6, ()) == 306_051
    assert count(3, 90_239, 2, deep, wide=True, layer_norm=True, batch_norm=True) == 1_383_799
    assert count(3, 90_239, 2, (), wide=True, layer_norm=True) == 1_047_798


def test_nothing_to_look_at_is_an_error() -> None:
    with pytest.raises(ConfigError, match="give it a feature"):
        AutoInt().build(Inputs())


def test_it_learns_an_interaction_that_lr_cannot() -> None:
    # Only the user's taste and the item's kind: which item is wanted depends on the two together, and on neither alone.
    features = FeatureSet(features=(Categorical(source="user.taste"), Categorical(source="item.kind")))
    examples = planted_examples(features, said=False).examples
    held = examples.validation[:, None] & examples.candidates.present
    found = {}
    rankers: tuple[NeuralRanker, ...] = (
        AutoInt(width=8, attention=16, layers=(), train={"epochs": 12, "batch_size": 128, "lr": 1e-2, "sparse_lr": 0.2}),
        LR(train={"epochs": 12, "batch_size": 128}),
    )
    for ranker in rankers:
        scores = ranker.fit(examples, run_for(ranker)).score(examples.queries, examples.candidates, examples.encoder)
        found[ranker.name] = pointwise.auc(examples.labels[held][:, 0], scores[held][:, 0])
    assert found["autoint"] > 0.9
    assert found["lr"] < 0.65

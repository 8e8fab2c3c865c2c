"""DCN V2: the contract, each structure with weights set by hand, the published parameter counts, an interaction that LR cannot learn."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
import pytest
import torch

from palate.config import Training
from palate.features.collate import collate
from palate.features.encode import Encoded
from palate.features.spec import Categorical, FeatureSet
from palate.metrics import pointwise
from palate.nn.embedding import Embeddings
from palate.rank.dcn_v2 import DCNV2, DCNV2Network
from palate.rank.lr import LR
from palate.rank.neural import NeuralRanker
from palate.testing.ranker_contract import RankerContract, planted_examples, run_for
from palate.types import ConfigError, Inputs, Ragged, SparseInput

DENSE = Training(sparse="dense")
Structure = Literal["parallel", "stacked", "cross"]


class TestParallel(RankerContract):
    ranker = DCNV2
    settings: ClassVar[dict[str, Any]] = {"width": 8, "cross": 2, "layers": (16,), "train": {"epochs": 4, "batch_size": 256, "lr": 1e-2}}


class TestStackedMixture(RankerContract):
    ranker = DCNV2
    settings: ClassVar[dict[str, Any]] = {
        **TestParallel.settings,
        "structure": "stacked",
        "rank": 4,
        "experts": 3,
        "activation": "tanh",
        "batch_norm": True,
        "dropout": 0.1,
    }


@pytest.mark.parametrize(
    ("structure", "head", "expected"),
    [
        # x0 = (3, -2); W x0 + b = (3 - 4 + .5, -2 + 1) = (-.5, -1); x1 = (-1.5 + 3, 2 - 2) = (1.5, 0).
        ("cross", [1.0, 10.0], 1.5 + 0 + 0.125),
        # deep(x0) = relu(6 - 2 - 1) = 3
        ("parallel", [1.0, 10.0, 100.0], 1.5 + 0 + 300 + 0.125),
        # deep(x1) = relu(3 + 0 - 1) = 2
        ("stacked", [100.0], 200 + 0.125),
    ],
)
def test_network_by_hand(structure: Structure, head: list[float], expected: float) -> None:
    inputs = Inputs(("a",), (SparseInput("user", "user", 3),))
    batch = collate(Encoded(np.array([[-2.0]], dtype=np.float32), {"user": Ragged.of([[2]])}, inputs))
    network = DCNV2Network(inputs, Embeddings(inputs, 1, DENSE), cross=1, layers=(1,), structure=structure)
    with torch.no_grad():
        network.stack.embeddings.tables()["user"].copy_(torch.tensor([[0.0], [9.0], [3.0]]))
        network.cross.layers[0].weight.copy_(torch.tensor([[1.0, 2.0], [0.0, 1.0]]))
        network.cross.layers[0].bias.copy_(torch.tensor([0.5, 1.0]))
        if network.deep is not None:
            network.deep.hidden[0].weight.copy_(torch.tensor([[2.0, 1.0]]))
            network.deep.hidden[0].bias.fill_(-1.0)
        network.head.weight.copy_(torch.tensor([head]))
        network.head.bias.fill_(0.125)
    assert network(batch).tolist() == [[expected]]


def count(**settings: Any) -> int:
    # Frappe: 10 categorical fields of 5,389 ids in all, width 10.
    inputs = Inputs((), tuple(SparseInput(f"f{place}", f"f{place}", size) for place, size in enumerate([*[100] * 9, 4489])))
    network = DCNV2Network(inputs, Embeddings(inputs, 10, DENSE), 4, (400, 400, 400), **settings)
    return sum(weight.numel() for weight in network.parameters())


def test_parameter_counts_of_the_published_models() -> None:
    # BARS logs, 4 cross layers: DCNv2 in parallel with 400-400-400 and batch normalisation, and CrossNetv2, the cross network alone.
    assert count(batch_norm=True) == 458_391
    assert count(structure="cross") == 94_391


def test_parameter_count_of_the_mixture() -> None:
    cross = 4 * (2 * (2 * 100 * 16 + 16 * 16) + 100) + (100 * 2 + 2)
    assert count(structure="cross", rank=16, experts=2, activation="relu") == 53_890 + cross + 101


def test_settings_of_low_rank_layers_need_a_rank() -> None:
    with pytest.raises(ConfigError, match="set rank"):
        DCNV2(experts=4).build(Inputs(("a",), ()))


def test_it_learns_an_interaction_that_lr_cannot() -> None:
    # Only the user's taste and the item's kind: which item is wanted depends on the two together, and on neither alone.
    features = FeatureSet(features=(Categorical(source="user.taste"), Categorical(source="item.kind")))
    examples = planted_examples(features, said=False).examples
    held = examples.validation[:, None] & examples.candidates.present
    found = {}
    rankers: tuple[NeuralRanker, ...] = (
        DCNV2(structure="cross", width=8, train={"epochs": 12, "batch_size": 128, "lr": 1e-2, "sparse_lr": 0.2}),
        LR(train={"epochs": 12, "batch_size": 128}),
    )
    for ranker in rankers:
        scores = ranker.fit(examples, run_for(ranker)).score(examples.queries, examples.candidates, examples.encoder)
        found[ranker.name] = pointwise.auc(examples.labels[held][:, 0], scores[held][:, 0])
    assert found["dcn_v2"] > 0.9
    assert found["lr"] < 0.65

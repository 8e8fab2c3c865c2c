"""MaskNet: the contract, both structures with weights set by hand, the published parameter counts, an interaction LR cannot learn."""

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
from palate.rank.lr import LR
from palate.rank.masknet import MaskNet, MaskNetNetwork
from palate.rank.neural import NeuralRanker
from palate.testing.ranker_contract import RankerContract, planted_examples, run_for
from palate.types import ConfigError, Inputs, Ragged, SparseInput

DENSE = Training(sparse="dense")


class TestParallel(RankerContract):
    ranker = MaskNet
    settings: ClassVar[dict[str, Any]] = {
        "width": 8,
        "blocks": (8, 8),
        "layers": (16,),
        "batch_norm": True,
        "dropout": 0.1,
        "train": {"epochs": 4, "batch_size": 256, "lr": 1e-2},
    }


@pytest.mark.parametrize(
    ("structure", "norm", "expected"),
    [
        # v = (1, 3); mask of the first block (2, 1) whatever the row: (2, 3); hidden 2 + 3 + .5 = 5.5. Of the second -1: with x = v
        # (-1, -3), hidden -2 * -1 - 3 = -1 -> 0; with x = 5.5 (serial), -5.5 * -2 + .25 = 11.25.
        ("parallel", False, [5.5, 0.0]),
        ("serial", False, [11.25]),
        # Fields of width 1 normalise to 0 and shift to (4, 5): first (8, 5), 13.5; second (-4, -5), 8 - 5 = 3.
        ("parallel", True, [13.5, 3.0]),
        ("serial", True, [27.25]),
    ],
)
def test_network_by_hand(structure: Literal["parallel", "serial"], norm: bool, expected: list[float]) -> None:
    inputs = Inputs(("a",), (SparseInput("user", "user", 3),))
    batch = collate(Encoded(np.array([[-2.0]], dtype=np.float32), {"user": Ragged.of([[2]])}, inputs))
    network = MaskNetNetwork(inputs, Embeddings(inputs, 1, DENSE), (1, 1), (), structure, embedding_norm=norm, layer_norm=False)
    assert network.fields.vectors is not None
    first, second = network.blocks
    with torch.no_grad():
        network.fields.embeddings.tables()["user"][2] = 1.0
        network.fields.vectors.fill_(-1.5)
        if network.norm is not None:
            network.norm.shift.copy_(torch.tensor([[4.0], [5.0]]))
        for block, mask in ((first, [2.0, 1.0]), (second, [-1.0, -1.0])):
            block.mask[2].weight.zero_()
            block.mask[2].bias.copy_(torch.tensor(mask)[: len(block.mask[2].bias)])
        first.hidden.weight.copy_(torch.tensor([[1.0, 1.0]]))
        first.hidden.bias.fill_(0.5)
        second.hidden.weight.copy_(torch.tensor([[-2.0, 1.0]])[:, : second.hidden.in_features])
        second.hidden.bias.fill_(0.25 if structure == "serial" else 0.0)
    assert network.represent(batch).tolist() == [expected]


def test_the_masks_are_guided_by_the_embeddings_by_hand() -> None:
    # One field (2), one block: mask 3 relu(2) = 6 and masked 2 * 6 = 12; the square of the input, which no plain layer makes.
    inputs = Inputs((), (SparseInput("user", "user", 3),))
    network = MaskNetNetwork(inputs, Embeddings(inputs, 1, DENSE), (1,), (), ratio=1.0, embedding_norm=False, layer_norm=False)
    with torch.no_grad():
        network.fields.embeddings.tables()["user"][2] = 2.0
        network.blocks[0].mask[0].weight.fill_(1.0)
        network.blocks[0].mask[2].weight.fill_(3.0)
        network.blocks[0].hidden.weight.fill_(1.0)
    batch = collate(Encoded(np.zeros((1, 0), dtype=np.float32), {"user": Ragged.of([[2]])}, inputs))
    assert network.represent(batch).tolist() == [[12.0]]


def count(fields: int, rows: int, blocks: tuple[int, ...], layers: tuple[int, ...], **settings: Any) -> int:
    sizes = [100] * (fields - 1)
    inputs = Inputs((), tuple(SparseInput(f"f{place}", f"f{place}", size) for place, size in enumerate([*sizes, rows - sum(sizes)])))
    network = MaskNetNetwork(inputs, Embeddings(inputs, 10, DENSE), blocks, layers, embedding_norm=False, **settings)
    return sum(weight.numel() for weight in network.parameters())


def test_parameter_counts_of_the_published_models() -> None:
    # BARS logs. Frappe (10 fields, 5,389 ids): parallel, 3 blocks of 50. MovieLens (3 fields, 90,239 ids): serial, 3 of 400, ratio 4.
    assert count(10, 5389, (50, 50, 50), (400, 400, 400)) == 571_691
    assert count(3, 90_239, (400, 400, 400), (), structure="serial", ratio=4.0) == 2_624_541


def test_nothing_to_mask_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"masknet\.blocks"):
        MaskNet(blocks=()).build(Inputs(("a",), ()))
    with pytest.raises(ConfigError, match="give it a feature"):
        MaskNet().build(Inputs())


def test_it_learns_an_interaction_that_lr_cannot() -> None:
    # Only the user's taste and the item's kind: which item is wanted depends on the two together, and on neither alone.
    features = FeatureSet(features=(Categorical(source="user.taste"), Categorical(source="item.kind")))
    examples = planted_examples(features, said=False).examples
    held = examples.validation[:, None] & examples.candidates.present
    found = {}
    train = {"epochs": 12, "batch_size": 128, "lr": 1e-2, "sparse_lr": 0.2}
    rankers: tuple[NeuralRanker, ...] = (
        MaskNet(structure="serial", width=8, blocks=(16, 16), layers=(), train=train),
        LR(train={"epochs": 12, "batch_size": 128}),
    )
    for ranker in rankers:
        scores = ranker.fit(examples, run_for(ranker)).score(examples.queries, examples.candidates, examples.encoder)
        found[ranker.name] = pointwise.auc(examples.labels[held][:, 0], scores[held][:, 0])
    assert found["masknet"] > 0.9
    assert found["lr"] < 0.65

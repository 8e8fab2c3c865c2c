"""DLRM: the contract, the formula with weights set by hand, parameter counts, and an interaction that LR cannot learn."""

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
from palate.rank.dlrm import DLRM, DLRMNetwork
from palate.rank.lr import LR
from palate.rank.neural import NeuralRanker
from palate.testing.ranker_contract import RankerContract, planted_examples, run_for
from palate.types import Batch, ConfigError, Inputs, Ragged, SparseInput

DENSE = Training(sparse="dense")


class TestDot(RankerContract):
    ranker = DLRM
    settings: ClassVar[dict[str, Any]] = {"width": 8, "bottom": (16,), "top": (16,), "train": {"epochs": 4, "batch_size": 128, "lr": 5e-3}}


class TestCat(RankerContract):
    ranker = DLRM
    settings: ClassVar[dict[str, Any]] = {**TestDot.settings, "interaction": "cat", "batch_norm": True, "dropout": 0.1}


def one_row() -> tuple[Inputs, Batch]:
    inputs = Inputs(("a",), (SparseInput("user", "user", 3), SparseInput("item", "item", 3)))
    encoded = Encoded(np.array([[2.0], [-1.0]], dtype=np.float32), {"user": Ragged.of([[1], [2]]), "item": Ragged.of([[2], [1]])}, inputs)
    return inputs, collate(encoded)


def by_hand(interaction: Literal["dot", "cat"], top: torch.Tensor) -> torch.Tensor:
    inputs, batch = one_row()
    network = DLRMNetwork(inputs, Embeddings(inputs, 2, DENSE), bottom=(), top=(), interaction=interaction)
    assert network.bottom is not None
    with torch.no_grad():
        layer = network.bottom.hidden[0]
        assert isinstance(layer, torch.nn.Linear)
        layer.weight.copy_(torch.tensor([[1.0], [-3.0]]))
        layer.bias.copy_(torch.tensor([0.5, 1.0]))
        tables = network.embeddings.tables()
        tables["user"].copy_(torch.tensor([[0.0, 0.0], [1.0, 2.0], [3.0, 5.0]]))
        tables["item"].copy_(torch.tensor([[0.0, 0.0], [-1.0, 4.0], [6.0, 7.0]]))
        network.head.weight.copy_(top)
        network.head.bias.fill_(0.25)
        logits: torch.Tensor = network(batch)
    return logits


def test_dot_by_hand() -> None:
    # row 1: z = relu(2 + .5, -6 + 1) = (2.5, 0); user (1, 2), item (6, 7). Products: user.z 2.5, item.z 15, item.user 20.
    # row 2: z = relu(-1 + .5, 3 + 1) = (0, 4); user (3, 5), item (-1, 4). Products: 20, 16, 17.
    logits = by_hand("dot", torch.tensor([[1.0, 10.0, 0.1, 0.01, 0.001]]))
    torch.testing.assert_close(
        logits, torch.tensor([[0.25 + 2.5 + 0 + 0.25 + 0.15 + 0.02], [0.25 + 0 + 40 + 2.0 + 0.16 + 0.017]]), rtol=1e-5, atol=1e-5
    )


def test_cat_by_hand() -> None:
    logits = by_hand("cat", torch.tensor([[1.0, 10.0, 0.1, 0.01, 0.001, 2.0]]))
    torch.testing.assert_close(
        logits, torch.tensor([[0.25 + 2.5 + 0 + 0.1 + 0.02 + 0.006 + 14], [0.25 + 0 + 40 + 0.3 + 0.05 - 0.001 + 8]]), rtol=1e-5, atol=1e-5
    )


def count(network: torch.nn.Module) -> int:
    return sum(weight.numel() for weight in network.parameters())


def test_parameter_count_dot() -> None:
    inputs = Inputs(tuple("abc"), tuple(SparseInput(name, name, 7) for name in "uvwx"), ("click", "buy"))
    network = DLRMNetwork(inputs, Embeddings(inputs, 8, DENSE), bottom=(16,), top=(32,))
    bottom = (3 * 16 + 16) + (16 * 8 + 8)
    joint = 8 + 5 * 4 // 2
    assert count(network) == 4 * 7 * 8 + bottom + (joint * 32 + 32) + (32 * 2 + 2)


def test_parameter_count_of_the_published_cat_model() -> None:
    # Frappe: 10 categorical fields of 5,389 ids in all, width 10, top 400-400-400 with batch normalisation: the BARS log says 417,891.
    rows = [*[100] * 9, 5389 - 900]
    inputs = Inputs((), tuple(SparseInput(f"f{place}", f"f{place}", size) for place, size in enumerate(rows)))
    network = DLRMNetwork(inputs, Embeddings(inputs, 10, DENSE), bottom=(), top=(400, 400, 400), interaction="cat", batch_norm=True)
    assert count(network) == 417_891


def test_without_dense_the_products_stand_alone() -> None:
    inputs = Inputs((), (SparseInput("user", "user", 3), SparseInput("item", "item", 3)))
    network = DLRMNetwork(inputs, Embeddings(inputs, 4, DENSE), bottom=(), top=())
    assert count(network) == 2 * 3 * 4 + 1 + 1


def test_nothing_to_multiply_is_an_error() -> None:
    inputs = Inputs((), (SparseInput("user", "user", 3),))
    with pytest.raises(ConfigError, match='interaction = "cat"'):
        DLRMNetwork(inputs, Embeddings(inputs, 4, DENSE), bottom=(), top=())


def test_it_learns_an_interaction_that_lr_cannot() -> None:
    # Only the user's taste and the item's kind: which item is wanted depends on the two together, and on neither alone.
    features = FeatureSet(features=(Categorical(source="user.taste"), Categorical(source="item.kind")))
    examples = planted_examples(features, said=False).examples
    held = examples.validation[:, None] & examples.candidates.present
    found = {}
    rankers: tuple[NeuralRanker, ...] = (
        DLRM(width=8, top=(16,), train={"epochs": 12, "batch_size": 128, "lr": 1e-2, "sparse_lr": 0.2}),
        LR(train={"epochs": 12, "batch_size": 128}),
    )
    for ranker in rankers:
        scores = ranker.fit(examples, run_for(ranker)).score(examples.queries, examples.candidates, examples.encoder)
        found[ranker.name] = pointwise.auc(examples.labels[held][:, 0], scores[held][:, 0])
    assert found["dlrm"] > 0.9
    assert found["lr"] < 0.65

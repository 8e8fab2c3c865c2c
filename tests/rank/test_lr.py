"""Logistic regression: the contract, and the formula with weights set by hand."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from palate.config import Training
from palate.features.collate import collate
from palate.features.encode import Encoded
from palate.nn.embedding import Embeddings
from palate.rank.lr import LR, LogisticRegression
from palate.testing.ranker_contract import RankerContract, planted_examples, run_for
from palate.types import Batch, ConfigError, Inputs, Ragged, SparseInput

DENSE = Training(sparse="dense")


class TestLR(RankerContract):
    ranker = LR
    settings: ClassVar[dict[str, Any]] = {"train": {"epochs": 4, "batch_size": 128}}


def two_rows(tasks: tuple[str, ...]) -> tuple[Inputs, Batch]:
    inputs = Inputs(("a", "b"), (SparseInput("user", "user", 3), SparseInput("genres", "genres", 4, "mean")), tasks)
    encoded = Encoded(
        np.array([[1.0, 2.0], [0.0, -1.0]], dtype=np.float32), {"user": Ragged.of([[1], [2]]), "genres": Ragged.of([[1, 3], []])}, inputs
    )
    return inputs, collate(encoded)


def test_starts_at_zero() -> None:
    inputs, batch = two_rows(("label",))
    assert LogisticRegression(inputs, Embeddings(inputs, 1, DENSE, "normal", 0.0))(batch).tolist() == [[0.0], [0.0]]


@pytest.mark.parametrize(("sparse", "wide"), [("dense", 1), ("adagrad", 4)])
def test_two_rows_by_hand(sparse: Any, wide: int) -> None:
    inputs, batch = two_rows(("label",))
    network = LogisticRegression(inputs, Embeddings(inputs, wide, Training(sparse=sparse), "normal", 0.0))
    with torch.no_grad():
        network.dense.weight.copy_(torch.tensor([[0.5, -0.25]]))
        network.dense.bias.fill_(0.1)
        tables = network.embeddings.tables()
        tables["user"][:, 0] = torch.tensor([0.0, 3.0, -2.0])
        tables["genres"][:, 0] = torch.tensor([0.0, 4.0, 9.0, 6.0])
        logits = network(batch)
    # .1 + .5 * 1 - .25 * 2 + 3 + (4 + 6) / 2;   .1 - .25 * -1 - 2 + nothing
    torch.testing.assert_close(logits, torch.tensor([[8.1], [-1.65]]))


def test_the_columns_that_only_the_kernels_need_stay_zero() -> None:
    examples = planted_examples().examples
    ranker = LR(train={"epochs": 1, "batch_size": 512})
    ranker.fit(examples, run_for(ranker))
    assert isinstance(ranker.model, LogisticRegression)
    for table in ranker.model.embeddings.tables().values():
        assert table.shape[1] == 4
        assert table[:, :2].abs().max() > 0
        assert table[:, 2:].abs().max() == 0


def test_two_tasks_by_hand() -> None:
    inputs, batch = two_rows(("click", "buy"))
    network = LogisticRegression(inputs, Embeddings(inputs, 2, DENSE, "normal", 0.0))
    with torch.no_grad():
        network.embeddings.tables()["user"].copy_(torch.tensor([[0.0, 0.0], [1.0, 2.0], [3.0, 4.0]]))
        network.dense.bias.copy_(torch.tensor([0.5, -0.5]))
        logits = network(batch)
    torch.testing.assert_close(logits, torch.tensor([[1.5, 1.5], [3.5, 3.5]]))


def test_parameter_count() -> None:
    inputs, _ = two_rows(("click", "buy"))
    network = LogisticRegression(inputs, Embeddings(inputs, 2, DENSE))
    assert sum(weight.numel() for weight in network.parameters()) == 2 * (3 + 4) + 2 * 2 + 2  # tables, dense weights, biases


def test_width_is_not_for_it() -> None:
    with pytest.raises(ConfigError, match=r"lr\.width"):
        LR(width=8)

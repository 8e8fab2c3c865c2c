"""Ranks among all items: by hand, against the lists of exact search, and as a validation while a network trains."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from palate.features.history import History
from palate.retrieve.factorized import factorized_top_k, hold_out, positive_ranks, validation
from palate.retrieve.index import ExactIndex
from palate.testing.contracts import clustered, log_of, queries_of
from palate.types import Floats, Ints, Queries, Ragged


def test_by_hand() -> None:
    """Scores 3, 1, 2, 2: item 3 stands behind 0 and, of equals, behind 2; without 0 and 2 it is first."""
    items = np.array([[3], [1], [2], [2]], dtype=np.float32)
    queries = np.ones((3, 1), dtype=np.float32)
    positives = np.array([3, 0, 3], dtype=np.int32)
    assert positive_ranks(queries, items, positives, Ragged.of([[], [1], [0, 2]])).tolist() == [2, 0, 0]
    found = factorized_top_k(queries, items, positives, ks=(1, 3))
    assert found == {"recall@1": pytest.approx(1 / 3), "recall@3": 1.0, "mrr": pytest.approx((1 / 3 + 1 + 1 / 3) / 3)}


def test_the_oracle_is_exact_search(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    items = rng.integers(-2, 3, (60, 3)).astype(np.float32)  # many ties
    queries = rng.integers(-2, 3, (25, 3)).astype(np.float32)
    positives = rng.integers(0, 60, 25).astype(np.int32)
    blocked = Ragged.of([np.setdiff1d(rng.integers(0, 60, 6), positives[row]).tolist() for row in range(25)])
    lists = ExactIndex(items).search(queries, 60, blocked)[0]
    expected = [row.tolist().index(wanted) for row, wanted in zip(lists, positives, strict=True)]
    assert positive_ranks(queries, items, positives, blocked).tolist() == expected
    monkeypatch.setattr("palate.retrieve.factorized.BLOCK", 100)
    assert positive_ranks(queries, items, positives, blocked).tolist() == expected


def test_no_queries() -> None:
    none = np.zeros((0, 2), dtype=np.float32)
    assert factorized_top_k(none, np.ones((3, 2), dtype=np.float32), np.zeros(0, dtype=np.int32), ks=(5,)) == {"recall@5": 0.0, "mrr": 0.0}


def test_held_out_by_hand() -> None:
    """User 0 ends with item 2; user 1 has one event; user 2 ends with what was seen before."""
    log = log_of([(0, 0), (0, 1), (1, 3), (2, 0), (0, 2), (2, 1), (2, 0)])
    rest, queries, positives = hold_out(log, users=9)
    assert positives.tolist() == [2]
    assert queries.users.tolist() == [0]
    assert queries.history[0].tolist() == queries.blocked[0].tolist() == [0, 1]
    assert len(rest) == 6
    assert History.of(rest).queries(np.array([0], dtype=np.int32)).history[0].tolist() == [0, 1]
    log = clustered()[0]
    assert len(hold_out(log, users=30, seed=1)[2]) == 30
    assert hold_out(log, users=30, seed=1)[1].users.tolist() == hold_out(log, users=30, seed=1)[1].users.tolist()


def test_validation_sees_the_towers_as_they_are() -> None:
    class Learning:
        def __init__(self) -> None:
            self.network = torch.nn.Linear(1, 1)
            self.items = np.eye(4, dtype=np.float32)

        def encode_queries(self, queries: Queries) -> Floats:
            assert not self.network.training
            return np.tile(self.items[:1] + 0.5 * self.items[3], (len(queries), 1))

        def encode_items(self, items: Ints) -> Floats:
            return self.items[items]

    towers = Learning()
    towers.network.train()
    validate = validation(towers, queries_of([[], [0]]), np.array([3, 3], dtype=np.int32), 4, ks=(1,))
    assert validate(towers.network) == {"recall@1": 0.5, "mrr": 0.75}  # what was seen does not stand before
    towers.items[3] = 0.0
    assert validate(towers.network)["recall@1"] == 0.0
    assert towers.network.training


def test_what_is_no_number_finds_nothing() -> None:
    queries = np.array([[np.nan], [1.0]], dtype=np.float32)
    assert positive_ranks(queries, np.array([[1], [2]], dtype=np.float32), np.array([1, 1], dtype=np.int32)).tolist() == [2, 0]

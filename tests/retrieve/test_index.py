"""Exact search, against brute force."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palate.retrieve import index
from palate.retrieve.index import ExactIndex
from palate.testing.contracts import assert_well_formed, queries_of
from palate.types import Ragged


def brute_force(scores: np.ndarray, k: int, blocked: list[set[int]], allowed: np.ndarray | None) -> list[list[int]]:
    lists = []
    for row, forbidden in zip(scores, blocked, strict=True):
        codes = [code for code in range(len(row)) if code not in forbidden and (allowed is None or allowed[code])]
        best = sorted(codes, key=lambda code: (-row[code], code))[:k]
        lists.append(best + [-1] * (k - len(best)))
    return lists


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_against_brute_force(data: st.DataObject) -> None:
    """Small whole numbers, so that sums are exact and there are many ties."""
    n, b, d = data.draw(st.integers(1, 30)), data.draw(st.integers(1, 6)), data.draw(st.integers(1, 3))
    rng = np.random.default_rng(data.draw(st.integers(0, 10_000)))
    vectors = rng.integers(-2, 3, (n, d)).astype(np.float32)
    queries = rng.integers(-2, 3, (b, d)).astype(np.float32)
    blocked = [set(rng.integers(0, n, data.draw(st.integers(0, 5))).tolist()) for _ in range(b)]
    allowed = rng.random(n) < 0.7 if data.draw(st.booleans()) else None
    k = data.draw(st.integers(1, 35))
    search = ExactIndex(vectors, items=data.draw(st.integers(1, 12)))
    items, scores = search.search(queries, k, Ragged.of([sorted(row) for row in blocked]), allowed)
    exact = queries @ vectors.T
    assert items.tolist() == brute_force(exact, k, blocked, allowed)
    for row in range(b):
        found = items[row] >= 0
        assert scores[row, found].tolist() == exact[row, items[row, found]].tolist()
        assert np.isneginf(scores[row, ~found]).all()


def test_cosine_by_hand() -> None:
    search = ExactIndex(np.array([[10, 0], [1, 1], [0, 0], [0, -1]], dtype=np.float32), "cosine")
    items, scores = search.search(np.array([[2, 2]], dtype=np.float32), 4)
    assert items.tolist() == [[1, 0, 2, 3]]
    np.testing.assert_allclose(scores, [[1, 0.5**0.5, 0, -(0.5**0.5)]], atol=1e-6)


def test_blocks_of_queries_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    vectors, queries = rng.normal(size=(50, 4)).astype(np.float32), rng.normal(size=(20, 4)).astype(np.float32)
    blocked = Ragged.of([rng.integers(0, 50, 4).tolist() for _ in range(20)])
    whole = ExactIndex(vectors).search(queries, 7, blocked)[0]
    monkeypatch.setattr(index, "BLOCK", 100)
    assert np.array_equal(ExactIndex(vectors).search(queries, 7, blocked)[0], whole)


def test_retrieve_gives_candidates_with_the_queries_masks() -> None:
    queries = queries_of([[0, 1], []])
    candidates = ExactIndex(np.eye(3, dtype=np.float32)).retrieve(np.ones((2, 3), dtype=np.float32), queries, 4, "towers")
    assert_well_formed(candidates, 2, 4)
    assert candidates.items.tolist() == [[2, -1, -1, -1], [0, 1, 2, -1]]
    assert candidates.sources == ("towers",)


def test_an_empty_index() -> None:
    items, scores = ExactIndex(np.zeros((0, 3), dtype=np.float32)).search(np.ones((2, 3), dtype=np.float32), 2)
    assert items.tolist() == [[-1, -1], [-1, -1]]
    assert np.isneginf(scores).all()

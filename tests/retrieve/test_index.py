"""Exact search, against brute force."""

from __future__ import annotations

import numpy as np
import pytest
import threadpoolctl
from hypothesis import given, settings
from hypothesis import strategies as st

from palate.retrieve import index
from palate.retrieve.ann import restore_index
from palate.retrieve.index import ExactIndex, fingerprint
from palate.testing.contracts import assert_can_be_saved, assert_well_formed, queries_of
from palate.types import BundleError, ConfigError, DataError, Ragged


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


def test_added_and_removed_by_hand() -> None:
    """Item 1 goes, item 0 gets another vector, item 5 comes: 3 and 4 were never there."""
    index = ExactIndex(np.array([[1, 0], [2, 0], [3, 0]], dtype=np.float32))
    index.remove(np.array([1]))
    assert index.search(np.ones((1, 2), dtype=np.float32), 3)[0].tolist() == [[2, 0, -1]]
    index.add(np.array([5, 0]), np.array([[2.5, 0], [9, 0]], dtype=np.float32))
    assert len(index) == 6
    items, scores = index.search(np.ones((1, 2), dtype=np.float32), 6)
    assert items.tolist() == [[0, 2, 5, -1, -1, -1]]
    assert scores[0, :3].tolist() == [9, 3, 2.5]
    assert index.search(np.ones((1, 2), dtype=np.float32), 1, allowed=np.arange(6) > 2)[0].tolist() == [[5]]
    index.add(np.array([1]), np.array([[2, 0]], dtype=np.float32))
    assert index.search(np.ones((1, 2), dtype=np.float32), 4)[0].tolist() == [[0, 2, 5, 1]]


def test_the_given_vectors_are_left_as_they_were() -> None:
    vectors = np.eye(2, dtype=np.float32)
    vectors.flags.writeable = False
    index = ExactIndex(vectors)
    index.add(np.array([0]), np.array([[7, 7]], dtype=np.float32))
    assert vectors[0].tolist() == [1, 0]
    assert index.vectors[0].tolist() == [7, 7]


@pytest.mark.parametrize("block", [3, 1 << 15])
def test_masks_blocks_and_removals_against_brute_force(block: int) -> None:
    rng = np.random.default_rng(0)
    vectors, queries = rng.normal(size=(40, 5)).astype(np.float32), rng.normal(size=(9, 5)).astype(np.float32)
    index = ExactIndex(vectors, items=block)
    index.remove(np.array([3, 30]))
    blocked = [set(rng.integers(0, 40, 4).tolist()) for _ in range(9)]
    allowed = rng.random(40) < 0.8
    items, _ = index.search(queries, 7, Ragged.of([sorted(row) for row in blocked]), allowed)
    assert items.tolist() == brute_force(queries @ vectors.T, 7, [row | {3, 30} for row in blocked], allowed)


def test_what_does_not_fit_is_refused() -> None:
    index = ExactIndex(np.eye(3, dtype=np.float32), version="one")
    ones = np.ones((1, 3), dtype=np.float32)
    assert index.search(ones, 1, version="one")[0].tolist() == [[0]]
    with pytest.raises(ConfigError, match="index: its vectors have 3 dimensions, the queries 2; build the index with this tower"):
        index.search(np.ones((1, 2), dtype=np.float32), 1)
    with pytest.raises(ConfigError, match="index: made by version one of the tower, the queries by two; build the index again"):
        index.search(ones, 1, version="two")
    with pytest.raises(ConfigError, match="the new ones by two"):
        index.add(np.array([3]), ones, version="two")
    with pytest.raises(DataError, match="query 0 has a vector that is not finite"):
        index.search(ones * np.nan, 1)
    with pytest.raises(DataError, match="item 7 has a vector that is not finite"):
        index.add(np.array([7]), ones * np.inf)
    with pytest.raises(DataError, match="remove: no item 3 is there"):
        index.remove(np.array([0, 3]))
    with pytest.raises(DataError, match=r"each code .* once; got 2 codes, 2 vectors"):
        index.add(np.array([4, 4]), np.ones((2, 3), dtype=np.float32))
    index.remove(np.array([0]))
    with pytest.raises(DataError, match="remove: no item 0 is there"):
        index.remove(np.array([0]))


def test_fingerprints_tell_weights_apart() -> None:
    weights = {"a": np.arange(4, dtype=np.float32), "b": np.zeros((0, 2), dtype=np.float32)}
    assert fingerprint(weights) == fingerprint(dict(reversed(weights.items())))
    assert fingerprint(weights) != fingerprint(weights | {"a": np.arange(4, dtype=np.float64)})
    assert fingerprint(weights) != fingerprint(weights | {"a": np.array([0, 1, 2, 3.0000002], dtype=np.float32)})
    assert fingerprint({"a": np.zeros((2, 3), np.float32)}) != fingerprint({"a": np.zeros((3, 2), np.float32)})


def test_saved_and_restored() -> None:
    rng = np.random.default_rng(0)
    index = ExactIndex(rng.normal(size=(20, 4)).astype(np.float32), "cosine", version="v")
    index.remove(np.array([4]))
    state = index.state()
    assert_can_be_saved(state)
    again = restore_index(state)
    queries = rng.normal(size=(3, 4)).astype(np.float32)
    assert again.search(queries, 5, version="v")[0].tolist() == index.search(queries, 5)[0].tolist()
    state.arrays["present"].resize(3, refcheck=False)
    with pytest.raises(BundleError, match="do not fit together"):
        restore_index(state)


def test_blas_has_its_threads_again_when_the_last_scan_ends() -> None:
    def now() -> list[int]:
        return [library["num_threads"] for library in threadpoolctl.threadpool_info() if library["user_api"] == "blas"]

    before = now()
    with index._ONE_BLAS_THREAD:
        with index._ONE_BLAS_THREAD:
            assert set(now()) <= {1}
        assert set(now()) <= {1}
    assert now() == before


def test_many_threads_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    vectors, queries = rng.normal(size=(300, 4)).astype(np.float32), rng.normal(size=(100, 4)).astype(np.float32)
    blocked = Ragged.of([rng.integers(0, 300, 4).tolist() for _ in range(100)])
    monkeypatch.setattr(index, "BLOCK", 3000)
    found = []
    for threads in ("1", "3"):
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
        found.append(ExactIndex(vectors).search(queries, 7, blocked)[0])
    assert np.array_equal(*found)

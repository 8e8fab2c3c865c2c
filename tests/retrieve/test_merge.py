"""Merging lists of candidates."""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palate.retrieve import merge as module
from palate.retrieve.merge import merge
from palate.testing.contracts import assert_well_formed
from palate.types import NOTHING, Candidates


def lists_of(rows: list[list[int]], source: str, width: int | None = None) -> Candidates:
    width = width if width is not None else max(map(len, rows))
    items = np.array([row + [NOTHING] * (width - len(row)) for row in rows], dtype=np.int32).reshape(len(rows), width)
    return Candidates.of(items, np.tile(-np.arange(width, dtype=np.float32), (len(rows), 1)), source)


def test_by_hand() -> None:
    merged = merge([lists_of([[5, 3, 8]], "a"), lists_of([[3, 9]], "b", 3)], [3, 3])
    # 3: 1/62 + 1/61; 5: 1/61; 9: 1/62; 8: 1/63
    assert merged.items.tolist() == [[3, 5, 9, 8, -1, -1]]
    np.testing.assert_allclose(merged.scores[0, :4], [1 / 61 + 1 / 62, 1 / 61, 1 / 62, 1 / 63], rtol=1e-6)
    assert merged.sources == ("a", "b")
    assert merged.source.tolist() == [[1, 0, 1, 0, -1, -1]]
    nan = float("nan")
    np.testing.assert_array_equal(merged.features["a.rank"], [[1, 0, nan, 2, nan, nan]])
    np.testing.assert_array_equal(merged.features["b.rank"], [[0, nan, 1, nan, nan, nan]])
    np.testing.assert_array_equal(merged.features["a.score"], [[-1, 0, nan, -2, nan, nan]])
    np.testing.assert_array_equal(merged.features["b.score"], [[0, nan, -1, nan, nan, nan]])


def test_quotas_and_length() -> None:
    one, two = lists_of([[5, 3, 8]], "a"), lists_of([[3, 9, 1]], "b")
    assert merge([one, two], [1, 2]).items.tolist() == [[3, 5, 9]] or merge([one, two], [1, 2]).items.tolist() == [[5, 3, 9]]
    assert merge([one, two], [3, 3], 2).items.tolist() == [[3, 5]]
    assert merge([one, two], [3, 3], 8).items.shape == (1, 8)


def test_equal_ranks_go_to_the_lower_code_and_the_earlier_list() -> None:
    merged = merge([lists_of([[7], [4]], "a"), lists_of([[2], [4]], "b")], [1, 1])
    assert merged.items.tolist() == [[2, 7], [4, -1]]
    assert merged.source.tolist() == [[1, 0], [0, -1]]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 4), st.integers(0, 5), st.integers(1, 6), st.integers(0, 1000))
def test_against_a_dictionary(count: int, b: int, k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    lists = [lists_of([rng.permutation(9)[: rng.integers(0, 7)].tolist() for _ in range(b)], f"r{number}", 6) for number in range(count)]
    merged = merge(lists, [5] * count, k)
    assert_well_formed(merged, b, k)
    for row in range(b):
        fused: dict[int, float] = {}
        for candidates in lists:
            for rank, item in enumerate(candidates.items[row, :5].tolist()):
                if item != NOTHING:
                    fused[item] = fused.get(item, 0) + 1 / (61 + rank)
        expected = sorted(fused, key=lambda item: (-np.float32(fused[item]), item))[:k]
        assert merged.items[row].tolist() == expected + [NOTHING] * (k - len(expected))
        for place, item in enumerate(expected):
            for candidates in lists:
                where = np.flatnonzero(candidates.items[row, :5] == item)
                rank = merged.features[f"{candidates.sources[0]}.rank"][row, place]
                assert np.isnan(rank) if not len(where) else rank == where[0]


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    lists = [lists_of([rng.permutation(30)[:10].tolist() for _ in range(25)], name) for name in "ab"]
    whole = merge(lists, [10, 10], 15)
    monkeypatch.setattr(module, "_ROWS", 7)
    parts = merge(lists, [10, 10], 15)
    for one, other in ((whole.items, parts.items), (whole.scores, parts.scores), (whole.source, parts.source)):
        assert np.array_equal(one, other)
    for name, column in whole.features.items():
        np.testing.assert_array_equal(column, parts.features[name])


def test_two_lists_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="own name"):
        merge([lists_of([[1]], "a"), lists_of([[2]], "a")], [1, 1])
    with pytest.raises(ValueError, match="one quota a list"):
        merge([lists_of([[1]], "a")], [1, 1])


def lines(b: int, k: int) -> int:
    """Lines of Python that run to merge five lists of k places for b queries."""
    rng = np.random.default_rng(0)
    lists = []
    for name in "abcde":
        items = rng.random((b, 15 * k), dtype=np.float32).argpartition(k, axis=1)[:, :k].astype(np.int32)
        lists.append(Candidates.of(items, np.zeros((b, k), dtype=np.float32), name))
    count = 0

    def one(frame: FrameType, what: str, argument: Any) -> Any:
        nonlocal count
        count += what == "line"
        return one

    before = sys.gettrace()
    sys.settrace(one)
    try:
        merge(lists, [k] * 5, 2 * k)
    finally:
        sys.settrace(before)
    return count


def test_no_loop_over_queries_or_items() -> None:
    """Six hundred queries with lists of 200 take about the steps of six with lists of 20."""
    assert lines(600, 200) < 1.5 * lines(6, 20)

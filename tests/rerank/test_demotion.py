"""What was shown often and not acted on sinks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palate.rerank.brought import IMPRESSIONS, with_brought
from palate.rerank.demotion import Demotion
from palate.testing.contracts import RerankerContract, lists_to_rerank, queries_of
from palate.types import Candidates, Log, Queries, Request


class TestWithoutImpressions(RerankerContract):
    def make(self) -> Demotion:
        return Demotion()


class TestWithImpressions(RerankerContract):
    def make(self) -> Demotion:
        return Demotion(shape="inverse", floor=0.1)

    @pytest.fixture
    def world(self) -> tuple[Log, Queries, Candidates]:
        log, queries, candidates = lists_to_rerank()
        asked = [Request(context={IMPRESSIONS: {str(code): code % 5 for code in range(row % 40)}}) for row in range(len(queries))]
        return log, with_brought(queries, asked, int), candidates


def shown(seen: dict[str, float], scores: list[float], k: int = 4, **given_settings: object) -> Candidates:
    queries = with_brought(queries_of([[]]), [Request(context={IMPRESSIONS: seen})], int)
    candidates = Candidates.of(np.arange(len(scores), dtype=np.int32)[None], np.array([scores], dtype=np.float32), "x")
    return Demotion(**given_settings).rerank(queries, candidates, k)


def test_the_worked_example_by_hand() -> None:
    """Scores 9, 8, 5, 1. Item 0 was seen 7 times: 6 beyond the free one are two halvings, a quarter of the 8 above the worst: 3."""
    slate = shown({"0": 7, "2": 1, "7": 50}, [9, 8, 5, 1], halving=3, free=1)
    assert slate.items.tolist() == [[1, 2, 0, 3]]
    assert slate.scores.tolist() == [[8, 5, 3, 1]]
    inverse = shown({"0": 7}, [9, 8, 5, 1], halving=3, free=1, shape="inverse")
    np.testing.assert_allclose(inverse.scores, [[8, 5, 1 + 8 / 3, 1]], rtol=1e-6)
    assert shown({"0": 700}, [9, 8, 5, 1], floor=0.5).scores.tolist() == [[8, 5, 5, 1]]


def test_without_the_column_or_with_other_items_nothing_changes() -> None:
    candidates = Candidates.of(np.arange(4, dtype=np.int32)[None], np.array([[9, 8, 5, 1]], dtype=np.float32), "x")
    assert Demotion().rerank(queries_of([[]]), candidates, 3).scores.tolist() == [[9, 8, 5]]
    assert shown({}, [9, 8, 5, 1]).scores.tolist() == [[9, 8, 5, 1]]
    assert shown({"77": 9}, [9, 8, 5, 1]).items.tolist() == [[0, 1, 2, 3]]


def test_each_query_has_its_own_counts() -> None:
    requests = [Request(), Request(context={IMPRESSIONS: {"0": 100}}), Request(context={IMPRESSIONS: {"1": 100}})]
    queries = with_brought(queries_of([[], [], []]), requests, int)
    candidates = Candidates.of(np.tile(np.arange(3, dtype=np.int32), (3, 1)), np.tile(np.float32([3, 2, 1]), (3, 1)), "x")
    assert Demotion().rerank(queries, candidates, 3).items.tolist() == [[0, 1, 2], [1, 0, 2], [0, 1, 2]]
    assert Demotion(free=100).rerank(queries, candidates, 3).items[1].tolist() == [0, 1, 2]


@settings(deadline=None, max_examples=40)
@given(st.lists(st.floats(-9, 9, width=32), max_size=8), st.dictionaries(st.integers(0, 9).map(str), st.floats(0, 1e6)), st.integers(1, 10))
def test_a_slate_is_a_part_of_the_list(scores: list[float], seen: dict[str, float], k: int) -> None:
    slate = shown(seen, sorted(scores, reverse=True), k)
    there = slate.items[0][slate.present[0]].tolist()
    assert len(set(there)) == len(there) == min(k, len(scores))
    assert all(0 <= item < len(scores) for item in there)

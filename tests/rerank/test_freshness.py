"""The boost of what is new."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palate.rerank.freshness import Freshness
from palate.testing.contracts import DAY, RerankerContract, log_of, queries_of
from palate.types import Candidates, ConfigError, Log


class TestFirstEvents(RerankerContract):
    def make(self) -> Freshness:
        return Freshness()


class TestYears(RerankerContract):
    def make(self) -> Freshness:
        return Freshness(column="year", half_life_days=2000, weight=1)


def world(column: str, values: list[object]) -> Log:
    items = pl.DataFrame({"item": [f"i{n}" for n in range(len(values))], column: values})
    return log_of([(0, 0), (0, 1), (1, 0), (1, 2)], n_items=len(values), items=items)


def one_list(scores: list[float]) -> Candidates:
    return Candidates.of(np.arange(len(scores), dtype=np.int32)[None], np.array([scores], dtype=np.float32), "x")


def test_the_worked_example_by_hand() -> None:
    """Scores 10, 8, 6, 2: a spread of 8. First events on days 0, 1, 3, none; asked on day 4, half-life 1 day, weight .5 gives boosts of
    4 / 16, 4 / 8, 4 / 2 and 0."""
    queries = replace(queries_of([[]]), now=np.array([4 * DAY]))
    slate = Freshness(weight=0.5, half_life_days=1).fit(world("x", [1, 2, 3, 4])).rerank(queries, one_list([10, 8, 6, 2]), 4)
    assert slate.items.tolist() == [[0, 1, 2, 3]]
    np.testing.assert_allclose(slate.scores, [[10.25, 8.5, 8, 2]])
    more = Freshness(weight=1, half_life_days=1).fit(world("x", [1, 2, 3, 4])).rerank(queries, one_list([10, 8, 6, 2]), 4)
    assert more.items.tolist() == [[0, 2, 1, 3]]  # 10.5, 9, 10, 2


def test_dates_times_and_years_are_read() -> None:
    day = [date(2020, 1, 1), None]
    moment = [datetime(2020, 1, 1, tzinfo=UTC), None]
    for values in (day, moment, [2020, None]):
        assert Freshness(column="born").fit(world("born", [*values, *values[:1]])).born.tolist()[:2] == [1577836800_000000, 2**63 - 1]
    with pytest.raises(ConfigError, match=r"freshness\.column: 'born' is String; take a date, a time, or a whole number of years"):
        Freshness(column="born").fit(world("born", ["x", "y", "z"]))
    with pytest.raises(ConfigError, match=r"freshness\.column: the item table has no column 'brn'.*did you mean `born`"):
        Freshness(column="brn").fit(world("born", [1990, 1991, 1992]))


def test_what_comes_later_counts_as_new_and_the_unknown_gets_nothing() -> None:
    queries = replace(queries_of([[]]), now=np.array([0]))
    slate = Freshness(weight=0.5, column="born").fit(world("born", [1970, 2030, None])).rerank(queries, one_list([3, 2, 1]), 3)
    np.testing.assert_allclose(slate.scores, [[4, 3, 1]])


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(-9, 9, width=32), min_size=0, max_size=4), st.integers(1, 6), st.floats(0, 3))
def test_a_slate_is_a_part_of_the_list(scores: list[float], k: int, weight: float) -> None:
    fitted = Freshness(weight=weight, column="born").fit(world("born", [1970, 1990, None, 2020]))
    slate = fitted.rerank(queries_of([[]]), one_list(sorted(scores, reverse=True)), k)
    assert sorted(slate.items[0][slate.present[0]].tolist())[: len(scores)] == sorted(set(slate.items[0][slate.present[0]].tolist()))
    assert int(slate.present.sum()) == min(k, len(scores))

"""Several objectives by declared weights."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palate.rerank.objectives import Objectives
from palate.testing.contracts import RerankerContract, queries_of
from palate.types import Candidates, ConfigError, DataError


class TestScoreAndRank(RerankerContract):
    def make(self) -> Objectives:
        return Objectives(formulas={"engagement": "score", "depth": "popular_rank"}, weights={"depth": 0.4})


class TestRaw(RerankerContract):
    def make(self) -> Objectives:
        return Objectives(formulas={"engagement": "sqrt(max(score, 0))"}, scale="raw")


SETTINGS = {
    "formulas": {"engagement": "click + 0.1 * watch", "satisfaction": "rating", "responsibility": "1 - report"},
    "weights": {"engagement": 1.0, "satisfaction": 0.5, "responsibility": 2.0},
}


def predicted(columns: dict[str, list[float]]) -> Candidates:
    count = len(next(iter(columns.values())))
    features = {f"ranker.{task}": np.array([values], dtype=np.float32) for task, values in columns.items()}
    plain = Candidates.of(np.arange(count, dtype=np.int32)[None], -np.arange(count, dtype=np.float32)[None], "x")
    return replace(plain, features=features)


THREE = {"click": [0.5, 0.3, 0.1], "watch": [5, 3, 0], "rating": [3, 5, 4], "report": [0.2, 0.1, 0.0]}


def test_the_worked_example_by_hand() -> None:
    """Engagement 1, .6, .1, scaled 1, 5/9, 0; satisfaction 0, 1, .5; responsibility .8, .9, 1, scaled 0, .5, 1.

    1 x (1, 5/9, 0) + .5 x (0, 1, .5) + 2 x (0, .5, 1) = 1, 2.056, 2.25.
    """
    slate = Objectives(**SETTINGS).rerank(queries_of([[]]), predicted(THREE), 3)
    assert slate.items.tolist() == [[2, 1, 0]]
    np.testing.assert_allclose(slate.scores, [[2.25, 5 / 9 + 1.5, 1]], rtol=1e-6)
    raw = Objectives(**SETTINGS, scale="raw").rerank(queries_of([[]]), predicted(THREE), 3)
    np.testing.assert_allclose(np.sort(raw.scores), [[0.1 + 2 + 2, 1 + 1.5 + 1.6, 0.6 + 2.5 + 1.8]], rtol=1e-6)


def test_a_request_may_weigh_anew() -> None:
    """With engagement alone the order is the clicks'; what counts for nothing is left out by weight 0."""
    only = Objectives(**SETTINGS).with_settings(weights={"satisfaction": 0, "responsibility": 0})
    assert only.rerank(queries_of([[]]), predicted(THREE), 3).items.tolist() == [[0, 1, 2]]


def test_equal_values_say_nothing() -> None:
    same = predicted(THREE | {"rating": [4, 4, 4]})
    slate = Objectives(formulas={"a": "rating", "b": "click"}).rerank(queries_of([[]]), same, 3)
    np.testing.assert_allclose(slate.scores, [[1, 0.5, 0]], atol=1e-6)


def test_errors_name_the_key() -> None:
    with pytest.raises(ConfigError, match=r"objectives\.formulas\.engagement: position 1: 'clik' is no task, did you mean 'click'\?"):
        Objectives(formulas={"engagement": "clik"}).rerank(queries_of([[]]), predicted(THREE), 3)
    with pytest.raises(ConfigError, match=r"objectives: .*weights: 'fun' is no objective; there are engagement"):
        Objectives(weights={"fun": 1})
    with pytest.raises(ConfigError, match=r"weights: 0 or more, of 'engagement' it is -1"):
        Objectives(weights={"engagement": -1})
    with pytest.raises(ConfigError, match="at least one objective is needed"):
        Objectives(formulas={})
    with pytest.raises(DataError, match="keep it finite"):
        Objectives(formulas={"a": "1 / report"}).rerank(queries_of([[]]), predicted(THREE), 3)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=8), st.integers(1, 10), st.floats(0, 5))
def test_a_slate_is_a_part_of_the_list(clicks: list[float], k: int, weight: float) -> None:
    slate = Objectives(formulas={"a": "click", "b": "score"}, weights={"b": weight}).rerank(
        queries_of([[]]), predicted({"click": clicks}), k
    )
    there = slate.items[0][slate.present[0]].tolist()
    assert len(set(there)) == len(there) == min(k, len(clicks))
    assert set(there) <= set(range(len(clicks)))

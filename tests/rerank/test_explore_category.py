"""Now and then a kind that the user has seen little of."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from palate.rerank.base import LOG_SLATE, PROPENSITY
from palate.rerank.brought import SEED
from palate.rerank.explore_category import ExploreCategory
from palate.testing.contracts import RerankerContract, log_of, queries_of
from palate.types import Candidates, ConfigError, Log


class TestGenres(RerankerContract):
    def make(self) -> ExploreCategory:
        return ExploreCategory(epsilon=0.5, at=2)


class TestYears(RerankerContract):
    def make(self) -> ExploreCategory:
        return ExploreCategory(column="year", epsilon=1, at=1, novelty=0)


def world(genres: list[list[str] | None]) -> Log:
    return log_of([(0, 0)], n_items=len(genres), items=pl.DataFrame({"item": [f"i{n}" for n in range(len(genres))], "genres": genres}))


GENRES: list[list[str] | None] = [["a"], ["a"], ["b"], ["a", "c"], ["c"], None]


def slates(count: int, k: int, history: list[int], **given_settings: object) -> Candidates:
    queries = replace(queries_of([history] * count, blocked=[[]] * count), context=pl.DataFrame({SEED: np.arange(count)}))
    items = np.tile(np.arange(6, dtype=np.int32), (count, 1))
    return ExploreCategory(**given_settings).fit(world(GENRES)).rerank(queries, Candidates.of(items, -items.astype(np.float32), "x"), k)


def test_the_worked_example_by_hand() -> None:
    """At place 2 (rank 1) with epsilon .6. Of a, item 1 is best from there on, of b item 2, of c item 3. The history has two events of a,
    so the weights are 1/3, 1, 1, of 7/3: a .6 / 7, b and c 1.8 / 7. Item 1 stays with .4 + .6 / 7."""
    stays, b, c = 0.4 + 0.6 / 7, 1.8 / 7, 1.8 / 7
    slate = slates(400, 4, [0, 1], epsilon=0.6, at=2)
    expected = {
        (0, 1, 2, 3): [1, stays, stays, stays + b],
        (0, 2, 1, 3): [1, b, b + c, stays + b],
        (0, 3, 1, 2): [1, c, b + c, c],
    }
    seen = {tuple(row) for row in slate.items.tolist()}
    assert seen == set(expected)
    whole = {(0, 1, 2, 3): stays, (0, 2, 1, 3): b, (0, 3, 1, 2): c}
    for row in range(400):
        order = tuple(slate.items[row].tolist())
        np.testing.assert_allclose(slate.features[PROPENSITY][row], expected[order], rtol=1e-6)
        np.testing.assert_allclose(np.exp(slate.features[LOG_SLATE][row]), whole[order], rtol=1e-6)


@pytest.mark.parametrize(("at", "novelty"), [(1, 0.0), (2, 1.0), (3, 2.0)])
def test_frequencies_are_the_propensities(at: int, novelty: float) -> None:
    """Chi-square at every place."""
    count = 5000
    slate = slates(count, 5, [0, 1, 4], epsilon=0.7, at=at, novelty=novelty)
    for place in range(5):
        items = np.unique(slate.items[:, place])
        written = [slate.features[PROPENSITY][slate.items[:, place] == item, place] for item in items]
        assert all(np.ptp(column) == 0 for column in written)
        said = np.array([float(column[0]) for column in written])
        assert said.sum() == pytest.approx(1, abs=1e-5)
        if len(items) > 1:
            assert stats.chisquare([len(column) for column in written], said / said.sum() * count).pvalue > 1e-4


def test_without_exploring_or_kinds_the_order_stays_for_certain() -> None:
    for given_settings in ({"epsilon": 0.0}, {"at": 9}, {"at": 6, "epsilon": 1.0}):
        slate = slates(20, 6, [], **given_settings)
        assert (slate.items == np.arange(6)).all()
        assert (slate.features[PROPENSITY] == 1).all()
    with pytest.raises(ConfigError, match=r"explore_category\.column: .*did you mean `genres`"):
        ExploreCategory(column="genre").fit(world(GENRES))


@settings(deadline=None, max_examples=30)
@given(st.permutations(range(6)), st.integers(0, 6), st.integers(1, 8), st.integers(1, 8), st.integers(0, 99), st.floats(0, 1))
def test_a_slate_is_a_part_of_the_list(items: list[int], count: int, k: int, at: int, seed: int, epsilon: float) -> None:
    queries = replace(queries_of([[1]], blocked=[[]]), context=pl.DataFrame({SEED: [seed]}))
    listed = np.array([items[:count] + [-1] * (6 - count)], dtype=np.int32)
    candidates = Candidates.of(listed, -np.arange(6, dtype=np.float32)[None], "x")
    slate = ExploreCategory(epsilon=epsilon, at=at).fit(world(GENRES)).rerank(queries, candidates, k)
    there = slate.items[0][slate.present[0]].tolist()
    assert len(set(there)) == len(there) == min(k, count)
    assert set(there) <= set(items[:count])
    assert (slate.features[PROPENSITY][0][: len(there)] > 0).all()

"""Greedy determinantal point process."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palate.rerank import diverse as module
from palate.rerank.dpp import DPP
from palate.testing.contracts import RerankerContract, clustered, log_of, queries_of
from palate.types import Candidates, ConfigError, Log


class TestGenres(RerankerContract):
    def make(self) -> DPP:
        return DPP(theta=0.5)


class TestYears(RerankerContract):
    def make(self) -> DPP:
        return DPP(theta=0.3, column="year", relevance="rank", pool=None)


class TestVectors(RerankerContract):
    def make(self) -> DPP:
        return DPP(theta=0, relevance="raw", pool=12).with_vectors(np.random.default_rng(0).normal(size=(62, 4)).astype(np.float32))


def world(genres: list[list[str]]) -> Log:
    return log_of([(0, 0)], n_items=len(genres), items=pl.DataFrame({"item": [f"i{n}" for n in range(len(genres))], "genres": genres}))


def one_list(scores: list[float]) -> Candidates:
    return Candidates.of(np.arange(len(scores), dtype=np.int32)[None], np.array([scores], dtype=np.float32), "x")


def test_the_worked_example_by_hand() -> None:
    """Items 0 {a}, 1 {a, b}, 2 {c}, likeness of 0 and 1 one half; relevance 1, .9, .6; theta one half.

    0 comes first with .5. Then 1 adds .5 x .9 + .5 ln(1 - 1/4) = .306, and 2 adds .5 x .6 + .5 ln 1 = .3: 1, narrowly; with 2 last.
    At theta .4 it is .36 + .6 ln .75 = .187 against .24: 2.
    """
    fitted = DPP(theta=0.5, relevance="raw").fit(world([["a"], ["a", "b"], ["c"]]))
    slate = fitted.rerank(queries_of([[]]), one_list([1, 0.9, 0.6]), 3)
    assert slate.items.tolist() == [[0, 1, 2]]
    np.testing.assert_allclose(slate.scores, [[0.5, 0.45 + 0.5 * np.log(0.75), 0.3]], atol=1e-6)
    other = fitted.with_settings(theta=0.4).rerank(queries_of([[]]), one_list([1, 0.9, 0.6]), 3)
    assert other.items.tolist() == [[0, 2, 1]]
    np.testing.assert_allclose(other.scores, [[0.4, 0.24, 0.36 + 0.6 * np.log(0.75)]], atol=1e-6)


@pytest.mark.parametrize("theta", [0.05, 0.4, 0.9])
def test_each_step_adds_most_oracle(theta: float) -> None:
    """Against determinants computed from scratch at every step."""
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(14, 5)).astype(np.float32)
    scores = -np.sort(-rng.random(14)).astype(np.float32)
    slate = DPP(theta=theta, relevance="raw").with_vectors(vectors).rerank(queries_of([[]]), one_list(scores.tolist()), 7)
    unit = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float64)
    kernel = (1 + unit @ unit.T) / 2

    def value(chosen: list[int]) -> float:
        return float(theta * scores[chosen].sum() + (1 - theta) * np.linalg.slogdet(kernel[np.ix_(chosen, chosen)])[1])

    listed: list[int] = []
    for place in range(6):  # five dimensions and the constant: a seventh item spans nothing new
        gains = {item: value([*listed, item]) - (value(listed) if listed else 0.0) for item in range(14) if item not in listed}
        best = max(gains, key=lambda item: gains[item])
        assert slate.items[0, place] == best
        assert slate.scores[0, place] == pytest.approx(gains[best], abs=1e-4)
        listed.append(best)


def test_an_item_between_two_chosen_adds_little_where_mmr_sees_only_the_nearest() -> None:
    corners = np.array([[1, 0, 0], [0, 1, 0], [1, 1, 0], [0.9, 0, 0.6]], dtype=np.float32)
    fitted = DPP(theta=0, relevance="raw").with_vectors(corners).fit(clustered()[0])
    assert fitted.rerank(queries_of([[]]), one_list([4, 3, 2, 1]), 4).items.tolist() == [[0, 1, 3, 2]]


def test_repeats_come_last_by_relevance() -> None:
    fitted = DPP(theta=0.5).fit(world([["a"], ["a"], ["a"], ["b"], ["b"]]))
    assert fitted.rerank(queries_of([[]]), one_list([5, 4, 3, 2, 1]), 5).items.tolist() == [[0, 3, 1, 2, 4]]


def test_theta_1_keeps_the_order() -> None:
    fitted = DPP(theta=1).fit(world([["a"], ["a"], ["b"]]))
    assert fitted.rerank(queries_of([[]]), one_list([3, 2, 1]), 3).items.tolist() == [[0, 1, 2]]


def test_the_greedy_slate_is_near_the_best() -> None:
    """Of the slates of three out of eight the greedy one is within e / (e - 1) of the best in log-determinant shifted to be positive."""
    rng = np.random.default_rng(3)
    vectors = rng.normal(size=(8, 4)).astype(np.float32)
    fitted = DPP(theta=0).with_vectors(vectors)
    greedy = fitted.rerank(queries_of([[]]), one_list([1.0] * 8), 3).items[0].tolist()
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    kernel = (1 + unit @ unit.T) / 2
    volumes = {y: float(np.linalg.det(kernel[np.ix_(y, y)])) for y in permutations(range(8), 3) if list(y) == sorted(y)}
    assert volumes[tuple(sorted(greedy))] > 0.7 * max(volumes.values())


@settings(deadline=None, max_examples=25)
@given(st.lists(st.floats(-5, 5, width=32), min_size=1, max_size=12), st.integers(1, 15), st.floats(0, 1), st.integers(0, 5))
def test_a_slate_is_a_part_of_the_list(scores: list[float], k: int, theta: float, seed: int) -> None:
    vectors = np.random.default_rng(seed).normal(size=(12, 3)).astype(np.float32)
    candidates = one_list(sorted(scores, reverse=True))
    slate = DPP(theta=theta).with_vectors(vectors).rerank(queries_of([[]]), candidates, k)
    shown = slate.items[0][slate.present[0]].tolist()
    assert len(shown) == len(set(shown)) == min(k, len(scores))
    assert set(shown) <= set(candidates.items[0].tolist())
    assert (np.diff(slate.scores[0][: len(shown)]) <= 1e-6).all()


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    log, queries, _ = clustered()
    items = np.argsort(np.random.default_rng(0).random((len(queries), 60)), axis=1)[:, :30].astype(np.int32)
    candidates = Candidates.of(items, np.tile(np.arange(30, 0, -1, dtype=np.float32), (len(queries), 1)), "x")
    reranker = DPP(theta=0.5).fit(log)
    whole = reranker.rerank(queries, candidates, 10).items
    monkeypatch.setattr(module, "BLOCK", 2000)
    assert np.array_equal(reranker.rerank(queries, candidates, 10).items, whole)


def test_errors_name_the_column() -> None:
    with pytest.raises(ConfigError, match=r"dpp\.column: the item table has no column 'genre': .*did you mean `genres`\?"):
        DPP(column="genre").fit(world([["a"]]))

"""Drawn slates: the propensities written are the frequencies seen, and the probabilities worked out by hand."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from palate.funnel import Funnel
from palate.rerank.base import LOG_SLATE, PROPENSITY
from palate.rerank.boltzmann import Boltzmann
from palate.rerank.brought import SEED
from palate.rerank.draws import request_keys, uniforms
from palate.rerank.epsilon_greedy import EpsilonGreedy, place_table
from palate.rerank.explore import Explorer
from palate.rerank.race import Race, place_probabilities
from palate.rerank.thompson import Thompson
from palate.retrieve.popular import Popular
from palate.testing.contracts import RerankerContract, clustered, log_of, queries_of
from palate.types import Candidates, DataError, Queries, Request


class TestEpsilonGreedy(RerankerContract):
    def make(self) -> EpsilonGreedy:
        return EpsilonGreedy(epsilon=0.3)


class TestBoltzmann(RerankerContract):
    def make(self) -> Boltzmann:
        return Boltzmann(temperature=0.3, pool=12)


class TestThompson(RerankerContract):
    def make(self) -> Thompson:
        return Thompson(deviation=0.3, least=0.3, pool=12)


SCORES = [1.0, 0.8, 0.7, 0.2, 0.0]
LOG = log_of([(0, 0)] * 3 + [(0, 1)] * 8 + [(0, 3)], n_items=5)
POLICIES = [EpsilonGreedy(epsilon=0.4), Boltzmann(temperature=0.4), Thompson(deviation=0.6, least=0.2)]


def visits(count: int) -> Queries:
    """One query a seed, all else equal."""
    queries = queries_of([[]] * count)
    return replace(queries, context=pl.DataFrame({SEED: np.arange(count)}))


def lists(count: int, scores: list[float] = SCORES) -> Candidates:
    return Candidates.of(np.tile(np.arange(len(scores), dtype=np.int32), (count, 1)), np.tile(np.float32(scores), (count, 1)), "x")


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.name)
def test_frequencies_are_the_propensities(policy: Explorer) -> None:
    """Chi-square at every place, over the items that may stand there: none below a probability of one in ten thousand."""
    count, k = 6000, 3
    slate = policy.fit(LOG).rerank(visits(count), lists(count), k)
    for place in range(k):
        said = {}
        for item in range(len(SCORES)):
            written = slate.features[PROPENSITY][slate.items[:, place] == item, place]
            if len(written):
                assert np.ptp(written) <= 1e-6 * written[0], "the same item at the same place, and another propensity"
                said[item] = float(written[0])
        assert sum(said.values()) == pytest.approx(1, abs=1e-5)
        seen = [int((slate.items[:, place] == item).sum()) for item in said]
        expected = np.array([said[item] for item in said]) / sum(said.values()) * count
        assert stats.chisquare(seen, expected).pvalue > 1e-4


@pytest.mark.parametrize("policy", POLICIES[:2], ids=lambda policy: policy.name)
def test_frequencies_are_the_probabilities_of_slates(policy: Explorer) -> None:
    count = 6000
    slate = policy.fit(LOG).rerank(visits(count), lists(count, SCORES[:4]), 2)
    pairs = [tuple(row) for row in slate.items.tolist()]
    said = {pair: float(np.exp(slate.features[LOG_SLATE][row, 0])) for row, pair in enumerate(pairs)}
    seen = Counter(pairs)
    assert len(said) == 12
    assert sum(said.values()) == pytest.approx(1, abs=1e-5)
    expected = np.array([said[pair] for pair in said]) / sum(said.values()) * count
    assert stats.chisquare([seen[pair] for pair in said], expected).pvalue > 1e-4


def test_epsilon_greedy_by_hand() -> None:
    """Three items, epsilon .3, two places. First: .8, .1, .1. Second, of item 1: after 0 (.8) it is best, .7 + .15; after 2 (.1) item 0
    is, .15."""
    table = place_table(3, 2, 0.3)
    np.testing.assert_allclose(table[:, 0], [0.8, 0.1, 0.1])
    np.testing.assert_allclose(table[1, 1], 0.8 * 0.85 + 0.1 * 0.15)
    np.testing.assert_allclose(table[0, 1], 0.2 * 0.85)
    np.testing.assert_allclose(table.sum(axis=0), [1, 1])
    np.testing.assert_allclose(place_table(4, 4, 0.3).sum(axis=1), [1] * 4)  # every item stands somewhere
    assert np.array_equal(place_table(5, 3, 0.0), np.eye(5, 3))


def test_epsilon_greedy_of_every_slate_oracle() -> None:
    """The recursion against the sum over all slates of six items."""
    m, k, epsilon = 6, 4, 0.35
    table = np.zeros((m, k))
    for slate in itertools.permutations(range(m), k):
        chance = 1.0
        for place, item in enumerate(slate):
            left = [other for other in range(m) if other not in slate[:place]]
            chance *= epsilon / len(left) + (1 - epsilon) * (item == left[0])
        for place, item in enumerate(slate):
            table[item, place] += chance
    np.testing.assert_allclose(place_table(m, k, epsilon), table, atol=1e-12)


def test_plackett_luce_of_every_slate_oracle() -> None:
    """The integral against the sum over all slates of five items; the weights span four orders of magnitude."""
    scores = [1.0, 0.9, 0.5, 0.4, 0.0]
    slate = Boltzmann(temperature=0.1, relevance="raw").rerank(visits(300), lists(300, scores), 3)
    weights = np.exp(np.float32(scores).astype(float) / 0.1)
    table, whole = np.zeros((5, 3)), {}
    for order in itertools.permutations(range(5), 3):
        chance, left = 1.0, weights.sum()
        for item in order:
            chance, left = chance * weights[item] / left, left - weights[item]
        whole[order] = chance
        for place, item in enumerate(order):
            table[item, place] += chance
    for row in range(300):
        np.testing.assert_allclose(slate.features[PROPENSITY][row], table[slate.items[row], range(3)], rtol=1e-6)
        np.testing.assert_allclose(np.exp(slate.features[LOG_SLATE][row, 0]), whole[tuple(slate.items[row].tolist())], rtol=1e-5)


def test_two_items_of_thompson_by_hand() -> None:
    """Normal draws of means 1 and .5 and deviations .6 / sqrt(4) and .6 / sqrt(9): the first wins with Phi(.5 / sqrt(.3^2 + .2^2))."""
    slate = Thompson(deviation=0.6, relevance="raw", least=0.1).fit(LOG).rerank(visits(200), lists(200, [1, 0.5]), 2)
    wins = stats.norm.cdf(0.5 / np.hypot(0.3, 0.2))
    first = slate.items[:, 0] == 0
    assert 0 < first.sum() < 200
    np.testing.assert_allclose(slate.features[PROPENSITY], np.where(first, wins, 1 - wins)[:, None].repeat(2, 1), rtol=1e-6)
    assert np.isnan(slate.features[LOG_SLATE]).all()


@pytest.mark.parametrize("temperature", [0.01, 0.05, 1.0])
def test_the_places_of_a_plackett_luce_list_add_up(temperature: float) -> None:
    """Over 12 items, each shown at one place or another with certainty, and each place shown by one item or another: sums of the table."""
    scores = np.linspace(1, 0, 12)
    logits = scores / temperature
    table = np.zeros((12, 12))
    fitted = Boltzmann(temperature=temperature)
    for shift in range(12):  # rotated slates show every item at every place
        order = np.roll(np.arange(12), shift)[None]
        own = (logits - logits.max())[order]
        table[order[0], range(12)] = fitted._propensity(order, np.ones((1, 12), dtype=bool), (logits - logits.max())[None], own)[0]
    np.testing.assert_allclose(table.sum(axis=0), 1, rtol=1e-6)
    np.testing.assert_allclose(table.sum(axis=1), 1, rtol=1e-6)


def test_a_race_that_does_not_settle_is_an_error() -> None:
    rng = np.random.default_rng(0)
    race = Race(
        order=np.zeros((1, 1), dtype=np.int64),
        present=np.ones((1, 1), dtype=bool),
        faster=lambda rows, x: np.zeros((1, 1, x.shape[1])),
        density=lambda rows, x: rng.random((1, 1, x.shape[1])),
        low=np.zeros(1),
        high=np.ones(1),
        step=np.full(1, 0.5),
    )
    with pytest.raises(DataError, match="did not settle"):
        place_probabilities(race)


def test_the_same_request_gets_the_same_slate_and_another_seed_another() -> None:
    funnel = Funnel([Popular()], None, [Boltzmann(temperature=0.5)]).fit(clustered()[0])
    requests = [Request(user="u3", k=6, context={SEED: seed}) for seed in range(4)]
    alone = [funnel.recommend([request])[0] for request in requests]
    assert funnel.recommend(requests) == alone
    assert len({slate.items for slate in alone}) > 1
    assert all(0 < probability < 1 for slate in alone for probability in slate.propensity)
    other = funnel.with_rerankers([funnel.rerankers[0].with_settings(seed=9)]).recommend(requests)
    assert [slate.items for slate in other] != [slate.items for slate in alone]


def test_at_the_ends_nothing_is_random() -> None:
    rows = lists(50)
    assert (EpsilonGreedy(epsilon=0).rerank(visits(50), rows, 5).items == np.arange(5)).all()
    cold = Boltzmann(temperature=0.005).rerank(visits(50), rows, 2)
    assert (cold.items == np.arange(2)).all()
    np.testing.assert_allclose(cold.features[PROPENSITY], 1, rtol=1e-6)
    even = EpsilonGreedy(epsilon=1).rerank(visits(50), rows, 2).features[PROPENSITY]
    np.testing.assert_allclose(even, 0.2, rtol=1e-6)


def test_draws_are_even_and_do_not_hang_on_each_other() -> None:
    keys = request_keys(visits(3000), 1)
    assert len(set(keys.tolist())) == 3000
    one, two = uniforms(keys, np.arange(4), 1), uniforms(keys, np.arange(4), 2)
    assert stats.kstest(one.ravel(), "uniform").pvalue > 1e-4
    columns = np.concatenate([one, two, one[1:].tolist() + one[:1].tolist()], axis=1)
    correlation = np.corrcoef(columns.T) - np.eye(12)
    assert np.abs(correlation).max() < 5 / np.sqrt(3000)
    assert ((one > 0) & (one < 1)).all()


@settings(deadline=None, max_examples=25)
@given(st.lists(st.floats(-3, 3, width=32), max_size=7), st.integers(1, 9), st.integers(-(2**63), 2**63 - 1), st.sampled_from(POLICIES))
def test_a_slate_is_a_part_of_the_list(scores: list[float], k: int, seed: int, policy: Explorer) -> None:
    queries = replace(queries_of([[]]), context=pl.DataFrame({SEED: [seed]}))
    slate = policy.fit(log_of([(0, 0)], n_items=7)).rerank(queries, lists(1, sorted(scores, reverse=True)), k)
    there = slate.items[0][slate.present[0]].tolist()
    assert len(set(there)) == len(there) == min(k, len(scores))
    assert set(there) <= set(range(len(scores)))
    propensity = slate.features[PROPENSITY][0][: len(there)]
    assert ((propensity > 0) & (propensity <= 1 + 1e-6)).all()

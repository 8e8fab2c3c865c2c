"""The ranking metrics by hand, against a naive loop, and their laws."""

from math import log2

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palate.metrics import ranking
from palate.types import NOTHING, Ragged

# Two relevant items at places 2 and 5 of five; one more is not shown at all.
ROW = np.array([[False, True, False, False, True]])
THREE = np.array([3])


def one(values):
    assert values.shape == (1,)
    return pytest.approx(values[0], abs=1e-12)


def test_by_hand():
    assert one(ranking.recall(ROW, THREE, 1)) == 0
    assert one(ranking.recall(ROW, THREE, 2)) == 1 / 3
    assert one(ranking.recall(ROW, THREE, 5)) == 2 / 3
    assert one(ranking.precision(ROW, THREE, 2)) == 1 / 2
    assert one(ranking.precision(ROW, THREE, 10)) == 2 / 10  # five places shown, ten asked
    assert one(ranking.hit_rate(ROW, THREE, 1)) == 0
    assert one(ranking.hit_rate(ROW, THREE, 5)) == 1
    assert one(ranking.reciprocal_rank(ROW, THREE)) == 1 / 2
    assert one(ranking.reciprocal_rank(ROW, THREE, 1)) == 0
    # precision at the hits is 1/2 and 2/5; three could be found in five places, two in two
    assert one(ranking.average_precision(ROW, THREE, 5)) == (1 / 2 + 2 / 5) / 3
    assert one(ranking.average_precision(ROW, THREE, 2)) == (1 / 2) / 2
    # discounts 1, 1/log2(3), 1/2, 1/log2(5), 1/log2(6)
    assert one(ranking.dcg(ROW, 5)) == 1 / log2(3) + 1 / log2(6)
    assert one(ranking.ndcg(ROW, THREE, 5)) == (1 / log2(3) + 1 / log2(6)) / (1 + 1 / log2(3) + 1 / 2)
    assert one(ranking.ndcg(ROW, THREE, 2)) == (1 / log2(3)) / (1 + 1 / log2(3))


def test_graded_ndcg_by_hand():
    gains = np.array([[0.0, 3.0, 1.0]])
    ideal = np.array([[1.0, 3.0, 2.0, 0.0]])  # the 2 was not shown
    best = 3 + 2 / log2(3) + 1 / 2
    assert one(ranking.graded_ndcg(gains, ideal, 3)) == (3 / log2(3) + 1 / 2) / best
    assert np.isnan(ranking.graded_ndcg(gains, np.zeros((1, 2)), 3)[0])


def test_graded_with_gains_of_one_is_binary():
    hit = np.array([[True, False, True], [False, False, True]])
    relevant = np.array([2, 3])
    ideal = np.array([[1.0, 1, 0], [1, 1, 1]])
    np.testing.assert_allclose(ranking.graded_ndcg(hit, ideal, 2), ranking.ndcg(hit, relevant, 2))


def test_top_k_accuracy_counts_pairs():
    """Three targets of one query found, none of the other's one: 3 of 4 pairs are right, though the mean recall is 1/2."""
    hit = np.array([[True, True, True], [False, False, False]])
    relevant = np.array([3, 1])
    assert ranking.top_k_accuracy(hit, relevant, 3).mean() == pytest.approx(3 / 4)
    assert ranking.recall(hit, relevant, 3).mean() == pytest.approx(1 / 2)
    single = np.array([[False, True], [False, False]])
    np.testing.assert_array_equal(ranking.top_k_accuracy(single, np.array([1, 1]), 2), ranking.hit_rate(single, np.array([1, 1]), 2))


def test_hits():
    items = np.array([[4, 0, NOTHING], [2, 7, 1], [1, 2, 3]], dtype=np.int32)
    relevant = Ragged.of([[0, 9], [1, 2], []])
    expected = [[False, True, False], [True, False, True], [False, False, False]]
    np.testing.assert_array_equal(ranking.hits(items, relevant), expected)


def test_hits_of_nothing():
    assert not ranking.hits(np.full((2, 3), NOTHING, dtype=np.int32), Ragged.of([[0], [1]])).any()
    assert not ranking.hits(np.zeros((2, 3), dtype=np.int32), Ragged.of([[], []])).any()
    assert ranking.hits(np.zeros((0, 3), dtype=np.int32), Ragged.of([])).shape == (0, 3)
    assert ranking.hits(np.zeros((2, 0), dtype=np.int32), Ragged.of([[1], []])).shape == (2, 0)


def test_lists_without_places():
    empty, relevant = np.zeros((2, 0), dtype=bool), np.array([1, 0])
    for metric in (ranking.recall, ranking.ndcg, ranking.hit_rate, ranking.precision, ranking.average_precision, ranking.reciprocal_rank):
        np.testing.assert_array_equal(metric(empty, relevant, 5), [0.0, np.nan])


@st.composite
def worlds(draw):
    """Lists without repeats, some with empty places at the end, and what was relevant."""
    n, k, b = draw(st.integers(3, 12)), draw(st.integers(1, 8)), draw(st.integers(1, 5))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    items = np.full((b, k), NOTHING, dtype=np.int32)
    for row in items:
        shown = rng.permutation(n)[: rng.integers(0, min(n, k) + 1)]
        row[: len(shown)] = shown
    return items, [rng.permutation(n)[: rng.integers(1, n)].tolist() for _ in range(b)]


def naive(items, relevant, k):
    """The definitions, one query and one place at a time."""
    found, precisions, gain, first = 0, 0.0, 0.0, 0.0
    for place, item in enumerate(items[:k], start=1):
        if item in relevant:
            found += 1
            precisions += found / place
            gain += 1 / log2(place + 1)
            first = first or 1 / place
    most = min(k, len(relevant))
    best = sum(1 / log2(place + 1) for place in range(1, most + 1))
    return {
        "recall": found / len(relevant),
        "precision": found / k,
        "hit_rate": float(found > 0),
        "reciprocal_rank": first,
        "average_precision": precisions / most,
        "ndcg": gain / best,
    }


@given(worlds(), st.integers(1, 10))
@settings(max_examples=200, deadline=None)
def test_against_the_loop(world, k):
    items, wanted = world
    hit, relevant = ranking.hits(items, Ragged.of(wanted)), np.array([len(row) for row in wanted])
    expected = [naive(row.tolist(), set(targets), k) for row, targets in zip(items, wanted, strict=True)]
    for name in expected[0]:
        values = getattr(ranking, name)(hit, relevant, k)
        np.testing.assert_allclose(values, [row[name] for row in expected], rtol=1e-12, err_msg=name)
        assert ((values >= 0) & (values <= 1 + 1e-12)).all()


@given(worlds())
@settings(max_examples=100, deadline=None)
def test_more_places_never_find_less(world):
    items, wanted = world
    hit, relevant = ranking.hits(items, Ragged.of(wanted)), np.array([len(row) for row in wanted])
    for metric in (ranking.recall, ranking.hit_rate, ranking.reciprocal_rank, ranking.top_k_accuracy):
        for k in range(1, 9):
            assert (metric(hit, relevant, k + 1) >= metric(hit, relevant, k)).all()


@given(worlds(), st.integers(1, 8))
@settings(max_examples=100, deadline=None)
def test_perfect_lists_have_one_and_earlier_hits_are_better(world, k):
    items, wanted = world
    hit, relevant = ranking.hits(items, Ragged.of(wanted)), np.array([len(row) for row in wanted])
    perfect = np.arange(k)[None, :] < relevant[:, None]
    for metric in (ranking.ndcg, ranking.average_precision, ranking.hit_rate, ranking.reciprocal_rank):
        np.testing.assert_allclose(metric(perfect, relevant, k), 1.0)
        assert (metric(np.sort(hit, axis=1)[:, ::-1], relevant, k) >= metric(hit, relevant, k) - 1e-12).all()


def test_the_order_of_queries_does_not_matter():
    rng = np.random.default_rng(3)
    hit, relevant, order = rng.random((20, 6)) < 0.3, rng.integers(6, 9, 20), rng.permutation(20)
    for metric in (ranking.ndcg, ranking.average_precision, ranking.top_k_accuracy):
        np.testing.assert_allclose(metric(hit[order], relevant[order], 4), metric(hit, relevant, 4)[order])

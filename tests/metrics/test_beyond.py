"""Coverage, novelty, diversity and popularity bias, by hand and by their laws."""

from itertools import combinations
from math import log2

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from palate.metrics import beyond
from palate.types import NOTHING, Ragged

LISTS = np.array([[0, 1, 2], [0, 3, NOTHING], [NOTHING, NOTHING, NOTHING]], dtype=np.int32)


def test_exposure_and_coverage():
    shown = beyond.exposure(LISTS, 6)
    np.testing.assert_array_equal(shown, [2, 1, 1, 1, 0, 0])
    assert beyond.coverage(shown) == 4 / 6
    assert np.isnan(beyond.coverage(np.array([])))


def test_gini_by_hand():
    assert beyond.gini(np.array([5, 5, 5])) == pytest.approx(0.0)
    assert beyond.gini(np.array([0, 0, 0, 7])) == pytest.approx(3 / 4)
    # mean absolute difference over twice the mean: pairs of (1, 3) differ by 2, so (2 + 2) / 4 / (2 x 2)
    assert beyond.gini(np.array([3, 1])) == pytest.approx(0.25)
    assert np.isnan(beyond.gini(np.zeros(3)))


counts = arrays.arrays(np.int64, st.integers(1, 30), elements=st.integers(0, 1000)).filter(lambda x: x.sum() > 0)


@given(counts)
@settings(deadline=None)
def test_gini_is_the_mean_difference_and_ignores_order_and_scale(x):
    differences = np.abs(x[:, None] - x[None, :]).mean() / (2 * x.mean())
    assert beyond.gini(x) == pytest.approx(differences, abs=1e-12)
    assert beyond.gini(x[::-1] * 7) == pytest.approx(beyond.gini(x), abs=1e-12)
    assert -1e-12 <= beyond.gini(x) <= 1


def test_concentration_and_half_by_hand():
    shown = np.array([1, 5, 0, 2])
    np.testing.assert_allclose(beyond.concentration(shown, np.array([0, 1, 2, 4, 9])), [0, 5 / 8, 7 / 8, 1, 1])
    assert beyond.half_share(shown) == 1
    assert beyond.half_share(np.array([1, 1, 1, 1])) == 2
    assert beyond.half_share(np.array([1, 1, 1])) == 2
    assert np.isnan(beyond.concentration(np.zeros(3), np.array([1]))).all()
    assert beyond.half_share(np.zeros(3)) == 0


@given(counts)
@settings(deadline=None)
def test_concentration_rises_above_the_diagonal_to_the_gini(x):
    n = len(x)
    curve = beyond.concentration(x, np.arange(n + 1))
    assert curve[-1] == pytest.approx(1)
    assert (np.diff(curve) >= -1e-12).all()
    assert (curve >= np.linspace(0, 1, n + 1) - 1e-12).all()
    assert 2 * np.trapezoid(curve, dx=1 / n) - 1 == pytest.approx(beyond.gini(x), abs=1e-9)
    half = beyond.half_share(x)
    assert curve[half] >= 0.5 - 1e-12
    assert curve[half - 1] < 0.5


def test_novelty_by_hand():
    popularity = np.array([5, 1, 0, 0])  # with one added: 6, 2, 1, 1 of 10
    expected = [np.mean([-log2(0.6), -log2(0.2), -log2(0.1)]), np.mean([-log2(0.6), -log2(0.1)]), np.nan]
    np.testing.assert_allclose(beyond.novelty(LISTS, popularity), expected)


def test_average_popularity_by_hand():
    np.testing.assert_allclose(beyond.average_popularity(LISTS, np.array([6, 3, 0, 1])), [3, 3.5, np.nan])


def test_diversity_by_hand():
    genres = Ragged.of([[0, 1], [1, 2], [3], []])
    # list 0: J(0, 1) = 1/3, the other two pairs share nothing; list 1: item 3 has no genre
    np.testing.assert_allclose(beyond.intra_list_diversity(LISTS, genres), [1 - (1 / 3) / 3, 1.0, np.nan])
    twins = Ragged.of([[0], [0], [0], [1]])
    np.testing.assert_allclose(beyond.intra_list_diversity(LISTS, twins), [0.0, 1.0, np.nan])
    nothing = Ragged.of([[], [], [], []])
    np.testing.assert_allclose(beyond.intra_list_diversity(LISTS, nothing), [1.0, 1.0, np.nan])


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_diversity_against_the_loop(seed):
    rng = np.random.default_rng(seed)
    labels = [sorted(rng.permutation(5)[: rng.integers(0, 4)].tolist()) for _ in range(8)]
    items = np.array([rng.permutation(8)[:4] for _ in range(3)], dtype=np.int32)
    items[0, 3] = NOTHING
    expected = []
    for row in items:
        kept = [set(labels[item]) for item in row if item != NOTHING]
        alike = [len(a & b) / len(a | b) if a | b else 0.0 for a, b in combinations(kept, 2)]
        expected.append(1 - np.mean(alike))
    np.testing.assert_allclose(beyond.intra_list_diversity(items, Ragged.of(labels)), expected)

"""The distributions of negatives, against counts by hand and against their own draws."""

import numpy as np
import pytest

from palate import sampling

ITEMS = np.array([3, 0, 3, 3, 1, 0, 3, 3], dtype=np.int32)  # item 2 never occurs


def test_frequencies_are_shares_of_the_events():
    q = sampling.frequencies(ITEMS, 5)
    assert q.tolist() == [2 / 8, 1 / 8, 0.0, 5 / 8, 0.0]


def test_frequencies_of_nothing_are_zero():
    assert sampling.frequencies(np.array([], dtype=np.int32), 3).tolist() == [0.0, 0.0, 0.0]


def test_mixture_by_hand():
    """A batch of 6 and 2 uniform ones: q* = 6/8 q + 2/8 u."""
    q = sampling.frequencies(ITEMS, 4)
    u = sampling.uniform(np.array([True, True, False, True]))
    mixed = sampling.mixture(q, 6, u, 2)
    np.testing.assert_allclose(mixed, [0.75 * 0.25 + 0.25 / 3, 0.75 * 0.125 + 0.25 / 3, 0.0, 0.75 * 0.625 + 0.25 / 3])
    assert mixed.sum() == pytest.approx(1.0)


def test_mixture_is_what_is_drawn():
    """The share of each item among real draws of a batch and of uniform negatives approaches q*."""
    rng = np.random.default_rng(0)
    q = sampling.frequencies(ITEMS, 4)
    pool = np.array([0, 1, 2, 3], dtype=np.int32)
    batch, beside = 30, 10
    drawn = np.concatenate(
        [np.r_[rng.choice(ITEMS, batch), sampling.draw_uniform(pool, beside, rng)] for _ in range(2000)],
    )
    expected = sampling.mixture(q, batch, sampling.uniform(np.ones(4, dtype=bool)), beside)
    np.testing.assert_allclose(np.bincount(drawn, minlength=4) / len(drawn), expected, atol=0.006)


def test_draws_stay_in_the_pool_and_follow_the_seed():
    pool = np.array([7, 2, 9], dtype=np.int32)
    first = sampling.draw_uniform(pool, 500, np.random.default_rng(3))
    again = sampling.draw_uniform(pool, 500, np.random.default_rng(3))
    assert set(first.tolist()) == {2, 7, 9}
    assert first.dtype == np.int32
    np.testing.assert_array_equal(first, again)


def test_log_probabilities_of_an_item_never_drawn():
    logs = sampling.log_probabilities(np.array([0.5, 0.0]))
    np.testing.assert_allclose(logs, [np.log(0.5), -np.inf], rtol=1e-6)
    assert logs.dtype == np.float32

"""Paired bootstrap intervals: known answers, and the normal theory where it holds."""

import numpy as np
import pytest

from palate.metrics.bootstrap import paired_bootstrap


def test_a_constant_difference_is_certain():
    low, high = paired_bootstrap(np.full((2, 50), [[0.25], [-1.0]]), resamples=100)
    np.testing.assert_allclose(low, [0.25, -1.0])
    np.testing.assert_allclose(high, [0.25, -1.0])


def test_agrees_with_normal_theory_for_many_users():
    differences = np.random.default_rng(0).normal(0.1, 1.0, size=(1, 4000))
    low, high = paired_bootstrap(differences, resamples=2000)
    error = differences.std() / np.sqrt(4000)
    assert low[0] == pytest.approx(differences.mean() - 1.96 * error, abs=0.15 * error)
    assert high[0] == pytest.approx(differences.mean() + 1.96 * error, abs=0.15 * error)


def test_every_row_is_measured_on_the_same_users():
    """So the difference a - c of a chain is never surer than its parts allow, and equal rows have equal intervals."""
    a = np.random.default_rng(1).normal(size=300)
    low, high = paired_bootstrap(np.stack([a, a, -a]), resamples=200, seed=5)
    assert low[0] == low[1] == pytest.approx(-high[2])
    assert high[0] == high[1] == pytest.approx(-low[2])


def test_seed_and_level():
    a = np.random.default_rng(2).normal(size=(1, 100))
    assert paired_bootstrap(a, seed=1) == paired_bootstrap(a, seed=1)
    assert paired_bootstrap(a, seed=1) != paired_bootstrap(a, seed=2)
    narrow, wide = paired_bootstrap(a, level=0.5), paired_bootstrap(a, level=0.99)
    assert wide[0] < narrow[0] < narrow[1] < wide[1]

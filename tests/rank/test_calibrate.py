"""Calibration: curves worked out by hand, and curves that are known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, logit

from palate.metrics import pointwise
from palate.rank.calibrate import Calibrator
from palate.types import ConfigError, DataError


def floats(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)


def test_isotonic_pools_adjacent_violators_by_hand() -> None:
    # labels by rising score 0 1 0 1 1: the pair (1, 0) violates and is pooled to 1/2
    found = Calibrator("isotonic").fit(floats(1, 2, 3, 4, 5), floats(0, 1, 0, 1, 1))
    np.testing.assert_allclose(found.curve["scores"], [1, 2, 3, 4, 5])
    np.testing.assert_allclose(found.curve["probabilities"], [1 / 7, 0.5, 0.5, 6 / 7, 6 / 7])
    # 2.5 lies in the block, 3.5 half-way from .5 to 6/7, beyond the ends nothing changes
    np.testing.assert_allclose(found.transform(floats(2.5, 3.5, -9, 9)), [0.5, (0.5 + 6 / 7) / 2, 1 / 7, 6 / 7], rtol=1e-6)


def test_isotonic_pools_ties_and_weights_by_hand() -> None:
    # score 1 has labels 0 and 1 with weights 3 and 1: 1/4; score 2 has label 0 with weight 4: pooled to 1/8 over both
    found = Calibrator("isotonic").fit(floats(1, 1, 2), floats(0, 1, 0), floats(3, 1, 4))
    np.testing.assert_allclose(found.transform(floats(1, 2)), [0.2, 0.2], rtol=1e-6)  # 1/8, held up at 1 / (3 + 2)


def test_platt_of_two_scores_by_hand() -> None:
    # With two distinct scores two parameters fit both means exactly. Targets: (N+ + 1) / (N+ + 2) = 3/4, 1 / (N- + 2) = 1/4.
    found = Calibrator("platt").fit(floats(-2, -2, 2, 2), floats(0, 0, 1, 1))
    np.testing.assert_allclose(found.transform(floats(-2, 2, 0)), [0.25, 0.75, 0.5], atol=1e-6)
    np.testing.assert_allclose(found.curve["parameters"], [np.log(3) / 2, 0.0], atol=1e-6)


def test_platt_recovers_a_logistic_curve() -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(3.0, 2.0, 40_000).astype(np.float32)
    labels = (rng.random(40_000) < expit(0.8 * scores - 4.0)).astype(np.float32)
    a, b = Calibrator("platt").fit(scores, labels).curve["parameters"]
    assert a == pytest.approx(0.8, abs=0.04)
    assert b == pytest.approx(-4.0, abs=0.15)


def test_platt_leaves_calibrated_probabilities_alone() -> None:
    rng = np.random.default_rng(1)
    probabilities = rng.beta(1, 9, 60_000).astype(np.float32)
    labels = (rng.random(60_000) < probabilities).astype(np.float32)
    found = Calibrator("platt").fit(probabilities, labels)
    assert found.log_odds
    np.testing.assert_allclose(found.curve["parameters"], [1.0, 0.0], atol=0.06)


@pytest.mark.parametrize("method", ["platt", "isotonic"])
def test_distorted_probabilities_are_mended(method: str) -> None:
    rng = np.random.default_rng(2)
    truth = rng.beta(1, 6, 20_000)
    labels = (rng.random(20_000) < truth).astype(np.float32)
    distorted = expit(2.0 * logit(truth) + 1.0).astype(np.float32)
    mended = Calibrator(method).fit(distorted[:10_000], labels[:10_000]).transform(distorted[10_000:])  # type: ignore[arg-type]
    before = pointwise.calibration_error(labels[10_000:], distorted[10_000:])
    after = pointwise.calibration_error(labels[10_000:], mended)
    assert after < 0.02
    assert after < before / 3
    assert pointwise.normalised_entropy(labels[10_000:], mended) < pointwise.normalised_entropy(labels[10_000:], distorted[10_000:])


@pytest.mark.parametrize("method", ["platt", "isotonic"])
@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.tuples(st.floats(-50, 50, width=32), st.integers(0, 1)), min_size=1, max_size=30))
def test_always_rising_and_never_certain(method: str, rows: list[tuple[float, int]]) -> None:
    scores, labels = floats(*(s for s, _ in rows)), floats(*(y for _, y in rows))
    found = Calibrator(method).fit(scores, labels)  # type: ignore[arg-type]
    p = found.transform(np.linspace(-60, 60, 200, dtype=np.float32))
    assert np.isfinite(p).all()
    assert (np.diff(p) >= -1e-7).all()
    own = found.transform(scores)
    assert (own >= 0).all()
    assert (own <= 1).all()


@pytest.mark.parametrize("method", ["platt", "isotonic"])
def test_worse_than_chance_is_flat(method: str) -> None:
    found = Calibrator(method).fit(floats(1, 2, 3, 4), floats(1, 1, 0, 0))  # type: ignore[arg-type]
    assert len(set(found.transform(floats(1, 2, 3, 4)).tolist())) == 1
    np.testing.assert_allclose(found.transform(floats(2)), [0.5], atol=1e-6)


@pytest.mark.parametrize("method", ["platt", "isotonic"])
def test_state_and_no_candidate(method: str) -> None:
    scores, labels = floats(-1, 0, 1, 2, -np.inf, 3), floats(0, 1, 0, 1, 1, np.nan)
    found = Calibrator(method).fit(scores, labels)  # type: ignore[arg-type]
    again = Calibrator().restore(found.state())
    grid = floats(-np.inf, -2, 0.3, 5)
    np.testing.assert_array_equal(again.transform(grid), found.transform(grid))
    assert again.transform(grid)[0] == 0.0
    assert again.transform(grid.reshape(2, 2, 1)).shape == (2, 2, 1)
    np.testing.assert_array_equal(Calibrator(method).fit(scores[:4], labels[:4]).transform(grid), found.transform(grid))  # type: ignore[arg-type]


def test_errors_are_one_clear_line() -> None:
    with pytest.raises(ConfigError, match="no method 'plat'"):
        Calibrator("plat")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="not fitted"):
        Calibrator().transform(floats(1))
    with pytest.raises(DataError, match="no scored and labelled row"):
        Calibrator().fit(floats(-np.inf), floats(1))
    with pytest.raises(DataError, match="2 scores, 1 labels"):
        Calibrator().fit(floats(1, 2), floats(1))
    with pytest.raises(DataError, match="labels must be 0 or 1"):
        Calibrator().fit(floats(1, 2), floats(1, 3))
    with pytest.raises(DataError, match="NaN or"):
        Calibrator().fit(floats(1, np.nan), floats(1, 0))

"""Point-wise metrics against numbers worked out by hand, and against the definition by brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palate.metrics import pointwise
from palate.types import DataError


def brute_auc(y: np.ndarray, s: np.ndarray, w: np.ndarray) -> float:
    wins = pairs = 0.0
    for p in np.flatnonzero(y == 1):
        for n in np.flatnonzero(y == 0):
            pairs += w[p] * w[n]
            wins += w[p] * w[n] * (float(s[p] > s[n]) + 0.5 * float(s[p] == s[n]))
    return wins / pairs if pairs else math.nan


def test_auc_by_hand() -> None:
    # positives .9 and .4, negatives .5 and .4: wins 1 + 1 + 0 + 1/2 of 4
    assert pointwise.auc([1, 0, 1, 0], [0.9, 0.5, 0.4, 0.4]) == 2.5 / 4
    assert pointwise.auc([1, 0], [2, 1]) == 1.0
    assert pointwise.auc([1, 0], [1, 2]) == 0.0
    assert pointwise.auc([1, 0, 1], [3, 3, 3]) == 0.5


def test_auc_weights_by_hand() -> None:
    # the negative that is beaten counts three times as much as the one that is not
    assert pointwise.auc([1, 0, 0], [2, 1, 3], [1, 3, 1]) == 0.75


def test_auc_of_one_class_is_undefined() -> None:
    assert math.isnan(pointwise.auc([1, 1], [0.2, 0.3]))
    assert math.isnan(pointwise.auc([], []))


def test_auc_tells_neighbouring_float32_apart() -> None:
    low = np.float32(0.5)
    assert pointwise.auc([0, 1], np.array([low, np.nextafter(low, np.float32(1))], dtype=np.float32)) == 1.0


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(-3, 3), st.integers(0, 3), st.integers(0, 3)), max_size=25))
def test_auc_and_grouped_auc_are_their_definitions(rows: list[tuple[int, int, int, int]]) -> None:
    y, s, w, g = (np.array([row[i] for row in rows], dtype=float) for i in range(4))
    assert pointwise.auc(y, s, w) == pytest.approx(brute_auc(y, s, w), nan_ok=True)
    parts = [(brute_auc(y[g == one], s[g == one], np.ones((g == one).sum())), (g == one).sum()) for one in np.unique(g)]
    counted = [(value, n) for value, n in parts if not math.isnan(value)]
    found = pointwise.grouped_auc(y, s, g)
    assert (found.groups, found.skipped) == (len(counted), len(parts) - len(counted))
    expected = sum(value * n for value, n in counted) / sum(n for _, n in counted) if counted else math.nan
    assert found.value == pytest.approx(expected, nan_ok=True)


def test_grouped_auc_by_hand() -> None:
    # a: AUC 1 over 2 rows; b: AUC 1/2 (one win, one loss) over 3 rows; c has one class
    found = pointwise.grouped_auc([1, 0, 1, 0, 0, 1], [2, 1, 5, 6, 4, 9], ["a", "a", "b", "b", "b", "c"])
    assert found == pointwise.GroupedAUC((2 * 1.0 + 3 * 0.5) / 5, 2, 1)


def test_logloss_by_hand() -> None:
    assert pointwise.logloss([1, 0], [0.75, 0.25]) == pytest.approx(-math.log(0.75))
    assert pointwise.logloss([1, 0], [0.75, 0.5], [3, 1]) == pytest.approx((-3 * math.log(0.75) - math.log(0.5)) / 4)
    assert pointwise.logloss([1], [0.0]) == pytest.approx(-math.log(1e-7))


def test_normalised_entropy_by_hand() -> None:
    labels = [1, 0, 0, 0]
    entropy = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert pointwise.normalised_entropy(labels, [0.25] * 4) == pytest.approx(1.0)
    assert pointwise.normalised_entropy(labels, [0.5] * 4) == pytest.approx(math.log(2) / entropy)
    assert pointwise.normalised_entropy(labels, [0.5] * 4, base_rate=0.5) == pytest.approx(1.0)
    assert math.isnan(pointwise.normalised_entropy([0, 0], [0.1, 0.1]))


def test_calibration_ratio_by_hand() -> None:
    assert pointwise.calibration_ratio([1, 0, 0, 1], [0.9, 0.5, 0.2, 0.8]) == pytest.approx(2.4 / 2)
    assert pointwise.calibration_ratio([1, 0], [0.5, 0.5], [1, 3]) == pytest.approx(2.0)
    assert math.isnan(pointwise.calibration_ratio([0], [0.5]))


def test_calibration_error_by_hand() -> None:
    # two bins of two rows: predicted .2 and .7, observed 0 and 1/2
    labels, probabilities = [0, 0, 0, 1], [0.1, 0.3, 0.6, 0.8]
    assert pointwise.calibration_error(labels, probabilities, bins=2) == pytest.approx((0.2 + 0.2) / 2)
    diagram = pointwise.reliability(labels, probabilities, bins=2)
    np.testing.assert_allclose(diagram.predicted, [0.2, 0.7])
    np.testing.assert_allclose(diagram.observed, [0.0, 0.5])
    np.testing.assert_array_equal(diagram.mass, [2, 2])
    assert math.isnan(pointwise.calibration_error([], []))


def test_ties_share_a_bin_whatever_the_order() -> None:
    labels, probabilities = np.array([1, 0, 0, 0]), np.full(4, 0.25)
    for order in ([0, 1, 2, 3], [3, 2, 1, 0]):
        assert pointwise.calibration_error(labels[order], probabilities, bins=4) == 0.0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (([1, 0], [0.5]), "2 labels, 1 scores"),
        (([2, 0], [0.5, 0.1]), "labels must be 0 or 1, got 2"),
        (([math.nan, 0], [0.5, 0.1]), "labels has NaN in row 0"),
        (([1, 0], [0.5, 1.5]), r"must lie in \[0, 1\]"),
        (([1, 0], [0.5, 0.5], [1, -1]), "must not be negative"),
        (([[1, 0]], [[0.5, 0.5]]), "one axis"),
    ],
)
def test_bad_input_is_one_clear_line(arguments: tuple[object, ...], says: str) -> None:
    with pytest.raises(DataError, match=says):
        pointwise.logloss(*arguments)  # type: ignore[arg-type]

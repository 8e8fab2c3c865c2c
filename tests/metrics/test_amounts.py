from __future__ import annotations

import math

import numpy as np
import pytest

from palate.metrics.amounts import amount_ratio, log_mae, mae, rmse
from palate.types import DataError

METRICS = (rmse, mae, log_mae, amount_ratio)


def test_by_hand() -> None:
    # errors -1 and 2
    assert rmse([4, 2], [3, 4]) == pytest.approx(math.sqrt(2.5))
    assert mae([4, 2], [3, 4]) == 1.5
    assert log_mae([30, 0], [10, 0]) == pytest.approx(math.log(31 / 11) / 2)
    assert amount_ratio([30, 10, 0], [10, 0, 10]) == 0.5


def test_right_is_right() -> None:
    y = np.array([1.0, 2.0, 0.0])
    assert [metric(y, y) for metric in METRICS] == [0.0, 0.0, 0.0, 1.0]


@pytest.mark.parametrize("metric", METRICS)
def test_without_rows_it_is_not_defined(metric) -> None:  # type: ignore[no-untyped-def]
    assert math.isnan(metric([], []))


def test_nothing_observed_has_no_ratio() -> None:
    assert math.isnan(amount_ratio([0.0, 0.0], [1.0, 2.0]))


@pytest.mark.parametrize("metric", METRICS)
def test_bad_columns_are_refused(metric) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(DataError, match="two columns of the same length"):
        metric([1.0], [1.0, 2.0])
    with pytest.raises(DataError, match="must be finite"):
        metric([1.0, float("nan")], [1.0, 2.0])
    with pytest.raises(DataError, match="0 or more, got -1"):
        log_mae([1.0], [-1.0])

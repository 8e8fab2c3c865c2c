"""Metrics of predicted grades and amounts (ratings, seconds watched): labels and predictions [R], float64, NaN where there is no row."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from palate.types import DataError

Array = npt.ArrayLike


def rmse(labels: Array, predictions: Array) -> float:
    """Root mean squared error: sqrt(mean (p - y)^2), in the unit of the labels."""
    y, p = _checked(labels, predictions)
    return float(np.sqrt(np.mean((p - y) ** 2))) if len(y) else float("nan")


def mae(labels: Array, predictions: Array) -> float:
    """Mean absolute error: mean |p - y|, in the unit of the labels."""
    y, p = _checked(labels, predictions)
    return float(np.abs(p - y).mean()) if len(y) else float("nan")


def log_mae(labels: Array, predictions: Array) -> float:
    """mean |log(1 + p) - log(1 + y)|, for amounts >= 0: an error of a factor counts the same for short and for long."""
    y, p = _checked(labels, predictions)
    if len(y) and min(y.min(), p.min()) < 0:
        raise DataError(f"metrics: amounts must be 0 or more, got {min(y.min(), p.min()):g}")
    return float(np.abs(np.log1p(p) - np.log1p(y)).mean()) if len(y) else float("nan")


def amount_ratio(labels: Array, predictions: Array) -> float:
    """Predicted over observed amount, sum p / sum y: 1 is right, above 1 promises too much. NaN if nothing was observed."""
    y, p = _checked(labels, predictions)
    return float(p.sum() / y.sum()) if y.sum() > 0 else float("nan")


def _checked(labels: Array, predictions: Array) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    y, p = np.asarray(labels, dtype=np.float64), np.asarray(predictions, dtype=np.float64)
    if y.ndim != 1 or y.shape != p.shape:
        raise DataError(f"metrics: labels {list(y.shape)} and predictions {list(p.shape)} must be two columns of the same length")
    if not (np.isfinite(y).all() and np.isfinite(p).all()):
        raise DataError("metrics: labels and predictions must be finite; leave rows without a label out")
    return y, p

"""Metrics of single predictions: can the ranker tell wanted from unwanted, and are its probabilities right?

All take labels in {0, 1} and scores or probabilities [R], work in float64, and are exact: no histogram, no averaging over
batches (a binned or batched AUC is not the AUC). `weights` [R] undo a sub-sampling. Where a metric is not defined (only one
class) it is NaN. Costs: a sort, O(R log R), or one pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from palate.types import DataError

Doubles = npt.NDArray[np.float64]
Array = npt.ArrayLike


def auc(labels: Array, scores: Array, weights: Array | None = None) -> float:
    """Area under the ROC curve: the chance that a positive outscores a negative, ties counting half.

        AUC = sum_{p, n} w_p w_n ([s_p > s_n] + [s_p = s_n] / 2) / (sum_p w_p  sum_n w_n)

    The Mann-Whitney form (Hanley and McNeil 1982, section III). NaN if there is only one class.
    """
    y, s, w = _checked(labels, scores, weights)
    _, place = np.unique(s, return_inverse=True)
    positives, negatives = np.bincount(place, y * w), np.bincount(place, (1.0 - y) * w)
    pairs = positives.sum() * negatives.sum()
    below = np.cumsum(negatives) - negatives
    return float(positives @ (below + negatives / 2) / pairs) if pairs > 0 else float("nan")


@dataclass(frozen=True)
class GroupedAUC:
    """gAUC and what it stands on. value: NaN if no group counts. groups: how many count. skipped: one-class groups left out."""

    value: float
    groups: int
    skipped: int


def grouped_auc(labels: Array, scores: Array, groups: Array) -> GroupedAUC:
    """AUC within each group (a user, a request), averaged by the group's number of rows (impressions).

        gAUC = sum_g n_g AUC_g / sum_g n_g

    Zhu et al. 2017, "Optimized Cost per Click in Taobao Display Advertising", equation 12. A group with one class has no AUC: it is
    skipped, and counted in `skipped`. groups: any integers or strings [R].
    """
    y, s, _ = _checked(labels, scores, None)
    _, g = np.unique(np.asarray(groups), return_inverse=True)
    if g.shape != y.shape:
        raise DataError(f"metrics: {len(y)} labels but {len(g)} groups")
    if not len(y):
        return GroupedAUC(float("nan"), 0, 0)
    order = np.lexsort((s, g))
    y, s, g = y[order], s[order], g[order]
    starts = np.flatnonzero(np.r_[True, (g[1:] != g[:-1]) | (s[1:] != s[:-1])])  # of runs of equal score within a group
    run_group = g[starts]
    positives, rows = np.add.reduceat(y, starts), np.diff(np.r_[starts, len(y)])
    negatives = rows - positives
    below = np.cumsum(negatives) - negatives
    first_run = np.flatnonzero(np.r_[True, run_group[1:] != run_group[:-1]])
    below -= below[first_run][run_group]  # only the negatives of the same group
    wins = np.bincount(run_group, positives * (below + negatives / 2))
    n_positive, n_rows = np.bincount(g, y), np.bincount(g).astype(np.float64)
    pairs = n_positive * (n_rows - n_positive)
    both = pairs > 0
    if not both.any():
        return GroupedAUC(float("nan"), 0, len(both))
    value = float(np.average(wins[both] / pairs[both], weights=n_rows[both]))
    return GroupedAUC(value, int(both.sum()), int((~both).sum()))


def logloss(labels: Array, probabilities: Array, weights: Array | None = None, eps: float = 1e-7) -> float:
    """Mean of -(y log p + (1 - y) log(1 - p)), in nats. p is clipped to [eps, 1 - eps], as a float32 sigmoid may reach 0 or 1."""
    y, p, w = _checked(labels, probabilities, weights, probability=True)
    p = np.clip(p, eps, 1.0 - eps)
    return _mean(-(y * np.log(p) + (1.0 - y) * np.log1p(-p)), w)


def normalised_entropy(labels: Array, probabilities: Array, weights: Array | None = None, base_rate: float | None = None) -> float:
    """Logloss over the logloss of always predicting the base rate; below 1 is better than knowing only the base rate.

        NE = logloss / -(r log r + (1 - r) log(1 - r))

    He et al. 2014, "Practical Lessons from Predicting Clicks on Ads at Facebook", equation 3. base_rate r: of these labels, unless
    given (the training rate). NaN if r is 0 or 1.
    """
    y, _, w = _checked(labels, probabilities, weights, probability=True)
    rate = _mean(y, w) if base_rate is None else base_rate
    if not 0.0 < rate < 1.0:
        return float("nan")
    entropy = -(rate * np.log(rate) + (1.0 - rate) * np.log1p(-rate))
    return logloss(labels, probabilities, weights) / float(entropy)


def calibration_ratio(labels: Array, probabilities: Array, weights: Array | None = None) -> float:
    """Expected positives over observed positives, sum p / sum y: 1 is right, above 1 is over-confident (He et al. 2014, section 2)."""
    y, p, w = _checked(labels, probabilities, weights, probability=True)
    observed = float(y @ w)
    return float(p @ w) / observed if observed > 0 else float("nan")


@dataclass(frozen=True)
class Reliability:
    """A reliability diagram: predicted and observed mean of each non-empty bin, and its mass (rows, or their weights)."""

    predicted: Doubles
    observed: Doubles
    mass: Doubles


def reliability(labels: Array, probabilities: Array, weights: Array | None = None, bins: int = 10) -> Reliability:
    """Predicted against observed in bins of equal mass. Equal probabilities always share a bin, so the order of rows does not matter.

    Rows go to bin floor(bins x their place / R), where tied rows have the middle of their places. Bins may be empty (many ties): those
    are left out.
    """
    y, p, w = _checked(labels, probabilities, weights, probability=True)
    if bins < 1:
        raise DataError(f"metrics: bins must be at least 1, got {bins}")
    levels, place = np.unique(p, return_inverse=True)
    mass = np.bincount(place, w, minlength=len(levels))
    total = mass.sum()
    if total <= 0:
        return Reliability(np.empty(0), np.empty(0), np.empty(0))
    middle = (np.cumsum(mass) - mass / 2) / total
    bin_of = np.minimum((middle * bins).astype(np.int64), bins - 1)[place]
    in_bin = np.bincount(bin_of, w, minlength=bins)
    full = in_bin > 0
    predicted = np.bincount(bin_of, p * w, minlength=bins)[full] / in_bin[full]
    observed = np.bincount(bin_of, y * w, minlength=bins)[full] / in_bin[full]
    return Reliability(predicted, observed, in_bin[full].astype(np.float64))


def calibration_error(labels: Array, probabilities: Array, weights: Array | None = None, bins: int = 10) -> float:
    """Expected calibration error over bins of equal mass: sum_b (n_b / R) |predicted_b - observed_b|.

    ECE of Naeini et al. 2015 (section "Calibration metrics") with the equal-mass bins of Nguyen and O'Connor 2015. NaN without rows.
    """
    diagram = reliability(labels, probabilities, weights, bins)
    if not len(diagram.mass):
        return float("nan")
    return float(np.average(np.abs(diagram.predicted - diagram.observed), weights=diagram.mass))


def _mean(values: Doubles, weights: Doubles) -> float:
    total = float(weights.sum())
    return float(values @ weights) / total if total > 0 else float("nan")


def _checked(labels: Array, scores: Array, weights: Array | None, *, probability: bool = False) -> tuple[Doubles, Doubles, Doubles]:
    y, s = _column(labels, "labels"), _column(scores, "scores")
    w = np.ones_like(y) if weights is None else _column(weights, "weights")
    if not len(y) == len(s) == len(w):
        raise DataError(f"metrics: {len(y)} labels, {len(s)} scores and {len(w)} weights; give one of each a row")
    if not np.isin(y, (0.0, 1.0)).all():
        raise DataError(f"metrics: labels must be 0 or 1, got {y[~np.isin(y, (0.0, 1.0))][0]:g}; leave unlabelled rows out")
    if probability and len(s) and not (s.min() >= 0.0 and s.max() <= 1.0):
        raise DataError(f"metrics: probabilities must lie in [0, 1], got {s.min():g} to {s.max():g}; calibrate the scores first")
    if len(w) and w.min() < 0.0:
        raise DataError(f"metrics: weights must not be negative, got {w.min():g}")
    return y, s, w


def _column(values: Array, what: str) -> Doubles:
    column: npt.NDArray[Any] = np.asarray(values, dtype=np.float64)
    if column.ndim != 1:
        raise DataError(f"metrics: {what} must have one axis [R], got shape {list(column.shape)}")
    if np.isnan(column).any():
        raise DataError(f"metrics: {what} has NaN in row {int(np.flatnonzero(np.isnan(column))[0])}; leave such rows out")
    return column

"""From scores to probabilities, by a rising function learnt on queries that the ranker did not learn from.

    platt      p(s) = 1 / (1 + exp(-(a s + b))), a >= 0                                     two parameters: right for few positives
    isotonic   the rising step function nearest to the labels in weighted squares (PAVA), joined by straight lines    needs thousands

Platt 1999, "Probabilistic Outputs for Support Vector Machines", section 2.2 (targets 2.2.1); Zadrozny and Elkan 2002, "Transforming
Classifier Scores into Accurate Multiclass Probability Estimates", section 3 (isotonic). Niculescu-Mizil and Caruana 2005,
"Predicting Good Probabilities with Supervised Learning", section 4 and figure 7: isotonic overtakes Platt from about 1,000 cases on.
"""

from __future__ import annotations

from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
from scipy.optimize import isotonic_regression
from scipy.special import expit, logit

from palate.types import ConfigError, DataError, Floats, State

Doubles = npt.NDArray[np.float64]
METHODS = ("platt", "isotonic")
CLIP = 1e-7  # a float32 sigmoid may reach 0 or 1, whose log-odds are infinite


class Calibrator:
    """score -> probability. Rising, so it never swaps two items; isotonic may make two equal (order by the score, not by this).

    Scores that all lie in [0, 1] when fitting are taken for probabilities: Platt then works on their log-odds, so that a ranker that is
    already calibrated is left as it is (a = 1, b = 0). Probabilities stay within [1 / (n + 2), (n + 1) / (n + 2)] for n rows
    (isotonic): no row count makes certain, and the logloss stays finite.
    """

    def __init__(self, method: Literal["platt", "isotonic"] = "platt") -> None:
        if method not in METHODS:
            raise ConfigError(f"calibration: no method {method!r}; it is one of {', '.join(METHODS)}")
        self.method: str = method
        self.log_odds = False
        self.curve: dict[str, Doubles] = {}

    def fit(self, scores: Floats, labels: Floats, weights: Floats | None = None) -> Self:
        """Learns from scores and labels in {0, 1} of the same shape; rows that score -inf or whose label is NaN are left out.

        weights: of each row (they undo a sub-sampling). Cost: O(R log R).
        """
        s, y = np.asarray(scores, dtype=np.float64).ravel(), np.asarray(labels, dtype=np.float64).ravel()
        w = np.ones_like(s) if weights is None else np.asarray(weights, dtype=np.float64).ravel()
        if not len(s) == len(y) == len(w):
            raise DataError(f"calibration: {len(s)} scores, {len(y)} labels and {len(w)} weights; give one of each a row")
        keep = ~(np.isneginf(s) | np.isnan(y)) & (w > 0)
        s, y, w = s[keep], y[keep], w[keep]
        if not len(s):
            raise DataError("calibration: no scored and labelled row to learn from; hold back more validation queries")
        if not np.isfinite(s).all():
            raise DataError("calibration: a score is NaN or +inf; a ranker's scores must be finite")
        if not np.isin(y, (0.0, 1.0)).all():
            raise DataError("calibration: labels must be 0 or 1")
        self.log_odds = self.method == "platt" and bool(s.min() >= 0.0 and s.max() <= 1.0)
        self.curve = _platt(self._scale(s), y, w) if self.method == "platt" else _isotonic(s, y, w)
        return self

    def transform(self, scores: Floats) -> Floats:
        """Probabilities of the same shape; 0 where the score is -inf (no candidate)."""
        if not self.curve:
            raise ConfigError("calibration: not fitted; call fit first")
        given = np.asarray(scores, dtype=np.float64)
        nothing = np.isneginf(given)
        s = np.where(nothing, 0.0, given)
        if self.method == "platt":
            a, b = self.curve["parameters"]
            p = expit(a * self._scale(s) + b)
        else:
            p = np.interp(s, self.curve["scores"], self.curve["probabilities"])
        return np.where(nothing, 0.0, p).astype(np.float32)

    def _scale(self, scores: Doubles) -> Doubles:
        return logit(np.clip(scores, CLIP, 1.0 - CLIP)) if self.log_odds else scores

    def state(self) -> State:
        """The curve: a few numbers."""
        return State(arrays=self.curve, meta={"method": self.method, "log_odds": self.log_odds})

    def restore(self, state: State) -> Self:
        """Takes over a state that `state` gave, method included."""
        meta: Any = state.meta
        self.method, self.log_odds = str(meta["method"]), bool(meta["log_odds"])
        self.curve = {name: np.asarray(array, dtype=np.float64) for name, array in state.arrays.items()}
        return self


def _platt(s: Doubles, y: Doubles, w: Doubles) -> dict[str, Doubles]:
    """Newton's method with halved steps on the cross-entropy, in centred and scaled scores (Lin, Lin and Weng 2007, algorithm 1)."""
    positives, negatives = float(w @ y), float(w @ (1.0 - y))
    targets = np.where(y > 0, (positives + 1) / (positives + 2), 1 / (negatives + 2))  # Platt's guard against over-fitting
    centre, spread = float(np.average(s, weights=w)), float(np.std(s))
    f = (s - centre) / spread if spread > 0 else np.zeros_like(s)

    def loss(at: Doubles) -> float:
        z = at[0] * f + at[1]
        return float(w @ (np.logaddexp(0.0, z) - targets * z))

    at = np.array([0.0, logit(np.average(targets, weights=w))])
    for _ in range(100):
        p = expit(at[0] * f + at[1])
        slope = np.array([(w * (p - targets)) @ f, w @ (p - targets)])
        bend = w * p * (1.0 - p)
        hessian = np.array([[bend @ (f * f), bend @ f], [bend @ f, bend.sum()]]) + 1e-12 * np.eye(2)
        step = np.linalg.solve(hessian, slope)
        if slope @ step <= 1e-12 * w.sum():  # half of it is what a row can still gain
            break
        size = 1.0
        while size > 1e-10 and loss(at - size * step) > loss(at) - 1e-4 * size * float(slope @ step):
            size /= 2
        at = at - size * step
    if at[0] <= 0.0 or spread == 0.0:  # worse than chance: the best rising curve is flat
        return {"parameters": np.array([0.0, logit(np.average(targets, weights=w))])}
    a = at[0] / spread
    return {"parameters": np.array([a, at[1] - a * centre])}


def _isotonic(s: Doubles, y: Doubles, w: Doubles) -> dict[str, Doubles]:
    """Equal scores are pooled first; then the pool-adjacent-violators algorithm; each block is kept by its two ends."""
    levels, place = np.unique(s, return_inverse=True)
    mass = np.bincount(place, w)
    fitted = isotonic_regression(np.bincount(place, w * y) / mass, weights=mass)
    ends = np.unique(np.r_[fitted.blocks[:-1], fitted.blocks[1:] - 1])
    floor = 1.0 / (len(s) + 2)
    return {"scores": levels[ends], "probabilities": np.clip(fitted.x[ends], floor, 1.0 - floor)}

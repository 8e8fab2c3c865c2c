"""Off-policy evaluation of whole slates: B slates of L places, a reward at each place.

With r_bl the reward at place l; m_bl = target / logging of the probabilities of what stands there, whatever the rest of the slate; and c_bl
the same of the probabilities given what stands above:

    SIPS   sum over b of (product over l of c_bl) (sum over l of r_bl) / B       assumes nothing; hopeless for long slates
    IIPS   sum over b, l of m_bl r_bl / B                                        a reward depends on its own item and place:
                                                                                 the item-position model of Li et al. 2018 (KDD)
    RIPS   sum over l of [sum over b of W_bl r_bl / sum over b of W_bl],         a reward depends on what stands above, too:
           W_bl = product over j <= l of c_bj                                    McInerney et al. 2020 (KDD)
    PI     sum over b of (q^T G^+ 1_b) (sum over l of r_bl) / B                  the slate's reward adds up from parts, each by item and
                                                                                 place, never seen apart: Swaminathan et al. 2017 (NIPS)

1_b in {0, 1}^(L A) marks which item stands where, G = E[1 1^T] under the logging policy, q = E[1] under the target, G^+ its pseudo-inverse.
Where the logging policy draws each place independently, q^T G^+ 1_b = 1 - L + sum over l of m_bl (Vlassis et al. 2021). IIPS, SIPS and
PI are unbiased under their assumption, RIPS is consistent (unbiased with normalised=False). Intervals, clipping, refusals and effective
sample size are those of `palate.feedback.off_policy`; rows are slates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import polars as pl

from palate.feedback.off_policy import Doubles, Estimate, Settings, SupportError, bound, check_weights, checked, clip, estimate
from palate.types import DataError, Longs


@dataclass(frozen=True)
class Slates:
    """B logged slates of up to L places. All but users float64 [B, L]; `present` bool [B, L], False where a slate was shorter.

    propensity, target: either the marginal probability of what stands at a place (IIPS, PI), or the one given what stands above it
    (RIPS, SIPS): each estimator says which it takes. Where a policy draws its places independently they are the same.
    """

    rewards: Doubles
    propensity: Doubles
    target: Doubles
    users: npt.NDArray[Any] | None = None
    present: npt.NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        for name in ("rewards", "propensity", "target"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), dtype=np.float64))
        shape = self.rewards.shape
        present = np.ones(shape, dtype=bool) if self.present is None else np.asarray(self.present, dtype=bool)
        users = shape[:1] if self.users is None else np.asarray(self.users).shape
        if len(shape) != 2 or {self.propensity.shape, self.target.shape, present.shape} != {shape} or users != shape[:1]:
            raise DataError(
                f"off-policy: slates must be [B, L] and users [B], got rewards {list(shape)}, propensity {list(self.propensity.shape)}, "
                f"target {list(self.target.shape)}, present {list(present.shape)}, users {list(users)}"
            )
        if not present.any():
            raise SupportError("off-policy: the log has no slates; nothing can be estimated from it")
        for name, empty in (
            ("rewards", 0.0),
            ("propensity", 1.0),
            ("target", 1.0),
        ):  # a place that is not there changes no weight, earns nothing
            object.__setattr__(self, name, np.where(present, getattr(self, name), empty))
        object.__setattr__(self, "present", present)
        checked(self.rewards, self.propensity, self.target)

    @classmethod
    def of(cls, frame: pl.DataFrame, *, reward: str = "reward", propensity: str = "propensity", target: str = "target") -> Self:
        """From a row an item shown: `slate`, `position` (from 0), `user`, and the three columns named. Slates in the order of their ids."""
        names = ["slate", "position", "user", reward, propensity, target]
        missing = [name for name in names if name not in frame.columns]
        if missing:
            raise DataError(f"off-policy: the log of slates has no column {missing[0]!r}; it has {', '.join(frame.columns)}")
        if not frame.height:
            raise SupportError("off-policy: the log has no slates; nothing can be estimated from it")
        first = frame.select(pl.col("slate").rank("dense") - 1)["slate"].to_numpy().astype(np.int64)
        place = frame["position"].to_numpy().astype(np.int64)
        if place.min() < 0:
            raise DataError(f"off-policy: position {place.min()} in the log of slates; positions count from 0")
        shape = (int(first.max()) + 1, int(place.max()) + 1)
        present = np.zeros(shape, dtype=bool)
        if len(np.unique(first * shape[1] + place)) < len(first):
            raise DataError("off-policy: a slate has two rows for one position; each place shows one item")
        present[first, place] = True
        columns = []
        for name in (reward, propensity, target):
            column = np.zeros(shape)
            column[first, place] = frame[name].cast(pl.Float64).fill_null(np.nan).to_numpy()
            columns.append(column)
        users = np.empty(shape[0], dtype=object)
        users[first] = frame["user"].cast(pl.String).to_numpy()
        return cls(columns[0], columns[1], columns[2], users.astype(str), present)

    @property
    def weights(self) -> Doubles:
        """target / propensity of each place, [B, L], not clipped."""
        return self.target / self.propensity

    @property
    def prefixes(self) -> Doubles:
        """Weight of what was shown down to each place: products along a slate, [B, L]."""
        return np.asarray(np.cumprod(self.weights, axis=1), dtype=np.float64)


@dataclass(frozen=True)
class _Rows:
    """Slates with the weights that one estimator gives them."""

    rewards: Doubles
    weights: Doubles
    users: npt.NDArray[Any] | None


def sips(slates: Slates, settings: Settings = Settings()) -> Estimate:
    """One weight a slate: the product over its places. Takes conditional probabilities. Assumes nothing."""
    weights = slates.prefixes[:, -1:]
    return _weighed("sips", slates, weights, settings)


def iips(slates: Slates, settings: Settings = Settings()) -> Estimate:
    """Each place on its own. Takes marginal probabilities. Right where a reward does not depend on the rest of the slate."""
    return _weighed("iips", slates, slates.weights, settings)


def rips(slates: Slates, settings: Settings = Settings(), *, normalised: bool = True) -> Estimate:
    """Each place with all that stands above it. Takes conditional probabilities. Right where people read from the top.

    normalised: divide by the mean weight of each place, as in the paper; consistent, and far steadier than without.
    """
    return _weighed("rips", slates, slates.prefixes, settings, normalised=normalised)


def pseudo_inverse(slates: Slates, settings: Settings = Settings(), *, factors: Doubles | None = None) -> Estimate:
    """The PI estimator: a slate's whole reward, weighed as if it added up from its items' parts. Takes marginal probabilities.

    factors: q^T G^+ 1_b of each slate [B] as by `pseudo_inverse_factors`; None takes the places as drawn independently by the logging
    policy (with items drawn without replacement they are not). The factors may be negative; their expected mean is 1.
    """
    if factors is None:
        factors = 1.0 + (slates.weights - 1.0).sum(axis=1)
    factors = np.asarray(factors, dtype=np.float64)
    if factors.shape != slates.rewards.shape[:1] or not np.isfinite(factors).all():
        raise DataError(f"off-policy: factors {list(factors.shape)} must be finite, one for each of the {len(slates.rewards)} slates")
    return _weighed("pi", slates, factors[:, None], settings)


def pseudo_inverse_factors(shown: Longs, support: Longs, logging: Doubles, target: Doubles) -> Doubles:
    """q^T G^+ 1_b for the slates of one context, by enumeration: float64 [B].

    shown: what was logged, item codes [B, L]. support: every slate that either policy can show [S, L], with its probability by the logging
    policy and by the target, both [S]. SupportError where q is not in the range of G: the log never shows some item at some place (or
    some combination that would be needed to tell the parts apart). Cost: (L A)^3, A the largest code + 1: for short slates and few items.
    """
    for name, policy in (("logging", logging), ("target", target)):
        if abs(float(policy.sum()) - 1) > 1e-6 or policy.min() < 0:
            raise DataError(
                f"off-policy: the {name} probabilities of the slates add to {policy.sum():g}; they must be 0 or more and add to 1"
            )
    items = int(max(support.max(), shown.max())) + 1
    marks = _marks(support, items)
    gram = marks.T @ (marks * logging[:, None])
    wanted = marks.T @ target
    inverse = np.linalg.pinv(gram, rcond=1e-10, hermitian=True)
    rest = np.abs(gram @ (inverse @ wanted) - wanted)
    if rest.max() > 1e-8:
        place, item = divmod(int(rest.argmax()), items)
        raise SupportError(
            f"off-policy: the log cannot tell what item {item} is worth at position {place}, where the target shows it with probability "
            f"{wanted[place * items + item]:g}; explore it first, or leave it out of the target"
        )
    return _marks(shown, items) @ (inverse @ wanted)


def _marks(slates: Longs, items: int) -> Doubles:
    """Which item stands where: float64 [S, L x items] of 0 and 1."""
    rows, length = slates.shape
    marks = np.zeros((rows, length * items))
    marks[np.arange(rows)[:, None], np.arange(length) * items + slates] = 1
    return marks


def _weighed(name: str, slates: Slates, raw: Doubles, settings: Settings, *, normalised: bool = False) -> Estimate:
    """raw: weights [B, L], of each place's reward, or [B, 1], of their sum."""
    if settings.largest is not None and np.abs(raw).max() > settings.largest:
        raise DataError(f"off-policy: a weight is {np.abs(raw).max():g}, above largest = {settings.largest:g}; it must bound every weight")
    for place, column in enumerate(raw.T):
        check_weights(column, slates.users, f" of position {place}" if raw.shape[1] > 1 else "")
    weights, ones = clip(raw, settings), np.ones(len(raw))
    rewards = slates.rewards if raw.shape[1] > 1 else slates.rewards.sum(axis=1, keepdims=True)
    rows = _Rows(slates.rewards, raw, slates.users)
    if normalised:
        terms = [(weights[:, place] * rewards[:, place], weights[:, place]) for place in range(raw.shape[1])]
        return estimate(name, terms, rows, weights, settings)
    limit = bound(settings)
    bounds = None
    if limit is not None and name != "pi":  # whose factors may be negative, and no clip bounds them there
        low, high = (limit * slates.rewards.shape[1] * reward for reward in settings.rewards)
        bounds = (min(0.0, low), max(0.0, high))
    return estimate(name, [((weights * rewards).sum(axis=1), ones)], rows, weights, settings, bounds)

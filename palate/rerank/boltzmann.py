"""Boltzmann exploration of whole lists: the Plackett-Luce model.

R. L. Plackett, "The analysis of permutations" (Applied Statistics 1975); R. D. Luce, "Individual choice behavior" (1959). With weights
w(i) = exp(relevance(i) / temperature), the next item is drawn among those left in proportion to its weight, so a slate has the probability

    product over places of w(item there) / sum of w over the items left

It is drawn by independent exponential clocks of rates w (equivalently, Gumbel noise on relevance / temperature): the first K to ring, in
order. The probability of an item at its first place is w(i) / sum w. At a further one it has no closed form, but is a one-dimensional
integral over the moment when the item's clock rings (`palate.rerank.race`), here over the logarithm of that moment.
"""

from __future__ import annotations

import numpy as np
import pydantic

from palate.rerank.draws import Keys, uniforms
from palate.rerank.explore import Doubles, Drawn, Explorer, fastest
from palate.rerank.race import Race, place_probabilities
from palate.types import Floats, Ints, Longs


class Boltzmann(Explorer):
    """Good items come often, better ones more often. Cost: some 2 ms a query for 10 places of 50 candidates, mostly for propensities."""

    class Config(Explorer.Config):
        """temperature: differences of relevance that count as small; near 0 the order stays, at 1 with `minmax` the best item is 2.7 times
        as likely as the worst."""

        temperature: float = pydantic.Field(0.1, ge=0.005)

    config: Config

    def draw(self, keys: Keys, items: Ints, worth: Floats, k: int) -> Drawn:
        present = worth > -np.inf
        logits = np.where(present, worth.astype(np.float64), -np.inf) / self.config.temperature
        logits = np.where(present, logits - logits.max(axis=1, keepdims=True, initial=-1e300), -np.inf)
        # the logarithm of an exponential clock of rate w: log(-log u) - log w
        rings = np.log(-np.log(uniforms(keys, items, 1))) - logits
        order = fastest(rings, present, k)
        shown = order >= 0
        own = np.where(shown, np.take_along_axis(logits, np.maximum(order, 0), 1), -np.inf) if k else logits[:, :0]
        return Drawn(order, self._propensity(order, present, logits, own), _log_slate(order, present, logits, own))

    def _propensity(self, order: np.ndarray, present: np.ndarray, logits: Doubles, own: Doubles) -> Doubles:
        with np.errstate(divide="ignore"):
            total = np.log(np.exp(logits).sum(axis=1))
        some = present.any(axis=1)
        total = np.where(some, total, 0)
        k = order.shape[1]
        # Outside, nothing is left to ring or all has rung: what is cut off is below 1e-10 of a probability at places after the first.
        slowest = np.where(order >= 0, own, np.inf).min(axis=1, initial=np.inf)
        high = np.log(45 + 4 * k) - np.where(some, slowest, 0)
        low = -total - 12
        step = np.full(len(order), 0.8 / np.sqrt(k + 1))

        def faster(rows: Longs, x: Doubles) -> Doubles:
            return -np.expm1(-np.exp(np.minimum(logits[rows][:, :, None] + x[:, None], 700)))

        # The first place is known; there the integrand does not vanish at the lower end, and the sums would settle late.
        further = np.where(np.arange(k) > 0, own, -np.inf)

        def density(rows: Longs, x: Doubles) -> Doubles:
            z = np.minimum(further[rows][:, :, None] + x[:, None], 700)
            return np.where(z > -np.inf, np.exp(np.where(z > -np.inf, z, 0) - np.exp(z)), 0)

        if k == 1:
            return np.where(order >= 0, np.exp(own - total[:, None]), np.nan)
        found = place_probabilities(Race(order, present, faster, density, low, high, step))
        if k:
            found[:, 0] = np.where(order[:, 0] >= 0, np.exp(own[:, 0] - total), np.nan)
        return found


def _log_slate(order: np.ndarray, present: np.ndarray, logits: Doubles, own: Doubles) -> Doubles:
    """The logarithm of the probability of each slate, [B]: what is left is summed from the smallest on, not subtracted from the whole."""
    b, m = logits.shape
    shown = np.zeros((b, m + 1), dtype=bool)
    np.put_along_axis(shown, np.where(order >= 0, order, m), True, 1)
    rest = np.exp(np.where(present & ~shown[:, :-1], logits, -np.inf)).sum(axis=1)
    weights = np.exp(own)
    left = np.cumsum(weights[:, ::-1], axis=1)[:, ::-1] + rest[:, None]
    there = order >= 0
    return np.where(there, np.where(there, own, 0) - np.log(np.where(there, left, 1)), 0).sum(axis=1)

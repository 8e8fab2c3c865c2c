"""Thompson sampling: every item is shown as often as it may well be the best, and what is little known may well be.

W. R. Thompson, "On the likelihood that one unknown probability exceeds another" (Biometrika 1933); with normal posteriors, S. Agrawal, N.
Goyal, "Further optimal regret bounds for Thompson sampling" (AISTATS 2013), whose deviation after n observations is 1 / sqrt(n + 1):

    draw(i) ~ Normal(relevance(i), deviation(i)^2)        deviation(i) = max(deviation / sqrt(1 + n(i)), least x deviation)

with n(i) the item's events in the log; the slate is the K largest draws in order. The draws of different items are independent, so the
probability of an item at a place is an integral over its own draw of a Poisson binomial (`palate.rerank.race`): computed to a relative
1e-7. The probability of a whole slate is an integral of K dimensions, and is not written (NaN).
"""

from __future__ import annotations

import numpy as np
import pydantic
from scipy.special import ndtr, ndtri

from palate.rerank.draws import Keys, uniforms
from palate.rerank.explore import Doubles, Drawn, Explorer, fastest
from palate.rerank.race import Race, place_probabilities
from palate.types import Floats, Ints, Log, Longs, Run, State

_REACH = 8.0
"""So many deviations on either side hold all of a normal draw but 1e-15."""


class Thompson(Explorer):
    """Explores what has few events, and leaves alone what has many. Cost: some ms a query for 10 places of 50 candidates, more for `least`
    near 0, nearly all for propensities."""

    class Config(Explorer.Config):
        """deviation: of an item without events, in units of relevance. least: the share of it that is left however many events there are;
        it keeps every item possible, which off-policy estimates need, and the integral short.
        """

        deviation: float = pydantic.Field(0.3, gt=0)
        least: float = pydantic.Field(0.1, ge=0.02, le=1)

    config: Config

    def fit(self, log: Log, run: Run = Run()) -> Thompson:
        self.events: Floats = np.bincount(log.item_codes, minlength=log.n_items).astype(np.float32)
        return self

    def draw(self, keys: Keys, items: Ints, worth: Floats, k: int) -> Drawn:
        present = worth > -np.inf
        events = self.events[np.where(present, items, 0)] if len(self.events) else np.zeros(items.shape)
        sigma = self.config.deviation * np.maximum(1 / np.sqrt(1 + events.astype(np.float64)), self.config.least)
        mean = np.where(present, worth.astype(np.float64), 0)
        # the largest draw first: times run the other way
        order = fastest(-(mean + sigma * ndtri(uniforms(keys, items, 1))), present, k)
        shown = order >= 0
        at = np.maximum(order, 0)
        own_mean, own_sigma = (np.take_along_axis(values, at, 1) if k else values[:, :0] for values in (mean, sigma))
        low = np.where(shown, own_mean - _REACH * own_sigma, np.inf).min(axis=1, initial=np.inf)
        high = np.where(shown, own_mean + _REACH * own_sigma, -np.inf).max(axis=1, initial=-np.inf)
        some = shown.any(axis=1)
        step = np.where(present, sigma, np.inf).min(axis=1, initial=np.inf)

        def faster(rows: Longs, x: Doubles) -> Doubles:
            return ndtr((mean[rows][:, :, None] - x[:, None]) / sigma[rows][:, :, None])

        def density(rows: Longs, x: Doubles) -> Doubles:
            z = (x[:, None] - own_mean[rows][:, :, None]) / own_sigma[rows][:, :, None]
            return np.where(shown[rows][:, :, None], np.exp(-z * z / 2) / (np.sqrt(2 * np.pi) * own_sigma[rows][:, :, None]), 0)

        bounds = (np.where(some, low, 0), np.where(some, high, 1), np.where(some, step, 1))
        return Drawn(order, place_probabilities(Race(order, present, faster, density, *bounds)), np.full(len(items), np.nan))

    def state(self) -> State:
        return State(arrays={"events": self.events})

    def restore(self, state: State) -> Thompson:
        self.events = state.arrays["events"]
        return self

"""Epsilon-greedy: mostly the best item that is left, now and then any.

R. S. Sutton, A. G. Barto, "Reinforcement learning" (1998), section 2.2, place by place: with probability epsilon an item drawn evenly
among those not yet shown, else the best of them. Given what is shown above, an item has at place t (from 0) of M candidates the probability

    epsilon / (M - t) + (1 - epsilon) [it is the best that is left]

whose product over places is the probability of the slate. The probability of an item at a place, whatever is shown above, depends on
scores only through the item's rank r: with a of the r better items among the t shown, the best that is left is the item itself just if a =
r, and a grows by

    1 with probability epsilon (r - a) / (M - t) + (1 - epsilon) [a < r]

as long as the item is not shown. So P(rank r at place t) follows by a recursion over (a, t), exact, once for all lists of M candidates.
"""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt
import pydantic

from palate.rerank.draws import Keys, uniforms
from palate.rerank.explore import Doubles, Drawn, Explorer
from palate.types import Floats, Ints


class EpsilonGreedy(Explorer):
    """Cost: O(K x candidates) a query; the table of probabilities, O(K^2 x candidates), is made once for each length of a list."""

    class Config(Explorer.Config):
        """epsilon: the share of places that are drawn evenly; 0 keeps the order. relevance does not matter here: only the order does."""

        epsilon: float = pydantic.Field(0.1, ge=0, le=1)

    config: Config

    def draw(self, keys: Keys, items: Ints, worth: Floats, k: int) -> Drawn:
        b, epsilon = len(items), self.config.epsilon
        left = worth > -np.inf
        # the recursion counts by rank, so candidates must come best first, as they do but for equal or shuffled scores
        rank_to_place = np.argsort(np.where(left, -worth, np.inf), axis=1, kind="stable")
        size = left.sum(axis=1)
        free = np.arange(items.shape[1])[None, :] < size[:, None]
        explores = uniforms(keys, np.arange(k), 1) < epsilon
        which = uniforms(keys, np.arange(k), 2)
        rows, ranks = np.arange(b), np.full((b, k), -1, dtype=np.int64)
        log_slate = np.zeros(b)
        for place in range(k):
            remaining = size - place
            some = remaining > 0
            nth = np.where(explores[:, place], np.floor(which[:, place] * remaining), 0)
            best = free.argmax(axis=1)
            taken = (np.cumsum(free, axis=1) > nth[:, None]).argmax(axis=1)
            ranks[:, place] = np.where(some, taken, -1)
            chance = epsilon / np.maximum(remaining, 1) + (1 - epsilon) * (taken == best)
            log_slate += np.log(np.where(some, chance, 1))
            free[rows, taken] = False
        propensity = np.full((b, k), np.nan)
        for m in np.unique(size):
            own = np.flatnonzero(size == m)
            if m and k:
                table = place_table(int(m), min(k, int(m)), epsilon)
                propensity[own[:, None], np.arange(table.shape[1])] = table[ranks[own, : table.shape[1]], np.arange(table.shape[1])]
        order = np.where(ranks >= 0, np.take_along_axis(rank_to_place, np.maximum(ranks, 0), 1), -1) if k else ranks
        return Drawn(order, propensity, log_slate)


@functools.lru_cache(maxsize=256)
def place_table(m: int, k: int, epsilon: float) -> Doubles:
    """P(the item of rank r is shown at place t), [M, K]."""
    table = np.zeros((m, k))
    ranks = np.arange(m)[:, None]
    better = np.arange(k + 1)[None, :]  # a, of which there are never more than places
    state: npt.NDArray[np.float64] = np.zeros((m, k + 1))  # P(not shown, and a of the better are), for every rank at once
    state[:, 0] = 1
    for place in range(k):
        left = m - place
        itself = epsilon / left + (1 - epsilon) * (better == ranks)
        table[:, place] = (state * itself).sum(axis=1)
        one_better = np.where(better < ranks, epsilon * (ranks - better) / left + (1 - epsilon), 0)
        # of the worse items place - a are shown, so m - 1 - r - (place - a) are left
        one_worse = epsilon * np.maximum(m - 1 - ranks - (place - better), 0) / left
        after = state * one_worse
        after[:, 1:] += (state * one_better)[:, :-1]
        state = after
    table.setflags(write=False)
    return table

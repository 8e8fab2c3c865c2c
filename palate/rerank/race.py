"""The probability that a runner of a race comes in at a given place, where the runners' times are independent.

Item i, with a time of density f(i, x), is at place p (from 0) just if p of the others are faster:

    P(i at p) = integral of f(i, x) P(exactly p of the others are faster than x) dx

and the second factor is a Poisson binomial, built up by one runner after another: exact, O(runners x places) a node. Plackett-Luce is such
a race (exponential times: R. D. Luce, "Individual choice behavior", 1959; J. I. Yellott 1977), and so is Thompson sampling (posterior
draws).

The integral is a sum over evenly spaced nodes, which for smooth functions that vanish at both ends converges faster than any power of the
distance (L. N. Trefethen, J. A. C. Weideman, "The exponentially convergent trapezoidal rule", SIAM Review 2014). The distance is halved
until two sums in a row agree to TOLERANCE; the error of the finer one is then far below that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from palate.types import Bools, DataError, Longs

Doubles = npt.NDArray[np.float64]

TOLERANCE = 1e-7
"""Of a probability, relative; absolute below a probability of a millionth."""
_HALVINGS = 8
_BLOCK = 1 << 22
"""Values held at once."""


class Race(NamedTuple):
    """B races of M runners each, of whom K are looked at.

    order: [B, K], the runner at each place, -1 behind the last. present: [B, M], who runs. faster(rows [b], nodes [b, Q]): the chance of
    each runner to be faster than each node, [b, M, Q]. density(rows, nodes): f of the runners at their places, [b, K, Q]. low, high, step:
    [B], where the nodes begin and end, and at most their distance at first.
    """

    order: Longs
    present: Bools
    faster: Callable[[Longs, Doubles], Doubles]
    density: Callable[[Longs, Doubles], Doubles]
    low: Doubles
    high: Doubles
    step: Doubles


def place_probabilities(race: Race) -> Doubles:
    """P(the runner shown at place p is at place p), float64 [B, K]; NaN where none is shown.

    No list's answer depends on the others, to the bit. Cost: O(Q K (M + K)) a list. Errors: DataError if the sums do not settle.
    """
    (k, m), found = (race.order.shape[1], race.present.shape[1]), np.full(race.order.shape, np.nan)
    if not race.order.size or not race.present.size:
        return found
    nodes = 32 * np.ceil((race.high - race.low) / race.step / 32).astype(np.int64)
    for count in np.unique(nodes):
        alike = np.flatnonzero(nodes == count)
        size = max(1, _BLOCK // max(1, 2 * int(count) * (2 * m + k**2)))
        for start in range(0, len(alike), size):
            rows = alike[start : start + size]
            found[rows] = _settled(race, rows, int(count))
    return np.where(race.order >= 0, found, np.nan)


def _settled(race: Race, rows: Longs, nodes: int) -> Doubles:
    """The probabilities of these rows [b, K], from as many nodes as each row needs."""
    found = np.zeros((len(rows), race.order.shape[1]))
    open_ = np.arange(len(rows))

    def total(own: Longs, offset: float) -> Doubles:
        h = ((race.high[own] - race.low[own]) / nodes)[:, None]
        x = race.low[own][:, None] + h * (np.arange(nodes) + offset)
        return _sum(race.order[own], race.present[own], race.faster(own, x), race.density(own, x)) * h

    last = total(rows, 0)
    for _ in range(_HALVINGS):
        own = rows[open_]
        finer = (last + total(own, 0.5)) / 2
        close = np.abs(finer - last) <= TOLERANCE * np.maximum(np.abs(finer), 1e-6)
        done = (close | (race.order[own] < 0)).all(axis=1)
        found[open_[done]] = finer[done]
        open_, last, nodes = open_[~done], finer[~done], 2 * nodes
        if not len(open_):
            return found
    raise DataError("explore: the probabilities of places did not settle; the spreads of the draws differ too much, bring them closer")


def _sum(order: Longs, present: Bools, faster: Doubles, density: Doubles) -> Doubles:
    """The sum over nodes of density times the chance that just so many others are faster: [b, K] from [b, M, Q] and [b, K, Q]."""
    b, k = order.shape
    q, rows = faster.shape[2], np.arange(b)
    shown = np.zeros((b, present.shape[1] + 1), dtype=bool)
    np.put_along_axis(shown, np.where(order >= 0, order, present.shape[1]), True, 1)
    others = np.where((present & ~shown[:, :-1])[:, :, None], faster, 0)
    chances = [np.where((order[:, place] >= 0)[:, None], faster[rows, np.maximum(order[:, place], 0)], 0)[..., None] for place in range(k)]
    # How many are faster, [b, Q, K], more than K - 1 never matter: among those not shown and those shown above, then among those below.
    above = np.zeros((b, q, k))
    above[:, :, 0] = 1
    for runner in np.flatnonzero(others.any(axis=(0, 2))):
        _toss(above, others[:, runner, :, None])
    upto = []
    for chance in chances:
        upto.append(above.copy())
        _toss(above, chance)
    below = np.zeros((b, q, k))
    below[:, :, 0] = 1
    found = np.zeros((b, k))
    for place in reversed(range(k)):
        exactly = (upto[place][..., : place + 1] * below[..., place::-1]).sum(axis=-1)
        found[:, place] = (density[:, place] * exactly).sum(axis=-1)
        _toss(below, chances[place])
    return found


def _toss(counts: Doubles, chance: Doubles) -> None:
    """One more runner, in place. counts: [..., K], the chance of each number of faster ones; chance: [..., 1], of being faster."""
    moved = counts[..., :-1] * chance
    counts *= 1 - chance
    counts[..., 1:] += moved

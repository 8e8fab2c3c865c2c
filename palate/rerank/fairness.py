"""Exposure fairness: declared bounds on the share of attention that groups of items get, kept from the first place on.

S. C. Geyik, S. Ambler, K. Kenthapadi, "Fairness-aware ranking in search & recommendation systems with application to LinkedIn talent
search" (KDD 2019), algorithm DetGreedy: in every prefix of n places a group of share p has at least floor(p n) and at most ceil(p n)
items; at each place the best item of a group that is due is taken, else the best of a group that is not full. Here a place has attention
v(n), as exposure is defined by A. Singh, T. Joachims, "Fairness of exposure in rankings" (KDD 2018), equation 4: 1 / log2(1 + n), or 1 for
every place, which gives back the counts. With E the attention that a group has so far and V(n) = v(1) + ... + v(n), it is

    due     if E + v(n) <= low x V(n)           full    if E >= high x V(n)

M. Zehlike et al., "FA*IR: a fair top-k ranking algorithm" (CIKM 2017), where `significance` is set: instead of floor(low n), a prefix
needs no more items of the group than a coin of probability `low` would bring with a chance above alpha (definition 3), alpha lowered so
that a fair coin fails at any of the prefixes with probability `significance` (section 4.2).
"""

from __future__ import annotations

import functools
from typing import Literal, Self

import numpy as np
import numpy.typing as npt
import pydantic
from scipy.special import bdtr

from palate.config import unknown_key
from palate.rerank.base import Reranker
from palate.rerank.categories import coded, column_of, of
from palate.rerank.places import chosen
from palate.types import Candidates, ConfigError, Ints, Log, Queries, Run, State

Doubles = npt.NDArray[np.float64]


class Fairness(Reranker):
    """Takes the candidates in their order, but for groups that are due (moved up) or full (passed over while others are left).

    Bounds hold as far as there are candidates to hold them with: a list is never cut short for fairness. Where several groups are due, the
    best item among them is taken. An item with several values of the column counts for each. Scores fall as in Calibrated.
    What it gained is told by `exposure`, a share a group; a library of metrics for classifiers (fairlearn) has no such notion.
    Cost: O(K' x candidates x groups) a query for K' places; a loop over places, none over queries.
    """

    fixed = frozenset({"column"})

    class Config(Reranker.Config):
        """column: of the item table, whose values are the groups. bounds: value -> least and most share of the attention, [0.3, 1] say.
        attention: of the places, `log` as DCG discounts them, or `equal`. significance: None, or FA*IR's, of the test of every least share
        (with equal attention).
        """

        column: str = "group"
        bounds: dict[str, tuple[float, float]] = pydantic.Field(default_factory=dict)
        attention: Literal["log", "equal"] = "log"
        significance: float | None = pydantic.Field(None, gt=0, lt=1)

        @pydantic.model_validator(mode="after")
        def _can_hold(self) -> Self:
            for group, (low, high) in self.bounds.items():
                if not 0 <= low <= high <= 1:
                    raise ValueError(f"shares rise from 0 to 1; those of {group!r} are {low:g} and {high:g}")
            if self.significance is not None and self.attention != "equal":
                raise ValueError('FA*IR counts items, so with `significance` set attention = "equal"')
            return self

    config: Config

    def fit(self, log: Log, run: Run = Run()) -> Self:
        self.codes, self.groups = coded(column_of(log, self.config.column, "fairness.column"))
        self._check()
        return self

    def _check(self) -> None:
        for group in self.config.bounds:
            if group not in self.groups:
                raise ConfigError(f"fairness.bounds: no item has {self.config.column} {group!r}: {unknown_key(group, self.groups)}")

    def rerank(self, queries: Queries, candidates: Candidates, k: int) -> Candidates:
        self._check()
        members = self._members(candidates.items)  # [B, M, G]
        b, m, g = members.shape
        attention = attention_of(self.config.attention, k)
        total = np.cumsum(attention)
        low, high = (np.array([bounds[side] for bounds in self.config.bounds.values()]) for side in (0, 1))
        needed = self._needed(low, k)
        had, count, rows = np.zeros((b, g)), np.zeros((b, g)), np.arange(b)
        left = candidates.present.copy()
        order = np.full((b, k), -1, dtype=np.int64)
        for place in range(min(k, m)):
            if needed is None:
                due = had + attention[place] <= low * total[place] + 1e-9
            else:
                due = count < needed[place]
            full = had >= high * total[place] - 1e-9
            wanted = left & (members & due[:, None]).any(axis=2)
            open_ = left & ~(members & full[:, None]).any(axis=2)
            # the first of the due that no other group's upper bound forbids, else the first of the due, of the open, of all
            best = [wanted & open_, wanted, open_, left]
            rank = np.select([options.any(axis=1) for options in best], [options.argmax(axis=1) for options in best], default=-1)
            order[:, place] = rank
            taken = np.where((rank >= 0)[:, None], members[rows, np.maximum(rank, 0)], False)
            had += taken * attention[place]
            count += taken
            left[rows, np.maximum(rank, 0)] = False
        return chosen(candidates, order)

    def _members(self, items: Ints) -> npt.NDArray[np.bool_]:
        """Which candidates [B, M] belong to which bounded group: bool [B, M, G]."""
        codes = of(self.codes, items)
        places = [self.groups.index(group) for group in self.config.bounds]
        return np.stack([(codes == place).any(axis=-1) for place in places], axis=-1) if places else np.zeros((*items.shape, 0), dtype=bool)

    def _needed(self, low: Doubles, k: int) -> Ints | None:
        """FA*IR's least counts of each prefix [K, G]; None where shares of attention decide."""
        if self.config.significance is None:
            return None
        tables = [least_counts(k, float(share), self.config.significance) for share in low]
        return np.array(tables, dtype=np.int32).reshape(len(low), k).T

    def exposure(self, slates: Candidates) -> dict[str, float]:
        """The share of all attention on these slates that each bounded group got."""
        attention = attention_of(self.config.attention, slates.items.shape[1])
        weight = slates.present * attention
        got = (self._members(slates.items) * weight[..., None]).sum(axis=(0, 1)) / max(float(weight.sum()), 1e-12)
        return dict(zip(self.config.bounds, got.tolist(), strict=True))

    def state(self) -> State:
        return State(arrays={"codes": self.codes}, meta={"groups": self.groups})

    def restore(self, state: State) -> Self:
        self.codes, self.groups = state.arrays["codes"], list(state.meta["groups"])
        return self


def attention_of(kind: Literal["log", "equal"], k: int) -> Doubles:
    """v(1) ... v(K)."""
    return np.ones(k) if kind == "equal" else 1 / np.log2(2 + np.arange(k))


@functools.lru_cache(maxsize=256)
def least_counts(k: int, share: float, significance: float) -> tuple[int, ...]:
    """FA*IR's table: how many of the first 1 ... K must be of the group. alpha is found by halving, so that a coin fails just so often."""
    if share in (0, 1):
        return tuple(int(share) * n for n in range(1, k + 1))
    low, high = 0.0, significance
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (low, middle) if failing(_table(k, share, middle), share) > significance else (middle, high)
    return _table(k, share, low)


def _table(k: int, share: float, alpha: float) -> tuple[int, ...]:
    """The least m of each prefix n with F(m; n, share) > alpha, F the binomial distribution function (their equation 2)."""
    n = np.arange(1, k + 1)[:, None]
    at_most = bdtr(np.arange(k)[None, :].astype(np.float64), n, share)
    # beyond n the function is not defined; there it is 1
    return tuple(int(m) for m in (np.where(np.arange(k)[None, :] < n, at_most, 1.0) <= alpha).sum(axis=1))


def failing(table: tuple[int, ...], share: float) -> float:
    """The probability that a coin of this share falls below the table at one of its prefixes at least."""
    alive = np.ones(1)
    for n, least in enumerate(table, start=1):
        tossed = np.zeros(n + 1)
        tossed[:-1] += alive * (1 - share)
        tossed[1:] += alive * share
        tossed[:least] = 0
        alive = tossed
    return float(1 - alive.sum())

"""Exploration of categories: now and then one place shows the best item of a kind that this user has seen little of.

Y. Yue, S. A. Hong, C. Guestrin, "Hierarchical exploration for accelerating contextual bandits" (ICML 2012): exploring among kinds takes
far fewer visits than among items. With probability epsilon a visit explores: a category c is drawn among those of the candidates in
proportion to

    (1 + events of c in the history)^(-novelty)

and its best candidate that is not already above is moved up to place `at`; what it passes moves down by one. Let w(m) be the probability
that the candidate of rank m is moved up (a sum over categories; w(at) includes not exploring). Then exactly, for the candidate of rank r,
places from 0,

    P(r at p) = [r = p] for p < at        w(r) for p = at        [r = p - 1] sum of w(m), m >= p, + [r = p] sum of w(m), m < p, for p > at

and the slate has the probability w(m) of the one that was moved.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pydantic

from palate.rerank.base import Reranker
from palate.rerank.categories import codes_of, column_of, of
from palate.rerank.draws import request_keys, uniforms
from palate.rerank.explore import Doubles, Drawn, written
from palate.types import Bools, Candidates, Ints, Log, Queries, Run, State


class ExploreCategory(Reranker):
    """Everything but the explored place is as the other stages made it. Cost: O(candidates log candidates + history) a query."""

    draws = True
    fixed = frozenset({"column"})

    class Config(Reranker.Config):
        """epsilon: the share of visits that explore. column: the categories, of the item table. at: the place that explores, the first is
        1. novelty: how strongly new kinds are preferred; 0 draws categories evenly. seed: of the policy, as in `palate.rerank.explore`.
        """

        epsilon: float = pydantic.Field(0.2, ge=0, le=1)
        column: str = "genres"
        at: int = pydantic.Field(3, ge=1)
        novelty: float = pydantic.Field(1.0, ge=0)
        seed: int = pydantic.Field(0, ge=0, lt=2**63)

    config: Config

    def fit(self, log: Log, run: Run = Run()) -> ExploreCategory:
        self.codes: Ints = codes_of(column_of(log, self.config.column, "explore_category.column"))
        return self

    def rerank(self, queries: Queries, candidates: Candidates, k: int) -> Candidates:
        width, at = candidates.items.shape[1], self.config.at - 1
        shown = min(k, width)
        places = np.tile(np.arange(shown), (len(candidates), 1))
        order = np.where(candidates.present[:, :shown], places, -1)
        if at >= shown:
            return written(candidates, Drawn(order, np.ones(order.shape), np.zeros(len(candidates))), k)
        moves = self._moves(queries, candidates)
        u = uniforms(request_keys(queries, self.config.seed), np.arange(1), 1)
        upto = np.cumsum(moves, axis=1)
        # the last sum is 1 but for rounding; a draw beyond it is the last that has any probability
        last = width - 1 - (moves[:, ::-1] > 0).argmax(axis=1)
        moved = np.minimum((upto <= u).sum(axis=1), last)[:, None]
        rank = np.where(places == at, moved, np.where((places > at) & (places <= moved), places - 1, places))
        order = np.where(candidates.present[:, :shown], rank, -1)
        chance = moves[np.arange(len(moves)), moved[:, 0]]
        return written(candidates, Drawn(order, _at_places(moves, places, rank, at), np.log(chance)), k)

    def _moves(self, queries: Queries, candidates: Candidates) -> Doubles:
        """w [B, M]: the probability that the candidate of each rank is moved up to place `at`; 1 at `at` itself where nothing can be."""
        b, m = candidates.items.shape
        at, kinds = self.config.at - 1, int(self.codes.max(initial=-1)) + 1
        codes = of(self.codes, candidates.items)
        codes[:, :at] = -1
        rows, ranks, _ = np.nonzero(codes >= 0)
        keys = rows * kinds + codes[codes >= 0]
        # rows and ranks rise, so the first of each key is the best candidate of that category
        own, first = np.unique(keys, return_index=True)
        past = of(self.codes, queries.history.values.astype(np.int32))
        past_keys = np.sort((np.repeat(queries.history.rows[:, None], past.shape[1], axis=1) * kinds + past)[past >= 0])
        seen = np.searchsorted(past_keys, own, side="right") - np.searchsorted(past_keys, own, side="left")
        weight = (1.0 + seen) ** -self.config.novelty
        of_row, to = rows[first], ranks[first]
        total = np.bincount(of_row, weights=weight, minlength=b)
        moves = np.zeros((b, m))
        np.add.at(moves, (of_row, to), self.config.epsilon * weight / total[of_row])
        moves[:, at] += np.where(total > 0, 1 - self.config.epsilon, 1)
        return moves

    def state(self) -> State:
        return State(arrays={"codes": self.codes})

    def restore(self, state: State) -> ExploreCategory:
        self.codes = state.arrays["codes"]
        return self


def _at_places(moves: Doubles, places: npt.NDArray[np.int64], rank: npt.NDArray[np.int64], at: int) -> Doubles:
    """P(the candidate of rank `rank` [B, K] is at `places`): the file's head."""
    before = np.concatenate([np.zeros((len(moves), 1)), np.cumsum(moves, axis=1)], axis=1)  # of w(m), m < p
    below = np.take_along_axis(before, places, 1)
    above = np.take_along_axis(np.cumsum(moves[:, ::-1], axis=1)[:, ::-1], places, 1)
    own = np.take_along_axis(moves, rank, 1)
    stays: Bools = rank == places
    return np.where(places < at, 1.0, np.where(places == at, own, np.where(stays, below, above)))

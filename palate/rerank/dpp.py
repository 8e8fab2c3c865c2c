"""A determinantal point process, its most probable slate found greedily: relevant items whose vectors span a large volume.

L. Chen, G. Zhang, E. Zhou, "Fast greedy MAP inference for determinantal point process to improve recommendation diversity" (NeurIPS 2018).
With relevance r and likeness S, the log-probability of a set Y is (section 4, equation 11, of the kernel diag(exp(a r)) S diag(exp(a r)),
divided by a constant)

    theta sum over i in Y of r(i) + (1 - theta) log det S(Y)

and the next item is the one that adds most. What i adds to log det S(Y) is log d(i)^2, with d(i)^2 the squared distance of i from the span
of the items chosen, kept by one row of a Cholesky factor a step (their algorithm 1): when j is chosen,

    e(i) = (S(j, i) - <c(j), c(i)>) / d(j)        c(i) <- [c(i), e(i)]        d(i)^2 <- d(i)^2 - e(i)^2

S must be positive semi-definite: Jaccard's coefficient and equality are; a cosine f becomes (1 + f) / 2, as in the paper (section 5).
Where MMR looks at the nearest of the chosen items, a DPP looks at all of them: an item halfway between two chosen ones adds little.

Own code rather than pyversity (0.2, alive): that takes one list a call, dense vectors only, and no places without an item; this takes a
block of lists at once, sets and categories too, and bounds the loss where items repeat each other.
"""

from __future__ import annotations

from typing import Self

import numpy as np
import numpy.typing as npt
import pydantic

from palate.rerank.base import Reranker
from palate.rerank.likeness import BLOCK, Likeness
from palate.rerank.places import Relevance, chosen, relevance
from palate.types import Candidates, Floats, Ints, Log, Queries, Run, State

_LEAST = 1e-6
"""A squared distance below this is no distance: the item repeats those chosen, and counts as if it were this far from them."""


class DPP(Reranker):
    """Diversity by an item column, or by vectors given with `with_vectors`; see `palate.rerank.likeness` for what a column means.

    Cost: O(K' x candidates x (features + K')) a query for K' places; a loop over places, none over queries.
    """

    fixed = frozenset({"column"})

    class Config(Reranker.Config):
        """theta: weight of relevance; 1 keeps the order, 0 looks at volume alone. column: of the item table. relevance: as in MMR.
        pool: only so many of the best candidates take part (None: all).
        """

        theta: float = pydantic.Field(0.7, ge=0, le=1)
        column: str = "genres"
        relevance: Relevance = "minmax"
        pool: int | None = pydantic.Field(100, ge=1)

    config: Config
    likeness: Likeness | None = None

    def fit(self, log: Log, run: Run = Run()) -> Self:
        if self.likeness is None or not self.likeness.given:
            self.likeness = Likeness.by_column(log, self.config.column, "dpp.column")
        return self

    def with_vectors(self, vectors: Floats) -> Self:
        """Likeness by the cosine of these vectors, float32 [N, D], row i for item code i; the column is then not looked at."""
        self.likeness = Likeness.by_vectors(vectors)
        return self

    def rerank(self, queries: Queries, candidates: Candidates, k: int) -> Candidates:
        assert self.likeness is not None
        pool = candidates.items.shape[1] if self.config.pool is None else max(k, self.config.pool)
        items = candidates.items[:, :pool]
        worth = relevance(candidates.scores[:, :pool], candidates.present[:, :pool], self.config.relevance)
        order = np.full((len(items), k), -1, dtype=np.int64)
        scores = np.full((len(items), k), -np.inf, dtype=np.float32)
        size = max(1, BLOCK // max(1, items.shape[1] * (self.likeness.width + k)))
        for start in range(0, len(items) if items.shape[1] else 0, size):
            rows = slice(start, start + size)
            order[rows], scores[rows] = self._greedy(self.likeness, items[rows], worth[rows], k)
        return chosen(candidates, order, scores)

    def _greedy(self, likeness: Likeness, items: Ints, worth: Floats, k: int) -> tuple[npt.NDArray[np.int64], Floats]:
        """Places [b, K] in the order of choice, -1 where none was left, and what each added when chosen."""
        b, theta = len(items), self.config.theta
        shown, rows = likeness.of(items), np.arange(b)
        left = worth.astype(np.float64)
        distance = np.ones(items.shape)  # d^2; S(i, i) is 1
        factor = np.zeros((b, min(k, items.shape[1]), items.shape[1]))  # c, a row a step
        order = np.full((b, k), -1, dtype=np.int64)
        added = np.full((b, k), -np.inf, dtype=np.float32)
        for place in range(factor.shape[1]):
            there = left > -np.inf
            value = np.where(there, theta * np.where(there, left, 0) + (1 - theta) * np.log(np.maximum(distance, _LEAST)), -np.inf)
            j = value.argmax(axis=1)
            order[:, place] = np.where(there[rows, j], j, -1)
            added[:, place] = value[rows, j]
            left[rows, j] = -np.inf
            like = likeness.between(shown, shown[rows, j]).astype(np.float64)
            if likeness.kind == "cosine":
                like = (1 + like) / 2
            span = np.einsum("bp,bpk->bk", factor[rows, :place, j], factor[:, :place])
            d = distance[rows, j][:, None]
            # An item that repeats the chosen ones spans nothing new; dividing by its distance would only magnify rounding.
            factor[:, place] = np.where(d > _LEAST, (like - span) / np.sqrt(np.maximum(d, _LEAST)), 0)
            distance -= factor[:, place] ** 2
        return order, added

    def state(self) -> State:
        return State() if self.likeness is None else self.likeness.state()

    def restore(self, state: State) -> Self:
        self.likeness = Likeness.restore(state)
        return self

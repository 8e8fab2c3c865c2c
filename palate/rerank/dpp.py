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

import numpy as np
import pydantic

from palate.rerank.diverse import Diverse
from palate.rerank.likeness import Likeness
from palate.types import Floats, Ints, Longs

_LEAST = 1e-6
"""A squared distance below this is no distance: the item repeats those chosen, and counts as if it were this far from them."""


class DPP(Diverse):
    """Cost: O(K' x candidates x (features + K')) a query for K' places; a loop over places, none over queries."""

    class Config(Diverse.Config):
        """theta: weight of relevance; 1 keeps the order, 0 looks at volume alone."""

        theta: float = pydantic.Field(0.7, ge=0, le=1)

    config: Config

    def choose(self, likeness: Likeness, items: Ints, worth: Floats, k: int) -> tuple[Longs, Floats]:
        b, theta = len(items), self.config.theta
        shown, rows = likeness.of(items), np.arange(b)
        left = worth.astype(np.float64)
        distance = np.ones(items.shape)  # d^2; S(i, i) is 1
        factor = np.zeros((b, min(k, items.shape[1]), items.shape[1]))  # c, a row a step
        order = np.zeros((b, k), dtype=np.int64)
        added = np.full((b, k), -np.inf, dtype=np.float32)
        for place in range(factor.shape[1]):
            there = left > -np.inf
            value = np.where(there, theta * np.where(there, left, 0) + (1 - theta) * np.log(np.maximum(distance, _LEAST)), -np.inf)
            j = value.argmax(axis=1)
            order[:, place], added[:, place] = j, value[rows, j]
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

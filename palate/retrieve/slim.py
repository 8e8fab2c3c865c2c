"""SLIM: a sparse linear model from the history to every item, by an elastic net whose weights are never negative.

X. Ning, G. Karypis, "SLIM: sparse linear methods for top-N recommender systems" (ICDM 2011), equation 3. With X the users-by-items
matrix, column j of the weights W minimises

    1/2 |x_j - X w|^2 + l2 / 2 |w|^2 + l1 |w|_1   under   w >= 0,  w_j = 0,

and the scores of a history h are h W. By coordinate descent (J. Friedman, T. Hastie, R. Tibshirani, "Regularization paths for
generalized linear models via coordinate descent", 2010, section 2.2) on the products G = X'X alone:

    w_i <- max(0, G_ij - sum_{k != i} G_ik w_k - l1) / (G_ii + l2).

With `neighbours` the regression of item j is restricted to the items of the largest cosine with it: fsSLIM (section IV-D).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pydantic
from scipy import sparse

from palate.retrieve.base import EventWeights, Retriever, weighted_interactions
from palate.retrieve.gram import gram
from palate.retrieve.local_gram import Columns, Locals
from palate.retrieve.topk import answer_sparse, evidence, query_matrix, score_given, strongest
from palate.types import Candidates, ConfigError, Floats, Ints, Log, Queries, Run, State

Reals = npt.NDArray[Any]

DENSE = 20_000
"""Items up to which every item may be regressed on all others (1.6 GB of products)."""

_TOGETHER = 128
"""Items whose regressions are solved together."""


class SLIM(Retriever):
    """Serves users it never saw, from their history; brings nothing for an empty history, nor an item with no weight to any of it.

    Cost: fit O(N m^2) a pass for m neighbours (m = N without), some ten passes, memory O(N m) and `_TOGETHER` problems of m^2; retrieve
    O(history x weights that are not 0) a query.
    """

    class Config(Retriever.Config, EventWeights):
        """l1: larger makes the weights fewer; l2: larger makes them smaller and more alike. Both are in units of events, as G is (where
        the loss is a mean over users, these are U times as large). neighbours: how many items each is regressed on (None: all).
        passes, tolerance: over all weights, at most so many, until none moves by more than that. half_life: in places; weighs the newest
        item of a history 1, one `half_life` places older 1/2 (None: all alike). event_weights ...: see `EventWeights`.
        """

        l1: float = pydantic.Field(1.0, ge=0)
        l2: float = pydantic.Field(50.0, ge=0)
        neighbours: int | None = pydantic.Field(200, ge=1)
        passes: int = pydantic.Field(20, ge=1)
        tolerance: float = pydantic.Field(1e-4, gt=0)
        half_life: float | None = pydantic.Field(None, gt=0)

    config: Config
    weights: sparse.csr_matrix
    """float32 [N, N]: row i holds what item i adds to the scores of others."""

    def fit(self, log: Log, run: Run = Run()) -> Self:
        x, c = weighted_interactions(log, self.config), self.config
        if c.neighbours is None and x.shape[1] > DENSE:
            raise ConfigError(
                f"{self.name}.neighbours: all of {x.shape[1]:,} items at once need {4 * x.shape[1] ** 2 / 2**30:.1f} GiB of products; "
                f"give a number, say 200 (up to {DENSE:,} items it may be left out)"
            )
        columns = Columns()
        for names, products, own in _whole(x) if c.neighbours is None else Locals(x, c.neighbours).stacks(_TOGETHER):
            targets = products[own] if products.ndim == 2 else products[np.arange(len(own)), own]
            weights = elastic_net(products, targets, c.l1, c.l2, own, c.passes, c.tolerance)
            for items, row in zip(names, weights, strict=True):
                columns.add(items, row[: len(items)])
        self.weights = columns.matrix()
        return self

    def retrieve(self, queries: Queries, k: int) -> Candidates:
        return answer_sparse(self._score, queries, self.weights.shape[0], k, self.name)

    def score(self, queries: Queries, items: Ints) -> Floats:
        return score_given(lambda part: evidence(self._score(part)), queries, self.weights.shape[0], items)

    def _score(self, queries: Queries) -> sparse.csr_matrix:
        return sparse.csr_matrix(self._known(queries) @ self.weights)

    def _known(self, queries: Queries) -> sparse.csr_matrix:
        return query_matrix(queries.history, self.weights.shape[0], self.config.half_life)

    def because(self, queries: Queries, items: Ints) -> Ints | None:
        return strongest(self._known(queries), items, lambda _, history, shown: self.weights[history][:, shown].toarray())

    def state(self) -> State:
        w = self.weights
        return State(arrays={"indptr": w.indptr.astype(np.int64), "indices": w.indices.astype(np.int32), "data": w.data})

    def restore(self, state: State) -> Self:
        size = len(state.arrays["indptr"]) - 1
        parts = (state.arrays["data"], state.arrays["indices"], state.arrays["indptr"])
        self.weights = sparse.csr_matrix(parts, shape=(size, size))
        return self


def elastic_net(
    products: Reals, targets: Reals, l1: float, l2: float, own: Reals | None = None, passes: int = 20, tolerance: float = 1e-4
) -> Reals:
    """Weights [b, m], none negative, of b regressions at once: see the file's head.

    products: G of each, [b, m, m], or one that all share, [m, m]. targets: G_ij, [b, m]. own: for each the place that stays 0, int [b].
    A pass goes over every weight; between two such, those that are not 0 in any regression are gone over until they rest, 20 times at most.
    """
    shared = products.ndim == 2
    diagonal = np.broadcast_to(products.diagonal(axis1=-2, axis2=-1), targets.shape)
    scale = np.maximum(diagonal + l2, np.finfo(targets.dtype).tiny)
    weights = np.zeros_like(targets)
    left = targets - l1  # G_ij - sum_k G_ik w_k - l1, kept up to date

    def descend(places: Reals) -> float:
        largest = 0.0
        for i in places.tolist():
            old = weights[:, i].copy()
            new = np.maximum((left[:, i] + diagonal[:, i] * old) / scale[:, i], 0)
            if own is not None:
                new[own == i] = 0
            moved = np.flatnonzero(new != old)
            if len(moved):
                step = (new - old)[moved, None]
                weights[:, i] = new
                left[moved] -= step * (products[i] if shared else products[moved, i])
                largest = max(largest, float(np.abs(step).max()))
        return largest

    for _ in range(passes):
        if descend(np.arange(targets.shape[1])) <= tolerance:
            break
        some = np.flatnonzero((weights > 0).any(axis=0))
        for _ in range(20):
            if descend(some) <= tolerance:
                break
    return weights


def _whole(x: sparse.csr_matrix) -> Iterator[tuple[list[Reals], Floats, Reals]]:
    """As `Locals.stacks`, but that all items share the products of all."""
    products = gram(x)
    every = np.arange(len(products))
    for start in range(0, len(products), _TOGETHER):
        own = every[start : start + _TOGETHER]
        yield [every] * len(own), products, own

"""Weighted matrix factorisation by alternating least squares: iALS, for implicit events. The solver is that of `implicit`.

Y. Hu, Y. Koren, C. Volinsky 2008, "Collaborative Filtering for Implicit Feedback Datasets", equations 3-5. With w_ui the weight of what
user u did with item i (1 where nothing else is said) and confidence c_ui = 1 + alpha w_ui,

    minimise  sum_{u,i} c_ui (p_ui - <x_u, y_i>)^2 + l2 (sum_u |x_u|^2 + sum_i |y_i|^2),     p_ui = 1 where w_ui > 0, else 0, with c_ui = 1

and each half step solves every user (then every item) exactly for the other side held fixed,

    x_u = (Y'Y + alpha sum_{i in h} w_ui y_i y_i' + l2 I)^-1  sum_{i in h} (1 + alpha w_ui) y_i,

by a few steps of conjugate gradients (Takacs, Pilaszy and Tikk 2011, "Applications of the Conjugate Gradient Method for Implicit Feedback
Collaborative Filtering"). A user it never saw is folded in by the same equation. Rendle et al. 2022, "Revisiting the Performance of iALS on
Item Recommendation Benchmarks", divide the objective by alpha: their unobserved weight is 1 / alpha, their l2 is l2 / alpha.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

import numpy as np
import pydantic
from scipy import sparse

from palate.retrieve.base import EventWeights, Retriever, history_matrix, places, weighted_interactions
from palate.retrieve.index import ExactIndex
from palate.retrieve.topk import inner_products, query_matrix, strongest
from palate.types import NOTHING, Bools, Candidates, Floats, Ints, Log, Queries, Ragged, Run, State, Warm


class ALS(Retriever):
    """Vectors by least squares. Users it never saw are solved for exactly from their history, each item of which weighs 1.

    Items without events, and users without history, get no list. Cost an iteration: O(E D + (U + N) D^2) times the steps of the solver, and
    on 2 cores some seconds for a million events and 64 dimensions; memory O((U + N) D). A fold-in costs O(|h| D^2 + D^3).
    """

    class Config(Retriever.Config, EventWeights):
        """width: D. alpha: how much more an event counts than the absence of one. l2: see the module. iterations: of both sides.

        exact: solve by Cholesky, O(D^3) a user and item, instead of conjugate gradients. threads: 0 is as many as OpenMP takes (the cores,
        or OMP_NUM_THREADS).
        """

        width: int = pydantic.Field(64, ge=1)
        alpha: float = pydantic.Field(10.0, gt=0)
        l2: float = pydantic.Field(10.0, gt=0)
        iterations: int = pydantic.Field(15, ge=1)
        exact: bool = False
        threads: int = pydantic.Field(0, ge=0)

    config: Config

    def fit(self, log: Log, run: Run = Run()) -> Self:
        weights = weighted_interactions(log, self.config)
        # Rows and columns that are empty are solved to zero; left out, they cost nothing.
        there, learnt = np.diff(weights.indptr) > 0, np.diff(weights.tocsc().indptr) > 0
        known = weights[there][:, learnt].tocsr()
        before: ALS | None = run.warm.before(self) if run.warm else None
        with _solver(self.config, run.seed) as solver:
            if run.warm is not None and before is not None and before.config.width == self.config.width:
                self._go_on(solver, before, run.warm, log, there, learnt)
            solver.fit(self._confidence(known), show_progress=False)
            users, items = solver.user_factors, solver.item_factors
        self._set(_at(there, users), _at(learnt, items), there, learnt)
        return self

    def _go_on(self, solver: Any, before: ALS, warm: Warm, log: Log, there: Bools, learnt: Bools) -> None:
        """Vectors that an earlier ALS had start from those, found by their ids; the others as ever. So fewer iterations will do."""
        rng = np.random.default_rng(solver.random_state)
        solver.iterations = warm.epochs_of(self.config.iterations)
        users, items = (
            places(log.users["user"], warm.funnel.users["user"])[there],
            places(log.items["item"], warm.funnel.items["item"])[learnt],
        )
        for side, codes, earlier in (("user_factors", users, before.users), ("item_factors", items, before.index.vectors)):
            start = (rng.random((len(codes), self.config.width)) * 0.01).astype(np.float32)
            start[codes >= 0] = earlier[codes[codes >= 0]]
            setattr(solver, side, start)

    def _set(self, users: Floats, vectors: Floats, there: Bools, learnt: Bools) -> None:
        self.users, self.there, self.learnt, self.index = users, there, learnt, ExactIndex(vectors)

    def _confidence(self, weights: sparse.csr_matrix) -> sparse.csr_matrix:
        """c where something happened; `implicit` takes 1 everywhere else."""
        confidence = weights.astype(np.float32)
        confidence.data = 1 + np.float32(self.config.alpha) * confidence.data
        return confidence

    def encode_queries(self, queries: Queries) -> Floats:
        """float32 [B, D]: as learnt for users of the log, solved for the others; NaN for those of whom nothing is known."""
        known = np.append(self.there, False)[queries.users]
        vectors = np.zeros((len(known), self.users.shape[1]), dtype=np.float32)
        vectors[known] = self.users[queries.users[known]]
        new = np.flatnonzero(~known)
        if len(new):
            vectors[new] = self._folded(queries.history.take(new))
        return vectors

    def _folded(self, history: Ragged) -> Floats:
        known = history_matrix(history, len(self.index)).multiply(self.learnt).tocsr()
        known.eliminate_zeros()
        with _solver(self.config, 0) as solver:
            solver.item_factors = self.index.vectors
            vectors = solver.recalculate_user(np.arange(len(history)), self._confidence(known))
        vectors[np.diff(known.indptr) == 0] = np.nan
        return np.asarray(vectors, dtype=np.float32)

    def retrieve(self, queries: Queries, k: int) -> Candidates:
        """Exact search. Cost: O(B N D)."""
        allowed = self.learnt if queries.allowed is None else self.learnt & queries.allowed
        vectors = self.encode_queries(queries)
        unknown = np.isnan(vectors[:, 0])
        vectors[unknown] = 0
        items, scores = self.index.search(vectors, k, queries.blocked, allowed)
        items[unknown] = NOTHING
        return Candidates.of(items, scores, self.name)

    def score(self, queries: Queries, items: Ints) -> Floats:
        scores = inner_products(self.encode_queries(queries), self.index.vectors, items)
        return np.where(np.isnan(scores) | ~self.learnt[items], np.float32(-np.inf), scores)

    def because(self, queries: Queries, items: Ints) -> Ints:
        """The history item whose vector is nearest to the item's."""
        known, vectors = query_matrix(queries.history, len(self.index)), self.index.vectors
        return strongest(known, items, lambda _, history, found: vectors[history] @ vectors[found].T)

    def state(self) -> State:
        return State({"users": self.users, "vectors": self.index.vectors, "there": self.there, "learnt": self.learnt})

    def restore(self, state: State) -> Self:
        self._set(*(state.arrays[name] for name in ("users", "vectors", "there", "learnt")))
        return self


@contextmanager
def _solver(config: ALS.Config, seed: int) -> Iterator[Any]:
    """The solver of `implicit`, with BLAS held to one thread: its own threads, one a row, would wait for those of BLAS."""
    import threadpoolctl
    from implicit.cpu.als import AlternatingLeastSquares

    with threadpoolctl.threadpool_limits(1, "blas"):
        yield AlternatingLeastSquares(
            factors=config.width,
            regularization=config.l2,
            iterations=config.iterations,
            use_cg=not config.exact,
            num_threads=config.threads,
            random_state=seed,
        )


def _at(where: Bools, rows: Floats) -> Floats:
    """The rows at the places that are True, zeros elsewhere: float32 [len(where), D]."""
    whole = np.zeros((len(where), rows.shape[1]), dtype=np.float32)
    whole[where] = rows
    return whole

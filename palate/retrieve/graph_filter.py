"""Graph filters: a history as a signal on the graph of items, of which smooth parts are kept. Nothing is trained.

With X the users-by-items matrix, D_U and D_I its row and column sums, R = D_U^-a X D_I^-b, P = R'R (items that share users are near),
and V the leading right singular vectors of R, a history h is smoothed by two filters:

    linear   h P                                      Y. Shen et al., "How powerful is graph convolution for recommendation?"
    ideal    h D_I^-b V V' D_I^b                      (CIKM 2021), GF-CF: linear + 0.3 ideal, 256 vectors

and what was blurred is sharpened by following  ds/dt = -s P  from t = 0 to `sharpen` in `steps` Runge-Kutta steps of order q, which
multiplies by (sum_{m <= q} (-T P)^m / m!)^steps with T = sharpen / steps: J. Choi et al., "Blurring-sharpening process models for
collaborative filtering" (SIGIR 2023), BSPM, equations 8-12. q = 1 is Euler's method, q = 4 the classical one. With `merge` "early" (EM)
both filters are sharpened, with "late" (LM) the linear one alone. Only R and two tall matrices are kept; P is never formed.
"""

from __future__ import annotations

from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import pydantic
from scipy import sparse

from palate.retrieve.base import EventWeights, Retriever, weighted_interactions
from palate.retrieve.topk import answer, query_matrix, score_given, strongest
from palate.types import Candidates, Floats, Ints, Log, Queries, Run, State

Reals = npt.NDArray[Any]


class GraphFilter(Retriever):
    """GF-CF, BSPM and what lies between. Serves users it never saw, from their history; brings nothing for an empty history.

    Items without positive events are never brought. Cost: fit O((E + (U + N) rank) x rank) for the singular vectors; retrieve
    O(N rank), and without sharpening O(history's users x their items) a query, with it O(E x order x steps). Memory O(E + N rank).
    """

    class Config(Retriever.Config, EventWeights):
        """ideal: weight of the ideal filter. rank: singular vectors it keeps (at most as many as users or items). user_power, item_power:
        a and b. sharpen, order, steps, merge: see the file's head; sharpen 0 is GF-CF. iterations: of the subspace iteration that finds
        the singular vectors. half_life: in places; weighs the newest item of a history 1, one `half_life` places older 1/2 (None: all
        alike). event_weights ...: see `EventWeights`.
        """

        ideal: float = pydantic.Field(0.2, ge=0)
        rank: int = pydantic.Field(448, ge=1)
        user_power: float = pydantic.Field(0.5, ge=0, le=1)
        item_power: float = pydantic.Field(0.5, ge=0, le=1)
        sharpen: float = pydantic.Field(2.5, ge=0)
        order: int = pydantic.Field(4, ge=1, le=6)
        steps: int = pydantic.Field(1, ge=1)
        merge: Literal["early", "late"] = "early"
        iterations: int = pydantic.Field(8, ge=0)
        half_life: float | None = pydantic.Field(None, gt=0)

    config: Config

    def fit(self, log: Log, run: Run = Run()) -> Self:
        x = weighted_interactions(log, self.config)
        of_users, of_items = (np.asarray(x.sum(axis=axis), dtype=np.float64).ravel() for axis in (1, 0))
        left, right = _power(of_users, -self.config.user_power), _power(of_items, -self.config.item_power)
        self._take(sparse.csr_matrix(sparse.diags_array(left) @ x @ sparse.diags_array(right), dtype=np.float32))
        self.wanted = of_items > 0
        self.before = self.after = np.zeros((log.n_items, 0), dtype=np.float32)
        if self.config.ideal:
            vectors = right_singular_vectors(self.matrix, self.config.rank, self.config.iterations, run.seed)
            self.before = (right[:, None] * vectors).astype(np.float32)
            smooth = (_power(of_items, self.config.item_power)[:, None] * vectors).astype(np.float32)
            # The filter is linear: what it would do to each history's answer it can do once to the vectors.
            self.after = self.config.ideal * (self._sharpened(smooth) if self.config.merge == "early" else smooth)
        return self

    def _take(self, matrix: sparse.csr_matrix) -> None:
        self.matrix = matrix
        self._transposed = matrix.T.tocsr()

    def _sharpened(self, signals: Floats) -> Floats:
        """Signals on items [N, b], sharpened."""
        if not self.config.sharpen:
            return signals
        for _ in range(self.config.steps):
            term = signals
            for m in range(1, self.config.order + 1):
                term = (self._transposed @ (self.matrix @ term)) * np.float32(-self.config.sharpen / self.config.steps / m)
                signals = signals + term
        return signals

    def retrieve(self, queries: Queries, k: int) -> Candidates:
        return answer(self._score, queries, len(self.wanted), k, self.name)

    def score(self, queries: Queries, items: Ints) -> Floats:
        return score_given(self._score, queries, len(self.wanted), items)

    def _score(self, queries: Queries) -> Floats:
        """float32 [b, N]."""
        known = self._known(queries)
        near = known @ self._transposed  # how much of each user's taste the history shares
        if self.config.sharpen:
            linear = self._sharpened(self._transposed @ near.T.toarray()).T
        else:
            linear = (near @ self.matrix).toarray()
        scores = np.ascontiguousarray(linear + (known @ self.before) @ self.after.T)
        scores[:, ~self.wanted] = -np.inf
        scores[np.diff(known.indptr) == 0] = -np.inf
        return scores

    def _known(self, queries: Queries) -> sparse.csr_matrix:
        known = query_matrix(queries.history, len(self.wanted), self.config.half_life)
        return sparse.csr_matrix(known @ sparse.diags_array(self.wanted.astype(np.float32)))

    def because(self, queries: Queries, items: Ints) -> Ints | None:
        """By the two filters before any sharpening, which has no part in what is near to what."""

        def weight(_: int, history: Ints, shown: Ints) -> Floats:
            linear = (self._transposed[history] @ self._transposed[shown].T).toarray()
            return np.asarray(linear + self.before[history] @ self.after[shown].T, dtype=np.float32)

        return strongest(self._known(queries), items, weight)

    def state(self) -> State:
        r = self.matrix
        arrays = {"indptr": r.indptr.astype(np.int64), "indices": r.indices.astype(np.int32), "data": r.data}
        return State(arrays=arrays | {"wanted": self.wanted, "before": self.before, "after": self.after})

    def restore(self, state: State) -> Self:
        arrays = state.arrays
        self.wanted, self.before, self.after = arrays["wanted"], arrays["before"], arrays["after"]
        shape = (len(arrays["indptr"]) - 1, len(self.wanted))
        self._take(sparse.csr_matrix((arrays["data"], arrays["indices"], arrays["indptr"]), shape=shape))
        return self


def _power(sums: Reals, power: float) -> Reals:
    """sums^power, and 0 where the sum is 0."""
    return np.where(sums > 0, np.where(sums > 0, sums, 1) ** power, 0)


def right_singular_vectors(matrix: sparse.csr_matrix, rank: int, iterations: int, seed: int) -> Floats:
    """The leading right singular vectors of a sparse matrix [U, N], as columns: float32 [N, min(rank, U, N)].

    By subspace iteration from random vectors, some more than are wanted: N. Halko, P. Martinsson, J. Tropp, "Finding structure with
    randomness" (SIAM Review 2011), algorithms 4.4 and 5.1. Cost: 2 + 2 x iterations products with the matrix, each O(E x rank), and an
    orthogonalisation an iteration, O(N x rank^2).
    """
    rank = min(rank, *matrix.shape)
    width = min(rank + max(16, rank // 4), *matrix.shape)
    transposed = matrix.T.tocsr()
    basis = np.random.default_rng(seed).standard_normal((matrix.shape[1], width), dtype=np.float32)
    for _ in range(iterations):
        basis = np.linalg.qr(transposed @ (matrix @ basis))[0]
    basis = np.linalg.qr(matrix @ basis)[0]  # of users
    small = basis.T @ matrix  # [width, N]; its right singular vectors are those of the matrix
    values, vectors = np.linalg.eigh(np.asarray(small, dtype=np.float64) @ np.asarray(small, dtype=np.float64).T)
    order = np.argsort(-values)[:rank]
    leading = small.T @ vectors[:, order].astype(np.float32)
    return np.asarray(leading / np.sqrt(np.maximum(values[order], np.finfo(np.float32).tiny)), dtype=np.float32)

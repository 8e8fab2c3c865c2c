"""EASE: a linear model from the history to every item, in closed form.

H. Steck, "Embarrassingly shallow autoencoders for sparse data" (WWW 2019), equations 1-8. With X the users-by-items matrix,
it minimises `|X - X B|^2 + l2 |B|^2` under `diag(B) = 0`. Let `P = (X'X + l2 I)^-1`; then (equation 8)

    B_ij = -P_ij / P_jj  for i != j,   B_jj = 0,   and the scores of a history h are  h B.

Two forms give the same scores. The form over items inverts the N x N matrix above. Where there are fewer users than items the
Woodbury identity gives, with the much smaller `M = (X X' + l2 I)^-1` over users and `d_j = x_j' M x_j`,

    P = (I - X' M X) / l2,   so   score_j = (s_j - h_j d_j) / (1 - d_j)   with   s = h X' M X,

and no N x N matrix ever exists. Where both are too many, the local form is an approximation: column j of B is the ridge regression of
item j on all the others, and here on the items S of the largest cosine with it only,

    B_Sj = (X_S'X_S + l2 I)^-1 X_S'x_j,   0 elsewhere,

which is exact where S is all the others (H. Steck, "Markov random fields for collaborative filtering", NeurIPS 2019, section 3).
"""

from __future__ import annotations

import os
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import pydantic
from scipy import sparse
from scipy.linalg import lapack

from palate.retrieve.base import EventWeights, Retriever, weighted_interactions
from palate.retrieve.gram import gram
from palate.retrieve.local_gram import Columns, Locals
from palate.retrieve.topk import answer, query_matrix, score_given, strongest
from palate.types import Candidates, ConfigError, Floats, Ints, Log, Queries, Run, State

DENSE = 30_000
"""Users or items, whichever are fewer, up to which `auto` inverts a dense matrix."""


class EASE(Retriever):
    """EASE^R. Serves users it never saw, from their history; brings nothing for an empty history.

    Items without positive events are never brought. Cost with n = min(users, items): fit O(n^3) time and O(n^2) memory (float32: n = 20,000
    needs 1.6 GB and some minutes on 2 cores, 30,000 3.6 GB); retrieve O(history x N) a query (form over items: `keep` at most).
    The local form: fit O(N m^3) time and O(N m) memory for m neighbours; retrieve O(history x m + N).
    """

    class Config(Retriever.Config, EventWeights):
        """l2: ridge; larger is smoother, and favours popular items. half_life: in places; weighs the newest item of a history 1, one
        `half_life` places older 1/2 (None, as published: all alike). form: `auto` takes the smaller of users and items, and `local` where
        both are more than 30,000. neighbours: of the local form, how many items each is regressed on.
        max_items: only so many items, the most popular, take part (None: all). keep: of the form over items, how many of the largest
        |B_ij| to keep for each item j (None: all), which bounds the size of a bundle. event_weights ...: see `EventWeights`.
        """

        l2: float = pydantic.Field(200.0, gt=0)
        half_life: float | None = pydantic.Field(None, gt=0)
        form: Literal["auto", "items", "users", "local"] = "auto"
        neighbours: int = pydantic.Field(300, ge=1)
        max_items: int | None = pydantic.Field(None, ge=1)
        keep: int | None = pydantic.Field(1000, ge=1)

    config: Config

    def fit(self, log: Log, run: Run = Run()) -> Self:
        matrix = weighted_interactions(log, self.config)
        self.n_items = log.n_items
        counts = np.diff(matrix.tocsc().indptr)
        popular = np.argsort(-counts, kind="stable")[: int((counts > 0).sum())][: self.config.max_items]
        self.items: Ints = np.sort(popular).astype(np.int32)
        matrix = matrix[:, self.items]
        matrix = matrix[np.diff(matrix.indptr) > 0]
        users, items = matrix.shape
        form = self.config.form
        if form == "auto":
            form = "local" if min(users, items) > DENSE else "users" if users < items else "items"
        self.over_users = form == "users"
        if form == "local":
            self._fit_locally(matrix)
            return self
        _must_fit(users if self.over_users else items, self.config.form)
        if self.over_users:
            self._fit_over_users(matrix)
        else:
            self._fit_over_items(matrix)
        return self

    def _fit_over_users(self, x: sparse.csr_matrix) -> None:
        self.columns = x.T.tocsr()
        inverse = _inverse(gram(self.columns, np.float64 if x.shape[0] <= 8192 else np.float32), self.config.l2)
        d = np.empty(x.shape[1])
        size = max(1, (1 << 23) // max(x.shape[0], 1))
        for start in range(0, len(d), size):
            part = self.columns[start : start + size]
            d[start : start + size] = np.asarray(part.multiply(part @ inverse).sum(axis=1)).ravel()
        self.d: Floats = d.astype(np.float32)
        self.inverse: Floats = inverse.astype(np.float32, copy=False)

    def _fit_over_items(self, x: sparse.csr_matrix) -> None:
        weights = _inverse(gram(x, np.float32), self.config.l2)
        weights /= -weights.diagonal()[None, :]
        np.fill_diagonal(weights, 0.0)
        keep = self.config.keep
        self.weights: Any = weights if keep is None or keep >= len(weights) else _largest(weights, keep)

    def _fit_locally(self, x: sparse.csr_matrix) -> None:
        columns = Columns()
        for names, products, own in Locals(x, self.config.neighbours).stacks():
            for items, product, m in zip(names, products, own.tolist(), strict=True):
                square = product[:m, :m].astype(np.float64, order="F")
                square[np.diag_indices(m)] += self.config.l2
                weights, failed = lapack.dposv(square, product[:m, m], lower=1, overwrite_a=1)[1:] if m else (product[:0, 0], 0)
                if failed:
                    raise ConfigError(_too_small(self.config.l2))
                columns.add(items[:m], weights)
        self.weights = columns.matrix()

    def retrieve(self, queries: Queries, k: int) -> Candidates:
        return answer(self._score, queries, self.n_items, k, self.name)

    def score(self, queries: Queries, items: Ints) -> Floats:
        return score_given(self._score, queries, self.n_items, items)

    def _score(self, queries: Queries) -> Floats:
        """float32 [b, N]."""
        known = self._known(queries)[:, self.items]
        scores = np.full((len(queries), self.n_items), -np.inf, dtype=np.float32)
        scores[:, self.items] = self._score_kept(known)
        scores[np.diff(known.indptr) == 0] = -np.inf
        return scores

    def _score_kept(self, known: sparse.csr_matrix) -> npt.NDArray[Any]:
        if not self.over_users:
            product = known @ self.weights
            return product.toarray() if sparse.issparse(product) else product
        likeness = (known @ self.columns).toarray() @ self.inverse
        scores = np.asarray((self.columns @ likeness.T).T)
        own = known.tocoo()
        scores[own.row, own.col] -= own.data * self.d[own.col]
        scores /= 1 - self.d
        return scores

    def _known(self, queries: Queries) -> sparse.csr_matrix:
        return query_matrix(queries.history, self.n_items, self.config.half_life)

    def because(self, queries: Queries, items: Ints) -> Ints | None:
        return strongest(self._known(queries), items, self._weight)

    def _weight(self, row: int, history: Ints, items: Ints) -> Floats:
        """The weights B_ij of some items: float32 [L, K], 0 where an item takes no part and on the diagonal."""
        place = np.full(self.n_items, -1)
        place[self.items] = np.arange(len(self.items))
        i, j = place[history], place[items]
        if self.over_users:
            weights = (self.columns[i] @ (self.columns[j] @ self.inverse).T) / (1 - self.d[j])
        else:
            weights = self.weights[i][:, j]
            weights = weights.toarray() if sparse.issparse(weights) else weights
        return np.where((i[:, None] < 0) | (j < 0) | (i[:, None] == j), 0, weights).astype(np.float32)

    def state(self) -> State:
        meta = {"n_items": self.n_items, "form": "users" if self.over_users else "items"}
        if self.over_users:
            arrays = {"columns.indptr": self.columns.indptr, "columns.indices": self.columns.indices, "inverse": self.inverse, "d": self.d}
            if not (self.columns.data == 1).all():
                arrays["columns.data"] = self.columns.data
        elif sparse.issparse(self.weights):
            arrays = {"weights.indptr": self.weights.indptr, "weights.indices": self.weights.indices, "weights.data": self.weights.data}
        else:
            arrays = {"weights": self.weights}
        return State(arrays={"items": self.items, **arrays}, meta=meta)

    def restore(self, state: State) -> Self:
        arrays = state.arrays
        self.items, self.n_items, self.over_users = arrays["items"], int(state.meta["n_items"]), state.meta["form"] == "users"
        n = len(self.items)
        if self.over_users:
            self.inverse, self.d = arrays["inverse"], arrays["d"]
            data = arrays.get("columns.data", np.ones(len(arrays["columns.indices"]), dtype=np.float32))
            self.columns = sparse.csr_matrix((data, arrays["columns.indices"], arrays["columns.indptr"]), shape=(n, len(self.inverse)))
        elif "weights" in arrays:
            self.weights = arrays["weights"]
        else:
            parts = (arrays["weights.data"], arrays["weights.indices"], arrays["weights.indptr"])
            self.weights = sparse.csr_matrix(parts, shape=(n, n))
        return self


def _too_small(l2: float) -> str:
    return f"ease.l2: {l2:g} is too small for this log: the matrix to invert is not positive definite; raise it"


def _must_fit(n: int, form: str) -> None:
    """ConfigError where a dense matrix of n x n, and a little beside it, is more than the machine has."""
    need, have = 1.2 * 4 * n**2 / 2**30, _memory() / 2**30
    if need > have:
        raise ConfigError(
            f"ease.form: {form!r} inverts a matrix of {n:,} x {n:,}, which needs {need:.1f} GiB of the {have:.1f} GiB of this machine;"
            ' choose form = "local", or fewer items by max_items'
        )


def _memory() -> int:
    """Bytes of the whole machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _inverse(matrix: npt.NDArray[Any], l2: float) -> npt.NDArray[Any]:
    """`(matrix + l2 I)^-1` of a symmetric matrix, by Cholesky, in place. Cost: n^3 multiply-adds."""
    if not len(matrix):
        return matrix
    matrix[np.diag_indices_from(matrix)] += l2
    double = matrix.dtype == np.float64
    factor, failed = (lapack.dpotrf if double else lapack.spotrf)(matrix.T, lower=1, clean=0, overwrite_a=1)
    if not failed:
        factor, failed = (lapack.dpotri if double else lapack.spotri)(factor, lower=1, overwrite_c=1)
    if failed:
        raise ConfigError(_too_small(l2))
    return _mirror(factor.T)


def _mirror(matrix: npt.NDArray[Any], size: int = 1024) -> npt.NDArray[Any]:
    """Copies the upper triangle onto the lower one, in place, block by block."""
    for start in range(0, len(matrix), size):
        stop = start + size
        square = matrix[start:stop, start:stop]
        square[:] = np.triu(square) + np.triu(square, 1).T
        matrix[stop:, start:stop] = matrix[start:stop, stop:].T
    return matrix


def _largest(weights: npt.NDArray[Any], keep: int, size: int = 1024) -> sparse.csr_matrix:
    """Only the `keep` largest |weights| of each column, as a sparse matrix."""
    blocks = []
    for start in range(0, weights.shape[1], size):
        block = weights[:, start : start + size]
        magnitude = np.abs(block)
        rows = np.argpartition(magnitude, len(weights) - keep, axis=0)[len(weights) - keep :]
        columns = np.broadcast_to(np.arange(block.shape[1]), rows.shape)
        data = block[rows, columns]
        blocks.append(sparse.csc_matrix((data.ravel(), (rows.ravel(), columns.ravel())), shape=block.shape))
    return sparse.hstack(blocks, format="csr", dtype=np.float32)

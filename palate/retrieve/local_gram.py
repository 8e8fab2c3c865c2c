"""The small dense problems that a large linear model from items to items falls into.

In EASE and SLIM column j of the weights is a regression of item j on the other items, which needs the products X'X of the columns of X
and no more. Restricted to the items S_j that are nearest to j it needs X_S'X_S and X_S'x_j only, so that no N x N matrix ever exists:
H. Steck, "Markov random fields for collaborative filtering" (NeurIPS 2019), section 3; X. Ning, G. Karypis, "SLIM: sparse linear methods
for top-N recommender systems" (ICDM 2011), section IV-D, "fsSLIM".
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from palate.retrieve.similarity import Likeness, nearest

Reals = npt.NDArray[Any]


class Locals:
    """For each item j the items S_j it is regressed on, and their products.

    x: float32 [U, N]. neighbours: how many items S_j holds, those of the largest cosine with j (fewer where fewer share a user with j);
    from N - 1 on it is all the others, and the regression is exact. Memory: X once more, and N x neighbours places.
    """

    def __init__(self, x: sparse.csr_matrix, neighbours: int) -> None:
        self.columns = x.T.tocsr()
        self.size = int(x.shape[1])
        self.near: sparse.csr_matrix | None = None
        if neighbours < self.size - 1:
            blocks = [nearest(block, neighbours, start) for start, block in Likeness(x, "cosine").blocks()]
            self.near = sparse.vstack(blocks, format="csr")

    def items(self, j: int) -> Reals:
        """S_j, rising. int [m]."""
        if self.near is None:
            return np.delete(np.arange(self.size), j)
        return np.asarray(self.near.indices[self.near.indptr[j] : self.near.indptr[j + 1]])

    def products(self, j: int) -> tuple[Reals, Reals, Reals]:
        """S_j [m], X_S'X_S float64 [m, m], X_S'x_j float64 [m]. Cost: the sum over users of the square of their items in S_j."""
        items = self.items(j)
        rows = self.columns[np.append(items, j)]
        whole = (rows @ rows.T).toarray().astype(np.float64)
        return items, whole[:-1, :-1], whole[:-1, -1]


class Columns:
    """Collects the columns of a sparse matrix [N, N], one after another."""

    def __init__(self) -> None:
        self._rows: list[Reals] = []
        self._data: list[Reals] = []

    def add(self, rows: Reals, data: Reals) -> None:
        """The next column: its rows, and what stands there; zeros are left out."""
        there = data != 0
        self._rows.append(rows[there].astype(np.int32))
        self._data.append(data[there].astype(np.float32))

    def matrix(self) -> sparse.csr_matrix:
        """float32 [N, N], for as many columns as were added."""
        size = len(self._rows)
        indptr = np.concatenate([[0], np.cumsum([len(rows) for rows in self._rows])]).astype(np.int64)
        none: list[Any] = [np.zeros(0, dtype=np.int32)]
        parts = (np.concatenate(self._data or none).astype(np.float32), np.concatenate(self._rows or none), indptr)
        return sparse.csc_matrix(parts, shape=(size, size)).tocsr()

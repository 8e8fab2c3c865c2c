"""The small dense problems that a large linear model from items to items falls into.

In EASE and SLIM column j of the weights is a regression of item j on the other items, which needs the products X'X of the columns of X
and no more. Restricted to the items S_j that are nearest to j it needs X_S'X_S and X_S'x_j only, so that no N x N matrix ever exists:
H. Steck, "Markov random fields for collaborative filtering" (NeurIPS 2019), section 3; X. Ning, G. Karypis, "SLIM: sparse linear methods
for top-N recommender systems" (ICDM 2011), section IV-D, "fsSLIM".
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from palate.retrieve.similarity import Likeness, nearest
from palate.types import Floats

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

    def stacks(self, together: int = 64) -> Iterator[tuple[list[Reals], Floats, Reals]]:
        """Of `together` items j at a time: S_j followed by j itself; X'X of these, float32 [b, m, m], padded with zeros; j's place, [b].

        Cost: the sum over j and users of the square of a user's items in S_j; one sparse product a stack.
        """
        users = self.columns.shape[1]
        for start in range(0, self.size, together):
            names = [np.append(self.items(j), j) for j in range(start, min(start + together, self.size))]
            lengths = np.array([len(items) for items in names])
            row, place = np.repeat(np.arange(len(names)), lengths), np.concatenate([np.arange(length) for length in lengths])
            taken = self.columns[np.concatenate(names)]
            # Every item of the stack has users of its own, so that the product of all is the products of each, side by side.
            apart = taken.indices + np.repeat(row.astype(np.int64), np.diff(taken.indptr)) * users
            wide = sparse.csr_matrix((taken.data, apart, taken.indptr), shape=(len(row), len(names) * users))
            met = sparse.csr_matrix(wide @ wide.T)
            products = np.zeros((len(names), lengths.max(), lengths.max()), dtype=np.float32)
            first = np.repeat(np.arange(len(row)), np.diff(met.indptr))
            products[row[first], place[first], place[met.indices]] = met.data
            yield names, products, lengths - 1


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

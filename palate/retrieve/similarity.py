"""How alike two things are by what they share: items by common users, users by common items. One home for the formulas of both.

With x_ci the weight of thing i in context c (for items: of user c; 1 unless events are weighed), s_i = sum_c x_ci, q_i = sum_c x_ci^2,
m_ij = sum_c x_ci x_cj, and C contexts:

    cosine       m_ij / sqrt(q_i q_j)
    jaccard      m_ij / (q_i + q_j - m_ij): on ones the shared contexts over all contexts of either; on weights, Tanimoto's coefficient
                 (where only one side has weights, their sum s takes the place of q, so that min and max stand for "both" and "either")
    pearson      (m_ij - s_i s_j / C) / sqrt((q_i - s_i^2 / C) (q_j - s_j^2 / C)): the correlation over all contexts, absent ones as 0
    tfidf        the cosine of x_ci idf_c, with idf_c = log(1 + n / n_c) for n things of which n_c are in context c: a context of few
                 things says more
    bm25         sum_c y_ci y_cj, with y_ci = idf_c x_ci (k1 + 1) / (x_ci + k1 (1 - b + b s_i / mean s)), k1 = 1.2, b = 0.75
    conditional  m_ij / (q_i q_j^alpha): the chance of j given i, popular j held back

B. Sarwar, G. Karypis, J. Konstan, J. Riedl, "Item-based collaborative filtering recommendation algorithms" (WWW 2001), section 3.1, for
cosine and Pearson; S. Robertson, H. Zaragoza, "The probabilistic relevance framework: BM25 and beyond" (2009), section 3.5; M. Deshpande,
G. Karypis, "Item-based top-N recommendation algorithms" (TOIS 2004), equation 5, for `conditional`. Shrinking multiplies by
n_ij / (n_ij + shrink), with n_ij the contexts that both are in: likeness on few contexts is doubted (R. Bell, Y. Koren 2007).

Only pairs that share a context are looked at: of the others none of these measures is above 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import sparse

from palate.retrieve.base import LEAST
from palate.retrieve.gram import sparse_gram_blocks
from palate.retrieve.topk import entries, largest
from palate.types import Floats

_K1, _B = 1.2, 0.75

Kind = Literal["cosine", "jaccard", "pearson", "tfidf", "bm25", "conditional"]
Reals = npt.NDArray[Any]


class Likeness:
    """A measure of likeness, ready for the things of one matrix.

    x: float32 [C, n], contexts by things. kind, shrink, alpha: see the file's head. Cost and memory: O(entries).
    """

    def __init__(self, x: sparse.csr_matrix, kind: Kind, shrink: float = 0.0, alpha: float = 0.5) -> None:
        self.kind, self.shrink, self.alpha = kind, shrink, alpha
        self.contexts = x.shape[0]
        self._x = x
        held = np.diff(x.indptr)
        self._idf = np.log1p(x.shape[1] / np.maximum(held, 1)) if kind in ("tfidf", "bm25") else None
        lengths = np.asarray(x.sum(axis=0)).ravel()
        self._mean_length = lengths.sum() / max(np.count_nonzero(lengths), 1) or 1.0
        data = self._weigh(x.data, np.repeat(np.arange(len(held)), held), lengths[x.indices])
        # The same places as x, so that blocks of the products of both line up entry by entry.
        self.weighted = sparse.csr_matrix((data, x.indices, x.indptr), shape=x.shape)
        self.sums: Floats = np.bincount(x.indices, data, minlength=x.shape[1]).astype(np.float32)
        self.squares: Floats = np.bincount(x.indices, data.astype(np.float64) ** 2, minlength=x.shape[1]).astype(np.float32)

    def blocks(self) -> Iterator[tuple[int, sparse.csr_matrix]]:
        """Of every thing to every other: (first row, sparse block of rows). Cost: a multiply-add for each pair of things of a context."""
        common = sparse_gram_blocks(_ones(self._x)) if self.shrink and not self._counts else None
        for start, block in sparse_gram_blocks(self.weighted):
            own, lengths = slice(start, start + block.shape[0]), np.diff(block.indptr)
            shared = block.data if common is None else next(common)[1].data
            block.data = self._likeness(block.data, self.sums[own], self.squares[own], lengths, block.indices, shared)
            yield start, block

    def of(self, rows: sparse.csr_matrix) -> sparse.csr_matrix:
        """Of things from elsewhere to every thing. rows: float32 [B, C], things by contexts -> float32 [B, n]."""
        owner = np.repeat(np.arange(rows.shape[0]), np.diff(rows.indptr))
        lengths = np.asarray(rows.sum(axis=1)).ravel()
        # The least of weights still gives a product above 0, so that both products below have the same places.
        data = np.maximum(self._weigh(rows.data, rows.indices, lengths[owner]), np.float32(LEAST))
        weighted = sparse.csr_matrix((data, rows.indices, rows.indptr), shape=rows.shape)
        sums, squares = (np.bincount(owner, values, minlength=rows.shape[0]).astype(np.float32) for values in (data, data**2))
        met = sparse.csr_matrix(weighted @ self.weighted)
        shared = met.data
        if self.shrink and not (self._counts and (rows.data == 1).all()):
            shared = sparse.csr_matrix(_ones(rows) @ _ones(self._x)).data
        met.data = self._likeness(met.data, sums, squares, np.diff(met.indptr), met.indices, shared)
        return met

    @property
    def _counts(self) -> bool:
        """Whether products of the weighted matrix count shared contexts as they are."""
        return self._idf is None and bool((self._x.data == 1).all())

    def _weigh(self, data: Floats, contexts: Reals, lengths: Reals) -> Floats:
        weighed: Reals = data
        if self.kind == "bm25":
            weighed = data * (_K1 + 1) / (data + _K1 * (1 - _B + _B * lengths / self._mean_length))
        return (weighed if self._idf is None else weighed * self._idf[contexts]).astype(np.float32)

    def _likeness(self, met: Floats, sums: Floats, squares: Floats, lengths: Reals, j: Reals, shared: Floats) -> Floats:
        """One value a pair. Rows of `lengths` pairs with the things j; met, shared: their m_ij and n_ij; sums, squares: s_i and q_i."""
        likeness: Reals = met
        if self.kind == "bm25":
            pass
        elif self.kind == "jaccard":
            both = np.repeat(sums, lengths) + self.sums[j] if self._counts else np.repeat(squares, lengths) + self.squares[j]
            likeness = met / (both - met)
        elif self.kind == "conditional":
            likeness = met / (np.repeat(squares, lengths) * self.squares[j] ** self.alpha)
        elif self.kind == "pearson":
            variance, variances = squares - sums**2 / self.contexts, self.squares - self.sums**2 / self.contexts
            spread = np.repeat(variance, lengths) * variances[j]
            chance = np.repeat(sums, lengths) * self.sums[j] / self.contexts
            # What is in every context alike goes with nothing.
            likeness = np.where(spread > 0, met - chance, 0) / np.sqrt(np.where(spread > 0, spread, 1))
        else:
            product = np.repeat(squares, lengths)
            product *= self.squares[j]
            likeness = met / np.sqrt(product, out=product)
        return (likeness * (shared / (shared + self.shrink)) if self.shrink else likeness).astype(np.float32, copy=False)


def nearest(block: sparse.csr_matrix, neighbours: int, start: int | None = None) -> sparse.csr_matrix:
    """The largest positive values of each row, of equals those of lower columns; columns in order.

    start: row r is thing `start + r`, no neighbour of itself (None: the rows are other things than the columns).
    """
    # One more than wanted, for the thing itself may be among them.
    near = largest(block, neighbours + (start is not None))
    keep = near.data > 0
    if start is not None:
        keep &= near.indices != start + np.repeat(np.arange(near.shape[0]), np.diff(near.indptr))
    near = largest(entries(near, keep), neighbours)
    near.sort_indices()
    return near


def _ones(matrix: sparse.csr_matrix) -> sparse.csr_matrix:
    return sparse.csr_matrix((np.ones_like(matrix.data), matrix.indices, matrix.indptr), shape=matrix.shape)

"""Products X'X of a sparse users-by-items matrix, dense or sparse, whichever is quicker, in blocks of rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from palate.retrieve.topk import BLOCK

_DENSE_GAIN = 200
"""A dense multiply-add costs about so much less than a sparse one (BLAS on 2 cores against scipy)."""


def gram(x: sparse.csr_matrix, dtype: Any = np.float32) -> npt.NDArray[Any]:
    """X'X as one dense matrix [N, N]. x: [U, N]."""
    product = np.empty((x.shape[1], x.shape[1]), dtype=dtype)
    for start, block in _blocks(x):
        product[start : start + block.shape[0]] = block.toarray() if sparse.issparse(block) else block
    return product


def sparse_gram_blocks(x: sparse.csr_matrix) -> Iterator[tuple[int, sparse.csr_matrix]]:
    """X'X as (first row, sparse block of rows). x: [U, N]. Memory: O(`BLOCK`) beside X.

    Matrices with entries at the same places give blocks with entries in the same order.
    """
    for start, block in _blocks(x):
        yield start, sparse.csr_matrix(block)


def _blocks(x: sparse.csr_matrix) -> Iterator[tuple[int, Any]]:
    """X'X as (first row, block of rows), dense or sparse. Cost: U N^2 dense multiply-adds, or the sum of squares of the users' events."""
    users, items = x.shape
    size = max(1, BLOCK // max(items, 1))
    left = x.T.tocsr()
    meetings = int((np.diff(x.indptr).astype(np.int64) ** 2).sum())
    dense = users * items <= 8 * BLOCK and users * items**2 < _DENSE_GAIN * meetings
    right = x.toarray() if dense else x
    for start in range(0, items, size):
        part = left[start : start + size]
        yield start, part.toarray() @ right if dense else part @ right

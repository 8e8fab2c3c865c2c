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
    for start, block in gram_blocks(x.T.tocsr(), x):
        product[start : start + len(block)] = block
    return product


def gram_blocks(left: sparse.csr_matrix, right: sparse.csr_matrix) -> Iterator[tuple[int, npt.NDArray[Any]]]:
    """`left @ right` as (first row, dense block [b, N]). left: [M, U]; right: [U, N]. Memory: O(`BLOCK`) beside the operands.

    Cost: U M N dense multiply-adds, or one sparse multiply-add for each pair of entries that meet, whichever is quicker.
    """
    rows, inner = left.shape
    size = max(1, BLOCK // max(right.shape[1], 1))
    meetings = int((np.diff(left.tocsc().indptr).astype(np.int64) * np.diff(right.indptr)).sum())
    dense = inner * right.shape[1] <= 8 * BLOCK and rows * inner * right.shape[1] < _DENSE_GAIN * meetings
    other = right.toarray() if dense else right
    for start in range(0, rows, size):
        part = left[start : start + size]
        yield start, part.toarray() @ other if dense else (part @ other).toarray()

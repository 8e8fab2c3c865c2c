"""Splits of a log into what is learnt from and what is tested on. A split that leaks the future is refused."""

from __future__ import annotations

import numpy as np

from palate.types import Log, SplitError


def split(log: Log, how: str = "leave-last-out", *, k: int = 1) -> tuple[Log, Log]:
    """Two logs with the same tables: (train, test)."""
    if how != "leave-last-out":
        raise SplitError(f"{how!r}: no such split")
    codes = log.user_codes
    counts = np.bincount(codes, minlength=log.n_users)
    order = np.argsort(codes, kind="stable")
    ends = np.cumsum(counts)[codes[order]]
    from_end = np.empty(len(codes), dtype=np.int64)
    from_end[order] = ends - 1 - np.arange(len(codes))
    test = (from_end < k) & (counts[codes] > k)
    return log.where(~test), log.where(test)

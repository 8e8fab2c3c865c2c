"""Users who were not there when the model was made: their vector from the vectors of their history.

A linear map from what the vectors of a history say to the vector the user was given, learnt on the users of the log by ridge
regression (Hoerl and Kennard 1970, "Ridge Regression: Biased Estimation for Nonorthogonal Problems"):

    x_h = (mean_{i in h} q_i,  mean_{i in h} q_i sqrt|h|,  sqrt|h|,  1)             W = argmin  sum_u |p_u - x_u W|^2 + l2 U |W|^2

It serves whatever loss the vectors come from, which the normal equations of one loss would not. |h| is bounded by the longest history
learnt from. Numpy only.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from scipy import sparse

from palate.retrieve.base import places
from palate.types import Bools, Floats, Log

_ROWS = 4096
"""Users looked at together by `fit`."""


class FoldIn:
    """weights: float32 [2 D + 2, D']. items: float32 [N, D], the vectors q. longest: the largest |h| it may see."""

    def __init__(self, weights: Floats, items: Floats, longest: int) -> None:
        self.weights, self.items, self.longest = weights, items, longest

    @classmethod
    def fit(cls, known: sparse.csr_matrix, items: Floats, users: Floats, l2: float = 1e-3) -> FoldIn:
        """known: users by items [U, N], nonzero where wanted; users without any are left out. items: [N, D]. users: [U, D'].

        l2 is relative to the mean squared size of x. Cost: the nonzeros times D, and U (2 D)^2.
        """
        some = np.diff(known.indptr) > 0
        longest = int(np.diff(known.indptr).max(initial=1))
        empty = cls(np.zeros((0, 0), dtype=np.float32), items, longest)
        known, users = known[some], users[some]
        moments, towards = np.zeros((2 * items.shape[1] + 2,) * 2), np.zeros((2 * items.shape[1] + 2, users.shape[1]))
        for start in range(0, len(users), _ROWS):
            x = empty.inputs(known[start : start + _ROWS]).astype(np.float64)
            moments += x.T @ x
            towards += x.T @ users[start : start + _ROWS]
        moments[np.diag_indices_from(moments)] += l2 * max(float(np.diag(moments).mean()), 1e-12)
        return cls(np.linalg.solve(moments, towards).astype(np.float32), items, longest)

    def inputs(self, known: sparse.csr_matrix) -> Floats:
        """x of each history: float32 [B, 2 D + 2]. known: [B, N]."""
        length = np.diff(known.indptr).astype(np.float32)[:, None]
        mean = (known != 0).astype(np.float32) @ self.items / np.maximum(length, 1)
        root = np.sqrt(np.minimum(length, self.longest))
        return np.concatenate([mean, mean * root, root, np.ones_like(root)], axis=1).astype(np.float32)

    def __call__(self, known: sparse.csr_matrix) -> Floats:
        """Vectors [B, D'] of histories [B, N]."""
        return self.inputs(known) @ self.weights


class Fitted(Protocol):
    """A model of users and items that folds in: `users` are its vectors [U, D'] of those who are `there`, `learnt` its items."""

    users: Floats
    there: Bools
    learnt: Bools
    fold_in: FoldIn


def carried_over(before: Fitted, funnel: Any, log: Log, known: sparse.csr_matrix) -> tuple[Floats, Bools]:
    """Vectors [U, D'] of the users of a later log from where an earlier model stood, and who has one. known: the log's users by items.

    Users and items are found by their ids, in the earlier funnel's tables. Whoever is new is folded in from the items it knew.
    """
    users, items = places(log.users["user"], funnel.users["user"]), places(log.items["item"], funnel.items["item"])
    vectors, there = np.zeros((log.n_users, before.users.shape[1]), dtype=np.float32), np.append(before.there, False)[users]
    vectors[there] = before.users[users[there]]
    # What the earlier one knows of the new users' items: their histories in its codes.
    shared = np.flatnonzero(np.append(before.learnt, False)[items])
    to_codes = sparse.csr_matrix((np.ones(len(shared), np.float32), (shared, items[shared])), shape=(log.n_items, len(before.learnt)))
    new = np.flatnonzero(~there)
    histories = (known[new] @ to_codes).tocsr()
    folded = np.diff(histories.indptr) > 0
    vectors[new[folded]] = before.fold_in(histories[folded])
    there[new[folded]] = True
    return vectors, there

"""What matrix factorisation learns with: two tables, the loss of a batch, and how batches are made. See `palate.retrieve.mf`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn
from torch.nn import functional

from palate import losses, sampling
from palate.features.collate import collate_rows
from palate.nn.embedding import Embeddings
from palate.types import Batch, Bools, Floats, Inputs, Ints, Longs, Ragged, SparseInput


class Vectors(nn.Module):
    """Batch -> loss. Column D of each table holds the biases, which start at 0; vectors come as <(p, b_u, 1), (q, 1, b_i)>.

    config: an `MF.Config`. counts: int [N], positives of each item.
    """

    share: Tensor

    def __init__(self, config: Any, n_users: int, n_items: int, counts: Longs) -> None:
        super().__init__()
        self.config, self.sizes = config, {"user": n_users, "item": n_items}
        self.biased = config.biases and config.loss != "ccl"
        # What the negatives of a positive weigh: in the penalty as in the loss.
        self.weight = config.n_negatives if config.loss == "logistic" else 1
        width = -(-(config.width + self.biased) // 4) * 4  # the kernels of FBGEMM take multiples of 4; columns without use stay 0
        for side, rows in self.sizes.items():
            table = Embeddings(
                Inputs(sparse=(SparseInput(side, side, rows + 1, "sum"),)), width, config.train, init="normal", std=config.std
            )
            with torch.no_grad():
                table.tables()[side][:, config.width :] = 0.0
            self.add_module(side, table)
        self.register_buffer("share", torch.from_numpy(counts / max(int(counts.sum()), 1)).float(), persistent=False)

    def rows(self, side: str, codes: Tensor) -> Tensor:
        """Vectors of codes [...]: [..., D], or [..., D + 2] with biases."""
        return self._dressed(side, getattr(self, side).of_ids(codes.reshape(-1) + 1)).view(*codes.shape, -1)

    def start(self, side: str, codes: Longs, vectors: Floats) -> None:
        """These codes start from vectors as `rows` gives them, not from a draw."""
        width = self.config.width
        bias = [width if side == "user" else width + 1] if self.biased else []
        values = torch.from_numpy(np.ascontiguousarray(vectors[:, [*range(width), *bias]]))
        table = getattr(self, side).tables()[side]
        with torch.no_grad():
            table[torch.from_numpy(codes + 1), : values.shape[1]] = values.to(table.device)

    def whole(self, side: str) -> Tensor:
        """Vectors of every code: without a lookup where the table is an ordinary parameter."""
        table = getattr(self, side)
        if table.fused:
            return self.rows(side, torch.arange(self.sizes[side], device=table.device))
        return self._dressed(side, table.tables()[side][1:])

    def _dressed(self, side: str, found: Tensor) -> Tensor:
        vectors, bias = found[:, : self.config.width], found[:, self.config.width : self.config.width + 1]
        if self.config.loss == "ccl":
            return functional.normalize(vectors)
        if not self.biased:
            return vectors
        ones = torch.ones_like(bias)
        return torch.cat((vectors, bias, ones) if side == "user" else (vectors, ones, bias), 1)

    def forward(self, batch: Batch) -> Tensor:
        extra, config = batch.extra, self.config
        users = self.rows("user", extra["users"])
        if "rows" in extra:
            return self._against_all(users, extra["rows"], extra["items"])
        positives = self.rows("item", extra["items"])
        own = (users * positives).sum(1)
        if config.loss == "squared":
            return (own - batch.labels[:, 0]).square().mean() / 2 + self._penalty(users, positives, None)
        negatives = positives if config.negatives.startswith("in_batch") else self.rows("item", extra["negatives"])
        if config.negatives == "mixed":
            negatives = torch.cat((positives, negatives))
        others = users @ negatives.t() if negatives.dim() == 2 else torch.einsum("bd,bsd->bs", users, negatives)
        return self._loss(own.float(), others.float(), extra) + self._penalty(users, positives, negatives)

    def _against_all(self, users: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """The loss of users [B] who want the items of (rows, columns), against all items."""
        config, items = self.config, self.whole("item")
        wants, n = torch.bincount(rows, minlength=len(users)).float(), len(rows)
        if config.loss == "softmax":
            total, own = losses.over_items(users / config.temperature, items, rows, columns, None, "exp")
            loss = ((wants * total).sum() - own.sum()) / n
        else:
            total, own = losses.over_items(users, items, rows, columns, None, "softplus")
            loss = (functional.softplus(-own).sum() + self.weight / len(items) * (wants * total).sum()) / n
        for_users = self._times * (wants * self._squares(users)).sum() / n
        for_items = ((self.share + self.weight / len(items)) * self._squares(items)).sum()
        return loss + config.l2 / 2 * (for_users + for_items)

    @property
    def _times(self) -> int:
        """How often a user counts in the penalty of one positive."""
        return 1 + self.weight if self.config.loss == "logistic" else 1

    def _squares(self, vectors: Tensor) -> Tensor:
        return vectors.square().sum(-1) - float(self.biased)  # less the constant 1 beside the bias

    def _penalty(self, users: Tensor, positives: Tensor, negatives: Tensor | None) -> Tensor:
        if not self.config.l2:
            return users.new_zeros(())
        total = (self._times * self._squares(users) + self._squares(positives)).mean()
        if negatives is not None:
            total = total + self.weight * self._squares(negatives).mean()
        return self.config.l2 / 2 * total

    def _loss(self, own: Tensor, others: Tensor, extra: Mapping[str, Tensor]) -> Tensor:
        """Scores of the positives [B] and of the negatives [B, S]."""
        config, hits = self.config, extra["hits"]
        if config.loss == "softmax":
            q = {"log_q_positive": extra.get("log_q"), "log_q_negative": extra.get("log_q_negatives")}
            return losses.sampled_softmax(own / config.temperature, others / config.temperature, **q, hits=hits)
        if config.loss == "logistic":
            return losses.logistic(own, others, config.n_negatives / others.shape[1], hits)
        if config.loss == "warp":
            return losses.warp(own, others, self.sizes["item"], config.margin, hits)
        if config.loss == "hinge":
            return losses.hinge(own, others, config.margin, hits)
        if config.loss == "ccl":
            return losses.cosine_contrastive(own, others, config.margin, config.negative_weight, hits)
        return losses.bpr(own, others, hits)


class Whole:
    """Row numbers of users with history -> a Batch: these users, and all they want. known: [U, M] over the items of the tables.

    users: only of these (None: all).
    """

    def __init__(self, known: sparse.csr_matrix, users: Ints | None = None) -> None:
        self.wants = Ragged(known.indptr.astype(np.int64), known.indices.astype(np.int64))
        some = np.flatnonzero(self.wants.lengths)
        self.users = some if users is None else np.intersect1d(some, users)

    def __len__(self) -> int:
        return len(self.users)

    def __call__(self, rows: Longs) -> Batch:
        users = self.users[rows]
        wants = self.wants.take(users)
        return id_batch(len(rows), users=users, rows=wants.rows, items=wants.values)


class Drawn:
    """Row numbers of events -> a Batch: user, item, and negatives of each or for all.

    config: an `MF.Config`. values: float32 [E], ratings less their mean. size: users and items of the tables. learnt:
    the events that batches are made of (None: all).
    """

    def __init__(
        self, config: Any, users: Ints, items: Ints, values: Floats, size: tuple[int, int], seed: int, learnt: Longs | None = None
    ) -> None:
        self.config, self.users, self.items, self.values, self.seed = config, users, items, values, seed
        self.n_items = size[1]
        self.learnt = np.arange(len(users)) if learnt is None else learnt
        self.unigram = sampling.frequencies(items[self.learnt], size[1])
        self.q = sampling.powered(self.unigram, config.power if config.negatives == "popularity" else 0.0)
        self.cumulative = np.cumsum(self.q)
        self.wanted = None if config.keep_hits or config.loss == "squared" else sampling.Wanted(users, items, *size)

    def __len__(self) -> int:
        return len(self.learnt)

    def __call__(self, rows: Longs) -> Batch:
        rows = self.learnt[rows]
        users, items = self.users[rows], self.items[rows]
        if self.config.loss == "squared":
            return id_batch(len(rows), self.values[rows], users=users, items=items)
        drawn, kind = self._draw(rows), self.config.negatives
        in_batch = kind in ("in_batch", "in_batch_log_q", "mixed")
        negatives = np.concatenate([items, drawn]) if in_batch else drawn
        q = sampling.mixture(self.unigram, len(items), self.q, len(drawn)) if in_batch else self.q
        extra: dict[str, np.ndarray] = {"users": users, "items": items, "negatives": drawn, "hits": self._hits(users, items, negatives)}
        if kind in ("popularity", "in_batch_log_q", "mixed"):
            logs = sampling.log_probabilities(q)
            extra |= {"log_q": logs[items], "log_q_negatives": logs[negatives]}
        return id_batch(len(rows), None, **extra)

    def _draw(self, rows: Longs) -> Ints:
        # Seeded by the rows, so that a run taken up in the middle draws what it would have drawn; epochs shuffle them anew.
        rng, config = np.random.default_rng([self.seed, *rows[:8]]), self.config
        if config.negatives.startswith("in_batch"):
            return np.zeros(0, dtype=np.int32)
        shared = config.shared or (len(rows) if config.negatives == "mixed" else None)
        size = (len(rows), config.n_negatives) if shared is None else shared
        if config.negatives == "popularity":
            return sampling.draw(self.cumulative, size, rng)
        return rng.integers(0, self.n_items, size=size, dtype=np.int32)

    def _hits(self, users: Ints, items: Ints, negatives: Ints) -> Bools:
        own: Bools = items[:, None] == negatives
        if self.wanted is None:
            return own
        return own | (self.wanted.each(users, negatives) if negatives.ndim == 2 else self.wanted.among(users, negatives))


def id_batch(size: int, labels: Floats | None = None, **extra: np.ndarray) -> Batch:
    """A Batch of `size` rows that reads nothing but `extra`, whose arrays may have other lengths."""
    none = np.zeros((size, 0))
    values = np.zeros((size, 1), dtype=np.float32) if labels is None else labels[:, None]
    batch = collate_rows(Inputs(), none.astype(np.float32), none.astype(np.int64), values)
    return replace(batch, extra={name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in extra.items()})

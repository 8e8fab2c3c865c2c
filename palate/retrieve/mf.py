"""Matrix factorisation by gradient descent: a vector and a bias for each user and each item, for ratings and for implicit events.

    s_ui = mu + b_u + b_i + <p_u, q_i>

Ratings ("squared"): Koren, Bell and Volinsky 2009, "Matrix Factorization Techniques for Recommender Systems", equation 5. Implicit events,
by the loss that tells what is wanted from what is not (`palate.losses`): "logistic" as tuned by Rendle et al. 2020, "Neural Collaborative
Filtering vs. Matrix Factorization Revisited"; "softmax"; "bpr" (Rendle et al. 2009); "warp" (Weston et al. 2011); "hinge"; and "ccl",
the cosine contrastive loss on ids alone (MF-CCL of Mao et al. 2021, "SimpleX"; mu and biases have no place in a cosine).

Negatives may be `all`: a batch is then some users with all they want, and the loss is taken against every item, exactly, as one matrix
product; a logistic loss against all items is the mean of what m uniform draws would give. For up to some ten thousand items that is many
times quicker than drawing: 6,040 users x 3,706 items x 192 dimensions are 26 GFlop an epoch, one million positives with 8 draws each
are ten million random rows of memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal, Self

import numpy as np
import pydantic
import torch
from scipy import sparse
from torch import Tensor, nn
from torch.nn import functional

from palate import losses, sampling
from palate.config import Training
from palate.features.collate import collate_rows
from palate.features.loader import Loader
from palate.nn.embedding import Embeddings
from palate.retrieve.base import Retriever, history_matrix, interactions, wanted
from palate.retrieve.fold_in import FoldIn
from palate.retrieve.index import ExactIndex
from palate.retrieve.topk import inner_products, query_matrix, strongest
from palate.types import (
    NOTHING,
    Batch,
    Bools,
    Candidates,
    ConfigError,
    DataError,
    Floats,
    Inputs,
    Ints,
    Log,
    Longs,
    Queries,
    Ragged,
    Run,
    SparseInput,
    State,
)

Loss = Literal["squared", "logistic", "softmax", "bpr", "hinge", "warp", "ccl"]
Negatives = Literal["all", "uniform", "popularity", "in_batch", "in_batch_log_q", "mixed"]


class MF(Retriever):
    """Vectors of users and items. Users it never saw are folded in from their history (`palate.retrieve.fold_in`).

    Items without events, and users without history, have no vector and get no list. A user it knows keeps the vector learnt from the log,
    whatever the query adds to the history. Cost: a batch of `all` is 3 products users x items x width; of draws, one row of memory a
    draw and its update. Memory: users and items x width, and as much again for the optimiser (Adam: twice).
    """

    class Config(Retriever.Config):
        """width: D. loss, negatives: see the module; `squared` has no negatives, `all` is for softmax and logistic.

        n_negatives: m. Of logistic, how much all negatives together weigh beside one positive. Of `uniform` and `popularity`, how many
        draws each positive has of its own; shared: so many draws a batch instead, which all its rows share, as one matrix product (of
        `mixed` by default as many as the batch has rows). power: of `popularity`, which draws proportionally to popularity^power.
        keep_hits: leave what the user wants too among the drawn negatives; a row's own positive never is.
        margin: of hinge, warp, ccl. negative_weight: of ccl. temperature: divides the scores of softmax.
        biases: whether there are b_u and b_i. l2: adds l2 / 2 x (|p_u|^2 + |q_i|^2) for every positive and every negative (of logistic m,
        else one a positive), biases included: the more frequent, the more, as in the code of Rendle et al. 2020. std: vectors start as
        N(0, std^2).
        train: batch_size counts positives (users if `all`); settings left out are those of this model, not of `Training`.
        """

        width: int = pydantic.Field(64, ge=1)
        loss: Loss = "softmax"
        negatives: Negatives = "all"
        n_negatives: int = pydantic.Field(8, ge=1)
        shared: int | None = pydantic.Field(None, ge=1)
        power: float = pydantic.Field(0.75, ge=0)
        keep_hits: bool = False
        margin: float = 0.5
        negative_weight: float = pydantic.Field(100.0, gt=0)
        temperature: float = pydantic.Field(1.0, gt=0)
        biases: bool = True
        l2: float = pydantic.Field(0.005, ge=0)
        std: float = pydantic.Field(0.1, gt=0)
        train: Training = Training(epochs=60, batch_size=256, sparse="dense", lr=0.01)

        @pydantic.field_validator("train", mode="before")
        @classmethod
        def _what_is_left_out_is_the_models_own(cls, given: Any) -> Any:
            own = cls.model_fields["train"].default.model_dump()
            if isinstance(given, Training):
                return own | {key: getattr(given, key) for key in given.model_fields_set}
            return own | dict(given) if isinstance(given, Mapping) else given

        @pydantic.model_validator(mode="after")
        def _loss_and_negatives_fit(self) -> Self:
            if self.negatives == "all" and self.loss not in ("squared", "softmax", "logistic"):
                raise ValueError(f'negatives = "all" is for softmax and logistic; give {self.loss} draws, such as negatives = "uniform"')
            if self.negatives in ("in_batch_log_q", "mixed") and self.loss != "softmax":
                raise ValueError(f'negatives = "{self.negatives}" takes log q off the logits of a softmax; {self.loss} has none')
            return self

    config: Config
    curves: Mapping[str, list[float]]
    """Of the training: a list a metric, one value an epoch."""

    def fit(self, log: Log, run: Run = Run()) -> Self:
        if run.train is None:
            raise ConfigError(f"{self.name}: a network needs a training engine; give run=Run(train=Trainer())")
        config, known = self.config, interactions(log)
        learnt = _rated(log) if config.loss == "squared" else wanted(log)
        # The tables hold the items there is something to learn of: nothing is spent on the others, or said against them.
        pool = np.unique(learnt.item_codes)
        place = np.zeros(log.n_items, dtype=np.int32)
        place[pool] = np.arange(len(pool))
        users, items, size = learnt.user_codes, place[learnt.item_codes], (log.n_users, len(pool))
        values = learnt.events["value"].to_numpy().astype(np.float32) if config.loss == "squared" else np.zeros(len(users), np.float32)
        mean = float(values.mean())
        whole = config.negatives == "all" and config.loss != "squared"
        batches = Whole(known[:, pool]) if whole else Drawn(config, users, items, values - mean, size, run.seed)
        with torch.random.fork_rng():
            torch.manual_seed(run.seed)
            network = Vectors(config, *size, np.bincount(items, minlength=len(pool)))
            loader = Loader(len(batches), batches, config.train.batch_size, seed=run.seed)
            self.curves = run.train(network, loader, self.step, config.train, name=self.name, run=run)
        self._keep(network.cpu(), known, np.bincount(users, minlength=log.n_users) > 0, pool, mean)
        return self

    def _keep(self, network: Vectors, known: sparse.csr_matrix, there: Bools, pool: Ints, mean: float) -> None:
        with torch.no_grad():
            p, q = network.whole("user").numpy(), network.whole("item").numpy()
        if self.config.loss == "squared":
            p, q = np.pad(p, ((0, 0), (0, 1)), constant_values=mean), np.pad(q, ((0, 0), (0, 1)), constant_values=1.0)
        self.there, self.users = there, np.where(there[:, None], p, np.float32(0))
        vectors = np.zeros((known.shape[1], q.shape[1]), dtype=np.float32)
        vectors[pool] = q
        self.learnt: Bools = np.isin(np.arange(len(vectors)), pool)
        self.index = ExactIndex(vectors)
        self.fold_in = FoldIn.fit(known.multiply(there[:, None]).tocsr(), vectors, self.users)

    def step(self, network: Any, batch: Batch) -> dict[str, Tensor]:
        """The loss of one batch, a mean over its positives."""
        return {"loss": network(batch)}

    def encode_queries(self, queries: Queries) -> Floats:
        """float32 [B, D']: as learnt for users of the log, folded in for the others; NaN for those of whom nothing is known."""
        known = np.append(self.there, False)[queries.users]
        vectors = np.append(self.users, np.zeros_like(self.users[:1]), axis=0)[np.where(known, queries.users, -1)]
        new = np.flatnonzero(~known)
        histories = history_matrix(queries.history.take(new), len(self.index)).multiply(self.learnt).tocsr()
        histories.eliminate_zeros()
        vectors[new] = self._alike(self.fold_in(histories))
        vectors[new[np.diff(histories.indptr) == 0]] = np.nan
        return vectors

    def _alike(self, vectors: Floats) -> Floats:
        """Of length one, where vectors of users are."""
        if self.config.loss != "ccl":
            return vectors
        return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12))

    def retrieve(self, queries: Queries, k: int) -> Candidates:
        """Exact search. Cost: O(B N D)."""
        allowed = self.learnt if queries.allowed is None else self.learnt & queries.allowed
        vectors = self.encode_queries(queries)
        found = self.index.retrieve(np.nan_to_num(vectors), replace(queries, allowed=allowed), k, self.name)
        return Candidates.of(np.where(np.isnan(vectors[:, :1]), NOTHING, found.items).astype(np.int32), found.scores, self.name)

    def score(self, queries: Queries, items: Ints) -> Floats:
        scores = inner_products(self.encode_queries(queries), self.index.vectors, items)
        return np.where(np.isnan(scores) | ~self.learnt[items], np.float32(-np.inf), scores)

    def because(self, queries: Queries, items: Ints) -> Ints:
        """The history item whose vector is nearest to the item's."""
        vectors = self.index.vectors[:, : self.config.width]
        known = query_matrix(queries.history, len(vectors))
        return strongest(known, items, lambda _, history, found: vectors[history] @ vectors[found].T)

    def state(self) -> State:
        arrays = {"vectors": self.index.vectors, "users": self.users, "there": self.there, "learnt": self.learnt}
        return State(arrays | {"fold_in": self.fold_in.weights}, meta={"longest": self.fold_in.longest})

    def restore(self, state: State) -> Self:
        arrays = state.arrays
        self.users, self.there, self.learnt = arrays["users"], arrays["there"], arrays["learnt"]
        self.index = ExactIndex(arrays["vectors"])
        self.fold_in = FoldIn(arrays["fold_in"], arrays["vectors"], int(state.meta["longest"]))
        return self


class Vectors(nn.Module):
    """Batch -> loss. Column D of each table holds the biases, which start at 0; vectors come as <(p, b_u, 1), (q, 1, b_i)>."""

    share: Tensor

    def __init__(self, config: MF.Config, n_users: int, n_items: int, counts: Longs) -> None:
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
    """Row numbers of users with history -> a Batch: these users, and all they want. known: [U, M] over the items of the tables."""

    def __init__(self, known: sparse.csr_matrix) -> None:
        self.wants = Ragged(known.indptr.astype(np.int64), known.indices.astype(np.int64))
        self.users = np.flatnonzero(self.wants.lengths)

    def __len__(self) -> int:
        return len(self.users)

    def __call__(self, rows: Longs) -> Batch:
        users = self.users[rows]
        wants = self.wants.take(users)
        return _batch(len(rows), users=users, rows=wants.rows, items=wants.values)


class Drawn:
    """Row numbers of events -> a Batch: user, item, and negatives of each or for all. values: [E], ratings less their mean."""

    def __init__(self, config: MF.Config, users: Ints, items: Ints, values: Floats, size: tuple[int, int], seed: int) -> None:
        self.config, self.users, self.items, self.values, self.seed = config, users, items, values, seed
        self.n_items = size[1]
        self.unigram = sampling.frequencies(items, size[1])
        self.q = sampling.powered(self.unigram, config.power if config.negatives == "popularity" else 0.0)
        self.cumulative = np.cumsum(self.q)
        self.wanted = None if config.keep_hits or config.loss == "squared" else sampling.Wanted(users, items, *size)

    def __len__(self) -> int:
        return len(self.users)

    def __call__(self, rows: Longs) -> Batch:
        users, items = self.users[rows], self.items[rows]
        if self.config.loss == "squared":
            return _batch(len(rows), self.values[rows], users=users, items=items)
        drawn, kind = self._draw(rows), self.config.negatives
        in_batch = kind in ("in_batch", "in_batch_log_q", "mixed")
        negatives = np.concatenate([items, drawn]) if in_batch else drawn
        q = sampling.mixture(self.unigram, len(items), self.q, len(drawn)) if in_batch else self.q
        extra: dict[str, np.ndarray] = {"users": users, "items": items, "negatives": drawn, "hits": self._hits(users, items, negatives)}
        if kind in ("popularity", "in_batch_log_q", "mixed"):
            logs = sampling.log_probabilities(q)
            extra |= {"log_q": logs[items], "log_q_negatives": logs[negatives]}
        return _batch(len(rows), None, **extra)

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


def _batch(size: int, labels: Floats | None = None, **extra: np.ndarray) -> Batch:
    """A Batch of `size` rows that reads nothing but `extra`, whose arrays may have other lengths."""
    none = np.zeros((size, 0))
    values = np.zeros((size, 1), dtype=np.float32) if labels is None else labels[:, None]
    batch = collate_rows(Inputs(), none.astype(np.float32), none.astype(np.int64), values)
    return replace(batch, extra={name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in extra.items()})


def _rated(log: Log) -> Log:
    """The events with a value, whatever their kind: DataError where there is none."""
    there = log.events["value"].is_not_null().to_numpy()
    if not there.any():
        raise DataError(f'{log.name}: no event has a value (a rating); loss = "squared" learns from values, the others from wanted events')
    return log.where(there)

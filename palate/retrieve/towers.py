"""What two towers learn with: the network, how batches are made, and the query tower in a form that can be exported. See `two_tower`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor, nn
from torch.nn import functional

from palate import sampling
from palate.features.collate import collate
from palate.features.encode import Encoded, Encoder
from palate.features.history import History
from palate.features.spec import Categorical
from palate.features.vocab import OOV
from palate.nn.embedding import Embeddings
from palate.nn.mlp import MLP
from palate.types import NOTHING, Batch, ConfigError, Inputs, Ints, Longs, Ragged

SHARED, NO_ONES = -1, -2
"""Owners of a column of items: every row's negative, and none's. From 0 on: of that row alone."""

RATE = 0.01
"""Of the streaming frequencies."""


class Towers(nn.Module):
    """Batch -> query vectors [B, D] and item vectors [M, D]. Rows beyond the first B carry no query, only an item.

    config: a `TwoTower.Config`. user: the name of the feature that is the user id. A batch with `task` in its extra is given the vector of
    that task's head; any other the heads' sum, each weighed as its task.
    """

    last: Tensor
    gap: Tensor
    clock: Tensor
    mined: Tensor
    pool: Tensor
    uniform: Tensor
    weights: Tensor
    log_q: Tensor

    def __init__(self, config: Any, query: Inputs, item: Inputs, user: str | None = None) -> None:
        super().__init__()
        self.config = config
        self.dense, self.sparse, self.cosine = len(query.dense), len(query.sparse), config.similarity == "cosine"
        self.tasks = len(config.tasks) if config.tasks else 1
        self.user = [f.name for f in query.sparse].index(user) if user is not None and config.user_weight is not None else None
        self.embeddings = Embeddings(together(query, item), config.width, config.train, init="normal", std=config.width**-0.5)
        read = self.sparse - (self.user is not None)
        self.query = MLP(self.dense + read * config.width, config.query_layers, dropout=config.dropout, out=config.width * self.tasks)
        self.item = MLP(len(item.dense) + len(item.sparse) * config.width, config.item_layers, dropout=config.dropout, out=config.width)
        weights = list(config.tasks.values()) if config.tasks else [1.0]
        self.register_buffer("weights", torch.tensor(weights), persistent=False)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        embedded, size = self.embeddings(batch.sparse), len(batch)
        heads = self.heads(batch.dense[:size, : self.dense], embedded[:size, : self.sparse])
        if "task" in batch.extra:
            queries = heads[torch.arange(size, device=heads.device), batch.extra["task"].long()]
        else:
            queries = self.blended(heads)
        return queries, self.items(batch, embedded)

    def side(self, batch: Batch, tower: int) -> Tensor:
        """The vectors of one tower alone, 0 of queries and 1 of items, for serving: what `forward` gives at that place."""
        embedded = self.embeddings(batch.sparse)
        if tower:
            return self.items(batch, embedded)
        return self.blended(self.heads(batch.dense[:, : self.dense], embedded[:, : self.sparse]))

    def items(self, batch: Batch, embedded: Tensor) -> Tensor:
        """Item vectors [M, D]: of the dense and embedded columns behind the query's."""
        vectors: Tensor = self.item(torch.cat((batch.dense[:, self.dense :], embedded[:, self.sparse :].flatten(1)), 1))
        return functional.normalize(vectors) if self.cosine else vectors

    def heads(self, dense: Tensor, embedded: Tensor) -> Tensor:
        """The query's vector for each task: dense [B, F], embedded [B, S, D] -> [B, T, D]."""
        others = embedded
        if self.user is not None:
            others = torch.cat((embedded[:, : self.user], embedded[:, self.user + 1 :]), 1)
        vectors = self.query(torch.cat((dense, others.flatten(1)), 1)).unflatten(1, (self.tasks, self.config.width))
        if self.user is not None:
            g = self.config.user_weight
            vectors = g * embedded[:, self.user, None] + (1 - g) * vectors
        return functional.normalize(vectors, dim=-1) if self.cosine else vectors

    def blended(self, heads: Tensor) -> Tensor:
        """[B, T, D] -> [B, D]: what is searched for."""
        return heads[:, 0] if self.tasks == 1 else (heads * self.weights[:, None]).sum(1)

    # What is only of the training: kept in its checkpoints, and forgotten after it.

    def remember(self, examples: Examples) -> None:
        """Makes room for the streaming frequencies and for the item vectors that hard negatives are searched in."""
        n, config = len(examples.unigram), self.config
        batch = min(config.train.batch_size, len(examples.items))
        self.register_buffer("pool", torch.from_numpy(examples.pool), persistent=False)
        self.register_buffer("uniform", torch.from_numpy(examples.uniform), persistent=False)
        if config.frequency == "streaming":
            self.register_buffer("last", torch.zeros(n))
            # An item is assumed as frequent as the average one until it was seen.
            self.register_buffer("gap", torch.full((n,), max(1.0, len(examples.pool) / batch), dtype=torch.float64))
        if config.n_hard:
            self.register_buffer("mined", torch.zeros(len(examples.pool), config.width))
        self.register_buffer("clock", torch.zeros(2, dtype=torch.int64))
        logs = sampling.log_probabilities(sampling.mixture(examples.unigram, batch, examples.uniform, examples.n_negatives))
        self.register_buffer("log_q", torch.from_numpy(logs), persistent=False)

    def forget(self) -> None:
        for name in ("pool", "uniform", "last", "gap", "mined", "clock", "log_q"):
            self._buffers.pop(name, None)

    def is_due(self, every: int) -> bool:
        """Whether this is the first step, or so many after the last time."""
        step = int(self.clock[0])
        self.clock[0] += 1
        return step % every == 0

    def log_q_of(self, codes: Tensor) -> Tensor:
        """log q of given items; NOTHING has some number."""
        if self.config.frequency == "streaming":
            return self._streamed(codes.clamp_min(0), self.config.train.batch_size)
        return self.log_q[codes.clamp_min(0).long()]

    def streamed(self, codes: Tensor, size: int) -> Tensor:
        """A batch passes, `size` positives first: their frequencies are updated, and log q of all its columns is given."""
        self.clock[1] += 1
        sampling.observe(self.last, self.gap, torch.unique(codes[:size].long()), int(self.clock[1]), RATE)
        return self._streamed(codes.clamp_min(0), size)

    def _streamed(self, codes: Tensor, size: int) -> Tensor:
        # 1 / gap is how likely a batch is to hold the item; one of its draws is that, near enough, divided by their number.
        own = 1.0 / self.gap[codes.long()].clamp_min(1e-12) / size
        n = self.config.n_negatives if self.config.negatives in ("uniform", "mixed") else 0
        q: Tensor = (size * own + n * self.uniform[codes.long()]) / (size + n)
        return q.log().float()


class Examples:
    """Rows of the positive events -> a Batch: B queries, their B positives, then the uniform negatives, shared by all, then each row's own.

    config: a `TwoTower.Config`. tasks: of each event, int [E]. shown: what each user was shown and did not want; users: of each event.
    learnt: the events that batches are made of (None: all), whose items are the in-batch negatives.
    """

    def __init__(
        self,
        config: Any,
        encoder: Encoder,
        history: History,
        items: Ints,
        n_items: int,
        seed: int,
        *,
        tasks: Ints | None = None,
        shown: Ragged | None = None,
        users: Ints | None = None,
        learnt: Longs | None = None,
    ) -> None:
        self.encoder, self.history, self.items, self.seed, self.hidden = encoder, history, items, seed, config.id_dropout
        self.config, self.tasks, self.shown, self.users = config, tasks, shown, users
        self.unigram = sampling.frequencies(items if learnt is None else items[learnt], n_items)
        # Items without events stay out, unless asked for: nothing can speak for them yet, and as negatives everything speaks against them.
        within = (sampling.frequencies(items, n_items) > 0) | (config.uniform_from == "catalogue")
        self.uniform = sampling.uniform(within)
        self.pool = np.flatnonzero(within).astype(np.int32)
        self.n_negatives = config.n_negatives if config.negatives in ("uniform", "mixed") else 0
        self.ids = [f.name for f in encoder.features.features if isinstance(f, Categorical) and f.source in ("user", "item")]

    def __call__(self, rows: Longs) -> Batch:
        # Seeded by the rows, so that a run taken up in the middle draws what it would have drawn; epochs shuffle them anew.
        rng = np.random.default_rng([self.seed, *rows[:8]])
        codes = np.concatenate((self.items[rows], sampling.draw_uniform(self.pool, self.n_negatives, rng)))
        extra = {}
        if self.shown is not None and self.users is not None:
            own = sampling.draw_of_each(self.shown, self.users[rows], self.config.n_impressions, rng)
            owner = np.where(own == NOTHING, NO_ONES, np.arange(len(rows))[:, None])
            extra["owner"] = np.concatenate((np.full(len(codes), SHARED), owner.ravel()))
            codes = np.concatenate((codes, own.ravel()))
        there = np.maximum(codes, 0)
        q = sampling.mixture(self.unigram[there], len(rows), self.uniform[there], self.n_negatives)
        # An item that was shown and never wanted by anybody is drawn by no one: as rare as the rarest.
        q = np.where(q > 0, q, 1 / (2 * len(self.items)))
        queries = self.encoder.encode_users(self.history.before(rows))
        encoded = beside(self._hide(queries, rng), self._hide(self.encoder.encode_items(codes), rng), self.encoder)
        batch = collate(encoded, extra=extra | {"codes": codes, "log_q": sampling.log_probabilities(q)})
        # Labels and weights belong to the queries alone: the length of the batch is B, not M.
        batch = replace(batch, labels=torch.ones(len(rows), 1), weights=torch.ones(len(rows)))
        if self.tasks is None:
            return batch
        task = torch.from_numpy(self.tasks[rows])
        return replace(batch, weights=torch.tensor(list(self.config.tasks.values()))[task.long()], extra={**batch.extra, "task": task})

    def _hide(self, encoded: Encoded, rng: np.random.Generator) -> Encoded:
        hidden = {}
        for name in self.ids:
            if name in encoded.sparse:
                ids = encoded.sparse[name]
                hidden[name] = Ragged(ids.offsets, np.where(rng.random(len(ids.values)) < self.hidden, OOV, ids.values))
        return replace(encoded, sparse=encoded.sparse | hidden)


class QueryTower(nn.Module):
    """The query tower on tensors alone, with copies of its tables: dense [B, F], ids [B, S, L] with 0 (PAD) at the end -> [B, D]."""

    def __init__(self, towers: Towers) -> None:
        super().__init__()
        features = towers.embeddings.inputs.sparse[: towers.sparse]
        tables = towers.embeddings.tables()
        for feature in features:
            if feature.table not in tables:
                raise ConfigError(f"export: the table of {feature.name!r} is compressed; train without `embedding` to export")
        self.order = list(dict.fromkeys(feature.table for feature in features))
        self.tables = nn.ParameterList([nn.Parameter(tables[name].detach().clone(), requires_grad=False) for name in self.order])
        self.place = [self.order.index(feature.table) for feature in features]
        self.means = [feature.pooling == "mean" for feature in features]
        self.towers = nn.Module()
        self.heads, self.blended = towers.heads, towers.blended
        self.query = towers.query

    def forward(self, dense: Tensor, ids: Tensor) -> Tensor:
        found = []
        for place, (table, mean) in enumerate(zip(self.place, self.means, strict=True)):
            own = ids[:, place]
            total = functional.embedding(own, self.tables[table]).sum(1)  # the row of PAD is zero
            found.append(total / (own != 0).sum(1, keepdim=True).clamp_min(1) if mean else total)
        return self.blended(self.heads(dense, torch.stack(found, 1)))


def together(query: Inputs, item: Inputs) -> Inputs:
    """The inputs of both towers, the query's first."""
    return Inputs(query.dense + item.dense, query.sparse + item.sparse)


def beside(query: Encoded | None, item: Encoded | None, encoder: Encoder) -> Encoded:
    """Queries and items in the same rows. The shorter side, or the one left out, ends in rows of zeros and empty bags."""
    rows = max(len(side) for side in (query, item) if side is not None)
    dense, sparse = [], {}
    nothing = Ragged(np.zeros(rows + 1, dtype=np.int64), np.zeros(0, dtype=np.int32))
    for encoded, inputs in ((query, encoder.inputs("user")), (item, encoder.inputs("item"))):
        known = 0 if encoded is None else len(encoded)
        dense.append(np.zeros((rows, len(inputs.dense)), dtype=np.float32))
        if encoded is not None:
            dense[-1][:known] = encoded.dense
        for feature in inputs.sparse:
            if encoded is None:
                sparse[feature.name] = nothing
                continue
            ids = encoded.sparse[feature.name]
            sparse[feature.name] = (
                ids if known == rows else Ragged(np.append(ids.offsets, np.full(rows - known, ids.offsets[-1])), ids.values)
            )
    return Encoded(np.concatenate(dense, axis=1), sparse, together(encoder.inputs("user"), encoder.inputs("item")))


def nothing_happened() -> History:
    """A store without users, items or events."""
    none: tuple[Ints, Ints, Longs] = (np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0, np.int64))
    items = pl.DataFrame({"item": pl.Series([], dtype=pl.String)})
    return History(pl.Series("user", [], dtype=pl.String), items, none, none, np.zeros(0, np.int32), 0, pl.DataFrame())

"""Two towers: one network reads the query, another the item, and the score is the inner product of what they say.

    s(x, y) = <u(x), v(y)>            u, v scaled to length one if similarity is "cosine"

Queries are who asks: user id, history, user columns, context. Items are ids and item columns. The towers meet only in the inner
product, so all item vectors are computed once and searched, whoever asks. Covington et al. 2016, "Deep Neural Networks for
YouTube Recommendations", section 3; Yi et al. 2019, "Sampling-Bias-Corrected Neural Modeling for Large Corpus Item
Recommendations"; Yang et al. 2020, "Mixed Negative Sampling for Learning Two-tower Neural Networks in Recommendations".

Ids that training never saw share one id, OOV. `id_dropout` hides some ids in training, so that OOV learns to lean on the
features and the history, and cold users and items are served from theirs (Volkovs et al. 2017, "DropoutNet").
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal, Self

import numpy as np
import polars as pl
import pydantic
import torch
from torch import Tensor, nn
from torch.nn import functional

from palate import sampling
from palate.config import Training
from palate.features.collate import collate
from palate.features.encode import Encoded, Encoder
from palate.features.history import History
from palate.features.loader import Loader
from palate.features.spec import Categorical, Counter, FeatureSet, Sequence
from palate.features.vocab import OOV
from palate.losses import in_batch_softmax, sampled_softmax
from palate.nn.embedding import Embeddings
from palate.nn.mlp import MLP
from palate.retrieve.ann import IndexConfig, build_index, restore_index
from palate.retrieve.base import Retriever, wanted
from palate.retrieve.factorized import hold_out, validation
from palate.retrieve.index import Index, fingerprint
from palate.retrieve.topk import inner_products, query_matrix, strongest
from palate.types import Batch, Candidates, ConfigError, Floats, Inputs, Ints, Log, Longs, Queries, Ragged, Run, State

ROWS = 4096
"""Rows encoded at once when serving."""


class TwoTower(Retriever):
    """Any features on both sides; softmax over the positive events, each asked with what was known strictly before it."""

    class Config(Retriever.Config):
        """width: of embeddings and of both vectors. query_layers, item_layers: hidden layers between the two (none: linear).
        dropout: in them.

        features: what the towers read; by default what the log suggests, less counters. history: how many past items a query carries,
        as the mean of their embeddings; recent: how many of them make up a second mean, since a mean knows no order.
        negatives: what a positive is told from. `uniform`: draws from the items with events; `in_batch`: the positives of the other
        rows; `in_batch_log_q`: the same, corrected for their popularity; `mixed`: both, corrected for the mixture.
        n_negatives: uniform draws a batch, shared by its rows. remove_accidental_hits: the row's own positive is never its negative.
        temperature: divides the scores. id_dropout: share of user ids, and of item ids, replaced by OOV in training.
        validate_on: users whose last event is held out of training, to watch `recall@1`, `@10`, `@100` and `mrr` over the whole catalogue
        after each epoch (`train.monitor` may name one, and the best epoch is kept). index: how items are searched.
        train: how it is trained; settings left out are those of this model, not of `Training`.
        """

        width: int = pydantic.Field(64, ge=1)
        query_layers: tuple[int, ...] = ()
        item_layers: tuple[int, ...] = ()
        dropout: float = pydantic.Field(0.0, ge=0, lt=1)
        features: FeatureSet | None = None
        history: int = pydantic.Field(50, ge=0)
        recent: int = pydantic.Field(5, ge=0)
        negatives: Literal["uniform", "in_batch", "in_batch_log_q", "mixed"] = "mixed"
        n_negatives: int = pydantic.Field(512, ge=1)
        remove_accidental_hits: bool = True
        similarity: Literal["cosine", "dot"] = "cosine"
        temperature: float = pydantic.Field(0.1, gt=0)
        id_dropout: float = pydantic.Field(0.1, ge=0, lt=1)
        validate_on: int = pydantic.Field(0, ge=0)
        index: IndexConfig = IndexConfig()
        train: Training = Training(epochs=3, batch_size=512, sparse_lr=0.1)

        @pydantic.field_validator("train", mode="before")
        @classmethod
        def _what_is_left_out_is_the_models_own(cls, given: Any) -> Any:
            own = cls.model_fields["train"].default.model_dump()
            if isinstance(given, Training):
                return own | {key: getattr(given, key) for key in given.model_fields_set}
            return own | dict(given) if isinstance(given, Mapping) else given

    config: Config
    curves: Mapping[str, list[float]]
    """Of the training: a list a metric, one value an epoch."""
    index: Index
    version: str
    """Of the towers: the fingerprint of their weights, which the index carries."""

    def fit(self, log: Log, run: Run = Run()) -> Self:
        """Cost: for each positive event and epoch, one query tower, 1 + n_negatives / batch_size item towers, and a row of scores."""
        if run.train is None:
            raise ConfigError(f"{self.name}: a network needs a training engine; give run=Run(train=Trainer())")
        validate = None
        if self.config.validate_on:
            log, asked, found = hold_out(log, self.config.validate_on, run.seed)
            validate = validation(self, asked, found, log.n_items)
        positives, history = wanted(log), History.of(log)
        encoder = Encoder.fit(self._features(log), log, history)
        examples = Examples(self.config, encoder, history, positives.item_codes, log.n_items, run.seed)
        loader = Loader(len(positives), examples, self.config.train.batch_size, seed=run.seed)
        with torch.random.fork_rng():
            torch.manual_seed(run.seed)
            self._build(encoder)
            self.curves = run.train(self.network, loader, self.step, self.config.train, name=self.name, run=run, validate=validate)
        self.network.cpu().eval()
        self._index(history, log.n_items, run)
        return self

    def _index(self, history: History, n_items: int, run: Run) -> None:
        self.version = fingerprint(self._weights())
        users = np.arange(history.n_users, dtype=np.int32)
        asked = np.random.default_rng(run.seed).choice(users, min(len(users), self.config.index.sample), replace=False)
        queries = None if self.config.index.kind == "exact" else self.encode_queries(history.queries(asked))
        vectors, settings = self.encode_items(np.arange(n_items, dtype=np.int32)), self.config.index
        self.index = build_index(vectors, settings, version=self.version, queries=queries, seed=run.seed, quiet=run.quiet)

    def _weights(self) -> dict[str, Any]:
        return {name: tensor.detach().cpu().numpy() for name, tensor in self.network.state_dict().items()}

    def _features(self, log: Log) -> FeatureSet:
        if self.config.features is None:
            derived = FeatureSet.derive(log, history=self.config.history)
            derived = derived.without(*(feature.name for feature in derived.features if isinstance(feature, Counter)))
            return derived.override(Sequence(name="recent", length=self.config.recent)) if self.config.recent else derived
        for feature in self.config.features.features:
            if feature.side == "pair":
                raise ConfigError(f"{self.name}.features.{feature.name}: reads query and item together; a tower sees only one of them")
        return self.config.features

    def _build(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self.network = Towers(self.config, encoder.inputs("user"), encoder.inputs("item"))

    def step(self, network: Any, batch: Batch) -> dict[str, Tensor]:
        """The loss of one batch: B queries against M items, of which the first B are their positives."""
        queries, items = network(batch)
        scores = (queries.float() / self.config.temperature) @ items.float().T
        codes, size, hits_out = batch.extra["codes"], len(batch), self.config.remove_accidental_hits
        if self.config.negatives == "uniform":
            hits = codes[:size, None] == codes[size:] if hits_out else None
            # No log q: it is the same for every item.
            return {"loss": sampled_softmax(scores.diagonal(), scores[:, size:], hits=hits, weights=batch.weights)}
        log_q = None if self.config.negatives == "in_batch" else batch.extra["log_q"]
        return {"loss": in_batch_softmax(scores, codes, log_q=log_q, remove_accidental_hits=hits_out, weights=batch.weights)}

    def encode_queries(self, queries: Queries) -> Floats:
        """Query vectors, float32 [B, D]; unknown users are OOV, and told by their history and context."""
        return self._vectors(lambda rows: beside(self.encoder.encode_users(queries.take(rows)), None, self.encoder), len(queries), 0)

    def encode_items(self, items: Ints) -> Floats:
        """Item vectors, float32 [R, D]; items without events are OOV, and told by their features."""
        return self._vectors(lambda rows: beside(None, self.encoder.encode_items(items[rows]), self.encoder), len(items), 1)

    def _vectors(self, encode: Callable[[Longs], Encoded], size: int, tower: int) -> Floats:
        vectors = np.empty((size, self.config.width), dtype=np.float32)
        device = next(self.network.parameters()).device
        with torch.no_grad():  # not inference_mode: the CPU kernels of FBGEMM are registered for autograd only
            for start in range(0, size, ROWS):
                rows = np.arange(start, min(start + ROWS, size))
                vectors[rows] = self.network(collate(encode(rows)).to(device))[tower].float().cpu().numpy()
        return vectors

    def retrieve(self, queries: Queries, k: int) -> Candidates:
        """Cost of exact search: O(B N D)."""
        return self.index.retrieve(self.encode_queries(queries), queries, k, self.name, version=self.version)

    def score(self, queries: Queries, items: Ints) -> Floats:
        return inner_products(self.encode_queries(queries), self.index.vectors, items)

    @property
    def serves_new_users(self) -> frozenset[str]:
        return frozenset({"history", "context"})

    @property
    def serves_new_items(self) -> bool:
        return True

    def because(self, queries: Queries, items: Ints) -> Ints:
        """The history item whose vector is nearest to the item's."""
        known, vectors = query_matrix(queries.history, len(self.index), last=self.config.history), self.index.vectors
        return strongest(known, items, lambda _, history, found: vectors[history] @ vectors[found].T)

    def state(self) -> State:
        encoder = self.encoder.state()
        arrays = {f"encoder.{name}": array for name, array in encoder.arrays.items()}
        index = self.index.state()
        arrays |= {f"network.{name}": array for name, array in self._weights().items()}
        arrays |= {f"index.{name}": array for name, array in index.arrays.items()}
        return State(arrays, encoder.frames, {"encoder": encoder.meta, "index": index.meta})

    def restore(self, state: State) -> Self:
        def part(prefix: str) -> dict[str, Any]:
            return {name.removeprefix(prefix): array for name, array in state.arrays.items() if name.startswith(prefix)}

        # Neither side reads the store of past events: a query brings its history along.
        encoder = Encoder.restore(State(part("encoder."), state.frames, state.meta["encoder"]), nothing_happened())
        self._build(encoder)
        self.network.load_state_dict({name: torch.tensor(array) for name, array in part("network.").items()})
        self.network.eval()
        self.version = fingerprint(self._weights())
        self.index = restore_index(State(part("index."), meta=state.meta["index"]), self.config.index)
        return self


class Towers(nn.Module):
    """Batch -> query vectors [B, D] and item vectors [M, D]. Rows beyond the first B carry no query, only an item."""

    def __init__(self, config: TwoTower.Config, query: Inputs, item: Inputs) -> None:
        super().__init__()
        self.dense, self.sparse, self.cosine = len(query.dense), len(query.sparse), config.similarity == "cosine"
        self.embeddings = Embeddings(together(query, item), config.width, config.train, init="normal", std=config.width**-0.5)
        self.query, self.item = (
            MLP(len(side.dense) + len(side.sparse) * config.width, layers, dropout=config.dropout, out=config.width)
            for side, layers in ((query, config.query_layers), (item, config.item_layers))
        )

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        embedded, size = self.embeddings(batch.sparse), len(batch)
        queries = self.query(torch.cat((batch.dense[:size, : self.dense], embedded[:size, : self.sparse].flatten(1)), 1))
        items = self.item(torch.cat((batch.dense[:, self.dense :], embedded[:, self.sparse :].flatten(1)), 1))
        return (functional.normalize(queries), functional.normalize(items)) if self.cosine else (queries, items)


class Examples:
    """Rows of the positive events -> a Batch: B queries, their B positives, then the uniform negatives, shared by all."""

    def __init__(self, config: TwoTower.Config, encoder: Encoder, history: History, items: Ints, n_items: int, seed: int) -> None:
        self.encoder, self.history, self.items, self.seed, self.hidden = encoder, history, items, seed, config.id_dropout
        self.unigram = sampling.frequencies(items, n_items)
        # Items without events stay out: nothing can speak for them yet, and as negatives everything would speak against them.
        self.uniform = sampling.uniform(self.unigram > 0)
        self.pool = np.flatnonzero(self.unigram).astype(np.int32)
        self.n_negatives = config.n_negatives if config.negatives in ("uniform", "mixed") else 0
        self.ids = [f.name for f in encoder.features.features if isinstance(f, Categorical) and f.source in ("user", "item")]

    def __call__(self, rows: Longs) -> Batch:
        # Seeded by the rows, so that a run taken up in the middle draws what it would have drawn; epochs shuffle them anew.
        rng = np.random.default_rng([self.seed, *rows[:8]])
        codes = np.concatenate((self.items[rows], sampling.draw_uniform(self.pool, self.n_negatives, rng)))
        q = sampling.mixture(self.unigram[codes], len(rows), self.uniform[codes], self.n_negatives)
        queries = self.encoder.encode_users(self.history.before(rows))
        encoded = beside(self._hide(queries, rng), self._hide(self.encoder.encode_items(codes), rng), self.encoder)
        batch = collate(encoded, extra={"codes": codes, "log_q": sampling.log_probabilities(q)})
        # Labels and weights belong to the queries alone: the length of the batch is B, not M.
        return replace(batch, labels=torch.ones(len(rows), 1), weights=torch.ones(len(rows)))

    def _hide(self, encoded: Encoded, rng: np.random.Generator) -> Encoded:
        hidden = {}
        for name in self.ids:
            if name in encoded.sparse:
                ids = encoded.sparse[name]
                hidden[name] = Ragged(ids.offsets, np.where(rng.random(len(ids.values)) < self.hidden, OOV, ids.values))
        return replace(encoded, sparse=encoded.sparse | hidden)


def together(query: Inputs, item: Inputs) -> Inputs:
    """The inputs of both towers, the query's first."""
    return Inputs(query.dense + item.dense, query.sparse + item.sparse)


def beside(query: Encoded | None, item: Encoded | None, encoder: Encoder) -> Encoded:
    """Queries and items in the same rows. The shorter side, or the one left out, ends in rows of zeros and empty bags."""
    rows = max(len(side) for side in (query, item) if side is not None)
    dense, sparse = [], {}
    for encoded, inputs in ((query, encoder.inputs("user")), (item, encoder.inputs("item"))):
        known = 0 if encoded is None else len(encoded)
        dense.append(np.zeros((rows, len(inputs.dense)), dtype=np.float32))
        if encoded is not None:
            dense[-1][:known] = encoded.dense
        for feature in inputs.sparse:
            ids = Ragged.of([]) if encoded is None else encoded.sparse[feature.name]
            sparse[feature.name] = Ragged(np.pad(ids.offsets, (0, rows - known), mode="edge"), ids.values)
    return Encoded(np.concatenate(dense, axis=1), sparse, together(encoder.inputs("user"), encoder.inputs("item")))


def nothing_happened() -> History:
    """A store without users, items or events."""
    none: tuple[Ints, Ints, Longs] = (np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0, np.int64))
    items = pl.DataFrame({"item": pl.Series([], dtype=pl.String)})
    return History(pl.Series("user", [], dtype=pl.String), items, none, none, np.zeros(0, np.int32), 0, pl.DataFrame())

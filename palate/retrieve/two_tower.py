"""Two towers: one network reads the query, another the item, and the score is the inner product of what they say.

    s(x, y) = <u(x), v(y)>            u, v scaled to length one if similarity is "cosine"

Queries are who asks: user id, history, user columns, context. Items are ids and item columns. The towers meet only in the inner
product, so all item vectors are computed once and searched, whoever asks. Covington et al. 2016, "Deep Neural Networks for
YouTube Recommendations", section 3; Yi et al. 2019, "Sampling-Bias-Corrected Neural Modeling for Large Corpus Item
Recommendations"; Yang et al. 2020, "Mixed Negative Sampling for Learning Two-tower Neural Networks in Recommendations".

Beyond the softmax over easy negatives: hard ones, shown and not wanted or brought by the index as the towers now stand (Huang et al.
2020, "Embedding-based Retrieval in Facebook Search", section 6.1); frequencies estimated from the stream; the cosine contrastive loss and
the gate between user and history of Mao et al. 2021, "SimpleX", equations 1 and 2; and several tasks, a head of the query tower each:

    s(x, y) = sum_t a_t <u_t(x), v(y)> = <sum_t a_t u_t(x), v(y)>,     so that one search serves them all.

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
from torch import Tensor

from palate import sampling
from palate.config import Training
from palate.features.collate import collate
from palate.features.encode import Encoded, Encoder
from palate.features.history import History
from palate.features.loader import Loader
from palate.features.spec import Categorical, Counter, FeatureSet, Sequence
from palate.losses import cosine_contrastive, in_batch_softmax_of, sampled_softmax
from palate.nn.warm import go_on, same_columns
from palate.retrieve.ann import IndexConfig, build_index, restore_index
from palate.retrieve.base import Retriever, wanted
from palate.retrieve.factorized import hold_out, validation
from palate.retrieve.index import Index, fingerprint
from palate.retrieve.topk import query_matrix, strongest
from palate.retrieve.towers import NO_ONES, SHARED, Examples, QueryTower, Towers, beside, nothing_happened
from palate.types import Batch, Candidates, ConfigError, Floats, Ints, Log, Longs, Queries, Ragged, Run, State

ROWS = 4096
"""Rows encoded at once when serving."""


class TwoTower(Retriever):
    """Any features on both sides; softmax over the positive events, each asked with what was known strictly before it."""

    class Config(Retriever.Config):
        """width: of embeddings and of both vectors. query_layers, item_layers: hidden layers between the two (none: linear).
        dropout: in them.

        features: what the towers read; by default what the log suggests, less counters. history: how many past items a query carries,
        as the mean of their embeddings; recent: how many of them make up a second mean, since a mean knows no order.
        negatives: what a positive is told from. `uniform`: draws from the items; `in_batch`: the positives of the other
        rows; `in_batch_log_q`: the same, corrected for their popularity; `mixed`: both, corrected for the mixture.
        n_negatives: uniform draws a batch, shared by its rows. uniform_from: of the items with `events`, or of the whole `catalogue`, as in
        Yang et al. 2020: items without events then learn to stand back, told by their features and by OOV, which they share; `n_hard`
        searches the same items. remove_accidental_hits: the row's own positive is never its negative.
        frequency: where the q of log q comes from, all events counted beforehand or the batches as they pass (`sampling.observe`).
        impressions: event kinds that say "shown"; what a user was shown and never wanted is then drawn, `n_impressions` a row, as negatives
        of that row alone, and so is what the user never wants to see again (the log's negative kinds). n_hard: so many negatives a row from
        what the towers themselves bring for it, after the `hard_skip` best; the item vectors they search are made anew every `hard_refresh`
        steps. Both have the log q of any column that holds their item.
        tasks: what each positive kind weighs, in the loss and in the list: a head of the query tower for each (None: one for all).
        loss: `ccl` with `margin` and `negative_weight` needs cosines, and takes no log q. user_weight: g of SimpleX: the query is
        g x (embedding of the user id) + (1 - g) x (tower of everything else); None: the id is one feature among the others.
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
        uniform_from: Literal["events", "catalogue"] = "events"
        remove_accidental_hits: bool = True
        frequency: Literal["counted", "streaming"] = "counted"
        impressions: tuple[str, ...] = ()
        n_impressions: int = pydantic.Field(4, ge=1)
        n_hard: int = pydantic.Field(0, ge=0)
        hard_skip: int = pydantic.Field(10, ge=0)
        hard_refresh: int = pydantic.Field(200, ge=1)
        tasks: Mapping[str, float] | None = None
        loss: Literal["softmax", "ccl"] = "softmax"
        margin: float = pydantic.Field(0.4, ge=-1, lt=1)
        negative_weight: float = pydantic.Field(100.0, gt=0)
        user_weight: float | None = pydantic.Field(None, ge=0, le=1)
        similarity: Literal["cosine", "dot"] = "cosine"
        temperature: float = pydantic.Field(0.1, gt=0)
        id_dropout: float = pydantic.Field(0.1, ge=0, lt=1)
        validate_on: int = pydantic.Field(0, ge=0)
        index: IndexConfig = IndexConfig()
        train: Training = Training(epochs=3, batch_size=512, sparse_lr=0.1)

        @pydantic.model_validator(mode="after")
        def _contrast_is_of_cosines(self) -> Self:
            if self.loss == "ccl" and (self.similarity != "cosine" or self.negatives not in ("uniform", "in_batch")):
                raise ValueError('loss = "ccl" needs similarity = "cosine" and negatives = "uniform" or "in_batch" (it takes no log q)')
            if self.tasks is not None and not (self.tasks and all(weight > 0 for weight in self.tasks.values())):
                raise ValueError(f"tasks: a weight above 0 for each positive kind expected, got {dict(self.tasks)}")
            return self

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
        positives, history, training = wanted(log), History.of(log), self.config.train
        rows = np.arange(len(positives))
        before: TwoTower | None = run.warm.before(self) if run.warm else None
        read = before.encoder.features if before is not None and before.config == self.config else self._features(log)
        encoder = Encoder.fit(read, log, history, None if before is None else before.encoder)
        same = before is not None and same_columns(encoder.inputs(), before.encoder.inputs())
        if run.warm is not None and same:
            rows = run.warm.chosen(positives.times, run.seed)
            training = training.model_copy(update={"epochs": run.warm.epochs_of(training.epochs)})
        more: dict[str, Any] = {"tasks": self._tasks_of(positives), "shown": self._shown(log, positives), "users": positives.user_codes}
        examples = Examples(self.config, encoder, history, positives.item_codes, log.n_items, run.seed, learnt=rows, **more)
        loader = Loader(len(rows), lambda chosen: examples(rows[chosen]), training.batch_size, seed=run.seed)
        with torch.random.fork_rng():
            torch.manual_seed(run.seed)
            self._build(encoder)
            if before is not None:
                go_on(self.network, before.network, encoder.rows_of(before.encoder), same)
            self.network.remember(examples)
            self.curves = run.train(self.network, loader, self.step, training, name=self.name, run=run, validate=validate)
        self.network.forget()
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
        users = [f.name for f in encoder.features.features if isinstance(f, Categorical) and f.source == "user"]
        if self.config.user_weight is not None and not users:
            raise ConfigError(f"{self.name}.user_weight: there is no user id among the features")
        self.network = Towers(self.config, encoder.inputs("user"), encoder.inputs("item"), users[0] if users else None)

    def _tasks_of(self, positives: Log) -> Ints | None:
        """Which task each positive event belongs to, int [E]."""
        if self.config.tasks is None:
            return None
        kinds, names = positives.events["kind"].cast(pl.String), list(self.config.tasks)
        for kind in [*kinds.unique().sort(), *names]:
            if kind not in names or kind not in positives.positive:
                raise ConfigError(f"{self.name}.tasks: names {', '.join(names)}; the positive kinds are {', '.join(positives.positive)}")
        return kinds.replace_strict(dict(zip(names, range(len(names)), strict=True)), return_dtype=pl.Int32).to_numpy()

    def _shown(self, log: Log, positives: Log) -> Ragged | None:
        if not self.config.impressions:
            return None
        kinds = log.events["kind"].cast(pl.String)
        shown = log.where(kinds.is_in([*self.config.impressions, *log.negative]).to_numpy())
        if not len(shown):
            there = ", ".join(kinds.unique().sort())
            raise ConfigError(f"{self.name}.impressions: no event of kind {', '.join(self.config.impressions)}; the log has {there}")
        taken = (positives.user_codes, positives.item_codes)
        return sampling.shown_not_wanted((shown.user_codes, shown.item_codes), taken, log.n_users, log.n_items)

    def step(self, network: Any, batch: Batch) -> dict[str, Tensor]:
        """The loss of one batch: B queries against M items, of which the first B are their positives."""
        config, extra, size = self.config, batch.extra, len(batch)
        queries, items = network(batch)
        codes, log_q = extra["codes"], extra["log_q"]
        owner = extra.get("owner")
        if config.frequency == "streaming":
            log_q = self.network.streamed(codes, size)
        if config.n_hard:
            found = self._hard(queries, codes[:size])
            hard = collate(beside(None, self.encoder.encode_items(found.ravel()), self.encoder)).to(items.device)
            items = torch.cat((items, network(replace(hard, labels=hard.labels[:0], weights=hard.weights[:0]))[1]))
            more = torch.from_numpy(found.ravel()).to(codes.device)
            rows = torch.arange(size, device=codes.device).repeat_interleave(config.n_hard)
            others = torch.full_like(codes, SHARED) if owner is None else owner
            codes, owner = torch.cat((codes, more)), torch.cat((others, rows.masked_fill(more < 0, NO_ONES)))
            log_q = torch.cat((log_q, self.network.log_q_of(more)))
        if config.loss == "softmax" and config.negatives != "uniform":
            named: dict[str, Any] = {"log_q": None if config.negatives == "in_batch" else log_q, "owner": owner, "weights": batch.weights}
            named |= {"temperature": config.temperature, "remove_accidental_hits": config.remove_accidental_hits}
            return {"loss": in_batch_softmax_of(queries, items, codes, **named)}
        scores = queries.float() @ items.float().T
        rows = torch.arange(size, device=codes.device)[:, None]
        closed = codes[:size, None] == codes if config.remove_accidental_hits else torch.zeros_like(scores, dtype=torch.bool)
        if owner is not None:  # a row's own columns are no negatives of the others; NO_ONES holds nothing at all
            closed |= (owner != SHARED) & (owner != rows)
        beyond = slice(size if config.negatives == "uniform" else 0, None)
        if config.loss == "ccl":
            hits = (closed | (rows == torch.arange(len(codes), device=codes.device)))[:, beyond]
            return {"loss": cosine_contrastive(scores.diagonal(), scores[:, beyond], config.margin, config.negative_weight, hits)}
        # No log q: it is the same for every item.
        scores = scores / config.temperature
        return {"loss": sampled_softmax(scores.diagonal(), scores[:, beyond], hits=closed[:, beyond], weights=batch.weights)}

    def _hard(self, queries: Tensor, positives: Tensor) -> Ints:
        """Item codes [B, n_hard] that the towers bring for these queries, NOTHING where too few. Cost: O(B N D)."""
        if self.network.is_due(self.config.hard_refresh):
            training = self.network.training
            self.network.eval()
            self.network.mined.copy_(torch.from_numpy(self.encode_items(self.network.pool.cpu().numpy())))
            self.network.train(training)
        scores = queries.detach().float() @ self.network.mined.T
        places = scores.topk(min(self.config.n_hard + self.config.hard_skip + 1, scores.shape[1])).indices
        found, own = (codes.cpu().numpy().astype(np.int32) for codes in (self.network.pool[places], positives))
        return sampling.hardest(found, own, self.config.n_hard, self.config.hard_skip)

    def export_query_tower(self) -> Any:
        """The query tower as a program of torch.export (`ExportedProgram`), with its tables: (dense [B, F], ids [B, S, L]) -> [B, D].

        dense, and the sparse features s and their order: those of `encoder.inputs("user")`. ids: int64, each feature's bag filled up with 0
        (PAD). B and L may be anything from 2 on. No layer of it depends on the other rows. Raises ConfigError for compressed tables.
        """
        tower = QueryTower(self.network).eval()
        sizes = {0: torch.export.Dim("batch", min=2), 2: torch.export.Dim("length", min=2)}
        given = (torch.zeros(4, self.network.dense), torch.zeros(4, self.network.sparse, 3, dtype=torch.int64))
        return torch.export.export(tower, given, dynamic_shapes=({0: sizes[0]}, sizes))

    def encode_queries(self, queries: Queries) -> Floats:
        """Query vectors, float32 [B, D]; unknown users are OOV, and told by their history and context."""

        def encode(rows: Longs) -> Encoded:
            part = queries if len(rows) == len(queries) else queries.take(rows)
            return beside(self.encoder.encode_users(part), None, self.encoder)

        return self._vectors(encode, len(queries), 0)

    def encode_items(self, items: Ints) -> Floats:
        """Item vectors, float32 [R, D]; items without events are OOV, and told by their features."""
        return self._vectors(lambda rows: beside(None, self.encoder.encode_items(items[rows]), self.encoder), len(items), 1)

    def _vectors(self, encode: Callable[[Longs], Encoded], size: int, tower: int) -> Floats:
        vectors = np.empty((size, self.config.width), dtype=np.float32)
        device = next(self.network.parameters()).device
        with torch.no_grad():  # not inference_mode: the CPU kernels of FBGEMM are registered for autograd only
            for start in range(0, size, ROWS):
                rows = np.arange(start, min(start + ROWS, size))
                vectors[rows] = self.network.side(collate(encode(rows)).to(device), tower).float().cpu().numpy()
        return vectors

    def retrieve(self, queries: Queries, k: int) -> Candidates:
        """Cost of exact search: O(B N D)."""
        return self.index.retrieve(self.encode_queries(queries), queries, k, self.name, version=self.version)

    def score(self, queries: Queries, items: Ints) -> Floats:
        return self.index.score(self.encode_queries(queries), items)

    @property
    def serves_new_users(self) -> frozenset[str]:
        return frozenset({"history", "context"})

    @property
    def serves_new_items(self) -> bool:
        return True

    def because(self, queries: Queries, items: Ints) -> Ints:
        """The history item whose vector is nearest to the item's."""
        known, rows = query_matrix(queries.history, len(self.index), last=self.config.history), self.index.rows
        return strongest(known, items, lambda _, history, found: rows(history) @ rows(found).T)

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

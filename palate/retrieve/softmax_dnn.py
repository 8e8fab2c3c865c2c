"""The softmax network of YouTube: a deep tower reads the query, and a softmax over all items says what comes next.

    u = MLP([dense features; mean of the history's embeddings; embeddings of the other features])
    p(y | u) = exp(<u, v_y> + c_y) / sum_j exp(<u, v_j> + c_j)

P. Covington, J. Adams, E. Sargin 2016, "Deep Neural Networks for YouTube Recommendations", section 3. An item has no features, only its
row v_y of the softmax, which is another than its row in the history. Each positive event is predicted from what was known strictly before
it, never from the rest of the user's events (section 3.4). There is no user id: users are told by history, columns and context alone, so
that somebody new is served like everybody else. At serving time the softmax is a nearest-neighbour search (section 3.1).

`softmax = "sampled"` draws negatives from q and takes log q off (section 3.1, after Jean et al. 2015); "full" takes all items, in chunks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal, Self

import numpy as np
import pydantic
import torch
from torch import Tensor, nn

from palate import losses, sampling
from palate.config import Training
from palate.features.collate import collate
from palate.features.encode import Encoder
from palate.features.history import History
from palate.features.loader import Loader
from palate.features.spec import Categorical, Counter, FeatureSet, Sequence
from palate.nn.embedding import Embeddings
from palate.nn.mlp import MLP
from palate.nn.warm import go_on, same_columns
from palate.retrieve.base import Retriever, places, wanted
from palate.retrieve.index import ExactIndex
from palate.retrieve.topk import inner_products, query_matrix, strongest
from palate.retrieve.towers import nothing_happened
from palate.types import Batch, Bools, Candidates, ConfigError, Floats, Inputs, Ints, Log, Longs, Queries, Run, SparseInput, State

ROWS = 4096
"""Queries encoded at once when serving."""


class SoftmaxDNN(Retriever):
    """A query tower against a softmax over items. Serves users it never saw from their history, and from their context alone.

    Items without events are never brought. Cost of training a positive: one query tower, and a score of every item ("full", three
    matrix products of N x width) or of the draws ("sampled"). Memory: features and items x width, and chunks of scores.
    """

    class Config(Retriever.Config):
        """width: of embeddings, and of u and v. layers: hidden layers of the tower, before a linear one to u. dropout: in them.

        features: what the tower reads, nothing of the item; by default what the log suggests, less counters and the user id. history,
        recent: how many past items make up the mean, and a second mean of the newest. softmax: see the module. n_negatives: draws of
        "sampled" a batch, which its rows share. power: q is proportional to popularity^power. temperature: divides the scores.
        train: how it is trained; settings left out are those of this model, not of `Training`.
        """

        width: int = pydantic.Field(64, ge=1)
        layers: tuple[int, ...] = (256, 128)
        dropout: float = pydantic.Field(0.0, ge=0, lt=1)
        features: FeatureSet | None = None
        history: int = pydantic.Field(50, ge=0)
        recent: int = pydantic.Field(5, ge=0)
        softmax: Literal["full", "sampled"] = "sampled"
        n_negatives: int = pydantic.Field(2048, ge=1)
        power: float = pydantic.Field(0.75, ge=0)
        temperature: float = pydantic.Field(1.0, gt=0)
        train: Training = Training(epochs=5, batch_size=512, sparse_lr=0.1)

    config: Config
    curves: Mapping[str, list[float]]
    """Of the training: a list a metric, one value an epoch."""
    encoder: Encoder
    network: Network
    index: ExactIndex

    def fit(self, log: Log, run: Run = Run()) -> Self:
        if run.train is None:
            raise ConfigError(f"{self.name}: a network needs a training engine; give run=Run(train=Trainer())")
        positives, history = wanted(log), History.of(log)
        pool = np.unique(positives.item_codes)
        place = np.zeros(log.n_items, dtype=np.int32)
        place[pool] = np.arange(len(pool))
        rows, training = np.arange(len(positives)), self.config.train
        before: SoftmaxDNN | None = run.warm.before(self) if run.warm else None
        read = before.encoder.features if before is not None and before.config == self.config else self._features(log)
        self.encoder = Encoder.fit(read, log, history, None if before is None else before.encoder)
        same = before is not None and same_columns(self.encoder.inputs("user"), before.encoder.inputs("user"))
        if run.warm is not None and same:
            rows = run.warm.chosen(positives.times, run.seed)
            training = training.model_copy(update={"epochs": run.warm.epochs_of(training.epochs)})
        examples = Examples(self.config, self.encoder, history, place[positives.item_codes], len(pool), run.seed)
        loader = Loader(len(rows), lambda chosen: examples(rows[chosen]), training.batch_size, seed=run.seed)
        with torch.random.fork_rng():
            torch.manual_seed(run.seed)
            self.network = Network(self.config, self.encoder.inputs("user"), len(pool))
            if run.warm is not None and before is not None:
                go_on(self.network, before.network, self.encoder.rows_of(before.encoder), same)
                items = places(log.items["item"], run.warm.funnel.items["item"])[pool]
                old = np.append(before.learnt, False)[items]
                self.network.start(np.flatnonzero(old), before.index.vectors[items[old]])
            self.curves = run.train(self.network, loader, self.step, training, name=self.name, run=run)
        self.network.cpu().eval()
        with torch.no_grad():
            softmax, bias = self.network.items(None)
        vectors = np.zeros((log.n_items, self.config.width + 1), dtype=np.float32)
        vectors[pool] = torch.cat((softmax, bias[:, None]), 1).numpy()
        self.learnt: Bools = np.isin(np.arange(log.n_items), pool)
        self.index = ExactIndex(vectors)
        return self

    def _features(self, log: Log) -> FeatureSet:
        given = self.config.features
        if given is None:
            derived = FeatureSet.derive(log, history=self.config.history)
            ids = [f.name for f in derived.features if isinstance(f, Categorical) and f.source == "user"]
            others = [f.name for f in derived.features if f.side != "user" or isinstance(f, Counter)]
            derived = derived.without(*ids, *others)
            return derived.override(Sequence(name="recent", length=self.config.recent)) if self.config.recent else derived
        for feature in given.features:
            if feature.side != "user":
                raise ConfigError(f"{self.name}.features.{feature.name}: reads the item; the tower sees only the query")
        return given

    def step(self, network: Any, batch: Batch) -> dict[str, Tensor]:
        """The loss of one batch."""
        return {"loss": network(batch)}

    def encode_queries(self, queries: Queries) -> Floats:
        """float32 [B, D + 1], the last column 1, for the bias of the item."""
        vectors = np.ones((len(queries), self.config.width + 1), dtype=np.float32)
        with torch.no_grad():  # not inference_mode: the CPU kernels of FBGEMM are registered for autograd only
            for start in range(0, len(queries), ROWS):
                part = queries[start : start + ROWS]
                vectors[start : start + len(part), :-1] = self.network.query(collate(self.encoder.encode_users(part))).numpy()
        return vectors

    def retrieve(self, queries: Queries, k: int) -> Candidates:
        """Exact search. Cost: O(B N D)."""
        allowed = self.learnt if queries.allowed is None else self.learnt & queries.allowed
        return self.index.retrieve(self.encode_queries(queries), replace(queries, allowed=allowed), k, self.name)

    def score(self, queries: Queries, items: Ints) -> Floats:
        return np.where(self.learnt[items], inner_products(self.encode_queries(queries), self.index.vectors, items), np.float32(-np.inf))

    @property
    def serves_new_users(self) -> frozenset[str]:
        return frozenset({"history", "context"})

    def because(self, queries: Queries, items: Ints) -> Ints:
        """The history item whose row of the softmax is nearest to the item's."""
        known, vectors = query_matrix(queries.history, len(self.index), last=self.config.history), self.index.vectors[:, :-1]
        return strongest(known, items, lambda _, history, found: vectors[history] @ vectors[found].T)

    def state(self) -> State:
        encoder = self.encoder.state()
        arrays = {f"encoder.{name}": array for name, array in encoder.arrays.items()}
        arrays |= {f"tower.{name}": tensor.detach().numpy() for name, tensor in self.network.tower.state_dict().items()}
        return State(arrays | {"vectors": self.index.vectors, "learnt": self.learnt}, encoder.frames, {"encoder": encoder.meta})

    def restore(self, state: State) -> Self:
        def part(prefix: str) -> dict[str, Any]:
            return {name.removeprefix(prefix): array for name, array in state.arrays.items() if name.startswith(prefix)}

        self.encoder = Encoder.restore(State(part("encoder."), state.frames, state.meta["encoder"]), nothing_happened())
        self.network = Network(self.config, self.encoder.inputs("user"), 0)
        self.network.tower.load_state_dict({name: torch.tensor(array) for name, array in part("tower.").items()})
        self.network.eval()
        self.learnt, self.index = state.arrays["learnt"], ExactIndex(state.arrays["vectors"])
        return self


class Network(nn.Module):
    """Batch -> loss. The table of the softmax holds the biases in column D; they start at 0."""

    def __init__(self, config: SoftmaxDNN.Config, query: Inputs, n_items: int) -> None:
        super().__init__()
        self.config = config
        self.tower = Tower(config, query)
        width = -(-(config.width + 1) // 4) * 4  # the kernels of FBGEMM take multiples of 4
        rows = Inputs(sparse=(SparseInput("softmax", "softmax", n_items + 1, "sum"),))
        self.softmax = Embeddings(rows, width, config.train, init="normal", std=config.width**-0.5)
        with torch.no_grad():
            self.softmax.tables()["softmax"][:, config.width :] = 0.0

    @torch.no_grad()
    def start(self, codes: Longs, vectors: Floats) -> None:
        """Where v and c of some items begin: float32 [n, D + 1]. Of another width, they start as ever."""
        if vectors.shape[1] == self.config.width + 1:
            self.softmax.tables()["softmax"][torch.from_numpy(codes + 1), : vectors.shape[1]] = torch.from_numpy(vectors)

    def query(self, batch: Batch) -> Tensor:
        """u: [B, D]."""
        vectors: Tensor = self.tower(batch)
        return vectors

    def items(self, codes: Tensor | None) -> tuple[Tensor, Tensor]:
        """v [..., D] and c [...] of some items, or of all."""
        if codes is None:
            codes = torch.arange(self.softmax.table_rows["softmax"] - 1, device=self.softmax.device)
        found = self.softmax.of_ids(codes + 1)
        return found[:, : self.config.width], found[:, self.config.width]

    def forward(self, batch: Batch) -> Tensor:
        queries, targets = self.query(batch) / self.config.temperature, batch.extra["items"]
        if self.config.softmax == "full":
            rows, bias = self.items(None)
            return losses.full_softmax(queries, rows, targets.long(), bias / self.config.temperature)
        codes = torch.cat((targets, batch.extra["negatives"]))
        rows, bias = self.items(codes)
        b, log_q = len(targets), batch.extra["log_q"]
        scores = queries @ rows[b:].t() + bias[b:] / self.config.temperature
        own = (queries * rows[:b]).sum(1) + bias[:b] / self.config.temperature
        hits = targets[:, None] == codes[b:]
        return losses.sampled_softmax(own.float(), scores.float(), log_q_positive=log_q[:b], log_q_negative=log_q[b:], hits=hits)


class Tower(nn.Module):
    """Batch -> u [B, D]."""

    def __init__(self, config: SoftmaxDNN.Config, query: Inputs) -> None:
        super().__init__()
        self.embeddings = Embeddings(query, config.width, config.train, init="normal", std=config.width**-0.5)
        width = len(query.dense) + len(query.sparse) * config.width
        self.mlp = MLP(width, config.layers, dropout=config.dropout, out=config.width)

    def forward(self, batch: Batch) -> Tensor:
        vectors: Tensor = self.mlp(torch.cat((batch.dense, self.embeddings(batch.sparse).flatten(1)), 1))
        return vectors


class Examples:
    """Rows of the positive events -> a Batch of B queries, as things stood, with their positives and the draws they share."""

    def __init__(self, config: SoftmaxDNN.Config, encoder: Encoder, history: History, items: Ints, n_items: int, seed: int) -> None:
        self.encoder, self.history, self.items, self.seed = encoder, history, items, seed
        self.size = config.n_negatives if config.softmax == "sampled" else 0
        q = sampling.powered(sampling.frequencies(items, n_items), config.power)
        self.cumulative, self.log_q = np.cumsum(q), sampling.log_probabilities(q)

    def __call__(self, rows: Longs) -> Batch:
        # Seeded by the rows, so that a run taken up in the middle draws what it would have drawn; epochs shuffle them anew.
        rng, items = np.random.default_rng([self.seed, *rows[:8]]), self.items[rows]
        batch = collate(self.encoder.encode_users(self.history.before(rows)))
        drawn = sampling.draw(self.cumulative, self.size, rng)
        log_q = torch.from_numpy(self.log_q[np.concatenate([items, drawn])])
        return replace(batch, extra={"items": torch.from_numpy(items), "negatives": torch.from_numpy(drawn), "log_q": log_q})

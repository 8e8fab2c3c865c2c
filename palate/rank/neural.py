"""What all neural rankers share: everything but the network.

A subclass says only what its network is:

    class MyRanker(NeuralRanker):
        def network(self, inputs, embed):        # an nn.Module from Batch to logits [B, T]
            return MyNetwork(inputs, embed(self.config.width))
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self

import numpy as np
import pydantic
import torch
from torch import Tensor, nn

from palate.config import Training
from palate.features.collate import collate
from palate.features.encode import Encoded
from palate.features.loader import Loader
from palate.features.rows import Rows
from palate.losses import binary_cross_entropy
from palate.metrics import pointwise, ranking
from palate.nn.embedding import Embeddings
from palate.nn.warm import go_on, same_columns
from palate.rank.base import Examples, Pairs, Ranker, candidate_features, training_pairs
from palate.types import Batch, Candidates, ConfigError, DataError, Floats, Inputs, Longs, Queries, Run, SparseInput, State, Warm

if TYPE_CHECKING:
    from palate.features.encode import Encoder

BLOCK = 16_384


class Embed(Protocol):
    """Makes the embedding tables of a network: `embed(16)`, or `embed(1, init="normal", std=0.0)`.

    They start as the Config's `init` says unless told otherwise. only: names of the sparse features they are for (None: all).
    """

    def __call__(self, width: int, only: Collection[str] | None = None, **init: Any) -> Embeddings: ...


class NeuralRanker(Ranker):
    """Trains a network on labelled candidates with binary cross-entropy, a logit a task, and scores with its probabilities.

    Its dense inputs are those of the encoder, then what the retrievers said about the candidate (`ease.score`, `ease.rank` ...), each
    standardised by the mean and deviation of the training pairs (ranks as ln(1 + rank) before that) with 0 where the retriever did not
    bring the item, then one flag for each of those, whether it did. The logits start from the log-odds of the base rate of each task.
    """

    class Config(Ranker.Config):
        """width: of the embeddings, D. init, init_std: how they start, see `Embeddings`.

        train: how it is trained; settings left out are those of this model, not of `Training`.
        It stops on the validation queries by `train.monitor`: "logloss", "auc" or "ndcg@10". negatives_per_query: see `training_pairs`.
        """

        width: int = pydantic.Field(16, ge=1)
        init: Literal["uniform", "normal"] = "uniform"
        init_std: float = pydantic.Field(1e-4, ge=0)
        negatives_per_query: int | None = pydantic.Field(50, ge=1)
        train: Training = Training(epochs=10, batch_size=1024, patience=2, monitor="logloss")

    config: Config
    model: nn.Module
    inputs: Inputs
    features: tuple[str, ...]
    mean: Floats
    deviation: Floats
    prior: Floats

    @abstractmethod
    def network(self, inputs: Inputs, embed: Embed) -> nn.Module:
        """A module from Batch to logits [B, T], T = len(inputs.tasks). `embed(width)` makes its tables: [B, F, width] from a batch."""

    def fit(self, examples: Examples, run: Run = Run()) -> Self:
        """Learns from the training queries and stops early on the validation queries (without any: trains all epochs)."""
        if run.train is None:
            raise ConfigError(f"{self.name}: a network needs the training engine; pass run=Run(train=Trainer().fit)")
        pairs, weights = training_pairs(examples, self.config.negatives_per_query, run.seed)
        labels = examples.labels[pairs.rows, pairs.places]
        self.check_labels(labels, examples.tasks)
        self._learn_scale(examples, pairs)
        self.prior = self.learn_labels(labels, weights)
        before: NeuralRanker | None = run.warm.before(self) if run.warm else None
        if before is not None and same_columns(self.inputs, before.inputs):
            self.keep_scale(before)

        def make(which: Longs) -> Batch:
            return collate(
                self._encode(examples.encoder, examples.queries, examples.candidates, pairs.take(which)), labels[which], weights[which]
            )

        held = np.flatnonzero(examples.validation)
        held_queries, held_candidates, held_labels = examples.queries.take(held), examples.candidates.take(held), examples.labels[held]

        def validate(model: nn.Module) -> Mapping[str, float]:
            return self.quality(self._score(model, held_queries, held_candidates, examples.encoder), held_labels)

        size = self.config.train.batch_size
        # A batch of one row has no deviation, which batch normalisation needs; the odd row has its turn in another epoch.
        loader = Loader(len(pairs), make, size, seed=run.seed, drop_last=len(pairs) % size == 1 < len(pairs))
        return self._learn(loader, validate if len(held) else None, run, examples.encoder)

    def goes_on(self, warm: Warm) -> bool:
        """From an earlier ranker of its kind and name, if the encoder that it read with is there."""
        return warm.before(self) is not None and warm.funnel.encoder is not None

    def fit_rows(self, train: Rows, valid: Rows | None = None, run: Run = Run()) -> Self:
        """Learns from a table of labelled rows (a click log of Criteo's kind) instead of queries, and stops early on another.

        The logits start from zero, not from the base rate, as in the published tables. Errors: DataError where there is nothing to learn.
        """
        if run.train is None:
            raise ConfigError(f"{self.name}: a network needs the training engine; pass run=Run(train=Trainer().fit)")
        train.check(self.name)
        self.inputs, self.features = train.inputs, ()
        self.mean, self.deviation = (np.zeros(0, dtype=np.float32) for _ in range(2))
        labels = train.labels
        self.check_labels(labels, self.inputs.tasks)
        self.prior = self.learn_labels(labels, None)
        if valid is not None and valid.inputs != train.inputs:
            raise DataError(f"{self.name}: the validation rows have other features than the training rows; prepare them together")

        def validate(model: nn.Module) -> Mapping[str, float]:
            assert valid is not None
            return self.quality(self._predict(model, valid)[:, None], valid.labels[:, None])

        loader = train.loader(self.config.train.batch_size, seed=run.seed)
        return self._learn(loader, validate if valid is not None else None, run)

    def predict(self, rows: Rows) -> Floats:
        """What it says of labelled rows, in their order: [R, T], probabilities where a task is a click."""
        if not hasattr(self, "model"):
            raise ConfigError(f"{self.name}: not fitted; call fit_rows first")
        if rows.inputs != self.inputs:
            raise DataError(f"{self.name}: these rows have other features than those it learnt from; prepare them together")
        return self._predict(self.model, rows)

    def build(self, inputs: Inputs, seed: int = 0) -> nn.Module:
        """The network for these inputs, as it starts."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.network(inputs, self._embed(inputs))

    # What a ranker of other tasks, or one that learns in two steps, overrides

    def check_labels(self, labels: Floats, tasks: tuple[str, ...]) -> None:
        """DataError where a label [R, T] is none that it can learn."""
        if not (np.isin(labels, (0.0, 1.0)) | np.isnan(labels)).all():
            raise DataError(f"{self.name}: labels must be 0, 1 or NaN (unknown); turn grades into tasks")

    def learn_labels(self, labels: Floats, weights: Floats | None) -> Floats:
        """Learns what it must know of the training labels [R, T]. Returns what is added to the network's logits, [T]: the log-odds of
        each base rate, so that they start there. weights [R]: None is a table of rows, whose logits start from 0.
        """
        if weights is None:
            return np.zeros(labels.shape[1], dtype=np.float32)
        mass = np.where(np.isnan(labels), 0.0, weights[:, None])
        rate = ((mass * np.nan_to_num(labels)).sum(0) + 0.5) / (mass.sum(0) + 1.0)
        return np.log(rate / (1.0 - rate)).astype(np.float32)

    def keep_scale(self, before: Any) -> None:
        """Takes over what an earlier ranker of the same inputs and tasks scales by, so that its weights mean what they meant."""
        self.mean, self.deviation, self.prior = before.mean, before.deviation, before.prior

    def losses(self, model: nn.Module, logits: Tensor, batch: Batch) -> Mapping[str, Tensor]:
        """`{"loss": scalar, ...}` for logits [B, T]."""
        return {"loss": binary_cross_entropy(logits, batch.labels, batch.weights)}

    def answers(self, logits: Tensor) -> Tensor:
        """What is served for logits [B, T]: probabilities."""
        return torch.sigmoid(logits)

    def quality(self, scores: Floats, labels: Floats) -> dict[str, float]:
        """Validation metrics. scores, labels: [Q, K, T], -inf and NaN where there is no candidate or no label."""
        return click_quality(scores, labels, self.inputs.tasks)

    def pretrain(self, model: nn.Module, loader: Any, run: Run) -> None:
        """A first stage that leaves `model` better than it started. `loader` may be iterated: it is copied for each stage."""

    # How it learns

    def _learn(
        self, loader: Any, validate: Callable[[nn.Module], Mapping[str, float]] | None, run: Run, encoder: Encoder | None = None
    ) -> Self:
        assert run.train is not None
        self.model, self.device = self.build(self.inputs, run.seed), run.device
        training = self.config.train
        before: NeuralRanker | None = run.warm.before(self) if run.warm and encoder else None
        same = before is not None and same_columns(self.inputs, before.inputs)
        if not same:
            self.pretrain(self.model, copy.copy(loader), run)
        if run.warm is not None and before is not None and encoder is not None:
            go_on(self.model, before.model, encoder.rows_of(run.warm.funnel.encoder), same)
            training = training.model_copy(update={"epochs": run.warm.epochs_of(training.epochs)}) if same else training
        if validate is None:  # nothing to stop by: the training loss would only say "go on"
            training = training.model_copy(update={"monitor": "loss", "patience": None})
        self.curves = run.train(self.model, loader, self.step, training, name=self.name, run=run, validate=validate)
        return self

    def step(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        """The loss of one batch."""
        return self.losses(model, self._logits(model, batch), batch)

    def _predict(self, model: nn.Module, rows: Rows) -> Floats:
        model.eval()
        with torch.no_grad():
            found = [self.answers(self._logits(model, batch.to(self.device))).cpu().numpy() for batch in rows.batches(BLOCK)]
        return np.concatenate(found).astype(np.float32) if found else np.zeros((0, len(self.inputs.tasks)), dtype=np.float32)

    def score(self, queries: Queries, candidates: Candidates, encoder: Encoder) -> Floats:
        """Probabilities [B, K, T] (sigmoids of the logits, not calibrated further); -inf where there is no candidate."""
        if not hasattr(self, "model"):
            raise ConfigError(f"{self.name}: not fitted; call fit first")
        return self._score(self.model, queries, candidates, encoder)

    def _embed(self, inputs: Inputs) -> Embed:
        def embed(width: int, only: Collection[str] | None = None, **init: Any) -> Embeddings:
            if width % 4 and self.config.train.sparse != "dense":
                raise ConfigError(f'{self.name}.width: fused tables take multiples of 4, got {width}; or set train.sparse = "dense"')
            names = [feature.name for feature in inputs.sparse]
            for name in only or ():
                if name not in names:
                    raise ConfigError(f"{self.name}: no sparse feature {name!r}; there are {', '.join(names) or 'none'}")
            some = inputs if only is None else replace(inputs, sparse=tuple(f for f in inputs.sparse if f.name in only))
            return Embeddings(some, width, self.config.train, **{"init": self.config.init, "std": self.config.init_std, **init})

        return embed

    def _learn_scale(self, examples: Examples, pairs: Pairs) -> None:
        """What the network is built for, and the scale of its inputs."""
        own, names = examples.encoder.inputs(), tuple(examples.candidates.features)
        self.features = names
        self.inputs = Inputs((*own.dense, *names, *(f"{name}.has" for name in names)), own.sparse, examples.tasks)
        columns = self._columns(examples.candidates, pairs).astype(np.float64)
        known = ~np.isnan(columns)
        count = np.maximum(known.sum(0), 1)
        self.mean = (np.where(known, columns, 0.0).sum(0) / count).astype(np.float32)
        spread = np.sqrt((np.where(known, columns - self.mean, 0.0) ** 2).sum(0) / count)
        self.deviation = np.where(spread > 0, spread, 1.0).astype(np.float32)

    def _columns(self, candidates: Candidates, pairs: Pairs) -> Floats:
        columns = candidate_features(candidates, self.features, pairs)
        ranks = [place for place, name in enumerate(self.features) if name.endswith(".rank")]
        columns[:, ranks] = np.log1p(columns[:, ranks])
        return columns

    def _encode(self, encoder: Encoder, queries: Queries, candidates: Candidates, pairs: Pairs) -> Encoded:
        encoded = encoder.encode(queries, pairs.rows, pairs.items)
        if encoded.inputs.sparse != self.inputs.sparse or encoded.inputs.dense != self.inputs.dense[: -2 * len(self.features) or None]:
            raise DataError(f"{self.name}: the encoder's features are not those that the ranker learnt from; fit it again")
        columns = (self._columns(candidates, pairs) - self.mean) / self.deviation
        known = ~np.isnan(columns)
        return Encoded(
            np.concatenate([encoded.dense, np.where(known, columns, 0.0), known], axis=1, dtype=np.float32), encoded.sparse, self.inputs
        )

    def _logits(self, model: nn.Module, batch: Batch) -> Tensor:
        logits: Tensor = model(batch)
        return logits.float() + torch.from_numpy(self.prior).to(logits.device)

    def _score(self, model: nn.Module, queries: Queries, candidates: Candidates, encoder: Encoder) -> Floats:
        scores = np.full((*candidates.items.shape, len(self.inputs.tasks)), -np.inf, dtype=np.float32)
        if model.training:
            model.eval()
        with torch.no_grad():
            for _, block in Pairs.of(candidates).blocks(BLOCK):
                batch = collate(self._encode(encoder, queries, candidates, block)).to(self.device)
                scores[block.rows, block.places] = self.answers(self._logits(model, batch)).cpu().numpy()
        return scores

    def state(self) -> State:
        """The network's weights, the scale of its inputs, and what it was built for."""
        arrays = {f"network.{name}": tensor.detach().cpu().numpy() for name, tensor in self.model.state_dict().items()}
        scale = {"mean": self.mean, "deviation": self.deviation, "prior": self.prior}
        return State({**arrays, **scale}, meta={"inputs": asdict(self.inputs), "features": list(self.features)})

    def restore(self, state: State) -> Self:
        """Builds the network anew and gives it the weights of a state; needs no data."""
        meta = state.meta["inputs"]
        sparse = tuple(SparseInput(**feature) for feature in meta["sparse"])
        self.inputs = Inputs(tuple(meta["dense"]), sparse, tuple(meta["tasks"]))
        self.features = tuple(state.meta["features"])
        self.mean, self.deviation, self.prior = (np.array(state.arrays[name]) for name in ("mean", "deviation", "prior"))
        self.model, self.device, self.curves = self.build(self.inputs), "cpu", {}
        weights = {name: torch.from_numpy(np.array(state.arrays[f"network.{name}"])) for name in self.model.state_dict()}
        self.model.load_state_dict(weights)
        self.model.eval()
        return self


def click_quality(scores: Floats, labels: Floats, tasks: tuple[str, ...]) -> dict[str, float]:
    """logloss, auc and ndcg@10, each the mean over tasks; with several tasks also each task's own. scores, labels: [Q, K, T]."""
    found: dict[str, list[float]] = {"logloss": [], "auc": [], "ndcg@10": []}
    for task in range(len(tasks)):
        s, y = scores[:, :, task], labels[:, :, task]
        known = np.isfinite(s) & ~np.isnan(y)
        best_first = np.argsort(-np.where(known, s, -np.inf), axis=1, kind="stable")
        hits = np.take_along_axis(known & (y > 0), best_first, 1)
        values = ranking.ndcg(hits, hits.sum(1), 10)
        found["logloss"].append(pointwise.logloss(y[known], s[known]))
        found["auc"].append(pointwise.auc(y[known], s[known]))
        found["ndcg@10"].append(float(np.nanmean(values)) if hits.any() else float("nan"))
    each = {f"{task}.{name}": values[place] for name, values in found.items() for place, task in enumerate(tasks)} if len(tasks) > 1 else {}
    return {name: float(np.mean(values)) for name, values in found.items()} | each

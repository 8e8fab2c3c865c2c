"""What all neural rankers share: everything but the network.

A subclass says only what its network is:

    class MyRanker(NeuralRanker):
        def network(self, inputs, embed):        # an nn.Module from Batch to logits [B, T]
            return MyNetwork(inputs, embed(self.config.width))
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np
import pydantic
import torch
from torch import Tensor, nn

from palate.config import Training
from palate.features.collate import collate
from palate.features.encode import Encoded
from palate.features.loader import Loader
from palate.losses import binary_cross_entropy
from palate.metrics import pointwise, ranking
from palate.nn.embedding import Embeddings
from palate.rank.base import Examples, Pairs, Ranker, candidate_features, training_pairs
from palate.types import Batch, Candidates, ConfigError, DataError, Floats, Inputs, Longs, Queries, Run, SparseInput, State

if TYPE_CHECKING:
    from palate.features.encode import Encoder

BLOCK = 16_384


class Embed(Protocol):
    """Makes the embedding tables of a network: `embed(16)`, or `embed(1, init="normal", std=0.0)`."""

    def __call__(self, width: int, **init: Any) -> Embeddings: ...


class NeuralRanker(Ranker):
    """Trains a network on labelled candidates with binary cross-entropy, a logit a task, and scores with its probabilities.

    Its dense inputs are those of the encoder, then what the retrievers said about the candidate (`ease.score`, `ease.rank` ...), each
    standardised by the mean and deviation of the training pairs (ranks as ln(1 + rank) before that) with 0 where the retriever did not
    bring the item, then one flag for each of those, whether it did. The logits start from the log-odds of the base rate of each task.
    """

    class Config(Ranker.Config):
        """width: of the embeddings, D. train: how it is trained; settings left out are those of this model, not of `Training`.

        It stops on the validation queries by `train.monitor`: "logloss", "auc" or "ndcg@10". negatives_per_query: see `training_pairs`.
        """

        width: int = pydantic.Field(16, ge=1)
        negatives_per_query: int | None = pydantic.Field(50, ge=1)
        train: Training = Training(epochs=10, batch_size=1024, patience=2, monitor="logloss")

        @pydantic.field_validator("train", mode="before")
        @classmethod
        def _what_is_left_out_is_the_models_own(cls, given: Any) -> Any:
            own = {key: getattr(cls.model_fields["train"].default, key) for key in Training.model_fields}
            if isinstance(given, Training):
                return own | {key: getattr(given, key) for key in given.model_fields_set}
            return {**own, **given} if isinstance(given, Mapping) else given

    config: Config

    @abstractmethod
    def network(self, inputs: Inputs, embed: Embed) -> nn.Module:
        """A module from Batch to logits [B, T], T = len(inputs.tasks). `embed(width)` makes its tables: [B, F, width] from a batch."""

    def fit(self, examples: Examples, run: Run = Run()) -> Self:
        """Learns from the training queries and stops early on the validation queries (without any: trains all epochs)."""
        if run.train is None:
            raise ConfigError(f"{self.name}: a network needs the training engine; pass run=Run(train=Trainer().fit)")
        pairs, weights = training_pairs(examples, self.config.negatives_per_query, run.seed)
        labels = examples.labels[pairs.rows, pairs.places]
        if not (np.isin(labels, (0.0, 1.0)) | np.isnan(labels)).all():
            raise DataError(f"{self.name}: labels must be 0, 1 or NaN (unknown); turn grades into tasks")
        self._learn_scale(examples, pairs, labels, weights)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(run.seed)
            self.model = self.network(self.inputs, self._embed)
        self.device = run.device

        def make(which: Longs) -> Batch:
            return collate(
                self._encode(examples.encoder, examples.queries, examples.candidates, pairs.take(which)), labels[which], weights[which]
            )

        def step(model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
            return {"loss": binary_cross_entropy(self._logits(model, batch), batch.labels, batch.weights)}

        held = np.flatnonzero(examples.validation)
        held_queries, held_candidates, held_labels = examples.queries.take(held), examples.candidates.take(held), examples.labels[held]

        def validate(model: nn.Module) -> Mapping[str, float]:
            return _quality(self._score(model, held_queries, held_candidates, examples.encoder), held_labels, self.inputs.tasks)

        training = self.config.train
        if not len(held):  # nothing to stop by: the training loss would only say "go on"
            training = training.model_copy(update={"monitor": "loss", "patience": None})
        # A batch of one row has no deviation, which batch normalisation needs; the odd row has its turn in another epoch.
        loader = Loader(len(pairs), make, training.batch_size, seed=run.seed, drop_last=len(pairs) % training.batch_size == 1 < len(pairs))
        self.curves = run.train(self.model, loader, step, training, name=self.name, run=run, validate=validate if len(held) else None)
        return self

    def score(self, queries: Queries, candidates: Candidates, encoder: Encoder) -> Floats:
        """Probabilities [B, K, T] (sigmoids of the logits, not calibrated further); -inf where there is no candidate."""
        if not hasattr(self, "model"):
            raise ConfigError(f"{self.name}: not fitted; call fit first")
        return self._score(self.model, queries, candidates, encoder)

    def _embed(self, width: int, **init: Any) -> Embeddings:
        if width % 4 and self.config.train.sparse != "dense":
            raise ConfigError(f'{self.name}.width: fused tables take multiples of 4, got {width}; or set train.sparse = "dense"')
        return Embeddings(self.inputs, width, self.config.train, **init)

    def _learn_scale(self, examples: Examples, pairs: Pairs, labels: Floats, weights: Floats) -> None:
        """What the network is built for, and the scale of its inputs and outputs."""
        own, names = examples.encoder.inputs(), tuple(examples.candidates.features)
        self.features = names
        self.inputs = Inputs((*own.dense, *names, *(f"{name}.has" for name in names)), own.sparse, examples.tasks)
        columns = self._columns(examples.candidates, pairs).astype(np.float64)
        known = ~np.isnan(columns)
        count = np.maximum(known.sum(0), 1)
        self.mean: Floats = (np.where(known, columns, 0.0).sum(0) / count).astype(np.float32)
        spread = np.sqrt((np.where(known, columns - self.mean, 0.0) ** 2).sum(0) / count)
        self.deviation: Floats = np.where(spread > 0, spread, 1.0).astype(np.float32)
        mass = np.where(np.isnan(labels), 0.0, weights[:, None])
        rate = ((mass * np.nan_to_num(labels)).sum(0) + 0.5) / (mass.sum(0) + 1.0)
        self.prior: Floats = np.log(rate / (1.0 - rate)).astype(np.float32)

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
        model.eval()
        with torch.no_grad():
            for _, block in Pairs.of(candidates).blocks(BLOCK):
                batch = collate(self._encode(encoder, queries, candidates, block)).to(self.device)
                scores[block.rows, block.places] = torch.sigmoid(self._logits(model, batch)).cpu().numpy()
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
        self.model, self.device, self.curves = self.network(self.inputs, self._embed), "cpu", {}
        weights = {name: torch.from_numpy(np.array(state.arrays[f"network.{name}"])) for name in self.model.state_dict()}
        self.model.load_state_dict(weights)
        self.model.eval()
        return self


def _quality(scores: Floats, labels: Floats, tasks: tuple[str, ...]) -> dict[str, float]:
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

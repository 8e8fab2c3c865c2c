"""The whole system in a few lines of Python.

train, test = palate.split(palate.read("movielens-small"), "leave-last-out")
rec = palate.Recommender(retrieve=["popular", palate.EASE(l2=300)], rank="gbdt", rerank=["mmr"]).fit(train)
print(rec.evaluate(test))
rec.recommend(history=["Alien (1979)", "Heat (1995)"], k=10)
rec.save("bundle")
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

import polars as pl

from palate import config
from palate.features.spec import FeatureSet
from palate.funnel import Funnel
from palate.rank.base import Labelled, Ranker
from palate.rank.tasks import WANTED
from palate.rerank.base import Reranker
from palate.retrieve.base import Retriever
from palate.types import ConfigError, Log, Request, Run, Slate, Warm

if TYPE_CHECKING:
    from palate.evaluate import Evaluation


class Recommender:
    """A funnel with the engine that trains it, its evaluation and its bundle.

    retrieve, rank, rerank: components, or the short names of components with default settings.
    features: what the ranker sees; None derives it from the log. Other settings are those of `Funnel.Config`.
    """

    def __init__(
        self,
        retrieve: Sequence[Retriever | str],
        rank: Ranker | str | None = None,
        rerank: Sequence[Reranker | str] = (),
        features: FeatureSet | None = None,
        **settings: Any,
    ) -> None:
        self.funnel = Funnel(
            [cast(Retriever, _component(use, "retrieve", Retriever)) for use in retrieve],
            cast(Ranker, _component(rank, "rank", Ranker)) if rank is not None else None,
            [cast(Reranker, _component(use, "rerank", Reranker)) for use in rerank],
            features,
            Funnel.Config.parse(settings, "funnel"),
        )
        self.recipe: dict[str, Any] = {}
        self.data: dict[str, Any] = {}
        self.metrics: dict[str, Any] = {}

    def fit(
        self,
        log: Log,
        *,
        seed: int = 0,
        device: str = "cpu",
        quiet: bool = True,
        folder: Path | None = None,
        resume: bool = False,
        warm: Warm | None = None,
        more: Callable[[Funnel, Log], Labelled | None] | None = None,
    ) -> Self:
        """Fits every stage. folder: where checkpoints and TensorBoard files go; resume: take up the newest checkpoint there.

        warm: what networks go on from. more: further examples for the ranker, see `Funnel.fit`.
        """
        run = Run(seed=seed, device=device, quiet=quiet, folder=folder, resume=resume, warm=warm)
        if any(hasattr(component.config, "train") for component in (*self.funnel.retrievers, self.funnel.ranker) if component is not None):
            from palate.train.trainer import Trainer

            run = replace(run, train=Trainer().fit)
        self.funnel.fit(log, run, more)
        self.data = {
            "name": log.name,
            "checksum": log.checksum,
            "events": len(log),
            "users": log.n_users,
            "items": log.n_items,
            "positive": list(log.positive),
            "positive_value": log.positive_value,
            "seed": seed,
        }
        return self

    def evaluate(self, test: Log, **settings: Any) -> Evaluation:
        """Every stage on held-out events, full ranking, beside popularity."""
        from palate.evaluate import evaluate

        evaluation = evaluate(self.funnel, test, **settings)
        self.metrics = evaluation.to_json()
        return evaluation

    def recommend(
        self,
        user: str | None = None,
        *,
        history: Sequence[str] = (),
        k: int = 10,
        filters: Sequence[str] = (),
        exclude: Sequence[str] = (),
        context: Mapping[str, object] | None = None,
        seen: bool = False,
    ) -> Slate:
        """One slate: for a known user, or for anyone with a history (item ids or titles)."""
        if user is None and not history and not context:
            raise ConfigError("recommend: give a user, a history or a context")
        request = Request(
            user=None if user is None else str(user),
            history=tuple(history),
            k=k,
            filters=tuple(filters),
            exclude=tuple(exclude),
            context=dict(context or {}),
            seen=seen,
        )
        return self.funnel.recommend([request])[0]

    def table(self, slate: Slate) -> pl.DataFrame:
        """A slate as a frame: place, the item table's row, score, source, reason; `tasks`, where they are declared: each prediction."""
        places = pl.DataFrame(
            {
                "place": range(1, len(slate) + 1),
                "item": list(slate.items),
                "score": list(slate.scores),
                "probability": [p.get("label") for p in slate.probabilities],
                "source": list(slate.sources),
                "reason": list(slate.reasons),
            },
            schema_overrides={"item": pl.String, "score": pl.Float64, "probability": pl.Float64, "source": pl.String, "reason": pl.String},
        )
        if self.funnel.tasks not in ((), WANTED):
            fields = pl.Struct({task.name: pl.Float64 for task in self.funnel.tasks})
            places = places.with_columns(pl.Series("tasks", [dict(p) for p in slate.probabilities], dtype=fields))
        return places.join(self.funnel.items, on="item", how="left", maintain_order="left")

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Writes a bundle: one folder, no pickle."""
        from palate.serve import bundle

        return bundle.save(self.funnel, folder, recipe=self.recipe, data=self.data, metrics=self.metrics)

    @classmethod
    def load(cls, folder: str | os.PathLike[str], *, trust: Sequence[str] = ()) -> Recommender:
        """Reads a bundle; the training data is not needed."""
        from palate.serve import bundle

        funnel, manifest = bundle.load(folder, trust=trust)
        recommender = cls.__new__(cls)
        recommender.funnel = funnel
        recommender.recipe = manifest["recipe"]
        recommender.data = manifest["data"]
        recommender.metrics = manifest["metrics"]
        return recommender


def _component(use: Any, stage: str, kind: type[config.Component]) -> config.Component:
    component = config.build(use, stage)
    if not isinstance(component, kind):
        raise ConfigError(f"{stage}: {type(component).__name__} is not a {kind.__name__}")
    return component

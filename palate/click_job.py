"""Training over prepared rows: a recipe with `data.rows` becomes a bundle that holds one ranker, and a table of how good it is.

bundle/manifest.json       kind "clicks", versions, recipe, what the rows were made of, metrics, sha256 of every other file
bundle/rank/<name>/        the ranker's state
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError

from palate import plan
from palate import recipe as recipes
from palate.data import shards
from palate.features.rows import Rows
from palate.metrics import pointwise
from palate.serve import bundle
from palate.types import BundleError, DataError, Floats, Run
from palate.versions import versions

if TYPE_CHECKING:
    from rich.table import Table

    from palate.rank.neural import NeuralRanker

METRICS = ("auc", "logloss", "ne", "calibration")
HELD_OUT = ("valid", "test")
BASE = "base rate"


@dataclass(frozen=True)
class ClickEvaluation:
    """How good a ranker is on held-out rows.

    stages: name of the model -> split -> task -> metric (auc, logloss in nats, ne, calibration; see `metrics/pointwise`). The model
    "base rate" always says the training rows' share of ones: what a model must beat. rows: of each split.
    """

    stages: Mapping[str, Mapping[str, Mapping[str, Mapping[str, float]]]]
    rows: Mapping[str, int]

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {"models": bundle.plain(self.stages), "rows": dict(self.rows)}

    def table(self) -> Table:
        """As a person reads it."""
        from rich.table import Table

        shown = Table(box=None, pad_edge=False)
        tasks = {task for splits in self.stages.values() for each in splits.values() for task in each}
        for heading in ("model", "split", *(["task"] if len(tasks) > 1 else [])):
            shown.add_column(heading)
        for heading in ("rows", "AUC", "logloss", "NE", "calibration"):
            shown.add_column(heading, justify="right")
        for name, splits in self.stages.items():
            for split, each in splits.items():
                for task, found in each.items():
                    figures = [f"{found[metric]:.4f}" for metric in METRICS]
                    shown.add_row(name, split, *([task] if len(tasks) > 1 else []), f"{self.rows[split]:,}", *figures)
        return shown


@dataclass(frozen=True)
class ClickJob:
    """The result of a training job over prepared rows. data: what the rows were made of. seconds: of training."""

    ranker: NeuralRanker
    evaluation: ClickEvaluation
    folder: Path
    data: Mapping[str, Any]
    parameters: int
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """As plain values, with what it takes to make it again."""
        return {
            "bundle": str(self.folder),
            "model": self.ranker.name,
            **self.evaluation.to_json(),
            "parameters": self.parameters,
            "seconds": round(self.seconds, 3),
            "curves": self.ranker.curves,
            "data": dict(self.data),
            "versions": versions(),
        }


def train(recipe: recipes.Recipe, out: Path, *, quiet: bool, resume: bool = False) -> ClickJob:
    """Trains the recipe's ranker on `train`, stops by `valid`, measures it on `valid` and `test`, and saves it."""
    from palate.train.trainer import Trainer

    assert recipe.data.rows is not None
    folder = recipe.data.rows
    ranker = recipes.click_ranker(recipe)
    plan.of(recipe).check()
    rows = {split: Rows.open(folder, split) for split in ("train", *HELD_OUT)}
    work = out.absolute().parent / f"{out.name}.run"
    run = Run(recipe.run.seed, recipe.run.device, work, quiet, Trainer().fit, resume)
    start = time.perf_counter()
    ranker.fit_rows(rows["train"], rows["valid"], run)
    seconds = time.perf_counter() - start
    base: Floats = np.asarray(np.nanmean(rows["train"].labels, axis=0, dtype=np.float64), dtype=np.float32)
    evaluation = measure(ranker, {split: rows[split] for split in HELD_OUT}, base)
    parameters = sum(parameter.numel() for parameter in ranker.model.parameters())
    data = {**facts(folder), "seed": recipe.run.seed, "train_rows": len(rows["train"]), "base_rate": [float(rate) for rate in base]}
    said = {
        "kind": "clicks", "recipe": recipes.as_plain(recipe), "data": data, "metrics": evaluation.to_json(), "curves": ranker.curves,
        "parameters": parameters,
    }  # fmt: skip

    def write(fresh: Path) -> Mapping[str, Any]:
        return {**said, "components": [bundle.write_component(fresh, "rank", ranker.name, ranker)]}

    return ClickJob(ranker, evaluation, bundle.save_folder(out, write), data, parameters, seconds)


def measure(ranker: NeuralRanker, rows: Mapping[str, Rows], base: Floats) -> ClickEvaluation:
    """The metrics of each split, beside those of always saying the base rate [T]."""
    stages: dict[str, dict[str, dict[str, dict[str, float]]]] = {BASE: {}, ranker.name: {}}
    for split, table in rows.items():
        labels, said = table.labels, ranker.predict(table)
        for name, answers in ((BASE, np.broadcast_to(base, labels.shape)), (ranker.name, said)):
            stages[name][split] = {task: _quality(labels[:, t], answers[:, t]) for t, task in enumerate(table.inputs.tasks)}
    return ClickEvaluation(stages, {split: len(table) for split, table in rows.items()})


def _quality(labels: Floats, answers: Floats) -> dict[str, float]:
    known = ~np.isnan(labels)
    y, p = labels[known], answers[known]
    return {
        "auc": pointwise.auc(y, p),
        "logloss": pointwise.logloss(y, p),
        "ne": pointwise.normalised_entropy(y, p),
        "calibration": pointwise.calibration_ratio(y, p),
    }


def facts(folder: Path) -> dict[str, Any]:
    """What prepared rows were made of: raw files with checksums, options."""
    about = shards.read_manifest(folder).about
    return {"name": str(folder), **{key: about[key] for key in ("raw", "options", "rows", "bad_rows", "days") if key in about}}


def is_click_bundle(folder: Path) -> bool:
    """Whether a bundle holds a ranker over prepared rows instead of a funnel."""
    return bundle.read_manifest(folder).get("kind") == "clicks"


def load(folder: Path, *, trust: Sequence[str] = ()) -> tuple[NeuralRanker, dict[str, Any]]:
    """The ranker of a bundle, and its manifest; the rows are not needed. Components outside `palate` only from modules in `trust`."""
    from palate.rank.neural import NeuralRanker

    manifest = bundle.checked_manifest(folder)
    if manifest.get("kind") != "clicks":
        raise BundleError(f"{folder}: holds a funnel; `palate.Recommender.load` takes it")
    try:
        ranker = bundle.read_component(folder, manifest["components"][0], trust)
    except (KeyError, IndexError, ValueError, TypeError, OSError, RuntimeError, SafetensorError) as error:
        raise BundleError(f"{folder}: does not hold what its manifest says ({type(error).__name__}: {error}); train it again") from error
    if not isinstance(ranker, NeuralRanker):
        raise BundleError(f"{folder}: {type(ranker).__name__} does not learn from rows; train it again")
    ranker.curves = manifest["curves"]
    return ranker, manifest


def evaluate(folder: Path) -> tuple[ClickEvaluation, dict[str, Any]]:
    """A bundle on the held-out rows of its recipe's folder, and its manifest; refused if those rows were made anew from other data."""
    ranker, manifest = load(folder)
    recipe = recipes.parse(manifest["recipe"])
    assert recipe.data.rows is not None
    now = facts(recipe.data.rows)
    for key in ("raw", "options"):
        if bundle.plain(now.get(key)) != manifest["data"].get(key):
            raise DataError(f"{folder}: {recipe.data.rows} was prepared anew since training (its {key} differ); train again")
    base = np.array(manifest["data"]["base_rate"], dtype=np.float32)
    return measure(ranker, {split: Rows.open(recipe.data.rows, split) for split in HELD_OUT}, base), manifest

"""How near every ranker comes to the best possible logloss on planted clicks. LR on the linear world, all others on pairs.

A new ranker is found by itself, and needs an entry in SETTINGS.
"""

from __future__ import annotations

import importlib
import inspect
import time
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import palate.rank
from palate.data.sources.clicks import Order, PlantedClicks, click_world
from palate.features.rows import Rows
from palate.metrics import pointwise
from palate.rank.lr import LR
from palate.rank.neural import NeuralRanker
from palate.train.trainer import Trainer
from palate.types import Run

TOLERANCE = 1.02
TRAIN = {"epochs": 2, "batch_size": 256, "sparse_lr": 0.2, "lr": 1e-2, "schedule": "cosine"}

# What differs from the model's own defaults. Tables that start louder find the interactions sooner: an epoch is only 390 steps.
SETTINGS: dict[str, dict[str, Any]] = {
    "AutoInt": {"width": 16, "layers": (32,), "depth": 1, "init": "normal", "init_std": 0.2, "train": {"epochs": 3}},
    "DCN": {"width": 8, "init": "normal", "init_std": 0.2, "train": {"epochs": 3}},
    "DCNV2": {"width": 8},
    "DHEN": {"width": 8, "layers": 1, "modules": ("dot", "linear")},
    "DLRM": {"width": 8, "top": (64,)},
    "DeepFM": {"width": 8},
    "FM": {"width": 8, "init_std": 0.2},
    "FNN": {"width": 16, "init_std": 0.2, "pretrain_epochs": 1, "layers": (64,), "activation": "relu"},
    "FinalMLP": {"width": 8, "init": "normal", "init_std": 0.2, "train": {"epochs": 3}},
    "LR": {},
    "MLPRanker": {"width": 16, "layers": (64,), "init": "normal", "init_std": 0.3},
    "MaskNet": {"width": 8},
    "MultiTask": {"width": 8},
    "PNN": {"width": 8},
    "WideDeep": {"width": 16, "init_std": 0.3},
    "Wukong": {"width": 8, "layers": 1},
    "XDeepFM": {"width": 8, "cin": (8,)},
}


def rankers() -> list[type[NeuralRanker]]:
    """Every class in palate/rank that trains a network."""
    found = []
    for path in sorted(Path(palate.rank.__path__[0]).glob("*.py")):
        module = importlib.import_module(f"palate.rank.{path.stem}")
        own = [value for value in vars(module).values() if inspect.isclass(value) and value.__module__ == module.__name__]
        found += [value for value in own if issubclass(value, NeuralRanker) and not inspect.isabstract(value)]
    return found


@cache
def tables(order: Order) -> tuple[Rows, Rows, PlantedClicks]:
    """Training rows, test rows, and the truth of the test rows."""
    world = click_world(order=order, fields=(8,) * 6, seed=1)
    train, test = world.draw(0, 100_000), world.draw(0, 40_000, stream=2)
    made = [Rows.of(part.inputs, part.dense, part.ids, part.labels) for part in (train, test)]
    return made[0], made[1], test


def loglosses(ranker: NeuralRanker, order: Order) -> tuple[float, float]:
    """Test logloss over the least possible: on average over labels, and on the labels drawn (over that of the true probabilities)."""
    train, test, truth = tables(order)
    said = ranker.fit_rows(train, run=Run(seed=1, train=Trainer().fit)).predict(test)[:, 0]
    drawn = pointwise.logloss(truth.labels, said) / pointwise.logloss(truth.labels, truth.probabilities)
    return truth.expected_logloss(said) / truth.best_logloss, drawn


@pytest.mark.parametrize("ranker", rankers(), ids=lambda ranker: ranker.__name__)
def test_within_two_per_cent_of_the_best_possible(ranker: type[NeuralRanker]) -> None:
    assert ranker.__name__ in SETTINGS, f"give {ranker.__name__} an entry in SETTINGS of {__file__}"
    start = time.process_time()
    own = SETTINGS[ranker.__name__]
    made = ranker(**{**own, "train": {**TRAIN, **own.get("train", {})}})
    expected, drawn = loglosses(made, "linear" if ranker is LR else "pairs")
    print(f"{ranker.__name__} {expected:.4f} {drawn:.4f} in {time.process_time() - start:.1f} s")
    assert expected < TOLERANCE
    assert drawn < TOLERANCE


def test_lr_cannot_express_pairs() -> None:
    expected, _ = loglosses(LR(train=TRAIN), "pairs")
    assert expected > 1.15


def test_settings_name_rankers_that_exist() -> None:
    assert set(SETTINGS) <= {ranker.__name__ for ranker in rankers()}

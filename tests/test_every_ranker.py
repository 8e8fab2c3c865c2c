"""Every ranker in palate/rank takes the whole way: a recipe, `palate train`'s job, a bundle, and the same slate from the bundle.

A new ranker is found by itself. What its defaults make too large for a test stands in SMALL.
"""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import palate.rank
from palate import job
from palate import recipe as recipes
from palate.rank.base import Ranker
from palate.rank.neural import NeuralRanker
from palate.recommender import Recommender
from palate.types import Request

USERS, ITEMS = 60, 30
SMALL: dict[str, dict[str, Any]] = {
    "autoint": {"depth": 1, "attention": 8, "heads": 2, "layers": [8]},
    "dhen": {"layers": 1, "vectors": 4},
    "gbdt": {"trees": 5},
    "multitask": {"tasks": [{"name": "click", "kind": "click", "events": ["click"]}]},
    "wukong": {"layers": 1},
}


def rankers() -> list[str]:
    """The short names: modules of palate/rank that hold a concrete Ranker of the module's own."""
    found = []
    for path in sorted(Path(palate.rank.__path__[0]).glob("*.py")):
        module = importlib.import_module(f"palate.rank.{path.stem}")
        own = [value for value in vars(module).values() if inspect.isclass(value) and value.__module__ == module.__name__]
        found += [path.stem for value in own if issubclass(value, Ranker) and not inspect.isabstract(value)]
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """People of two tastes and a table of items."""
    rng, home = np.random.default_rng(0), tmp_path_factory.mktemp("clicks")
    rows = []
    for user in range(USERS):
        weight = np.where(np.arange(ITEMS) % 2 == user % 2, 9.0, 1.0)
        rows += [
            (f"u{user}", f"i{item}", 60 * at + user, "click") for at, item in enumerate(rng.choice(ITEMS, 8, False, weight / weight.sum()))
        ]
    pl.DataFrame(rows, schema=["user", "item", "time", "kind"], orient="row").sort("time").write_csv(home / "events.csv")
    table = {"item": [f"i{code}" for code in range(ITEMS)], "genre": [f"g{code % 2}" for code in range(ITEMS)]}
    pl.DataFrame(table).write_csv(home / "items.csv")
    return home


@pytest.mark.parametrize("name", rankers())
def test_from_recipe_to_bundle_and_back(name: str, folder: Path, tmp_path: Path) -> None:
    settings = {"use": name, **SMALL.get(name, {})}
    module = importlib.import_module(f"palate.rank.{name}")
    if any(
        inspect.isclass(value) and issubclass(value, NeuralRanker) and value.__module__ == module.__name__
        for value in vars(module).values()
    ):
        settings["train"] = {"epochs": 1, "batch_size": 256}
    raw = {
        "data": {"source": str(folder / "events.csv"), "kind": "kind", "items": str(folder / "items.csv"), "positive": ["click"]},
        "retrieve": [{"use": "popular", "quota": 20}],
        "rank": settings,
        "funnel": {"cuts": 2},
    }
    done = job.train(recipes.parse(raw), tmp_path / "bundle", quiet=True)
    assert "ranked" in done.evaluation.stages
    ask = [Request(user="u1", k=5), Request(history=("i3", "i5"), k=5)]
    slates, again = done.recommender.funnel.recommend(ask), Recommender.load(tmp_path / "bundle").funnel.recommend(ask)
    for one, other in zip(slates, again, strict=True):
        assert len(one.items) == 5
        assert one.items == other.items

"""A planted world of which a bundle has seen the first part, and an event store the rest: slates, and what came of them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from palate import job
from palate import recipe as recipes
from palate.data.sources import planted
from palate.feedback.events import Event, ShownItem, ShownSlate
from palate.feedback.store import EventStore

USERS, ITEMS, EVENTS, BASE = 150, 60, 9_000, 5_000
KINDS = {"impression": "impression", "click": "click", "purchase": "purchase", "dislike": "hide"}
RECIPE = """
[data]
source = "events.parquet"
kind = "kind"
value = "value"
items = "items.parquet"

[[retrieve]]
use = "popular"
quota = 30

[[retrieve]]
use = "ease"
l2 = 20
quota = 30

[rank]
use = "gbdt"
trees = 30
min_rows = 5

[funnel]
candidates = 40
cuts = 4
"""


def world(seed: int = 0, events: int = EVENTS) -> pl.DataFrame:
    """All events of the world, oldest first."""
    log, _ = planted.plant(USERS, ITEMS, events, seed)
    words = [pl.col(name).cast(pl.String) for name in ("user", "item", "kind")]
    return log.events.select(*words, "time", "value", "position")


def write_base(folder: Path, whole: pl.DataFrame, recipe: str = RECIPE) -> Path:
    """The first part of the world as files with a recipe, and the bundle trained on it."""
    log, _ = planted.plant(USERS, ITEMS, 100, 0)
    log.items.write_parquet(folder / "items.parquet")
    whole[:BASE].drop("position").write_parquet(folder / "events.parquet")
    (folder / "my.toml").write_text(recipe, encoding="utf-8")
    return job.train(recipes.load(str(folder / "my.toml")), folder / "bundle", quiet=True).folder


def fill(store: EventStore, later: pl.DataFrame, prefix: str = "e") -> None:
    """Events, and the slates in which their items were shown, as a service would have kept them."""
    rows: list[dict[str, Any]] = later.with_row_index("number").with_columns(time=pl.col("time").dt.replace_time_zone("UTC")).to_dicts()
    pages: dict[tuple[str, Any], list[str]] = {}
    for row in rows:
        if row["kind"] == "impression":
            pages.setdefault((row["user"], row["time"]), []).append(row["item"])
    names = {page: f"{prefix}-r{number}" for number, page in enumerate(pages)}
    shown = [
        ShownSlate(
            recommendation=names[user, time],
            user=user,
            time=time,
            version="v",
            items=tuple(ShownItem(item=item, position=place, score=-place) for place, item in enumerate(items)),
        )
        for (user, time), items in pages.items()
    ]
    latest: dict[tuple[str, str], str] = {}
    events = []
    for row in rows:
        if row["kind"] == "impression":
            latest[row["user"], row["item"]] = names[row["user"], row["time"]]
        said = {name: row[name] for name in ("user", "item", "time")} | {"id": f"{prefix}{row['number']}", "kind": KINDS[row["kind"]]}
        said |= {"value": row["value"]} if row["kind"] == "purchase" else {}
        events.append(Event.parse(said | {"recommendation": latest.get((row["user"], row["item"]))}, "event"))
    store.append_slates(shown)
    store.append(events)


@pytest.fixture(scope="session")
def whole() -> pl.DataFrame:
    return world()


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory, whole: pl.DataFrame) -> Path:
    """A folder with files, recipe and bundle; copy it before learning."""
    folder = tmp_path_factory.mktemp("base")
    write_base(folder, whole)
    return folder


@pytest.fixture(scope="session")
def filled(tmp_path_factory: pytest.TempPathFactory, whole: pl.DataFrame) -> Path:
    """A folder with a store of what came after the base."""
    folder = tmp_path_factory.mktemp("filled")
    with EventStore.open(folder / "events.db") as opened:
        fill(opened, whole[BASE:])
    return folder


@pytest.fixture
def refill(whole: pl.DataFrame) -> Callable[[EventStore], None]:
    """Gives another store the same."""
    return lambda store: fill(store, whole[BASE:])


@pytest.fixture
def store(tmp_path: Path, filled: Path) -> Iterator[EventStore]:
    """A store of its own, with all that."""
    shutil.copytree(filled, tmp_path / "store")
    with EventStore.open(tmp_path / "store" / "events.db", timeout=60) as opened:  # the machine may be busy
        yield opened


@pytest.fixture
def bundle(tmp_path: Path, base: Path) -> Path:
    """A bundle of its own, on the files of the base."""
    shutil.copytree(base / "bundle", tmp_path / "shelf" / "bundle")
    return tmp_path / "shelf" / "bundle"

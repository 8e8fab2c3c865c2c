"""What several tests share: a small world with clear tastes."""

from __future__ import annotations

import os
from pathlib import Path

# Before numpy and torch load: the suite runs two tests at a time, so each has one core.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import polars as pl
import pytest

from palate.data.log import read
from palate.types import Log

GROUPS, USERS, ITEMS, EVENTS = 4, 160, 48, 7


def small_events(seed: int = 0) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Users of four tastes; nine of ten events are items of the user's own taste, the more popular ones more often."""
    rng = np.random.default_rng(seed)
    rows = []
    for user in range(USERS):
        taste = user % GROUPS
        weight = np.where(np.arange(ITEMS) % GROUPS == taste, 9.0, 1 / 3) / (1 + np.arange(ITEMS) // GROUPS)
        items = rng.choice(ITEMS, EVENTS, replace=False, p=weight / weight.sum())
        times = np.sort(rng.integers(0, 10**6, EVENTS))
        rows += [(f"u{user}", f"i{item}", int(time)) for item, time in zip(items, times, strict=True)]
    rows.sort(key=lambda row: row[2])
    events = pl.DataFrame(rows, schema=["user", "item", "time"], orient="row")
    genres = [["red"], ["green"], ["blue", "warm"], ["grey"]]
    items = pl.DataFrame(
        {
            "item": [f"i{item}" for item in range(ITEMS)],
            "title": [f"Title, {item}" for item in range(ITEMS)],
            "genres": [genres[item % GROUPS] for item in range(ITEMS)],
            "year": [1990 + item for item in range(ITEMS)],
        }
    )
    return events, items


@pytest.fixture(scope="session")
def small_log() -> Log:
    events, items = small_events()
    return read(events, items=items, name="small")


def write_small(folder: Path) -> Path:
    """The same world as files, with a recipe that trains on it in a second."""
    events, items = small_events()
    events.write_csv(folder / "events.csv")
    items.with_columns(pl.col("genres").list.join("|")).write_csv(folder / "items.csv")
    (folder / "my.toml").write_text(
        """
[data]
source = "events.csv"
items = "items.csv"

[[retrieve]]
use = "popular"
quota = 20

[[retrieve]]
use = "ease"
l2 = 10
quota = 20

[rank]
use = "gbdt"
min_rows = 5

[[rerank]]
use = "mmr"
column = "genres"
beta = 0.1

[funnel]
candidates = 30
cuts = 4
""",
        encoding="utf-8",
    )
    return folder


@pytest.fixture
def small_files(tmp_path: Path) -> Path:
    return write_small(tmp_path)


@pytest.fixture(scope="module")
def shared_small_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, once for a whole test file."""
    return write_small(tmp_path_factory.mktemp("small"))

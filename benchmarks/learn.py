"""Learning from what is new against learning everything again: time, and how good the result is.

    python benchmarks/learn.py [--source planted] [--share 0.1] [--epochs 0.2] [--replay 1]

A funnel of networks (two towers, matrix factorisation, DLRM) is fitted on the older part of a log; the newest share of the log then goes
into an event store, as it would have come in. `learn` runs twice on copies of that bundle: warm, its networks going on from those in
service for a share of their epochs on what is new and a sample of the old; and anew, on everything. Both are judged beside the bundle in
service on the same newest fifth of what is new. The gate is told to refuse nothing. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path

import polars as pl

import palate
from palate.data.sources import planted
from palate.feedback.events import Event
from palate.feedback.store import EventStore
from palate.learn.job import Settings, learn
from palate.rank.dlrm import DLRM
from palate.recommender import Recommender
from palate.retrieve.mf import MF
from palate.retrieve.popular import Popular
from palate.retrieve.two_tower import TwoTower
from palate.types import Log
from palate.versions import versions


def made(log: Log, folder: Path, quiet: bool) -> Path:
    """The bundle in service."""
    recommender = Recommender([Popular(quota=100), TwoTower(width=32, quota=150), MF(width=32, quota=150)], DLRM(), candidates=200, cuts=4)
    return recommender.fit(log, quiet=quiet).save(folder)


def fill(store: EventStore, events: pl.DataFrame) -> None:
    """What was wanted, as clicks, a thousand at a time."""
    batch: list[Event] = []
    for number, (user, item, time) in enumerate(events.iter_rows()):
        batch.append(Event(id=str(number), kind="click", user=user, item=item, time=time))
        if len(batch) == 1000:
            store.append(batch)
            batch = []
    store.append(batch)


def settings_of(given: argparse.Namespace) -> dict[str, float]:
    """What the warm run was told."""
    return {"epochs": given.epochs, "replay": given.replay}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", default="planted", help="planted (2,000 people, 500 items, 300,000 events) or a source of palate.read")
    parser.add_argument("--epochs", type=float, default=Settings().epochs)
    parser.add_argument("--replay", type=float, default=Settings().replay)
    parser.add_argument("--share", type=float, default=0.1, help="of the events, the newest: what is new")
    parser.add_argument("--verbose", action="store_true")
    given = parser.parse_args()
    log = planted.load(2_000, 500, 300_000) if given.source == "planted" else palate.read(given.source)
    log = log.positives()
    cut = int(len(log) * (1 - given.share))
    base = log.where(pl.int_range(pl.len()) < cut)
    words = [pl.col(name).cast(pl.String) for name in ("user", "item")]
    later = log.events[cut:].select(*words, pl.col("time").dt.replace_time_zone("UTC"))
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        first = made(base, place / "first", not given.verbose)
        with EventStore.open(place / "events.db") as store:
            fill(store, later)
            for name, warm in (("warm", True), ("anew", False)):
                shelf = place / name / "first"
                shutil.copytree(first, shelf)
                settings = Settings(warm=warm, epochs=given.epochs, replay=given.replay, margin=1.0, people=10)
                told = learn(shelf, store, settings=settings, log=base, quiet=not given.verbose)
                found[name] = {"action": told.action, **{key: round(value, 4) for key, value in told.measures.items()}}
    print(
        json.dumps(
            {
                "benchmark": "learn",
                "source": given.source,
                "base": cut,
                "new": later.height,
                "settings": settings_of(given),
                **found,
                "versions": versions(),
            }
        )
    )


if __name__ == "__main__":
    main()

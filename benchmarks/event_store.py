"""Events a second into the event store, in batches, and the time a person's history takes. Prints one JSON line.

    python benchmarks/event_store.py --events 1000000                       # SQLite, in a folder on the disk under test
    python benchmarks/event_store.py --url postgresql://user@host/name

Nine of eleven events are impressions, as behind a service. Each batch has reached the disk when it is counted. `validated` has the batch
parsed from JSON first, as a service has to. Histories are read warm, of people drawn at random, when everything is in the store.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import sqlite3
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from palate.feedback.events import Event, parse_events
from palate.feedback.store import EventStore

KINDS = ["impression"] * 9 + ["click", "play"]
START = 1_700_000_000


def batch(rng: random.Random, size: int, users: int, number: int) -> str:
    """A body of a request: JSON with `size` events, one millisecond apart."""
    events: list[dict[str, Any]] = []
    for place in range(size):
        kind = rng.choice(KINDS)
        at = START * 1000 + number * size + place
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at // 1000))
        event = {
            "id": f"{rng.getrandbits(96):024x}",
            "kind": kind,
            "user": f"user-{int(users * rng.random() ** 2)}",
            "item": f"item-{int(100_000 * rng.random() ** 3)}",
            "time": f"{moment}.{at % 1000:03d}Z",
            "recommendation": f"{rng.getrandbits(96):024x}",
            "position": place % 20,
            "placement": "home",
        }
        events.append({**event, "value": 30.0 * rng.random()} if kind == "play" else event)
    return json.dumps(events)


def quantiles(ask: Callable[[str], object], people: list[str]) -> dict[str, float]:
    """Microseconds a question takes: p50 and p99, of elapsed time."""
    for person in people:
        ask(person)
    taken = []
    for person in people:
        before = time.perf_counter()
        ask(person)
        taken.append(time.perf_counter() - before)
    return {"p50_us": round(float(np.quantile(taken, 0.5)) * 1e6), "p99_us": round(float(np.quantile(taken, 0.99)) * 1e6)}


def measure(url: str, events: int, size: int, users: int, seed: int) -> dict[str, Any]:
    rng = random.Random(seed)
    people = [f"user-{int(users * rng.random() ** 2)}" for _ in range(1000)]
    with EventStore.open(url, timeout=60) as store:
        before = store.cursor()
        parsing = writing = on_processor = 0.0
        for number in range(events // size):
            body = batch(rng, size, users, number)
            start = time.perf_counter()
            given: list[Event] = parse_events(json.loads(body))
            parsed, processor = time.perf_counter(), time.process_time()
            appended = store.append(given)
            written = time.perf_counter()
            if appended.new != size:
                raise SystemExit(f"{size} events were sent and {appended.new} kept; use an empty store")
            parsing, writing = parsing + parsed - start, writing + written - parsed
            on_processor += time.process_time() - processor
        count = events // size * size
        store_cursor = store.cursor() - count // 10  # as behind a bundle that has learnt from nine tenths
        return {
            "database": store.where.partition("://")[0] if "://" in store.where else f"SQLite {sqlite3.sqlite_version}",
            "events": store.cursor() - before,
            "batch": size,
            "events_per_s": round(count / writing),
            "events_per_s_validated": round(count / (writing + parsing)),
            "events_per_processor_s": round(count / on_processor),
            "history": quantiles(store.history, people),
            "seen": quantiles(store.seen, people),
            "hidden": quantiles(store.hidden, people),
            "impressions": quantiles(store.impressions, people),
            "person": quantiles(lambda person: store.person(person, after=store_cursor, impressions_since=0), people),
        }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", default="", help="where to write; by default a SQLite file in a folder that is removed again")
    parser.add_argument("--folder", help="the folder for that file; by default that of temporary files")
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--batch", type=int, default=500)
    parser.add_argument("--users", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        result = measure(given.url or str(Path(folder) / "events.db"), given.events, given.batch, given.users, given.seed)
    print(json.dumps({"benchmark": "event_store", **result, "python": platform.python_version(), "machine": platform.machine()}))


if __name__ == "__main__":
    main()

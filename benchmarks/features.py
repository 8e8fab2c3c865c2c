"""Time and memory of History and Encoder on a generated log. Prints one JSON line.

python benchmarks/features.py --events 20000000
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from palate.features.encode import Encoder
from palate.features.history import History
from palate.features.spec import FeatureSet
from palate.types import Log


def generate(events: int, items: int = 27_000, seed: int = 0) -> Log:
    """Ratings by users and of items of very different activity, 145 a user on average, over 19 years, as in MovieLens 20M."""
    random = np.random.default_rng(seed)
    n_users = max(100, events // 145)
    genres = np.array([f"genre {genre}" for genre in range(20)])
    bags = [random.choice(genres, size, replace=False).tolist() for size in random.integers(1, 4, items)]
    users = pl.DataFrame({"user": [str(user) for user in range(n_users)], "age": random.integers(0, 7, n_users)})
    table = pl.DataFrame({"item": [str(item) for item in range(items)], "year": random.integers(1950, 2020, items), "genres": bags})
    return Log(
        pl.DataFrame(
            {
                "user": pl.Series((n_users * random.random(events) ** 2).astype(np.uint32)).cat.to(pl.Enum(users["user"])),
                "item": pl.Series((items * random.random(events) ** 3).astype(np.uint32)).cat.to(pl.Enum(table["item"])),
                "time": pl.Series(np.sort(random.integers(0, 600_000_000_000_000, events))).cast(pl.Datetime("us", "UTC")),
                "kind": pl.Series(np.zeros(events, dtype=np.uint32)).cat.to(pl.Enum(["rating"])),
                "value": pl.Series(random.integers(1, 6, events).astype(np.float32)),
            }
        ),
        users,
        table,
        name="generated",
        positive=("rating",),
    )


def resident() -> float:
    """GiB of memory this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**30


def timed(act: Callable[[], Any], repeat: int = 1) -> tuple[Any, float]:
    """What it gives, and the seconds of the quickest run."""
    best = float("inf")
    for _ in range(repeat):
        start = time.perf_counter()
        result = act()
        best = min(best, time.perf_counter() - start)
    return result, best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=2_000_000)
    events = parser.parse_args().events
    log = generate(events)
    before = resident()
    history, build = timed(lambda: History.of(log))
    encoder, fit = timed(lambda: Encoder.fit(FeatureSet.derive(log), log, history))
    held = resident() - before
    random = np.random.default_rng(1)
    some = random.integers(0, len(history), 4096)
    queries, point = timed(lambda: history.before(some), repeat=5)
    asked = history.queries(random.integers(0, log.n_users, 1000))
    rows, items = np.repeat(np.arange(1000), 300), random.integers(0, log.n_items, 300_000).astype(np.int32)
    # A copy each time: the encoder remembers the last Queries it saw.
    _, pairs = timed(lambda: encoder.encode(asked.take(np.arange(1000)), rows, items), repeat=3)
    print(
        json.dumps(
            {
                "events": events,
                "features": len(encoder.features.features),
                "history_s": round(build, 2),
                "fit_s": round(fit, 2),
                "memory_gib": round(held, 2),
                "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
                "before_4096_ms": round(1000 * point, 1),
                "history_values": len(queries.history.values),
                "encode_rows_per_s": round(len(rows) / pairs),
                "python": platform.python_version(),
                "numpy": np.__version__,
                "polars": pl.__version__,
            }
        )
    )


if __name__ == "__main__":
    main()

"""Memory and time of `palate train` on generated logs of growing size.

    python benchmarks/scale.py --events 2000000 5000000 10000000 20000000

For each size: writes a planted log to disk, runs the whole of `palate train` on it in a process of its own (gate, split, features,
retrievers, the ranker on its candidates, evaluation, bundle), and prints one JSON line with the seconds and the peak of
resident memory of that process. Of the planted events some 18 % are clicks and purchases, from which the models learn; the rest are
impressions and dislikes, which are read, checked, split and kept apart. With --all-wanted everything is learnt from.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil

RECIPE = """
[data]
source = "events.parquet"
kind = "kind"
context = ["device", "hour"]
split = "global-time"
fraction = TEST

[[retrieve]]
use = "popular"
quota = 50

[[retrieve]]
use = "item_knn"
name = "next"
similarity = "sequential"
last = 10
quota = 100

[rank]
use = "lr"
[rank.train]
epochs = 1

[funnel]
candidates = 150
holdout = "time"
fraction = 0.05
queries = 5000
"""

ALL_WANTED = 'positive = ["impression", "click", "purchase", "dislike"]\nnegative = []'


def peak_of(process: subprocess.Popen[bytes]) -> float:
    """Largest resident memory of the process and its children, in GiB, sampled ten times a second until it ends."""
    most = 0

    def watch() -> None:
        nonlocal most
        while process.poll() is None:
            try:
                root = psutil.Process(process.pid)
                most = max(most, sum(child.memory_info().rss for child in [root, *root.children(recursive=True)]))
            except psutil.Error:
                pass
            time.sleep(0.1)

    watcher = threading.Thread(target=watch)
    watcher.start()
    process.wait()
    watcher.join()
    return most / 2**30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, nargs="+", default=[2_000_000])
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--events-per-user", type=int, default=50)
    parser.add_argument("--all-wanted", action="store_true", help="let impressions and dislikes count as wanted too")
    arguments = parser.parse_args()
    recipe = RECIPE.replace('kind = "kind"', f'kind = "kind"\n{ALL_WANTED}') if arguments.all_wanted else RECIPE
    for events in arguments.events:
        with tempfile.TemporaryDirectory() as folder:
            users = max(100, events // arguments.events_per_user)
            generate = ["generate", "events.parquet", "--events", str(events), "--users", str(users), "--items", str(arguments.items)]
            subprocess.run([sys.executable, "-m", "palate.cli", *generate], cwd=folder, check=True, stdout=subprocess.DEVNULL)
            size = (Path(folder) / "events.parquet").stat().st_size
            (Path(folder) / "scale.toml").write_text(recipe.replace("TEST", str(20_000 / events)), encoding="utf-8")
            start = time.perf_counter()
            command = [sys.executable, "-m", "palate.cli", "train", "scale.toml", "--out", "bundle", "--json"]
            process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)
            peak = peak_of(process)
            seconds = time.perf_counter() - start
            if process.returncode:
                sys.exit(f"palate train failed on {events:,} events")
            row = {
                "events": events,
                "users": users,
                "items": arguments.items,
                "file_mib": round(size / 2**20),
                "seconds": round(seconds, 1),
                "events_per_second": round(events / seconds),
                "peak_gib": round(peak, 2),
            }
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()

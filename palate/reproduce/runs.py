"""Running the entries of a table, some at a time, and keeping each run as a JSON file, so that it is never repeated."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from palate.reproduce.base import Done, Entry, Table, environment, fingerprint, protocol_of
from palate.types import ConfigError

_WORK: tuple[Table, Any] | None = None  # of a worker process: its table and what was read


def _start(table: Table, folder: Path) -> None:
    global _WORK
    _WORK = (table, protocol_of(table).read(table, folder))


def _work(entry: Entry, seed: int, tune: bool) -> Done:
    assert _WORK is not None
    table, data = _WORK
    return protocol_of(table).train(entry, seed, data, tune)


@contextmanager
def _threads(jobs: int) -> Iterator[None]:
    """Processes started meanwhile have their share of the processors; libraries read it when they load."""
    before = os.environ.get("OMP_NUM_THREADS")
    share = max(1, (os.cpu_count() or 1) // jobs)
    os.environ["OMP_NUM_THREADS"] = str(min(share, int(before)) if before and before.isdigit() else share)
    try:
        yield
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before


def run(
    table: Table,
    entries: Sequence[Entry],
    seeds: Sequence[int],
    folder: Path,
    out: Path,
    *,
    jobs: int = 1,
    tune: bool = False,
    command: str = "",
    told: Callable[[Entry, Done, int, int], None] = lambda *_: None,
) -> tuple[dict[str, list[Done]], Any]:
    """Trains every entry with every seed, `jobs` at a time, and leaves one JSON file a run in `out`; gives the runs and what was read.

    A run that is already there, with the same settings, files and versions, is not repeated, so that a long table may be stopped
    and taken up again. tune: settings are chosen among each entry's `grid` first, on items held out of train.
    told: called after each run with how many are done and how many there are.
    """
    protocol = protocol_of(table)
    if tune and not protocol.tunes:
        raise ConfigError(f"--tune: the protocol of {table.name} has its own validation rows; its settings are in the table")
    for entry in entries:
        protocol.check(entry)
        for changes in entry.grid:
            protocol.check(replace(entry, settings={**entry.settings, **changes}))
    data = protocol.read(table, folder)
    out.mkdir(parents=True, exist_ok=True)
    where = environment()
    runs: dict[str, list[Done]] = {entry.key: [] for entry in entries}
    left: list[tuple[Entry, int, Path]] = []
    total = 0
    for entry in entries:
        for seed in seeds if entry.random else list(seeds)[:1]:
            about = [entry.use, entry.settings, *entry.counts, seed, data.checksums, where["versions"]]
            if tune:
                about += ["tune", entry.grid]
            path = out / f"{entry.key}-{seed}-{fingerprint(about)}.json"
            total += 1
            if path.is_file():
                runs[entry.key].append(Done(**json.loads(path.read_text(encoding="utf-8"))["run"]))
            else:
                left.append((entry, seed, path))

    def keep(entry: Entry, path: Path, done: Done) -> None:
        runs[entry.key].append(done)
        record = {"table": table.name, "entry": asdict(replace(entry, published={})), "run": asdict(done), "command": command}
        half = path.with_suffix(".half")
        half.write_text(json.dumps(record | {"environment": where, "data": data.checksums}, indent=1), encoding="utf-8")
        os.replace(half, path)
        told(entry, done, sum(len(found) for found in runs.values()), total)

    if jobs == 1:
        for entry, seed, path in left:
            keep(entry, path, protocol.train(entry, seed, data, tune))
    elif left:
        with _threads(jobs), ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), _start, (table, folder)) as workers:
            futures = {workers.submit(_work, entry, seed, tune): (entry, path) for entry, seed, path in left}
            try:
                for future in as_completed(futures):
                    keep(*futures[future], future.result())
            except BaseException:
                workers.shutdown(wait=False, cancel_futures=True)
                raise
    for found in runs.values():
        found.sort(key=lambda done: done.seed)
    return runs, data

"""Killed at any moment, learning leaves a whole bundle in service."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from palate.feedback.store import EventStore
from palate.learn.job import Settings, learn
from palate.recommender import Recommender
from palate.serve import bundle as bundles
from palate.serve.shelf import Shelf

RUN = """
import sys
from palate.feedback.store import EventStore
from palate.learn.job import Settings, learn
with EventStore.open(sys.argv[2]) as store:
    print("begun", flush=True)
    print(learn(sys.argv[1], store, settings=Settings(least=50, people=10, margin=1.0)).action, flush=True)
"""


def test_killed_at_any_moment_a_whole_bundle_is_in_service(bundle: Path, store: EventStore) -> None:
    """A real process and kill -9; afterwards the bundle in service is whole, and learning goes on. PALATE_KILLS says how many times."""
    shelf, rng = Shelf(bundle), random.Random(0)
    start = time.perf_counter()
    _start(bundle, store).wait()
    span = time.perf_counter() - start
    _undo(shelf)
    kills = 0
    while kills < int(os.environ.get("PALATE_KILLS", "2")):
        process = _start(bundle, store)
        try:
            process.wait(rng.uniform(0.5, 0.95) * span)
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            kills += 1
        else:  # done before the kill: the machine has become quicker
            span *= 0.7
            _undo(shelf)
            continue
        current = shelf.path(shelf.current())
        bundles.checked_manifest(current)
        assert len(Recommender.load(current).recommend("u2", k=3)) == 3
        if shelf.current() != "bundle":
            break
    learnt = learn(bundle, store, settings=Settings(least=10, people=5, margin=1.0))
    assert learnt.action in ("promote", "wait", "refuse")
    promoted = {one.version for one in store.decisions() if one.action == "promote"}
    assert all(shelf.version(name) in promoted for name in [shelf.current()] if name != "bundle")
    assert not list(bundle.parent.glob(".*draft*"))


def _undo(shelf: Shelf) -> None:
    """Only the first bundle is there, and in service."""
    for name in shelf.names()[1:]:
        shutil.rmtree(shelf.path(name))
    shelf.file.unlink(missing_ok=True)


def _start(bundle: Path, store: EventStore) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", RUN, str(bundle), str(store.where)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )

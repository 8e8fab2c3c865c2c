"""The store under kill -9, full, locked, gone and back. PALATE_KILLS=100 for the long run of kills."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from palate.errors import StoreError
from palate.feedback.events import Event
from palate.feedback.store import Appended, EventStore

if TYPE_CHECKING:
    from collections.abc import Iterator

KILLS = int(os.environ.get("PALATE_KILLS", "3"))
SIZE = 40


def events(name: str, size: int = 3, width: int = 1) -> list[Event]:
    time = datetime(2026, 11, 23, 8, tzinfo=UTC)
    return [Event(id=f"{name}.{place}", kind="click", user="u", item="i" * width, time=time) for place in range(size)]


def refused(store: EventStore, what: str, batch: list[Event]) -> StoreError:
    with pytest.raises(StoreError, match=what) as error:
        store.append(batch)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(f"{store.where}: {error.value.brief}")
    return error.value


def test_kill_9_loses_nothing_acknowledged_and_doubles_nothing(url: str) -> None:
    """Each round a process is killed somewhere while it writes; the next begins again with the first batch that was not acknowledged."""
    chance = random.Random(7)
    acknowledged = 0  # batches 0 .. acknowledged - 1
    for number in range(KILLS):
        command = [sys.executable, str(Path(__file__).parent / "writer.py"), url, str(acknowledged), str(SIZE)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            lines = [writer.stdout.readline()]  # at least one batch a round, so that the test tests something
            time.sleep(chance.random() * 0.2)
            writer.kill()
            lines += writer.stdout.read().splitlines(keepends=True)
        whole = [int(line) for line in lines if line.endswith(b"\n")]
        assert whole == list(range(acknowledged, acknowledged + len(whole)))
        acknowledged += len(whole)
        with EventStore.open(url, timeout=60) as store:
            found = [one.id for one in store.events(limit=10**7)[0]]
            assert len(found) == len(set(found))
            kept = set(found)
            assert kept >= {f"{batch}.{place}" for batch in range(acknowledged) for place in range(SIZE)}, f"lost in round {number}"
            # at most the batch that was under way is there without having been acknowledged, and then whole
            assert kept <= {f"{batch}.{place}" for batch in range(acknowledged + 1) for place in range(SIZE)}
            assert len(kept) in (acknowledged * SIZE, (acknowledged + 1) * SIZE)
            assert sum(count.events for count in store.counts()) == len(kept)
    assert acknowledged >= KILLS


def test_a_full_store_keeps_nothing_of_a_batch_and_goes_on_when_there_is_room(tmp_path: Path) -> None:
    with EventStore.open(tmp_path / "events.db") as store:
        store.append(events("before"))
        big = events("big", 2000, 200)
        with store._database.writer.connect() as connection:
            connection.exec_driver_sql("PRAGMA max_page_count = 60")
        error = refused(store, r": the store is full and kept nothing of this; free some space, then send it again", big)
        assert error.passing
        assert [one.id for one in store.events()[0]] == ["before.0", "before.1", "before.2"]
        assert sum(count.events for count in store.counts()) == 3
        with store._database.writer.connect() as connection:
            connection.exec_driver_sql("PRAGMA max_page_count = 1000000")
        assert store.append(big) == Appended(2000, 0, 0)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB in memory."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = shutil.which("mount") and subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], capture_output=True)
    if not mounted or mounted.returncode:
        pytest.skip("this user may not mount a small file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk(small_disk: Path) -> None:
    ballast = small_disk / "ballast"
    with EventStore.open(small_disk / "events.db") as store:
        ballast.write_bytes(b"0" * (2 << 20))
        kept, failed = 0, None
        while failed is None and kept < 100:
            try:
                store.append(events(f"{kept}", 500, 99))
                kept += 1
            except StoreError as error:
                failed = error
        assert failed is not None
        assert failed.passing
        assert "full" in str(failed)
        assert 0 < kept < 100
        assert store.cursor() >= kept * 500
        assert sum(count.events for count in store.counts()) == kept * 500
        ballast.unlink()
        assert store.append(events(f"{kept}", 500, 99)) == Appended(500, 0, 0)
    with EventStore.open(small_disk / "events.db") as store:
        assert len(store.events(limit=10**6)[0]) == (kept + 1) * 500


def test_locked_by_another_process_until_it_lets_go(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    with EventStore.open(path, timeout=0.2) as store:
        store.append(events("1"))
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        error = refused(store, r": locked by somebody else for more than 0\.2 s; try again \(database is locked\)$", events("2"))
        assert error.passing
        assert store.history("u") == ("i",) * 3, "readers do not wait for writers"
        other.execute("ROLLBACK")
        other.close()
        assert store.append(events("2")) == Appended(3, 0, 0)


def test_a_lock_that_is_short_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    with EventStore.open(path, timeout=30) as store:
        other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        other.execute("BEGIN IMMEDIATE")
        timer = threading.Timer(0.1, lambda: other.execute("ROLLBACK"))
        timer.start()
        assert store.append(events("1")) == Appended(3, 0, 0)
        timer.join()
        other.close()


def test_a_file_that_is_moved_away_and_comes_back(tmp_path: Path) -> None:
    """SQLite would go on writing into the file that was moved, and acknowledge what nobody finds again."""
    (tmp_path / "here").mkdir()
    with EventStore.open(tmp_path / "here" / "events.db") as store:
        store.append(events("1"))
        (tmp_path / "here").rename(tmp_path / "away")
        error = refused(store, r": cannot be opened|: the file was moved away or replaced", events("2"))
        assert error.passing
        with pytest.raises(StoreError):
            store.history("u")
        (tmp_path / "here").mkdir()
        refused(store, r": cannot be opened|: the file was moved away or replaced", events("2"))
        assert list((tmp_path / "here").iterdir()) == [], "no new and empty store in its place"
        (tmp_path / "here").rmdir()
        (tmp_path / "away").rename(tmp_path / "here")
        assert store.append(events("2")) == Appended(3, 0, 0)
        assert len(store.history("u")) == 6


def test_a_file_that_is_replaced_by_a_copy(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    with EventStore.open(path) as store:
        store.append(events("1"))
        store.close()  # so that everything is in the one file
        shutil.copy(path, tmp_path / "copy.db")
        store.append(events("2"))
        assert store.history("u") == ("i",) * 6
        for end in ("-wal", "-shm"):
            Path(f"{path}{end}").unlink()
        (tmp_path / "copy.db").rename(path)
        assert store.history("u") == ("i",) * 3, "what is read is what the file of that name holds"
        assert store.append(events("3")) == Appended(3, 0, 0)
    with EventStore.open(path) as store:
        assert {one.id[0] for one in store.events()[0]} == {"1", "3"}


def test_a_server_that_crashes_and_comes_back(server: object, request: pytest.FixtureRequest) -> None:
    own = request.getfixturevalue("server")
    with EventStore.open(own.fresh(), timeout=20) as store:
        assert store.append(events("1")) == Appended(3, 0, 0)
        assert len(store.history("u")) == 3
        own.stop("immediate")
        try:
            error = refused(store, ": the server cannot be reached; see that it runs", events("2"))
            assert error.passing
            with pytest.raises(StoreError, match="the server cannot be reached"):
                store.history("u")
        finally:
            own.start()
        assert len(store.history("u")) == 3
        assert store.append(events("2")) == Appended(3, 0, 0)
        own.stop("fast")
        own.start()
        # the connections in the pools are stale: both are made anew without a word
        assert store.append([*events("2"), *events("3")]) == Appended(3, 3, 0)
        assert len(store.history("u")) == 9


def test_locked_in_postgresql(server: object, request: pytest.FixtureRequest) -> None:
    import psycopg

    own = request.getfixturevalue("server")
    url = own.fresh()
    EventStore.open(url, timeout=60).close()
    schema = url.rpartition("%3D")[2]
    with EventStore.open(url, timeout=1) as store, psycopg.connect(f"host={own.folder} user=palate dbname=postgres") as other:
        other.execute(f"LOCK TABLE {schema}.palate_events IN ACCESS EXCLUSIVE MODE")  # type: ignore[arg-type]
        error = refused(store, r": locked by somebody else for more than 1 s; try again", events("1"))
        assert error.passing
    with EventStore.open(url, timeout=60) as store:
        assert store.append(events("1")) == Appended(3, 0, 0)

"""The service as a process of its own, and what may befall it: kill -9 under load; a store that is full, locked, gone and back; bundles
that are damaged; a ranker that is slow; clients that are slow, leave, or come in crowds. PALATE_KILLS=100 for the long run of kills.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import re
import resource
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import pytest

import palate
from palate.feedback.store import EventStore

KILLS = int(os.environ.get("PALATE_KILLS", "3"))
LONG = 240.0  # seconds within which a busy machine does anything
BOUND = re.compile(r"http://127\.0\.0\.1:(\d+)")
BROKEN = "plain@0123456789ab"
SERVE = "from palate.cli import main; main()"
HERE = Path(__file__).parent
STOPPED = (0, -signal.SIGTERM)
"""How a process ends in order that is told to: what raised the signal may raise it again at the end."""


class Running:
    """`palate serve BUNDLE` on a free port, in a folder for its settings and what it says. settings: of `palate.serve.settings`; without a
    deadline unless it is given, since a busy machine keeps none.
    """

    def __init__(self, bundle: Path, folder: Path, *, trust: str = "", path: Path | None = None, **settings: Any) -> None:
        folder.mkdir(exist_ok=True)
        self.said = folder / "said.txt"
        file = folder / "serve.toml"
        file.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in {"port": 0, "deadline_ms": 0.0, **settings}.items()))
        command = [sys.executable, "-c", SERVE, "serve", str(bundle), "--config", str(file), *(["--trust", trust] if trust else [])]
        self.sleep = folder / "sleep"
        environment = {"COLUMNS": "200", "PYTHONFAULTHANDLER": "1", "PYTHONPATH": str(path or ""), "PALATE_SLEEPY": str(self.sleep)}
        with self.said.open("ab") as out:
            start = out.tell()
            self.process = subprocess.Popen(command, stdout=out, stderr=out, env={**os.environ, **environment})
        try:
            self.port = self._port(start)
            self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=LONG)
            self._until_ready()
        except BaseException:
            self.process.kill()
            self.process.wait()
            raise

    def _port(self, start: int) -> int:
        limit = time.monotonic() + LONG
        while time.monotonic() < limit and self.process.poll() is None:
            found = BOUND.search(self.output(start))
            if found:
                return int(found[1])
            time.sleep(0.02)
        self.process.send_signal(signal.SIGABRT)  # which tells where it hangs
        self.process.wait()
        raise AssertionError(f"it did not start: {self.output(start)}")

    def _until_ready(self) -> None:
        limit = time.monotonic() + LONG
        while time.monotonic() < limit and self.process.poll() is None:
            try:
                if self.client.get("/health/ready").status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.02)
        raise AssertionError(f"it was never ready: {self.output()}")

    def output(self, start: int = 0) -> str:
        """What it has said."""
        return self.said.read_bytes()[start:].decode()

    def post(self, path: str, body: Any) -> httpx.Response:
        return self.client.post(path, json=body)

    def recommend(self, *, patient: bool = False, **asked: Any) -> dict[str, Any]:
        """The answer, which must be one. patient: who is told 503 comes again when that says so."""
        answer = self.post("/v1/recommend", asked)
        limit = time.monotonic() + LONG
        while patient and answer.status_code == 503 and time.monotonic() < limit:
            time.sleep(int(answer.headers["retry-after"]))
            answer = self.post("/v1/recommend", asked)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.wait()
        self.client.close()

    def stop(self) -> int:
        """As by Ctrl-C or `systemctl stop`: what runs is answered. Returns the exit code."""
        self.client.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(LONG)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        code = self.stop()
        if kind is None:  # whatever befell it, it ends in order and has shown nobody a traceback
            assert "Traceback" not in self.output(), self.output()[-5000:]
            assert code in STOPPED, (code, self.output()[-2000:])


def event(name: str, user: str = "u1", item: str = "i1", kind: str = "click", **more: Any) -> dict[str, Any]:
    return {"id": name, "kind": kind, "user": user, "item": item, "time": datetime.now(UTC).isoformat(), **more}


def is_503(answer: httpx.Response, *words: str) -> None:
    """One line that says so, and when to come again."""
    assert answer.status_code == 503, (answer.status_code, answer.text)
    assert int(answer.headers["retry-after"]) >= 1
    said = answer.json()["error"]
    assert "\n" not in said
    assert any(word in said for word in words), said
    assert "events.db" not in said, "where the store lies is nobody's business"
    assert "/" not in said


def until(done: Callable[[], bool], what: str, seconds: float = LONG) -> None:
    limit = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < limit, what
        time.sleep(0.02)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, small_log: palate.Log) -> Path:
    """A bundle that is quick to load; to be read, not changed."""
    return palate.Recommender(["popular", palate.EASE(l2=10)]).fit(small_log).save(tmp_path_factory.mktemp("plain") / "plain")


# -- kill -9 ------------------------------------------------------------------------------------------------------------------------


class Sender(threading.Thread):
    """A client that sends batches until the service dies; the next time it begins with the batch that was not acknowledged."""

    SIZE = 10

    def __init__(self, name: str, number: int, port: int, in_doubt: bool) -> None:
        super().__init__()
        self.prefix, self.number, self.port, self.in_doubt = name, number, port, in_doubt
        self.wrong: list[str] = []

    def run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=LONG)
        try:
            while True:
                body = [event(f"{self.prefix}.{self.number}.{place}", user=f"u{place}") for place in range(self.SIZE)]
                connection.request("POST", "/v1/events", json.dumps(body), {"Content-Type": "application/json"})
                answer = connection.getresponse()
                said = answer.read()
                kept = json.loads(said) if answer.status == 200 else {}
                # what was sent before and not acknowledged may be there, and then as a whole
                expected = [{"new": self.SIZE, "repeated": 0, "forgotten": 0}]
                if self.in_doubt:
                    expected.append({"new": 0, "repeated": self.SIZE, "forgotten": 0})
                if kept not in expected:
                    self.wrong.append(f"{answer.status} {said!r}")
                    return
                self.number, self.in_doubt = self.number + 1, False
        except (OSError, http.client.HTTPException):
            self.in_doubt = True
        finally:
            connection.close()


class Asker(threading.Thread):
    """A client that asks for recommendations until the service dies."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self.port = port
        self.statuses: set[int] = set()

    def run(self) -> None:
        with contextlib.suppress(httpx.TransportError), httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=LONG) as client:
            while True:
                self.statuses.add(client.post("/v1/recommend", json={"user": "u1", "k": 5}).status_code)


def kept_ids(path: Path) -> list[str]:
    """As somebody finds them who opens the store after the process has gone."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return [row[0] for row in connection.execute("SELECT id FROM palate_events")]


def test_killed_under_load_it_loses_nothing_acknowledged_and_doubles_nothing(plain: Path, tmp_path: Path) -> None:
    """Four clients send events, one asks for recommendations; in each round the process is killed somewhere in between. In the last it is
    told to stop, which is the same to those who send, and ends in order."""
    store, chance = tmp_path / "events.db", random.Random(11)
    clients = dict.fromkeys("abcd", (0, False))  # the next batch of each, and whether it may be there already
    before = 0
    for number in range(KILLS + 1):
        running = Running(plain, tmp_path / "run", store=str(store))
        senders = [Sender(name, batch, running.port, in_doubt) for name, (batch, in_doubt) in clients.items()]
        asker = Asker(running.port)
        for thread in (*senders, asker):
            thread.start()
        until(lambda: sum(sender.number for sender in senders) > before, "nothing was acknowledged")  # noqa: B023 - called at once
        if number == KILLS:
            until(lambda: bool(asker.statuses), "nothing was recommended")  # noqa: B023
        time.sleep(chance.random() * 0.3)
        if number < KILLS:
            running.kill()
        else:
            assert running.stop() in STOPPED
        for thread in (*senders, asker):
            thread.join(LONG)
            assert not thread.is_alive(), "a client hangs"
        assert [sender.wrong for sender in senders] == [[]] * 4
        assert asker.statuses <= {200}
        clients = {sender.prefix: (sender.number, sender.in_doubt) for sender in senders}
        before = sum(batches for batches, _ in clients.values())
        found = kept_ids(store)
        kept = set(found)
        assert len(found) == len(kept), f"doubled in round {number}"
        for name, (batches, _) in clients.items():
            own = {one for one in kept if one.startswith(f"{name}.")}
            acknowledged = {f"{name}.{batch}.{place}" for batch in range(batches) for place in range(Sender.SIZE)}
            under_way = {f"{name}.{batches}.{place}" for place in range(Sender.SIZE)}
            assert own in (acknowledged, acknowledged | under_way), f"round {number}: {len(acknowledged - own)} lost"
    with EventStore.open(store) as opened:
        assert sum(count.events for count in opened.counts()) == len(kept)
        assert opened.slates(limit=1)[0], "what was recommended before an end in order is there, too"
    assert "Traceback" not in running.output(), running.output()
    print(f"{KILLS} kills, {before} batches acknowledged, {len(kept)} events kept")


# -- the store ------------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shared(plain: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One process that goes through all that follows, as a service has to."""
    folder = tmp_path_factory.mktemp("shared")
    (folder / "store").mkdir()
    bundle = Path(shutil.copytree(plain, folder / "plain"))
    shutil.copytree(plain, folder / BROKEN)
    (folder / BROKEN / "items.parquet").write_bytes(b"nothing")
    (folder / "plain.current").write_text(json.dumps({"bundle": BROKEN, "previous": ["plain"]}))
    with Running(bundle, folder, store=str(folder / "store" / "events.db"), head_seconds=2.0, body_seconds=2.0) as running:
        running.post("/v1/events", event("first", user="u2")).raise_for_status()
        yield running


def store_of(running: Running) -> Path:
    return running.said.parent / "store" / "events.db"


def works(running: Running, name: str, user: str) -> None:
    """An event is kept, and changes the next answer."""

    def in_full() -> dict[str, Any]:
        answers: list[dict[str, Any]] = []

        def asked() -> bool:
            answers.append(running.recommend(user=user, record=False))
            return answers[-1]["why"] is None

        until(asked, "it does not work")
        return answers[-1]

    item = in_full()["items"][0]["item"]
    assert running.post("/v1/events", event(name, user=user, item=item)).json() == {"new": 1, "repeated": 0, "forgotten": 0}
    after = in_full()
    assert item not in [entry["item"] for entry in after["items"]]
    assert item == after["history"][0]["item"]


def test_locked_by_another_process(shared: Running) -> None:
    other = sqlite3.connect(store_of(shared), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        with ThreadPoolExecutor(1) as threads:
            waits = threads.submit(shared.post, "/v1/events", event("locked", user="u3"))
            for _ in range(5):
                answer = shared.recommend(user="u2")
                assert answer["why"] is None, "readers do not wait for writers"
            is_503(waits.result(LONG), "locked")
    finally:
        other.execute("ROLLBACK")
        other.close()
    works(shared, "unlocked", "u3")
    until(lambda: slates(shared) >= 5, "slates were lost while it was locked")


def slates(running: Running) -> int:
    with contextlib.closing(sqlite3.connect(store_of(running))) as connection:
        return int(connection.execute("SELECT count(*) FROM palate_slates").fetchone()[0])


def test_more_events_than_can_wait_are_refused_at_once(shared: Running) -> None:
    other = sqlite3.connect(store_of(shared), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        with ThreadPoolExecutor(4) as threads:
            batches = [[event(f"many {batch}.{place}") for place in range(6000)] for batch in range(3)]
            answers = [threads.submit(shared.post, "/v1/events", batch) for batch in batches]
            until(lambda: any(answer.done() for answer in answers), "nobody was refused")
            refused = [answer.result() for answer in answers if answer.done()]
            is_503(refused[0], "there is room for")
            for answer in answers:
                is_503(answer.result(LONG), "there is room for", "locked")
    finally:
        other.execute("ROLLBACK")
        other.close()
    works(shared, "not so many", "u4")


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="files of a running process are bounded by prlimit, which is Linux's")
def test_full(shared: Running) -> None:
    """No file of the process may grow beyond what it has: to SQLite that is a disk that takes no more."""
    path = store_of(shared)
    largest = max(file.stat().st_size for file in [*path.parent.iterdir(), shared.said])
    wide = [event(f"wide {place}", user="u5", item="i" * 250) for place in range(4000)]
    free = resource.prlimit(shared.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(shared.process.pid, resource.RLIMIT_FSIZE, (largest + 200_000, free[1]))
    try:
        is_503(shared.post("/v1/events", wide), "full", "the disk failed")
        answer = shared.recommend(user="u2")
        assert len(answer["items"]) == 10
    finally:
        resource.prlimit(shared.process.pid, resource.RLIMIT_FSIZE, free)
    assert shared.post("/v1/events", wide).json()["new"] == 4000
    works(shared, "not full", "u6")


@pytest.mark.skipif(KILLS <= 3, reason="the long run only: PALATE_KILLS=100")
def test_a_full_disk(plain: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = shutil.which("mount") and subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(disk)], capture_output=True)
    if not mounted or mounted.returncode:
        pytest.skip("this user may not mount a small file system")
    try:
        (disk / "ballast").write_bytes(b"0" * (4 << 20))
        with Running(plain, tmp_path / "run", store=str(disk / "events.db")) as running:
            wide = [event(f"wide {place}", user="u5", item="i" * 250) for place in range(4000)]
            is_503(running.post("/v1/events", wide), "full")
            assert running.post("/v1/events", event("small")).json()["new"] == 1
            kept = 0
            while (answer := running.post("/v1/events", wide[40 * kept : 40 * kept + 40])).status_code == 200:
                kept += 1
            is_503(answer, "full", "the disk failed")
            assert 0 < kept < 100
            assert len(running.recommend(user="u2")["items"]) == 10
            (disk / "ballast").unlink()
            works(running, "room", "u6")
            assert len(kept_ids(disk / "events.db")) == 40 * kept + 2
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_gone_and_back(shared: Running) -> None:
    item = shared.recommend(user="u7", record=False)["items"][0]["item"]
    assert shared.post("/v1/events", event("before", user="u7", item=item)).status_code == 200
    folder = store_of(shared).parent
    away = folder.rename(folder.with_name("away"))
    try:
        is_503(shared.post("/v1/events", event("meanwhile", user="u7")), "moved away", "cannot be opened")
        answer = shared.recommend(user="u7")
        assert answer["policy"] == "full"
        assert "event store" in answer["why"], "it says that it does not know what the store knows"
        assert len(answer["items"]) == 10
        assert answer["history"], "the bundle's own history is there"
        assert item not in [entry["item"] for entry in answer["history"]]
        assert shared.client.get("/health/live").status_code == 200
        assert shared.client.get("/health/ready").status_code == 200
        is_503(shared.client.get("/v1/users/u7"), "moved away", "cannot be opened")
        is_503(shared.client.delete("/v1/users/u9"), "moved away", "cannot be opened")
    finally:
        away.rename(folder)
    assert shared.recommend(user="u7")["history"][0]["item"] == item
    works(shared, "back", "u7")


# -- PostgreSQL -----------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def with_postgresql(plain: Path, postgresql: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("postgresql")
    with Running(plain, folder, store=postgresql.fresh(), deadline_ms=500.0) as running:
        works(running, "at first", "u1")
        yield running


def test_a_server_that_crashes_and_comes_back(with_postgresql: Running, postgresql: Any) -> None:
    running = with_postgresql
    postgresql.stop("immediate")
    try:
        is_503(running.post("/v1/events", event("meanwhile")), "cannot be reached")
        answers: list[dict[str, Any]] = []

        def told() -> bool:
            answers.append(running.recommend(user="u2"))
            return "event store" in answers[-1]["why"]  # or, on a machine that is busy for so long, that the deadline has passed

        until(told, "it does not say what it does without")
        assert all(len(answer["items"]) == 10 for answer in answers)
    finally:
        postgresql.start()
    works(running, "back", "u2")


def test_tables_that_somebody_has_locked(with_postgresql: Running, postgresql: Any) -> None:
    """Readers wait for such a lock, too: whoever asks meanwhile is answered by the deadline."""
    import psycopg

    running = with_postgresql
    with psycopg.connect(f"host={postgresql.folder} user=palate dbname=postgres") as other:
        found = other.execute("SELECT schemaname FROM pg_tables WHERE tablename = 'palate_events' ORDER BY schemaname").fetchall()
        for (schema,) in found:
            other.execute(f"LOCK TABLE {schema}.palate_events IN ACCESS EXCLUSIVE MODE")
        answers_without_the_store(running)
    works(running, "unlocked", "u3")


def test_a_server_that_hangs(with_postgresql: Running, postgresql: Any) -> None:
    """It takes what is sent and says nothing. Nobody may hang with it."""
    running = with_postgresql
    everyone = processes(postgresql)
    for pid in everyone:
        os.kill(pid, signal.SIGSTOP)
    try:
        answers_without_the_store(running)
    finally:
        for pid in everyone:
            os.kill(pid, signal.SIGCONT)
    until(lambda: running.recommend(user="u4")["why"] is None, "it does not come back")
    works(running, "awake", "u4")


def processes(postgresql: Any) -> list[int]:
    """The server and its children."""
    first = int((postgresql.folder / "data" / "postmaster.pid").read_text().split()[0])
    found = [first]
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(path.read_text().rpartition(")")[2].split()[1]) == first:
                found.append(int(path.parent.name))
    return found


def answers_without_the_store(running: Running) -> None:
    """While it stays away: ten people at once get an answer, or a word when to come again and then one; events are refused in the end."""
    with ThreadPoolExecutor(11) as threads:
        sent = threads.submit(running.post, "/v1/events", event(f"hanging {time.monotonic()}"))
        for _ in range(3):
            answers = list(threads.map(lambda place: running.recommend(patient=True, user=f"u{place}"), range(10)))
            for answer in answers:
                assert len(answer["items"]) == 10
                assert answer["why"] is not None
        is_503(sent.result(LONG), "locked", "cannot be reached", "does not answer")


# -- bundles --------------------------------------------------------------------------------------------------------------------------


def test_a_damaged_bundle_is_refused_and_the_old_one_goes_on(shared: Running) -> None:
    plain = shared.said.parent / "plain"
    before = shared.client.get("/v1/bundles").json()
    version = before["serving"]["version"]
    damaged = plain.with_name(BROKEN)
    unlisted = plain.with_name("plain@ba9876543210")
    shutil.copytree(plain, unlisted)
    (unlisted / "manifest.json").write_text("{}")
    for name in (damaged.name, unlisted.name):
        answer = shared.post("/v1/bundles", {"bundle": name})
        assert answer.status_code == 422, answer.text
        assert "\n" not in answer.json()["error"]
        assert shared.recommend(user="u1")["version"] == version
        assert shared.client.get("/v1/bundles").json()["current"] == before["current"]
    # also where the pointer is written behind its back, by hand or by another process
    pointer = plain.with_name("plain.current")
    for text in (json.dumps({"bundle": damaged.name, "previous": ["plain"]}), "{", json.dumps({"bundle": "../plain", "previous": []})):
        pointer.write_text(text)
        time.sleep(1.3)
        assert shared.recommend(user="u1")["version"] == version
        assert shared.client.get("/health/ready").json() == {"ready": True, "version": version}
    # going back passes over the damaged one in between
    pointer.write_text(json.dumps({"bundle": BROKEN, "previous": ["plain"]}))
    good = plain.with_name("plain@" + "1" * 12)
    shutil.copytree(plain, good)
    manifest = json.loads((good / "manifest.json").read_text())
    (good / "manifest.json").write_text(json.dumps({**manifest, "data": {**manifest["data"], "note": "another"}}))
    answer = shared.post("/v1/bundles", {"bundle": good.name})
    assert answer.status_code == 200, answer.text
    assert shared.recommend(user="u1")["version"] != version
    assert shared.client.post("/v1/rollback").status_code == 200
    assert shared.recommend(user="u1")["version"] == version


def test_a_damaged_bundle_at_the_start_gives_way_to_the_one_before(shared: Running) -> None:
    with EventStore.open(store_of(shared)) as store:
        first = store.decisions()[-1]
    assert first.action == "fall back"
    assert f"{BROKEN} cannot be served" in first.reason
    assert "items.parquet" in first.reason


# -- the ranker -----------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sleepy(tmp_path_factory: pytest.TempPathFactory, small_log: palate.Log) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("sleepy")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(HERE))
        import sleepy as module

        ranker = module.Sleepy(trees=3, negatives_per_query=5)
        bundle = palate.Recommender(["popular", "item_knn"], ranker, candidates=40, cuts=2).fit(small_log).save(folder / "plain")
    settings = {"store": str(folder / "events.db"), "workers": 2, "waiting": 4, "deadline_ms": 300.0}
    with Running(bundle, folder, trust="sleepy", path=HERE, **settings) as running:
        yield running


def test_a_slow_ranker_gives_way_to_a_cheaper_funnel_by_the_deadline(sleepy: Running) -> None:
    assert sleepy.recommend(user="u1")["policy"] == "full"
    sleepy.sleep.touch()
    try:
        for _ in range(6):
            answer = sleepy.recommend(user="u1")
            assert answer["policy"] == "fallback"
            assert "300 ms" in answer["why"] or "deadline" in answer["why"]
            assert len(answer["items"]) == 10
            assert answer["items"][0]["probabilities"] == {}
    finally:
        sleepy.sleep.unlink()
    until(lambda: sleepy.recommend(user="u1")["policy"] == "full", "it does not recover")
    with contextlib.closing(sqlite3.connect(sleepy.said.parent / "events.db")) as connection:
        until(
            lambda: bool(connection.execute("SELECT count(*) FROM palate_slates WHERE context LIKE '%fallback%'").fetchone()[0]),
            "not recorded",
        )


def test_a_crowd_is_answered_or_told_when_to_come_again(sleepy: Running) -> None:
    """2 are answered at a time and 4 may wait: of 40 at once some are told 503, and nobody hangs, although the ranker does."""
    sleepy.sleep.touch()
    try:
        with (
            ThreadPoolExecutor(40) as threads,
            httpx.Client(base_url=sleepy.client.base_url, timeout=LONG, limits=httpx.Limits(max_connections=40)) as client,
        ):

            def ask(place: int) -> httpx.Response:
                return client.post("/v1/recommend", json={"user": f"u{place}"})

            refused: list[httpx.Response] = []

            def crowd() -> bool:
                answers = list(threads.map(ask, range(40)))
                assert {answer.status_code for answer in answers} <= {200, 503}
                assert sum(answer.status_code == 200 for answer in answers) >= 2
                refused.extend(answer for answer in answers if answer.status_code == 503)
                return bool(refused)

            until(crowd, "a line without an end")
            for answer in refused:
                is_503(answer, "try again", "come again")
            waits = threads.submit(client.post, "/v1/rank", json={"user": "u1", "items": ["i1", "i2"]})  # has no fallback
            time.sleep(0.5)
            assert not waits.done()
            sleepy.sleep.unlink()
            assert waits.result(LONG).status_code == 200
    finally:
        sleepy.sleep.unlink(missing_ok=True)
    until(lambda: sleepy.recommend(user="u1")["policy"] == "full", "it does not recover")


# -- clients --------------------------------------------------------------------------------------------------------------------------


def spoken(running: Running) -> socket.socket:
    return socket.create_connection(("127.0.0.1", running.port), timeout=LONG)


def trickle(connection: socket.socket, text: bytes) -> bytes:
    """Sends a byte at a time and then spaces, until the other side has had enough; returns what it said."""
    connection.settimeout(0.05)
    said = b""
    for place in range(int(LONG / 0.05)):
        try:
            with contextlib.suppress(ConnectionError):  # it listens no more; what it said may be there all the same
                connection.sendall(text[place : place + 1] or b" ")
            piece = connection.recv(65536)
        except TimeoutError:
            continue
        except ConnectionError:
            return said
        said += piece
        if not piece:
            return said
    raise AssertionError("it would have listened for ever")


@pytest.mark.parametrize("part", ["head", "body"])
def test_a_client_that_sends_slowly_is_told_408_and_others_are_served_meanwhile(shared: Running, part: str) -> None:
    body = json.dumps(event("slow", reason=None)).encode()
    head = b"POST /v1/events HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 9000\r\n"
    with ThreadPoolExecutor(20) as threads, contextlib.ExitStack() as open_ones:
        connections = [open_ones.enter_context(spoken(shared)) for _ in range(20)]
        if part == "body":
            for connection in connections:
                connection.sendall(head + b"\r\n")
        slow = [threads.submit(trickle, connection, body if part == "body" else head) for connection in connections]
        while not all(one.done() for one in slow):
            assert len(shared.recommend(user="u1", record=False)["items"]) == 10
        for one in slow:
            assert one.result().startswith(b"HTTP/1.1 408 "), one.result()
            assert b'{"error":' in one.result()


def test_clients_that_leave(shared: Running) -> None:
    """In the middle of a head, of a body, before the answer, and while events are being kept."""
    names = []
    for place in range(20):
        names.append(f"left {place}")
        body = json.dumps(event(names[-1], user="u8")).encode()
        head = b"POST /v1/events HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
        ask = b'POST /v1/recommend HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 13\r\n\r\n{"user":"u1"}'
        for text in (head[:30], head + body[:10], head + body, ask):
            with spoken(shared) as connection:
                connection.sendall(text)
                if place % 2:  # a reset rather than a polite end
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    works(shared, "those who stay", "u9")
    # what was sent whole may have been kept; sending it again says which, and keeps the rest
    again = shared.post("/v1/events", [event(name, user="u8") for name in names]).json()
    assert again["new"] + again["repeated"] == 20
    assert shared.client.get("/health/ready").status_code == 200


def test_a_client_that_does_not_read(shared: Running) -> None:
    """Answers pile up where nobody fetches them; others do not notice."""
    ask = b"GET /v1/items?limit=200 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    with contextlib.ExitStack() as open_ones:
        for _ in range(10):
            connection = open_ones.enter_context(spoken(shared))
            connection.settimeout(1.0)
            with contextlib.suppress(OSError):
                connection.sendall(100 * ask)
        for place in range(5):
            assert len(shared.recommend(user=f"u{place}", record=False)["items"]) == 10
    works(shared, "read", "u10")

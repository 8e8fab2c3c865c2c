"""A small bundle, a service over it without HTTP, and a real `palate serve` as a process of its own: what the tests of serving share."""

from __future__ import annotations

import asyncio
import json
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

import httpx
import numpy as np
import polars as pl
import pytest

import palate
from palate.feedback.store import EventStore
from palate.serve.app import create
from palate.serve.service import Service
from palate.serve.settings import Settings
from palate.serve.shelf import Shelf
from palate.serve.writer import Writer

GENRES = ("Comedy", "Drama", "Horror", "Sci-Fi")


def make_log(seed: int = 0) -> palate.Log:
    """60 people, 80 films of four genres; everybody likes one genre. The ids of films and people are `f7` and `p3`."""
    rng = np.random.default_rng(seed)
    people, films = 60, 80
    genre = rng.integers(0, len(GENRES), films)
    rows = []
    for person in range(people):
        mine = np.flatnonzero(genre == person % len(GENRES))
        others = np.flatnonzero(genre != person % len(GENRES))
        chosen = [*rng.choice(mine, 9, replace=False), *rng.choice(others, 3, replace=False)]
        start = 1_700_000_000 + int(rng.integers(0, 2_000_000))
        rows += [(f"p{person}", f"f{film}", start + 600 * place) for place, film in enumerate(rng.permutation(chosen))]
    events = pl.DataFrame(rows, schema=["user", "item", "time"], orient="row").with_columns(kind=pl.lit("click"))
    items = pl.DataFrame(
        {
            "item": [f"f{film}" for film in range(films)],
            "title": [f"Film {film}, or {GENRES[genre[film]]}" for film in range(films)],
            "genres": [[GENRES[genre[film]], *(["Classic"] if film % 7 == 0 else [])] for film in range(films)],
            "year": [1960 + film % 60 for film in range(films)],
        }
    )
    return palate.read(events, kind="kind", items=items, name="films")


def make_bundle(folder: Path, seed: int = 0) -> Path:
    """popular, item_knn and ease; gbdt; mmr."""
    recommender = palate.Recommender(
        retrieve=["popular", "item_knn", palate.EASE(l2=20)],
        rank=palate.GBDT(trees=10, negatives_per_query=10),
        rerank=[palate.MMR(beta=0.2)],
        candidates=60,
        cuts=2,
    )
    return recommender.fit(make_log(seed), seed=seed).save(folder)


@pytest.fixture(scope="session")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle; read it, do not change it."""
    return make_bundle(tmp_path_factory.mktemp("films") / "films")


@pytest.fixture
def bundle(films: Path, tmp_path: Path) -> Path:
    """A copy of it, at `films` in the test's own folder."""
    return Path(shutil.copytree(films, tmp_path / "films"))


@pytest.fixture
def serving(bundle: Path, tmp_path: Path) -> Iterator[Callable[..., Service]]:
    """Makes services that have started: `serving(clock="wall")`."""
    opened: list[tuple[Writer, EventStore]] = []

    def make(**settings: Any) -> Service:
        store = EventStore.open(tmp_path / "events.db")
        writer = Writer(store)
        opened.append((writer, store))
        service = Service(Shelf(bundle), store, writer, Settings(**settings))
        service.start()
        return service

    yield make
    for writer, store in opened:
        writer.close()
        store.close()


class Server:
    """A running service: its address, its log so far, and the process."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment)
        self.lines: list[str] = []
        self._first: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.url = ""

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)
            self._first.put(line)
        self._first.put("")

    @property
    def log(self) -> str:
        return "".join(self.lines)

    def wait(self, seconds: float = 240) -> None:
        """Until it is ready."""
        until = time.monotonic() + seconds
        while not self.url:
            line = self._first.get(timeout=max(0.1, until - time.monotonic()))
            found = re.search(r"http://[\w.\[\]:]+:\d+", line)
            assert found or line, f"it did not start: {self.log}"
            self.url = found.group() if found else ""
        while True:
            try:
                if httpx.get(f"{self.url}/health/ready", timeout=5).status_code == 200:
                    return
            except httpx.HTTPError:
                pass
            assert self.process.poll() is None, f"it ended: {self.log}"
            assert time.monotonic() < until, f"not ready in time: {self.log}"
            time.sleep(0.05)

    def kill(self) -> None:
        """kill -9."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(240)

    def stop(self) -> int:
        """Asks it to stop, and returns how it ended."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            code = self.process.wait(240)
        finally:
            self.process.kill()
            self._reader.join(5)
            if self.process.stderr is not None:
                self.process.stderr.close()
        return code


@contextmanager
def _running(bundle: Path, *arguments: str, wait: bool = True, environment: dict[str, str] | None = None) -> Iterator[Server]:
    """`palate serve BUNDLE --port 0 ARGUMENTS`, until the block ends. Answers come whenever they do: what a deadline does is told by the
    tests of deadlines, and a machine that has other work for a while should fail no other.
    """
    patient = bundle.parent / "patient.toml"
    patient.write_text("deadline_ms = 0\nstore_seconds = 240\n")
    arguments = (*arguments, "--config", str(patient))
    command = [sys.executable, "-c", "from palate.cli import main; main()", "serve", str(bundle), "--port", "0", *arguments]
    server = Server(command, {**os.environ, "NO_COLOR": "1", "COLUMNS": "200", **(environment or {})})
    try:
        if wait:
            server.wait()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def running() -> Callable[..., AbstractContextManager[Server]]:
    """Runs `palate serve`: `with running(bundle, "--store", path) as server: httpx.get(f"{server.url}/v1/items")`."""
    return _running


class Answer(NamedTuple):
    """What the application in this process answered."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Application:
    """The whole application in this process, asked without sockets: `app.ask("POST", "/v1/recommend", {"user": "p3"}).json()`."""

    def __init__(self, bundle: Path, *, ready: bool = True, **settings: Any) -> None:
        """ready: waits until it is."""
        self.app = create(Settings(**{"deadline_ms": 0, "store_seconds": 240, **settings}), bundle)
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()
        self._said: queue.Queue[str] = queue.Queue()
        self._started, self._stop = False, asyncio.Event()
        self._life = asyncio.run_coroutine_threadsafe(self.app({"type": "lifespan", "state": {}}, self._told, self._say), self.loop)
        assert self._said.get(timeout=240) == "lifespan.startup.complete"
        until = time.monotonic() + 240
        while ready and self.ask("GET", "/health/ready").status != 200:
            assert time.monotonic() < until, "not ready in time"
            time.sleep(0.01)

    async def _told(self) -> dict[str, Any]:
        if not self._started:
            self._started = True
            return {"type": "lifespan.startup"}
        await self._stop.wait()
        return {"type": "lifespan.shutdown"}

    async def _say(self, message: Any) -> None:
        self._said.put(message["type"])

    def ask(self, method: str, path: str, body: Any = None, *, key: str | None = None, headers: dict[str, str] | None = None) -> Answer:
        """body: bytes as they are, anything else as JSON. path: with its query; escapes are as they would be on the wire."""
        return asyncio.run_coroutine_threadsafe(self.send(method, path, body, key=key, headers=headers), self.loop).result(240)

    async def send(
        self, method: str, path: str, body: Any = None, *, key: str | None = None, headers: dict[str, str] | None = None
    ) -> Answer:
        """The same on the application's own loop."""
        raw = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        given = {"host": "127.0.0.1", "content-length": str(len(raw)), **({"content-type": "application/json"} if raw else {})}
        given |= {"authorization": f"Bearer {key}"} if key else {}
        place, _, query = path.partition("?")
        scope = {
            "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1", "scheme": "http", "method": method,
            "path": unquote(place), "raw_path": place.encode(), "query_string": query.encode(), "root_path": "", "state": {},
            "headers": [(name.encode(), value.encode("latin-1")) for name, value in (given | (headers or {})).items()],
            "server": ("127.0.0.1", 80), "client": ("127.0.0.1", 5),
        }  # fmt: skip
        asked, status, told, came = False, 0, {}, b""

        async def receive() -> dict[str, Any]:
            nonlocal asked
            if asked:
                await asyncio.sleep(3600)
            asked = True
            return {"type": "http.request", "body": raw, "more_body": False}

        async def take(message: Any) -> None:
            nonlocal status, told, came
            if message["type"] == "http.response.start":
                status, told = message["status"], {name.decode(): value.decode() for name, value in message["headers"]}
            else:
                came += message.get("body", b"")

        await self.app(scope, receive, take)
        return Answer(status, told, came)

    def close(self) -> None:
        """As a server stops it."""
        self.loop.call_soon_threadsafe(self._stop.set)
        self._life.result(240)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(240)
        self.loop.close()


@contextmanager
def _application(bundle: Path, **settings: Any) -> Iterator[Application]:
    made = Application(bundle, **settings)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(scope="session")
def application() -> Callable[..., AbstractContextManager[Application]]:
    """Makes applications in this process: `with application(bundle, store="events.db") as app: app.ask("GET", "/v1/items")`."""
    return _application

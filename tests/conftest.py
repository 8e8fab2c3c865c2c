"""What several tests share: a small world with clear tastes, and a PostgreSQL server."""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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


class Server:
    """A PostgreSQL server in a folder of its own, reached through a socket there; nothing listens on the network."""

    def __init__(self, programs: Path) -> None:
        self.programs = programs
        self.folder = Path(tempfile.mkdtemp(prefix="palate-pg-"))
        self.user: str | None = None
        if os.geteuid() == 0:  # the server refuses to run as root
            self.user = "postgres" if any(one.pw_name == "postgres" for one in pwd.getpwall()) else "nobody"
            shutil.chown(self.folder, self.user)
        self.numbers = itertools.count()
        self._run("initdb", "-D", str(self.folder / "data"), "-U", "palate", "-A", "trust", "-E", "UTF8", "--no-sync", "--no-instructions")
        self.start()

    def _run(self, program: str, *arguments: str) -> None:
        who: dict[str, Any] = {"user": self.user, "group": pwd.getpwnam(self.user).pw_gid, "extra_groups": []} if self.user else {}
        log = self.folder / "out"
        with log.open("ab") as out:
            done = subprocess.run([self.programs / program, *arguments], stdout=out, stderr=out, cwd=self.folder, **who)
        assert done.returncode == 0, log.read_text()

    def start(self) -> None:
        options = f"-k {self.folder} -c listen_addresses='' -c shared_buffers=16MB -c max_connections=60"
        self._run("pg_ctl", "-D", str(self.folder / "data"), "-w", "-l", str(self.folder / "log"), "-o", options, "start")

    def stop(self, mode: str) -> None:
        """mode: `fast`, or `immediate`, which is a crash: what was acknowledged must be found again in the server's own log."""
        self._run("pg_ctl", "-D", str(self.folder / "data"), "-w", "-m", mode, "stop")

    def url(self, schema: str = "public") -> str:
        return f"postgresql://palate@/postgres?host={self.folder}&options=-csearch_path%3D{schema}"

    def fresh(self) -> str:
        """The URL of an empty schema."""
        import psycopg

        name = f"test{next(self.numbers)}"
        with psycopg.connect(f"host={self.folder} user=palate dbname=postgres", autocommit=True) as connection:
            connection.execute(f"CREATE SCHEMA {name}")  # type: ignore[arg-type]
        return self.url(name)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Server]:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parent.parent.name))
    on_path = shutil.which("initdb")
    if not found and not on_path:
        pytest.skip("PostgreSQL's server is not installed (Debian: apt-get install postgresql)")
    own = Server(found[-1].parent if found else Path(on_path or "").parent)
    yield own
    own.stop("immediate")
    shutil.rmtree(own.folder)

"""A PostgreSQL server of the tests' own, and stores in it and in SQLite."""

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

import pytest

from palate.feedback.store import EventStore


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
def server() -> Iterator[Server]:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parent.parent.name))
    on_path = shutil.which("initdb")
    if not found and not on_path:
        pytest.skip("PostgreSQL's server is not installed (Debian: apt-get install postgresql)")
    own = Server(found[-1].parent if found else Path(on_path or "").parent)
    yield own
    own.stop("immediate")
    shutil.rmtree(own.folder)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty place for a store: in SQLite always, in PostgreSQL where there is a server."""
    return str(tmp_path / "events.db") if request.param == "sqlite" else request.getfixturevalue("server").fresh()


@pytest.fixture
def store(url: str) -> Iterator[EventStore]:
    with EventStore.open(url, timeout=60) as opened:  # the machine may be busy
        yield opened

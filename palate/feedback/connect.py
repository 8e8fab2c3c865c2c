"""How the event store reaches its database: two pools of connections, one for reading and one for writing, and errors of one line.

SQLite: a file in WAL mode with synchronous=FULL: a commit has reached the disk when it returns, readers never wait. Writers of this process
queue for one connection; writers of other processes wait for the lock. A file that was moved away or replaced under the running process is
noticed by its inode: SQLite itself would go on writing into a file that nobody can find again.
PostgreSQL: synchronous_commit is on whatever the server's default; a lock that does not come within `timeout`, or a network that is silent
for so long, is an error.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError, TimeoutError
from sqlalchemy.pool import QueuePool

from palate.errors import ConfigError, StoreError

READERS = 8
WRITER_CACHE, READER_CACHE = 16, 2  # MiB a SQLite connection; what does not fit is in the page cache of the system
TURN = 0x70616C61  # the advisory lock for which writers queue in PostgreSQL


class Replaced(Exception):  # noqa: N818 - never leaves the store
    """The file behind an open connection is no longer the file of that name."""


class Database:
    """One database, SQLite by a path or `sqlite:///path`, PostgreSQL by `postgresql://user:password@host/name`.

    timeout: seconds to wait for a connection or a lock. create: make the SQLite file if there is none.
    """

    def __init__(self, url: str | Path, timeout: float, create: bool) -> None:
        self.timeout = timeout
        parsed = _parsed(url)
        self.path = Path(parsed.database or "").absolute() if parsed.get_backend_name() == "sqlite" else None
        self.where = str(self.path) if self.path else parsed.render_as_string(hide_password=True)
        if self.path:
            self._need_file(self.path, create)
            self.writer = self._sqlite(self.path, writes=True)
            self.reader = self._sqlite(self.path, writes=False)
        else:
            self.writer = self._postgresql(parsed, writes=True)
            self.reader = self._postgresql(parsed, writes=False)

    def close(self) -> None:
        """Gives all connections back."""
        self.writer.dispose()
        self.reader.dispose()

    def take_turn(self, connection: Connection) -> None:
        """Writers commit one after the other, so that a cursor that has passed a row never misses one that is committed later."""
        if not self.path:
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({TURN})")

    def same_file(self, connection: Connection) -> None:
        """Raises Replaced if the connection writes into a file that is gone. Cost: two `stat`."""
        if self.path and connection.info["identity"] != self.identity():
            raise Replaced

    def identity(self) -> tuple[int, int] | None:
        """Device and inode of the SQLite file; None if it, or the write-ahead log that belongs to it, is gone."""
        assert self.path
        try:
            found = os.stat(self.path)
            os.stat(f"{self.path}-wal")
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def empty_log(self) -> None:
        """Moves SQLite's log into the file and cuts it off. A reader in the middle of something keeps that for the next time."""
        if self.path:
            self._outside_transactions("PRAGMA wal_checkpoint(TRUNCATE)")

    def compact(self, names: Sequence[str]) -> None:
        """Writes the tables anew without what was deleted from them. Cost: reads and writes the whole store."""
        if self.path:
            self._outside_transactions("VACUUM", "PRAGMA wal_checkpoint(TRUNCATE)")
        else:
            self._outside_transactions(*(f"VACUUM FULL {name}" for name in names))

    def _outside_transactions(self, *statements: str) -> None:
        with self.writer.connect() as connection:
            raw: Any = connection.connection.dbapi_connection
            try:
                if not self.path:
                    raw.autocommit = True
                for statement in statements:
                    raw.execute(statement)
            except self.writer.dialect.loaded_dbapi.Error as error:
                said = DBAPIError.instance(statement, None, error, self.writer.dialect.loaded_dbapi.Error)
                raise self.explain(cast(DBAPIError, said)) from None
            finally:
                if not self.path and not raw.closed:
                    raw.autocommit = False

    def explain(self, error: SQLAlchemyError) -> StoreError:
        """A database's error as one line."""
        if isinstance(error, TimeoutError):
            return self._error(f"busy: no connection was free for {self.timeout:g} s; try again", passing=True)
        given = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
        said = " ".join(str(given).split())[:300]
        code = str(getattr(given, "sqlite_errorname", None) or getattr(given, "sqlstate", None) or "")
        for codes, message, passing in _MEANINGS:
            if code.startswith(codes):
                return self._error(message.format(seconds=f"{self.timeout:g} s"), f" ({said})", passing=passing)
        if not self.path and isinstance(error, DBAPIError) and (error.connection_invalidated or not code):
            return self._error("the server cannot be reached; see that it runs", f" ({said})", passing=True)
        return StoreError(f"{self.where}: {said}")

    def gone(self) -> StoreError:
        """The error for a SQLite file that was taken away."""
        return self._error("the file was moved away or replaced; put it back, then try again", passing=True)

    def _error(self, brief: str, said: str = "", *, passing: bool) -> StoreError:
        return StoreError(f"{self.where}: {brief}{said}", passing=passing, brief=brief)

    def _need_file(self, path: Path, create: bool) -> None:
        if path.is_file():
            return
        if not create:
            raise StoreError(f"{path}: there is no such store; check the path")
        if path.is_dir() or not path.parent.is_dir():
            raise StoreError(
                f"{path}: {'is a folder' if path.is_dir() else 'its folder does not exist'}; name a file in a folder that does"
            )
        try:
            # What people did is nobody else's to read; SQLite gives its log and shared memory the same permissions.
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
            folder = os.open(path.parent, os.O_RDONLY)
            os.fsync(folder)
            os.close(folder)
        except OSError as error:
            raise StoreError(f"{path}: cannot be made ({error.strerror})") from None

    def _sqlite(self, path: Path, *, writes: bool) -> Engine:
        def connect() -> sqlite3.Connection:
            # mode=rw: a file that has gone is an error, and not a new and empty store
            connection = sqlite3.connect(
                f"file:{quote(str(path))}?mode=rw", uri=True, timeout=self.timeout, isolation_level=None, check_same_thread=False
            )
            try:
                (mode,) = connection.execute("PRAGMA journal_mode=WAL").fetchone()
                if mode != "wal":
                    raise StoreError(f"{path}: SQLite keeps no write-ahead log on this file system; use a local disk")
                connection.execute("PRAGMA synchronous=FULL")
                connection.execute("PRAGMA secure_delete=ON")
                connection.execute(f"PRAGMA cache_size=-{(WRITER_CACHE if writes else READER_CACHE) * 1024}")
                connection.execute("SELECT count(*) FROM sqlite_master").fetchone()  # the log is made by the first statement that reads
                if not writes:
                    connection.execute("PRAGMA query_only=ON")
            except BaseException:
                connection.close()
                raise
            return connection

        size = 1 if writes else READERS
        engine = create_engine("sqlite://", creator=connect, poolclass=QueuePool, pool_size=size, max_overflow=0, pool_timeout=self.timeout)

        @event.listens_for(engine, "connect")
        def _remember(connection: Any, record: Any) -> None:
            record.info["identity"] = self.identity()

        if writes:

            @event.listens_for(engine, "begin")
            def _begin(connection: Connection) -> None:
                connection.exec_driver_sql("BEGIN IMMEDIATE")

        return engine

    def _postgresql(self, url: URL, *, writes: bool) -> Engine:
        settings = f"-c lock_timeout={int(self.timeout * 1000)} -c synchronous_commit=on"
        given = url.query.get("options", "")
        options = " ".join([settings, given if isinstance(given, str) else " ".join(given)]).strip()
        # A server whose machine or network has gone says nothing at all: without these a question would wait for a quarter of an hour.
        silence = {"tcp_user_timeout": int(self.timeout * 1000), "keepalives_idle": max(1, int(self.timeout)), "keepalives_interval": 1}
        noticed = {key: value for key, value in silence.items() if key not in url.query}
        engine = create_engine(
            url.set(drivername="postgresql+psycopg").difference_update_query(["options"]),
            connect_args={"connect_timeout": max(2, int(self.timeout)), **noticed, "options": options},
            pool_size=2 if writes else READERS,
            max_overflow=0,
            pool_timeout=self.timeout,
        )
        return engine if writes else engine.execution_options(isolation_level="AUTOCOMMIT")


def _parsed(url: str | Path) -> URL:
    text = str(url)
    if "://" not in text:
        return URL.create("sqlite", database=text)
    try:
        parsed = make_url(text)
    except (ArgumentError, ValueError):
        raise ConfigError(
            "store: not a URL; give a path, sqlite:///events.db or postgresql://user:password@host/name"
        ) from None  # and not the text, which may hold a password
    if parsed.drivername.partition("+")[0] not in ("sqlite", "postgresql", "postgres"):
        raise ConfigError(f"store: {parsed.drivername} is not supported; give a path, sqlite:///events.db or postgresql://...")
    if parsed.drivername.startswith("sqlite"):
        if not parsed.database or parsed.database == ":memory:":
            raise ConfigError("store: a store in memory would lose what it acknowledged; give a path, such as sqlite:///events.db")
        return parsed
    try:
        import psycopg  # noqa: F401
    except ImportError:
        raise ConfigError("store: PostgreSQL needs the package 'psycopg'; install it with `pip install 'palate[postgresql]'`") from None
    return parsed.set(drivername="postgresql+psycopg")


# What a code of SQLite or an SQLSTATE of PostgreSQL means: its beginnings, what to say, whether it passes.
_MEANINGS: tuple[tuple[tuple[str, ...], str, bool], ...] = (
    (("SQLITE_FULL", "53100"), "the store is full and kept nothing of this; free some space, then send it again", True),
    (("SQLITE_BUSY", "SQLITE_LOCKED", "55P03"), "locked by somebody else for more than {seconds}; try again", True),
    (("SQLITE_CANTOPEN",), "cannot be opened; see that the file is there and may be read and written", True),
    (("SQLITE_IOERR",), "the disk failed; see that it is there and has room, then try again", True),
    (("SQLITE_READONLY", "25006", "42501"), "may not be written to; see who owns it", False),
    (("SQLITE_NOTADB", "SQLITE_CORRUPT"), "is damaged or no store; restore it from a copy", False),
    (("57P", "08", "53300"), "the server cannot be reached; see that it runs", True),
    (("28", "3D000"), "the server lets nobody in by this URL; check user, password and name", False),
    (("42P01", "42703"), "its tables are not those of Palate; restore it from a copy or use another database", False),
)

"""Recommendations for many people at once, into a Parquet file: what the same people would be answered one by one, without a service.

    score("bundle", "slates.parquet", users="users.csv", k=20)
    palate score bundle --users users.csv --out slates.parquet --k 20

People come as a file: .txt with an id a line and no header; CSV, TSV, JSON lines, Parquet or Arrow with a column `user`. Without one, all
that the bundle knows. A row of the answer is a place of a slate:

    user position item score source propensity probabilities{task} reason known

position counts from 0; probabilities is left out where the bundle has no ranker; known is false for somebody whom the bundle has never
seen, who gets what a stranger gets. With an event store, what people did and hid since the bundle learnt counts, as it does in a service,
and whoever is forgotten there is left out.

The file appears whole or not at all. Memory does not grow with the number of people.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from palate.data.columns import ids
from palate.data.problems import Problems, shown
from palate.data.tables import FileTable, FrameTable, Table, open_table
from palate.errors import BundleError, ConfigError, DataError, StoreError
from palate.feedback.events import micros
from palate.feedback.store import EventStore
from palate.progress import RowsBar
from palate.serve import served
from palate.serve.person import clock, look_up, request
from palate.serve.served import Served
from palate.serve.service import MONTH
from palate.serve.settings import Settings
from palate.serve.shelf import Shelf
from palate.types import Longs, Request, Slate

ROW_GROUP = 65_536
"""Rows written at once."""
HASHES = 1 << 20
"""So many hashes of ids are compared at once, 8 MB, when ids that stand twice are looked for."""
PIECE = 1 << 20
"""Bytes of a list of ids read at once."""


@dataclass(frozen=True)
class Scored:
    """What came of it. users: who were answered; of them `strangers` the bundle has never seen, and `empty` were left nothing to be shown.

    forgotten: left out, because the store was told to forget them. rows: of the file.
    """

    out: str
    bundle: str
    version: str
    users: int
    strangers: int
    empty: int
    forgotten: int
    rows: int
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def score(
    bundle: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    users: Any = None,
    k: int = 10,
    batch: int = 256,
    filters: Sequence[str] = (),
    store: str | Path | None = None,
    now: datetime | None = None,
    quiet: bool = True,
    trust: Sequence[str] = (),
) -> Scored:
    """Writes a slate for each of `users`: a file, a frame with a column `user`, or None for all that the bundle knows.

    bundle: a folder; where later versions lie beside it, the one in service. batch: people answered together. store: path or URL of an
    event store, which is not changed; then answers are for the moment `now` (default: this one), as a service gives them. Without a store
    they are for the end of the bundle's log. Errors: DataError for ids that are missing, stand twice or are none, with their lines.
    """
    start, target = time.perf_counter(), _target(out)
    if k < 1 or batch < 1:
        raise ConfigError(f"score: k and batch are at least 1, got {k} and {batch}")
    table = None if users is None else _open(users)
    total = None if table is None else _checked(table)
    loaded = _load(bundle, trust)
    funnel = loaded.funnel
    if table is None:
        table = FrameTable(funnel.users.select("user"), loaded.name)
        total = funnel.users.height
    moment = now or datetime.now(UTC)
    about = {"bundle": loaded.name, "version": loaded.version, "k": k, "filters": list(filters), "made": moment.isoformat()}
    with ExitStack() as stack:
        events = None if store is None else stack.enter_context(EventStore.open(store, create=False))
        people = _People(loaded, events, k, tuple(filters), moment)
        file = stack.enter_context(_File(target, [task.name for task in funnel.tasks], about))
        bar = stack.enter_context(RowsBar("people", total or 0, unit="people", quiet=quiet))
        for some in _batches(table, batch):
            asked = people.requests(some)
            for one, slate in zip(asked, funnel.recommend([one.request for one in asked]), strict=True):
                file.add(one.user, slate, known=one.known)
            bar.advance(len(some))
            bar.count(len(some))
        file.finish()
    seconds = round(time.perf_counter() - start, 3)
    counts = (file.users, file.strangers, file.empty, people.forgotten, file.rows)
    return Scored(str(target), loaded.name, loaded.version, *counts, seconds)


class _Asked(NamedTuple):
    user: str
    known: bool
    request: Request


class _People:
    """What is known of those who are asked for."""

    def __init__(self, loaded: Served, store: EventStore | None, k: int, filters: tuple[str, ...], now: datetime) -> None:
        self.loaded, self.store, self.k, self.filters, self.forgotten = loaded, store, k, filters, 0
        self.after = 0 if store is None else loaded.cursors.get(store.id, 0)
        self.since = micros(now) - MONTH if loaded.counts_impressions else None
        usual = Settings()
        self.now = clock(usual.clock, loaded.funnel.history.latest, usual.stale_days)(now)

    def requests(self, users: Sequence[str]) -> list[_Asked]:
        """A request for each, without those whom the store was told to forget."""
        history, found = self.loaded.funnel.history, []
        for user in users:
            if self.store is None:
                asks = Request(user=user, k=self.k, filters=self.filters)
            else:
                known = look_up(self.store, user, history, self.loaded.rule, after=self.after, impressions_since=self.since)
                if known.trouble is not None:
                    raise StoreError(known.trouble)
                if known.forgotten:
                    self.forgotten += 1
                    continue
                asks = request(user, known, k=self.k, filters=self.filters, now=self.now)
            found.append(_Asked(user, history.user_code(user) >= 0, asks))
        return found


class _File:
    """A Parquet file that is there when it is finished: written beside its place, synced, renamed. about: goes into its metadata."""

    def __init__(self, target: Path, tasks: Sequence[str], about: Mapping[str, Any]) -> None:
        import pyarrow as pa

        self.target, self.fresh = target, target.with_name(f".{target.name}.part")
        self.users = self.strangers = self.empty = self.rows = 0
        probabilities = {"probabilities": pa.struct([(task, pa.float32()) for task in tasks])} if tasks else {}
        kinds = {
            "user": pa.string(),
            "position": pa.int32(),
            "item": pa.string(),
            "score": pa.float32(),
            "source": pa.string(),
            "propensity": pa.float32(),
            **probabilities,
            "reason": pa.string(),
            "known": pa.bool_(),
        }
        self.schema = pa.schema(list(kinds.items()), metadata={"palate": json.dumps(about)})
        self.columns: dict[str, list[Any]] = {name: [] for name in kinds}

    def __enter__(self) -> _File:
        from pyarrow import parquet

        try:
            with self._told():
                self.writer = parquet.ParquetWriter(self.fresh, self.schema)
        except BaseException:  # Ctrl-C comes at any moment, also when the file has just been made
            self.fresh.unlink(missing_ok=True)
            raise
        return self

    def __exit__(self, *problem: object) -> None:
        try:
            with self._told():
                self.writer.close()
        finally:
            self.fresh.unlink(missing_ok=True)

    def add(self, user: str, slate: Slate, *, known: bool) -> None:
        """The places of a slate."""
        count = len(slate)
        told = {
            "user": [user] * count,
            "position": range(count),
            "item": slate.items,
            "score": slate.scores,
            "source": slate.sources,
            "propensity": slate.propensity,
            "probabilities": slate.probabilities,
            "reason": slate.reasons,
            "known": [known] * count,
        }
        for name, column in self.columns.items():
            column.extend(told[name])
        self.users, self.strangers, self.empty = self.users + 1, self.strangers + (not known), self.empty + (not count)
        self.rows += count
        if len(self.columns["user"]) >= ROW_GROUP:
            self._write()

    def finish(self) -> None:
        """Writes the rest, and puts the file into its place."""
        if self.columns["user"]:
            self._write()
        with self._told():
            self.writer.close()
            _sync(self.fresh)
            os.replace(self.fresh, self.target)
            _sync(self.target.parent)

    def _write(self) -> None:
        import pyarrow as pa

        with self._told():
            self.writer.write_table(pa.table(self.columns, schema=self.schema))
        for column in self.columns.values():
            column.clear()

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise DataError(
                f"{self.target}: cannot be written ({error.strerror or error}); see that its folder is there and has room"
            ) from None


class _Lines(FileTable):
    """A list of ids, one a line, without a header. Blank lines are skipped, as in every text file."""

    format, unit = "text", "line"

    @property
    def columns(self) -> list[str]:
        return [""]

    def chunks(self, columns: Sequence[str] | None = None) -> Iterator[pl.DataFrame]:
        with self.path.open("rb") as file:
            file.seek(3 if file.read(3) == b"\xef\xbb\xbf" else 0)
            while lines := file.readlines(PIECE):
                found = [text for line in lines if (text := line.rstrip(b"\r\n"))]
                if found:
                    yield pl.DataFrame({"": pl.Series(found, dtype=pl.Binary)})

    def locate(self, records: Longs, *, texts: bool = False) -> tuple[Longs, list[str | None]]:
        with self.path.open("rb") as file:
            numbers = np.array([number for number, line in enumerate(file, 1) if line.rstrip(b"\r\n")], dtype=np.int64)
        return numbers[records], [None] * len(records)


def _open(users: Any) -> Table:
    """Where ids come from: a list without a header, or a column `user`."""
    if isinstance(users, (str, os.PathLike)) and Path(users).suffix.lower() == ".txt":
        try:
            Path(users).open("rb").close()
        except OSError as error:
            raise DataError(f"{users}: cannot be read ({error.strerror})") from None
        return _Lines(Path(users), Path(users).name)
    table = open_table(users)
    table.need([("", "user")])
    return table


def _column(table: Table) -> str:
    return "user" if "user" in table.columns else ""


def _checked(table: Table) -> int:
    """How many ids there are. DataError with the first line where one is missing, is none, or stands a second time.

    Only hashes are compared, and on the disk: memory does not grow with their number.
    """
    name, count, problems = _column(table), 0, Problems(table, keep=1)
    with tempfile.TemporaryFile() as hashes:
        for chunk in table.chunks([name]):
            found, issues = ids(chunk[name], f"{table.name}: column {name!r}")
            problems.add(count, {name: issues}, chunk)
            found.hash().to_numpy().tofile(hashes)
            count += len(found)
        if problems.count:
            more = problems.count - 1
            raise DataError(f"{problems.listed(1)[0]}" + (f" (and {more:,} more problem{'s' if more > 1 else ''})" if more else ""))
        if not count:
            raise DataError(f"{table.name}: holds no ids")
        hashes.flush()
        _refuse_twice(table, name, np.memmap(hashes, dtype=np.uint64, mode="r"))
    return count


def _refuse_twice(table: Table, name: str, hashes: np.ndarray) -> None:
    """DataError with the lines of an id that stands twice."""
    parts = -(-len(hashes) // HASHES)
    suspects: list[np.ndarray] = []
    for part in range(parts):
        some = [block[block % parts == part] for block in (hashes[at : at + HASHES] for at in range(0, len(hashes), HASHES))]
        values, counts = np.unique(np.concatenate(some), return_counts=True)
        suspects.append(values[counts > 1])
    suspect = np.concatenate(suspects)
    if not len(suspect):
        return
    # Different ids of one hash are possible, so that the ids themselves decide.
    first: dict[str, int] = {}
    start = 0
    for chunk in table.chunks([name]):
        found = ids(chunk[name], table.name)[0]
        for place in np.flatnonzero(np.isin(found.hash().to_numpy(), suspect)).tolist():
            user = found[place]
            if user in first:
                lines, _ = table.locate(table.records(np.array([first[user], start + place])))
                raise DataError(
                    f"{table.name}, {table.unit} {lines[1]}: {shown(user)} stands in {table.unit} {lines[0]} already; name everybody once"
                )
            first[user] = start + place
        start += len(found)


def _batches(table: Table, size: int) -> Iterator[list[str]]:
    name = _column(table)
    for chunk in table.chunks([name]):
        found = ids(chunk[name], table.name)[0]
        for part in found.to_frame().iter_slices(size):
            yield part.to_series().to_list()


def _load(bundle: str | os.PathLike[str], trust: Sequence[str]) -> Served:
    given = Path(bundle)
    shelf = Shelf(given)
    name = given.name if "@" in given.name else shelf.current()
    if not (shelf.root / name).is_dir():
        raise BundleError(f"{shelf.root / name}: no such bundle; `palate train RECIPE --out {given}` makes one")
    return served.load(shelf, name, trust)


def _target(out: str | os.PathLike[str]) -> Path:
    """Where the file goes; what can be known to be wrong is said before any work is done."""
    target = Path(out)
    if target.suffix.lower() not in (".parquet", ".pq"):
        raise ConfigError(f"score: {target} would be a Parquet file; let its name end in .parquet")
    if target.is_dir():
        raise ConfigError(f"score: {target} is a folder; name a file")
    if not target.absolute().parent.is_dir():
        raise ConfigError(f"score: there is no folder {target.absolute().parent}")
    return target


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""Where rows come from: text, JSON lines, Parquet and Arrow files, and frames, all behind one face.

A `Table` gives its rows in chunks, as they stand, and later says where a row was: the line of a text file, the row of a frame.
What a reader cannot make rows of at all (too few fields, broken JSON) it keeps in `broken`; the gate decides what becomes of it.
Everything third parties throw at a damaged file comes out as a `DataError`.
"""

from __future__ import annotations

import codecs
import csv
import difflib
import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import polars as pl
from polars.exceptions import PanicException

from palate.types import DataError, Longs

SUFFIXES = {
    ".csv": "CSV",
    ".tsv": "TSV",
    ".txt": "text",
    ".jsonl": "JSON lines",
    ".ndjson": "JSON lines",
    ".parquet": "Parquet",
    ".pq": "Parquet",
    ".arrow": "Arrow",
    ".feather": "Arrow",
    ".ipc": "Arrow",
}
CHUNK = 1 << 18  # rows at a time, for formats that count rows
BLOCK = 1 << 24  # bytes at a time, for text
NESTED = "\0"  # stands before JSON values that are no plain text or number, for the gate to refuse

# What other people call these columns; only used to suggest, never to guess.
OTHER_NAMES = {
    "user": ("userid", "uid", "visitorid", "customerid", "memberid", "accountid", "sessionid"),
    "item": ("itemid", "iid", "movieid", "productid", "sku", "articleid", "videoid", "trackid", "adid", "parentasin", "asin", "isbn"),
    "time": ("timestamp", "ts", "date", "datetime", "eventtime", "createdat", "unixtime", "at"),
    "kind": ("event", "eventtype", "type", "action", "behavior", "behaviour"),
    "value": ("rating", "score", "stars", "weight", "dwell"),
}


@dataclass(frozen=True)
class Broken:
    """A piece of a file that is no row. record: its number among the records of the file, from 0."""

    record: int
    reason: str
    text: str


class Table:
    """Rows of one source. name: how messages call it. unit: what its numbers count, `line` or `row`."""

    format = "frame"
    unit = "row"

    def __init__(self, name: str) -> None:
        self.name = name
        self.broken: list[Broken] = []

    @property
    def columns(self) -> list[str]:
        """Column names, in order."""
        raise NotImplementedError

    def chunks(self, columns: Sequence[str] | None = None) -> Iterator[pl.DataFrame]:
        """The rows, a chunk at a time; only these columns, or all."""
        raise NotImplementedError

    def checksum(self, columns: Sequence[str]) -> str:
        """sha256 of the bytes of a file; of the Arrow IPC stream of these columns of a frame."""
        raise NotImplementedError

    def records(self, positions: Longs) -> Longs:
        """The record number (from 0) of rows given by their position among the rows that `chunks` gave. Call it after reading."""
        broken = np.sort(np.array([b.record for b in self.broken], dtype=np.int64))
        # a row at position p stands after every broken record r with r - (broken before r) <= p
        return positions + np.searchsorted(broken - np.arange(len(broken)), positions, side="right")

    def locate(self, records: Longs, *, texts: bool = False) -> tuple[Longs, list[str | None]]:
        """Numbers as a person counts them, from 1 (a text file's header counted), and on request each record as text."""
        return records + 1, [None] * len(records)

    def need(self, declared: Sequence[tuple[str, str]]) -> None:
        """Refuses a table that lacks a declared column. declared: (keyword of `read`, column)."""
        have = self.columns
        for key, column in declared:
            if have.count(column) > 1:
                raise DataError(f"{self.name}: column {column!r} stands {have.count(column)} times in the header; rename all but one")
            if column not in have:
                raise DataError(f"{self.name}: no column {column!r}; it has {_some(have)}{_hint(key, column, have)}")


def _some(names: Sequence[str], most: int = 12) -> str:
    shown = ", ".join(_short(name) for name in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")


def _short(text: str, most: int = 40) -> str:
    shown = repr(text)
    return shown if len(shown) <= most else shown[: most - 3] + "..."


def _hint(key: str, column: str, have: Sequence[str]) -> str:
    if len(have) == 1 and any(mark in have[0] for mark in ",;\t|"):
        return '; is it another separator? say separator=";" (or "\\t", "|")'
    lower = {name.lower().replace("_", "").replace("-", "").replace(" ", ""): name for name in have}
    near = difflib.get_close_matches(column, list(have), n=1, cutoff=0.6)
    found = next((lower[other] for other in OTHER_NAMES.get(key, ()) if other in lower), near[0] if near else None)
    hint = f"; say {key}={found!r}" if found and key in OTHER_NAMES else f"; did you mean {found!r}?" if found else ""
    if key == "time" and not found:
        hint = '; say time="column", or time=None if the order of the rows is their order in time'
    return hint


@contextmanager
def translated(name: str, what: str) -> Iterator[None]:
    """Whatever a library throws at a damaged file, as one DataError that names the file."""
    try:
        yield
    except (DataError, KeyboardInterrupt, GeneratorExit):
        raise
    except (Exception, PanicException) as error:
        text = " ".join(str(error).split())[:200]
        raise DataError(f"{name}: cannot be read as {what}: {text or type(error).__name__}") from None


def open_table(source: Any, *, separator: str | None = None, name: str | None = None) -> Table:
    """The reader for a path (by suffix), a polars, pandas or Arrow frame."""
    if isinstance(source, (str, Path)):
        return _open_file(Path(source), separator, name)
    module = type(source).__module__.partition(".")[0]
    with translated(name or "frame", f"a {module} frame"):
        if isinstance(source, pl.DataFrame):
            return FrameTable(source, name or "frame")
        if isinstance(source, pl.LazyFrame):
            return FrameTable(source.collect(), name or "frame")
        if module == "pandas":
            return FrameTable(pl.from_pandas(source), name or "frame")
        if module == "pyarrow" and hasattr(source, "to_batches"):
            return FrameTable(from_arrow(source), name or "frame")
    raise DataError(f"cannot read a {type(source).__name__}; give a path, or a polars, pandas or Arrow frame")


def _open_file(path: Path, separator: str | None, name: str | None) -> Table:
    shown = name or path.name
    if not path.exists():
        raise DataError(f"{path}: no such file")
    if not path.is_file():
        raise DataError(f"{path}: not a file")
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        packed = "; unpack it first" if suffix in (".gz", ".zip", ".bz2", ".xz", ".zst") else ""
        raise DataError(f"{path}: unknown suffix {suffix!r}{packed}; known are {', '.join(SUFFIXES)}")
    try:
        if path.stat().st_size == 0:
            raise DataError(f"{shown}: the file is empty")
        with path.open("rb"):
            pass
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from None
    kind = SUFFIXES[suffix]
    if kind == "JSON lines":
        return JsonTable(path, shown)
    if kind == "Parquet":
        return ParquetTable(path, shown)
    if kind == "Arrow":
        return ArrowTable(path, shown)
    return TextTable(path, shown, separator or {"CSV": ",", "TSV": "\t"}.get(kind) or _sniff(path))


def _sniff(path: Path) -> str:
    """The separator of a .txt file: whichever of tab, comma, semicolon, bar stands most often in its first line."""
    with path.open("rb") as file:
        line = file.readline(1 << 16).decode("utf-8", "replace")
    return max("\t,;|", key=line.count)


class FrameTable(Table):
    """A polars frame in memory (pandas and Arrow come here too)."""

    def __init__(self, frame: pl.DataFrame, name: str) -> None:
        super().__init__(name)
        self.frame = frame

    @property
    def columns(self) -> list[str]:
        return self.frame.columns

    def chunks(self, columns: Sequence[str] | None = None) -> Iterator[pl.DataFrame]:
        frame = self.frame if columns is None else self.frame.select(columns)
        yield from frame.iter_slices(CHUNK)

    def checksum(self, columns: Sequence[str]) -> str:
        import pyarrow as pa

        digest = hashlib.sha256()
        frame = self.frame.select(columns)
        with translated(self.name, "Arrow"):
            # equal frames must give equal sums however their memory is cut up, so the slices are ours
            for part in frame.iter_slices(CHUNK):
                table = part.rechunk().to_arrow(compat_level=pl.CompatLevel.oldest())
                sink = pa.BufferOutputStream()
                with pa.ipc.new_stream(sink, table.schema) as writer:
                    writer.write_table(table)
                digest.update(sink.getvalue())
        return digest.hexdigest()

    def locate(self, records: Longs, *, texts: bool = False) -> tuple[Longs, list[str | None]]:
        return records + 1, _as_json(self.frame[records]) if texts else [None] * len(records)


def from_arrow(batch: Any) -> pl.DataFrame:
    """An Arrow record batch or table as a frame, if nothing in it points where it should not; pyarrow.ArrowInvalid otherwise.

    Polars trusts what Arrow gives it, and a damaged file must not bring the process down. Arrow's validation finds offsets that point
    nowhere, but not views and dictionary codes that do so behind a null.
    """
    import pyarrow as pa

    batch.validate(full=True)
    columns = []
    for column in batch.columns:
        pieces = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
        for piece in pieces:
            _check_views(piece)
        columns.append(pa.chunked_array([_decoded(piece) for piece in pieces]) if pieces else column)
    # without the metadata of the schema, which may hold anything
    frame = pl.from_arrow(pa.Table.from_arrays(columns, names=batch.schema.names))
    assert isinstance(frame, pl.DataFrame)
    return frame


def _check_views(array: Any) -> None:
    """Refuses views (16 bytes: length, prefix, buffer, offset; short texts stand in the view itself) that leave their buffers."""
    import pyarrow as pa

    kind = array.type
    if pa.types.is_string_view(kind) or pa.types.is_binary_view(kind):
        _, views, *data = array.buffers()
        words = np.frombuffer(views, dtype=np.int32, count=4 * (array.offset + len(array))).reshape(-1, 4)[array.offset :].astype(np.int64)
        sizes = np.array([buffer.size if buffer is not None else 0 for buffer in data], dtype=np.int64)
        far = words[words[:, 0] > 12]
        known = (far[:, 2] >= 0) & (far[:, 2] < len(sizes))
        inside = known.all() and (far[:, 3] >= 0).all() and (far[:, 3] + far[:, 0] <= sizes[far[:, 2]]).all()
        if (words[:, 0] < 0).any() or not inside:
            raise pa.ArrowInvalid("a view points outside its data")
    elif pa.types.is_dictionary(kind):
        _check_views(array.dictionary)
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        _check_views(array.values)
    elif pa.types.is_struct(kind):
        for place in range(kind.num_fields):
            _check_views(array.field(place))


def _decoded(array: Any) -> Any:
    """The array with dictionaries and runs written out."""
    import pyarrow as pa

    if pa.types.is_dictionary(array.type):
        values = _decoded(array.dictionary)
        plain = {pa.string_view(): pa.large_string(), pa.binary_view(): pa.large_binary()}.get(values.type)
        return (values.cast(plain) if plain else values).take(array.indices)
    if pa.types.is_run_end_encoded(array.type):
        return array.cast(array.type.value_type)
    return array


class FileTable(Table):
    """A file on disk."""

    def __init__(self, path: Path, name: str) -> None:
        super().__init__(name)
        self.path = path

    def checksum(self, columns: Sequence[str] = ()) -> str:
        with translated(self.name, self.format), self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


class TextTable(FileTable):
    """Separated text with a header, UTF-8. Every column is given as bytes: types are the gate's affair.

    Rows must have as many fields as the header; quotes are as in RFC 4180; blank lines are skipped.
    """

    unit = "line"

    def __init__(self, path: Path, name: str, separator: str) -> None:
        super().__init__(path, name)
        self.format = {"\t": "TSV", ",": "CSV"}.get(separator, "text")
        if len(separator) != 1 or ord(separator) > 127:
            raise DataError(f"{name}: the separator must be one ASCII character, got {separator!r}")
        self.separator = separator
        self._columns = self._header()

    def _header(self) -> list[str]:
        with self.path.open("rb") as file:
            start = file.read(4)
            if start[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\x00" in start:
                raise DataError(f"{self.name}: looks like UTF-16; save it as UTF-8")
            file.seek(3 if start[:3] == b"\xef\xbb\xbf" else 0)
            _, line, text = next(text_records(file, self.separator.encode()), (0, 0, b""))
        try:
            header = next(csv.reader([text.decode()], delimiter=self.separator), None)
        except UnicodeDecodeError:
            raise DataError(f"{self.name}, line {line}: the header is not UTF-8 text; save the file as UTF-8") from None
        except csv.Error as error:
            raise DataError(f"{self.name}, line {line}: the header cannot be read: {error}") from None
        if not header:
            raise DataError(f"{self.name}: the file has no header")
        return header

    @property
    def columns(self) -> list[str]:
        return self._columns

    def chunks(self, columns: Sequence[str] | None = None) -> Iterator[pl.DataFrame]:
        import pyarrow as pa
        from pyarrow import csv as arrow_csv

        wanted = list(dict.fromkeys(self.columns if columns is None else columns))
        if columns is None and len(wanted) < len(self.columns):
            twice = next(name for name in wanted if self.columns.count(name) > 1)
            raise DataError(f"{self.name}: column {twice!r} stands {self.columns.count(twice)} times in the header; rename all but one")
        self.broken = []

        def handler(row: Any) -> str:
            # row.number counts from 1 and includes the header
            reason = f"{row.actual_columns} fields where the header has {row.expected_columns}"
            self.broken.append(Broken(row.number - 2, reason, row.text))
            return "skip"

        with translated(self.name, self.format), self.path.open("rb") as file:
            # A broken row that is not UTF-8 cannot be handed to the handler; as Latin-1 every byte can, and is put back afterwards.
            utf8 = _is_utf8(file)
            if not utf8:
                file.seek(3 if file.read(3) == b"\xef\xbb\xbf" else 0)
            reader = arrow_csv.open_csv(
                self.path if utf8 else file,
                # one thread: only then are the numbers of broken rows known
                read_options=arrow_csv.ReadOptions(block_size=BLOCK, use_threads=False, encoding="utf8" if utf8 else "latin1"),
                parse_options=arrow_csv.ParseOptions(delimiter=self.separator, newlines_in_values=True, invalid_row_handler=handler),
                convert_options=arrow_csv.ConvertOptions(
                    include_columns=wanted if utf8 else [_as_latin1(name) for name in wanted],
                    column_types={name if utf8 else _as_latin1(name): pa.binary() for name in wanted},
                    strings_can_be_null=False,
                ),
            )
            for batch in reader:
                frame = pl.from_arrow(batch)
                assert isinstance(frame, pl.DataFrame)
                if not utf8:
                    restored = ([value.decode().encode("latin-1") for value in column.to_list()] for column in frame.iter_columns())
                    frame = pl.DataFrame([pl.Series(name, values, pl.Binary) for name, values in zip(wanted, restored, strict=True)])
                if frame.height:
                    yield frame

    def locate(self, records: Longs, *, texts: bool = False) -> tuple[Longs, list[str | None]]:
        lines = np.zeros(len(records), dtype=np.int64)
        found: list[str | None] = [None] * len(records)
        # several problems may lie in one record
        places: dict[int, list[int]] = {}
        for place, record in enumerate(records.tolist()):
            places.setdefault(record, []).append(place)
        left = len(places)
        with self.path.open("rb") as file:
            for record, line, text in text_records(file, self.separator.encode()):
                for place in places.get(record, ()):
                    lines[place] = line
                    found[place] = text.decode("utf-8", "replace") if texts else None
                left -= record in places
                if not left:
                    break
        return lines, found


def _is_utf8(file: BinaryIO) -> bool:
    """Whether a file is UTF-8 from here to its end; the file is wound back."""
    start = file.tell()
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        while piece := file.read(BLOCK):
            decoder.decode(piece)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    finally:
        file.seek(start)
    return True


def _as_latin1(name: str) -> str:
    return name.encode().decode("latin-1")


def text_records(file: BinaryIO, separator: bytes) -> Iterator[tuple[int, int, bytes]]:
    """(record, line, text) of separated text: records from 0 after the header (which is -1), lines from 1; blank lines are no records.

    Only walked for the header, and when there is something to report, to say on which line.
    """
    number, record, start, quoted = 0, -1, 0, False
    kept: list[bytes] = []
    for piece in file:
        # a lone carriage return ends a line too
        for line in piece.splitlines(keepends=True) if b"\r" in piece else (piece,):
            number += 1
            if not kept:
                if not line.strip(b"\r\n"):
                    continue
                start = number
            kept.append(line)
            if quoted or b'"' in line:
                quoted = _open_quote(line, separator, quoted)
                if quoted:
                    continue
            yield record, start, b"".join(kept).rstrip(b"\r\n")
            record += 1
            kept = []
    if kept:
        yield record, start, b"".join(kept).rstrip(b"\r\n")


def _open_quote(line: bytes, separator: bytes, quoted: bool) -> bool:
    """Whether a quoted field is open at the end of the line, given whether one was at its start. Only at its start can a field open one."""
    place = 0
    while True:
        if quoted:
            place = line.find(b'"', place)
            if place < 0:
                return True
            if line[place + 1 : place + 2] == b'"':
                place += 2
                continue
            quoted = False
        elif line[place : place + 1] == b'"':
            quoted = True
            place += 1
            continue
        place = line.find(separator, place)
        if place < 0:
            return False
        place += 1


class JsonTable(FileTable):
    """JSON lines: one object a line. Blank lines are skipped. Keys may be missing in some lines: that is a missing value."""

    format = "JSON lines"
    unit = "line"

    def __init__(self, path: Path, name: str) -> None:
        super().__init__(path, name)
        self._columns: list[str] | None = None

    @property
    def columns(self) -> list[str]:
        if self._columns is None:
            keys: dict[str, None] = {}
            for rows in self._objects():
                for row in rows:
                    keys.update(dict.fromkeys(row))
                break
            if not keys:
                detail = f"line 1: {self.broken[0].reason}" if self.broken else "the file holds no objects"
                raise DataError(f"{self.name}: {detail}; JSON lines have one object a line")
            self._columns = list(keys)
        return self._columns

    def _objects(self) -> Iterator[list[dict[str, Any]]]:
        """Chunks of parsed lines. Records are numbered by line here, blank lines included."""
        self.broken = []
        number = 0
        with self.path.open("rb") as file:
            if file.read(3) != b"\xef\xbb\xbf":
                file.seek(0)
            while lines := file.readlines(BLOCK):
                rows = _quick_objects(lines)
                if rows is None:
                    rows = []
                    for offset, line in enumerate(lines):
                        if line.strip():
                            self._one(number + offset, line, rows)
                        else:
                            self.broken.append(Broken(number + offset, "", ""))
                number += len(lines)
                yield rows

    def _one(self, number: int, line: bytes, rows: list[dict[str, Any]]) -> None:
        try:
            value = json.loads(line)
            reason = "not an object" if not isinstance(value, dict) else ""
            if isinstance(value, list):
                reason = "an array where an object was expected"
        except UnicodeDecodeError:
            reason = "not UTF-8 text; save the file as UTF-8"
        except json.JSONDecodeError as error:
            reason = f"not valid JSON: {error.msg} at character {error.colno}"
        except (ValueError, RecursionError) as error:
            reason = f"not readable JSON: {error}"
        if reason:
            self.broken.append(Broken(number, reason, line.decode("utf-8", "replace").rstrip("\r\n")))
        else:
            rows.append(value)

    def chunks(self, columns: Sequence[str] | None = None) -> Iterator[pl.DataFrame]:
        with translated(self.name, self.format):
            for rows in self._objects():
                wanted = list(columns) if columns is not None else list(dict.fromkeys(key for row in rows for key in row))
                if rows:
                    yield pl.DataFrame([json_series(name, [row.get(name) for row in rows]) for name in wanted])

    def locate(self, records: Longs, *, texts: bool = False) -> tuple[Longs, list[str | None]]:
        found: list[str | None] = [None] * len(records)
        if texts:
            places: dict[int, list[int]] = {}
            for place, record in enumerate(records.tolist()):
                places.setdefault(record, []).append(place)
            with self.path.open("rb") as file:
                for record, line in enumerate(file):
                    for place in places.get(record, ()):
                        found[place] = line.decode("utf-8", "replace").rstrip("\r\n")
        return records + 1, found


def _quick_objects(lines: list[bytes]) -> list[dict[str, Any]] | None:
    """A chunk of good lines parsed in one call, which is twice as fast; None if anything is amiss, to be looked at line by line."""
    stripped = [line.strip() for line in lines]
    if not all(line[:1] == b"{" and line[-1:] == b"}" for line in stripped):
        return None
    try:
        rows: list[Any] = json.loads(b"[" + b",".join(stripped) + b"]")
    except (ValueError, RecursionError):
        return None
    return rows if len(rows) == len(lines) and all(type(row) is dict for row in rows) else None


def json_series(name: str, values: list[Any]) -> pl.Series:
    """One column of JSON values: integers, floats, booleans, strings or lists where all agree; else each as its JSON text."""
    kinds = {type(value) for value in values} - {type(None)}
    if kinds <= {str}:
        return pl.Series(name, values, dtype=pl.String)
    if kinds == {bool}:
        return pl.Series(name, values, dtype=pl.Boolean)
    if kinds == {int} and all(v is None or -(2**63) <= v < 2**63 for v in values):
        return pl.Series(name, values, dtype=pl.Int64)
    if kinds <= {int, float} and all(not isinstance(v, int) or abs(v) <= 2**53 for v in values):
        return pl.Series(name, values, dtype=pl.Float64, strict=False)
    if kinds == {list}:
        texts = [None if v is None else [None if x is None else _json_text(x) for x in v] for v in values]
        return pl.Series(name, texts, dtype=pl.List(pl.String))
    return pl.Series(name, [None if v is None else _json_text(v) for v in values], dtype=pl.String)


def _json_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    text = json.dumps(value)
    return text if isinstance(value, (int, float)) and not isinstance(value, bool) else NESTED + text


class ParquetTable(FileTable):
    """A Parquet file, read a batch at a time."""

    format = "Parquet"

    def __init__(self, path: Path, name: str) -> None:
        super().__init__(path, name)
        with translated(name, self.format):
            from pyarrow import parquet

            self.file = parquet.ParquetFile(path)
            self._columns: list[str] = list(self.file.schema_arrow.names)

    @property
    def columns(self) -> list[str]:
        return self._columns

    def _batches(self, columns: Sequence[str] | None) -> Iterator[Any]:
        yield from self.file.iter_batches(CHUNK, columns=None if columns is None else list(columns))

    def chunks(self, columns: Sequence[str] | None = None) -> Iterator[pl.DataFrame]:
        with translated(self.name, self.format):
            for batch in self._batches(columns):
                frame = from_arrow(batch if columns is None else batch.select(list(columns)))
                if frame.height:
                    yield frame

    def locate(self, records: Longs, *, texts: bool = False) -> tuple[Longs, list[str | None]]:
        found: list[str | None] = [None] * len(records)
        if texts:
            start = 0
            for frame in self.chunks():
                here = np.flatnonzero((records >= start) & (records < start + frame.height))
                for place, text in zip(here.tolist(), _as_json(frame[records[here] - start]), strict=True):
                    found[place] = text
                start += frame.height
        return records + 1, found


class ArrowTable(ParquetTable):
    """An Arrow IPC file or stream (Feather version 2)."""

    format = "Arrow"

    def __init__(self, path: Path, name: str) -> None:
        FileTable.__init__(self, path, name)
        with translated(name, self.format):
            reader = self._open()
            self._columns = list(reader.schema.names)

    def _open(self) -> Any:
        import pyarrow as pa

        with self.path.open("rb") as file:
            magic = file.read(6)
        if magic[:4] == b"FEA1":
            raise DataError(f"{self.name}: Feather version 1; write it again as version 2")
        source = pa.memory_map(str(self.path), "r")
        return pa.ipc.open_file(source) if magic == b"ARROW1" else pa.ipc.open_stream(source)

    def _batches(self, columns: Sequence[str] | None) -> Iterator[Any]:
        reader = self._open()
        if hasattr(reader, "num_record_batches"):
            yield from (reader.get_batch(number) for number in range(reader.num_record_batches))
        else:
            yield from reader


def _as_json(frame: pl.DataFrame) -> list[str | None]:
    """Each row as one JSON object."""
    return [json.dumps(row, default=str, ensure_ascii=False) for row in frame.to_dicts()]

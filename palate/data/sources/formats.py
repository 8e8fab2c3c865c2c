"""Which text format `palate prepare` is given: a known one by name, or any separated text with a header by its columns."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from pathlib import Path

from palate.config import unknown_key
from palate.data.blocks import GZIP, stamp
from palate.data.clicks import Format
from palate.data.prepare import Dense
from palate.data.sources.avazu import AVAZU
from palate.data.sources.criteo import CRITEO
from palate.types import ConfigError, DataError

KNOWN = {"criteo": CRITEO, "avazu": AVAZU}


def find(
    source: str, raw: Sequence[Path], *, label: str | None = None, dense: str = "log", sparse: str | None = None, separator: str = ","
) -> tuple[Format, Dense]:
    """The format, and what becomes of its integers. For csv, `dense` and `sparse` are columns, commas between."""
    transforms: dict[str, Dense] = {"log": "log", "log-square": "log-square", "none": "none"}
    if source in KNOWN:
        if label is not None or sparse is not None:
            raise ConfigError(f"prepare {source}: --label and --sparse belong to `palate prepare csv`; {source} has its own columns")
        if dense not in transforms:
            raise ConfigError(f"--dense: log, log-square or none, got {dense!r}")
        return KNOWN[source], transforms[dense]
    if source != "csv":
        hint = unknown_key(source, [*KNOWN, "csv"]).replace("no such key; ", "").replace("it takes", "there are")
        raise ConfigError(f"prepare: no format {source!r}; {hint}")
    return from_header(raw, label, "" if dense in transforms else dense, sparse or "", separator), "none"


def from_header(raw: Sequence[Path], label: str | None, dense: str, sparse: str, separator: str) -> Format:
    """A format whose columns stand in the first line of each file."""
    if not raw:
        raise ConfigError("prepare: no raw file; give --raw FILE ...")
    if label is None or not sparse + dense:
        raise ConfigError("prepare csv: say which columns are what: --label click --dense a,b --sparse c,d")
    if len(separator) != 1 or separator in '\r\n"':
        raise ConfigError(f"--separator: one character, got {separator!r}")
    names = tuple(first_line(raw[0]).split(separator))
    chosen = [label, *(name for name in dense.split(",") if name), *(name for name in sparse.split(",") if name)]
    for name in chosen:
        if names.count(name) != 1:
            raise DataError(f"{raw[0]}: column {name!r} stands {names.count(name)} times in the header; it has {', '.join(names)[:200]}")
        if chosen.count(name) > 1:
            raise ConfigError(f"prepare csv: column {name!r} is named twice; a column is label, dense or sparse")
    places = [names.index(name) for name in chosen]
    numbers = 1 + len([name for name in dense.split(",") if name])
    return Format(
        "csv", names, places[0], tuple(places[1:numbers]), tuple(places[numbers:]), separator, header=True, days=10, hex_keys=False
    )


def first_line(path: Path) -> str:
    """The header of a file, plain or gz."""
    stamp(path)
    try:
        with path.open("rb") as file:
            packed = file.read(2) == GZIP
        with gzip.open(path, "rb") if packed else path.open("rb") as file:
            return file.readline(1 << 20).decode("utf-8").strip("\r\n").removeprefix("\ufeff")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: its first line cannot be read ({error})") from None

"""What the protocols of retrieval share: logs made of (user, item) pairs, files found by their names, one retriever fitted and told of.

Published files hold whole numbers from 0 for users and items, and those numbers are the codes. The tables count figures over all
items, so that the catalogue is 0 to the largest item of train, as in the published code.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import polars as pl

from palate.config import build
from palate.reproduce.base import Done, Entry
from palate.retrieve.base import Retriever
from palate.types import ConfigError, DataError, Log, Longs, Run

SECOND = 1_000_000
Lacks = Callable[[Path], Sequence[str]]
"""Folder -> the files it lacks."""


def log_of(users: Longs, items: Longs, n_users: int, n_items: int, *, times: Longs | None = None, name: str, checksum: str) -> Log:
    """A log of pairs of codes; ids are the codes as text. times: seconds, int64 [E].

    Files without times list a user's items in an order that means nothing (often sorted), and a model that reads histories would learn
    from it what it cannot have at the test. Without `times` the events are therefore put in one random order, always the same.
    """
    if times is None:
        order = np.random.default_rng(0).permutation(len(users))
        times = np.empty(len(users), dtype=np.int64)
        times[order] = np.arange(len(users))
    order = np.argsort(times, kind="stable")
    known_users, known_items = pl.Series("user", np.arange(n_users)).cast(pl.String), pl.Series("item", np.arange(n_items)).cast(pl.String)

    def ids(codes: Longs, known: pl.Series) -> pl.Series:
        return known.cast(pl.Enum(known)).gather(codes[order])

    events = pl.DataFrame(
        {
            "user": ids(users, known_users),
            "item": ids(items, known_items),
            "time": pl.Series(times[order] * SECOND).cast(pl.Datetime("us")),
            "kind": pl.repeat("event", len(users), dtype=pl.Enum(["event"]), eager=True),
            "value": pl.repeat(None, len(users), dtype=pl.Float32, eager=True),
        }
    )
    return Log(events, known_users.to_frame(), known_items.to_frame(), name=name, checksum=checksum, positive=("event",))


def wrong(path: Path, line: int, what: str) -> NoReturn:
    """The error of a file: where, and what."""
    raise DataError(f"{path}: line {line}: {what}")


def codes(path: Path, line: int, words: Sequence[str], what: Sequence[str]) -> list[int]:
    """Words as whole numbers from 0. what: what each is, the last for all that follow."""
    try:
        numbers = [int(word) for word in words]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 0:
        for place, word in enumerate(words):
            if not word.isdecimal():
                wrong(path, line, f"the {what[min(place, len(what) - 1)]} {word!r} is not a whole number from 0")
    return numbers


def table(path: Path, columns: int) -> Longs | None:
    """A file of whole numbers from 0 with tabs between, int64 [L, columns], read at once; None where it is anything else, or has a flaw.

    Times may have a fraction, and ratings; both are cut.
    """
    try:
        frame = pl.read_csv(path, has_header=False, separator="\t", quote_char=None, infer_schema_length=None)
    except (pl.exceptions.PolarsError, OSError, UnicodeDecodeError):
        return None
    if frame.width < columns or frame.height != len(lines(path)):
        return None
    if not all(dtype == pl.Int64 for dtype in frame.dtypes[:2]) or not all(dtype.is_numeric() for dtype in frame.dtypes[:columns]):
        return None
    if any(series.has_nulls() for series in frame.get_columns()[:columns]):
        return None
    rows = frame.select(pl.nth(range(columns)).cast(pl.Int64)).to_numpy()
    return None if rows.min(initial=0) < 0 else rows


def lines(path: Path) -> list[str]:
    """The lines of a text file, without blank ones at the end. DataError for what is no text, and for a file of no lines."""
    try:
        found = path.read_text(encoding="utf-8").rstrip().split("\n")
    except UnicodeDecodeError:
        raise DataError(f"{path}: not a text file (it is not UTF-8)") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    if found == [""]:
        raise DataError(f"{path}: has no lines")
    return found


def check_dense(path: Path, what: str, values: npt.NDArray[Any]) -> int:
    """One past the largest code; DataError where codes are not numbered from 0, for tables would be made for all that are left out."""
    size, distinct = int(values.max()) + 1, len(np.unique(values))
    if size > 4 * distinct + 1000:
        raise DataError(
            f"{path}: the largest {what} is {size - 1}, but only {distinct} different ones occur; number {what}s from 0 without such gaps"
        )
    return size


def find_files(name: str, folder: Path, ours: Lacks, theirs: Mapping[str, Lacks]) -> Path:
    """The folder if no file is missing for this protocol. ours, theirs: of this protocol, and of others, by the name of a table.

    DataError names what is missing, and the table for which the files would do.
    """
    missing = ours(folder)
    if not missing:
        return folder
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    for table, lacks in theirs.items():
        if not lacks(folder):
            raise DataError(f"{folder}: lacks {', '.join(missing)}; its files are for `palate reproduce {table} --data {folder}`")
    raise DataError(f"{folder}: lacks {', '.join(missing)}, which the protocol of {name} needs")


def lacks_lists(folder: Path) -> list[str]:
    """Which files of the full-ranking protocol a folder lacks."""
    return [name for name in ("train.txt", "test.txt") if not (folder / name).is_file()]


def lacks_one_plus_99(folder: Path) -> list[str]:
    """Which files of the protocol of He et al. a folder lacks."""
    train = [*folder.glob("*.train.rating"), *folder.glob("*.train.pairs")]
    missing = [] if train else ["*.train.rating (or *.train.pairs)"]
    return missing + [f"*{end}" for end in (".test.rating", ".test.negative") if not list(folder.glob(f"*{end}"))]


def retriever_of(entry: Entry, settings: Mapping[str, Any] | None = None) -> Retriever:
    """The model of an entry, not fitted."""
    retriever = build(entry.use, "retrieve", entry.settings if settings is None else settings)
    if not isinstance(retriever, Retriever):
        raise ConfigError(f"{entry.key}: {entry.use} is no retriever")
    return retriever


def _engine(*arguments: Any, **named: Any) -> dict[str, list[float]]:
    """The training engine, loaded by the first network that trains: the other models need no torch."""
    from palate.train.trainer import Trainer

    return Trainer().fit(*arguments, **named)


def tried(
    entry: Entry,
    seed: int,
    fit_and_judge: Callable[[Retriever, Run], dict[str, float]],
    on_validation: Callable[[Retriever, Run], dict[str, float]] | None,
    metric: str,
) -> Done:
    """Fits one model with one seed and judges it.

    fit_and_judge: on all of train and the test items. on_validation: on train less what is held out of it; where it is given, the
    settings of the entry and every change in its `grid` are tried so first, and the best by `metric` is fitted.
    """
    run = Run(seed=seed, quiet=True, train=_engine)
    settings = dict(entry.settings)
    validation: list[dict[str, Any]] = []
    if on_validation is not None:
        for changes in ({}, *entry.grid):
            attempt: dict[str, Any] = {**entry.settings, **changes}
            began = time.perf_counter()
            metrics = on_validation(retriever_of(entry, attempt), run)
            validation.append({"settings": attempt, "metrics": metrics, "seconds": time.perf_counter() - began})
        settings = max(validation, key=lambda attempt: attempt["metrics"][metric])["settings"]
    retriever = retriever_of(entry, settings)
    metrics = fit_and_judge(retriever, run)
    parameters = sum(array.size for array in retriever.state().arrays.values() if array.dtype.kind == "f")
    curves = {name: [float(value) for value in curve] for name, curve in getattr(retriever, "curves", {}).items()}
    epochs = max((len(curve) for curve in curves.values()), default=0)
    chosen = retriever.config.model_dump(mode="json")
    return Done(entry.key, seed, metrics, parameters, metrics.pop("fit_s"), epochs, chosen, curves, validation)

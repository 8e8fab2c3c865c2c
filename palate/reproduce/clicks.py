"""The protocol of click tables: train, valid and test CSV files with a label column, one network a seed, judged on the test rows.

The vocabulary of each column is that of the training rows; a value that they lack has no vector. A network stops by its validation
AUC, its best epoch is kept, and only that one is shown the test rows.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl

from palate.config import build, unknown_key
from palate.data.sources.download import Archive, fetch, local_folder
from palate.features.rows import Rows
from palate.metrics import pointwise
from palate.rank.neural import NeuralRanker
from palate.reproduce.base import Done, Entry, Protocol, Table, md5_of
from palate.train.trainer import Trainer
from palate.types import ConfigError, DataError, Floats, Inputs, Ints, Run, SparseInput

SPLITS = ("train", "valid", "test")


@dataclass(frozen=True)
class ClickData:
    """The three splits, encoded alike. checksums: md5 of each file. notes: where a file is not the published one."""

    train: Rows
    valid: Rows
    test: Rows
    checksums: dict[str, str]
    notes: tuple[str, ...] = ()


def find(table: Table, folder: Path | None, *, quiet: bool = False) -> Path:
    """The folder of the files: given, in PALATE_DATA, or downloaded. Errors: DataError that says where it looked."""
    names = [f"{split}.csv" for split in SPLITS]
    if folder is not None:
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise DataError(f"{folder}: lacks {', '.join(missing)}; the protocol needs {', '.join(names)} with a label column")
        return folder
    local = local_folder(table.data, [names])
    if local is not None:
        return local
    try:
        return fetch(Archive(table.url, least=1), table.data, quiet=quiet)
    except DataError as error:
        raise DataError(
            f"{table.name}: no folder {table.data!r} with {', '.join(names)} in PALATE_DATA, and the download failed: {error}"
        ) from None


def read(folder: Path, *, label: str | None = None, md5: Mapping[str, str] | None = None) -> ClickData:
    """Reads and encodes the three files. Whole numbers and text are categories; columns with a decimal point are numbers (standardised).

    label: the column to learn; None: `label`, `click` or `clicks`. Errors: DataError with file, row and column.
    """
    frames = {split: _frame(folder / f"{split}.csv") for split in SPLITS}
    first = frames["train"]
    label = label or next((name for name in ("label", "click", "clicks") if name in first.columns), "label")
    for split, frame in frames.items():
        path = folder / f"{split}.csv"
        if label not in frame.columns:
            raise DataError(f"{path}: no column {label!r} (it has {', '.join(frame.columns)}); name the label column `label`")
        if not frame.height:
            raise DataError(f"{path}: has no rows")
        different = set(frame.columns) ^ set(first.columns)
        if different:
            raise DataError(
                f"{path}: column {sorted(different)[0]!r} is not in both this file and train.csv; give all three the same columns"
            )
    columns = [name for name in first.columns if name != label]
    numbers = [name for name in columns if first[name].dtype.is_float()]
    for split, frame in frames.items():
        _check_finite(frame, folder / f"{split}.csv", numbers)
    values = {name: first[name].cast(pl.String).drop_nulls().unique(maintain_order=True) for name in columns if name not in numbers}
    inputs = Inputs(tuple(numbers), tuple(SparseInput(name, name, len(known) + 1, "sum") for name, known in values.items()), (label,))
    moments = {
        name: (float(np.nanmean(column)), float(np.nanstd(column)) or 1.0) for name in numbers for column in [first[name].to_numpy()]
    }
    rows = {split: _rows(frame, folder / f"{split}.csv", label, inputs, values, moments) for split, frame in frames.items()}
    checksums = {f"{split}.csv": md5_of(folder / f"{split}.csv") for split in SPLITS}
    notes = [
        f"{name} is not the published file (md5 {checksums[name]}, published {known})"
        for name, known in (md5 or {}).items()
        if checksums[name] != known
    ]
    return ClickData(rows["train"], rows["valid"], rows["test"], checksums, tuple(notes))


def _frame(path: Path) -> pl.DataFrame:
    try:
        return pl.read_csv(path, infer_schema_length=None)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"{path}: not a CSV file with a header: {str(error).splitlines()[0]}") from None


def _check_finite(frame: pl.DataFrame, path: Path, names: Sequence[str]) -> None:
    for name in names:
        wild = (~frame[name].cast(pl.Float64, strict=False).is_finite()).fill_null(False)
        if wild.any():
            row = int(wild.arg_max() or 0)
            raise DataError(f"{path}: line {row + 2}, column {name!r}: {frame[name][row]} is no number to learn from; leave the cell empty")


def _rows(
    frame: pl.DataFrame, path: Path, label: str, inputs: Inputs, values: Mapping[str, pl.Series], moments: Mapping[str, tuple[float, float]]
) -> Rows:
    labels = frame[label].cast(pl.Float32, strict=False)
    bad = (~labels.is_in([0.0, 1.0])).fill_null(True)
    if bad.any():
        row = int(bad.arg_max() or 0)
        raise DataError(f"{path}: line {row + 2}, column {label!r}: {frame[label][row]!r} is neither 0 nor 1")
    ids: Ints = np.zeros((frame.height, len(values)), dtype=np.int32)
    for place, (name, known) in enumerate(values.items()):
        found = frame[name].cast(pl.String).cast(pl.Enum(known), strict=False).to_physical().cast(pl.Int32) + 1
        ids[:, place] = found.fill_null(0).to_numpy()
    dense: Floats = np.zeros((frame.height, len(moments)), dtype=np.float32)
    for place, (name, (mean, deviation)) in enumerate(moments.items()):
        column = frame[name].cast(pl.Float64, strict=False)
        dense[:, place] = np.nan_to_num((column.fill_null(float("nan")).to_numpy() - mean) / deviation)
    return Rows.of(inputs, dense, ids, labels.to_numpy(), str(path))


def with_counts(data: ClickData, groups: Sequence[Sequence[str]]) -> ClickData:
    """The same rows with one dense column more for each group of columns: how often the row's values occur together in a positive row.

        x = ln(1 + n),  n = the number of other training rows with the same values and label 1

    A training row does not count itself (leave one out), or it would give its own label away. Valid and test rows count training rows
    only. Errors: ConfigError for a column that is not there.
    """
    names = [feature.name for feature in data.train.inputs.sparse]
    for name in (name for group in groups for name in group if name not in names):
        raise ConfigError(f"counts: {unknown_key(name, names).replace('no such key', f'no such column {name!r}')}")
    splits = (data.train, data.valid, data.test)
    columns: dict[str, list[Floats]] = {}
    for group in groups:
        places = [names.index(name) for name in group]
        sizes = [data.train.inputs.sparse[place].rows for place in places]
        keys = [np.ravel_multi_index(tuple(rows.parts[0]["ids"][:, place].astype(np.int64) for place in places), sizes) for rows in splits]
        own = data.train.labels[:, 0]
        known, code = np.unique(keys[0], return_inverse=True)
        positives = np.bincount(code, own, len(known))
        found = [positives[code] - own]
        for key in keys[1:]:
            at = np.minimum(np.searchsorted(known, key), len(known) - 1)
            found.append(np.where(known[at] == key, positives[at], 0.0))
        columns["count." + "+".join(group)] = [np.log1p(counts).astype(np.float32) for counts in found]
    inputs = replace(data.train.inputs, dense=(*data.train.inputs.dense, *columns))
    more = [
        Rows.of(
            inputs,
            np.column_stack([rows.parts[0]["dense"], *(column[place] for column in columns.values())]),
            rows.parts[0]["ids"],
            rows.labels,
        )
        for place, rows in enumerate(splits)
    ]
    return replace(data, train=more[0], valid=more[1], test=more[2])


def ranker_of(entry: Entry) -> NeuralRanker:
    """The model of an entry, not fitted."""
    ranker = build(entry.use, "rank", entry.settings)
    if not isinstance(ranker, NeuralRanker):
        raise ConfigError(f"{entry.key}: {entry.use} is not a network")
    return ranker


def train_one(entry: Entry, seed: int, data: ClickData, *, quiet: bool = True) -> Done:
    """Trains one model with one seed and judges it on the test rows."""
    ranker = ranker_of(entry)
    if entry.counts:
        data = with_counts(data, entry.counts)
    began = time.perf_counter()
    ranker.fit_rows(data.train, data.valid, Run(seed=seed, quiet=quiet, train=Trainer().fit))
    seconds = time.perf_counter() - began
    labels, probabilities = data.test.labels[:, 0], ranker.predict(data.test)[:, 0]
    metrics = {
        "auc": pointwise.auc(labels, probabilities),
        "logloss": pointwise.logloss(labels, probabilities),
        "ne": pointwise.normalised_entropy(labels, probabilities),
        "calibration": pointwise.calibration_ratio(labels, probabilities),
        "valid_auc": max(ranker.curves.get("auc", [float("nan")])),
        "valid_logloss": _at_best(ranker.curves, "logloss"),
    }
    parameters = sum(weight.numel() for weight in ranker.model.parameters())
    epochs = max((len(curve) for curve in ranker.curves.values()), default=0)
    settings = ranker.config.model_dump(mode="json")
    return Done(entry.key, seed, metrics, parameters, seconds, epochs, settings, {k: list(v) for k, v in ranker.curves.items()})


def _at_best(curves: Mapping[str, Sequence[float]], metric: str) -> float:
    """A validation metric at the epoch that was kept, the one of the best AUC."""
    return float(curves[metric][int(np.argmax(curves["auc"]))]) if metric in curves and "auc" in curves else float("nan")


PROTOCOL = Protocol(
    find=lambda table, folder, quiet: find(table, folder, quiet=quiet),
    read=lambda table, folder: read(folder, md5=table.md5),
    check=ranker_of,
    train=lambda entry, seed, data, _: train_one(entry, seed, data),
)

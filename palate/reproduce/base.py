"""Published tables and ours beside them: what an entry is, how runs are kept, and how a table is shown."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from palate.config import unknown_key
from palate.types import ConfigError
from palate.versions import versions

Figures = Mapping[str, float]
PROTOCOLS = ("clicks", "command")  # modules of this room that hold no table; they bring torch


@dataclass(frozen=True)
class Entry:
    """One model of a table. use and settings: the component, as in a recipe. published: what the source prints of it.

    key: what `--models` calls it. note: what a reader must know of the published figure or of ours. counts: groups of columns, see
    `clicks.with_counts`; features that the published models do not have.
    """

    key: str
    model: str
    use: str
    settings: Mapping[str, Any]
    published: Figures = field(default_factory=dict)
    note: str = ""
    counts: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True)
class Table:
    """A published table: its data, its protocol and its entries. metrics: which are shown, in this order; larger is better but for losses.

    protocol: `clicks` (train, valid and test CSV files with a label column). data: the folder's name in PALATE_DATA. md5: of its files,
    as published. url: where the files are published. words: what is said above the table.
    """

    name: str
    title: str
    source: str
    protocol: str
    data: str
    entries: tuple[Entry, ...]
    metrics: tuple[str, ...] = ("auc", "logloss")
    md5: Mapping[str, str] = field(default_factory=dict)
    url: str = ""
    words: str = ""

    def chosen(self, keys: Sequence[str] | None) -> tuple[Entry, ...]:
        """The entries of these keys, in the table's order. Errors: ConfigError names the nearest."""
        known = [entry.key for entry in self.entries]
        for key in keys or ():
            if key not in known:
                raise ConfigError(f"--models {key}: {unknown_key(key, known).replace('no such key', 'no such model')}")
        return tuple(entry for entry in self.entries if keys is None or entry.key in keys)


@dataclass(frozen=True)
class Done:
    """One model trained once. metrics: on the test rows. curves: of the validation, an epoch a value."""

    key: str
    seed: int
    metrics: dict[str, float]
    parameters: int
    seconds: float
    epochs: int
    settings: dict[str, Any] = field(default_factory=dict)
    curves: dict[str, list[float]] = field(default_factory=dict)


def tables() -> dict[str, Table]:
    """Every table of this room: each module that holds a TABLE."""
    names = sorted(entry.name[:-3] for entry in files("palate.reproduce").iterdir() if entry.name.endswith(".py"))
    modules = [name for name in names if name not in ("__init__", *PROTOCOLS)]
    found = [getattr(import_module(f"palate.reproduce.{name}"), "TABLE", None) for name in modules]
    return {table.name: table for table in found if isinstance(table, Table)}


def table_of(name: str) -> Table:
    """A table by its name."""
    found = tables()
    if name not in found:
        raise ConfigError(f"{name}: {unknown_key(name, found).replace('no such key', 'no such table').replace('it takes', 'there are')}")
    return found[name]


def environment() -> dict[str, Any]:
    """What a figure depends on beside its settings: versions, processor, threads."""
    return {"versions": versions(), "machine": platform.machine(), "system": platform.system(), "processors": os.cpu_count()}


def fingerprint(value: Any) -> str:
    """A short name for settings and data: runs of equal fingerprints are the same run."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:12]


def md5_of(path: Path) -> str:
    """The MD5 of a file, which is what publishers of data sets give."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def summary(entry: Entry, runs: Sequence[Done], metrics: Sequence[str], *, published: bool) -> dict[str, Any]:
    """One row: published figures, ours as [mean, standard deviation] over seeds, parameters, mean seconds of a run."""

    def spread(values: Sequence[float]) -> list[float]:
        return [float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0]

    row: dict[str, Any] = {"model": entry.model, "key": entry.key}
    if published:
        row["published"] = dict(entry.published)
    return row | {
        "ours": {metric: spread([run.metrics[metric] for run in runs]) for metric in metrics},
        "parameters": runs[0].parameters,
        "seconds": float(np.mean([run.seconds for run in runs])),
        "epochs": float(np.mean([run.epochs for run in runs])),
        "seeds": [run.seed for run in runs],
        "note": entry.note,
    }


HEADINGS = {"auc": "AUC", "logloss": "logloss", "ne": "NE", "calibration": "calibration"}


def headings(metrics: Sequence[str], *, published: bool) -> list[str]:
    """The columns of a table."""
    names = [HEADINGS.get(metric, metric) for metric in metrics]
    theirs = [f"published {name}" for name in names[:2]] if published else []
    return ["model", *theirs, *names, "parameters", "s a run"]


def cells(row: Mapping[str, Any], metrics: Sequence[str]) -> list[str]:
    """One row as text."""
    theirs = []
    if "published" in row:
        for metric in metrics[:2]:
            mean = row["published"].get(f"{metric}_mean")
            value = row["published"].get(metric)
            theirs.append("" if value is None else f"{value:.4f}" + ("" if mean is None else f" (mean {mean:.4f})"))
    ours = [f"{mean:.4f} ± {std:.4f}" for mean, std in (row["ours"][metric] for metric in metrics)]
    return [row["model"], *theirs, *ours, f"{row['parameters']:,}", f"{row['seconds']:.0f}"]


def markdown(rows: Sequence[Mapping[str, Any]], metrics: Sequence[str]) -> str:
    """The table for a document."""
    head = headings(metrics, published=any("published" in row for row in rows))
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *(cells(row, metrics) for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"

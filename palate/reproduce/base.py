"""Published tables and ours beside them: what an entry is, how runs are kept, and how a table is shown."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from palate.config import unknown_key
from palate.types import ConfigError
from palate.versions import libraries, versions

Figures = Mapping[str, float]
PROTOCOLS = ("clicks", "full_ranking", "one_plus_99")
NO_TABLES = (*PROTOCOLS, "base", "command", "pairs", "runs")  # modules of this room that hold none; some bring torch


@dataclass(frozen=True)
class Entry:
    """One model of a table. use and settings: the component, as in a recipe. published: what the source prints of it.

    key: what `--models` calls it. note: what a reader must know of the published figure or of ours. counts: groups of columns, see
    `clicks.with_counts`; features that the published models do not have.
    grid: changes to the settings that `--tune` tries, each a mapping; judged on items held out of train, never on the test items.
    random: whether the seed matters; one that is the same for every seed is run with seed 0 only.
    """

    key: str
    model: str
    use: str
    settings: Mapping[str, Any]
    published: Figures = field(default_factory=dict)
    note: str = ""
    counts: tuple[tuple[str, ...], ...] = ()
    grid: tuple[Mapping[str, Any], ...] = ()
    random: bool = True


@dataclass(frozen=True)
class Published:
    """A line of a published table whose model is none of ours. note: where it was read, if not at its source."""

    model: str
    figures: Figures
    note: str = ""


@dataclass(frozen=True)
class Table:
    """A published table: its data, its protocol and its entries. metrics: which are shown, in this order; larger is better but for losses.

    protocol: a module of this room that holds a PROTOCOL: `clicks` (train, valid and test CSV files with a label column), `one_plus_99`
    (He et al. 2017), `full_ranking` (train.txt, test.txt). data: the folder's name in PALATE_DATA. md5: of its files, as published.
    url: where the files are published; empty where they cannot be fetched as they are. words: what is said above the table.
    others: published figures of models that are not run here.
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
    others: tuple[Published, ...] = ()

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
    validation: list[dict[str, Any]] = field(default_factory=list)
    """Where settings were chosen (`--tune`), on items held out of train: each one tried, `settings`, `metrics`, `seconds`."""


@dataclass(frozen=True)
class Protocol:
    """How a kind of table is run: a module's PROTOCOL. What `read` gives has `checksums` (file -> md5) and `notes` (words on the files).

    find: table, folder given or None, quiet -> the folder of the files. check: a mistyped setting is an error before hours of training.
    train: entry, seed, what `read` gave, whether to choose settings first.
    """

    find: Callable[[Table, Path | None, bool], Path]
    read: Callable[[Table, Path], Any]
    check: Callable[[Entry], object]
    train: Callable[[Entry, int, Any, bool], Done]
    tunes: bool = False


def tables() -> dict[str, Table]:
    """Every table of this room: each module that holds a TABLE."""
    names = sorted(entry.name[:-3] for entry in files("palate.reproduce").iterdir() if entry.name.endswith(".py"))
    modules = [name for name in names if name not in ("__init__", *NO_TABLES)]
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
    return {
        "versions": versions(),
        "libraries": libraries(),
        "machine": platform.machine(),
        "system": platform.system(),
        "processors": os.cpu_count(),
    }


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


def protocol_of(table: Table) -> Protocol:
    """The steps of a table."""
    if table.protocol not in PROTOCOLS:
        raise ConfigError(f"{table.name}: no protocol {table.protocol!r}; there are {', '.join(PROTOCOLS)}")
    found: Protocol = import_module(f"palate.reproduce.{table.protocol}").PROTOCOL
    return found


HEADINGS = {
    "auc": "AUC", "logloss": "logloss", "ne": "NE", "calibration": "calibration",
    "hr@10": "HR@10", "ndcg@10": "nDCG@10", "recall@20": "Recall@20", "ndcg@20": "nDCG@20",
}  # fmt: skip


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


def winners(table: Table, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Who is best by the table's first metric: of our runs, of the published figures, and whether ours pass those. One sentence each."""
    metric = table.metrics[0]
    name = HEADINGS.get(metric, metric)
    best = max(rows, key=lambda row: row["ours"][metric][0])
    ours = best["ours"][metric][0]
    said = [f"Winner of these runs: {best['model']}, {name} {ours:.4f}."]
    if not any("published" in row for row in rows):
        return said
    figures = [(entry.model, entry.published.get(metric)) for entry in table.entries]
    figures += [(other.model, other.figures.get(metric)) for other in table.others]
    known = [(value, model) for model, value in figures if value is not None]
    if known:
        value, model = max(known)
        said.append(f"Best published figure: {model}, {name} {value:.4f}; ours is {ours - value:+.4f} from it.")
    return said

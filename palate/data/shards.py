"""Packed rows on disk: shards of labelled rows that are read by memory map, and a manifest that says what they hold.

DIR/manifest.json                  format, dense columns, sparse features with their rows, tasks, splits, how it was made
DIR/train/00000.safetensors        dense float32 [R, F], ids int32 [R, S], labels uint8 or float32 [R, T]
DIR/valid/..., DIR/test/...
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from palate.types import BundleError, DataError, Inputs, SparseInput

FORMAT = "palate-rows/1"
MANIFEST = "manifest.json"
TYPES: dict[str, str] = {"F32": "<f4", "F16": "<f2", "I32": "<i4", "I64": "<i8", "U8": "|u1"}

Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Shard:
    """One file of a split. path: relative to the folder. rows: how many it has."""

    path: str
    rows: int


@dataclass(frozen=True)
class Manifest:
    """What a folder of packed rows holds. about: how it was made (raw files, checksums, options), plain values."""

    inputs: Inputs
    splits: Mapping[str, tuple[Shard, ...]]
    about: Mapping[str, Any] = field(default_factory=dict)


def write_shard(path: Path, dense: npt.NDArray[Any], ids: npt.NDArray[Any], labels: npt.NDArray[Any]) -> None:
    """Writes one shard whole: under another name first, then renamed, so that a file that is there is complete."""
    from safetensors.numpy import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_suffix(".half")
    arrays = {"dense": dense, "ids": ids, "labels": labels}
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, half)
    os.replace(half, path)


def open_shard(path: Path) -> Arrays:
    """The arrays of a shard as memory maps: nothing is read until it is looked at. Errors: BundleError where it is none, or cut short."""
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if not 0 < length < 1 << 20:
                raise ValueError("its header is too long")
            header = json.loads(file.read(length))
        size = path.stat().st_size - 8 - length
        arrays: Arrays = {}
        for name in ("dense", "ids", "labels"):
            entry = header[name]
            start, end = entry["data_offsets"]
            shape, kind = tuple(entry["shape"]), np.dtype(TYPES[entry["dtype"]])
            if end > size or int(np.prod(shape)) * kind.itemsize != end - start:
                raise ValueError(f"it is cut short at {name!r}")
            # A map of nothing is refused by the system.
            arrays[name] = np.memmap(path, kind, "r", 8 + length + start, shape) if end > start else np.zeros(shape, kind)
    except FileNotFoundError:
        raise BundleError(f"{path}: no such shard; prepare the data again") from None
    except (ValueError, KeyError, TypeError, struct.error, UnicodeDecodeError) as error:
        raise BundleError(f"{path}: not a shard of packed rows ({error}); prepare the data again") from None
    return arrays


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Writes `manifest.json`; it comes last, so that a folder with a manifest is complete."""
    plain = {
        "format": FORMAT,
        "dense": list(manifest.inputs.dense),
        "sparse": [{key: value for key, value in asdict(f).items() if value is not None} for f in manifest.inputs.sparse],
        "tasks": list(manifest.inputs.tasks),
        "splits": {name: [{"path": s.path, "rows": s.rows} for s in shards] for name, shards in manifest.splits.items()},
        "about": dict(manifest.about),
    }
    half = folder / f"{MANIFEST}.half"
    half.write_text(json.dumps(plain, indent=1), encoding="utf-8")
    os.replace(half, folder / MANIFEST)


def read_manifest(folder: Path) -> Manifest:
    """What a folder holds. Errors: DataError where it is no folder of packed rows."""
    path = folder / MANIFEST
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(
            f"{folder}: no {MANIFEST}; `palate prepare` writes such folders (an unfinished one is taken up by the same command)"
        ) from None
    except ValueError as error:
        raise DataError(f"{path}: not JSON ({error}); prepare the data again") from None
    if not isinstance(raw, dict) or raw.get("format") != FORMAT:
        raise DataError(
            f"{path}: format {raw.get('format') if isinstance(raw, dict) else raw!r}, expected {FORMAT!r}; prepare the data again"
        )
    try:
        inputs = Inputs(tuple(raw["dense"]), tuple(SparseInput(**feature) for feature in raw["sparse"]), tuple(raw["tasks"]))
        splits = {name: tuple(Shard(**shard) for shard in shards) for name, shards in raw["splits"].items()}
    except (KeyError, TypeError) as error:
        raise DataError(f"{path}: lacks {error}; prepare the data again") from None
    return Manifest(inputs, splits, raw.get("about", {}))


def open_split(folder: Path, manifest: Manifest, split: str) -> Sequence[Arrays]:
    """The memory maps of one split, shard after shard. Errors: DataError for a split that is not there."""
    if split not in manifest.splits:
        raise DataError(f"{folder}: no split {split!r}; it has {', '.join(manifest.splits) or 'none'}")
    found = []
    for shard in manifest.splits[split]:
        arrays = open_shard(folder / shard.path)
        if any(len(array) != shard.rows for array in arrays.values()):
            raise BundleError(f"{folder / shard.path}: the manifest says {shard.rows} rows; prepare the data again")
        found.append(arrays)
    return found

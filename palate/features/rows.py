"""Labelled rows: a table of dense columns, one id a sparse feature, and labels, in memory or on disk. What click models train on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from palate.data import shards
from palate.features.blocks import BlockLoader
from palate.features.collate import collate_rows
from palate.features.loader import Loader
from palate.types import Batch, DataError, Floats, Inputs, Ints, Longs

Arrays = dict[str, npt.NDArray[Any]]


class Rows:
    """R labelled rows in one or more parts: `dense` [R, F], `ids` [R, S] in [0, rows), `labels` [R, T], as `inputs` names them.

    Made `of` arrays in memory (checked whole), or opened as a split of a prepared folder (memory maps; it was checked when written).
    """

    def __init__(self, inputs: Inputs, parts: Sequence[Arrays], on_disk: bool = False) -> None:
        self.inputs = inputs
        self.on_disk = on_disk
        self.parts = tuple(parts)
        self.ends: Longs = np.cumsum([len(part["labels"]) for part in parts], dtype=np.int64)
        self._keys = [feature.name for feature in inputs.sparse]

    @classmethod
    def of(cls, inputs: Inputs, dense: Floats | None, ids: Ints | None, labels: Floats, where: str = "rows") -> Rows:
        """From arrays. Errors: DataError that names the first bad row and feature: not finite, or outside its table."""
        rows = len(labels)
        dense = np.zeros((rows, 0), dtype=np.float32) if dense is None else _numbers(dense, inputs.dense, f"{where}: dense")
        ids = np.zeros((rows, 0), dtype=np.int32) if ids is None else np.asarray(ids)
        labels = _numbers(labels, inputs.tasks, f"{where}: labels").reshape(rows, -1 if rows else len(inputs.tasks))
        shapes = {"dense": (rows, len(inputs.dense)), "ids": (rows, len(inputs.sparse)), "labels": (rows, len(inputs.tasks))}
        for name, array in {"dense": dense, "ids": ids, "labels": labels}.items():
            if array.shape != shapes[name]:
                raise DataError(f"{where}: {name} has the shape {array.shape}, expected {shapes[name]}")
        if ids.dtype.kind not in "iu":
            raise DataError(f"{where}: ids must be whole numbers, not {ids.dtype}; encode them first")
        if not np.isfinite(dense).all():
            row, column = (int(place[0]) for place in np.nonzero(~np.isfinite(dense)))
            raise DataError(f"{where}: row {row}, dense feature {inputs.dense[column]!r}: {dense[row, column]}; fill or drop it before")
        limits = np.array([feature.rows for feature in inputs.sparse], dtype=np.int64)
        outside = (ids < 0) | (ids >= limits)
        if outside.any():
            row, column = (int(place[0]) for place in np.nonzero(outside))
            feature = inputs.sparse[column]
            raise DataError(
                f"{where}: row {row}, feature {feature.name!r}: id {ids[row, column]} is outside its table of {feature.rows} rows"
            )
        return cls(inputs, [{"dense": dense, "ids": ids, "labels": labels}])

    @classmethod
    def open(cls, folder: Path, split: str = "train") -> Rows:
        """A split of a folder that `palate prepare` wrote."""
        manifest = shards.read_manifest(folder)
        return cls(manifest.inputs, shards.open_split(folder, manifest, split), on_disk=True)

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    @property
    def labels(self) -> Floats:
        """All labels, float32 [R, T]."""
        parts = [np.asarray(part["labels"], dtype=np.float32) for part in self.parts]
        return np.concatenate(parts) if parts else np.zeros((0, len(self.inputs.tasks)), dtype=np.float32)

    def check(self, where: str) -> None:
        """DataError where there is nothing to learn: no row, or a task whose labels are all the same."""
        if not len(self):
            raise DataError(f"{where}: the table has no rows to learn from")
        labels = self.labels
        for place, task in enumerate(self.inputs.tasks):
            known = labels[:, place][~np.isnan(labels[:, place])]
            if not len(known) or (known == known[0]).all():
                what = f"is {known[0]:g} in all {len(known)} rows" if len(known) else "is unknown in every row"
                raise DataError(f"{where}: label {task!r} {what}; a model needs both kinds of rows")

    def batch(self, which: Longs | slice) -> Batch:
        """Some rows, in the given order. A slice costs a copy; row numbers cost a gather."""
        if len(self.parts) == 1:
            part = self.parts[0]
            return self._collate(part["dense"][which], part["ids"][which], part["labels"][which])
        rows = np.arange(len(self), dtype=np.int64)[which] if isinstance(which, slice) else which
        home = np.searchsorted(self.ends, rows, side="right")
        dense = np.empty((len(rows), len(self.inputs.dense)), dtype=np.float32)
        ids = np.empty((len(rows), len(self.inputs.sparse)), dtype=np.int32)
        labels = np.empty((len(rows), len(self.inputs.tasks)), dtype=np.float32)
        for number in np.unique(home):
            mine, part = home == number, self.parts[number]
            at = rows[mine] - (self.ends[number] - len(part["labels"]))
            dense[mine], ids[mine], labels[mine] = part["dense"][at], part["ids"][at], part["labels"][at]
        return self._collate(dense, ids, labels)

    def _collate(self, dense: npt.NDArray[Any], ids: npt.NDArray[Any], labels: npt.NDArray[Any]) -> Batch:
        return collate_rows(self.inputs, dense, ids, labels, keys=self._keys)

    def batches(self, size: int) -> Iterator[Batch]:
        """All rows in order, `size` at a time. For scoring."""
        for start in range(0, len(self), size):
            yield self.batch(slice(start, min(start + size, len(self))))

    def loader(self, batch_size: int, *, seed: int = 0, shuffle: bool = True, shard: tuple[int, int] = (0, 1)) -> Loader:
        """Shuffled batches for training. A last batch of one row is left out: batch normalisation cannot stand it.

        Rows on disk are read in whole blocks and mixed in memory (`BlockLoader`); rows in memory are shuffled all together.
        """
        size = min(batch_size, len(self))
        last = len(self) % size == 1 < len(self)
        if not self.on_disk:
            return Loader(len(self), self.batch, size, seed=seed, shuffle=shuffle, shard=shard, drop_last=last)
        return BlockLoader(
            len(self), self._read, lambda part: self._collate(**part), size, seed=seed, shuffle=shuffle, shard=shard, drop_last=last
        )

    def _read(self, start: int, stop: int) -> Arrays:
        """Rows start..stop, as they lie."""
        pieces: list[Arrays] = []
        for part, end in zip(self.parts, self.ends.tolist(), strict=True):
            begin = end - len(part["labels"])
            if begin < stop and start < end:
                pieces.append({name: array[max(0, start - begin) : stop - begin] for name, array in part.items()})
        return pieces[0] if len(pieces) == 1 else {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}


def _numbers(values: npt.ArrayLike, names: tuple[str, ...], where: str) -> Floats:
    """float32 [R, F]. Errors: DataError that names the first cell that is no number."""
    try:
        return np.asarray(values, dtype=np.float32)
    except (TypeError, ValueError):
        pass
    cells = np.asarray(values, dtype=object)
    for place, cell in np.ndenumerate(cells):
        try:
            float(cell)
        except (TypeError, ValueError):
            name = f", {names[place[1]]!r}" if len(place) > 1 and place[1] < len(names) else ""
            raise DataError(f"{where}, row {place[0]}{name}: {cell!r} is not a number; encode text as ids") from None
    raise DataError(f"{where}: not a table of numbers")

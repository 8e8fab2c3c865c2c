"""From encoded rows to a Batch of tensors. The one file of the room that knows TorchRec."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from palate.features.encode import Encoded
from palate.types import Batch, DataError, Floats, Inputs, Ints, Longs


def collate(
    encoded: Encoded,
    labels: Floats | None = None,
    weights: Floats | None = None,
    extra: Mapping[str, npt.NDArray[Any]] | None = None,
) -> Batch:
    """Encoded rows as tensors: dense [R, F], sparse with the keys in the order of `encoded.inputs`, labels [R, T], weights [R].

    labels: [R] or [R, T]; None gives zeros [R, 1]. weights: None gives ones. extra: arrays [R, ...]. Ids become int64, lengths int32.
    """
    rows = len(encoded)
    for name, values in {"labels": labels, "weights": weights, **(extra or {})}.items():
        if values is not None and len(values) != rows:
            raise DataError(f"collate: {name} has {len(values)} rows, the features have {rows} rows")
    keys = [sparse.name for sparse in encoded.inputs.sparse]
    # Filling one array that becomes the tensor's own saves a copy of all ids.
    ids = torch.empty(sum(len(encoded.sparse[key].values) for key in keys), dtype=torch.int64)
    lengths = torch.empty(len(keys) * rows, dtype=torch.int32)
    if keys:
        np.concatenate([encoded.sparse[key].values for key in keys], out=ids.numpy())
        np.concatenate([encoded.sparse[key].lengths for key in keys], out=lengths.numpy(), casting="same_kind")
    return Batch(
        dense=_tensor(encoded.dense, np.float32),
        sparse=KeyedJaggedTensor(keys=keys, values=ids, lengths=lengths, stride=rows),
        labels=torch.zeros(rows, 1) if labels is None else _tensor(labels, np.float32).reshape(rows, -1 if rows else 1),
        weights=torch.ones(rows) if weights is None else _tensor(weights, np.float32),
        extra={name: _tensor(values) for name, values in (extra or {}).items()},
    )


def collate_rows(
    inputs: Inputs, dense: Floats, ids: Ints | Longs, labels: npt.NDArray[Any], weights: Floats | None = None, keys: list[str] | None = None
) -> Batch:
    """Rows with one id a sparse feature as tensors. dense: [R, F]. ids: [R, S], in the order of `inputs.sparse`. labels: [R, T].

    Cost: one transposition of the ids. keys: the names of the features, if the caller has the list.
    """
    rows, features = ids.shape
    values = torch.empty(features * rows, dtype=torch.int64)
    if features:
        np.copyto(values.numpy().reshape(features, rows), ids.T)
    lengths = _one_each(features * rows)
    names = keys if keys is not None else [sparse.name for sparse in inputs.sparse]
    return Batch(
        dense=_tensor(dense, np.float32),
        sparse=KeyedJaggedTensor(keys=names, values=values, lengths=lengths, stride=rows),
        labels=_tensor(labels, np.float32),
        weights=torch.ones(rows) if weights is None else _tensor(weights, np.float32),
    )


@lru_cache(maxsize=8)
def _one_each(count: int) -> torch.Tensor:
    """Lengths of bags of one id. One tensor for all batches of a size, never written to: who has seen it once knows it again."""
    return torch.ones(count, dtype=torch.int32)


def _tensor(values: npt.NDArray[Any], dtype: npt.DTypeLike | None = None) -> torch.Tensor:
    """A tensor over the array where it can be, over a copy where it must (another type, scattered, or read-only)."""
    return torch.from_numpy(np.require(values, dtype=dtype, requirements=["C", "W"]))

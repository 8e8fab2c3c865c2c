"""From encoded rows to a Batch of tensors. The one file of the room that knows TorchRec."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from palate.features.encode import Encoded
from palate.types import Batch, Floats


def collate(
    encoded: Encoded,
    labels: Floats | None = None,
    weights: Floats | None = None,
    extra: Mapping[str, npt.NDArray[np.generic]] | None = None,
) -> Batch:
    """Encoded rows as tensors: dense [R, F], sparse with the keys in the order of `encoded.inputs`, labels [R, T], weights [R].

    labels: [R] or [R, T]; None gives zeros [R, 1]. weights: None gives ones. extra: arrays [R, ...]. Ids become int64, lengths int32.
    """
    rows = len(encoded)
    keys = [sparse.name for sparse in encoded.inputs.sparse]
    columns = [encoded.sparse[key] for key in keys]
    values = np.concatenate([column.values for column in columns]) if columns else np.zeros(0)
    lengths = np.concatenate([column.lengths for column in columns]) if columns else np.zeros(0)
    if labels is None:
        labels = np.zeros((rows, 1), dtype=np.float32)
    return Batch(
        dense=torch.from_numpy(np.ascontiguousarray(encoded.dense, dtype=np.float32)),
        sparse=KeyedJaggedTensor(
            keys=keys,
            values=torch.from_numpy(values.astype(np.int64)),
            lengths=torch.from_numpy(lengths.astype(np.int32)),
            stride=rows,
        ),
        labels=torch.from_numpy(np.array(labels, dtype=np.float32).reshape(rows, -1)),
        weights=torch.ones(rows) if weights is None else torch.from_numpy(np.array(weights, dtype=np.float32)),
        extra={name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in (extra or {}).items()},
    )

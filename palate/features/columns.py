"""One column, encoded: the step that fitting's results and raw values meet in, the same for tables in bulk and for a request's context."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from palate.features import transform
from palate.features.fit import Fitted, as_lists, numbers, squared
from palate.features.spec import Bag, Base, Counter, Numeric, Vector
from palate.features.vocab import Buckets, Vocabulary
from palate.types import DataError, Floats, Ints, Ragged, offsets_of

# One value a row (ids), several a row (ids), or dense columns.
Column = Ints | Ragged | Floats


def is_sparse(feature: Base) -> bool:
    """Whether a feature is looked up in an embedding table."""
    return not isinstance(feature, Numeric | Vector | Counter) or (isinstance(feature, Numeric) and feature.transform == "log_square")


def column(feature: Base, fitted: Fitted, values: pl.Series) -> Column:
    """One column, encoded: int32 [n], Ragged of n rows, or float32 [n, d]."""
    if isinstance(feature, Bag | Counter):
        lists = as_lists(values, feature.name).list.drop_nulls()
        lengths = lists.list.len().fill_null(0).to_numpy()
        flat = lists.filter(pl.Series(lengths > 0)).explode()
        return Ragged(offsets_of(lengths), _vocabulary(fitted).ids(flat))
    if isinstance(feature, Vector):
        return _vectors(feature, fitted.width, values)
    if isinstance(feature, Numeric):
        if feature.transform == "log_square":
            return _vocabulary(fitted).ids(squared(values, feature.name))
        return _numeric(feature, fitted, numbers(values, feature.name))
    return _vocabulary(fitted).ids(values)


def _vocabulary(fitted: Fitted) -> Vocabulary | Buckets:
    assert fitted.vocabulary is not None
    return fitted.vocabulary


def _numeric(feature: Numeric, fitted: Fitted, raw: transform.Doubles) -> Floats:
    if feature.transform == "standardise":
        assert fitted.moments is not None
        values = fitted.moments.standardise(raw)
    else:
        values = transform.signed_log(raw) if feature.transform == "log" else raw
    return np.stack([np.nan_to_num(values), ~np.isnan(raw)], axis=1).astype(np.float32)


def _vectors(feature: Vector, width: int, values: pl.Series) -> Floats:
    lists = as_lists(values, feature.name)
    known = lists.is_not_null().to_numpy()
    lengths = lists.drop_nulls().list.len().to_numpy()
    if (lengths != width).any():
        raise DataError(f"features.{feature.name}: {feature.source} needs vectors of {width} numbers, got {lengths[lengths != width][0]}")
    dense = np.zeros((len(values), width + 1), dtype=np.float32)
    dense[known, :-1] = numbers(lists.drop_nulls().explode(), feature.name).reshape(-1, width)
    dense[:, -1] = known
    return dense


def take(table: Any, rows: npt.NDArray[Any]) -> Any:
    """Rows of an encoded column; -1 is its last row."""
    return table.take(rows) if isinstance(table, Ragged) else table[rows]

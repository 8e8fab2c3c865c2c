"""The values of a column of the item table as codes: shared by the rerankers that count how many of a kind."""

from __future__ import annotations

import numpy as np
import polars as pl

from palate.config import unknown_key
from palate.types import NOTHING, ConfigError, Ints, Log


def column_of(log: Log, column: str, where: str) -> pl.Series:
    """A column of the item table. Errors: ConfigError that names `where`, a setting, and the nearest column."""
    if column not in log.items.columns:
        raise ConfigError(f"{where}: the item table has no column {column!r}: {unknown_key(column, log.items.columns)}")
    return log.items[column]


def codes_of(column: pl.Series) -> Ints:
    """The values of each item as codes: int32 [N, W] with -1 behind the last, W the most that an item has; none twice."""
    return coded(column)[0]


def coded(column: pl.Series) -> tuple[Ints, list[str]]:
    """As `codes_of`, and the values that the codes 0, 1, ... stand for, in order of the text."""
    inner = getattr(column.dtype, "inner", None)
    if inner is None:
        texts = column.cast(pl.String)
        codes = texts.rank("dense").fill_null(0).to_numpy().astype(np.int32)
        return (codes - 1)[:, None].astype(np.int32), texts.drop_nulls().unique().sort().to_list()
    lists = column.cast(pl.List(pl.String)).list.drop_nulls().list.unique(maintain_order=True)
    lengths = lists.list.len().fill_null(0).to_numpy().astype(np.int64)
    values = lists.filter(pl.Series(lengths > 0)).explode()
    padded = np.full((len(column), max(int(lengths.max(initial=0)), 1)), -1, dtype=np.int32)
    rows = np.repeat(np.arange(len(column)), lengths)
    padded[rows, np.arange(len(rows)) - np.repeat(np.cumsum(lengths) - lengths, lengths)] = (
        values.rank("dense").to_numpy().astype(np.int32) - 1
    )
    return padded, values.unique().sort().to_list()


def of(codes: Ints, items: Ints) -> Ints:
    """The codes of items [...]: int32 [..., W]; -1 of NOTHING."""
    if not len(codes):
        return np.full((*items.shape, codes.shape[1]), -1, dtype=np.int32)
    return np.where((items == NOTHING)[..., None], np.int32(-1), codes[np.maximum(items, 0)])

"""What a request brings for the rerankers alone, in its context, and how it becomes columns of the queries.

    Request(user="42", context={"palate.seed": 7, "palate.impressions": {"i3": 4, "i9": 1}})

palate.seed: a whole number of 64 bits that decides every draw of the answer, together with who asks and when: the same request with the
same seed gets the same slate again, and another seed draws anew. Without one the draw hangs on user, history and `now` alone.
palate.impressions: item id -> how often this person was shown the item without acting on it. Counts may be fractions, aged by who counts.
As columns of `Queries.context` they are `palate.seed` (Int64) and `palate.impressions` (List of item code and count); whoever makes queries
by hand may put them there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from palate.types import ConfigError, Ints, Longs, Queries, Request

SEED = "palate.seed"
IMPRESSIONS = "palate.impressions"
_PAIRS = pl.List(pl.Struct({"item": pl.Int32, "count": pl.Float64}))


def set_aside(requests: Sequence[Request]) -> list[Request]:
    """The requests without what is meant for the rerankers."""
    return [
        replace(request, context={key: value for key, value in request.context.items() if key not in (SEED, IMPRESSIONS)})
        if SEED in request.context or IMPRESSIONS in request.context
        else request
        for request in requests
    ]


def with_brought(queries: Queries, requests: Sequence[Request], item_code: Callable[[str], int]) -> Queries:
    """The queries with the columns that their requests bring; as they are where no request brings any.

    Errors: ConfigError for a seed that is no whole number or a count that is none, DataError (of `item_code`) for an unknown item.
    """
    columns = []
    if any(SEED in request.context for request in requests):
        columns.append(pl.Series(SEED, [_seed(request.context.get(SEED)) for request in requests], dtype=pl.Int64))
    if any(IMPRESSIONS in request.context for request in requests):
        pairs = [_pairs(request.context.get(IMPRESSIONS), item_code) for request in requests]
        columns.append(pl.Series(IMPRESSIONS, pairs, dtype=_PAIRS))
    if not columns:
        return queries
    context = pl.DataFrame(columns) if queries.context is None else queries.context.with_columns(columns)
    return replace(queries, context=context)


def _seed(given: Any) -> int | None:
    if given is None:
        return None
    if isinstance(given, bool) or not isinstance(given, (int, np.integer)) or not -(2**63) <= int(given) < 2**63:
        raise ConfigError(f"request.context.{SEED}: a whole number of 64 bits expected, got {given!r}")
    return int(given)


def _pairs(given: Any, item_code: Callable[[str], int]) -> list[dict[str, float]]:
    if given is None:
        return []
    if not isinstance(given, Mapping):
        raise ConfigError(f"request.context.{IMPRESSIONS}: item id -> count expected, got {given!r}")
    for item, count in given.items():
        if isinstance(count, bool) or not isinstance(count, (int, float)) or not math.isfinite(count) or count < 0:
            raise ConfigError(f"request.context.{IMPRESSIONS}.{item}: a count of 0 or more expected, got {count!r}")
    return [{"item": item_code(str(item)), "count": float(count)} for item, count in given.items()]


def seeds(queries: Queries) -> Longs:
    """The seed that each query brings, 0 where it brings none. int64 [B]."""
    if queries.context is None or SEED not in queries.context.columns:
        return np.zeros(len(queries), dtype=np.int64)
    return queries.context[SEED].fill_null(0).to_numpy().astype(np.int64)


def impressions(queries: Queries) -> tuple[Longs, Ints, npt.NDArray[np.float64]] | None:
    """Row, item code and count of each impression that the queries bring; None where the column is not there."""
    if queries.context is None or IMPRESSIONS not in queries.context.columns:
        return None
    column = queries.context[IMPRESSIONS]
    lengths = column.list.len().fill_null(0).to_numpy().astype(np.int64)
    if not lengths.any():
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int32), np.zeros(0)
    pairs = column.filter(pl.Series(lengths > 0)).explode().struct.unnest()
    rows = np.repeat(np.arange(len(lengths), dtype=np.int64), lengths)
    return rows, pairs["item"].to_numpy().astype(np.int32), pairs["count"].to_numpy().astype(np.float64)

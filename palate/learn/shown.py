"""What was shown and what came of it, as examples for the ranker: `Funnel.fit(log, run, more=Shown(slates, events, at))`.

Each slate whose outcome is known becomes a query as of its own time, with the candidates that the retrievers now bring for it, of which
those are kept that the slate tells something about (Joachims 2002: who clicks the fifth has passed over the four above):

    wanted (no `events`)     clicked 1; examined and not clicked 0; hidden 0; found by a search after the slate was given up 1
    a click with `events`    1 if such an event came of it; else, examined, 0
    a rating                 the rating given to it, or the answer of a survey, whichever kinds the task names
    watch_time               the seconds played; examined, 0

and everything else is unknown (NaN). A list that holds a click and what was passed over is a group of LambdaRank, and its rows are rows
of the cross-entropy. Slates are left out that are older than anything their person wanted in the log up to the cut: retrievers that learnt
from a click would say too much about the slate it came from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property

import numpy as np
import polars as pl

from palate.feedback.join import Joined, Settings, join
from palate.funnel import Funnel
from palate.rank.base import Labelled
from palate.rank.tasks import Task
from palate.retrieve.base import places
from palate.types import NOTHING, Bools, Candidates, Floats, Log, Longs


@dataclass(frozen=True)
class Shown:
    """What there is to learn from. slates, events: as `palate.feedback.export` makes them. at: nothing later is looked at."""

    slates: pl.DataFrame
    events: pl.DataFrame
    at: datetime
    settings: Settings

    @cached_property
    def joined(self) -> Joined:
        """Slates with what came of them."""
        return join(self.slates, self.events, self.at, self.settings)

    def __call__(self, funnel: Funnel, early: Log) -> Labelled | None:
        """At most `funnel.config.queries` slates, the newest. None where no slate tells anything. Cost: a retrieval for each slate."""
        told = self.told(funnel.tasks)
        users, items = places(told["user"], early.users["user"]), places(told["item"], early.items["item"])
        told = told.with_columns(pl.Series("user_code", users), pl.Series("item_code", items), micros=pl.col("time").dt.epoch("us"))
        wanted = early.positives()
        last = np.full(early.n_users + 1, np.iinfo(np.int64).min)
        np.maximum.at(last, wanted.user_codes, wanted.times)
        told = told.filter(pl.col("user_code") >= 0, pl.col("item_code") >= 0, pl.Series(told["micros"].to_numpy() > last[users]))
        slates = told.select("recommendation", "user_code", "micros").unique("recommendation", keep="first", maintain_order=True)
        slates = slates.sort("micros", maintain_order=True).tail(funnel.config.queries)
        if not slates.height:
            return None
        told = told.join(
            slates.with_row_index("row").select("recommendation", "row"), on="recommendation", how="inner", maintain_order="left"
        )
        queries = funnel.history.queries(slates["user_code"].to_numpy().astype(np.int32), slates["micros"].to_numpy())
        merged = funnel.candidates(queries, np.bincount(wanted.item_codes, minlength=early.n_items) == 0)[1]
        columns = told.select(task.name for task in funnel.tasks).to_numpy().astype(np.float32)
        labels = _placed(
            told["row"].to_numpy().astype(np.int64), told["item_code"].to_numpy().astype(np.int64), columns, merged, early.n_items
        )
        kept, labels = _known(merged, labels)
        rows = np.flatnonzero(kept.present.any(axis=1))
        return Labelled(queries.take(rows), kept.take(rows), labels[rows]) if len(rows) else None

    def told(self, tasks: Sequence[Task]) -> pl.DataFrame:
        """`recommendation`, `user`, `time`, `item` and a label for each task, where at least one of them is known."""
        rows = self.joined.rows.filter(pl.col("user").is_not_null())
        labels = [self._label(task, rows).alias(task.name) for task in tasks]
        said = rows.select("recommendation", "user", "time", "item", *labels)
        found = self.joined.searches.select("recommendation", "user", "time", "item").with_columns(
            pl.lit(1.0 if task.asks_whether_wanted else None, dtype=pl.Float64).alias(task.name) for task in tasks
        )
        both = pl.concat([said, found.filter(~pl.all_horizontal(pl.col(task.name).is_null() for task in tasks))])
        return both.filter(~pl.all_horizontal(pl.col(task.name).is_null() for task in tasks))

    def _label(self, task: Task, rows: pl.DataFrame) -> pl.Series:
        examined, value = pl.col("examined"), pl.lit(None, dtype=pl.Float64)
        if task.asks_whether_wanted:
            value = pl.when("hidden").then(0.0).when("clicked").then(1.0).when(examined).then(0.0)
        elif task.kind == "click":
            settings = self.settings.model_copy(update={"grades": dict.fromkeys(task.events, 1)})
            came = join(self.slates, self.events, self.at, settings).rows.select("recommendation", "item", came="clicked")
            rows = rows.join(came, on=["recommendation", "item"], how="left", maintain_order="left")
            value = pl.when("came").then(1.0).when(examined).then(0.0)
        elif task.kind == "rating":
            columns = [name for kind, name in (("rating", "rating"), ("survey", "satisfaction")) if kind in task.events]
            return rows.select(pl.coalesce(*columns, pl.lit(None, dtype=pl.Float64)).alias(task.name)).to_series()
        else:
            value = pl.when(examined & pl.lit("play" in task.events)).then("seconds")
        return rows.select(value.cast(pl.Float64).alias(task.name)).to_series()


def _placed(rows: Longs, items: Longs, columns: Floats, merged: Candidates, n_items: int) -> Floats:
    """Labels [Q, K, T] of the candidates: columns [R, T] told of the items of query `rows`; NaN where nothing is told."""
    labels = np.full((*merged.items.shape, columns.shape[1]), np.nan, dtype=np.float32)
    keys = rows * n_items + items
    order = np.argsort(keys, kind="stable")
    wanted = np.arange(len(merged), dtype=np.int64)[:, None] * n_items + merged.items
    at = order[np.minimum(np.searchsorted(keys, wanted, sorter=order), len(keys) - 1)]
    hit = (keys[at] == wanted) & merged.present
    labels[hit] = columns[at[hit]]
    return labels


def _known(merged: Candidates, labels: Floats) -> tuple[Candidates, Floats]:
    """The candidates of which a label is known, and their labels, at the beginning of shorter lists."""
    known: Bools = np.asarray(~np.isnan(labels).all(axis=2))
    order = np.argsort(~known, axis=1, kind="stable")[:, : max(1, int(known.sum(axis=1).max(initial=0)))]
    kept, there = merged.reorder(order), np.take_along_axis(known, order, 1)
    labels = np.where(there[:, :, None], np.take_along_axis(labels, order[:, :, None], 1), np.nan)
    return replace(
        kept,
        items=np.where(there, kept.items, NOTHING).astype(np.int32),
        scores=np.where(there, kept.scores, -np.inf).astype(np.float32),
        source=np.where(there, kept.source, -1).astype(np.int8),
        features={name: np.where(there, column, np.nan).astype(np.float32) for name, column in kept.features.items()},
    ), labels.astype(np.float32)

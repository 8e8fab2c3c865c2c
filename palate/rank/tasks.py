"""What a ranker predicts of a candidate, and which events of the log say what really happened.

[[rank.tasks]]
name = "watch_time"
kind = "watch_time"
events = ["play"]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, Self

import numpy as np
import numpy.typing as npt
import polars as pl
import pydantic

from palate import config
from palate.features.history import Timeline
from palate.metrics import amounts, pointwise
from palate.metrics.ranking import hits
from palate.rank.baseline import Rated
from palate.rank.blend import FUNCTIONS
from palate.types import NOTHING, Bools, ConfigError, Floats, Ints, Log, Longs, Ragged, SplitError, offsets_of

Doubles = npt.NDArray[np.float64]
Kind = Literal["click", "rating", "watch_time"]


class Task(config.Config):
    """One thing to predict. As in Zhao et al. 2019, section 4.2, whether something happens is a click, and how much is a number.

    name: an identifier, by which formulas and results call it. weight: of its loss.
    kind, and what is the label of a candidate, and what is served:
        click        1 if any of its events happened, else 0; a probability
        rating       the value of the last of its events, unknown without one; a grade in the units of the ratings
        watch_time   the values of its events added up, in seconds: 0 if none happened, unknown if one has no value; expected seconds
    events: the kinds of event that make the label. None, for a click: whatever counts as wanted in the log.
    """

    name: str
    kind: Kind = "click"
    weight: float = pydantic.Field(1.0, gt=0, allow_inf_nan=False)
    events: tuple[str, ...] = ()

    @pydantic.model_validator(mode="after")
    def _a_name_that_formulas_can_use(self) -> Self:
        if not self.name.isidentifier() or self.name in FUNCTIONS or self.name == "probability":
            raise ValueError(f"the name {self.name!r} must be letters, digits and _, and none of {', '.join(FUNCTIONS)}, probability")
        return self

    @property
    def asks_whether_wanted(self) -> bool:
        """Whether its label is what counts as wanted in the log."""
        return self.kind == "click" and not self.events

    def metrics(self, labels: Doubles, predictions: Doubles) -> dict[str, float]:
        """How good predictions are, for known labels, both [R]. calibration_ratio: predicted over observed."""
        if self.kind == "rating":
            return {"rmse": amounts.rmse(labels, predictions), "mae": amounts.mae(labels, predictions)}
        if self.kind == "watch_time":
            return {
                "mae": amounts.mae(labels, predictions),
                "log_mae": amounts.log_mae(labels, predictions),
                "calibration_ratio": amounts.amount_ratio(labels, predictions),
            }
        return {
            "auc": pointwise.auc(labels, predictions),
            "logloss": pointwise.logloss(labels, predictions),
            "calibration_ratio": pointwise.calibration_ratio(labels, predictions),
        }

    def say(self, value: float) -> str:
        """A prediction in words.

        >>> Task(name="click").say(0.031), Task(name="watch_time", kind="watch_time").say(72.4)
        ('click 3.1%', 'watch_time 72 s')
        """
        return f"{self.name} " + {"click": f"{value:.1%}", "rating": f"{value:.2f}", "watch_time": f"{value:,.0f} s"}[self.kind]


WANTED = (Task(name="label"),)


def label(tasks: Sequence[Task], log: Log, happened: Ragged, items: Ints) -> Floats:
    """What happened to candidates: float32 [Q, K, T], one column a task, NaN where it is unknown.

    happened: for each query the rows of `log.events` that tell what its user then did. items: item codes [Q, K], NOTHING where there is
    none. Errors: ConfigError for kinds of event that the log does not have. Cost: a sort of the events and a binary search a candidate,
    each task.
    """
    labels = np.empty((*items.shape, len(tasks)), dtype=np.float32)
    for place, task in enumerate(tasks):
        which = np.flatnonzero(says(task, log)[happened.values])
        queries, events = happened.rows[which], happened.values[which]
        labels[:, :, place] = _column(task, log, queries, events, items)
    return labels


def check(tasks: Sequence[Task], labels: Floats, where: str) -> None:
    """SplitError for a task of which no candidate has anything: nothing could learn it. labels: [Q, K, T]."""
    for place, task in enumerate(tasks):
        told = labels[:, :, place]
        if not (np.isfinite(told) if task.kind == "rating" else told > 0).any():
            raise SplitError(
                f"{where}: task {task.name!r}: the retrievers brought no candidate that has such an event; raise their quota, "
                "or leave the task out"
            )


def aftermath(log: Log, wanted: Longs, chosen: Longs) -> Ragged:
    """What came of some wanted events: rows of `log.events`, in log order, one list for each of them.

    Those are the event itself, all that its user did until they next wanted something, and whatever they did with the same item after
    that. So a wanted event labels its own item alone (next-item protocols), and a rating that is given a week later is not lost.
    wanted: rows of all wanted events. chosen: numbers of some of those. Cost: a counting sort of the log, and the users' later events.
    """
    line = Timeline(log.user_codes, log.n_users)
    place = np.empty(len(log), dtype=np.int64)
    place[line.order] = np.arange(len(log))
    rows = wanted[chosen]
    start, end = place[rows], line.offsets[log.user_codes[rows].astype(np.int64) + 1]
    ahead = np.append(np.sort(place[wanted]), len(log))
    until = np.minimum(ahead[np.searchsorted(ahead, start, side="right")], end)
    spread = Ragged(offsets_of(end - start), np.empty(0))
    owners = spread.rows
    at = np.arange(len(owners)) - spread.offsets[owners] + start[owners]
    found = line.order[at]
    keep = (at < until[owners]) | (log.item_codes[found] == log.item_codes[rows][owners])
    return Ragged(offsets_of(np.bincount(owners[keep], minlength=len(chosen))), found[keep])


def says(task: Task, log: Log) -> Bools:
    """Which events make the label of a task: bool [E]. Errors: ConfigError where the log has no such kind."""
    if not task.events:
        if task.kind != "click":
            raise ConfigError(f'task {task.name!r}: say which kinds of event hold its value, for example events = ["{task.kind}"]')
        numbered = replace(log, events=log.events.select("kind", "value").with_row_index("row"))
        wanted = np.zeros(len(log), dtype=np.bool_)
        wanted[numbered.positives().events["row"].to_numpy()] = True
        return wanted
    kinds = log.events["kind"].dtype
    assert isinstance(kinds, pl.Enum)  # see `Log`; it holds the kinds of the whole log, though this may be a part of it
    there = sorted(kinds.categories)
    for kind in task.events:
        if kind not in there:
            raise ConfigError(f"task {task.name!r}: the log has no event of kind {kind!r}; it has {', '.join(there)}")
    return log.events["kind"].cast(pl.String).is_in(list(task.events)).to_numpy()


def ratings(task: Task, log: Log) -> Rated:
    """All that a log has of a task that is a rating."""
    rated = log.where(says(task, log) & log.events["value"].is_not_null().to_numpy())
    return Rated(rated.user_codes, rated.item_codes, rated.events["value"].to_numpy().astype(np.float32))


def _column(task: Task, log: Log, queries: Longs, events: Ints, items: Ints) -> Floats:
    """The labels of one task, [Q, K], from the events that say them, in log order within a query."""
    acted = log.item_codes[events]
    if task.kind == "click":
        lengths = np.bincount(queries, minlength=len(items))
        return hits(items, Ragged(np.r_[0, np.cumsum(lengths)], acted)).astype(np.float32)
    values = log.events["value"].to_numpy().astype(np.float64)[events]  # null becomes NaN
    pairs, place = np.unique(queries * np.int64(log.n_items) + acted, return_inverse=True)
    if task.kind == "rating":
        told, given = np.full(len(pairs), np.nan), ~np.isnan(values)
        told[place[given]] = values[given]  # of several the last one stays: numpy assigns in order
        otherwise = np.nan
    else:
        told = np.bincount(place, values, minlength=len(pairs))
        otherwise = 0.0
    found = np.full(items.shape, otherwise)
    if len(pairs):
        wanted = np.arange(len(items), dtype=np.int64)[:, None] * log.n_items + items
        at = np.minimum(np.searchsorted(pairs, wanted), len(pairs) - 1)
        hit = (pairs[at] == wanted) & (items != NOTHING)
        found[hit] = told[at[hit]]
    return found.astype(np.float32)

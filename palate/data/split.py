"""Splits of a log into what is learnt from and what is tested on. A split that leaks the future is refused.

leave-last-out   of every user, what happens from the k-th last wanted event on is test (He et al., "Neural Collaborative Filtering", 2017,
                 section 4.1, with k = 1). The popular protocol of next-item papers; the future of other users is seen.
global-time      one moment cuts the log for everyone; the only split that leaks nothing (Ji et al., "A Critical Study on Data Leakage in
                 Recommender System Offline Evaluation", TOIS 2023).
session          the last session of every user is test.
random           events at random: it LEAKS TIME, since a model learns from events that come after those it is tested on. Only for
                 parity with published tables, and only when asked for by name.

A split is a mask over the rows: nothing is lost, the order is kept, and both parts keep the tables (codes do not change).
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Literal, get_args

import numpy as np
import polars as pl

from palate.types import Bools, Log, Longs, SplitError

How = Literal["leave-last-out", "global-time", "session", "random"]
MICROSECONDS_A_MINUTE = 60_000_000
# what belongs to which split, and its default
SETTINGS: dict[str, dict[str, Any]] = {
    "leave-last-out": {"k": 1},
    "global-time": {"fraction": 0.1, "at": None},
    "session": {"gap_minutes": 30.0, "session": None},
    "random": {"fraction": 0.1, "seed": 0},
}


def split(
    log: Log,
    how: str = "leave-last-out",
    *,
    k: int | None = None,
    fraction: float | None = None,
    at: str | datetime | int | None = None,
    gap_minutes: float | None = None,
    session: str | None = None,
    seed: int | None = None,
) -> tuple[Log, Log]:
    """(train, test), both with the tables of `log`.

    how: "leave-last-out" (k, default 1; users with no more than k wanted events keep everything in train and are not tested),
        "global-time" (fraction, the share of events at the end, default 0.1; or at, the first moment of the test: ISO text, a
        datetime or microseconds), "session" (gap_minutes, the pause that ends a session, default 30; or session, a context column;
        users with one session are not tested), "random" (fraction, default 0.1; seed).
    Events of equal time are taken in log order.

    Raises SplitError if a part would be empty, a setting does not belong to the split, or the split would leak. Cost: one sort.

    >>> import polars as pl
    >>> from palate.data.log import read
    >>> log = read(pl.DataFrame({"user": ["u", "u", "v"], "item": ["a", "b", "a"], "time": [1, 2, 3]}))
    >>> train, test = split(log, "leave-last-out")
    >>> train.events["item"].to_list(), test.events["item"].to_list()
    (['a', 'a'], ['b'])
    """
    given = {"k": k, "fraction": fraction, "at": at, "gap_minutes": gap_minutes, "session": session, "seed": seed}
    settings = _settings(how, {key: value for key, value in given.items() if value is not None})
    if not len(log):
        raise SplitError(f"{log.name}: no events to split")
    if len(log) > 1 and bool(np.any(np.diff(log.times) < 0)):
        raise SplitError(f"{log.name}: its events are not in order of time; make it with `palate.read`")
    match how:
        case "leave-last-out":
            late = _last(log, settings["k"])
            hint = f"no user has more than {settings['k']} wanted event{'s' if settings['k'] > 1 else ''}"
        case "global-time":
            cut = _moment(settings["at"]) if settings["at"] is not None else _cut(log, settings["fraction"])
            late = log.times >= cut
            hint = f"the cut at {_iso(cut)} leaves nothing after it; the log runs from {_iso(log.times[0])} to {_iso(log.times[-1])}"
        case "session":
            late = _last_session(log, settings["gap_minutes"], settings["session"])
            _refuse_interleaved(log, late)
            hint = "no user has two sessions; use global-time, or a shorter gap_minutes"
        case _:
            late = np.random.default_rng(settings["seed"]).random(len(log)) < settings["fraction"]
            hint = f"a fraction of {settings['fraction']} of {len(log)} events is none"
    if not late.any():
        raise SplitError(f"{log.name}: nothing to test on: {hint}")
    if late.all():
        raise SplitError(f"{log.name}: nothing to learn from: every event falls into the test")
    train, test = log.where(~late), log.where(late)
    _refuse_leaks(train, test, how, settings)
    return train, test


def check(train: Log, test: Log, how: str, *, gap_minutes: float | None = None, session: str | None = None) -> None:
    """Refuses two logs that leak, wherever they come from: SplitError names the first user or moment at fault.

    leave-last-out, session: no event of a user is tested that lies before one of that user's training events; no session is cut in two.
    global-time: every training event lies before every test event. All: no event stands in both logs.
    """
    given = {"gap_minutes": gap_minutes, "session": session}
    settings = _settings(how, {key: value for key, value in given.items() if value is not None})
    for part, log in (("training", train), ("test", test)):
        if not len(log):
            raise SplitError(f"the {part} log is empty")
    _refuse_leaks(train, test, how, settings)
    plain = [pl.col("user", "item", "kind").cast(pl.String), pl.exclude("user", "item", "kind")]
    columns = [column for column in train.events.columns if column in test.events.columns]
    ours, theirs = (log.events.select(columns).select(plain) for log in (train, test))
    both = theirs.join(ours.unique(), on=columns, how="semi", nulls_equal=True)
    if both.height:
        row = both.row(0, named=True)
        count = f"{both.height:,} event{'s stand' if both.height > 1 else ' stands'}"
        raise SplitError(f"leak: {count} in both logs, first user {row['user']!r}, item {row['item']!r} at {row['time']}")


def _settings(how: str, given: dict[str, Any]) -> dict[str, Any]:
    if how not in get_args(How):
        raise SplitError(f"{how!r}: no such split; there are {', '.join(get_args(How))}")
    for key in given:
        if key not in SETTINGS[how]:
            raise SplitError(f"{key} does not belong to {how}, which takes {', '.join(SETTINGS[how])}")
    if "fraction" in given and "at" in given:
        raise SplitError("global-time takes either fraction or at, not both")
    settings = SETTINGS[how] | given
    if "k" in settings and settings["k"] < 1:
        raise SplitError(f"k must be at least 1, got {settings['k']}")
    if "fraction" in settings and not 0 < settings["fraction"] < 1:
        raise SplitError(f"fraction must lie between 0 and 1, got {settings['fraction']}")
    if "gap_minutes" in settings and not settings["gap_minutes"] > 0:
        raise SplitError(f"gap_minutes must be positive, got {settings['gap_minutes']}")
    return settings


def _last(log: Log, k: int) -> Bools:
    """True from the k-th last wanted event of a user on, for users with more than k of them."""
    wanted = _wanted(log)
    codes = log.user_codes[wanted]
    counts = np.bincount(codes, minlength=log.n_users)
    # wanted events by user, in log order; the k-th last of a user stands k places before the end of that user's stretch
    order = np.flatnonzero(wanted)[np.argsort(codes, kind="stable")]
    first = np.full(log.n_users, len(log), dtype=np.int64)
    tested = counts > k
    first[tested] = order[(np.cumsum(counts) - k)[tested]]
    return np.arange(len(log)) >= first[log.user_codes]


def _wanted(log: Log) -> Bools:
    """bool [E]: which events say "wanted", as `Log.positives` has it."""
    keep = pl.col("kind").cast(pl.String).is_in(list(log.positive))
    if log.positive_value is not None:
        keep = keep & (pl.col("value") >= log.positive_value)
    return log.events.select(keep.fill_null(False)).to_series().to_numpy().astype(np.bool_)


def _cut(log: Log, fraction: float) -> int:
    """The time of the first event of the last `fraction`; events of that very moment all go into the test."""
    place = min(int(np.ceil((1 - fraction) * len(log))), len(log) - 1)
    return int(log.times[place])


def _sessions(log: Log, gap_minutes: float, column: str | None) -> Longs:
    """int64 [E]: a number for each session, different between users; within a user they rise in order of their first event."""
    if column is not None:
        if column not in log.context:
            raise SplitError(f"no context column {column!r} to tell sessions by; the log has {', '.join(log.context) or 'none'}")
        missing = log.events[column].null_count()
        if missing:
            raise SplitError(f"{missing:,} events have no {column!r}, so their session is unknown")
        keys = log.events.select(pl.struct(pl.col("user").to_physical(), column).rank("dense")).to_series()
        return keys.to_numpy().astype(np.int64)
    order = np.argsort(log.user_codes, kind="stable")
    users, times = log.user_codes[order], log.times[order]
    starts = np.ones(len(order), dtype=np.bool_)
    starts[1:] = (users[1:] != users[:-1]) | (times[1:] - times[:-1] > gap_minutes * MICROSECONDS_A_MINUTE)
    sessions = np.empty(len(order), dtype=np.int64)
    sessions[order] = np.cumsum(starts)
    return sessions


def _last_session(log: Log, gap_minutes: float, column: str | None) -> Bools:
    """True for the session that holds a user's last event, for users with at least two sessions."""
    sessions = _sessions(log, gap_minutes, column)
    codes = log.user_codes
    last = np.zeros(log.n_users, dtype=np.int64)
    last[codes] = sessions  # the later assignment stays
    late: Bools = sessions == last[codes]
    has_more = np.zeros(log.n_users, dtype=np.bool_)
    has_more[codes[~late]] = True
    return late & has_more[codes]


def _refuse_interleaved(log: Log, late: Bools) -> None:
    """Sessions told by a column may run beside each other: a user's last one must start after all others have ended, in log order."""
    places = np.arange(len(log))
    ends = np.full(log.n_users, -1, dtype=np.int64)
    np.maximum.at(ends, log.user_codes[~late], places[~late])
    wrong = np.flatnonzero(late & (places < ends[log.user_codes]))
    if len(wrong):
        user = log.users["user"][int(log.user_codes[wrong[0]])]
        raise SplitError(f"leak: the last session of user {user!r} starts at {_iso(log.times[wrong[0]])}, before another one has ended")


def _refuse_leaks(train: Log, test: Log, how: str, settings: dict[str, Any]) -> None:
    if how == "global-time":
        end, start = int(train.times.max()), int(test.times.min())
        if end >= start:
            raise SplitError(f"leak: training runs to {_iso(end)}, but the test starts at {_iso(start)}")
    elif how in ("leave-last-out", "session"):
        latest = _by_user(train, pl.col("time").max().alias("latest"))
        earliest = _by_user(test, pl.col("time").min().alias("earliest"))
        wrong = earliest.join(latest, on="user", maintain_order="left").filter(pl.col("latest") > pl.col("earliest"))
        if wrong.height:
            user, start_, end_ = wrong.row(0)
            more = f" (and {wrong.height - 1:,} more users)" if wrong.height > 1 else ""
            raise SplitError(f"leak: user {user!r} is tested at {start_} but still learnt from at {end_}{more}")
        if how == "session":
            _refuse_cut_sessions(train, test, settings)


def _refuse_cut_sessions(train: Log, test: Log, settings: dict[str, Any]) -> None:
    """A session in both parts: by its column, or because less than the gap lies between the parts of a user."""
    column = settings["session"]
    if column is not None:
        keys = [_by_user(log, pl.col(column).unique()).explode(column) for log in (train, test)]
        cut = keys[1].join(keys[0], on=["user", column], maintain_order="left", how="semi")
    else:
        ends = _by_user(train, pl.col("time").max().alias("end"))
        starts = _by_user(test, pl.col("time").min().alias("start"))
        near = (pl.col("start") - pl.col("end")).dt.total_microseconds() <= settings["gap_minutes"] * MICROSECONDS_A_MINUTE
        cut = starts.join(ends, on="user", maintain_order="left").filter(near)
    if cut.height:
        raise SplitError(f"leak: a session of user {cut['user'][0]!r} is cut in two (of {cut.height:,} in all)")


def _by_user(log: Log, what: pl.Expr) -> pl.DataFrame:
    return log.events.group_by(pl.col("user").cast(pl.String), maintain_order=True).agg(what)


def _moment(at: str | datetime | int) -> int:
    """Microseconds of ISO text, a datetime (UTC where it names no zone), or microseconds."""
    if isinstance(at, str):
        try:
            at = datetime.fromisoformat(at)
        except ValueError:
            raise SplitError(f"at: {at!r} is not a time; ISO 8601 is, such as 2024-05-01 or 2024-05-01T12:30:00") from None
    if isinstance(at, datetime):
        aware = at if at.tzinfo else at.replace(tzinfo=UTC)
        delta = aware - datetime(1970, 1, 1, tzinfo=UTC)
        return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds
    return int(at)


def _iso(micros: Any) -> str:
    return str(np.datetime64(int(micros), "us").astype("datetime64[s]"))

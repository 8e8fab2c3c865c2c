"""What the store tells of the service, as plain values for the page: `GET /v1/dashboard`.

    dashboard(store, version="3a49bdb30243", catalogue=9066, days=28, now=datetime.now(UTC))

Traffic and events by kind are counts of everything in the period. Whatever needs the slates themselves is told from the newest `most` of
them, and `looked_at` says from how many of how many. Two ways of counting clicks, each where it fits:

    so far     clicks by place, calibration, versions: every slate up to now, also those that may yet be clicked (`open` says how many)
    settled    A/B and off-policy: only slates whose window for clicks is over, as in `palate.feedback.join`

Intervals of shares are Wilson's (1927) at 95 %, for as many views as would be worth the same were they independent: views of one person
are not, and n is divided by the design effect (Kish 1965), the variance over users by that of independent views.

An experiment counts each user over the first day after they were first in it, and only when that day and its last window are over: the
interval that holds at all looks supposes that what was counted of a user does not change (`palate.feedback.ab`).

The off-policy question asked here is what exploring costs: had each place shown what the policy most often shows there, how many clicks
would slates have got? What has a propensity above 1/2 is surely that item; of the rest nothing tells, so the estimate goes down the slate
only as far as the weights say that the log holds that item often enough, and is refused, in words, where it holds too little.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from palate.errors import DataError
from palate.features.spec import DAY
from palate.feedback import ab, join, off_policy
from palate.feedback.events import micros, moment
from palate.feedback.export import frame
from palate.feedback.off_policy import SupportError
from palate.feedback.slates import Slates, iips
from palate.feedback.store import EventStore

Doubles = npt.NDArray[np.float64]
MOST = 5000
"""Slates that are looked at, if there are more."""
EVENTS_A_SLATE = 20
"""So many times as many events are looked at: ten impressions, and what follows."""
PREDICTED = "predicted: "
_SHOWN: Mapping[str, pl.DataType] = {
    "recommendation": pl.String(),
    "user": pl.String(),
    "time": pl.Datetime("us", "UTC"),
    "version": pl.String(),
    "experiment": pl.String(),
    "arm": pl.String(),
    "position": pl.Int64(),
    "item": pl.String(),
    "propensity": pl.Float64(),
}
EACH_USER = timedelta(days=1)
LEVEL = 0.95
_Z = NormalDist().inv_cdf((1 + LEVEL) / 2)
_HOUR = 3_600_000_000


def dashboard(
    store: EventStore,
    *,
    version: str,
    catalogue: int,
    now: datetime,
    days: int = 28,
    layers: Sequence[ab.Layer] = (),
    window: timedelta = timedelta(hours=24),
    most: int = MOST,
) -> dict[str, Any]:
    """Everything the page shows of the last `days`, ready for JSON.

    version: of the bundle in service. catalogue: how many items it knows. now: aware of its time zone. layers: the experiments that run,
    for the shares they were set to. window: how long after a slate a click still counts. Raises StoreError if the store cannot be read.
    Cost: about a second for the newest 5,000 slates and their events; counts by hour cost next to nothing.
    """
    now = now.astimezone(UTC)
    since = now - timedelta(days=days)
    traffic, counts = store.traffic(micros(since)), store.counts(micros(since))
    shown = _newest_slates(store, most).filter(pl.col("time") <= now)
    happened = _newest_events(store, most * EVENTS_A_SLATE)
    if len(happened) >= most * EVENTS_A_SLATE:  # of older slates the clicks were not read
        named = happened.filter(pl.col("recommendation").is_not_null())
        shown = shown.filter(pl.col("time") >= (named["time"][0] if named.height else now))
    settings = join.Settings(window=window)
    recent = shown.filter(pl.col("time") >= since)
    so_far = join.join(recent, happened, now + window, settings).rows.with_columns(_unit())
    over = join.join(shown, happened, now, settings).rows.with_columns(_unit())
    settled = over.filter(pl.col("time") >= since)
    slates = sum(row[-1] for row in traffic)
    looked_at = recent["recommendation"].n_unique()
    open_slates = looked_at - settled["recommendation"].n_unique()
    return {
        "version": version,
        "now": _iso(now),
        "since": _iso(since),
        "days": days,
        "window_hours": window / timedelta(hours=1),
        "looked_at": {"slates": looked_at, "of": slates, "open": open_slates, "since": _iso(recent["time"].min())},
        "totals": {
            "slates": slates,
            "events": sum(count.events for count in counts),
            "people": recent["user"].drop_nulls().n_unique(),
            "item_ctr": _rate(so_far),
            "page_ctr": _rate(_pages(so_far)),
        },
        "traffic": _traffic(traffic, counts, _HOUR if days <= 3 else DAY),
        "kinds": _kinds(counts),
        "ctr": [{"position": position, **_rate(rows)} for position, rows in _groups(so_far, "position")],
        "coverage": _coverage(recent, catalogue),
        "calibration": _calibration(so_far),
        "versions": _versions(traffic, so_far, version),
        "decisions": [{**decision._asdict(), "time": _iso(decision.time)} for decision in store.decisions(50)],
        "experiments": _experiments(shown, over, layers, window, now),
        "off_policy": _off_policy(settled, version, window),
        "returns": [_returned(shown, length, now) for length in (7, 28)],
    }


# -- reading a bounded part of the store --------------------------------------------------------------------------------------------


def _newest_slates(store: EventStore, most: int) -> pl.DataFrame:
    """The newest slates, a row an item, with a column for what was predicted of each task (PREDICTED and its name).

    The last cursor is found by doubling and halving: some forty questions of one row.
    """
    low, high = 0, 1
    while store.slates(high, 1)[0]:
        low, high = high, 2 * high
    while high - low > 1:  # there is something behind `low` (or it is 0), nothing behind `high`
        middle = (low + high) // 2
        low, high = (middle, high) if store.slates(middle, 1)[0] else (low, middle)
    rows: list[tuple[Any, ...]] = []
    predicted: dict[str, list[float | None]] = defaultdict(list)
    after = max(0, high - most)
    while True:
        slates, after = store.slates(after)
        if not slates:
            break
        for slate in slates:
            head = (slate.recommendation, slate.user, slate.time, slate.version, slate.experiment, slate.arm)
            for one in slate.items:
                for task, value in one.probabilities.items():
                    told = predicted[task]
                    told.extend([None] * (len(rows) - len(told)))
                    told.append(value)
                rows.append((*head, one.position, one.item, one.propensity))
    columns = [
        pl.Series(PREDICTED + task, told + [None] * (len(rows) - len(told)), dtype=pl.Float64) for task, told in sorted(predicted.items())
    ]
    return pl.DataFrame(rows, schema=dict(_SHOWN), orient="row").with_columns(columns)


def _newest_events(store: EventStore, most: int) -> pl.DataFrame:
    return frame(store, max(0, store.cursor() - most))


def _unit() -> pl.Expr:
    """Whose views belong together: a person's, or one slate's if nobody was named."""
    return pl.coalesce(pl.concat_str(pl.lit("u "), "user"), pl.concat_str(pl.lit("s "), "recommendation")).alias("unit")


def _groups(rows: pl.DataFrame, column: str) -> list[tuple[Any, pl.DataFrame]]:
    return [(key[0], group) for key, group in rows.sort(column, maintain_order=True).group_by(column, maintain_order=True)]


# -- counts and shares --------------------------------------------------------------------------------------------------------------


def _traffic(traffic: Sequence[tuple[int, str, str | None, str | None, int]], counts: Sequence[Any], step: int) -> dict[str, Any]:
    slates: dict[tuple[int, str], int] = defaultdict(int)
    events: dict[int, int] = defaultdict(int)
    for hour, version, _, _, number in traffic:
        slates[hour - hour % step, version] += number
    for count in counts:
        events[count.hour - count.hour % step] += count.events
    return {
        "unit": "hour" if step == _HOUR else "day",
        "slates": [{"time": _iso(moment(at)), "version": version, "slates": number} for (at, version), number in sorted(slates.items())],
        "events": [{"time": _iso(moment(at)), "events": number} for at, number in sorted(events.items())],
    }


def _kinds(counts: Sequence[Any]) -> list[dict[str, Any]]:
    kinds: dict[str, int] = defaultdict(int)
    for count in counts:
        kinds[count.kind] += count.events
    return [{"kind": kind, "events": number} for kind, number in sorted(kinds.items(), key=lambda one: (-one[1], one[0]))]


def _pages(rows: pl.DataFrame) -> pl.DataFrame:
    """A row a slate: whether anything of it was clicked."""
    return rows.group_by("recommendation", "unit", maintain_order=True).agg(pl.col("clicked").any())


def _rate(rows: pl.DataFrame) -> dict[str, Any]:
    """The share of rows that were clicked, with its interval. rows: `clicked` and `unit`."""
    if not rows.height:
        return {"value": None, "low": None, "high": None, "clicks": 0, "views": 0}
    units = rows.group_by("unit").agg(clicks=pl.col("clicked").cast(pl.Int64).sum(), views=pl.len())
    clicks, views = int(units["clicks"].sum()), rows.height
    share, worth = clicks / views, float(views)
    if units.height > 1 and 0 < share < 1:
        error = ab.rate(units["clicks"].to_numpy(), units["views"].to_numpy()).error
        if error > 0:
            worth = min(worth, share * (1 - share) / error**2)
    low, high = _wilson(share, worth)
    return {"value": share, "low": low, "high": high, "clicks": clicks, "views": views}


def _wilson(share: float, views: float) -> tuple[float, float]:
    """Wilson's interval of a share.

    >>> tuple(round(end, 4) for end in _wilson(0.5, 10))
    (0.2366, 0.7634)
    """
    middle = (share + _Z**2 / (2 * views)) / (1 + _Z**2 / views)
    reach = _Z / (1 + _Z**2 / views) * (share * (1 - share) / views + _Z**2 / (4 * views**2)) ** 0.5
    return max(0.0, middle - reach), min(1.0, middle + reach)


def _coverage(shown: pl.DataFrame, catalogue: int) -> dict[str, Any]:
    """How much of the catalogue was shown. half: so few items fill half of all places."""
    places = shown["item"].value_counts(sort=True)["count"].cum_sum()
    half = int((places < places[-1] / 2).sum()) + 1 if len(places) else 0
    return {"items": len(places), "catalogue": catalogue, "share": len(places) / catalogue if catalogue else None, "half": half}


def _calibration(rows: pl.DataFrame, bins: int = 10) -> list[dict[str, Any]]:
    """For each task that says probabilities: bins of equal size, with what was predicted and what was clicked."""
    if not rows.height:
        return []
    found = []
    for column in (name for name in rows.columns if name.startswith(PREDICTED)):
        task = column.removeprefix(PREDICTED)
        told = rows.select("clicked", "unit", predicted=column).drop_nulls("predicted")
        if not told.height:
            continue
        if not told["predicted"].is_between(0, 1).all():
            continue  # a rating or seconds
        order = told.sort("predicted", maintain_order=True).with_row_index("place")
        parts = order.with_columns(bin=pl.col("place") * min(bins, order.height) // order.height)
        groups = [{"predicted": float(np.mean(group["predicted"].to_numpy())), **_rate(group)} for _, group in _groups(parts, "bin")]
        found.append({"task": task, "predicted": float(np.mean(told["predicted"].to_numpy())), **_rate(told), "bins": groups})
    return found


def _versions(traffic: Sequence[tuple[Any, ...]], rows: pl.DataFrame, current: str) -> list[dict[str, Any]]:
    """Each version that served: when, how much, and how it was clicked. Newest first."""
    slates: dict[str, int] = defaultdict(int)
    last: dict[str, int] = {}
    for hour, version, _, _, number in traffic:
        slates[version] += number
        last[version] = hour
    parts: Mapping[str, pl.DataFrame] = dict(_groups(rows, "version"))
    none = rows.clear()
    return [
        {
            "version": version,
            "current": version == current,
            "slates": number,
            "last": _iso(moment(last[version])),
            "items": parts.get(version, none)["item"].n_unique(),
            "item_ctr": _rate(parts.get(version, none)),
            "page_ctr": _rate(_pages(parts.get(version, none))),
        }
        for version, number in sorted(slates.items(), key=lambda one: (-last[one[0]], one[0]))
    ]


# -- experiments and return visits --------------------------------------------------------------------------------------------------


def _experiments(
    shown: pl.DataFrame, settled: pl.DataFrame, layers: Sequence[ab.Layer], window: timedelta, now: datetime
) -> list[dict[str, Any]]:
    shares = {experiment.name: experiment.shares for layer in layers for experiment in layer.experiments}
    theirs = shown.filter(pl.col("experiment").is_not_null() & pl.col("user").is_not_null())
    return [_experiment(name, rows, settled, shares.get(name), window, now) for name, rows in _groups(theirs, "experiment")]


def _experiment(
    name: str, shown: pl.DataFrame, settled: pl.DataFrame, shares: Mapping[str, float] | None, window: timedelta, now: datetime
) -> dict[str, Any]:
    """One experiment: each arm, its difference from the first, and whether the arms got the users they should."""
    starts = shown.group_by("user", maintain_order=True).agg(start=pl.col("time").min(), arm=pl.col("arm").first())
    over = starts.filter(pl.col("start") + EACH_USER + window <= now)
    counted = settled.filter(experiment=name).join(over.select("user", "start"), on="user", how="inner", maintain_order="left")
    counted = counted.filter(pl.col("time") < pl.col("start") + EACH_USER)
    counts = dict(starts["arm"].value_counts().iter_rows())
    arms = sorted(set(counts) | set(shares or {}))
    base = next((arm for arm in ("control", "base", "off") if arm in arms), arms[0])
    result: dict[str, Any] = {
        "experiment": name,
        "base": base,
        "users": {arm: counts.get(arm, 0) for arm in arms},
        "waiting": starts.height - over.height,
        "arms": [],
        "differences": [],
        "said": [],
        "sample_ratio": None,
    }
    if len(arms) > 1:
        given = dict(shares) if shares and set(shares) == set(arms) else dict.fromkeys(arms, 1.0)
        once, always = ab.sample_ratio({arm: counts.get(arm, 0) for arm in arms}, given)
        whole = sum(given.values())
        result["sample_ratio"] = {
            "shares": {arm: share / whole for arm, share in given.items()},
            "set": bool(shares),
            "p": once,
            "p_always": always,
        }
    try:
        users = ab.by_user(counted)
    except DataError as error:
        result["said"].append(_words(error))
        return result
    metrics: list[tuple[str, pl.DataFrame]] = [(metric, users) for metric in ab.METRICS]
    visits = shown.select("user", "time")
    metrics += [(f"L{length}", ab.return_days(visits, starts, length, now=now)) for length in (7, 28)]
    for metric, frame_ in metrics:
        for arm in arms:
            result["arms"].append({"arm": arm, "metric": metric, **_mean(frame_.filter(pl.col("arm") == arm), metric)})
        for arm in arms:
            if arm == base:
                continue
            try:
                found = ab.compare(frame_, metric, arm=arm, base=base)
            except DataError as error:
                if metric in ab.METRICS and _words(error) not in result["said"]:
                    result["said"].append(_words(error))
                continue
            difference = {**asdict(found), "decided": found.decided}
            result["differences"].append({"metric": metric, **difference, "arm": arm, "base": base})
    return result


def _mean(users: pl.DataFrame, metric: str) -> dict[str, Any]:
    """A metric of some users, with the interval of one look; no value for fewer than two."""
    top, bottom = ab.METRICS.get(metric, (metric, ""))
    below = users[bottom].to_numpy() if bottom else np.ones(users.height)
    if users.height < 2 or below.sum() <= 0:
        return {"value": None, "low": None, "high": None, "users": users.height}
    rate = ab.rate(users[top].to_numpy(), below)
    return {"value": rate.value, "low": rate.value - _Z * rate.error, "high": rate.value + _Z * rate.error, "users": rate.users}


def _returned(shown: pl.DataFrame, days: int, now: datetime) -> dict[str, Any]:
    """On how many of the `days` days after the first one people came back. days_back: how many people, by number of days."""
    visits = shown.filter(pl.col("user").is_not_null()).select("user", "time").unique(maintain_order=True)
    starts = visits.group_by("user", maintain_order=True).agg(start=pl.col("time").min())
    back = ab.return_days(visits, starts, days, now=now)
    column = back[f"L{days}"]
    spread = np.bincount(column.to_numpy(), minlength=days + 1) if back.height else np.zeros(0, dtype=np.int64)
    return {
        "days": days,
        **_mean(back, f"L{days}"),
        "came_back": float((column > 0).sum() / back.height) if back.height else None,
        "waiting": starts.height - back.height,
        "days_back": [int(number) for number in spread],
    }


# -- off-policy -----------------------------------------------------------------------------------------------------------------------


def _off_policy(settled: pl.DataFrame, current: str, window: timedelta) -> list[dict[str, Any]]:
    """The version in service, and the two others that served last."""
    parts = dict(_groups(settled.sort("time", maintain_order=True), "version"))
    by_last = sorted(parts, key=lambda version: parts[version]["time"][-1], reverse=True)
    versions = [current, *(version for version in by_last if version != current)][:3]
    return [_without_exploring(version, parts.get(version, settled.clear()), window) for version in versions]


def _without_exploring(version: str, rows: pl.DataFrame, window: timedelta) -> dict[str, Any]:
    """What the slates of a version would have earned, had each place shown what is most often there."""
    drawn = rows.filter(pl.col("propensity") < 1)
    result: dict[str, Any] = {
        "version": version,
        "slates": rows["recommendation"].n_unique(),
        "explored": drawn.height / rows.height if rows.height else None,
        "places": 0,
        "served": None,
        "estimates": [],
        "gain": None,
        "refused": None,
    }
    if not rows.height:
        hours = window / timedelta(hours=1)
        result["refused"] = f"no slate of this version is older than {hours:g} hours, so its clicks are not all in; wait"
        return result
    if not drawn.height:
        result["refused"] = (
            f"every one of the {rows.height:,} places was shown with probability 1, so the log holds nothing that tells what another order "
            "would have earned; add a reranker that explores, such as epsilon_greedy"
        )
        return result
    sure = rows.select(
        "position",
        slate="recommendation",
        user="unit",
        propensity="propensity",
        reward=pl.col("clicked").cast(pl.Float64),
        target=(pl.col("propensity") > 0.5).cast(pl.Float64),
    )
    try:
        places = _supported(sure)
        leading = sure.filter(pl.col("position") < places)
        slates = Slates.of(leading)
        plain, gain = off_policy.Settings(), off_policy.Settings(gain=True)
        result["served"] = float(slates.rewards.sum(axis=1).mean())
        result["estimates"] = [_estimate(iips(slates, plain), "IPS"), _estimate(_snips(slates, plain), "SNIPS")]
        result["gain"] = _estimate(_snips(slates, gain), "SNIPS")
        result["places"] = places
    except DataError as error:
        result["refused"] = _words(error)
    return result


def _supported(rows: pl.DataFrame) -> int:
    """How many places from the top the log supports; SupportError if not even the first."""
    for position, group in _groups(rows, "position"):
        try:
            off_policy.check_weights(
                (group["target"] / group["propensity"]).to_numpy(), group["user"].to_numpy(), f" of place {position + 1}"
            )
        except SupportError:
            if position == 0:
                raise
            return int(position)
    return int(rows["position"].to_numpy().max()) + 1


def _snips(slates: Slates, settings: off_policy.Settings) -> off_policy.Estimate:
    """Each place on its own, its weights made to average 1."""
    weights = slates.weights
    terms = [(weights[:, place] * slates.rewards[:, place], weights[:, place]) for place in range(weights.shape[1])]
    return off_policy.estimate("snips", terms, slates, weights, settings)


def _estimate(found: off_policy.Estimate, name: str) -> dict[str, Any]:
    return {**asdict(found), "method": name}


def _words(error: Exception) -> str:
    """The sentence without the name of its module."""
    return str(error).removeprefix("off-policy: ").removeprefix("ab: ")


def _iso(time: Any) -> str | None:
    return None if time is None else time.astimezone(UTC).isoformat().replace("+00:00", "Z")

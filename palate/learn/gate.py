"""Whether a candidate may replace the bundle in service: both are asked for the same people, and judged by what those then wanted.

What is judged by is behind the cut, and neither bundle has learnt from it. Each is asked as it would be in service at the cut: with its own
history of the person and what the store knew by then behind its own cursor (`palate.serve.person`). For a person u who then wanted the
items W, less what they had before, and a list of k items in which item i has place r_i (from 0):

    hit_rate    1 if any of W is in the list
    ndcg        sum_{i in W} 1 / log2(r_i + 2), over the best such sum there could be
    pages       of the pages that were clicked, the share of which an item that was clicked is in the list; each counts w = 1 / (the odds
                with which that item was shown), at most `clip`, for what the serving bundle shows is clicked because it was shown
                (Horvitz and Thompson 1952, "A Generalization of Sampling Without Replacement From a Finite Universe")

Differences are paired by person, with a percentile bootstrap over people. The candidate passes if the interval of the difference lies above
the loss that is put up with. That must be more than nothing: what was clicked is what the bundle in service showed, and only exploration
tells of the rest, so all three favour it, `pages` the least.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl
import pydantic

from palate import config
from palate.feedback.events import WANTED
from palate.feedback.store import Action
from palate.funnel import Funnel
from palate.metrics import ranking
from palate.metrics.bootstrap import paired_bootstrap
from palate.serve.person import Rule, clock, known, request
from palate.serve.settings import Settings as Serving
from palate.types import Bools, Request

Doubles = npt.NDArray[np.float64]
Metric = Literal["ndcg", "hit_rate", "pages"]
METRICS: tuple[Metric, ...] = ("ndcg", "hit_rate", "pages")
BATCH = 512


class Settings(config.Config):
    """metric: what decides; the others are measured too. k: places of a list. margin: the share of the serving bundle's value that the
    candidate may be worse by, at the lower end of the interval. people: so many must be there to judge by; most: no more are asked (drawn
    by the seed). level, resamples: of the interval. clip: the most that a page counts; 1: all pages count the same.
    """

    metric: Metric = "pages"
    k: int = pydantic.Field(10, ge=1)
    margin: float = pydantic.Field(0.2, ge=0, allow_inf_nan=False)
    people: int = pydantic.Field(50, ge=1)
    most: int = pydantic.Field(5000, ge=1)
    level: float = pydantic.Field(0.95, gt=0, lt=1)
    resamples: int = pydantic.Field(1000, ge=100)
    clip: float = pydantic.Field(10.0, ge=1, allow_inf_nan=False)


@dataclass(frozen=True)
class Bundle:
    """One of the two. cursor: of the store; what it keeps up to there, the funnel has learnt from. rule: what counts as wanted."""

    funnel: Funnel
    cursor: int
    rule: Rule


@dataclass(frozen=True)
class Verdict:
    """passed, and why or why not in words. measures: `<metric>`, `<metric>.serving`, `<metric>.difference`, `.low`, `.high`, `people`."""

    passed: bool
    reason: str
    measures: Mapping[str, float]


@dataclass(frozen=True)
class Person:
    """What somebody wanted behind the cut. pages: the items wanted on each page (a recommendation), and how much each page counts."""

    user: str
    wanted: frozenset[str]
    pages: tuple[tuple[frozenset[str], float], ...]


def held_out(events: pl.DataFrame, slates: pl.DataFrame, rule: Rule, settings: Settings, seed: int) -> list[Person]:
    """The people of the events behind the cut. events, slates: as `palate.feedback.export` makes them."""
    rated = pl.col("kind") == "rating"
    enough = pl.lit(value=True) if rule.least is None else (~rated | (pl.col("value") >= rule.least).fill_null(value=False))
    wanted = events.filter(pl.col("kind").is_in(list(WANTED)) & enough & pl.col("item").is_not_null())
    users = wanted["user"].unique(maintain_order=True)
    if len(users) > settings.most:
        chosen = np.random.default_rng(seed).choice(len(users), settings.most, replace=False)
        wanted = wanted.filter(pl.col("user").is_in(users.gather(np.sort(chosen)).implode()))
    odds = slates.select("recommendation", "item", "propensity")
    shown = wanted.join(odds, on=["recommendation", "item"], how="left", maintain_order="left")
    # An event that answers no page is a page of its own, by its item: the person found it without being shown it.
    page = pl.coalesce("recommendation", pl.format("item {}", "item"))
    weight = (1 / pl.col("propensity").fill_null(1.0)).clip(upper_bound=settings.clip)
    pages = shown.group_by("user", page.alias("page"), maintain_order=True).agg(
        items=pl.col("item").unique(maintain_order=True), weight=weight.max()
    )
    people = pages.group_by("user", maintain_order=True).agg("items", "weight")
    found = []
    for user, items, weights in people.iter_rows():
        each = tuple((frozenset(own), float(counts)) for own, counts in zip(items, weights, strict=True))
        found.append(Person(user, frozenset().union(*(own for own, _ in each)), each))
    return found


def judge(
    candidate: Bundle,
    serving: Bundle,
    people: Sequence[Person],
    before: pl.DataFrame,
    at: datetime,
    settings: Settings = Settings(),
    seed: int = 0,
) -> Verdict:
    """The candidate against the bundle in service.

    before: the events of the store up to the cut (columns of `palate.feedback.export`). at: the moment of the cut. Cost: two requests for
    each person.
    """
    actions = _actions(before, [person.user for person in people])
    left = [one for person in people if (one := _unseen(person, actions.get(person.user, []), (candidate, serving)))]
    if len(left) < settings.people:
        return Verdict(
            False,
            f"only {len(left)} people wanted something new to them behind the cut, and {settings.people} are needed to judge by",
            {"people": len(left)},
        )
    values = [_values(bundle, left, actions, at, settings) for bundle in (candidate, serving)]
    counts = np.array([sum(weight for _, weight in person.pages) for person in left])
    scale = {"ndcg": 1.0, "hit_rate": 1.0, "pages": float(counts.mean())}
    differences = np.stack([(values[0][metric] - values[1][metric]) / scale[metric] for metric in METRICS])
    low, high = paired_bootstrap(differences, resamples=settings.resamples, seed=seed, level=settings.level)
    measures: dict[str, float] = {"people": len(left)}
    for place, metric in enumerate(METRICS):
        mine, theirs = (float(value[metric].mean()) / scale[metric] for value in values)
        measures |= {metric: mine, f"{metric}.serving": theirs, f"{metric}.difference": mine - theirs}
        measures |= {f"{metric}.low": float(low[place]), f"{metric}.high": float(high[place])}
    return _verdict(measures, settings)


def _verdict(measures: Mapping[str, float], settings: Settings) -> Verdict:
    name, value = settings.metric, measures
    allowed = settings.margin * value[f"{name}.serving"]
    low, high = value[f"{name}.low"], value[f"{name}.high"]
    what = (
        f"{name} {value[name]:.4f} against {value[f'{name}.serving']:.4f} for {value['people']:.0f} people "
        f"({settings.level:.0%} interval of the difference {low:+.4f} to {high:+.4f})"
    )
    if low >= -allowed:
        better = "better than the bundle in service" if low > 0 else f"not worse by more than {allowed:.4f}"
        return Verdict(True, f"{better}: {what}", measures)
    if high < 0:
        return Verdict(False, f"worse than the bundle in service: {what}", measures)
    return Verdict(False, f"may be worse by more than {allowed:.4f}: {what}", measures)


def _actions(before: pl.DataFrame, users: Sequence[str]) -> dict[str, list[Action]]:
    """What each of the users did before the cut, by time, as the store would tell it."""
    some = before.filter(pl.col("user").is_in(list(users)) & ~pl.col("kind").is_in(["impression", "search"]))
    times = some["time"].dt.epoch("us")
    found: dict[str, list[Action]] = {}
    columns = (some["user"], some["item"], some["kind"], some["value"], times, some["seq"])
    for user, item, kind, value, time, seq in zip(*(column.to_list() for column in columns), strict=True):
        found.setdefault(user, []).append(Action(item, kind, value, time, seq))
    for own in found.values():
        own.sort(key=lambda action: (action.time, action.seq))
    return found


def _unseen(person: Person, actions: Sequence[Action], bundles: Sequence[Bundle]) -> Person | None:
    """The person without what they had or hid before the cut, which no list may hold, and what neither bundle knows; None if nothing is
    left."""
    had = {action.item for action in actions if action.kind in (*WANTED, "hide")}
    for bundle in bundles:
        history = bundle.funnel.history
        codes = history.queries(np.array([history.user_code(person.user)], dtype=np.int32)).blocked[0]
        had |= {bundle.funnel.item_ids[int(code)] for code in codes}
    wanted = frozenset(item for item in person.wanted - had if any(bundle.funnel.history.has_item(item) for bundle in bundles))
    if not wanted:
        return None
    pages = tuple((items & wanted, weight) for items, weight in person.pages if items & wanted)
    return Person(person.user, wanted, pages)


def _values(
    bundle: Bundle, people: Sequence[Person], actions: Mapping[str, list[Action]], at: datetime, settings: Settings
) -> dict[Metric, Doubles]:
    """Each metric for each person; `pages` as the sum of what the pages that were found count."""
    serving = Serving()
    now = clock(serving.clock, bundle.funnel.history.end, serving.stale_days)(at)
    lists: list[tuple[str, ...]] = []
    for start in range(0, len(people), BATCH):
        asked = [_request(bundle, person, actions.get(person.user, []), now, settings.k) for person in people[start : start + BATCH]]
        lists += [slate.items for slate in bundle.funnel.recommend(asked)]
    hits: Bools = np.zeros((len(people), settings.k), dtype=np.bool_)
    for row, (person, items) in enumerate(zip(people, lists, strict=True)):
        hits[row, : len(items)] = [item in person.wanted for item in items]
    relevant = np.array([len(person.wanted) for person in people], dtype=np.int64)
    pages = [sum(weight for own, weight in person.pages if own & set(items)) for person, items in zip(people, lists, strict=True)]
    return {
        "ndcg": ranking.ndcg(hits, relevant, settings.k),
        "hit_rate": ranking.hit_rate(hits, relevant, settings.k),
        "pages": np.array(pages, dtype=np.float64),
    }


def _request(bundle: Bundle, person: Person, actions: Sequence[Action], now: int | None, k: int) -> Request:
    behind = [action for action in actions if action.seq > bundle.cursor]
    more: dict[str, Any] = {"k": k, "now": now, "seed": 0}
    return request(person.user, known(behind, {}, bundle.funnel.history, bundle.rule), **more)

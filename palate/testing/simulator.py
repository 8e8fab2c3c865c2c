"""People who answer back: a crowd of the planted world before a service, so that the whole loop runs, and the truth is known.

    crowd = Crowd(scene.world, service, writer)
    day = crowd.visit(400, at)                  # they look, click and hide; slates and events go through the real store
    learn(folder, store, log=scene.log)
    service.follow()
    crowd.drift()

Who visits is drawn by the world's activity. A visitor looks at the slate from the top and stops somewhere: place p (from 1) is looked at
with probability p^-attention, and then all above it was, so that each place is as in the position-based model of
`palate.data.sources.planted`, and what is examined is the beginning of the slate (Craswell et al. 2008 compare the two models). What is
looked at is clicked by the true preference, as in the planted log; what is looked at and not clicked is hidden now and then. Between
rounds tastes drift, theta <- sqrt(1 - drift^2) theta + drift x noise of the same spread, so that they wander and do not grow.

`closed_loop` does so round by round, with `palate.learn` in between. A `Scene` is how it starts: little is known, and it is biased.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pydantic
from scipy.special import expit

from palate import config
from palate.data.log import read
from palate.data.sources.planted import START, World, world
from palate.feedback import ab
from palate.feedback.events import Event
from palate.feedback.store import EventStore
from palate.learn import job
from palate.serve.schemas import Recommend
from palate.serve.service import Service
from palate.serve.settings import Settings
from palate.serve.shelf import Shelf
from palate.serve.writer import Writer
from palate.types import Bools, Log, Longs

DAY = timedelta(days=1)
SMALL = job.Settings(metric="pages", margin=0.8, least=50, people=20, warm=False)
"""How to learn where a round has some hundred visits: few people judge, so their interval is wide, and what may be as good is taken."""
WAIT = 60.0
"""Seconds that the store may take."""


class Habits(config.Config):
    """k: how many items a visitor asks for. attention: how soon one stops looking, see the head of the file; 0 looks at everything.
    eager: added to the log-odds of a click; 0 is as in the planted log, where nearly any page is clicked. hide: the log-odds of hiding what
    was looked at and not clicked, less its log-odds of a click. drift: of tastes, between rounds.
    """

    k: int = pydantic.Field(5, ge=1)
    attention: float = pydantic.Field(0.5, ge=0)
    eager: float = -1.5
    hide: float = -3.5
    drift: float = pydantic.Field(0.05, ge=0, le=1)


@dataclass(frozen=True)
class Reactions:
    """What visitors did with slates, [V, K], False behind a slate's end. looked: a beginning of each row."""

    looked: Bools
    clicked: Bools
    hidden: Bools


def react(truth: World, users: npt.NDArray[Any], items: npt.NDArray[Any], habits: Habits, rng: np.random.Generator) -> Reactions:
    """What these users do with these slates. users: int [V]. items: int [V, K], codes, -1 behind a slate's end."""
    there = items >= 0
    depth = rng.random(len(users))[:, None]
    looked = there & (depth < np.arange(1, items.shape[1] + 1) ** -habits.attention)
    chance = truth.click_probability(users[:, None], np.maximum(items, 0))
    odds = np.log(chance) - np.log1p(-chance) + habits.eager
    clicked = looked & (rng.random(items.shape) < expit(odds))
    hidden = looked & ~clicked & (rng.random(items.shape) < expit(habits.hide - odds))
    return Reactions(looked, clicked, hidden)


@dataclass(frozen=True)
class Scene:
    """A world, the log that a first bundle learns from, and the long tail: codes of the items that were shown to nobody."""

    world: World
    log: Log
    tail: Longs


def scene(
    users: int = 2000, items: int = 200, *, shown: int = 20, visits: int = 60, found: int = 150, habits: Habits = Habits(), seed: int = 0
) -> Scene:
    """A site that shows everybody the same: in `visits` visits, slates drawn evenly among the `shown` most popular items. And people who by
    themselves found and clicked an item now and then, `found` in all, whichever they like: what else would a tail be known by.

    All items and people are in the log's tables, whether they occur or not. Kinds: impression, click, hide. It takes thirty days.
    """
    truth, rng = world(users, items, seed), np.random.default_rng([seed, 3])
    order = np.argsort(-truth.popularity, kind="stable")
    who = rng.choice(users, visits, p=_shares(truth))
    slates = order[np.argsort(rng.random((visits, shown)), axis=1)[:, : habits.k]]
    did = react(truth, who, slates, habits, rng)
    begin = rng.random(visits) * 30 * 86_400
    frames = []
    for delay, (kind, mask) in enumerate((("impression", did.looked), ("click", did.clicked), ("hide", did.hidden))):
        visit, place = np.nonzero(mask)
        frames.append(_frame(truth, kind, who[visit], slates[visit, place], begin[visit] + 10 * place + delay))
    # The largest of log p + Gumbel noise is item i with probability p(i) / sum of p.
    finders = rng.choice(users, found, p=_shares(truth))
    liked = np.log(truth.click_probability(finders[:, None], np.arange(items)))
    own = (liked + rng.gumbel(size=liked.shape)).argmax(axis=1)
    frames.append(_frame(truth, "click", finders, own, rng.random(found) * 30 * 86_400))
    events = pl.concat(frames).sort("time", maintain_order=True)
    log = read(events, kind="kind", users=truth.users, items=truth.items, name="biased start")
    return Scene(truth, log, np.sort(order[shown:]))


def _frame(truth: World, kind: str, users: npt.NDArray[Any], items: npt.NDArray[Any], seconds: npt.NDArray[Any]) -> pl.DataFrame:
    ids = {"user": truth.users["user"].gather(users), "item": truth.items["item"].gather(items)}
    return pl.DataFrame({**ids, "time": START + seconds.astype(np.int64)}).with_columns(kind=pl.lit(kind))


@dataclass(frozen=True)
class Round:
    """What a round of visits came to. pages: `user`, `clicks`, `hides`, a row a visit. shown, clicked: of each item, [N]."""

    pages: pl.DataFrame
    shown: Longs
    clicked: Longs

    @property
    def page_ctr(self) -> ab.Rate:
        """The share of pages with a click."""
        users = self.pages.group_by("user", maintain_order=True).agg(pages=pl.len(), clicked=(pl.col("clicks") > 0).sum())
        return ab.rate(users["clicked"].to_numpy(), users["pages"].to_numpy())


class Crowd:
    """The people of a world, before a service. Everything they do is drawn by the seed; what a policy draws, the service draws."""

    def __init__(self, truth: World, service: Service, writer: Writer, *, habits: Habits = Habits(), seed: int = 0) -> None:
        self.world, self.service, self.writer, self.habits = truth, service, writer, habits
        self._rng = np.random.default_rng([seed, 4])
        self._spread = float(truth.tastes.std())
        self._codes = {item: code for code, item in enumerate(truth.items["item"])}
        self._events = 0
        self._kept: dict[int, Future[Any]] = {}

    def visit(self, count: int, start: datetime, every: timedelta = timedelta(minutes=1)) -> Round:
        """So many visits one after another. Everything is in the store when it returns."""
        shown, clicked = np.zeros(len(self._codes), dtype=np.int64), np.zeros(len(self._codes), dtype=np.int64)
        pages: list[tuple[str, int, int]] = []
        for number, user in enumerate(self._rng.choice(self.world.users.height, count, p=_shares(self.world)).tolist()):
            if user in self._kept:  # who comes back has been heard
                self._kept.pop(user).result(WAIT)
            items, found = self._page(user, start + number * every)
            shown[items] += 1
            clicked[items[found.clicked[0]]] += 1
            pages.append((self.world.users["user"][user], int(found.clicked.sum()), int(found.hidden.sum())))
        if not self.writer.flush(WAIT):
            raise TimeoutError(f"simulator: the store took more than {WAIT:.0f} s")
        return Round(pl.DataFrame(pages, schema=["user", "clicks", "hides"], orient="row"), shown, clicked)

    def _page(self, user: int, at: datetime) -> tuple[Longs, Reactions]:
        """One visit: what was shown, and what the visitor did with it."""
        name = self.world.users["user"][user]
        answer = self.service.recommend(Recommend(user=name, k=self.habits.k, placement="home"), at)
        assert answer is not None
        shown = [item["item"] for item in answer["items"]]
        items = np.array([self._codes[item] for item in shown], dtype=np.int64)
        found = react(self.world, np.array([user]), items[None], self.habits, self._rng)
        events = []
        for kind, mask in (("impression", found.looked[0]), ("click", found.clicked[0]), ("hide", found.hidden[0])):
            for place in np.flatnonzero(mask).tolist():
                self._events += 1
                what = {"id": f"simulated-{self._events}", "kind": kind, "user": name, "item": shown[place], "position": place}
                when = at + timedelta(seconds=2 * place + (kind != "impression"))
                events.append(Event(**what, time=when, recommendation=answer["recommendation"], placement="home"))
        if events:
            self._kept[user] = self.writer.events(events)
        return items, found

    def drift(self) -> None:
        """Tastes wander a little; see the head of the file."""
        share, tastes = self.habits.drift, self.world.tastes
        noise = self._rng.normal(0, self._spread, tastes.shape)
        self.world = replace(self.world, tastes=(np.sqrt(1 - share**2) * tastes + share * noise).astype(np.float32))


@dataclass(frozen=True)
class Lap:
    """A round and what was learnt from it. pages: the page-level click rate. shown, clicked: the shares of the tail that were ever shown,
    and ever clicked, so far. action: of `palate.learn`, with its reason.
    """

    number: int
    pages: ab.Rate
    shown: float
    clicked: float
    action: str
    reason: str


def closed_loop(
    folder: str | os.PathLike[str],
    store: str | os.PathLike[str],
    start: Scene,
    *,
    rounds: int,
    visits: int,
    habits: Habits = Habits(),
    learning: job.Settings = SMALL,
    seed: int = 0,
    report: Callable[[Lap], None] = lambda lap: None,
) -> list[Lap]:
    """Rounds of visits to the bundle in `folder`, which was fitted on the scene's log; a day each, learning after every one.

    store: where the events go, a new file. report: called after each round. Cost: some 5 ms a visit, and what learning takes.
    """
    laps: list[Lap] = []
    size = start.world.items.height
    shown, clicked = np.zeros(size, dtype=bool), np.zeros(size, dtype=bool)
    with EventStore.open(os.fspath(store)) as events, Writer(events) as writer:
        service = Service(Shelf(folder), events, writer, Settings(clock="wall"))
        service.start()
        crowd = Crowd(start.world, service, writer, habits=habits, seed=seed)
        first = datetime.fromtimestamp(int(start.log.times.max()) // 1_000_000, UTC) + DAY
        for number in range(rounds):
            found = crowd.visit(visits, first + number * DAY, every=DAY / 2 / visits)
            shown, clicked = shown | (found.shown > 0), clicked | (found.clicked > 0)
            learnt = job.learn(folder, events, settings=learning, log=start.log)
            service.follow()
            covered = (float(shown[start.tail].mean()), float(clicked[start.tail].mean()))
            laps.append(Lap(number + 1, found.page_ctr, *covered, learnt.action, learnt.reason))
            report(laps[-1])
            crowd.drift()
    return laps


def _shares(truth: World) -> npt.NDArray[np.float64]:
    shares = truth.activity.astype(np.float64)
    return np.asarray(shares / shares.sum())

"""Who asks: what the event store knows of a person since the bundle learnt, and what the request brings, as a Request for the funnel."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import datetime
from types import TracebackType
from typing import Any, TypeVar

from palate.errors import StoreError
from palate.features.history import History
from palate.features.spec import DAY
from palate.feedback.events import WANTED, micros
from palate.feedback.store import Action, EventStore, Shown
from palate.rerank.brought import IMPRESSIONS, SEED
from palate.types import Request

T = TypeVar("T")


@dataclass(frozen=True)
class Rule:
    """Which events of the store count as wanted: those of the kinds WANTED, and ratings as in the log that the bundle learnt from.

    least: a rating is wanted from this on; None: whatever it says.
    """

    least: float | None = None

    def wanted(self, action: Action) -> bool:
        """Whether it belongs into a history."""
        if action.kind not in WANTED:
            return False
        return self.least is None or action.kind != "rating" or (action.value is not None and action.value >= self.least)


@dataclass(frozen=True)
class Known:
    """What the store knows of a person behind the bundle's cursor, as far as the bundle has the items.

    history: what was wanted, oldest first, and `kinds` and `times` (microseconds) of it. touched: whatever was acted on at all.
    hidden: never to be shown again. shown: how often an item was on the screen in vain. trouble: why the store could not be asked.
    """

    history: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    times: tuple[int, ...] = ()
    touched: frozenset[str] = frozenset()
    hidden: frozenset[str] = frozenset()
    shown: dict[str, float] = field(default_factory=dict)
    forgotten: bool = False
    trouble: str | None = None


class Patience:
    """Notices a store that does not answer: while one question has been waiting for longer than `seconds`, nobody else asks.

    SQLite's readers wait for nobody. PostgreSQL's may wait for a lock, or for a server that hangs; then everybody would wait with them.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._began: dict[int, float] = {}

    @property
    def lost(self) -> bool:
        """Whether somebody has waited for too long already."""
        now = time.monotonic()
        return any(now - began > self.seconds for began in list(self._began.values()))

    def __enter__(self) -> None:
        self._began[threading.get_ident()] = time.monotonic()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        del self._began[threading.get_ident()]


def within(seconds: float, work: Callable[[], T]) -> T:
    """What is worked out in a thread that may hang. Raises TimeoutError after `seconds`; nobody waits for the thread any more then."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name="may hang", daemon=True).start()
    return future.result(seconds)


def look_up(store: EventStore, user: str, history: History, rule: Rule, *, after: int, impressions_since: int | None) -> Known:
    """Asks the store about a person: one question. A store that cannot answer is said in `trouble`, and the rest is as of a stranger."""
    try:
        person = store.person(user, after=after, impressions_since=impressions_since)
    except StoreError as error:
        return Known(trouble=str(error))
    if person.forgotten:
        return Known(forgotten=True)
    return known(person.actions, person.impressions, history, rule)


def known(actions: Sequence[Action], impressions: dict[str, Shown], history: History, rule: Rule) -> Known:
    """Sorts what a person did. A later like takes a hide back."""
    there = [action for action in actions if history.has_item(action.item)]
    wanted = [action for action in there if rule.wanted(action)]
    hidden: dict[str, bool] = {}
    for action in there:
        if action.kind in ("hide", "like"):
            hidden[action.item] = action.kind == "hide"
    in_vain = {item: float(one.impressions) for item, one in impressions.items() if not one.clicks and history.has_item(item)}
    return Known(
        tuple(action.item for action in wanted),
        tuple(action.kind for action in wanted),
        tuple(action.time for action in wanted),
        frozenset(action.item for action in there if action.kind in WANTED),
        frozenset(item for item, is_hidden in hidden.items() if is_hidden),
        in_vain,
    )


def request(
    user: str | None,
    known: Known,
    *,
    history: Sequence[str] = (),
    context: dict[str, Any] | None = None,
    k: int = 10,
    filters: Sequence[str] = (),
    exclude: Sequence[str] = (),
    seen: bool = False,
    now: int | None = None,
    seed: int | None = None,
) -> Request:
    """A funnel's Request. now: microseconds; None is the end of the bundle's log, at which all that the store knows then happened.

    What the request brings as history comes after what the store knows.
    """
    brought = dict(context or {})
    if seed is not None:
        brought[SEED] = seed
    if known.shown:
        brought[IMPRESSIONS] = known.shown
    acted = (*known.history, *history)
    times: tuple[int, ...] = ()
    if now is not None and acted:
        times = (*(min(time, now) for time in known.times), *(now for _ in history))
    others = set() if seen else known.touched - set(known.history)
    return Request(
        user=None if known.forgotten else user,
        history=acted,
        context=brought,
        k=k,
        filters=tuple(filters),
        exclude=(*dict.fromkeys([*exclude, *sorted(known.hidden), *sorted(others)]),),
        seen=seen,
        now=now,
        times=times,
    )


def clock(setting: str, end: int, stale_days: float) -> Callable[[datetime], int | None]:
    """From the time on the wall to the `now` of requests, for a log that ends at `end` (microseconds)."""

    def of(moment: datetime) -> int | None:
        wall = micros(moment)
        if setting == "log" or (setting == "auto" and wall - end > stale_days * DAY):
            return None
        return max(wall, end)

    return of

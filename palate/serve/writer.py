"""The one thread that writes: batches of events and slates that wait together are kept in one transaction (group commit).

    writer = Writer(store)
    writer.events(parse_events(body)).result()            # Appended(new=3, ...), when they have reached the disk
    writer.slate(shown)                                   # True; kept within a quarter of a second, nobody waits for it

A disk takes some hundred commits a second and some ten thousand events; so whoever sends single events shares a commit with the others.

Rules
    Events are kept in the order in which they were given, and a slate no later than the events given after it.
    A future has its result when the events are on the disk, never before; otherwise it has an error, and sending again is safe.
    What cannot be kept harms nothing else: a transaction that fails is done again in parts.
    Nothing here waits for the store: what does not fit into the queue is refused at once, events by `Overloaded`, a slate by False.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from types import TracebackType
from typing import NamedTuple, Self

from palate.errors import PalateError, StoreError
from palate.feedback.events import Event, ShownSlate
from palate.feedback.store import Appended, EventStore

MOST_EVENTS, MOST_SLATES = 2000, 200  # of one transaction, but for a batch that is larger by itself
COMPANY = 0.25  # seconds that a slate waits for others: a commit costs as much as ten slates
PATIENCE = 1.0  # seconds for doing a failed transaction again in parts
FIRST_RETRY, LAST_RETRY = 0.1, 5.0  # seconds between tries of slates that the store did not take


class Overloaded(PalateError):  # noqa: N818 - the name of the state it tells of
    """More waits than there is room for. seconds: when there should be room again, for Retry-After."""

    def __init__(self, message: str, seconds: int) -> None:
        super().__init__(message)
        self.seconds = seconds


class _Batch(NamedTuple):
    events: Sequence[Event]
    future: Future[Appended]


class _Turn(NamedTuple):
    batches: list[_Batch]
    slates: list[ShownSlate]


class Writer:
    """See the top of the file. Threads may share it.

    waiting: so many events may wait, and a tenth as many slates; a batch of more events than that is taken where nothing waits.
    """

    def __init__(self, store: EventStore, *, waiting: int = 10_000) -> None:
        self.store = store
        self.room = waiting
        self.room_for_slates = max(1, waiting // 10)
        self._changed = threading.Condition()
        self._batches: deque[_Batch] = deque()
        self._slates: deque[ShownSlate] = deque()
        self._since = 0.0  # when the first of the waiting slates came
        self._retry_at, self._pause = 0.0, FIRST_RETRY
        self._events_in = self._events_out = self._slates_in = self._slates_out = 0  # the difference waits, or is being written
        self._dropped = 0
        self._trouble: str | None = None
        self._pace = 1e-4  # seconds an event, of late
        self._hurry = 0  # how many wait in `flush`
        self._stopped: str | None = None  # why nothing is taken any more
        self._thread = threading.Thread(target=self._run, name="palate-writer", daemon=True)  # a store that hangs must not keep the process
        self._thread.start()

    @property
    def dropped(self) -> int:
        """Slates that were not kept, for want of room or because the store refused them."""
        return self._dropped

    @property
    def waiting(self) -> tuple[int, int]:
        """Events and slates that are not on the disk yet."""
        with self._changed:
            return self._events_in - self._events_out, self._slates_in - self._slates_out

    @property
    def trouble(self) -> str | None:
        """Why the last transaction failed; None if it did not."""
        return self._trouble

    @property
    def alive(self) -> bool:
        """Whether there is still somebody who writes."""
        return self._thread.is_alive()

    def events(self, batch: Sequence[Event]) -> Future[Appended]:
        """Hands a batch over. The future's error is the store's StoreError. Raises Overloaded, or StoreError once the writer is closed."""
        future: Future[Appended] = Future()
        with self._changed:
            if self._stopped is not None:
                raise self._over(self._stopped)
            waits = self._events_in - self._events_out
            if waits and waits + len(batch) > self.room:
                seconds = 5 if self._trouble else min(60, math.ceil(waits * self._pace))
                raise Overloaded(f"events: {waits} wait to be kept, and there is room for {self.room}; send them again later", seconds)
            self._events_in += len(batch)
            self._batches.append(_Batch(batch, future))
            self._changed.notify_all()
        return future

    def slate(self, shown: ShownSlate) -> bool:
        """Hands a slate over, to be kept soon. False if there is no room: it is dropped, and counted."""
        with self._changed:
            if self._stopped is not None or self._slates_in - self._slates_out >= self.room_for_slates:
                self._dropped += 1
                return False
            self._slates_in += 1
            if not self._slates:
                self._since = time.monotonic()
            self._slates.append(shown)
            if len(self._slates) in (1, MOST_SLATES):
                self._changed.notify_all()
        return True

    def flush(self, timeout: float) -> bool:
        """Waits until what was handed over before is kept or refused. False if that took longer than `timeout` seconds."""
        with self._changed:
            events, slates = self._events_in, self._slates_in
            self._hurry += 1
            self._changed.notify_all()
            try:
                return self._changed.wait_for(lambda: self._events_out >= events and self._slates_out >= slates, timeout)
            finally:
                self._hurry -= 1

    def close(self, timeout: float = 30.0) -> bool:
        """Takes nothing more, tries once to keep what waits, and ends. False if that took longer than `timeout` seconds.

        Futures that still wait have a result or an error then; slates that the store does not take are dropped, and counted.
        """
        self._stop("the writer is closed; the service is stopping")
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    # -- the thread -----------------------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        batches: list[_Batch] = []
        try:
            while (turn := self._next()) is not None:
                batches, slates = turn
                self._keep(batches, slates)
        finally:  # by `close`, or by what nobody foresaw: then nobody shall wait for a thread that has ended
            self._stop("the writer has ended; start the service again")
            with self._changed:
                batches = [*batches, *self._batches]
                self._batches.clear()
                self._slates.clear()
                self._dropped += self._slates_in - self._slates_out
                self._events_out, self._slates_out = self._events_in, self._slates_in
                self._changed.notify_all()
            lost = self._over(self._stopped or "")
            for batch in batches:
                if not batch.future.done():
                    with suppress(InvalidStateError):  # cancelled meanwhile
                        batch.future.set_exception(lost)

    def _next(self) -> _Turn | None:
        """What is to be kept next; None at the end."""
        with self._changed:
            while True:
                now, stopping = time.monotonic(), self._stopped is not None
                retry_at = 0.0 if stopping else self._retry_at
                if self._batches:
                    return _Turn(self._take_batches(), self._take_slates() if now >= retry_at else [])
                if self._slates:
                    at_once = stopping or self._hurry or len(self._slates) >= MOST_SLATES
                    due = max(0.0 if at_once else self._since + COMPANY, retry_at)
                    if now >= due:
                        return _Turn([], self._take_slates())
                    self._changed.wait(due - now)
                elif stopping:
                    return None
                else:
                    self._changed.wait()

    def _take_batches(self) -> list[_Batch]:
        taken = [self._batches.popleft()]
        size = len(taken[0].events)
        while self._batches and size + len(self._batches[0].events) <= MOST_EVENTS:
            taken.append(self._batches.popleft())
            size += len(taken[-1].events)
        return taken

    def _take_slates(self) -> list[ShownSlate]:
        return [self._slates.popleft() for _ in range(min(len(self._slates), MOST_SLATES))]

    def _keep(self, batches: Sequence[_Batch], slates: Sequence[ShownSlate]) -> None:
        """One transaction, or several if that one fails. Every batch gets its answer here."""
        started = time.monotonic()
        until = started + PATIENCE
        wanted = [batch for batch in batches if batch.future.set_running_or_notify_cancel()]
        left: Sequence[ShownSlate] = ()
        trouble: Exception | None = None
        try:
            told = self.store.append_all([batch.events for batch in wanted], slates)
        except Exception as error:
            trouble = error
            if not wanted:
                left, trouble = self._slates_apart(slates, error, until)
            elif len(wanted) == 1 and not slates:
                wanted[0].future.set_exception(error)
            else:
                trouble = self._batches_apart(wanted, error, until)
                if slates:
                    left, trouble = self._slates_again(slates, trouble, until)
        else:
            for batch, appended in zip(wanted, told, strict=True):
                batch.future.set_result(appended)
        self._settle(sum(len(batch.events) for batch in batches), len(slates), left, trouble, time.monotonic() - started)

    def _batches_apart(self, batches: Sequence[_Batch], error: Exception, until: float) -> Exception | None:
        """Each in a transaction of its own while there is time, so that only those fail which are to blame. None if one was kept."""
        kept = False
        for batch in batches:
            if time.monotonic() < until:
                try:
                    batch.future.set_result(self.store.append(batch.events))
                    kept = True
                    continue
                except Exception as its_own:
                    error = its_own
            batch.future.set_exception(error)
        return None if kept else error

    def _slates_again(
        self, slates: Sequence[ShownSlate], trouble: Exception | None, until: float
    ) -> tuple[Sequence[ShownSlate], Exception | None]:
        """The slates without the events they failed with: those to be tried later, and what is wrong with the store."""
        if time.monotonic() >= until:
            return slates, trouble
        try:
            self.store.append_slates(slates)
        except Exception as error:
            left, still = self._slates_apart(slates, error, until, well=trouble is None)
            return left, trouble and still
        return (), None

    def _slates_apart(
        self, slates: Sequence[ShownSlate], error: Exception, until: float, *, well: bool = False
    ) -> tuple[Sequence[ShownSlate], Exception | None]:
        """Slates that failed together: what passes is the store's own trouble, and they wait for its end; else each is tried alone.

        Where others can be kept (well: events just were), those that cannot are to blame themselves, and are dropped.
        """
        if isinstance(error, StoreError) and error.passing:
            return slates, error
        refused: list[ShownSlate] = []
        for place, slate in enumerate(slates):
            if time.monotonic() >= until:
                refused += slates[place:]
                return refused, error
            try:
                self.store.append_slates([slate])
            except Exception as its_own:
                refused.append(slate)
                error = its_own
        if len(refused) == len(slates) and not well:
            return slates, error
        with self._changed:
            self._dropped += len(refused)
        return (), None

    def _settle(self, events: int, slates: int, left: Sequence[ShownSlate], trouble: Exception | None, took: float) -> None:
        with self._changed:
            if self._stopped is not None:
                self._dropped += len(left)
                left = ()
            self._slates.extendleft(reversed(left))
            self._events_out += events
            self._slates_out += slates - len(left)
            if trouble is None:
                self._trouble, self._retry_at, self._pause = None, 0.0, FIRST_RETRY
                if events:
                    self._pace += 0.2 * (took / events - self._pace)
            else:
                self._trouble = str(trouble) if isinstance(trouble, StoreError) else type(trouble).__name__
            if left:
                self._retry_at = time.monotonic() + self._pause
                self._pause = min(2 * self._pause, LAST_RETRY)
            self._changed.notify_all()

    def _over(self, reason: str) -> StoreError:
        return StoreError(f"{self.store.where}: {reason}", passing=True, brief=reason)

    def _stop(self, reason: str) -> None:
        with self._changed:
            if self._stopped is None:
                self._stopped = reason
            self._changed.notify_all()

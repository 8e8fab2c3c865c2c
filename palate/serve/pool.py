"""Answers by a deadline: a few threads that compute, a bounded line before them, and one thread that always has a cheaper answer.

    pool = Pool(workers=2, waiting=64)
    answer = await pool.run(work, late, seconds=0.5)

Who would stand in line for longer than the deadline gets the cheaper answer at once; who would stand in line for that longer than the
deadline, too, and longer than it takes to come again, is told to come again. So what there is to compute with goes into answers, and not
into some that nobody waits for any more.

`work` is given a Ticket and must claim it before it does anything that lasts, such as writing down what was shown; `late` is called if the
ticket could be taken away from it because time was up. A thread that is late is left to finish; while all threads have been late for longer
than the deadline, nobody waits for them any more, and `late` answers at once.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


class Busy(Exception):  # noqa: N818 - nothing went wrong
    """The line is full. seconds: after which it may be worth to come again."""

    def __init__(self, seconds: int) -> None:
        super().__init__(f"too many requests at once; try again in {seconds} s")
        self.seconds = seconds


AGAIN = 1
"""Seconds after which it may be worth to come again."""
LATELY = 0.1
"""What the newest answer weighs in the time that one takes."""


class Ticket:
    """The right to give the answer: whoever claims it first has it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._claimed = False

    def claim(self) -> bool:
        """True for the first who asks."""
        with self._lock:
            mine, self._claimed = not self._claimed, True
            return mine


class Pool:
    """workers: threads. waiting: so many may stand in line before them, and as many before the one with the cheaper answer."""

    def __init__(self, workers: int, waiting: int, prepare: Callable[[], None] | None = None) -> None:
        """prepare: called once in every thread."""
        self.workers, self.waiting = workers, waiting
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="answer", initializer=prepare)
        self._spare = ThreadPoolExecutor(1, thread_name_prefix="fallback", initializer=prepare)
        self._lock = threading.Lock()
        self._started: dict[int, float] = {}
        self._open = 0
        self._number = 0
        self._cheap = 0
        self._takes = 0.0
        self._cheap_takes = 0.0

    @property
    def busy(self) -> int:
        """Requests that are being answered or stand in line."""
        return self._open

    def close(self) -> None:
        """Lets what runs finish; what waits is dropped."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._spare.shutdown(wait=False, cancel_futures=True)

    async def run(self, work: Callable[[Ticket], T | None], late: Callable[[str], T] | None, seconds: float) -> T:
        """work's answer; or, after `seconds` (0: never), that of `late`, which is told why. Raises Busy where the line is full."""
        if late is not None and seconds and self._stuck(seconds):
            return await self._later(late, "every thread has been busy for longer than the deadline", seconds)
        if late is not None and seconds and self._open >= self.workers and self._expected() > seconds:
            return await self._later(late, "too many requests at once", seconds)
        ticket = Ticket()
        future = self._submit(lambda: work(ticket), seconds)
        waited = asyncio.wrap_future(future)
        waited.add_done_callback(_heard)
        try:
            answer = await (asyncio.wait_for(asyncio.shield(waited), seconds) if late is not None and seconds else waited)
        except TimeoutError:
            assert late is not None
            if future.cancel() or ticket.claim():
                return await self._later(late, f"no answer came within {seconds * 1000:g} ms", seconds)
            answer = await waited  # it was claimed at the last moment, so it is there
        assert answer is not None  # whoever does not claim the ticket is not waited for
        return answer

    def _stuck(self, seconds: float) -> bool:
        with self._lock:
            now = time.monotonic()
            return len(self._started) >= self.workers and all(now - began > seconds for began in self._started.values())

    def _expected(self) -> float:
        """Seconds until an answer that is asked for now would be there, by what answers took lately. A thread that is free is always tried,
        so that slow answers of the past do not stand for ever.
        """
        return (self._open // self.workers + 1) * self._takes

    async def _later(self, late: Callable[[str], T], why: str, seconds: float) -> T:
        with self._lock:
            if self._cheap and (self._cheap > self.waiting or (self._cheap + 1) * self._cheap_takes > max(seconds, AGAIN)):
                raise Busy(AGAIN)
            self._cheap += 1

        def answer() -> T:
            began = time.monotonic()
            try:
                return late(why)
            finally:
                with self._lock:
                    self._cheap_takes += LATELY * (time.monotonic() - began - self._cheap_takes)

        try:
            return await asyncio.wrap_future(self._spare.submit(answer))
        finally:
            with self._lock:
                self._cheap -= 1

    def _submit(self, work: Callable[[], T], seconds: float) -> Future[T]:
        with self._lock:
            if self._open >= self.workers + self.waiting:
                raise Busy(AGAIN)
            self._open += 1
            self._number += 1
            number = self._number

        def run() -> T:
            with self._lock:
                self._started[number] = time.monotonic()
            try:
                return work()
            finally:
                with self._lock:
                    took = time.monotonic() - self._started.pop(number)
                    # One that hung says no more than that it was late: what hangs is not how long answers take.
                    self._takes += LATELY * ((min(took, seconds) if seconds else took) - self._takes)

        def done(_: object) -> None:
            with self._lock:
                self._open -= 1

        future = self._threads.submit(run)
        future.add_done_callback(done)
        return future


def _heard(future: asyncio.Future[Any]) -> None:
    """What became of an answer that nobody waits for: looked at, so that asyncio does not complain of an exception never retrieved."""
    if not future.cancelled():
        future.exception()

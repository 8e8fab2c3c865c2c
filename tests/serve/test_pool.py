"""Answers by a deadline: who is late, what is answered instead, and that the line is bounded."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable

import pytest

from palate.serve.pool import Busy, Pool, Ticket


@pytest.fixture
def gate() -> threading.Event:
    return threading.Event()


def waits(gate: threading.Event, recorded: list[str]) -> Callable[[Ticket], str | None]:
    def work(ticket: Ticket) -> str | None:
        gate.wait(240)
        if not ticket.claim():
            return None
        recorded.append("recorded")
        return "full"

    return work


async def becomes(true: Callable[[], bool]) -> None:
    until = time.monotonic() + 240
    while not true():
        assert time.monotonic() < until
        await asyncio.sleep(0.005)


def run(pool: Pool, work: Callable[[Ticket], str | None], seconds: float) -> str:
    try:
        return asyncio.run(pool.run(work, lambda why: f"fallback: {why}", seconds))
    finally:
        pool.close()


def test_what_is_there_in_time_is_the_answer() -> None:
    assert run(Pool(1, 0), lambda ticket: "full" if ticket.claim() else None, 240) == "full"
    assert run(Pool(1, 0), lambda ticket: "full" if ticket.claim() else None, 0) == "full"


def test_what_is_late_records_nothing(gate: threading.Event) -> None:
    recorded: list[str] = []
    assert run(Pool(1, 0), waits(gate, recorded), 0.05) == "fallback: no answer came within 50 ms"
    gate.set()
    time.sleep(0.1)
    assert recorded == []


def test_an_error_is_told_and_not_hidden_by_a_fallback() -> None:
    def fails(ticket: Ticket) -> str:
        raise ValueError("no such thing")

    with pytest.raises(ValueError, match="no such thing"):
        run(Pool(1, 0), fails, 240)


def test_the_line_is_bounded_and_moves_on(gate: threading.Event) -> None:
    async def story() -> None:
        pool, recorded = Pool(1, 1), list[str]()
        running = [asyncio.create_task(pool.run(waits(gate, recorded), None, 0)) for _ in range(2)]
        await asyncio.sleep(0.05)
        assert pool.busy == 2
        with pytest.raises(Busy, match="too many requests at once"):
            await pool.run(waits(gate, recorded), None, 0)
        gate.set()
        assert await asyncio.gather(*running) == ["full", "full"]
        assert await pool.run(waits(gate, recorded), None, 0) == "full"
        await becomes(lambda: not pool.busy)
        assert len(recorded) == 3
        pool.close()

    asyncio.run(story())


def test_while_all_are_stuck_nobody_waits_for_them(gate: threading.Event) -> None:
    async def story() -> None:
        pool, recorded = Pool(2, 8), list[str]()

        def late(why: str) -> str:
            return why

        first = await asyncio.gather(*(pool.run(waits(gate, recorded), late, 0.05) for _ in range(2)))
        assert first == ["no answer came within 50 ms"] * 2
        await becomes(lambda: pool._stuck(0.05))
        assert "every thread has been busy" in await pool.run(waits(gate, recorded), late, 0.05)
        assert pool.busy == 2  # it did not even stand in line
        gate.set()
        await becomes(lambda: not pool.busy)
        assert await pool.run(waits(gate, recorded), late, 240) == "full"
        assert recorded == ["recorded"]
        pool.close()

    asyncio.run(story())


def test_who_goes_away_keeps_no_place(gate: threading.Event) -> None:
    async def story() -> None:
        pool, recorded = Pool(1, 1), list[str]()
        leaving = asyncio.create_task(pool.run(waits(gate, recorded), None, 0))
        await asyncio.sleep(0.05)
        leaving.cancel()
        gate.set()
        await becomes(lambda: not pool.busy)
        pool.close()

    asyncio.run(story())


def test_who_would_wait_too_long_gets_the_cheaper_answer_at_once(gate: threading.Event) -> None:
    """Answers took a minute, the deadline is two and a half: two may wait, the third has no chance and does not stand in line."""

    async def story() -> None:
        pool = Pool(1, 50)
        pool._takes = 60.0

        def slow(ticket: Ticket) -> str | None:
            time.sleep(0.01)
            return "full" if ticket.claim() else None

        def late(why: str) -> str:
            return why

        answers = await asyncio.gather(*(pool.run(slow, late, 150) for _ in range(3)))
        assert answers[:2] == ["full", "full"]
        assert answers[2] == "too many requests at once"
        pool._takes = 600.0  # ten minutes of trouble are over: a free thread is tried, and that is found out
        assert await pool.run(slow, late, 150) == "full"
        pool.close()

    asyncio.run(story())


def test_what_hung_is_not_how_long_answers_take(gate: threading.Event) -> None:
    async def story() -> None:
        pool = Pool(1, 50)

        def hangs(ticket: Ticket) -> str | None:
            gate.wait(240)
            return None

        assert await pool.run(hangs, lambda why: why, 0.05) == "no answer came within 50 ms"
        await asyncio.sleep(0.5)
        gate.set()
        await becomes(lambda: not pool.busy)
        assert 0 < pool._takes < 0.01
        pool.close()

    asyncio.run(story())


@pytest.mark.parametrize(("waiting", "takes", "expected"), [(6, 0.0, 7), (50, 48.0, 5), (50, 600.0, 1)])
def test_cheaper_answers_are_bounded_too(gate: threading.Event, waiting: int, takes: float, expected: int) -> None:
    """One of twelve is being answered in full. Of the others so many get a cheaper answer as may stand in line for it, the first of which
    is with the thread already; or as it can give within the deadline of four minutes by what it took lately, but always one.
    """

    async def story() -> None:
        pool = Pool(1, waiting)
        pool._takes, pool._cheap_takes = 480.0, takes

        def late(why: str) -> str:
            gate.wait(240)
            return why

        asked = [asyncio.create_task(pool.run(waits(gate, []), late, 240)) for _ in range(12)]
        await becomes(lambda: sum(task.done() for task in asked) == 11 - expected)
        refused = [task for task in asked if task.done()]
        for task in refused:
            assert isinstance(task.exception(), Busy)
        gate.set()
        answers = await asyncio.gather(*(task for task in asked if task not in refused))
        assert sorted(answers) == ["full", *["too many requests at once"] * expected]
        pool.close()

    asyncio.run(story())

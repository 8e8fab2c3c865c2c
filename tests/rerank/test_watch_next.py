"""Clicks, and what people go on to watch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palate.rerank.watch_next import WatchNext
from palate.testing.contracts import RerankerContract, lists_to_rerank, log_of, queries_of
from palate.types import Candidates, ConfigError, Log, Queries

MINUTE = 60_000_000


class TestWatchNext(RerankerContract):
    def make(self) -> WatchNext:
        return WatchNext(pause_minutes=1e6, time="events")

    @pytest.fixture
    def world(self) -> tuple[Log, Queries, Candidates]:
        log, queries, candidates = lists_to_rerank()
        chance = np.where(candidates.present, np.linspace(0.9, 0.1, 30), np.nan).astype(np.float32)
        return log, queries, replace(candidates, features={**candidates.features, "ranker.probability": chance})


def log() -> Log:
    """Two visits of user 0: 0, 1, 2 and, a day later, 0, 2; user 1: 0, 1. Items take 60, 100 and 300 seconds; 3 never occurs."""
    events = [(0, 0), (0, 1), (0, 2), (0, 0), (0, 2), (1, 0), (1, 1)]
    minutes = [0, 10, 20, 2000, 2010, 3000, 3050]
    made = log_of(events, n_items=4, times=[MINUTE * minute for minute in minutes])
    seconds = {0: 60.0, 1: 100.0, 2: 300.0}
    return of_kinds(made, ["play"] * len(events), [seconds[item] for _, item in events])


def of_kinds(made: Log, kinds: list[str], values: list[float | None]) -> Log:
    """The same events with kinds and values, all of them wanted."""
    kind = pl.Series("kind", kinds, dtype=pl.Enum(sorted(set(kinds))))
    events = made.events.with_columns(kind, pl.Series("value", values, dtype=pl.Float32))
    return replace(made, events=events, positive=tuple(sorted(set(kinds))))


def clicks(chances: list[float]) -> Candidates:
    items = np.arange(len(chances), dtype=np.int32)[None]
    made = Candidates.of(items, -items.astype(np.float32), "x")
    return replace(made, features={"ranker.probability": np.array([chances], dtype=np.float32)})


def test_the_worked_example_by_hand() -> None:
    """After 0: 1 in two of three, 2 in one of three. After 1: 2 in one of two, else the end. After 2: the end.

    One step: follow(0) = 2/3 x 100 + 1/3 x 300 = 166.7, follow(1) = 150, follow(2) = 0.
    Two steps at discount .5: follow(0) = 2/3 (100 + .5 x 150) + 1/3 x 300 = 216.7; follow(1) = 150 still.
    """
    one = WatchNext(steps=1, prior=0).fit(log())
    np.testing.assert_allclose(one.follow[:3], [500 / 3, 150, 0], rtol=1e-6)
    two = WatchNext(steps=2, discount=0.5, prior=0, unit=100).fit(log())
    np.testing.assert_allclose(two.follow[:3], [650 / 3, 150, 0], rtol=1e-6)
    slate = two.rerank(queries_of([[]]), clicks([0.1, 0.2, 0.3]), 3)
    assert slate.items.tolist() == [[1, 0, 2]]
    np.testing.assert_allclose(slate.scores, [[0.2 * 2.5, 0.1 * (1 + 650 / 300), 0.3]], rtol=1e-6)


def test_few_events_are_drawn_towards_the_mean_by_hand() -> None:
    """The mean over events is (3 x 500 / 3 + 2 x 150 + 2 x 0) / 7; with prior 2 item 0 is (3 x 166.7 + 2 mean) / 5, and item 3 is the
    mean."""
    fitted = WatchNext(steps=1, prior=2).fit(log())
    mean = 800 / 7
    assert fitted.typical == pytest.approx(mean)
    np.testing.assert_allclose(fitted.follow, [(500 + 2 * mean) / 5, (300 + 2 * mean) / 4, 2 * mean / 4, mean], rtol=1e-6)


def test_a_pause_ends_a_visit_and_events_may_count_instead_of_seconds() -> None:
    fitted = WatchNext(steps=1, prior=0, pause_minutes=15, time="events").fit(log())
    np.testing.assert_allclose(fitted.follow[:3], [2 / 3, 1 / 2, 0], rtol=1e-6)  # user 1's pause of 50 minutes is an end
    assert WatchNext(weight=0).fit(log()).rerank(queries_of([[]]), clicks([0.1, 0.2, 0.3]), 3).items.tolist() == [[2, 1, 0]]


def test_ratings_are_no_seconds() -> None:
    """Item 0 is played for 60 seconds and rated 5, item 1 only rated: it takes the mean of what is known of others."""
    mixed = of_kinds(log_of([(0, 0), (0, 0), (0, 1)], n_items=3, times=[0, 1, 2]), ["play", "rating", "rating"], [60.0, 5.0, 4.0])
    np.testing.assert_allclose(WatchNext()._seconds(mixed), [60, 60, 60])
    np.testing.assert_allclose(WatchNext(kinds=("rating",))._seconds(mixed), [5, 4, 4.5])  # if somebody says so
    with pytest.raises(ConfigError, match=r'watch_next\.time: .*\(kinds of wanted events: rating\); say time = "events", or'):
        WatchNext().fit(of_kinds(mixed, ["rating"] * 3, [5.0, 5.0, 4.0]))
    with pytest.raises(ConfigError, match=r"no wanted event of play or watch has a value.*kinds of wanted events: play"):
        WatchNext().fit(of_kinds(mixed, ["play"] * 3, [None] * 3))
    with pytest.raises(ConfigError, match=r"watch_next\.kinds: was used when fitted"):
        WatchNext().fit(log()).with_settings(kinds=("click",))


def test_errors_name_the_column() -> None:
    fitted = WatchNext(probability="ranker.probabilty").fit(log())
    with pytest.raises(ConfigError, match=r"watch_next\.probability: the candidates carry no 'ranker\.probabilty'.*`ranker\.probability`"):
        fitted.rerank(queries_of([[]]), clicks([0.5]), 1)
    with pytest.raises(ConfigError, match="is not known of every candidate"):
        WatchNext().fit(log()).rerank(queries_of([[]]), clicks([0.5, float("nan")]), 1)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(0, 1, width=32), max_size=4), st.integers(1, 6), st.floats(0, 3))
def test_a_slate_is_a_part_of_the_list(chances: list[float], k: int, weight: float) -> None:
    slate = WatchNext(weight=weight).fit(log()).rerank(queries_of([[]]), clicks(chances), k)
    there = slate.items[0][slate.present[0]].tolist()
    assert len(set(there)) == len(there) == min(k, len(chances))
    assert set(there) <= set(range(len(chances)))

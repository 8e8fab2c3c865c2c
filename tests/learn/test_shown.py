"""What was shown and what came of it, as labels: by hand for each task, without leaks, and the ranker learns from it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest

from palate.data.log import read
from palate.feedback.join import Settings
from palate.funnel import Funnel
from palate.learn.data import combine
from palate.learn.shown import Shown
from palate.rank.base import Labelled
from palate.rank.gbdt import GBDT
from palate.rank.multitask import MultiTask
from palate.rank.tasks import Task, label
from palate.retrieve.popular import Popular
from palate.types import Log, Run

START = datetime(2026, 1, 1, tzinfo=UTC)
CUT = START + timedelta(days=10)


def at(hours: float) -> datetime:
    return START + timedelta(hours=hours)


def slates(*rows: tuple[str, str, float, str]) -> pl.DataFrame:
    """recommendation, user, hours, items (a letter each)."""
    made = [
        {"recommendation": name, "user": user, "time": at(hours), "position": place, "item": item, "propensity": 1.0}
        for name, user, hours, items in rows
        for place, item in enumerate(items)
    ]
    return pl.DataFrame(made)


def events(*rows: tuple[str, str, str | None, float, dict[str, Any]]) -> pl.DataFrame:
    """kind, user, item, hours, and what else there is."""
    schema = {
        "id": pl.String,
        "kind": pl.String,
        "user": pl.String,
        "item": pl.String,
        "time": pl.Datetime("us", "UTC"),
        "value": pl.Float64,
    }
    made = [
        {
            "id": str(n),
            "kind": kind,
            "user": user,
            "item": item,
            "time": at(hours),
            "value": None,
            "recommendation": None,
            "query": None,
            **more,
        }
        for n, (kind, user, item, hours, more) in enumerate(rows)
    ]
    whole: Any = {**schema, "recommendation": pl.String, "query": pl.String}
    return pl.DataFrame(made, schema=whole)


@pytest.fixture
def log() -> Log:
    """Before the slates: everybody's favourites are a, b, c ...; ann had z."""
    rows = [("ann", "z", -5.0)] + [(f"u{n}", item, -9.0) for place, item in enumerate("abcdefgh") for n in range(12 - place)]
    frame = pl.DataFrame(rows, schema=["user", "item", "hours"], orient="row")
    return read(frame.select("user", "item", time=pl.lit(START) + pl.duration(seconds=pl.col("hours") * 3600)))


def ready(log: Log, ranker: Any, early: Log | None = None) -> Funnel:
    """A funnel as it stands at the cut."""
    funnel = Funnel([Popular(quota=20)], ranker, config=Funnel.Config(candidates=20))
    funnel._know(log)
    funnel.retrievers[0].fit(early or log)
    return funnel


def said(labelled: Labelled | None, log: Log) -> list[dict[str, tuple[float, ...]]]:
    """For each query its items and their labels; None is unknown."""
    assert labelled is not None
    found = []
    for row in range(len(labelled.queries)):
        items = labelled.candidates.items[row]
        found.append(
            {
                str(log.items["item"][int(item)]): tuple(labelled.labels[row, place].tolist())
                for place, item in enumerate(items)
                if item >= 0
            }
        )
    return found


def test_who_clicks_the_fifth_has_passed_over_the_four_above_by_hand(log: Log) -> None:
    """a b c d passed over, e clicked; f and g below: nobody knows. b was hidden too."""
    shown = Shown(
        slates(("r", "ann", 1, "abcdefg")), events(("click", "ann", "e", 1.1, {}), ("hide", "ann", "b", 1.2, {})), CUT, Settings()
    )
    found = shown(ready(log, GBDT()), log)
    assert said(found, log) == [{"a": (0,), "b": (0,), "c": (0,), "d": (0,), "e": (1,)}]
    assert found is not None
    # As of the moment of the slate, with what the retriever says of each.
    assert found.queries.now.tolist() == [int(at(1).timestamp() * 1e6)]
    assert [log.items["item"][int(code)] for code in found.queries.history.values] == ["z"]
    present = found.candidates.present[0]
    assert np.isfinite(found.candidates.features["popular.score"][0, present]).all()


def test_a_hide_loses_even_where_it_was_clicked_and_silence_teaches_nothing(log: Log) -> None:
    shown = Shown(
        slates(("r1", "ann", 1, "ab"), ("r2", "ann", 30, "cd")),
        events(("click", "ann", "a", 1.1, {}), ("hide", "ann", "a", 1.2, {})),
        CUT,
        Settings(),
    )
    assert said(shown(ready(log, GBDT()), log), log) == [{"a": (0,)}]
    silent = Shown(slates(("r2", "ann", 30, "cd")), events(), CUT, Settings())
    assert silent(ready(log, GBDT()), log) is None


def test_what_was_found_after_a_slate_was_given_up_should_have_been_on_it(log: Log) -> None:
    happened = events(("search", "ann", None, 1.05, {"query": "h"}), ("click", "ann", "h", 1.1, {}))
    shown = Shown(slates(("r", "ann", 1, "ab")), happened, CUT, Settings())
    assert said(shown(ready(log, GBDT()), log), log) == [{"h": (1,)}]


def test_each_task_has_its_own_labels_by_hand(log: Log) -> None:
    """Clicked b and c, bought c, played b for 40 seconds and rated it 4; asked about a: 2 of 5. d was not looked at."""
    happened = events(
        ("click", "ann", "b", 1.1, {}),
        ("play", "ann", "b", 1.2, {"value": 40.0}),
        ("rating", "ann", "b", 1.3, {"value": 4.0}),
        ("click", "ann", "c", 1.4, {}),
        ("purchase", "ann", "c", 1.5, {}),
        ("survey", "ann", "a", 2, {"value": 2.0}),
    )
    tasks = (
        Task(name="label"),
        Task(name="bought", events=("purchase",)),
        Task(name="stars", kind="rating", events=("rating",)),
        Task(name="satisfaction", kind="rating", events=("survey",)),
        Task(name="watched", kind="watch_time", events=("play",)),
    )
    shown = Shown(slates(("r", "ann", 1, "abcd")), happened, CUT, Settings())
    nan = float("nan")
    (found,) = said(shown(ready(log, MultiTask(tasks=tasks)), log), log)
    np.testing.assert_array_equal(found["a"], (0, 0, nan, 2, 0))
    np.testing.assert_array_equal(found["b"], (1, 0, 4, nan, 40))
    np.testing.assert_array_equal(found["c"], (1, 1, nan, nan, 0))
    assert "d" not in found


def test_a_survey_of_what_was_not_shown_trains_its_task_too(log: Log) -> None:
    """By the log: the event is there, whatever was shown."""
    later = events(("click", "ann", "a", 1, {}), ("click", "ann", "b", 2, {}), ("survey", "ann", "b", 3, {"value": 5.0}))
    columns = later.with_columns(pl.int_range(pl.len()).alias("seq"), context=pl.lit(None, dtype=pl.String))
    whole = combine(log, columns).log
    task = (Task(name="satisfaction", kind="rating", events=("survey",)),)
    funnel = ready(whole, MultiTask(tasks=task))
    _, queries, happened, _ = funnel._cut(whole, whole.positives(), Run())
    everything = np.tile(np.arange(whole.n_items, dtype=np.int32), (len(queries), 1))
    labels = label(task, whole, happened, everything)
    assert labels[np.isfinite(labels)].tolist() == [5.0]


def test_slates_that_retrievers_may_have_learnt_from_are_left_out(log: Log) -> None:
    """ann's click on the first slate is in the log up to the cut; the second slate is younger than anything of hers in it."""
    first, second = ("r1", "ann", 1, "abc"), ("r2", "ann", 50, "abc")
    happened = events(("click", "ann", "b", 1.1, {}), ("click", "ann", "c", 50.1, {}))
    shown = Shown(slates(first, second), happened, CUT, Settings())
    seen = pl.concat(
        [
            log.events.select(pl.col("user", "item").cast(pl.String), "time"),
            pl.DataFrame({"user": ["ann"], "item": ["b"], "time": [at(1.1)]}).with_columns(pl.col("time").dt.replace_time_zone(None)),
        ]
    )
    early = read(seen, items=log.items)
    assert said(shown(ready(early, GBDT()), early), early) == [{"a": (0,), "c": (1,)}]


def test_only_what_retrievers_bring_is_learnt_and_only_of_known_people(log: Log) -> None:
    shown = Shown(
        slates(("r1", "ann", 1, "ay"), ("r2", "nobody", 1, "ab")),
        events(("click", "ann", "y", 1.1, {}), ("click", "nobody", "b", 1.1, {})),
        CUT,
        Settings(),
    )
    assert said(shown(ready(log, GBDT()), log), log) == [{"a": (0,)}]


def test_at_most_so_many_slates_the_newest(log: Log) -> None:
    rows = [(f"r{n}", "ann", float(n), "ab") for n in range(5)]
    happened = events(*(("click", "ann", "b", n + 0.1, {"recommendation": f"r{n}"}) for n in range(5)))
    funnel = ready(log, GBDT())
    funnel.config = Funnel.Config(candidates=20, queries=2)
    found = Shown(slates(*rows), happened, CUT, Settings())(funnel, log)
    assert found is not None
    assert found.queries.now.tolist() == [int(at(n).timestamp() * 1e6) for n in (3, 4)]


@pytest.mark.parametrize("objective", ["lambdarank", "binary"])
def test_the_ranker_learns_what_people_pass_over(objective: str) -> None:
    """The log knows no difference between calm and loud items; people who are shown both click the calm ones."""
    rng = np.random.default_rng(0)
    items = pl.DataFrame({"item": [f"i{n}" for n in range(40)], "mood": ["calm", "loud"] * 20})
    rows = [(f"u{u}", f"i{i}", -60 * place) for u in range(80) for place, i in enumerate(rng.choice(40, 6, replace=False), 1)]
    frame = pl.DataFrame(rows, schema=["user", "item", "minutes"], orient="row")
    log = read(frame.select("user", "item", time=pl.lit(START) + pl.duration(minutes=pl.col("minutes"))), items=items)
    pages, clicks = [], []
    for user in range(80):
        places = rng.choice(40, 8, replace=False)
        clicked = [place for place in places if place % 2 == 0][-1]
        pages += [
            {"recommendation": f"r{user}", "user": f"u{user}", "time": at(1), "position": n, "item": f"i{i}", "propensity": 1.0}
            for n, i in enumerate(places)
        ]
        clicks.append(("click", f"u{user}", f"i{clicked}", 1.1, {"recommendation": f"r{user}"}))
    shown = Shown(pl.DataFrame(pages), events(*clicks), CUT, Settings())
    ranker = GBDT(objective=objective, min_rows=5, trees=40, negatives_per_query=5, l2=1)
    plain, taught = (
        Funnel([Popular(quota=40)], GBDT(**ranker.config.model_dump()), config=Funnel.Config(candidates=40, cuts=2)).fit(log, Run(), more)
        for more in (None, shown)
    )
    queries = taught.history.queries(np.arange(40, dtype=np.int32))
    calm = [_calm(funnel.stages(queries, 10)["ranked"].items[:, :10]) for funnel in (plain, taught)]
    assert calm[1] > 0.75
    assert calm[1] > calm[0] + 0.15


def _calm(items: Any) -> float:
    return float((items % 2 == 0).mean())

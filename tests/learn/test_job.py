"""A whole bundle from the store's events: promoted, refused, waited for; killed at any moment; never two at once."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from palate import job, read
from palate.errors import BundleError, ConfigError, LearnError, PalateError
from palate.feedback.events import Event
from palate.feedback.store import EventStore
from palate.learn import job as learning
from palate.learn.job import Settings, every, learn
from palate.recommender import Recommender
from palate.serve.shelf import Shelf
from palate.types import Request

LENIENT = Settings(least=50, people=10, margin=1.0)
STRICT = Settings(least=50, people=10, margin=0.0)


def test_a_candidate_that_is_not_worse_takes_over(bundle: Path, store: EventStore) -> None:
    shelf = Shelf(bundle)
    before = shelf.version("bundle")
    learnt = learn(bundle, store, settings=LENIENT)
    assert learnt.action == "promote"
    assert shelf.current() == learnt.bundle == f"bundle@{learnt.version}"
    assert shelf.pointer().previous == ("bundle",)
    assert (learnt.against, shelf.version(learnt.bundle)) == (before, learnt.version)
    made = Recommender.load(shelf.path(learnt.bundle))
    told = made.data["store"]
    assert told["id"] == store.id
    assert 0 < told["cursor"] < store.cursor()
    assert made.data["checksum"] == Recommender.load(bundle).data["checksum"]
    assert made.data["learnt"]["from"] == before
    assert len(made.recommend("u1", k=5)) == 5
    # A hide that was learnt from is never shown; the held-out events are not in the history.
    assert made.funnel.history.latest == learnt_until(store, told["cursor"])
    (decision,) = store.decisions()
    assert (decision.action, decision.version, decision.against) == ("promote", learnt.version, before)
    assert decision.measures["ndcg.low"] <= decision.measures["ndcg.difference"] <= decision.measures["ndcg.high"]
    assert not list(bundle.parent.glob(".*draft*"))


def learnt_until(store: EventStore, cursor: int) -> int:
    from palate.feedback import export

    return int(export.frame(store, 0, cursor)["time"].dt.epoch("us").max())  # type: ignore[arg-type]


def test_the_next_run_begins_where_the_last_one_ended(bundle: Path, store: EventStore) -> None:
    first = learn(bundle, store, settings=LENIENT)
    assert first.action == "promote"
    # What was held out is new again, and nothing else is.
    held = first.measures["held_out"]
    second = learn(bundle, store, settings=LENIENT.model_copy(update={"least": int(held) + 1}))
    assert (second.action, second.measures["events"]) == ("wait", held)
    assert second.version == first.version
    third = learn(bundle, store, settings=LENIENT)
    assert third.measures["events"] == held
    assert [decision.action for decision in store.decisions()] == [third.action, "wait", "promote"]


def test_a_candidate_that_may_be_worse_is_refused_and_leaves_nothing(bundle: Path, store: EventStore) -> None:
    """The candidate knows popular items alone."""
    learnt = learn(bundle, store, settings=STRICT, changes=("rank.trees=1", "funnel.candidates=2", "retrieve.ease.quota=1"))
    assert learnt.action == "refuse"
    assert "worse" in learnt.reason
    assert Shelf(bundle).names() == ["bundle"]
    assert Shelf(bundle).current() == "bundle"
    assert store.decisions()[0].action == "refuse"
    assert sorted(path.name for path in bundle.parent.iterdir()) == [".bundle.learn", "bundle"]


def test_only_the_newest_slates_are_looked_at(bundle: Path, store: EventStore, monkeypatch: pytest.MonkeyPatch) -> None:
    from palate.feedback import export

    seen: list[int] = []
    whole = export.slate_frame

    def watched(store: EventStore, after: int = 0) -> pl.DataFrame:
        seen.append(after)
        return whole(store, after)

    monkeypatch.setattr(export, "slate_frame", watched)
    learn(bundle, store, settings=LENIENT.model_copy(update={"slates": 100}))
    assert seen == [store.slate_cursor() - 100]
    assert whole(store, seen[0])["recommendation"].n_unique() == 100


def test_too_little_is_waited_for(bundle: Path, store: EventStore) -> None:
    few = learn(bundle, store, settings=Settings(least=100_000))
    assert (few.action, few.against) == ("wait", None)
    assert "100000 are needed" in few.reason
    alone = learn(bundle, store, settings=Settings(people=100_000, most=100_000))
    assert alone.action == "wait"
    assert "people can be judged by" in alone.reason
    assert [decision.action for decision in store.decisions()] == ["wait", "wait"]


def test_people_who_were_forgotten_are_in_nothing_that_is_learnt(bundle: Path, store: EventStore) -> None:
    assert "u1" in Recommender.load(bundle).funnel.users["user"]
    store.forget("u1")
    learnt = learn(bundle, store, settings=LENIENT)
    folder = Shelf(bundle).path(learnt.bundle)
    assert learnt.action == "promote"
    assert "u1" not in Recommender.load(folder).funnel.users["user"]
    assert not any(b'"u1"' in path.read_bytes() or b"u1" in _words(path) for path in folder.rglob("*.parquet"))


def _words(path: Path) -> set[bytes]:
    return {str(value).encode() for column in pl.read_parquet(path) if column.dtype == pl.String for value in column}


def test_new_people_and_items_are_learnt(bundle: Path, store: EventStore) -> None:
    last = datetime.fromtimestamp(learnt_until(store, store.cursor()) / 1e6, UTC)
    store.append(
        Event(id=f"n{person}-{item}", kind="click", user=f"new{person}", item=f"fresh{item}", time=last + timedelta(seconds=item))
        for person in range(12)
        for item in range(4)
    )
    # So that there is something to hold out behind them.
    store.append(
        Event(id=f"l{n}", kind="click", user=f"u{n}", item=f"i{n % 60}", time=last + timedelta(minutes=1, seconds=n)) for n in range(150)
    )
    learnt = learn(bundle, store, settings=Settings(least=50, people=10, margin=1.0, holdout=0.1))
    made = Recommender.load(Shelf(bundle).path(learnt.bundle))
    old = Recommender.load(bundle)
    assert {"new3"} <= set(made.funnel.users["user"])
    assert made.funnel.item_ids[: len(old.funnel.item_ids)] == old.funnel.item_ids  # known ids keep their places
    slate = made.recommend(history=["fresh0", "fresh1"], k=40)
    assert {"fresh2", "fresh3"} <= set(slate.items)
    assert made.funnel.recommend([Request(user="new3", k=5)])[0].items


def test_learnt_bundles_are_not_evaluated_on_what_they_learnt(bundle: Path, store: EventStore) -> None:
    learnt = learn(bundle, store, settings=LENIENT)
    with pytest.raises(BundleError, match="has learnt from an event store"):
        job.reopen(Shelf(bundle).path(learnt.bundle))


def test_a_bundle_made_in_python_learns_with_its_log(tmp_path: Path, base: Path, store: EventStore) -> None:
    log = read(base / "events.parquet", kind="kind", value="value", items=base / "items.parquet")
    folder = Recommender(["popular", "ease"]).fit(log).save(tmp_path / "mine")
    with pytest.raises(BundleError, match="give the log it was fitted on"):
        learn(folder, store, settings=LENIENT)
    assert store.decisions()[0].action == "fail"
    with pytest.raises(BundleError, match="is not what it was made of"):
        learn(folder, store, settings=LENIENT, log=replace(log, checksum="other"))
    with pytest.raises(ConfigError, match="without a recipe to change"):
        learn(folder, store, settings=LENIENT, log=log, changes=("retrieve.ease.l2=3",))
    assert learn(folder, store, settings=LENIENT, log=log).action == "promote"


def test_another_store_is_refused(bundle: Path, store: EventStore, tmp_path: Path) -> None:
    learn(bundle, store, settings=LENIENT)
    with EventStore.open(tmp_path / "other.db") as other, pytest.raises(LearnError, match="another event store"):
        learn(bundle, other, settings=LENIENT)


def test_changes_that_belong_elsewhere_are_refused(bundle: Path, store: EventStore) -> None:
    with pytest.raises(ConfigError, match="another log is another bundle"):
        learn(bundle, store, settings=LENIENT, changes=("data.source=other.csv",))
    with pytest.raises(ConfigError, match="did you mean"):
        learn(bundle, store, settings=LENIENT, changes=("rank.treees=4",))
    with pytest.raises(BundleError, match="pass trust="):
        learn(bundle, store, settings=LENIENT, changes=('rank={use = "somewhere.models:Mine"}',))


def test_two_never_learn_at_once(bundle: Path, store: EventStore) -> None:
    with learning._alone(Shelf(bundle)), pytest.raises(LearnError, match="another `palate learn` is at work"):
        learn(bundle, store, settings=LENIENT)
    assert learn(bundle, store, settings=LENIENT).action == "promote"


def test_a_promotion_that_was_cut_short_is_written_down_by_the_next_run(
    bundle: Path, store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def killed(self: EventStore, decision: object) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(EventStore, "decide", killed)
        with pytest.raises(Killed):
            learn(bundle, store, settings=LENIENT)
    name = Shelf(bundle).current()
    assert name != "bundle"
    assert store.decisions() == []
    learn(bundle, store, settings=Settings(least=100_000))
    assert [(one.action, one.version) for one in store.decisions()] == [
        ("wait", Shelf(bundle).version(name)),
        ("promote", Shelf(bundle).version(name)),
    ]


def test_old_bundles_go_but_those_to_go_back_to(bundle: Path, store: EventStore) -> None:
    """keep = 1: after three promotions the first bundle, the one in service and the one before are left."""
    names = ["bundle"]
    settings = Settings(least=10, people=5, margin=1.0, keep=1, holdout=0.5)
    for _ in range(3):
        learnt = learn(bundle, store, settings=settings)
        assert learnt.action == "promote"
        names.append(learnt.bundle)
    assert set(Shelf(bundle).names()) >= {"bundle", names[-1], names[-2]}
    assert Shelf(bundle).roll_back() == names[-2]


def test_every_goes_on_after_an_error_and_stops_when_told(bundle: Path, store: EventStore, tmp_path: Path) -> None:
    import threading

    stopped, told = threading.Event(), []

    def report(learnt: object) -> None:
        told.append(learnt)
        if len(told) == 1:
            assert isinstance(learnt, PalateError)
            shutil.move(tmp_path / "aside", bundle)
        elif len(told) == 3:
            stopped.set()

    shutil.move(bundle, tmp_path / "aside")
    every(0.01, bundle, store, stopped=stopped, report=report, settings=Settings(least=100_000))
    assert [getattr(one, "action", "error") for one in told] == ["error", "wait", "wait"]


def test_what_nobody_foresaw_is_written_down_too(bundle: Path, store: EventStore, monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    def full(self: Recommender, folder: object) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Recommender, "save", full)
    with pytest.raises(OSError, match="No space"):
        learn(bundle, store, settings=LENIENT)
    assert (store.decisions()[0].action, store.decisions()[0].reason) == ("fail", "OSError: [Errno 28] No space left on device")
    stopped, told = threading.Event(), []

    def report(learnt: object) -> None:
        told.append(learnt)
        stopped.set()

    every(0.01, bundle, store, stopped=stopped, report=report, settings=LENIENT)
    assert isinstance(told[0], LearnError)
    assert sorted(path.name for path in bundle.parent.iterdir()) == [".bundle.learn", "bundle"]


def test_the_result_is_plain_json(bundle: Path, store: EventStore) -> None:
    learnt = learn(bundle, store, settings=Settings(least=100_000))
    assert json.loads(json.dumps(learnt.to_json()))["action"] == "wait"


def test_a_service_reads_only_what_lies_behind_the_learnt_bundle(bundle: Path, base: Path, store: EventStore) -> None:
    """What was learnt is in the bundle's own history, what was held out comes from the store: together all of it, and nothing twice."""
    from palate.serve import served
    from palate.serve.person import Rule, look_up

    learnt = learn(bundle, store, settings=LENIENT)
    loaded = served.load(Shelf(bundle), learnt.bundle)
    after = loaded.cursors[store.id]
    history, counted = loaded.funnel.history, 0
    log = pl.read_parquet(base / "events.parquet").filter(pl.col("kind").is_in(["click", "purchase"]))
    for user in ("u1", "u5", "u9", "u20", "u33"):
        own = history.queries(np.array([history.user_code(user)], dtype=np.int32)).history[0]
        behind = look_up(store, user, history, Rule(), after=after, impressions_since=None).history
        everything = store.history(user, limit=10_000)
        assert len(own) + len(behind) == (log["user"] == user).sum() + len(everything)
        counted += len(behind)
    assert counted


def test_learning_from_postgresql(bundle: Path, refill: Callable[[EventStore], None], postgresql: Any) -> None:
    with EventStore.open(postgresql.fresh()) as store:
        refill(store)
        assert learn(bundle, store, settings=LENIENT).action == "promote"
        assert store.decisions()[0].action == "promote"


def test_answers_to_surveys_train_a_satisfaction_task(bundle: Path, store: EventStore, whole: pl.DataFrame) -> None:
    """Another recipe with that task is tried against the one in service. People are glad of the even items that they clicked."""
    clicked = (
        whole[5_000:].filter(kind="click").with_columns(pl.col("time").dt.replace_time_zone("UTC")).unique(["user", "item"], keep="first")
    )
    store.append(
        Event(
            id=f"s{n}",
            kind="survey",
            user=user,
            item=item,
            time=time + timedelta(seconds=30),
            value=5.0 if int(item[1:]) % 2 == 0 else 1.0,
        )
        for n, (user, item, time) in enumerate(clicked.select("user", "item", "time").sort("time").iter_rows())
    )
    last = learnt_until(store, store.cursor())
    at = datetime.fromtimestamp(last / 1e6, UTC)
    store.append(Event(id=f"l{n}", kind="click", user=f"u{n}", item=f"i{n % 60}", time=at + timedelta(seconds=n)) for n in range(150))
    tasks = 'rank.tasks=[{name = "label"}, {name = "satisfaction", kind = "rating", events = ["survey"]}]'
    settings = LENIENT.model_copy(update={"holdout": 0.1})
    learnt = learn(bundle, store, settings=settings, changes=(tasks, "rank.min_rows=3"))
    assert learnt.action == "promote", learnt.reason
    made = Recommender.load(Shelf(bundle).path(learnt.bundle))
    said: dict[str, list[float]] = {"even": [], "odd": []}
    for user in range(20):
        slate = made.recommend(f"u{user}", k=15)
        for item, told in zip(slate.items, slate.probabilities, strict=True):
            assert 1 <= told["satisfaction"] <= 5
            said["even" if int(item[1:]) % 2 == 0 else "odd"].append(told["satisfaction"])
    assert np.mean(said["even"]) > np.mean(said["odd"]) + 1

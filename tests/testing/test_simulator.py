"""The crowd does what it says, and what it does is what the store has."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import palate
from palate.data.sources.planted import world
from palate.feedback import ab, export
from palate.feedback.join import join
from palate.feedback.store import EventStore
from palate.rerank.epsilon_greedy import EpsilonGreedy
from palate.serve.service import Service
from palate.serve.settings import Settings
from palate.serve.shelf import Shelf
from palate.serve.writer import Writer
from palate.testing.simulator import Crowd, Habits, react, scene

START = datetime(2024, 1, 1, tzinfo=UTC)


def test_people_look_from_the_top_and_click_what_they_like() -> None:
    truth, rng = world(40, 30, 0), np.random.default_rng(0)
    users = rng.integers(0, 40, 60_000)
    items = np.argsort(rng.random((len(users), 30)), axis=1)[:, :6]
    items[:100, 4:] = -1
    habits = Habits(eager=-1.0, hide=-1.0)
    did = react(truth, users, items, habits, rng)
    assert (did.looked[:, :-1] >= did.looked[:, 1:]).all()  # a beginning of the slate
    np.testing.assert_allclose(did.looked[100:].mean(axis=0), np.arange(1, 7) ** -0.5, atol=0.01)
    assert not (did.looked | did.clicked | did.hidden)[:100, 4:].any()
    assert not (did.clicked & ~did.looked).any()
    assert not (did.hidden & (~did.looked | did.clicked)).any()
    # by hand: the odds of a click are those of the world times exp(-1), those of a hide exp(-1) over them
    chance = truth.click_probability(users[:, None], items)
    odds = chance / (1 - chance) * np.exp(-1.0)
    looked = did.looked
    assert did.clicked[looked].mean() == pytest.approx((odds / (1 + odds))[looked].mean(), abs=0.005)
    passed = looked & ~did.clicked
    assert did.hidden[passed].mean() == pytest.approx((np.exp(-1) / (np.exp(-1) + odds))[passed].mean(), abs=0.005)
    liked, disliked = (did.clicked[looked & mask].mean() for mask in (chance > 0.5, chance < 0.2))
    assert liked > 2 * disliked
    assert react(truth, users[:9], items[:9], Habits(attention=0, eager=99), rng).clicked.sum() == (items[:9] >= 0).sum()


def test_a_scene_is_biased_and_the_same_for_a_seed() -> None:
    one, two, other = (scene(100, 50, shown=10, visits=200, found=30, seed=seed) for seed in (1, 1, 2))
    assert one.log.events.equals(two.log.events)
    assert not one.log.events.equals(other.log.events)
    assert (one.log.n_users, one.log.n_items, len(one.tail)) == (100, 50, 40)
    shown = one.log.events.filter(kind="impression")["item"].cast(pl.String).unique()
    tail = set(one.log.items["item"].gather(one.tail))
    assert len(shown) == 10
    assert not tail & set(shown)
    assert tail & set(one.log.events.filter(kind="click")["item"].cast(pl.String))  # what people found by themselves
    assert one.log.positive == ("click",)
    assert one.log.negative == ("hide",)


@pytest.fixture
def crowds(tmp_path: Path) -> Iterator[Callable[..., Crowd]]:
    """Makes a crowd of forty before a service that explores."""
    start = scene(40, 60, shown=15, visits=40, found=60)
    retrieve = [palate.Popular(quota=60), palate.EASE(l2=30, quota=60)]
    bundle = palate.Recommender(retrieve, rerank=[EpsilonGreedy(epsilon=0.3)]).fit(start.log).save(tmp_path / "site")
    with EventStore.open(tmp_path / "events.db", timeout=60) as store, Writer(store) as writer:

        def make(habits: Habits = Habits(), **settings: object) -> Crowd:
            service = Service(Shelf(bundle), store, writer, Settings.parse({"clock": "wall", **settings}, "serve"))
            service.start()
            return Crowd(start.world, service, writer, habits=habits)

        yield make


def test_the_store_has_what_happened(crowds: Callable[..., Crowd]) -> None:
    crowd = crowds(Habits(hide=-2.0))
    found = crowd.visit(60, START, every=timedelta(minutes=10))
    store = crowd.service.store
    slates, events = export.slate_frame(store), export.frame(store)
    assert slates["recommendation"].n_unique() == 60
    assert slates["propensity"].is_between(0, 1, closed="right").all()
    assert (slates["propensity"] < 1).any()
    items = crowd.world.items["item"].to_list()
    counts = dict(slates.group_by("item").len().iter_rows())
    assert [counts.get(item, 0) for item in items] == found.shown.tolist()
    clicks = dict(events.filter(kind="click").group_by("item").len().iter_rows())
    assert [clicks.get(item, 0) for item in items] == found.clicked.tolist()
    assert events.filter(kind="hide").height == found.pages["hides"].sum()
    rows = join(slates, events, START + timedelta(days=3)).rows
    users = ab.by_user(rows.with_columns(arm=pl.lit("all")))
    mine = found.pages.group_by("user").agg(clicks=pl.col("clicks").sum(), pages=pl.len(), clicked_pages=(pl.col("clicks") > 0).sum())
    assert users.select("user", "clicks", "pages", "clicked_pages").sort("user").equals(mine.sort("user"), null_equal=True)
    assert found.page_ctr == ab.rate(users["clicked_pages"].to_numpy(), users["pages"].to_numpy())


def test_what_was_clicked_or_hidden_does_not_come_again(crowds: Callable[..., Crowd]) -> None:
    crowd = crowds(Habits(eager=1.0, hide=1.0))
    crowd.visit(80, START, every=timedelta(minutes=10))
    store = crowd.service.store
    done = export.frame(store).filter(pl.col("kind").is_in(["click", "hide"])).select("user", "item", done="time")
    later = export.slate_frame(store).join(done, on=["user", "item"]).filter(pl.col("time") > pl.col("done"))
    assert done.height > 50
    assert not later.height


def test_tastes_drift_and_do_not_grow(crowds: Callable[..., Crowd]) -> None:
    crowd = crowds(Habits(drift=0.3))
    before = crowd.world.tastes.copy()
    crowd.drift()
    once = np.corrcoef(before.ravel(), crowd.world.tastes.ravel())[0, 1]
    for _ in range(30):
        crowd.drift()
    assert 0.9 < once < 0.99
    assert abs(np.corrcoef(before.ravel(), crowd.world.tastes.ravel())[0, 1]) < 0.5
    assert crowd.world.tastes.std() == pytest.approx(before.std(), rel=0.2)

"""An A/B test from end to end: assigned by the service, kept with the slates, joined with what came of them, compared by user."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

import palate
from palate.feedback import export
from palate.feedback.ab import Experiment, Layer, by_user, compare, return_days, sample_ratio
from palate.feedback.join import join
from palate.feedback.store import EventStore
from palate.rerank.epsilon_greedy import EpsilonGreedy
from palate.serve.service import Service
from palate.serve.settings import Settings
from palate.serve.shelf import Shelf
from palate.serve.writer import Writer
from palate.testing.simulator import Crowd, Habits, scene
from palate.types import DataError

START = datetime(2024, 1, 1, tzinfo=UTC)
SHARES = {"best": 1.0, "any": 2.0}
LAYER = Layer(name="home", experiments=(Experiment(name="tries", arms=SHARES, stop=0.9),))


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Slates and events of the store, after 600 visits within three days: one arm is shown the best, the other anything. What the service
    draws differs from run to run: with the best and any of 200 items the difference of the arms is some eight times its error.
    """
    folder = tmp_path_factory.mktemp("served")
    habits = Habits(k=3, attention=0)
    start = scene(400, 200, shown=200, visits=5000, found=100, habits=habits)
    bundle = palate.Recommender([palate.Popular(quota=200)], rerank=[EpsilonGreedy(epsilon=0.1)]).fit(start.log).save(folder / "site")
    arms = {"best": {"epsilon_greedy": {"epsilon": 0.0}}, "any": {"epsilon_greedy": {"epsilon": 1.0}}}
    with EventStore.open(folder / "events.db", timeout=60) as store, Writer(store) as writer:
        service = Service(Shelf(bundle), store, writer, Settings(clock="wall", layer=LAYER, arms=arms))
        service.start()
        Crowd(start.world, service, writer, habits=habits).visit(600, START, every=timedelta(minutes=7))
        return export.slate_frame(store), export.frame(store)


def test_the_arm_of_a_slate_is_that_of_its_user(frames: tuple[pl.DataFrame, pl.DataFrame]) -> None:
    slates, _ = frames
    pages = slates.unique("recommendation", maintain_order=True)
    for user, experiment, arm in pages.select("user", "experiment", "arm").iter_rows():
        assert (LAYER.assign(user) or (None, None)) == (experiment, arm)
    assert pages["arm"].null_count() > 0  # a tenth of the people is in no experiment
    greedy, uniform = (slates.filter(arm=arm)["propensity"] for arm in ("best", "any"))
    assert greedy.unique().to_list() == [1.0]
    assert uniform.max() < 0.1


def test_arms_are_compared_by_what_the_store_says(frames: tuple[pl.DataFrame, pl.DataFrame]) -> None:
    slates, events = frames
    rows = join(slates, events, START + timedelta(days=5)).rows
    users = by_user(rows)
    pages = slates.filter(pl.col("arm").is_not_null())
    assert users["pages"].sum() == pages["recommendation"].n_unique()
    assert users["items"].sum() == pages.height
    clicks = events.filter(kind="click").join(pages.select("recommendation", "item"), on=["recommendation", "item"])
    assert users["clicks"].sum() == clicks.height

    counts = dict(users.group_by("arm").len().iter_rows())
    assert sample_ratio({arm: counts[arm] for arm in SHARES}, SHARES)[0] > 0.001
    for metric in ("page_ctr", "item_ctr"):
        found = compare(users, metric, arm="best", base="any")
        assert found.low > 0, f"{metric}: {found}"
        assert found.ever_low < found.low
    by_hand = users.filter(arm="best")
    assert compare(users, "page_ctr", arm="best", base="any").arm.value == pytest.approx(
        by_hand["clicked_pages"].sum() / by_hand["pages"].sum()
    )


def test_visits_come_back_on_other_days(frames: tuple[pl.DataFrame, pl.DataFrame]) -> None:
    slates, _ = frames
    visits = slates.select("user", "time").unique()
    starts = slates.group_by("user", "arm").agg(start=pl.col("time").min())
    found = return_days(visits, starts, 2, now=START + timedelta(days=9))
    assert found["L2"].is_between(0, 2).all()
    assert 0 < found["L2"].mean() < 2
    users = by_user(join(*frames, START + timedelta(days=5)).rows).join(found.select("user", "L2"), on="user")
    assert compare(users, "L2", arm="best", base="any").level == 0.95


def test_a_salt_that_was_changed_is_found_out(frames: tuple[pl.DataFrame, pl.DataFrame]) -> None:
    slates, events = frames
    moved = slates.with_columns(arm=pl.when(pl.col("time") > START + timedelta(days=1)).then(pl.lit("best")).otherwise("arm"))
    with pytest.raises(DataError, match="is in the arms"):
        by_user(join(moved, events, START + timedelta(days=5)).rows)

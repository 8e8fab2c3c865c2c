"""Several tasks all the way through: log, labels, training, blend, bundle, slates, and what the commands print of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from palate import job
from palate import recipe as recipes
from palate.data.log import read
from palate.data.sources.planted import plant
from palate.data.split import split
from palate.funnel import Funnel
from palate.metrics.ranking import hits
from palate.rank.gbdt import GBDT
from palate.rank.tasks import WANTED, label
from palate.recommender import Recommender
from palate.retrieve.popular import Popular
from palate.serve import bundle
from palate.types import ConfigError, DataError, Log, Ragged, Run, SplitError

USERS, ITEMS, TASTES = 240, 80, 4
WORTH = (np.arange(ITEMS) // TASTES % 3).astype(float)  # 0, 1 or 2: what an item is rated and how long it is watched, not who clicks it


def watched(seed: int = 0) -> pl.DataFrame:
    """Clicks by taste; seven in ten become plays, longer for items of worth; half of those are rated, better for items of worth."""
    rng = np.random.default_rng(seed)
    rows: list[tuple[str, str, int, str, float | None]] = []
    for user in range(USERS):
        weight = np.where(np.arange(ITEMS) % TASTES == user % TASTES, 12.0, 0.5)
        for at, item in enumerate(rng.choice(ITEMS, 14, replace=False, p=weight / weight.sum())):
            now, names = 1000 * at + user, (f"u{user}", f"i{item}")
            rows.append((*names, now, "click", None))
            if rng.random() < 0.7:
                rows.append((*names, now + 5, "play", float(20 * 2 ** WORTH[item] * rng.exponential())))
                if rng.random() < 0.5:
                    rows.append((*names, now + 50, "rating", float(np.clip(round(2 + 1.3 * WORTH[item] + 0.5 * rng.normal()), 1, 5))))
    return pl.DataFrame(rows, schema=["user", "item", "time", "kind", "value"], orient="row").sort("time")


RECIPE = """
[data]
source = "events.csv"
kind = "kind"
value = "value"
items = "items.csv"
positive = ["click"]

[[retrieve]]
use = "popular"
quota = 60

[[retrieve]]
use = "ease"
l2 = 10
quota = 30

[rank]
use = "multitask"
structure = "ple"
body = "dlrm"
body_settings = { top = [32] }
width = 8
expert = [32]
tower = [16]
experts = 1
task_experts = 1
blend = "click * (0.3 + max(rating, 1)) ** 0.5 + 0.001 * log1p(watch_time)"
train = { epochs = 6, batch_size = 512, lr = 5e-3 }

[[rank.tasks]]
name = "click"
events = ["click"]

[[rank.tasks]]
name = "rating"
kind = "rating"
events = ["rating"]
weight = 0.5

[[rank.tasks]]
name = "watch_time"
kind = "watch_time"
events = ["play"]

[funnel]
candidates = 60
cuts = 3
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, job.Job]:
    """What `palate train my.toml --out bundle` does."""
    folder = tmp_path_factory.mktemp("watched")
    watched().write_csv(folder / "events.csv")
    items = {"item": [f"i{item}" for item in range(ITEMS)], "worth": [f"w{worth:g}" for worth in WORTH]}
    pl.DataFrame(items).write_csv(folder / "items.csv")
    (folder / "my.toml").write_text(RECIPE, encoding="utf-8")
    return folder, job.train(recipes.load(str(folder / "my.toml")), folder / "bundle", quiet=True, command="palate train my.toml")


def test_what_is_predicted_is_what_was_planted(trained: tuple[Path, job.Job]) -> None:
    """Clicks by taste, grades and seconds by worth: told apart, each in its own unit."""
    funnel = trained[1].recommender.funnel
    ranked = funnel.stages(funnel.history.queries(np.arange(USERS, dtype=np.int32)), 10)["ranked"]
    present = ranked.present
    worth = WORTH[np.array([int(name[1:]) for name in funnel.item_ids])]
    tastes = np.array([int(name[1:]) % TASTES for name in funnel.item_ids])
    users = np.array([int(name[1:]) % TASTES for name in funnel.users["user"]])
    click, rating, seconds = (ranked.features[f"ranker.{task}"] for task in ("click", "rating", "watch_time"))
    own = present & (tastes[ranked.items] == users[:, None])
    assert click[own].mean() > 3 * click[present & ~own].mean()
    assert ((click[present] > 0) & (click[present] < 1)).all()
    assert ((rating[present] >= 1) & (rating[present] <= 5)).all()
    assert (seconds[present] >= 0).all()
    best, worst = present & (worth[ranked.items] == 2), present & (worth[ranked.items] == 0)
    assert rating[best].mean() > rating[worst].mean() + 1.5  # planted: 2.6 apart
    assert seconds[best & own].mean() > 1.5 * seconds[worst & own].mean()  # planted: four times
    assert np.isnan(click[~present]).all()


def test_the_order_is_that_of_the_blend(trained: tuple[Path, job.Job]) -> None:
    funnel = trained[1].recommender.funnel
    ranked = funnel.stages(funnel.history.queries(np.arange(20, dtype=np.int32)), 10)["ranked"]
    click, rating, seconds = (ranked.features[f"ranker.{task}"].astype(float) for task in ("click", "rating", "watch_time"))
    expected = click * np.sqrt(0.3 + np.maximum(rating, 1)) + 0.001 * np.log1p(seconds)
    np.testing.assert_allclose(ranked.scores[ranked.present], expected[ranked.present], rtol=1e-5)
    assert (np.diff(ranked.scores, axis=1)[ranked.present[:, 1:]] <= 0).all()
    assert "ranker.probability" not in ranked.features  # no task asks what counts as wanted: `events` names the kinds


def test_the_clicks_are_calibrated(trained: tuple[Path, job.Job]) -> None:
    found = trained[1].evaluation.tasks
    assert 0.6 < found["click"]["calibration_ratio"] < 1.6
    assert found["click"]["auc"] > 0.6
    assert found["rating"]["rmse"] < 1.0  # grades spread by 1.2 about their mean
    assert set(found["watch_time"]) >= {"mae", "log_mae", "calibration_ratio", "candidates"}
    assert (
        json.loads((trained[0] / "bundle" / "manifest.json").read_text())["metrics"]["tasks"]["rating"]["rmse"] == found["rating"]["rmse"]
    )


def test_a_loaded_bundle_gives_the_same_slates_and_numbers(trained: tuple[Path, job.Job]) -> None:
    folder, done = trained
    again = Recommender.load(folder / "bundle")
    for request in ({"user": "u3"}, {"history": ["i0", "i4"]}):
        before, after = done.recommender.recommend(k=6, **request), again.recommend(k=6, **request)  # type: ignore[arg-type]
        assert before.items == after.items
        np.testing.assert_allclose(before.scores, after.scores, rtol=1e-5)
        for one, other in zip(before.probabilities, after.probabilities, strict=True):
            assert list(one) == ["click", "rating", "watch_time"]
            np.testing.assert_allclose(list(one.values()), list(other.values()), rtol=1e-4)
    assert {path.name for path in (folder / "bundle" / "calibrator").iterdir()} == {"click"}


def test_the_command_shows_every_number(trained: tuple[Path, job.Job], capsys: pytest.CaptureFixture[str]) -> None:
    from palate import cli

    target = str(trained[0] / "bundle")
    with pytest.raises(SystemExit) as left:
        cli.app(["recommend", target, "--user", "u3", "-k", "2", "--json"], standalone_mode=True)
    assert not left.value.code
    first = json.loads(capsys.readouterr().out)["items"][0]
    assert set(first["tasks"]) == {"click", "rating", "watch_time"}
    assert 1 <= first["tasks"]["rating"] <= 5
    with pytest.raises(SystemExit):
        cli.app(["recommend", target, "--user", "u3", "-k", "2"], standalone_mode=True)
    shown = capsys.readouterr().out
    assert "click " in shown
    assert "rating " in shown


def test_another_blend_is_another_order(trained: tuple[Path, job.Job]) -> None:
    """The same predictions, ordered by grade alone: the slates hold more of what is rated well."""
    from palate.rank.blend import Blend

    funnel = trained[1].recommender.funnel
    queries = funnel.history.queries(np.arange(USERS, dtype=np.int32))
    worth = WORTH[np.array([int(name[1:]) for name in funnel.item_ids])]
    kept, means = funnel.blend, []
    try:
        for formula in ("click", "rating"):
            funnel.blend = Blend.parse(formula, ("click", "rating", "watch_time"))
            means.append(worth[funnel.stages(queries, 5)["funnel"].items].mean())
    finally:
        funnel.blend = kept
    assert means[1] > means[0] + 0.5


@pytest.fixture(scope="module")
def log() -> Log:
    return read(watched(), kind="kind", value="value", positive=["click"], name="watched")


@pytest.mark.parametrize("holdout", ["last", "time"])
def test_one_task_is_labelled_as_it_always_was(holdout: Any) -> None:
    """By its own item where each event is a query, by all that was wanted later where one moment cuts: whatever other events there are."""
    log = plant(users=60, items=40, events=4000)[0]
    funnel = Funnel([Popular(quota=40)], GBDT(), config=Funnel.Config(holdout=holdout, fraction=0.3))
    funnel._know(log)
    positives = log.positives()
    _, queries, happened, _ = funnel._cut(log, positives, Run())
    items = np.tile(np.arange(log.n_items, dtype=np.int32), (len(queries), 1))
    wanted = []
    for row in range(len(queries)):
        own = (positives.user_codes == queries.users[row]) & (positives.times >= queries.now[row])
        later = positives.item_codes[own]
        wanted.append(later if holdout == "time" else later[:1])
    expected = hits(items, Ragged.of(wanted))
    assert expected.any()
    np.testing.assert_array_equal(label(WANTED, log, happened, items)[:, :, 0], expected)


def test_several_clicks_work_with_any_ranker(log: Log) -> None:
    tasks = ({"name": "label"}, {"name": "played", "events": ["play"]})
    blend = "label + 2 * played"
    ranker = GBDT(objective="binary", min_rows=5, trees=20, threads=1, tasks=tasks, blend=blend)
    recommender = Recommender(["popular"], ranker, candidates=40, cuts=2).fit(log)
    slate = recommender.recommend("u1", k=3)
    assert [list(p) for p in slate.probabilities] == [["label", "played"]] * 3
    np.testing.assert_allclose(slate.scores, [p["label"] + 2 * p["played"] for p in slate.probabilities], rtol=1e-5)
    table = recommender.table(slate)
    assert table["probability"].to_list() == [row["label"] for row in table["tasks"]]


def test_without_declared_tasks_nothing_is_new(log: Log) -> None:
    recommender = Recommender(["popular"], GBDT(min_rows=5, trees=20, threads=1), candidates=40, cuts=2).fit(log)
    slate = recommender.recommend("u1", k=3)
    assert [list(p) for p in slate.probabilities] == [["label"]] * 3
    assert "tasks" not in recommender.table(slate).columns
    assert "tasks" not in recommender.table(replace(slate, items=(), scores=(), sources=(), probabilities=(), reasons=())).columns


def test_a_bundle_of_format_1_still_loads(log: Log, tmp_path: Path) -> None:
    """There the one calibrator lay in the folder itself."""
    recommender = Recommender(["popular"], GBDT(min_rows=5, trees=20, threads=1), candidates=40, cuts=2).fit(log)
    folder = recommender.save(tmp_path / "bundle")
    for path in list((folder / "calibrator" / "label").iterdir()):
        path.rename(folder / "calibrator" / path.name)
    (folder / "calibrator" / "label").rmdir()
    manifest = bundle.read_manifest(folder)
    manifest["files"] = {name.replace("calibrator/label/", "calibrator/"): digest for name, digest in manifest["files"].items()}
    (folder / "manifest.json").write_text(json.dumps(manifest | {"format_version": 1}), encoding="utf-8")
    assert Recommender.load(folder).recommend("u1", k=5) == recommender.recommend("u1", k=5)


@pytest.mark.parametrize(
    ("tasks", "blend", "error", "message"),
    [
        ([{"name": "click", "events": ["clicks"]}], None, ConfigError, "task 'click': the log has no event of kind 'clicks'; it has click"),
        ([{"name": "click"}], "0 / 0 * click", DataError, r"blend: '0 / 0 \* click' is nan for click = "),
        ([{"name": "click"}], "exp(click", ConfigError, "blend: position 4: not a formula"),
    ],
)
def test_mistakes_end_training_in_one_line(log: Log, tasks: Any, blend: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Recommender(["popular"], GBDT(min_rows=5, trees=20, threads=1, tasks=tasks, blend=blend), candidates=40, cuts=2).fit(log)


def test_a_task_that_no_candidate_has_is_refused(log: Log) -> None:
    fans = log.where(~((pl.col("kind") == "play") & (pl.col("time") > pl.col("time").min())))
    ranker = GBDT(min_rows=5, trees=20, threads=1, tasks=[{"name": "label"}, {"name": "played", "events": ["play"]}])
    with pytest.raises(SplitError, match="task 'played': the retrievers brought no candidate that has such an event"):
        Recommender(["popular"], ranker, candidates=40, cuts=2).fit(fans)


def test_splits_leave_tasks_something_to_be_judged_by(log: Log) -> None:
    train, test = split(log, "leave-last-out")
    assert {"play", "rating"} <= set(test.events["kind"].cast(pl.String).unique())
    ranker = GBDT(objective="binary", min_rows=5, trees=20, threads=1, tasks=[{"name": "label"}, {"name": "played", "events": ["play"]}])
    evaluation = Recommender(["popular"], ranker, candidates=40, cuts=2).fit(train).evaluate(test)
    assert evaluation.tasks["label"]["auc"] == pytest.approx(evaluation.ranker["auc"])
    assert 0 < evaluation.tasks["played"]["positives"] < evaluation.tasks["label"]["positives"]

"""Labels of candidates from the events of a log, by hand."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from palate.data.log import read
from palate.rank.tasks import WANTED, Task, aftermath, check, label, says
from palate.types import NOTHING, ConfigError, Log, Ragged, SplitError

nan = float("nan")


@pytest.fixture(scope="module")
def log() -> Log:
    rows = [
        ("a", "x", 1, "click", None),  # 0
        ("a", "x", 2, "play", 10.0),  # 1
        ("a", "x", 3, "play", 5.0),  # 2
        ("a", "x", 4, "rating", 3.0),  # 3
        ("a", "x", 5, "rating", 4.0),  # 4
        ("a", "x", 6, "rating", None),  # 5
        ("a", "y", 7, "play", None),  # 6
        ("b", "y", 8, "click", None),  # 7
        ("b", "z", 9, "rating", 1.0),  # 8
        ("b", "w", 9, "dislike", None),  # 9
    ]
    frame = pl.DataFrame(rows, schema=["user", "item", "time", "kind", "value"], orient="row")
    return read(frame, kind="kind", value="value", positive=["click", "play"], name="three")


def labels(log: Log, *tasks: Task) -> np.ndarray:
    """Two queries, all of a's events and all of b's, each with the candidates z, x, nothing, y."""
    codes = {item: code for code, item in enumerate(log.items["item"])}
    row = [codes["z"], codes["x"], NOTHING, codes["y"]]
    return label(tasks, log, Ragged.of([range(7), range(7, 10)]), np.array([row, row], dtype=np.int32))


def test_click_by_hand(log: Log) -> None:
    found = labels(log, Task(name="click", events=("click",)))
    assert found.dtype == np.float32
    assert found.shape == (2, 4, 1)
    assert found[:, :, 0].tolist() == [[0, 1, 0, 0], [0, 0, 0, 1]]


def test_wanted_is_what_the_log_says_is_positive(log: Log) -> None:
    assert labels(log, *WANTED)[:, :, 0].tolist() == [[0, 1, 0, 1], [0, 0, 0, 1]]
    assert labels(log, Task(name="any", events=("play", "click")))[:, :, 0].tolist() == [[0, 1, 0, 1], [0, 0, 0, 1]]


def test_rating_is_the_last_one_given_and_unknown_without_one(log: Log) -> None:
    found = labels(log, Task(name="rating", kind="rating", events=("rating",)))[:, :, 0]
    np.testing.assert_array_equal(found, [[nan, 4, nan, nan], [1, nan, nan, nan]])


def test_watch_time_adds_up_and_is_unknown_where_a_value_is(log: Log) -> None:
    found = labels(log, Task(name="watch_time", kind="watch_time", events=("play",)))[:, :, 0]
    np.testing.assert_array_equal(found, [[0, 15, 0, nan], [0, 0, 0, 0]])


def test_a_positive_value_counts(log: Log) -> None:
    from dataclasses import replace

    liked = replace(log, positive=("rating",), positive_value=4.0)
    assert labels(liked, *WANTED)[:, :, 0].tolist() == [[0, 1, 0, 0], [0, 0, 0, 0]]


def test_mistakes_are_named(log: Log) -> None:
    with pytest.raises(ConfigError, match=r"task 'buy': the log has no event of kind 'purchase'; it has click, dislike, play, rating"):
        labels(log, Task(name="buy", events=("purchase",)))
    with pytest.raises(ConfigError, match=r"task 'rating': say which kinds of event hold its value, for example events = \[\"rating\"\]"):
        labels(log, Task(name="rating", kind="rating"))
    no = Task(name="no", events=("dislike",))
    with pytest.raises(SplitError, match="three: task 'no': the retrievers brought no candidate that has such an event; raise their quota"):
        check([no], labels(log, no), "three")
    for name in ("two words", "exp", "probability", "1st"):
        with pytest.raises(ConfigError, match="must be letters, digits and _"):
            Task.parse({"name": name}, "task")
    with pytest.raises(ConfigError, match=r"task\.weight"):
        Task.parse({"name": "click", "weight": 0}, "task")


def test_what_came_of_a_wanted_event_by_hand(log: Log) -> None:
    # wanted: rows 0 (a, x), 1 and 2 (plays of x), 6 (a, y), 7 (b, y)
    wanted = np.flatnonzero(says(WANTED[0], log))
    assert wanted.tolist() == [0, 1, 2, 6, 7]
    found = aftermath(log, wanted, np.array([4, 0, 2, 3]))
    # b from 7 on: all that is left. a's click of x: itself, and what a did with x later. The last play: the ratings come before y.
    assert [found[row].tolist() for row in range(4)] == [[7, 8, 9], [0, 1, 2, 3, 4, 5], [2, 3, 4, 5], [6]]


def test_metrics_of_a_task() -> None:
    y, p = np.array([0.0, 1.0, 0.0, 1.0]), np.array([0.2, 0.8, 0.4, 0.6])
    assert Task(name="click").metrics(y, p)["auc"] == 1.0
    assert Task(name="click").metrics(y, p)["calibration_ratio"] == pytest.approx(1.0)
    assert set(Task(name="r", kind="rating").metrics(y, p)) == {"rmse", "mae"}
    assert set(Task(name="w", kind="watch_time").metrics(y, p)) == {"mae", "log_mae", "calibration_ratio"}

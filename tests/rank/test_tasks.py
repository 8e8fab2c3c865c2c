"""Labels of candidates from the events of a log, by hand."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from palate.data.log import read
from palate.rank.tasks import WANTED, Task, label
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
    with pytest.raises(SplitError, match="three: task 'no': no candidate that the retrievers brought has such an event"):
        labels(log, Task(name="no", events=("dislike",)))
    for name in ("two words", "exp", "probability", "1st"):
        with pytest.raises(ConfigError, match="must be letters, digits and _"):
            Task.parse({"name": name}, "task")
    with pytest.raises(ConfigError, match=r"task\.weight"):
        Task.parse({"name": "click", "weight": 0}, "task")

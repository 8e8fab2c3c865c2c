"""A/B tests: assignment, intervals under peeking, rates by the delta method, sample ratios, return visits."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from palate.feedback.ab import Experiment, Layer, always_valid, by_user, compare, difference, layers, rate, return_days, sample_ratio, unit
from palate.types import ConfigError, DataError, PalateError

USERS = [f"user-{number}" for number in range(20_000)]
HALF = {"control": 1.0, "new": 1.0}


# -- assignment -----------------------------------------------------------------------------------------------------------------------


def test_assignment_by_hand_never_changes() -> None:
    """Written down once: another value in a later version would move people between arms in the middle of a test."""
    assert unit("salt", "42") == 0.616702044969703  # as `printf 4:salt42 | b2sum -l 64` has it
    assert unit("a", "bc") != unit("ab", "c")
    layer = Layer(name="ranking", experiments=(Experiment(name="dlrm", arms=HALF, stop=0.5),))
    assert [layer.assign(user) for user in ("ann", "bob", "cid", "dan")] == [layer.assign(user) for user in ("ann", "bob", "cid", "dan")]


def test_shares_are_kept_and_slices_are_disjoint() -> None:
    layer = Layer(
        name="home",
        experiments=(
            Experiment(name="a", arms={"x": 1, "y": 3}, stop=0.4),
            Experiment(name="b", arms={"x": 1, "y": 1, "z": 2}, start=0.4, stop=0.9),
        ),
    )
    assigned = pl.DataFrame([layer.assign(user) or ("none", "none") for user in USERS], schema=["experiment", "arm"], orient="row")
    counts = {row[:2]: row[2] / len(USERS) for row in assigned.group_by("experiment", "arm").len().rows()}
    for cell, share in {("a", "x"): 0.1, ("a", "y"): 0.3, ("b", "x"): 0.125, ("b", "z"): 0.25, ("none", "none"): 0.1}.items():
        assert counts[cell] == pytest.approx(share, abs=4 * (share / len(USERS)) ** 0.5)


def test_layers_cross_evenly_and_arms_do_not_follow_the_slice() -> None:
    one, two = layers([Layer(name=name, experiments=(Experiment(name=f"{name}-test", arms=HALF),)) for name in ("one", "two")])
    pairs = [(one.assign(user), two.assign(user)) for user in USERS]
    both = np.mean([left is not None and right is not None and left[1] == right[1] for left, right in pairs])
    assert both == pytest.approx(0.5, abs=4 * 0.5 / len(USERS) ** 0.5)
    narrow = Layer(name="one", experiments=(Experiment(name="late", arms=HALF, start=0.9),))
    arms = [assigned[1] for assigned in map(narrow.assign, USERS) if assigned is not None]
    assert np.mean([arm == "new" for arm in arms]) == pytest.approx(0.5, abs=4 * 0.5 / len(arms) ** 0.5)


@given(st.text(), st.text())
def test_any_text_is_a_user_and_the_order_of_arms_moves_nobody(user: str, salt: str) -> None:
    user, salt = (text.encode("utf-8", "ignore").decode() for text in (user, salt))
    assert 0 <= unit(salt, user) < 1
    there = Experiment(name="n", arms={"a": 1, "b": 2}, salt=salt or None).arm(user)
    assert there == Experiment(name="n", arms={"b": 4, "a": 2}, salt=salt or None).arm(user)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Experiment(name="n", arms={"a": 1}), "at least 2"),
        (lambda: Experiment(name="n", arms={"a": 1, "b": 0}), "'b' is 0"),
        (lambda: Experiment(name="n", arms=HALF, start=0.5, stop=0.5), "must lie below stop"),
        (
            lambda: Layer(name="l", experiments=(Experiment(name="a", arms=HALF, stop=0.6), Experiment(name="b", arms=HALF, start=0.5))),
            "overlap",
        ),
        (lambda: Layer(name="l", experiments=(Experiment(name="a", arms=HALF, stop=0.5),) * 2), "two are called 'a'"),
        (lambda: Experiment.parse({"name": "n", "arms": HALF, "strat": 0.1}, "layers"), "strat"),
        (lambda: layers([Layer(name="l", experiments=()), Layer(name="m", experiments=(), salt="l")]), "the salt 'l'"),
    ],
)
def test_bad_layers(make: Any, message: str) -> None:
    with pytest.raises((PalateError, pydantic.ValidationError), match=message):
        make()


# -- intervals ------------------------------------------------------------------------------------------------------------------------


def test_rate_by_hand() -> None:
    """y = 1, 0, 3; x = 2, 1, 3: m = 2/3, rests -1/3, -2/3, 1 with variance 14/9/2; over n mean(x)^2 = 3 x 4."""
    told = rate([1, 0, 3], [2, 1, 3])
    assert told.value == pytest.approx(2 / 3)
    assert told.error == pytest.approx((14 / 18 / 3) ** 0.5 / 2)
    ones = rate([0.0, 1.0, 1.0, 0.0], np.ones(4))  # with x = 1 it is the error of a mean
    assert ones.error == pytest.approx(np.std([0, 1, 1, 0], ddof=1) / 2)


def test_always_valid_by_hand() -> None:
    r = (-2 * np.log(0.05) + np.log(-2 * np.log(0.05)) + 1) / 500
    width = np.sqrt(2 * (300 * r + 1) / (300 * r) * np.log(np.sqrt(300 * r + 1) / 0.05))
    assert always_valid(300, narrowest=500) == pytest.approx(width)
    assert always_valid(500, narrowest=500) * 500**-0.5 < always_valid(500, narrowest=5000) * 500**-0.5


def people(rng: np.random.Generator, users: int, ctr: float) -> tuple[np.ndarray, np.ndarray]:
    """Clicks and items by user: some look at far more than others, and each has a taste for clicking of his own."""
    items = rng.geometric(0.2, users) * 5
    return rng.binomial(items, np.clip(rng.beta(2, 2 / ctr - 2, users), 0, 1)), items


def test_the_delta_method_covers_and_independent_rows_do_not() -> None:
    covered, naive = 0, 0
    for seed in range(300):
        clicks, items = people(np.random.default_rng(seed), 400, 0.1)
        told = rate(clicks, items)
        covered += abs(told.value - 0.1) < 1.959964 * told.error
        naive += abs(told.value - 0.1) < 1.959964 * (told.value * (1 - told.value) / items.sum()) ** 0.5
    assert 0.92 < covered / 300 < 0.98
    assert naive / 300 < 0.85


def test_false_alarms_under_peeking() -> None:
    """200 tests of nothing, 30 looks each: the fixed interval cries wolf in a fifth of them, the other in 5 % at most."""
    fixed = ever = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        arms = [people(rng, 3000, 0.1), people(rng, 3000, 0.1)]
        looks = [difference(*(rate(y[:n], x[:n]) for y, x in arms), narrowest=3000) for n in range(100, 3001, 100)]
        fixed += any(not look.low <= 0 <= look.high for look in looks)
        ever += any(look.decided for look in looks)
    assert fixed / 200 > 0.18
    assert ever / 200 <= 0.05


def test_a_true_difference_is_found() -> None:
    found = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        told = difference(rate(*people(rng, 5000, 0.12)), rate(*people(rng, 5000, 0.1)))
        assert told.ever_low < told.low < told.value < told.high < told.ever_high
        found += told.decided
    assert found > 35
    assert "at all looks" in str(told)


# -- metrics --------------------------------------------------------------------------------------------------------------------------


def test_item_and_page_level_by_hand() -> None:
    rows = pl.DataFrame(
        {
            "user": ["u", "u", "u", "v", "v", "w", None],
            "arm": ["a", "a", "a", "a", "a", "b", "a"],
            "recommendation": ["1", "1", "2", "3", "3", "4", "5"],
            "clicked": [True, True, False, False, True, False, True],
        }
    )
    users = by_user(rows)
    assert users.rows() == [("u", "a", 3, 2, 2, 1), ("v", "a", 2, 1, 1, 1), ("w", "b", 1, 0, 1, 0)]
    a = users.filter(pl.col("arm") == "a")
    assert rate(a["clicks"], a["items"]).value == pytest.approx(3 / 5)
    assert rate(a["clicked_pages"], a["pages"]).value == pytest.approx(2 / 3)
    with pytest.raises(DataError, match="the arm 'b' has 1 users"):
        compare(users, "page_ctr", arm="a", base="b")
    with pytest.raises(ConfigError, match="metrics are item_ctr, page_ctr, items"):
        compare(users, "ctr", arm="a", base="b")
    with pytest.raises(DataError, match="'v' is in the arms a, b"):
        by_user(rows.with_columns(arm=pl.Series(["a", "a", "a", "a", "b", "b", "a"])))
    with pytest.raises(DataError, match="no column 'arm'"):
        by_user(rows.drop("arm"))


def test_compare_is_difference_of_rates() -> None:
    rng = np.random.default_rng(0)
    frames = []
    for arm in ("a", "b"):
        clicks, items = people(rng, 300, 0.1)
        frames.append(pl.DataFrame({"arm": [arm] * 300, "clicks": clicks, "items": items, "L7": rng.integers(0, 8, 300)}))
    users = pl.concat(frames)
    told = compare(users, "item_ctr", arm="b", base="a")
    assert told.arm == rate(frames[1]["clicks"], frames[1]["items"])
    assert told.value == told.arm.value - told.base.value
    days = compare(users, "L7", arm="b", base="a")
    assert days.base.value == pytest.approx(frames[0]["L7"].mean())


def test_sample_ratio_by_hand_and_at_all_looks() -> None:
    # chi-squared of (50, 50) off by 10: 2 x 100 / 50 = 4 on 1 degree of freedom
    assert sample_ratio({"a": 60, "b": 40}, {"a": 1, "b": 1})[0] == pytest.approx(0.0455, abs=1e-4)
    # Beta(1, 1) against 1/2: after 1 and 0 the factor is (1/2) / (1/2) = 1; after 3 and 0 it is (1/4) / (1/8) = 2
    assert sample_ratio({"a": 3, "b": 0}, {"a": 1, "b": 1}, strength=2)[1] == pytest.approx(0.5)
    alarms = np.zeros(2)
    for seed in range(200):
        drawn = (np.random.default_rng(seed).random(4000) < 0.5).cumsum()
        looks = [sample_ratio({"a": int(drawn[n - 1]), "b": n - int(drawn[n - 1])}, HALF_AB) for n in range(100, 4001, 100)]
        alarms += np.array(looks).min(axis=0) < 0.05
    assert alarms[0] / 200 > 0.2
    assert alarms[1] / 200 <= 0.05
    assert max(sample_ratio({"a": 5400, "b": 4600}, HALF_AB)) < 0.001
    with pytest.raises(DataError, match=r"counts of \['a'\]"):
        sample_ratio({"a": 1}, HALF_AB)


HALF_AB = {"a": 1.0, "b": 1.0}


def test_return_days_by_hand() -> None:
    start = datetime(2026, 3, 1, 12, tzinfo=UTC)
    hours = {"u": [1, 23, 25, 30, 49, 7 * 24 + 1, 8 * 24], "v": [-5, 26], "late": [25], "w": []}
    visits = pl.DataFrame(
        [(user, start + timedelta(hours=hour)) for user, given in hours.items() for hour in given],
        schema={"user": pl.String, "time": pl.Datetime("us", "UTC")},
        orient="row",
    )
    starts = pl.DataFrame(
        {"user": ["u", "v", "late", "w"], "start": [start, start, start + timedelta(hours=1), start], "arm": ["a", "b", "a", "a"]}
    )
    starts = starts.with_columns(pl.col("start").cast(pl.Datetime("us", "UTC")))
    # u came on days 1 (twice), 2 and 7; the visit at 8 x 24 hours is day 8. "late" has an hour to go.
    got = return_days(visits, starts, 7, now=start + timedelta(days=8))
    assert got.select("user", "arm", "L7").rows() == [("u", "a", 3), ("v", "b", 1), ("w", "a", 0)]
    assert return_days(visits, starts, 28, now=start + timedelta(days=8)).height == 0
    with pytest.raises(DataError, match="a user twice"):
        return_days(visits, pl.concat([starts, starts]), 7, now=start)
    with pytest.raises(DataError, match="visits has no column 'time'"):
        return_days(visits.drop("time"), starts, 7, now=start)

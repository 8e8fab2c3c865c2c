"""Off-policy estimates of single choices: by hand, exact expectations by enumeration, coverage of the intervals, and every refusal."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from palate.data.sources import obd
from palate.feedback.off_policy import (
    Logged,
    Predicted,
    Settings,
    SupportError,
    cell_means,
    check_support,
    direct,
    doubly_robust,
    effective_size,
    ips,
    snips,
)
from palate.types import DataError

FREE = Settings(least_ess=1)

# A bandit small enough to enumerate: two contexts, three actions, rewards 0 and 1.
CONTEXTS = np.array([0.4, 0.6])
MEANS = np.array([[0.2, 0.5, 0.9], [0.7, 0.1, 0.3]])
LOGGING = np.array([[0.5, 0.3, 0.2], [0.2, 0.5, 0.3]])
TARGET = np.array([[0.1, 0.2, 0.7], [0.6, 0.0, 0.4]])
TRUTH = float((CONTEXTS[:, None] * TARGET * MEANS).sum())
MODEL = np.array([[0.3, 0.3, 0.3], [0.9, 0.0, 0.5]])  # wrong everywhere


def draw(rows: int, seed: int, users: int | None = None) -> tuple[Logged, Predicted]:
    """Rows of the bandit. users: so many people, each with a context and a taste of his own (rows of one are not independent)."""
    rng = np.random.default_rng(seed)
    who = np.arange(rows) if users is None else rng.integers(0, users, rows)
    contexts = rng.choice(2, int(who.max()) + 1, p=CONTEXTS)[who]
    actions = (rng.random(rows)[:, None] > LOGGING[contexts].cumsum(axis=1)).sum(axis=1)
    rewards = (rng.random(rows) < MEANS[contexts, actions]).astype(float)
    logged = Logged.of_policies(actions, rewards, LOGGING[contexts], TARGET[contexts], None if users is None else who)
    return logged, Predicted.of(MODEL[contexts], TARGET[contexts], actions)


def test_every_estimator_by_hand() -> None:
    # w = 2, 1/2, 1, 0; r = 1, 1, 0, 1; q = .5, .25, .5, 1; v = .5, .25, .75, .5
    logged = Logged(np.array([1.0, 1, 0, 1]), np.array([0.25, 0.5, 0.5, 0.5]), np.array([0.5, 0.25, 0.5, 0.0]))
    predicted = Predicted(np.array([0.5, 0.25, 0.5, 1]), np.array([0.5, 0.25, 0.75, 0.5]))
    assert ips(logged, FREE).value == pytest.approx((2 + 0.5) / 4)
    assert snips(logged, FREE).value == pytest.approx(2.5 / 3.5)
    assert direct(logged, predicted, FREE).value == pytest.approx(2 / 4)
    assert doubly_robust(logged, predicted, FREE).value == pytest.approx(0.5 + (2 * 0.5 + 0.5 * 0.75 - 0.5) / 4)
    assert doubly_robust(logged, predicted, FREE, normalised=True).value == pytest.approx(0.5 + 0.875 / 3.5)
    clipped = ips(logged, FREE.model_copy(update={"clip": 1.0}))
    assert (clipped.value, clipped.clipped, clipped.largest) == (pytest.approx(1.5 / 4), 0.25, 2.0)
    assert ips(logged, FREE).ess == pytest.approx(3.5**2 / (4 + 0.25 + 1))
    assert ips(logged, FREE.model_copy(update={"gain": True})).value == pytest.approx(2.5 / 4 - 3 / 4)
    # IPS terms 2, .5, 0, 0: variance with n - 1, over n; z = 1.96
    error = np.std([2, 0.5, 0, 0], ddof=1) / 2
    assert ips(logged, FREE).high - ips(logged, FREE).value == pytest.approx(1.959964 * error)


def test_the_delta_method_by_hand() -> None:
    """Two users: sums of w r = 2, 1 and of w = 3, 1 give 3/4; pulls are (2 - 9/4) / 4 and (1 - 3/4) / 4."""
    logged = Logged(np.array([1.0, 0, 1]), np.array([0.5, 0.5, 0.5]), np.array([1.0, 0.5, 0.5]), np.array(["a", "a", "b"]))
    told = snips(logged, FREE)
    assert told.users == 2
    assert told.value == pytest.approx(0.75)
    assert told.high - told.value == pytest.approx(1.959964 * np.sqrt(2 * 2 * 0.0625**2))


@pytest.mark.parametrize("estimator", ["ips", "dr"])
def test_unbiased_by_enumeration(estimator: str) -> None:
    """The exact expectation over all logs of one row (context, action, reward), doubled so that there is a variance."""
    expected = 0.0
    for context, action, reward in itertools.product(range(2), range(3), (0.0, 1.0)):
        mean = MEANS[context, action]
        chance = CONTEXTS[context] * LOGGING[context, action] * (mean if reward else 1 - mean)
        twice = np.array([context, context])
        logged = Logged.of_policies(np.array([action] * 2), np.array([reward] * 2), LOGGING[twice], TARGET[twice])
        weights = logged.weights
        if estimator == "ips":
            value = (weights * logged.rewards).mean()
            if weights.any():
                told = quietly(ips, logged)
                assert told == pytest.approx(value)
        else:
            predicted = Predicted.of(MODEL[twice], TARGET[twice], np.array([action] * 2))
            value = (predicted.expected + weights * (logged.rewards - predicted.logged)).mean()
            if weights.any():
                assert quietly(doubly_robust, logged, predicted) == pytest.approx(value)
        expected += chance * value
    assert expected == pytest.approx(TRUTH, abs=1e-12)


def quietly(estimator: Any, logged: Logged, *more: Any) -> float:
    """The value without the check of the weights' mean, which two rows cannot pass."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("palate.feedback.off_policy.check_weights", lambda *_: None)
        return float(estimator(logged, *more, FREE).value)


def test_all_estimators_come_near_the_truth_and_the_model_alone_does_not() -> None:
    logged, predicted = draw(200_000, 0)
    for told in (ips(logged), snips(logged), doubly_robust(logged, predicted), doubly_robust(logged, predicted, normalised=True)):
        assert told.value == pytest.approx(TRUTH, abs=0.01)
        assert told.covers(TRUTH)
    assert abs(direct(logged, predicted).value - TRUTH) > 0.02
    gain = ips(logged, Settings(gain=True))
    assert gain.covers(TRUTH - float((CONTEXTS[:, None] * LOGGING * MEANS).sum()))


@pytest.mark.parametrize("users", [None, 60])
@pytest.mark.parametrize("interval", ["normal", "bootstrap"])
def test_intervals_cover_as_often_as_they_say(interval: Any, users: int | None) -> None:
    """Of 200 logs; with users the truth is the mean over people, whose rows share a context."""
    settings = Settings(interval=interval, level=0.9, resamples=200)
    covered = np.zeros(3)
    for seed in range(200):
        logged, predicted = draw(400, seed, users)
        told = (ips(logged, settings), snips(logged, settings), doubly_robust(logged, predicted, settings))
        covered += [each.covers(TRUTH) for each in told]
    assert (covered / 200 > 0.84).all()
    assert (covered / 200 < 0.96).all()


def test_rows_of_one_user_taken_as_independent_promise_too_much() -> None:
    """50 people who click on everything or on nothing, 8 rows each; the truth is 1/2."""
    alone, together = 0, 0
    for seed in range(200):
        who = np.repeat(np.arange(50), 8)
        rewards, half = np.random.default_rng(seed).integers(0, 2, 50)[who].astype(float), np.full(400, 0.5)
        together += ips(Logged(rewards, half, half, who), Settings(level=0.9)).covers(0.5)
        alone += ips(Logged(rewards, half, half), Settings(level=0.9)).covers(0.5)
    assert together / 200 > 0.84
    assert alone / 200 < 0.6


def test_bernstein_always_covers_and_is_wider() -> None:
    settings = Settings(interval="bernstein", largest=3.5, level=0.9)
    for seed in range(100):
        logged, predicted = draw(400, seed)
        for told, normal in (
            (ips(logged, settings), ips(logged)),
            (doubly_robust(logged, predicted, settings), doubly_robust(logged, predicted)),
        ):
            assert told.covers(TRUTH)
            assert told.high - told.low > normal.high - normal.low


def test_bernstein_by_hand() -> None:
    rewards = np.array([0.0, 1.0] * 50)
    logged = Logged(rewards, np.full(100, 0.5), np.full(100, 0.5))
    told = ips(logged, Settings(interval="bernstein", clip=2.0, level=0.95))
    variance, log_term = rewards.var(ddof=1), np.log(80)
    assert told.high - told.value == pytest.approx(np.sqrt(2 * variance * log_term / 100) + 7 * 2 * log_term / (3 * 99))


def test_same_seed_same_bootstrap() -> None:
    logged, _ = draw(300, 1)
    one, two, three = (ips(logged, Settings(interval="bootstrap", seed=seed)) for seed in (4, 4, 5))
    assert one == two
    assert one != three


def test_cell_means_by_hand_and_without_the_own_fold() -> None:
    cells, actions = np.array([0, 0, 1, 0]), np.array([0, 0, 0, 1])
    rewards = np.array([1.0, 0.0, 1.0, 1.0])
    told = cell_means(cells, actions, rewards, 2, folds=2, prior=1.0)
    # rows 0, 2 are predicted from rows 1, 3 (mean 1/2), rows 1, 3 from 0, 2 (mean 1)
    np.testing.assert_allclose(told[0], [(0 + 0.5) / 2, (1 + 0.5) / 2])
    np.testing.assert_allclose(told[2], [0.5, 0.5])
    np.testing.assert_allclose(told[1], [1.0, 1.0])
    changed = rewards.copy()
    changed[0] = 0.0
    np.testing.assert_array_equal(cell_means(cells, actions, changed, 2, folds=2)[0], cell_means(cells, actions, rewards, 2, folds=2)[0])


def test_effective_size_by_hand() -> None:
    assert effective_size(np.array([3.0, 1.0])) == pytest.approx(16 / 10)
    assert effective_size(np.zeros(3)) == 0


def test_from_a_frame() -> None:
    frame = pl.DataFrame({"user": ["a", "b", "b"], "propensity": [0.5, 0.5, 1.0], "reward": [1, 0, 1], "target": [0.5, 0.25, 1.0]})
    logged = Logged.of(frame)
    np.testing.assert_array_equal(logged.users, [0, 1, 1])
    np.testing.assert_array_equal(logged.weights, [1, 0.5, 1])
    with pytest.raises(DataError, match="no column 'target'"):
        Logged.of(frame.drop("target"))
    with pytest.raises(SupportError, match=r"row 1 is nan .1 such"):
        Logged.of(frame.with_columns(propensity=pl.Series([0.5, None, 1.0])))


def test_refuses_what_the_log_never_shows() -> None:
    logging = np.array([[0.5, 0.5, 0.0]] * 2)
    with pytest.raises(SupportError, match=r"row 0 the target shows action 2 with chance 0.25.*25.00%"):
        check_support(logging, np.array([[0.25, 0.5, 0.25]] * 2))
    check_support(logging, np.array([[1.0, 0.0, 0.0]] * 2))
    with pytest.raises(DataError, match=r"target probabilities of row 1 add to 0.5"):
        check_support(logging, np.array([[0.5, 0.5, 0], [0.5, 0, 0]]))


def test_refuses_mass_that_only_the_weights_betray() -> None:
    """The target shows two actions evenly, the log has only the first: its weights average 1/2."""
    rewards = np.tile([0.0, 1.0], 500)
    with pytest.raises(SupportError, match=r"average 0.500 .* about 50% of the target's choices"):
        ips(Logged(rewards, np.full(1000, 1.0), np.full(1000, 0.5)))
    with pytest.raises(SupportError, match=r"average 2.000 .* propensities are too small"):
        snips(Logged(rewards, np.full(1000, 0.25), np.full(1000, 0.5)))


def test_refuses_too_small_a_sample() -> None:
    rng = np.random.default_rng(0)
    logged = Logged(np.ones(2000), np.full(2000, 0.01), np.where(rng.random(2000) < 0.01, 1.0, 0.0))
    with pytest.raises(SupportError, match=r"effective sample size is \d+.0 of 2000 rows, below 100"):
        ips(logged)
    assert ips(logged, Settings(least_ess=5)).ess == pytest.approx((logged.weights > 0).sum())


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (([1.0], [0.0], [1.0]), "propensity of row 0 is 0"),
        (([1.0], [1.5], [1.0]), "propensity of row 0 is 1.5.*at most 1"),
        (([1.0], [0.5], [-0.1]), "target of row 0 is -0.1"),
        (([1.0], [0.5], [np.nan]), "target of row 0 is nan"),
        (([np.inf], [0.5], [0.5]), "reward of row 0 is inf"),
        (([1.0, 2.0], [0.5], [0.5]), r"rewards \[2\], propensity \[1\]"),
        (([], [], []), "no rows"),
    ],
)
def test_bad_columns_are_one_line(columns: Any, message: str) -> None:
    with pytest.raises(DataError, match=message) as raised:
        Logged(*columns)
    assert "\n" not in str(raised.value)


def test_bad_settings_are_one_line() -> None:
    logged, predicted = draw(400, 0, users=40)
    alone, _ = draw(400, 0)
    for message, call in {
        "needs bounded terms, and those of snips": lambda: snips(alone, Settings(interval="bernstein", clip=3)),
        "needs bounded terms, and those of ips": lambda: ips(alone, Settings(interval="bernstein")),
        "takes independent rows": lambda: ips(logged, Settings(interval="bernstein", clip=3)),
        "above largest = 1": lambda: ips(alone, Settings(largest=1.0)),
        "set `rewards` to their true range": lambda: ips(alone, Settings(interval="bernstein", clip=4, rewards=(0, 0.01))),
        "one for each of the 400 rows": lambda: direct(logged, Predicted(predicted.logged[:3], predicted.expected[:3])),
        "single user": lambda: ips(Logged(alone.rewards, alone.propensity, alone.target, np.zeros(400))),
    }.items():
        with pytest.raises(DataError, match=message) as raised:
            call()
        assert "\n" not in str(raised.value)


@pytest.mark.skipif(
    not (Path(os.environ.get("PALATE_DATA", "/nowhere")) / "obd" / "bts_men.csv").exists(), reason="PALATE_DATA has no folder obd"
)
@pytest.mark.parametrize("campaign", ["men", "women"])
@pytest.mark.parametrize("target", ["random", "bts"])
def test_open_bandit(campaign: Any, target: Any) -> None:
    """One policy's clicks from the other's log; the truth is in its own. A single row of propensity 0.000001 makes one case impossible."""
    log, own = obd.load("bts" if target == "random" else "random", campaign), obd.load(target, campaign)
    shown = np.full((3, log.n_items), 1.0)
    if target == "bts":
        shown = np.zeros((3, log.n_items))
        np.add.at(shown, (own.codes("position"), own.codes("item")), 1)
    policy = (shown / shown.sum(axis=1, keepdims=True))[log.codes("position")]
    logged = Logged(log.column("click"), log.column("propensity"), policy[np.arange(len(log)), log.codes("item")])
    predicted = Predicted.of(cell_means(log.codes("position"), log.codes("item"), logged.rewards, log.n_items), policy, log.codes("item"))
    settings = Settings()
    if (campaign, target) == ("women", "random"):
        assert logged.weights.max() > 20_000
        with pytest.raises(SupportError, match=r"effective sample size is 2.1 of 10000"):
            ips(logged, settings)
        settings = settings.model_copy(update={"clip": 50.0})
    clicks = own.column("click")
    for told in (ips(logged, settings), snips(logged, settings), doubly_robust(logged, predicted, settings)):
        # The truth is a sample of some 50 clicks, too: the two differ by no more than both their errors allow.
        error = np.hypot((told.high - told.value) / 1.959964, clicks.std() / len(clicks) ** 0.5)
        assert abs(told.value - clicks.mean()) < 1.959964 * error

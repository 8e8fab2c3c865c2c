"""Off-policy estimates of slates: by hand, and unbiased under each one's assumption by enumerating every slate."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import polars as pl
import pytest

from palate.feedback.off_policy import Settings, SupportError
from palate.feedback.slates import Slates, iips, pseudo_inverse, pseudo_inverse_factors, rips, sips
from palate.types import DataError

FREE = Settings(least_ess=1)
ITEMS, PLACES = 4, 2
RANKINGS = np.array(list(itertools.permutations(range(ITEMS), PLACES)))  # 12 slates without repeats


def plackett_luce(scores: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """Chance of each ranking [S], and of each place given those above [S, L]: items drawn without replacement."""
    weight = np.array(scores)
    given = np.empty(RANKINGS.shape)
    for row, slate in enumerate(RANKINGS):
        left = weight.copy()
        for place, item in enumerate(slate):
            given[row, place] = left[item] / left.sum()
            left[item] = 0
    return given.prod(axis=1), given


def marginal(chances: np.ndarray) -> np.ndarray:
    """Chance that what stands at each place of each ranking stands there: [S, L]."""
    same = RANKINGS[:, None, :] == RANKINGS[None, :, :]
    return np.einsum("stl,t->sl", same, chances)


LOGGING, LOGGING_GIVEN = plackett_luce([4.0, 2.0, 1.0, 1.0])
TARGET, TARGET_GIVEN = plackett_luce([1.0, 1.0, 3.0, 2.0])
NEAR, NEAR_GIVEN = plackett_luce([3.0, 2.0, 2.0, 1.0])


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The list of every slate is no sample: its weights need not average 1."""
    monkeypatch.setattr("palate.feedback.slates.check_weights", lambda *_: None)


def expectation(estimator: Any, rewards: np.ndarray, propensity: np.ndarray, target: np.ndarray, **more: Any) -> float:
    """Exact: the estimate from two copies of each ranking, weighed by the chance that it was logged."""
    total = 0.0
    for row in range(len(RANKINGS)):
        twice = [row, row]
        factors = {name: column[twice] for name, column in more.items() if name == "factors"}
        rest = {name: value for name, value in more.items() if name != "factors"}
        slates = Slates(rewards[twice], propensity[twice], target[twice])
        total += LOGGING[row] * estimator(slates, FREE, **factors, **rest).value
    return total


def test_every_estimator_by_hand() -> None:
    """w = [2, 1/2], [1/2, 3/2]; r = [1, 0], [1, 1]."""
    slates = Slates(np.array([[1.0, 0], [1, 1]]), np.array([[0.25, 0.5], [0.5, 0.5]]), np.array([[0.5, 0.25], [0.25, 0.75]]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("palate.feedback.slates.check_weights", lambda *_: None)
        assert iips(slates, FREE).value == pytest.approx((2 + 0.5 + 1.5) / 2)
        assert sips(slates, FREE).value == pytest.approx((1 * 1 + 0.75 * 2) / 2)
        assert rips(slates, FREE, normalised=False).value == pytest.approx((2 + 0.5 + 0.75) / 2)
        assert rips(slates, FREE).value == pytest.approx((2 + 0.5) / 2.5 + 0.75 / 1.75)
        assert pseudo_inverse(slates, FREE).value == pytest.approx(((1 - 2 + 2.5) * 1 + (1 - 2 + 2) * 2) / 2)
        assert sips(slates, Settings(least_ess=1, clip=0.8)).value == pytest.approx((0.8 + 0.75 * 2) / 2)
        assert iips(slates, Settings(least_ess=1, gain=True)).value == pytest.approx(2 - 1.5)


@pytest.mark.usefixtures("unchecked")
def test_iips_is_unbiased_where_places_do_not_meddle() -> None:
    worth = np.array([[0.5, 0.2], [0.1, 0.4], [0.9, 0.3], [0.2, 0.8]])
    rewards = np.stack([worth[RANKINGS[:, place], place] for place in range(PLACES)], axis=1)
    truth = float((TARGET[:, None] * rewards).sum())
    assert expectation(iips, rewards, marginal(LOGGING), marginal(TARGET)) == pytest.approx(truth, abs=1e-12)


@pytest.mark.usefixtures("unchecked")
def test_rips_is_unbiased_where_only_what_stands_above_matters() -> None:
    """A place earns less under a good one: IIPS is then wrong, RIPS and SIPS are right."""
    rewards = np.array([[0.1 * (first + 1), 0.8 if first == 0 else 0.1 * second] for first, second in RANKINGS])
    truth = float((TARGET[:, None] * rewards).sum())
    assert expectation(rips, rewards, LOGGING_GIVEN, TARGET_GIVEN, normalised=False) == pytest.approx(truth, abs=1e-12)
    assert expectation(sips, rewards, LOGGING_GIVEN, TARGET_GIVEN) == pytest.approx(truth, abs=1e-12)
    assert abs(expectation(iips, rewards, marginal(LOGGING), marginal(TARGET)) - truth) > 0.01


@pytest.mark.usefixtures("unchecked")
def test_pseudo_inverse_is_unbiased_where_parts_add_up() -> None:
    """Parts that are seen only as their sum, items without replacement: by enumeration, and the independent formula is wrong here."""
    worth = np.array([[0.5, 0.2], [0.1, 0.4], [0.9, 0.3], [0.2, 0.8]])
    whole = worth[RANKINGS[:, 0], 0] + worth[RANKINGS[:, 1], 1]
    rewards = np.stack([np.zeros(len(RANKINGS)), whole], axis=1)  # all of it is booked on the last place
    truth = float((TARGET * whole).sum())
    factors = pseudo_inverse_factors(RANKINGS, RANKINGS, LOGGING, TARGET)
    assert float((LOGGING * factors).sum()) == pytest.approx(1)
    got = expectation(pseudo_inverse, rewards, marginal(LOGGING), marginal(TARGET), factors=factors)
    assert got == pytest.approx(truth, abs=1e-12)
    assert abs(expectation(pseudo_inverse, rewards, marginal(LOGGING), marginal(TARGET)) - truth) > 0.01


def test_the_independent_formula_is_the_pseudo_inverse() -> None:
    support = np.array(list(itertools.product(range(3), repeat=2)))
    first, second = np.array([0.5, 0.3, 0.2]), np.array([0.1, 0.6, 0.3])
    other, another = np.array([0.2, 0.2, 0.6]), np.array([0.3, 0.3, 0.4])
    logging, target = first[support[:, 0]] * second[support[:, 1]], other[support[:, 0]] * another[support[:, 1]]
    factors = pseudo_inverse_factors(support, support, logging, target)
    closed = 1 - 2 + (other / first)[support[:, 0]] + (another / second)[support[:, 1]]
    np.testing.assert_allclose(factors, closed, atol=1e-10)


def test_pseudo_inverse_refuses_an_item_never_logged_there() -> None:
    logging = np.where(RANKINGS[:, 0] == 3, 0.0, LOGGING)
    with pytest.raises(SupportError, match="what item 3 is worth at position 0"):
        pseudo_inverse_factors(RANKINGS, RANKINGS, logging / logging.sum(), TARGET)
    with pytest.raises(DataError, match="logging probabilities of the slates add to 2"):
        pseudo_inverse_factors(RANKINGS, RANKINGS, LOGGING * 2, TARGET)


def sample(rows: int, seed: int, target: np.ndarray = TARGET) -> tuple[np.ndarray, np.ndarray, float]:
    """Logged rankings, rewards 0 and 1 by the item-position model, and the truth."""
    rng = np.random.default_rng(seed)
    worth = np.array([[0.5, 0.2], [0.1, 0.4], [0.9, 0.3], [0.2, 0.8]])
    which = rng.choice(len(RANKINGS), rows, p=LOGGING)
    means = np.stack([worth[RANKINGS[:, place], place] for place in range(PLACES)], axis=1)
    return which, (rng.random((rows, PLACES)) < means[which]).astype(float), float((target[:, None] * means).sum())


def test_intervals_cover_as_often_as_they_say() -> None:
    """For a policy near the one that served; far from it weights have long tails, and the normal interval says too much."""
    settings, covered = Settings(level=0.9), np.zeros(4)
    factors = pseudo_inverse_factors(RANKINGS, RANKINGS, LOGGING, NEAR)
    mixed, aimed = marginal(LOGGING), marginal(NEAR)
    for seed in range(200):
        which, rewards, truth = sample(600, seed, NEAR)
        apart = Slates(rewards, mixed[which], aimed[which])
        given = Slates(rewards, LOGGING_GIVEN[which], NEAR_GIVEN[which])
        told = (
            iips(apart, settings),
            rips(given, settings),
            sips(given, settings),
            pseudo_inverse(apart, settings, factors=factors[which]),
        )
        covered += [each.covers(truth) for each in told]
    assert (covered / 200 > 0.84).all()
    assert (covered / 200 < 0.96).all()


def test_bernstein_of_places() -> None:
    which, rewards, truth = sample(2000, 0)
    slates = Slates(rewards, marginal(LOGGING)[which], marginal(TARGET)[which])
    told = iips(slates, Settings(interval="bernstein", largest=float(slates.weights.max())))
    assert told.covers(truth)
    with pytest.raises(DataError, match="those of pi have no known bound"):
        pseudo_inverse(slates, Settings(interval="bernstein", largest=99))


def test_from_rows_of_a_log_and_short_slates() -> None:
    frame = pl.DataFrame(
        {
            "slate": ["b", "a", "b"],
            "position": [1, 0, 0],
            "user": ["v", "u", "v"],
            "reward": [1, 0, 0],
            "propensity": [0.5, 1.0, 0.25],
            "target": [0.25, 1.0, 0.5],
        }
    )
    slates = Slates.of(frame)
    np.testing.assert_array_equal(slates.rewards, [[0, 0], [0, 1]])
    np.testing.assert_array_equal(slates.weights, [[1, 1], [2, 0.5]])
    assert slates.users is not None
    assert slates.users.tolist() == ["u", "v"]
    for message, broken in {
        "no column 'target'": frame.drop("target"),
        "two rows for one position": frame.with_columns(position=pl.lit(0)),
        "position -1": frame.with_columns(pl.col("position") - 1),
        "propensity of row 1, position 0 is nan": frame.with_columns(propensity=pl.Series([0.5, 1.0, None])),
        "no slates": frame.clear(),
    }.items():
        with pytest.raises(DataError, match=message) as raised:
            Slates.of(broken)
        assert "\n" not in str(raised.value)


def test_refusals() -> None:
    which, rewards, _ = sample(400, 0)
    slates = Slates(rewards, LOGGING_GIVEN[which], TARGET_GIVEN[which])
    with pytest.raises(SupportError, match="of position 1 average"):
        rips(Slates(rewards, LOGGING_GIVEN[which], TARGET_GIVEN[which] * [1.0, 0.1]))
    with pytest.raises(SupportError, match="below 399"):
        iips(slates, Settings(least_ess=399))
    with pytest.raises(DataError, match="one for each of the 400 slates"):
        pseudo_inverse(slates, factors=np.ones(3))
    with pytest.raises(DataError, match=r"must be .B, L."):
        Slates(rewards[:, 0], rewards, rewards)

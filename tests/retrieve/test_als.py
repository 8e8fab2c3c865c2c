"""Weighted ALS: the contract, its fixed point and fold-in against the equation of the paper, and weighted events."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest

from palate.retrieve.als import ALS
from palate.testing.contracts import RetrieverContract, clustered, log_of, queries_of
from palate.types import Log


class TestALS(RetrieverContract):
    tolerance = 1e-4

    def make(self) -> ALS:
        return ALS(width=6, alpha=4, l2=2, iterations=8, threads=1)


class TestExact(RetrieverContract):
    tolerance = 1e-4

    def make(self) -> ALS:
        return ALS(width=6, alpha=4, l2=2, iterations=4, exact=True, threads=1)


EVENTS = [(0, 0), (0, 1), (1, 0), (1, 2), (2, 1), (2, 2), (2, 3), (3, 3)]


def solved(weights: np.ndarray, other: np.ndarray, alpha: float, l2: float) -> np.ndarray:
    """The equation of the paper, literally: x_u = (Y' C^u Y + l2 I)^-1 Y' C^u p(u), with C^u = diag(1 + alpha w) and p = [w > 0]."""
    rows = []
    for w in weights:
        c = np.diag(1 + alpha * w)
        rows.append(np.linalg.solve(other.T @ c @ other + l2 * np.eye(other.shape[1]), other.T @ c @ (w > 0)))
    return np.array(rows)


def kinds(log: Log, bought: list[int]) -> Log:
    names = ["buy" if row in bought else "want" for row in range(len(log))]
    events = log.events.with_columns(pl.Series("kind", names, dtype=pl.Enum(["want", "buy"])))
    return replace(log, events=events, positive=("want", "buy"))


# What the eight events weigh, by hand. Bought are the second and the fifth. They are a day apart, so that with a half-life of two days the
# newest weighs 1, the one of two days before 1/2, the oldest, seven days before, 2^-3.5.
ALIKE = [1.0] * 8
BOUGHT = [1, 3, 1, 1, 3, 1, 1, 1]
FADED = [2**-3.5, 2**-3, 2**-2.5, 2**-2, 2**-1.5, 2**-1, 2**-0.5, 1]
BOTH = [2**-3.5, 3 * 2**-3, 2**-2.5, 2**-2, 3 * 2**-1.5, 2**-1, 2**-0.5, 1]


@pytest.mark.parametrize(
    ("settings", "weigh"),
    [
        ({}, ALIKE),
        ({"event_weights": {"want": 1.0, "buy": 3.0}}, BOUGHT),
        ({"half_life_days": 2}, FADED),
        ({"event_weights": {"want": 1.0, "buy": 3.0}, "half_life_days": 2}, BOTH),
    ],
    ids=["alike", "event_weights", "half_life_days", "both"],
)
def test_the_fixed_point_is_the_papers_oracle_of_weights_by_hand(settings: dict[str, Any], weigh: list[float]) -> None:
    log = kinds(log_of(EVENTS), [1, 4])
    model = ALS(width=2, alpha=5, l2=0.5, iterations=60, exact=True, threads=1, **settings).fit(log)
    weights = np.zeros((4, 4))
    for (user, item), weight in zip(EVENTS, weigh, strict=True):
        weights[user, item] = weight
    # the last half step solves the items; at the fixed point that of the users changes nothing
    np.testing.assert_allclose(model.index.vectors, solved(weights.T, model.users, 5, 0.5), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(model.users, solved(weights, model.index.vectors, 5, 0.5), rtol=1e-2, atol=1e-3)


def test_fold_in_by_hand() -> None:
    """Histories (0, 1) and (3): solved by the equation from the item vectors; a stranger and a user of the table alike."""
    model = ALS(width=2, alpha=5, l2=0.5, iterations=3, threads=1).fit(log_of(EVENTS, n_users=6, n_items=6))
    weights = np.array([[1, 1, 0, 0, 0, 0], [0, 0, 0, 1, 0, 0]])
    expected = solved(weights, model.index.vectors, 5, 0.5)
    # item 5 has no event, and says nothing
    np.testing.assert_allclose(model.encode_queries(queries_of([[0, 1], [5, 3]], users=[-1, 5])), expected, rtol=1e-4)
    assert np.isnan(model.encode_queries(queries_of([[5], []]))).all()


def test_conjugate_gradients_come_near_the_exact_solution() -> None:
    log, queries, _ = clustered()
    settings = {"width": 4, "alpha": 4, "l2": 5, "iterations": 30, "threads": 1}
    near, exact = (ALS(**settings, exact=solver).fit(log).retrieve(queries, 10) for solver in (False, True))
    np.testing.assert_allclose(near.scores, exact.scores, atol=0.05)


def test_an_event_that_weighs_more_is_fitted_closer() -> None:
    log = kinds(clustered()[0], list(range(0, 1440, 7)))
    users, items = log.user_codes, log.item_codes
    bought = np.arange(len(log)) % 7 == 0
    queries = queries_of([[]] * len(log), users=users.tolist())
    settings = {"width": 6, "alpha": 4.0, "l2": 2.0, "threads": 1}
    scores = [
        ALS(**settings, event_weights={"want": 1.0, "buy": weight}).fit(log).score(queries, items[:, None])[:, 0] for weight in (1.0, 8.0)
    ]
    assert scores[1][bought].mean() > scores[0][bought].mean() + 0.1
    assert scores[1][bought].mean() > scores[1][~bought].mean() + 0.05

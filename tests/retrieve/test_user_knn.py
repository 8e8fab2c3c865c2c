"""User to user."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest

from palate.retrieve import topk, user_knn
from palate.retrieve.user_knn import UserKNN
from palate.testing.contracts import RetrieverContract, clustered, log_of, queries_of
from palate.types import Log


class TestCosine(RetrieverContract):
    def make(self) -> UserKNN:
        return UserKNN()


class TestJaccard(RetrieverContract):
    def make(self) -> UserKNN:
        return UserKNN(similarity="jaccard", neighbours=60, shrink=1)


class TestTfIdf(RetrieverContract):
    def make(self) -> UserKNN:
        return UserKNN(similarity="tfidf", half_life=10)


class TestPearson(RetrieverContract):
    def make(self) -> UserKNN:
        return UserKNN(similarity="pearson", shrink=2)


class TestBM25OnWeights(RetrieverContract):
    def make(self) -> UserKNN:
        return UserKNN(similarity="bm25", half_life_days=500, shrink=1)


# u0 wants 0 1; u1 wants 1 2; u2 wants 0 1 2 3; u3 wants 4.
HAND = [(0, 0), (0, 1), (1, 1), (1, 2), (2, 0), (2, 1), (2, 2), (2, 3), (3, 4)]


def scores(history: list[int], user: int = -1, **settings: Any) -> list[float]:
    """Of all five items, 0 where nothing is said."""
    found = UserKNN(**settings).fit(log_of(HAND)).retrieve(queries_of([history], users=[user], blocked=[[]]), 5)
    every = np.zeros(5)
    every[found.items[0][found.present[0]]] = found.scores[0][found.present[0]]
    return every.tolist()


def test_votes_by_hand() -> None:
    """A stranger with item 0: likeness 1/sqrt(2) to u0 and 1/sqrt(4) to u2."""
    a, b = 1 / 2**0.5, 1 / 2
    assert scores([0]) == pytest.approx([a + b, a + b, b, b, 0])
    assert scores([0], neighbours=1) == pytest.approx([a, a, 0, 0, 0])


def test_jaccard_and_shrinking_by_hand() -> None:
    assert scores([0], similarity="jaccard") == pytest.approx([1 / 2 + 1 / 4, 1 / 2 + 1 / 4, 1 / 4, 1 / 4, 0])
    assert scores([0, 1], similarity="jaccard", neighbours=1) == pytest.approx([1, 1, 0, 0, 0])
    assert scores([0, 1], similarity="jaccard", neighbours=1, shrink=2) == pytest.approx([1 / 2, 1 / 2, 0, 0, 0])


def test_tfidf_by_hand() -> None:
    """Four users; item 0 wanted by two, 1 by three, 4 by one."""
    w = np.log1p(4 / np.array([2, 3, 2, 1, 1]))
    to_u0 = w[0] ** 2 / (w[0] * np.hypot(w[0], w[1]))
    to_u2 = w[0] ** 2 / (w[0] * np.linalg.norm(w[:4]))
    assert scores([0], similarity="tfidf") == pytest.approx([to_u0 + to_u2, to_u0 + to_u2, to_u2, to_u2, 0], rel=1e-5)


def test_pearson_by_hand() -> None:
    """Of five items; the query 0. To u0 (0 1): cov = 1 - 2/5, variances 4/5 and 6/5. To u2 (0 1 2 3): 1 - 4/5 over 4/5, 4/5. u1: none."""
    a, b = (3 / 5) / (4 / 5 * 6 / 5) ** 0.5, (1 / 5) / (4 / 5)
    assert scores([0], similarity="pearson") == pytest.approx([a + b, a + b, b, b, 0])


def test_bm25_by_hand() -> None:
    """Items 0 and 1 wanted by two and three of four; users have 2 2 4 1 items, 9/4 in the mean, and the query 2."""

    def weight(item: int, length: int) -> float:
        idf = np.log1p(4 / np.array([2, 3, 2, 1, 1])[item])
        return float(idf * 2.2 / (1 + 1.2 * (0.25 + 0.75 * length / 2.25)))

    u0, u1, u2 = (sum(weight(item, 2) * weight(item, size) for item in shared) for shared, size in (((0, 1), 2), ((1,), 2), ((0, 1), 4)))
    assert scores([0, 1], similarity="bm25") == pytest.approx([u0 + u2, u0 + u1 + u2, u1 + u2, u2, 0], rel=1e-5)


def test_weighted_votes_by_hand() -> None:
    """Half-life two days: of u2's items, day 4 to 7, the last but one of the log is 3. u2 alone shares item 3 with the query."""
    row = 2.0 ** (-np.array([4, 3, 2, 1]) / 2)
    found = scores([3], half_life_days=2)
    assert found == pytest.approx([*(row[3] / np.linalg.norm(row) * row), 0], rel=1e-5)


def bought(log: Log, rows: list[int]) -> Log:
    """The same events, some of them of another kind."""
    names = ["buy" if row in rows else "want" for row in range(len(log))]
    return replace(log, events=log.events.with_columns(pl.Series("kind", names, dtype=pl.Enum(["want", "buy"]))), positive=("want", "buy"))


def test_votes_of_what_was_bought_by_hand() -> None:
    """u2 bought item 3, which weighs 2: the row (1, 1, 1, 2), length sqrt(7), shares item 3 with the query, and votes with its weights."""
    knn = UserKNN(event_weights={"want": 1, "buy": 2}).fit(bought(log_of(HAND), [7]))
    found = knn.retrieve(queries_of([[3]], blocked=[[]]), 5)
    assert dict(zip(found.items[0].tolist(), found.scores[0].tolist(), strict=True)) == pytest.approx(
        {3: 2 / 7**0.5 * 2, 0: 2 / 7**0.5, 1: 2 / 7**0.5, 2: 2 / 7**0.5, -1: -np.inf}
    )


def test_a_jaccard_that_fades_by_hand() -> None:
    """Weights 1/2 for 0 and 1 for 4. To u0: 1/2 in both, 1 + 1 + 1 in either; to u2: 1/2 of 4 + 1; to u3: 1 of 1/2 + 1."""
    a, b, c = 0.5 / 3, 0.5 / 5, 1 / 1.5
    assert scores([0, 4], similarity="jaccard", half_life=1) == pytest.approx([a + b, a + b, b, b, c])


def test_a_user_is_not_their_own_neighbour() -> None:
    """u0 itself: only u1 (1/2) and u2 (2/sqrt(8)) vote."""
    near = 2 / 8**0.5
    assert scores([0, 1], user=0) == pytest.approx([near, 1 / 2 + near, 1 / 2 + near, near, 0])
    assert scores([4], user=3) == [0, 0, 0, 0, 0]


def test_the_reason_is_what_the_neighbours_share() -> None:
    knn = UserKNN().fit(log_of(HAND))
    because = knn.because(queries_of([[4, 0]]), np.array([[3, 2, 4]], dtype=np.int32))
    assert because is not None
    assert because.tolist() == [[0, 0, 4]]


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    log, queries, _ = clustered()
    knn = UserKNN(neighbours=20).fit(log)
    whole = knn.retrieve(queries, 10)
    monkeypatch.setattr(topk, "BLOCK", 7 * log.n_items)
    monkeypatch.setattr(user_knn, "BLOCK", 3 * log.n_users)
    parts = knn.retrieve(queries, 10)
    assert np.array_equal(whole.items, parts.items)
    assert np.array_equal(whole.scores, parts.scores)

"""Item to item."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest

from palate.retrieve import gram, item_knn
from palate.retrieve.base import EventWeights, interactions, weighted_interactions
from palate.retrieve.item_knn import ItemKNN
from palate.testing.contracts import RetrieverContract, clustered, log_of, queries_of
from palate.types import ConfigError, Log


class TestCosine(RetrieverContract):
    def make(self) -> ItemKNN:
        return ItemKNN(similarity="cosine", shrink=1)


class TestJaccard(RetrieverContract):
    def make(self) -> ItemKNN:
        return ItemKNN(similarity="jaccard", neighbours=20)


class TestTfIdf(RetrieverContract):
    def make(self) -> ItemKNN:
        return ItemKNN(similarity="tfidf", shrink=3, half_life=4)


class TestPearson(RetrieverContract):
    def make(self) -> ItemKNN:
        return ItemKNN(similarity="pearson", shrink=1, half_life_days=400)


class TestAverage(RetrieverContract):
    def make(self) -> ItemKNN:
        return ItemKNN(similarity="cosine", prune="target", score="average", neighbours=30)


class TestBM25(RetrieverContract):
    def make(self) -> ItemKNN:
        return ItemKNN(similarity="bm25")


class TestConditional(RetrieverContract):
    def make(self) -> ItemKNN:
        return ItemKNN(similarity="conditional", last=8)


class TestSequential(RetrieverContract):
    def make(self) -> ItemKNN:
        return ItemKNN(similarity="sequential", half_life=8, window=12)


# Four users of four items. In the order of each user: u0: 0 1 2; u1: 0 1; u2: 1 3; u3: 0. So n = [3, 3, 1, 1].
HAND = [(0, 0), (1, 0), (2, 1), (3, 0), (0, 1), (1, 1), (2, 3), (0, 2)]


def test_sequences_have_settings_of_their_own() -> None:
    own = ItemKNN(similarity="sequential").config
    assert (own.alpha, own.half_life, own.neighbours) == (0.1, 3, 500)
    told = ItemKNN(similarity="sequential", half_life=None, alpha=0).config
    assert (told.alpha, told.half_life) == (0, None)
    assert ItemKNN().config.half_life is None


def similarities(**settings: Any) -> np.ndarray:
    matrix: np.ndarray = ItemKNN(**settings).fit(log_of(HAND)).neighbours.toarray()
    return matrix


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("cosine", {(0, 1): 2 / 3, (0, 2): 1 / 3**0.5, (1, 2): 1 / 3**0.5, (1, 3): 1 / 3**0.5}),
        ("jaccard", {(0, 1): 2 / 4, (0, 2): 1 / 3, (1, 2): 1 / 3, (1, 3): 1 / 3}),
    ],
)
def test_symmetric_kinds_by_hand(kind: str, expected: dict[tuple[int, int], float]) -> None:
    matrix = np.zeros((4, 4))
    for (i, j), value in expected.items():
        matrix[i, j] = matrix[j, i] = value
    np.testing.assert_allclose(similarities(similarity=kind), matrix, rtol=1e-6)


def test_shrinking_by_hand() -> None:
    assert similarities(similarity="cosine", shrink=2)[0, 1] == pytest.approx(2 / 3 * 2 / 4)
    assert similarities(similarity="cosine", shrink=2)[1, 3] == pytest.approx(1 / 3**0.5 * 1 / 3)
    # the weighted kinds shrink by users as well, not by weights
    plain, shrunk = similarities(similarity="bm25"), similarities(similarity="bm25", shrink=2)
    assert shrunk[0, 1] == pytest.approx(plain[0, 1] * 2 / 4)


def test_conditional_probability_by_hand() -> None:
    half = similarities(similarity="conditional", alpha=0.5)
    assert half[0, 1] == pytest.approx(2 / (3 * 3**0.5))
    assert half[2, 0] == pytest.approx(1 / (1 * 3**0.5))
    assert half[0, 2] == pytest.approx(1 / (3 * 1))
    assert similarities(similarity="conditional", alpha=0)[0, 1] == pytest.approx(2 / 3)


def test_tfidf_by_hand() -> None:
    idf = np.log1p(4 / np.array([3, 2, 2, 1]))
    expected = (idf[0] ** 2 + idf[1] ** 2) / (np.linalg.norm(idf[[0, 1, 3]]) * np.linalg.norm(idf[[0, 1, 2]]))
    assert similarities(similarity="tfidf")[0, 1] == pytest.approx(expected)


def test_bm25_by_hand() -> None:
    idf = np.log1p(4 / np.array([3, 2, 2, 1]))
    weight = 2.2 / (1 + 1.2 * (0.25 + 0.75 * np.array([3, 3, 1, 1]) / 2))
    assert similarities(similarity="bm25")[0, 1] == pytest.approx((idf[0] ** 2 + idf[1] ** 2) * weight[0] * weight[1])
    assert similarities(similarity="bm25")[1, 3] == pytest.approx(idf[2] ** 2 * weight[1] * weight[3])


def test_pearson_by_hand() -> None:
    """Of four users: cov_01 = 2 - 9/4 < 0, so 0 and 1 are no neighbours; cov_02 = 1 - 3/4; variances 3/4 (all of them)."""
    matrix = similarities(similarity="pearson")
    np.testing.assert_allclose(matrix[2], [1 / 3, 1 / 3, 0, 0], rtol=1e-6)
    assert matrix[0, 1] == 0
    assert matrix[1, 3] == pytest.approx(1 / 3)


@pytest.mark.parametrize("weighted", [False, True])
def test_pearson_oracle(weighted: bool) -> None:
    """numpy's own correlation of the dense columns, its positive part, less the diagonal."""
    log, _, _ = clustered(users=30, items=20)
    settings: dict[str, Any] = {"half_life_days": 50} if weighted else {}
    x = weighted_interactions(log, EventWeights(**settings)).toarray()
    knn = ItemKNN(similarity="pearson", neighbours=20, **settings).fit(log)
    expected = np.where((x.T @ x > 0) & ~np.eye(20, dtype=bool), np.maximum(np.corrcoef(x.T), 0), 0)
    np.testing.assert_allclose(knn.neighbours.toarray(), expected, atol=2e-6)


def test_weighted_events_by_hand() -> None:
    """Days 0 to 7, half-life one day: u2 wanted 1 on day 2 and 3 on day 6, u3 0 on day 3; cosine of 1 and 3 is that of their columns."""
    knn = ItemKNN(similarity="cosine", half_life_days=1).fit(log_of(HAND))
    one = 2.0 ** (np.array([4, 5, 2]) - 7)  # u0, u1, u2
    assert knn.neighbours[1, 3] == pytest.approx(one[2] / np.linalg.norm(one), rel=1e-5)
    # Tanimoto's coefficient: u3's event is the only of its user
    three = 2.0**-1
    jaccard = ItemKNN(similarity="jaccard", half_life_days=1).fit(log_of(HAND))
    assert jaccard.neighbours[1, 3] == pytest.approx(one[2] * three / ((one**2).sum() + three**2 - one[2] * three), rel=1e-5)


def bought(log: Log, rows: list[int]) -> Log:
    """The same events, some of them of another kind."""
    names = ["buy" if row in rows else "want" for row in range(len(log))]
    return replace(log, events=log.events.with_columns(pl.Series("kind", names, dtype=pl.Enum(["want", "buy"]))), positive=("want", "buy"))


def test_kinds_that_weigh_more_by_hand() -> None:
    """u0 and u2 bought item 1, which weighs 3 where wanting weighs 1. Columns over u0 u1 u2: item 1 is (3, 1, 3), item 3 is (0, 0, 1)."""
    log = bought(log_of(HAND), [2, 4])
    settings: dict[str, Any] = {"similarity": "cosine", "event_weights": {"want": 1, "buy": 3}}
    assert ItemKNN(**settings).fit(log).neighbours[1, 3] == pytest.approx(3 / 19**0.5, rel=1e-5)
    # A kind that is left out does not count: item 1 is then wanted by u1 alone, and nobody wanted both.
    assert ItemKNN(similarity="cosine", event_weights={"want": 1}).fit(log).neighbours[1, 3] == 0
    # Both, days 0 to 7, half-life one day: item 1 is (3/8, 1/4, 3/32), item 3 is (0, 0, 1/2).
    both = ItemKNN(**settings, half_life_days=1).fit(log).neighbours[1, 3]
    assert both == pytest.approx(3 / 32 / (9 / 64 + 1 / 16 + 9 / 1024) ** 0.5, rel=1e-5)


def test_pruned_by_target_by_hand() -> None:
    """Cosines of 2: to 0 and 1 alike; of 0: 1 before 2; of 1: 0 before 2 and 3 alike. Each target keeps its one best source."""
    matrix = similarities(similarity="cosine", neighbours=1, prune="target")
    assert (np.count_nonzero(matrix, axis=0) == 1).all()
    assert matrix.argmax(axis=0).tolist() == [1, 0, 0, 1]


def test_average_by_hand() -> None:
    """Means of the columns are 3/4, 3/4, 1/4, 1/4. Of target 2, sources 0 and 1 with cosines alike: 1/2 each. History [0]:

    score_2 = 1/4 + (1 - 3/4) / 2 + (0 - 3/4) / 2 = 0; and of target 1, sources 0, 2, 3 with a = 2/3 and twice b = 1/sqrt(3).
    """
    knn = ItemKNN(similarity="cosine", prune="target", score="average").fit(log_of(HAND))
    a, b = 2 / 3, 1 / 3**0.5
    found = knn.retrieve(queries_of([[0], [3]]), 4)
    assert found.items.tolist() == [[1, 2, -1, -1], [1, -1, -1, -1]]  # nothing speaks for 3 but 1, which is not in the history
    expected = 3 / 4 + (a * (1 - 3 / 4) + 2 * b * (0 - 1 / 4)) / (a + 2 * b)
    np.testing.assert_allclose(found.scores[0, :2], [expected, 0], atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"similarity": "conditional", "prune": "target"}, "a likeness that is mutual; conditional is not"),
        ({"similarity": "sequential", "score": "average"}, "a likeness that is mutual; sequential is not"),
        ({"similarity": "sequential", "half_life_days": 3}, "sequential goes by what came next"),
    ],
)
def test_what_does_not_go_together_is_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ItemKNN(**settings)


def test_what_came_next_by_hand() -> None:
    """0 -> 1 twice at distance 1, 0 -> 2 once at distance 2, 1 -> 2 and 1 -> 3 once at distance 1. Nothing leads back."""
    matrix = similarities(similarity="sequential", alpha=0, window=5)
    np.testing.assert_allclose(matrix, np.array([[0, 2, 1 / 2, 0], [0, 0, 1, 1], [0, 0, 0, 0], [0, 0, 0, 0]]) / 3, rtol=1e-6)
    assert similarities(similarity="sequential", alpha=0, window=1)[0, 2] == 0
    assert similarities(similarity="sequential", alpha=0.5)[0, 1] == pytest.approx(2 / (3 * 3**0.5))
    assert similarities(similarity="sequential", alpha=0, shrink=1)[0, 2] == pytest.approx(0.5 / 3 * 0.5 / 1.5)


def test_scores_by_hand() -> None:
    log = log_of(HAND)
    plain = ItemKNN(similarity="jaccard").fit(log).retrieve(queries_of([[2, 0]]), 4)
    assert plain.items.tolist() == [[1, -1, -1, -1]]
    assert plain.scores[0, 0] == pytest.approx(1 / 3 + 1 / 2)
    faded = ItemKNN(similarity="jaccard", half_life=1).fit(log).retrieve(queries_of([[2, 0]]), 1)
    assert faded.scores[0, 0] == pytest.approx(1 / 3 * 1 / 2 + 1 / 2)
    last = ItemKNN(similarity="jaccard", last=1).fit(log).retrieve(queries_of([[2, 0]]), 1)
    assert last.scores[0, 0] == pytest.approx(1 / 2)


def test_an_item_twice_in_the_history_counts_once_at_its_newest() -> None:
    log = log_of(HAND)
    knn = ItemKNN(similarity="jaccard", half_life=1).fit(log)
    assert knn.retrieve(queries_of([[0, 2, 0]]), 1).scores[0, 0] == pytest.approx(1 / 2 + 1 / 3 / 2)


def test_neighbours_are_the_nearest_of_each_row_by_hand() -> None:
    matrix = similarities(similarity="cosine", neighbours=1)
    assert (np.count_nonzero(matrix, axis=1) == 1).all()
    assert matrix[0].argmax() == 1
    assert matrix[2].argmax() == 0  # of equals the lower code


def test_the_reason_is_the_largest_share() -> None:
    because = ItemKNN(similarity="jaccard").fit(log_of(HAND)).because(queries_of([[2, 0]]), np.array([[1, 3]], dtype=np.int32))
    assert because is not None
    assert because.tolist() == [[0, -1]]


@pytest.mark.parametrize("kind", ["cosine", "tfidf", "pearson", "sequential"])
def test_blocks_change_nothing(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    log, _, _ = clustered()
    whole = ItemKNN(similarity=kind, shrink=2).fit(log).neighbours.toarray()
    monkeypatch.setattr(item_knn, "BLOCK", 7 * log.n_items)
    monkeypatch.setattr(gram, "BLOCK", 7 * log.n_items)
    np.testing.assert_allclose(ItemKNN(similarity=kind, shrink=2).fit(log).neighbours.toarray(), whole, rtol=1e-6)


def test_dense_and_sparse_products_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    x = interactions(clustered()[0])
    monkeypatch.setattr(gram, "_DENSE_GAIN", 0)
    scattered = gram.gram(x)
    monkeypatch.setattr(gram, "_DENSE_GAIN", 1e9)
    assert np.array_equal(gram.gram(x), scattered)
    assert np.array_equal(scattered, (x.T @ x).toarray())

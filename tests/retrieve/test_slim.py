"""SLIM: the elastic net against its literal definition, restricted and whole."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palate.retrieve import slim as slim_module
from palate.retrieve.base import EventWeights, interactions, weighted_interactions
from palate.retrieve.slim import SLIM, elastic_net
from palate.testing.contracts import RetrieverContract, clustered, hit_rate, log_of, queries_of
from palate.types import ConfigError


class TestWhole(RetrieverContract):
    def make(self) -> SLIM:
        return SLIM(l1=0.1, l2=5, neighbours=None)


class TestLocal(RetrieverContract):
    def make(self) -> SLIM:
        return SLIM(l1=0.1, l2=5, neighbours=20)


class TestWeighted(RetrieverContract):
    def make(self) -> SLIM:
        return SLIM(l1=0.01, l2=2, half_life_days=500, half_life=20)


def literal(x: np.ndarray, j: int, l1: float, l2: float, passes: int = 300) -> np.ndarray:
    """Coordinate descent as the papers write it: residuals over users, one weight after another, item j left out."""
    weights = np.zeros(x.shape[1])
    for _ in range(passes):
        for i in range(x.shape[1]):
            if i != j:
                without = x[:, j] - x @ weights + x[:, i] * weights[i]
                weights[i] = max(0.0, x[:, i] @ without - l1) / max(x[:, i] @ x[:, i] + l2, 1e-300)
    return weights


@pytest.mark.parametrize("neighbours", [None, 13, 500])
def test_every_column_is_an_elastic_net_oracle(neighbours: int | None) -> None:
    log, _, _ = clustered(users=40, items=14)
    x = weighted_interactions(log, EventWeights(half_life_days=300)).toarray().astype(np.float64)
    slim = SLIM(l1=0.2, l2=1.5, neighbours=neighbours, half_life_days=300, passes=100, tolerance=1e-7).fit(log)
    found = slim.weights.toarray()
    for j in range(14):
        np.testing.assert_allclose(found[:, j], literal(x, j, 0.2, 1.5), atol=2e-5)
    assert (found >= 0).all()
    assert 0.05 < (found > 0).mean() < 0.8  # the penalty does leave some out


def test_restricted_to_the_nearest_oracle() -> None:
    log, _, _ = clustered(users=40, items=20)
    x = interactions(log).toarray().astype(np.float64)
    slim = SLIM(l1=0.2, l2=1.5, neighbours=6, passes=100, tolerance=1e-7).fit(log)
    cosine = x.T @ x / np.sqrt(np.outer(x.sum(0), x.sum(0)))
    np.fill_diagonal(cosine, 0)
    for j in range(20):
        near = np.append(np.argsort(-cosine[:, j], kind="stable")[:6], j)
        expected = np.zeros(20)
        expected[near] = literal(x[:, near], 6, 0.2, 1.5)
        np.testing.assert_allclose(slim.weights.toarray()[:, j], expected, atol=2e-5)


def test_by_hand() -> None:
    """X = [[1, 1], [1, 0]]: G = [[2, 1], [1, 1]]; w_01 = (1 - l1) / (2 + l2) and w_10 = (1 - l1) / (1 + l2)."""
    slim = SLIM(l1=0.25, l2=1).fit(log_of([(0, 0), (0, 1), (1, 0)]))
    found = slim.retrieve(queries_of([[0], [1], []]), 2)
    assert found.items.tolist() == [[1, -1], [0, -1], [-1, -1]]
    np.testing.assert_allclose(found.scores[:2, 0], [0.75 / 3, 0.75 / 2], rtol=1e-6)
    assert not SLIM(l1=1.5, l2=1).fit(log_of([(0, 0), (0, 1), (1, 0)])).retrieve(queries_of([[0]]), 2).present.any()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 6)), min_size=1, max_size=40), st.floats(0, 1.5), st.floats(0, 5))
def test_no_weight_can_be_bettered(events: list[tuple[int, int]], l1: float, l2: float) -> None:
    """At the minimum the slope is 0 where the weight is above 0, and not downhill where it is 0."""
    x = interactions(log_of(events, 8, 7)).toarray().astype(np.float64)
    g = x.T @ x
    weights = elastic_net(g, g.copy(), l1, l2, np.arange(7), passes=1000, tolerance=1e-10)  # row j is the regression of item j
    slope = weights @ g - g + l2 * weights + l1
    off = ~np.eye(7, dtype=bool)
    assert (weights.diagonal() == 0).all()
    assert (slope[off] > -1e-5).all()
    assert np.abs(slope[off & (weights > 0)]).max(initial=0) < 1e-5


def test_problems_solved_together_do_not_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    log, _, _ = clustered(users=40, items=20)
    kinds: list[dict[str, Any]] = [{"neighbours": None}, {"neighbours": 15}]
    together = [SLIM(l1=0.2, l2=3, tolerance=1e-5, **kind).fit(log).weights.toarray() for kind in kinds]
    monkeypatch.setattr(slim_module, "_TOGETHER", 7)
    for kind, before in zip(kinds, together, strict=True):
        np.testing.assert_allclose(SLIM(l1=0.2, l2=3, tolerance=1e-5, **kind).fit(log).weights.toarray(), before, atol=1e-4)


def test_too_many_items_for_the_whole_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slim_module, "DENSE", 3)
    with pytest.raises(ConfigError, match=r"slim\.neighbours: all of 4 items at once need 0\.0 GiB .* give a number, say 200"):
        SLIM(neighbours=None).fit(log_of([(0, 3), (1, 2)]))


def test_a_larger_l1_leaves_fewer_weights_and_still_learns() -> None:
    log, queries, wanted = clustered()
    some = [SLIM(l1=l1, l2=5).fit(log) for l1 in (0.0, 1.0, 3.0)]
    assert some[0].weights.nnz > some[1].weights.nnz > some[2].weights.nnz
    assert hit_rate(some[1].retrieve(queries, 10), wanted) > 0.3

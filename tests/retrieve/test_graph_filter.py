"""Graph filters against their dense definitions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import sparse
from scipy.linalg import expm

from palate.retrieve.base import interactions
from palate.retrieve.graph_filter import GraphFilter, right_singular_vectors
from palate.testing.contracts import RetrieverContract, clustered, log_of, queries_of


class TestSharpened(RetrieverContract):
    tolerance = 1e-4

    def make(self) -> GraphFilter:
        return GraphFilter(rank=8)


class TestGFCF(RetrieverContract):
    tolerance = 1e-4

    def make(self) -> GraphFilter:
        return GraphFilter(ideal=0.3, rank=6, sharpen=0)


class TestLinear(RetrieverContract):
    tolerance = 1e-4

    def make(self) -> GraphFilter:
        return GraphFilter(ideal=0, sharpen=0.3, order=1, half_life=10, half_life_days=800, user_power=0.3)


class TestLate(RetrieverContract):
    tolerance = 1e-4

    def make(self) -> GraphFilter:
        return GraphFilter(rank=4, sharpen=1.5, order=2, steps=2, merge="late")


EVERY = np.arange(20, dtype=np.int32)[None]


def dense(x: np.ndarray, a: float = 0.5, b: float = 0.5, rank: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """The linear and the ideal filter [N, N], as the papers write them."""
    users, items = x.sum(1), x.sum(0)
    r = np.diag(users**-a) @ x @ np.diag(items**-b)
    v = np.linalg.svd(r)[2][:rank].T
    return r.T @ r, np.diag(items**-b) @ v @ v.T @ np.diag(items**b)


@pytest.mark.parametrize(("a", "b"), [(0.5, 0.5), (0.3, 0.8)])
def test_gf_cf_oracle(a: float, b: float) -> None:
    log, queries, _ = clustered(users=40, items=20)
    x = interactions(log).toarray().astype(np.float64)
    linear, ideal = dense(x, a, b)
    model = GraphFilter(ideal=0.3, rank=5, sharpen=0, user_power=a, item_power=b, iterations=60).fit(log)
    every = EVERY.repeat(len(queries), 0)
    np.testing.assert_allclose(model.score(queries, every), x @ (linear + 0.3 * ideal), atol=1e-4)


@pytest.mark.parametrize("merge", ["early", "late"])
def test_bspm_oracle(merge: str) -> None:
    """Euler's method and Runge's and Kutta's, written out: four slopes a step."""
    log, queries, _ = clustered(users=40, items=20)
    x = interactions(log).toarray().astype(np.float64)
    linear, ideal = dense(x)
    every = EVERY.repeat(len(queries), 0)
    for order, steps, end in ((1, 1, 1.2), (4, 1, 2.5), (4, 2, 2.2)):
        signal, t = x @ linear + (0.2 * x @ ideal if merge == "early" else 0), end / steps
        for _ in range(steps):
            one = -signal @ linear
            if order == 1:
                signal = signal + t * one
                continue
            two = -(signal + t / 2 * one) @ linear
            three = -(signal + t / 2 * two) @ linear
            four = -(signal + t * three) @ linear
            signal = signal + t / 6 * (one + 2 * two + 2 * three + four)
        expected = signal if merge == "early" else signal + 0.2 * x @ ideal
        settings: dict[str, Any] = {"ideal": 0.2, "rank": 5, "sharpen": end, "order": order, "steps": steps, "merge": merge}
        model = GraphFilter(**settings, iterations=60).fit(log)
        np.testing.assert_allclose(model.score(queries, every), expected, atol=2e-4)


def test_many_steps_come_near_to_the_process_itself() -> None:
    log, queries, _ = clustered(users=40, items=20)
    x = interactions(log).toarray().astype(np.float64)
    linear = dense(x)[0]
    every = EVERY.repeat(len(queries), 0)
    exact = x @ linear @ expm(-2 * linear)
    errors = [np.abs(GraphFilter(ideal=0, sharpen=2, steps=n, order=2).fit(log).score(queries, every) - exact).max() for n in (1, 2, 8)]
    assert errors[0] > 3 * errors[1] > 9 * errors[2]
    assert errors[2] < 1e-2


def test_by_hand() -> None:
    """u0: 0 1; u1: 0. R = [[1/2, 1/sqrt(2)], [1/sqrt(2), 0]], so P = [[3/4, 1/sqrt(8)], [1/sqrt(8), 1/2]]."""
    model = GraphFilter(ideal=0, sharpen=0).fit(log_of([(0, 0), (0, 1), (1, 0)], n_items=3))
    found = model.retrieve(queries_of([[0], []], blocked=[[], []]), 3)
    assert found.items.tolist() == [[0, 1, -1], [-1, -1, -1]]  # item 2 nobody ever wanted
    np.testing.assert_allclose(found.scores[0, :2], [3 / 4, 1 / 8**0.5], rtol=1e-6)


def test_singular_vectors_oracle() -> None:
    rng = np.random.default_rng(0)
    x = (rng.random((60, 40)) < 0.15).astype(np.float32) * rng.random((60, 40)).astype(np.float32)
    for rank, iterations in ((3, 100), (40, 4), (99, 4)):
        found = right_singular_vectors(sparse.csr_matrix(x), rank, iterations, seed=1)
        expected = np.linalg.svd(x)[2][: min(rank, 40)].T
        assert found.shape == expected.shape
        np.testing.assert_allclose(found @ found.T, expected @ expected.T, atol=2e-3)


def test_the_ideal_filter_joins_what_is_never_seen_together() -> None:
    """A chain u0: 0 1, u1: 1 2, u2: 2 3. Nobody has both 0 and 2: to the linear filter they are strangers."""
    log = log_of([(0, 0), (0, 1), (1, 1), (1, 2), (2, 2), (2, 3)])
    linear, both = (GraphFilter(ideal=ideal, rank=1, sharpen=0).fit(log).score(queries_of([[0]]), EVERY[:, :4])[0] for ideal in (0, 1))
    assert linear[2:].tolist() == [0, 0]
    assert both[2] > 0.1
    assert (both[:2] > linear[:2]).all()

"""EASE."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palate.retrieve import ease as ease_module
from palate.retrieve.base import interactions
from palate.retrieve.ease import EASE
from palate.testing.contracts import RetrieverContract, clustered, log_of, queries_of
from palate.types import ConfigError


class TestOverUsers(RetrieverContract):
    def make(self) -> EASE:
        return EASE(l2=10, form="users")


class TestOverItems(RetrieverContract):
    def make(self) -> EASE:
        return EASE(l2=10, form="items", keep=None)


class TestPruned(RetrieverContract):
    def make(self) -> EASE:
        return EASE(l2=10, form="items", keep=20)


class TestLocal(RetrieverContract):
    def make(self) -> EASE:
        return EASE(l2=10, form="local", neighbours=20)


class TestWeightedOverUsers(RetrieverContract):
    def make(self) -> EASE:
        return EASE(l2=10, form="users", half_life_days=1000)


class TestFading(RetrieverContract):
    def make(self) -> EASE:
        return EASE(l2=10, half_life=5)


@pytest.mark.parametrize("form", ["users", "items", "local"])
def test_by_hand(form: str) -> None:
    """Two items, wanted together by one user, item 0 alone by another: X = [[1, 1], [1, 0]], l2 = 1.

    X'X + I = [[3, 1], [1, 2]], its inverse P = [[2, -1], [-1, 3]] / 5, so B_01 = -P_01 / P_11 = 1/3 and B_10 = -P_10 / P_00 = 1/2.
    """
    ease = EASE(l2=1, form=form).fit(log_of([(0, 0), (0, 1), (1, 0)]))
    candidates = ease.retrieve(queries_of([[0], [1]]), 2)
    assert candidates.items.tolist() == [[1, -1], [0, -1]]
    np.testing.assert_allclose(candidates.scores[:, 0], [1 / 3, 1 / 2], rtol=1e-6)
    free = ease.retrieve(queries_of([[0]], blocked=[[]]), 2)
    np.testing.assert_allclose(free.scores, [[1 / 3, 0]], atol=1e-7)  # the diagonal is zero: item 0 says nothing about itself


def test_the_weights_solve_steck_s_problem_oracle() -> None:
    """Equation 3 of the paper at its minimum: off the diagonal the gradient X'X B - X'X + l2 B is zero."""
    log, _, _ = clustered(users=30, items=20)
    gram = interactions(log).toarray().T.astype(np.float64) @ interactions(log).toarray()
    ease = EASE(l2=5, form="items", keep=None).fit(log)
    gradient = gram @ ease.weights - gram + 5 * ease.weights
    np.fill_diagonal(gradient, 0)
    assert np.abs(gradient).max() < 1e-3
    assert (np.diag(ease.weights) == 0).all()


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 8), st.integers(0, 11)), min_size=1, max_size=60),
    st.sampled_from([0.5, 20.0, 300.0]),
    st.sampled_from([None, 2.0]),
    st.sampled_from([None, 30.0]),
    st.integers(3, 12),
)
def test_all_forms_agree_oracle(
    events: list[tuple[int, int]], l2: float, half_life: float | None, days: float | None, max_items: int
) -> None:
    log = log_of(events, 9, 12)
    queries = queries_of([[0, 1, 2], [5, 5, 3], [11], []], blocked=[[], [], [11], []])
    answers = [
        EASE(l2=l2, half_life=half_life, half_life_days=days, form=form, max_items=max_items, keep=None).fit(log).retrieve(queries, 12)
        for form in ("users", "items", "local")
    ]
    for other in answers[1:]:
        np.testing.assert_allclose(np.sort(answers[0].scores), np.sort(other.scores), rtol=2e-4, atol=2e-5)
        assert np.array_equal(answers[0].present, other.present)


def test_the_local_form_is_a_ridge_regression_on_the_neighbours_oracle() -> None:
    """Column by column, on the five items of the largest cosine: numpy's least squares with the ridge as further rows."""
    log, _, _ = clustered(users=30, items=20)
    x = interactions(log).toarray().astype(np.float64)
    ease = EASE(l2=3, form="local", neighbours=5).fit(log)
    cosine = x.T @ x / np.sqrt(np.outer(x.sum(0), x.sum(0)))
    np.fill_diagonal(cosine, 0)
    for j in range(20):
        near = np.argsort(-cosine[:, j], kind="stable")[:5]
        rows = np.concatenate([x[:, near], 3**0.5 * np.eye(5)])
        expected = np.zeros(20)
        expected[near] = np.linalg.lstsq(rows, np.concatenate([x[:, j], np.zeros(5)]))[0]
        np.testing.assert_allclose(ease.weights.toarray()[:, j], expected, atol=1e-5)


def test_more_neighbours_come_nearer_to_the_whole() -> None:
    log, queries, _ = clustered()
    whole = EASE(l2=10, form="items", keep=None).fit(log).retrieve(queries, 5).items
    shared = [
        np.mean(
            [np.isin(a, b) for a, b in zip(EASE(l2=10, form="local", neighbours=m).fit(log).retrieve(queries, 5).items, whole, strict=True)]
        )
        for m in (10, 40, 58)
    ]
    assert shared[0] < shared[1] < shared[2]
    assert shared[1] > 0.8


def test_what_memory_cannot_hold_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    log, _, _ = clustered(users=30, items=50)
    monkeypatch.setattr(ease_module, "_memory", lambda: 4 * 30**2)
    for form in ("items", "users"):
        with pytest.raises(ConfigError, match=rf"ease\.form: '{form}' inverts .* choose form = \"local\", or fewer items by max_items"):
            EASE(form=form).fit(log)
    EASE(form="local").fit(log)


def test_auto_takes_the_smaller_side(monkeypatch: pytest.MonkeyPatch) -> None:
    assert EASE().fit(log_of([(0, i) for i in range(4)])).over_users
    assert not EASE().fit(log_of([(u, u % 3) for u in range(9)])).over_users
    few = EASE().fit(log_of([(0, i) for i in range(4)]))
    monkeypatch.setattr(ease_module, "DENSE", 0)
    many = EASE().fit(log_of([(0, i) for i in range(4)]))
    assert not many.over_users
    np.testing.assert_allclose(few.retrieve(queries_of([[0]]), 3).scores, many.retrieve(queries_of([[0]]), 3).scores, rtol=1e-5)


def test_only_the_most_popular_items_take_part() -> None:
    log = log_of([(0, 0), (1, 0), (0, 2), (1, 2), (2, 2), (0, 3)], n_items=5)
    ease = EASE(l2=1, max_items=2).fit(log)
    assert ease.items.tolist() == [0, 2]
    assert ease.retrieve(queries_of([[0]]), 4).items.tolist() == [[2, -1, -1, -1]]
    assert not ease.retrieve(queries_of([[3]]), 4).present.any()  # all that is known of this person takes no part


def test_the_reason_is_the_largest_weight() -> None:
    ease = EASE(l2=1).fit(log_of([(0, 0), (0, 1), (1, 0), (1, 1), (2, 2), (2, 1), (3, 3)]))
    because = ease.because(queries_of([[3, 2, 0]]), np.array([[1, -1]], dtype=np.int32))
    assert because is not None
    assert because.tolist() == [[0, -1]]


def test_saved_without_a_matrix_of_items_by_items() -> None:
    log, _, _ = clustered(users=10, items=50)
    assert all(array.size <= 10 * 50 for array in EASE(form="users").fit(log).state().arrays.values())


def test_too_little_ridge_is_an_error_that_names_the_key() -> None:
    log = log_of([(user, item) for user in range(3) for item in range(3)] * 2)
    with pytest.raises(ConfigError, match=r"ease\.l2: 1e-30 is too small"):
        EASE(l2=1e-30, form="items").fit(log)

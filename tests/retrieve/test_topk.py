"""The best K of each row, weighted histories, reasons."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from palate.retrieve.topk import answer, answer_sparse, evidence, largest, query_matrix, top_k, top_k_sparse
from palate.testing.contracts import queries_of
from palate.types import Ragged


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.sampled_from([-np.inf, -1.0, 0.0, 0.5, 0.5, 2.0]), min_size=7, max_size=7), max_size=5), st.integers(1, 9))
def test_against_sorting(rows: list[list[float]], k: int) -> None:
    scores = np.array(rows, dtype=np.float32).reshape(-1, 7)
    items, best = top_k(scores.copy(), k)
    for row, found, values in zip(rows, items.tolist(), best.tolist(), strict=True):
        expected = [code for code in sorted(range(7), key=lambda code: (-row[code], code)) if row[code] > -np.inf][:k]
        assert found == expected + [-1] * (k - len(expected))
        assert values == [row[code] for code in expected] + [-np.inf] * (k - len(expected))


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.dictionaries(st.integers(0, 40), st.sampled_from([-3.0, -1e-40, -0.0, 0.0, 1e-40, 0.5, 0.5, 2.0])), max_size=6),
    st.integers(0, 9),
)
def test_sparse_against_sorting(rows: list[dict[int, float]], k: int) -> None:
    columns, values = [code for row in rows for code in row], [value for row in rows for value in row.values()]
    indptr = np.cumsum([0, *(len(row) for row in rows)])
    matrix = sparse.csr_matrix((np.array(values, dtype=np.float32), np.array(columns, dtype=np.int32), indptr), shape=(len(rows), 41))
    items, best = top_k_sparse(matrix, k)
    for row, found, scores in zip(rows, items.tolist(), best.tolist(), strict=True):
        single = {code: float(np.float32(value)) for code, value in row.items()}
        expected = sorted(single, key=lambda code: (-single[code], code))[:k]
        assert found == expected + [-1] * (k - len(expected))
        assert scores == [single[code] for code in expected] + [-np.inf] * (k - len(expected))


def test_the_largest_of_each_row_by_hand() -> None:
    # As they lie: columns need not be in order. Row 0: 5 and one of the three 3s, that of column 0. Row 1: 2 of the three 4s. Row 2: all.
    data, columns = [3, 5, 3, 1, 3, 4, 4, 4, -1, -2], [4, 2, 0, 1, 3, 3, 1, 0, 2, 0]
    matrix = sparse.csr_matrix((np.array(data, dtype=np.float32), np.array(columns, dtype=np.int32), [0, 5, 8, 10]), shape=(3, 5))
    found = largest(matrix, np.array([2, 2, 3]))
    assert found.indices.tolist() == [2, 0, 1, 0, 2, 0]
    assert found.data.tolist() == [5, 3, 4, 4, -1, -2]
    assert found.indptr.tolist() == [0, 2, 4, 6]


def test_the_sparse_answer_is_the_dense_one() -> None:
    rng = np.random.default_rng(0)
    scores = sparse.csr_matrix(np.where(rng.random((9, 30)) < 0.4, rng.integers(-2, 5, (9, 30)) + 0.5, 0).astype(np.float32))
    queries = queries_of([[1, 2]] * 9, users=range(9), blocked=[[row, 2 * row, 2 * row] for row in range(9)])
    for asked in (queries, replace(queries, allowed=np.arange(30) % 3 > 0)):
        few = answer_sparse(lambda part: scores[part.users], asked, 30, 7, "few")
        full = answer(lambda part: evidence(scores[part.users]), asked, 30, 7, "few")
        assert np.array_equal(few.items, full.items)
        assert np.array_equal(few.scores, full.scores)


def test_weights_of_a_history_by_hand() -> None:
    history = Ragged.of([[3, 1, 3, 0], [], [2]])
    assert query_matrix(history, 4).toarray().tolist() == [[1, 1, 0, 1], [0, 0, 0, 0], [0, 0, 1, 0]]
    assert query_matrix(history, 4, half_life=1).toarray().tolist() == [[1, 0.25, 0, 0.5], [0, 0, 0, 0], [0, 0, 1, 0]]
    assert query_matrix(history, 4, last=2).toarray().tolist() == [[1, 0, 0, 1], [0, 0, 0, 0], [0, 0, 1, 0]]


@pytest.mark.parametrize("kind", ["normal", "ties", "few", "all equal"])
def test_long_rows_against_sorting(kind: str) -> None:
    """Long enough for the first pass over groups; `above` leaves out what is not greater."""
    rng = np.random.default_rng(0)
    for k, n in ((1, 2100), (5, 5000), (40, 3000)):
        scores = rng.normal(size=(3, n)).astype(np.float32)
        if kind == "ties":
            scores = np.round(scores)
        elif kind == "few":
            scores[rng.random(scores.shape) < 0.999] = -np.inf
        elif kind == "all equal":
            scores[:] = 1.0
        above = np.sort(scores, axis=1)[:, -3]
        for some, floor in ((scores, None), (np.where(scores > above[:, None], scores, -np.inf).astype(np.float32), above)):
            items, best = top_k(scores.copy(), k, floor)
            order = np.lexsort((np.broadcast_to(np.arange(n), some.shape), -some), axis=1)[:, :k]
            expected = np.take_along_axis(some, order, 1)
            assert np.array_equal(best, expected)
            assert np.array_equal(items, np.where(expected == -np.inf, -1, order))


def test_nan_is_never_taken() -> None:
    items, best = top_k(np.array([[np.nan, 1.0, np.nan, 2.0]], dtype=np.float32), 3)
    assert items.tolist() == [[3, 1, -1]]
    assert best.tolist() == [[2.0, 1.0, -np.inf]]

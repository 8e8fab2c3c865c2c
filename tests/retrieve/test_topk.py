"""The best K of each row, weighted histories, reasons."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from palate.retrieve.topk import query_matrix, top_k
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


def test_weights_of_a_history_by_hand() -> None:
    history = Ragged.of([[3, 1, 3, 0], [], [2]])
    assert query_matrix(history, 4).toarray().tolist() == [[1, 1, 0, 1], [0, 0, 0, 0], [0, 0, 1, 0]]
    assert query_matrix(history, 4, half_life=1).toarray().tolist() == [[1, 0.25, 0, 0.5], [0, 0, 0, 0], [0, 0, 1, 0]]
    assert query_matrix(history, 4, last=2).toarray().tolist() == [[1, 0, 0, 1], [0, 0, 0, 0], [0, 0, 1, 0]]

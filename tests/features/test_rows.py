"""Labelled rows from arrays: what is wrong with them, in one line each, before anything learns from them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from palate.features.rows import Rows
from palate.types import DataError, Inputs, SparseInput

INPUTS = Inputs(("price", "age"), (SparseInput("user", "user", 10, "sum"),), ("click",))


def table(**changes: Any) -> Rows:
    given = {"dense": np.ones((4, 2)), "ids": np.ones((4, 1), dtype=np.int32), "labels": np.array([0, 1, 0, 1]), **changes}
    return Rows.of(INPUTS, **given)


def test_what_goes_in_comes_out() -> None:
    rows = table()
    assert len(rows) == 4
    assert rows.labels.tolist() == [[0.0], [1.0], [0.0], [1.0]]
    assert rows.batch(np.array([3, 0])).labels.tolist() == [[1.0], [0.0]]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"dense": np.array([[1, 2], [3, np.nan], [5, 6], [7, 8]])}, "row 1, dense feature 'age': nan; fill or drop it before"),
        ({"dense": np.array([[1, 2], [3, 4], [np.inf, 6], [7, 8]])}, "row 2, dense feature 'price': inf"),
        ({"dense": [[1, "x"], [3, 4], [5, 6], [7, 8]]}, "dense, row 0, 'age': 'x' is not a number; encode text as ids"),
        ({"dense": [[1, 2], [None, "y"], [5, 6], [7, 8]]}, "dense, row 1, 'price': None is not a number"),
        ({"labels": ["no", "yes", "no", "yes"]}, "labels, row 0: 'no' is not a number"),
        ({"ids": np.array([[1], [2], [10], [3]])}, "row 2, feature 'user': id 10 is outside its table of 10 rows"),
        ({"ids": np.array([[1], [-1], [10], [3]])}, "row 1, feature 'user': id -1 is outside its table of 10 rows"),
        ({"ids": np.full((4, 1), 1.5)}, "ids must be whole numbers, not float64; encode them first"),
        ({"ids": np.ones((4, 2), dtype=np.int32)}, r"ids has the shape \(4, 2\), expected \(4, 1\)"),
    ],
)
def test_bad_cells(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(DataError, match=says):
        table(**changes)


@pytest.mark.parametrize(
    ("labels", "says"),
    [([1, 1, 1, 1], "label 'click' is 1 in all 4 rows; a model needs both kinds"), ([np.nan] * 4, "label 'click' is unknown in every row")],
)
def test_nothing_to_learn(labels: list[float], says: str) -> None:
    with pytest.raises(DataError, match=says):
        table(labels=labels).check("dlrm")


def test_no_rows() -> None:
    empty = Rows.of(INPUTS, np.zeros((0, 2)), np.zeros((0, 1), dtype=np.int32), np.zeros(0))
    with pytest.raises(DataError, match="dlrm: the table has no rows to learn from"):
        empty.check("dlrm")

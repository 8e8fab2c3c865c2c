from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from palate.features.collate import collate
from palate.features.encode import Encoded
from palate.types import DataError, Inputs, Ragged, SparseInput


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5), st.integers(1, 3), st.data())
def test_every_row_and_key_arrives(rows: int, keys: int, data: st.DataObject) -> None:
    row = st.lists(st.lists(st.integers(0, 9), max_size=4), min_size=rows, max_size=rows)
    given_lists = {f"k{key}": data.draw(row) for key in range(keys)}
    inputs = Inputs(("a",), tuple(SparseInput(name, name, 10) for name in given_lists))
    encoded = Encoded(np.arange(rows, dtype=np.float32)[:, None], {name: Ragged.of(values) for name, values in given_lists.items()}, inputs)
    batch = collate(encoded)
    assert list(batch.sparse.keys()) == list(given_lists)
    assert {name: [row.tolist() for row in tensor.to_dense()] for name, tensor in batch.sparse.to_dict().items()} == given_lists
    assert batch.sparse.values().dtype == torch.int64
    assert batch.sparse.stride() == rows
    assert batch.dense[:, 0].tolist() == list(range(rows))
    assert batch.labels.shape == (rows, 1)
    assert batch.weights.tolist() == [1.0] * rows
    assert len(batch) == rows


def encoded() -> Encoded:
    inputs = Inputs((), (SparseInput("b", "b", 9), SparseInput("a", "a", 9)))
    return Encoded(np.zeros((2, 0), dtype=np.float32), {"a": Ragged.of([[1], [2]]), "b": Ragged.of([[], [3, 4]])}, inputs)


def test_keys_are_in_the_order_of_the_inputs() -> None:
    sparse = collate(encoded()).sparse
    assert sparse.keys() == ["b", "a"]
    assert sparse.values().tolist() == [3, 4, 1, 2]
    assert sparse.lengths().tolist() == [0, 2, 1, 1]


def test_labels_weights_and_extra() -> None:
    labels, weights, codes = np.array([1, 0], dtype=np.float32), np.array([0.5, 2], dtype=np.float32), np.array([[7, 8], [9, 10]])
    batch = collate(encoded(), labels, weights, {"items": codes})
    assert batch.labels.tolist() == [[1.0], [0.0]]
    assert batch.weights.tolist() == [0.5, 2.0]
    assert batch.extra["items"].tolist() == codes.tolist()
    assert batch.to("cpu").extra["items"].dtype == torch.int64
    assert collate(encoded(), np.zeros((2, 3), dtype=np.float32)).labels.shape == (2, 3)


def test_arrays_that_are_read_only_or_too_short() -> None:
    labels = np.zeros(2, dtype=np.float32)
    labels.setflags(write=False)
    codes = np.arange(2)
    codes.setflags(write=False)
    assert collate(encoded(), labels, extra={"items": codes}).labels.shape == (2, 1)
    for wrong in ({"labels": np.zeros(3)}, {"weights": np.zeros(1)}, {"extra": {"items": np.zeros(5)}}):
        with pytest.raises(DataError, match="2 rows"):
            collate(encoded(), **wrong)  # type: ignore[arg-type]


def test_no_rows() -> None:
    one = encoded()
    batch = collate(Encoded(one.dense[:0], {name: values.take(np.arange(0)) for name, values in one.sparse.items()}, one.inputs))
    assert len(batch) == 0
    assert batch.labels.shape == (0, 1)
    assert batch.sparse.keys() == ["b", "a"]


def test_no_sparse_features() -> None:
    batch = collate(Encoded(np.ones((3, 2), dtype=np.float32), {}, Inputs(("a", "b"))))
    assert batch.sparse.keys() == []
    assert len(batch.to("cpu")) == 3

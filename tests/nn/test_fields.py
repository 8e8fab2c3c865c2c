import numpy as np
import pytest
import torch

from palate.config import Training
from palate.features.collate import collate
from palate.features.encode import Encoded
from palate.nn.embedding import Embeddings
from palate.nn.fields import Fields
from palate.types import Inputs, Ragged, SparseInput


def test_hand_computed() -> None:
    inputs = Inputs(("a", "b"), (SparseInput("user", "user", 3), SparseInput("item", "item", 2)))
    batch = collate(
        Encoded(
            np.array([[2.0, 0.5], [-1.0, 0.0]], dtype=np.float32), {"user": Ragged.of([[1], [2]]), "item": Ragged.of([[1], []])}, inputs
        )
    )
    fields = Fields(inputs, Embeddings(inputs, 2, Training(sparse="dense")))
    assert (fields.count, fields.width, fields.flat) == (4, 2, 8)
    assert fields.vectors is not None
    with torch.no_grad():
        fields.embeddings.tables()["user"].copy_(torch.tensor([[0.0, 0.0], [1.0, 2.0], [3.0, 4.0]]))
        fields.embeddings.tables()["item"].copy_(torch.tensor([[0.0, 0.0], [5.0, 6.0]]))
        fields.vectors.copy_(torch.tensor([[1.0, -1.0], [10.0, 20.0]]))
        assert fields(batch).tolist() == [[[1, 2], [5, 6], [2, -2], [5, 10]], [[3, 4], [0, 0], [-1, 1], [0, 0]]]


def test_without_dense_columns_there_is_no_vector() -> None:
    inputs = Inputs((), (SparseInput("user", "user", 3),))
    fields = Fields(inputs, Embeddings(inputs, 4, Training(sparse="dense")))
    assert fields.vectors is None
    assert [name for name, _ in fields.named_parameters()] == ["embeddings.collection.embedding_bags.user.weight"]


@pytest.mark.parametrize(("std", "expected"), [(None, 0.25), (0.01, 0.01)])
def test_where_the_vectors_of_dense_columns_start(std: float | None, expected: float) -> None:
    torch.manual_seed(0)
    inputs = Inputs(tuple(f"x{place}" for place in range(200)))
    fields = Fields(inputs, Embeddings(inputs, 16, Training(sparse="dense")), std)
    assert fields.vectors is not None
    assert float(fields.vectors.detach().std()) == pytest.approx(expected, rel=0.1)

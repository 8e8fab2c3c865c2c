import numpy as np
import pytest
import torch

from palate.config import Training
from palate.features.collate import collate
from palate.features.encode import Encoded
from palate.nn.embedding import Embeddings
from palate.nn.stack import Stack
from palate.types import Batch, ConfigError, Inputs, Ragged, SparseInput

DENSE = Training(sparse="dense")


def row(dense: tuple[str, ...], sparse: tuple[str, ...]) -> tuple[Inputs, Batch]:
    inputs = Inputs(dense, tuple(SparseInput(name, name, 3) for name in sparse))
    encoded = Encoded(np.array([[2.0, -1.0]], dtype=np.float32)[:, : len(dense)], {name: Ragged.of([[2]]) for name in sparse}, inputs)
    return inputs, collate(encoded)


def test_hand_computed() -> None:
    inputs, batch = row(("a", "b"), ("user", "item"))
    stack = Stack(inputs, Embeddings(inputs, 2, DENSE))
    with torch.no_grad():
        stack.embeddings.tables()["user"][2] = torch.tensor([3.0, 4.0])
        stack.embeddings.tables()["item"][2] = torch.tensor([5.0, 6.0])
    assert stack(batch).tolist() == [[3.0, 4.0, 5.0, 6.0, 2.0, -1.0]]
    assert stack.width_out == 6


def test_only_one_kind_of_input() -> None:
    for dense, sparse, width in ((("a", "b"), (), 2), ((), ("user",), 4)):
        inputs, batch = row(dense, sparse)
        stack = Stack(inputs, Embeddings(inputs, 4, DENSE))
        assert stack(batch).shape == (1, stack.width_out) == (1, width)


def test_no_input_is_an_error() -> None:
    with pytest.raises(ConfigError, match="give it a feature"):
        Stack(Inputs(), Embeddings(Inputs(), 4, DENSE))

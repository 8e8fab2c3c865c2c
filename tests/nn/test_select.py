import numpy as np
import pytest
import torch

from palate.config import Training
from palate.features.collate import collate
from palate.features.encode import Encoded
from palate.nn.embedding import Embeddings
from palate.nn.select import Select
from palate.types import Batch, ConfigError, Inputs, Ragged, SparseInput


def example() -> tuple[Inputs, Batch]:
    inputs = Inputs(("a", "b", "c"), (SparseInput("user", "user", 3), SparseInput("item", "item", 3)), ("click", "buy"))
    dense = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], dtype=np.float32)
    return inputs, collate(Encoded(dense, {"user": Ragged.of([[1], [2]]), "item": Ragged.of([[2], [1]])}, inputs))


def test_all() -> None:
    inputs, batch = example()
    select = Select(inputs, None, "part")
    assert select.inputs == inputs
    assert select(batch) is batch


def test_some_keep_the_order_of_the_inputs() -> None:
    inputs, batch = example()
    select = Select(inputs, ["item", "c", "a"], "part")
    assert select.inputs == Inputs(("a", "c"), (inputs.sparse[1],), ("click", "buy"))
    some = select(batch)
    assert some.dense.tolist() == [[1.0, 3.0], [4.0, 6.0]]
    table = Embeddings(select.inputs, 2, Training(sparse="dense"))
    with torch.no_grad():
        table.tables()["item"].copy_(torch.tensor([[0.0, 0.0], [1.0, 2.0], [3.0, 4.0]]))
    assert table(some.sparse).tolist() == [[[3.0, 4.0]], [[1.0, 2.0]]]


def test_no_dense_column_is_left() -> None:
    inputs, batch = example()
    assert Select(inputs, ["user"], "part")(batch).dense.shape == (2, 0)


def test_nothing_of_it_is_a_weight() -> None:
    select = Select(example()[0], ["a"], "part")
    assert not select.state_dict()
    assert [buffer.device.type for buffer in select.to("meta").buffers()] == ["meta"]


def test_a_name_that_is_not_there_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"wide_deep\.wide\.items: no such key; did you mean `item`"):
        Select(example()[0], ["items"], "wide_deep.wide")

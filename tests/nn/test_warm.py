"""A network that goes on from another: rows found by id, layers by name."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import torch
from torch import Tensor, nn

from palate.config import Training
from palate.features.vocab import Buckets, Vocabulary
from palate.nn.embedding import Embeddings
from palate.nn.warm import go_on, same_columns
from palate.types import Batch, Compressed, Inputs, SparseInput

PLAIN = Inputs(dense=("age",), sparse=(SparseInput("item", "item", 5, "sum"),))


class Net(nn.Module):
    """A table and a layer."""

    def __init__(self, inputs: Inputs, out: int = 1, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.embeddings = Embeddings(inputs, 4, Training(), init="normal", std=1.0)
            self.layer = nn.Linear(5, out)
        self.register_buffer("count", torch.zeros(1))

    def forward(self, batch: Batch) -> Tensor:
        found: Tensor = self.layer(torch.cat((batch.dense, self.embeddings(batch.sparse)[:, 0]), 1))
        return found


def words(*values: str) -> Vocabulary:
    return Vocabulary(pl.Series("value", values, dtype=pl.String), pl.Series("count", [1] * len(values)))


def test_rows_are_found_by_id_by_hand() -> None:
    """Earlier b, a, c are rows 2, 3, 4. Now c, new, a, b: rows 4, OOV (1), 3, 2; PAD and OOV keep theirs."""
    earlier, now = words("b", "a", "c"), words("c", "new", "a", "b")
    rows = now.rows_of(earlier)
    assert rows is not None
    np.testing.assert_array_equal(rows, [0, 1, 4, 1, 3, 2])


def test_buckets_keep_their_rows_or_have_none() -> None:
    rows = Buckets(3).rows_of(Buckets(3))
    assert rows is not None
    np.testing.assert_array_equal(rows, [0, 1, 2, 3, 4])
    assert Buckets(3).rows_of(Buckets(4)) is None
    assert Buckets(3).rows_of(words("a")) is None
    assert words("a").rows_of(Buckets(3)) is None


def test_a_permuted_vocabulary_finds_its_vectors_by_hand() -> None:
    earlier, rows = Net(PLAIN, seed=1), words("c", "new", "a", "b").rows_of(words("b", "a", "c"))
    assert rows is not None
    grown = replace(PLAIN, sparse=(replace(PLAIN.sparse[0], rows=6),))
    network = Net(grown, seed=2)
    go_on(network, earlier, {"item": rows}, same_inputs=True)
    mine, theirs = network.embeddings.tables()["item"], earlier.embeddings.tables()["item"]
    for place, row in enumerate([0, 1, 4, 1, 3, 2]):  # a new id starts where it was so far: with the unknown
        assert torch.equal(mine[place], theirs[row])
    assert torch.equal(mine[0], torch.zeros(4))
    assert torch.equal(network.layer.weight, earlier.layer.weight)
    assert torch.equal(network.layer.bias, earlier.layer.bias)


def test_other_columns_leave_the_layers_as_they_start() -> None:
    earlier, network, fresh = Net(PLAIN, seed=1), Net(PLAIN, seed=2), Net(PLAIN, seed=2)
    go_on(network, earlier, {"item": np.arange(5)}, same_inputs=False)
    assert torch.equal(network.layer.weight, fresh.layer.weight)
    assert torch.equal(network.embeddings.tables()["item"], earlier.embeddings.tables()["item"])


def test_a_layer_of_another_shape_and_a_table_without_rows_start_as_ever() -> None:
    earlier, network, fresh = Net(PLAIN, out=2, seed=1), Net(PLAIN, seed=2), Net(PLAIN, seed=2)
    go_on(network, earlier, {}, same_inputs=True)
    assert torch.equal(network.layer.weight, fresh.layer.weight)
    assert torch.equal(network.embeddings.tables()["item"], fresh.embeddings.tables()["item"])


def test_a_compressed_table_goes_on_only_where_nothing_moved() -> None:
    inputs = Inputs(dense=("age",), sparse=(SparseInput("item", "item", 9, "sum", Compressed("qr", collisions=3, threshold=2)),))
    earlier, network, moved, fresh = Net(inputs, seed=1), Net(inputs, seed=2), Net(inputs, seed=2), Net(inputs, seed=2)
    go_on(network, earlier, {"item": np.arange(9)}, same_inputs=True)
    go_on(moved, earlier, {"item": np.array([0, 1, 3, 2, 4, 5, 6, 7, 8])}, same_inputs=True)
    assert set(network.embeddings.tables()) == {"item:quotient", "item:remainder"}
    for table in network.embeddings.tables():
        assert torch.equal(network.embeddings.tables()[table], earlier.embeddings.tables()[table])
        assert torch.equal(moved.embeddings.tables()[table], fresh.embeddings.tables()[table])


def test_columns_are_the_same_by_name_pooling_and_task() -> None:
    assert same_columns(PLAIN, replace(PLAIN, sparse=(replace(PLAIN.sparse[0], rows=99),)))
    assert not same_columns(PLAIN, replace(PLAIN, dense=("year",)))
    assert not same_columns(PLAIN, replace(PLAIN, sparse=(replace(PLAIN.sparse[0], pooling="mean"),)))
    assert not same_columns(PLAIN, replace(PLAIN, tasks=("click", "rating")))

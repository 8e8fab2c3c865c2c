from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from palate.config import Training
from palate.nn.embedding import Embeddings
from palate.types import ConfigError, DataError, Inputs, PalateError, SparseInput

DENSE, FUSED = Training(sparse="dense"), Training(sparse="rowwise_adagrad", sparse_lr=0.1)
both = pytest.mark.parametrize("training", [DENSE, FUSED], ids=["dense", "fused"])


def kjt(**features: list[list[int]]) -> KeyedJaggedTensor:
    values = [i for rows in features.values() for row in rows for i in row]
    lengths = [len(row) for rows in features.values() for row in rows]
    return KeyedJaggedTensor(list(features), torch.tensor(values, dtype=torch.long), lengths=torch.tensor(lengths, dtype=torch.long))


# Two features on table `item` with different poolings, with another table between them: TorchRec's order is not ours.
INPUTS = Inputs(
    sparse=(SparseInput("liked", "item", 6, "mean"), SparseInput("user", "user", 4, "sum"), SparseInput("item", "item", 6, "sum"))
)


def counting(training: Training) -> Embeddings:
    """Row i of every table is (i, 10 i); of `user` (100 i, 0)."""
    embed = Embeddings(INPUTS, 4, training)
    with torch.no_grad():
        for table, weight in embed.tables().items():
            i = torch.arange(len(weight), dtype=torch.float32)
            weight.zero_()
            weight[:, 0] = i * (100 if table == "user" else 1)
            weight[:, 1] = i * (0 if table == "user" else 10)
    return embed


@both
def test_hand_computed(training: Training) -> None:
    batch = kjt(liked=[[1, 3], [], [2, 0, 4]], user=[[1], [3], [2, 2]], item=[[5], [1, 2], [0]])
    found = counting(training)(batch)
    expected = torch.tensor(
        [
            [[2.0, 20.0], [100.0, 0.0], [5.0, 50.0]],
            [[0.0, 0.0], [300.0, 0.0], [3.0, 30.0]],
            [[3.0, 30.0], [400.0, 0.0], [0.0, 0.0]],  # PAD counts for nothing in a mean
        ]
    )
    assert found.shape == (3, 3, 4)
    assert torch.equal(found[:, :, :2], expected)
    assert found.dtype == torch.float32


@both
def test_keys_are_found_by_name_in_any_order_among_others(training: Training) -> None:
    first = kjt(liked=[[1, 3]], user=[[1]], item=[[5]])
    second = kjt(item=[[5]], other=[[9, 9]], user=[[1]], liked=[[1, 3]])
    embed = counting(training)
    assert torch.equal(embed(first), embed(second))


BAGS = st.lists(st.tuples(*[st.lists(st.integers(0, 3), max_size=4)] * 3), min_size=1, max_size=6)


@settings(deadline=None, max_examples=60)
@given(bags=BAGS, order=st.permutations(["liked", "user", "item", "other"]), others=st.booleans())
def test_where_nothing_is_learnt_the_vectors_are_the_same_to_the_bit(bags: list[Any], order: list[str], others: bool) -> None:
    """Any bags, of PAD and of repeated ids too, by any keys in any order."""
    embed = Embeddings(INPUTS, 4, FUSED, init="normal", std=1.0)
    columns = dict(zip(("liked", "user", "item"), ([list(bag) for bag in column] for column in zip(*bags, strict=True)), strict=True))
    columns["other"] = [[9]] * len(bags)
    batch = kjt(**{name: columns[name] for name in order if others or name != "other"})
    learning = embed(batch)
    with torch.no_grad():
        assert torch.equal(embed(batch), learning)
    assert learning.requires_grad


@both
def test_shared_tables_are_one_table(training: Training) -> None:
    assert {name: tuple(weight.shape) for name, weight in counting(training).tables().items()} == {"item": (6, 4), "user": (4, 4)}


@both
def test_padding_row_is_zero_and_stays_zero(training: Training) -> None:
    embed = Embeddings(INPUTS, 4, training)
    optimizer = None if embed.fused else torch.optim.Adam(embed.parameters(), lr=0.1)
    for _ in range(3):
        embed(kjt(liked=[[0, 1]], user=[[0]], item=[[0]])).sum().backward()
        if optimizer is not None:
            optimizer.step()
    assert torch.equal(embed.tables()["item"][0], torch.zeros(4))
    assert torch.equal(embed.tables()["user"][0], torch.zeros(4))


def test_dense_and_fused_hold_the_same_state() -> None:
    dense, fused = Embeddings(INPUTS, 4, DENSE), Embeddings(INPUTS, 4, FUSED)
    assert {k: v.shape for k, v in dense.state_dict().items()} == {k: v.shape for k, v in fused.state_dict().items()}
    dense.load_state_dict(fused.state_dict())
    batch = kjt(liked=[[1, 3], []], user=[[1], [3]], item=[[5], [1, 2]])
    assert torch.equal(dense(batch), fused(batch))


def test_initialisation() -> None:
    torch.manual_seed(0)
    inputs = Inputs(sparse=(SparseInput("a", "a", 2500),))
    uniform = Embeddings(inputs, 8, FUSED).tables()["a"][1:].detach()
    assert 0.0195 < float(uniform.abs().max()) <= 0.02
    normal = Embeddings(inputs, 8, FUSED, init="normal", std=0.5).tables()["a"][1:].detach()
    assert float(normal.std()) == pytest.approx(0.5, rel=0.05)


def test_no_sparse_features_is_no_vectors() -> None:
    embed = Embeddings(Inputs(dense=("x",)), 4, FUSED)
    assert embed(kjt(other=[[1], [2]])).shape == (2, 0, 4)


@both
def test_errors(training: Training) -> None:
    embed = Embeddings(INPUTS, 4, training)
    with pytest.raises(DataError, match="lacks the sparse feature 'item'; it has liked, user"):
        embed(kjt(liked=[[1]], user=[[1]]))
    with pytest.raises(DataError, match="sparse feature 'user': id 4 is outside its table of 4 rows"):
        embed(kjt(liked=[[1]], user=[[4]], item=[[1]]))
    for wrong in (4, -1):
        with torch.no_grad(), pytest.raises(DataError, match=f"sparse feature 'user': id {wrong} is outside its table of 4 rows"):
            embed(kjt(liked=[[1, 2], []], user=[[1], [0, wrong]], item=[[1], [1]]))
    with pytest.raises(ConfigError, match="features that share a table must agree"):
        Embeddings(Inputs(sparse=(SparseInput("a", "t", 3), SparseInput("b", "t", 4))), 4, training)
    with pytest.raises(ConfigError, match="declared twice"):
        Embeddings(Inputs(sparse=(SparseInput("a", "t", 3), SparseInput("a", "t", 3))), 4, training)
    with pytest.raises(ConfigError, match="width"):
        Embeddings(INPUTS, 0, training)


def test_fused_tables_stay_float32() -> None:
    with pytest.raises(PalateError, match="float32"):
        Embeddings(INPUTS, 4, FUSED).double()


@pytest.mark.parametrize("sparse", ["rowwise_adagrad", "dense"])
def test_tables_may_be_named_after_columns(sparse):
    embeddings = Embeddings(Inputs(sparse=(SparseInput("item.genres", "item.genres", 5),)), 4, Training(sparse=sparse))
    assert list(embeddings.tables()) == ["item.genres"]
    assert embeddings.tables()["item.genres"].shape == (5, 4)


@pytest.mark.parametrize("sparse", ["rowwise_adagrad", "sgd", "dense"])
def test_ids_without_bags_are_looked_up_and_learnt_alike(sparse: str) -> None:
    inputs = Inputs(sparse=(SparseInput("item", "item", 7),))
    ids, after = torch.tensor([3, 6, 3, 1]), []
    for quick in (True, False):
        torch.manual_seed(0)
        table = Embeddings(inputs, 4, Training(sparse=sparse, sparse_lr=0.1), init="normal", std=1.0)  # type: ignore[arg-type]
        bags = KeyedJaggedTensor(keys=["item"], values=ids, lengths=torch.ones(4, dtype=torch.int32))
        found = table.of_ids(ids) if quick else table(bags)[:, 0]
        (found * torch.arange(16.0).view(4, 4)).sum().backward()
        weight = table.tables()["item"]
        after.append((found.detach(), weight.detach() if table.fused else weight.grad))
    for one, other in zip(*after, strict=True):
        torch.testing.assert_close(one, other)
    with pytest.raises(DataError, match="sparse feature 'item': id 7 is outside its table of 7 rows"):
        table.of_ids(torch.tensor([1, 7]))

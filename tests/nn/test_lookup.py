"""Lookup and update in one flat table: sums by hand, the rules against FBGEMM's exact optimisers, PAD, determinism."""

from __future__ import annotations

import pytest
import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from palate.config import Training
from palate.nn.embedding import Embeddings
from palate.nn.lookup import Flat, flatten, lookup
from palate.types import Inputs, SparseInput

RULES = pytest.mark.parametrize("rule", ["rowwise_adagrad", "adagrad", "sgd"])


def small(rule: str, momentum: torch.Tensor | None) -> Flat:
    """Two tables of 3 and 2 rows: rows 0 and 3 are PAD."""
    weight = torch.tensor([[0.0, 0.0], [1.0, 2.0], [3.0, 4.0], [0.0, 0.0], [5.0, 6.0]])
    return Flat(weight, momentum, torch.tensor([0, 3]), rule, 0.0)  # type: ignore[arg-type]


def test_sums_and_sgd_by_hand() -> None:
    flat = small("sgd", None)
    found = lookup(flat, torch.tensor([1, 4, 1, 2, 0]), torch.tensor([0, 2, 2, 5]), 0.5)
    assert found.tolist() == [[6.0, 8.0], [0.0, 0.0], [4.0, 6.0]]
    found.backward(torch.tensor([[1.0, 0.0], [9.0, 9.0], [0.0, 2.0]]))
    # Row 1 is in bags 0 and 2: (1, 2) - .5 ((1, 0) + (0, 2)); row 4 in bag 0, row 2 in bag 2; PAD keeps its zeros.
    assert flat.weight.tolist() == [[0.0, 0.0], [0.5, 1.0], [3.0, 3.0], [0.0, 0.0], [4.5, 6.0]]


def test_rowwise_adagrad_by_hand() -> None:
    flat = small("rowwise_adagrad", torch.tensor([0.0, 0.0, 4.0, 0.0, 0.0]))
    found = lookup(flat, torch.tensor([2, 0, 2, 1]), None, 1.0)
    assert found.tolist() == [[3.0, 4.0], [0.0, 0.0], [3.0, 4.0], [1.0, 2.0]]
    found.backward(torch.tensor([[1.0, 1.0], [7.0, 7.0], [0.0, 2.0], [0.0, 2.0]]))
    # Row 2: g = (1, 3), m = 4 + (1 + 9) / 2 = 9, step g / 3. Row 1: g = (0, 2), m = 2, step (0, 2 / sqrt 2).
    torch.testing.assert_close(flat.weight[1:3], torch.tensor([[1.0, 2 - 2**0.5], [3 - 1 / 3, 3.0]]))
    assert flat.momentum is not None
    assert flat.momentum.tolist() == [0.0, 2.0, 9.0, 0.0, 0.0]


INPUTS = Inputs(sparse=(SparseInput("a", "t", 40, "sum"), SparseInput("b", "u", 7, "mean"), SparseInput("c", "t", 40, "mean")))


def batches(single: bool) -> list[KeyedJaggedTensor]:
    draw = torch.Generator().manual_seed(5)
    made = []
    for _ in range(4):
        lengths = torch.ones(3 * 16, dtype=torch.int32) if single else torch.randint(0, 4, (3 * 16,), generator=draw, dtype=torch.int32)
        counts = lengths.view(3, 16).sum(1).tolist()
        rows = [torch.randint(0, size, (count,), generator=draw) for size, count in zip((40, 7, 40), counts, strict=True)]
        made.append(KeyedJaggedTensor(["a", "b", "c"], torch.cat(rows), lengths=lengths))
    return made


@RULES
@pytest.mark.parametrize("single", [True, False])
def test_oracle_the_exact_optimisers_of_fbgemm(rule: str, single: bool) -> None:
    """Ours and FBGEMM's start from one state; after steps with repeated ids, PAD, shared tables and means they are in one state."""
    training = Training(sparse=rule, sparse_lr=0.1)  # type: ignore[arg-type]
    torch.manual_seed(0)
    ours, theirs = Embeddings(INPUTS, 8, training), Embeddings(INPUTS, 8, training)
    theirs.load_state_dict(ours.state_dict())
    assert ours._flat is not None
    theirs._flat = None
    gradient = torch.randn(16, 3, 8)
    for batch in batches(single):
        found, expected = ours(batch), theirs(batch)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
        found.backward(gradient)
        expected.backward(gradient)
    for table, weight in ours.tables().items():
        torch.testing.assert_close(weight, theirs.tables()[table], rtol=1e-4, atol=1e-6)
        assert not weight[0].any()
    assert ours.momentum().keys() == theirs.momentum().keys()
    for table, state in ours.momentum().items():
        torch.testing.assert_close(state, theirs.momentum()[table], rtol=1e-4, atol=1e-6)


def test_a_new_rate_reaches_the_update() -> None:
    embed = Embeddings(INPUTS, 4, Training(sparse="sgd", sparse_lr=0.5))
    before = embed.tables()["u"].clone()
    for group in embed.optimizer().param_groups:
        group["lr"] = 2.0
    embed.optimizer().step()
    embed(KeyedJaggedTensor(["a", "b", "c"], torch.tensor([1, 2, 3]), lengths=torch.ones(3, dtype=torch.int32))).sum().backward()
    torch.testing.assert_close(embed.tables()["u"][2], before[2] - 2.0)


def test_tables_apart_in_memory_are_not_one() -> None:
    assert flatten([torch.zeros(3, 4), torch.zeros(2, 4)], [], "sgd", 0.0) is None
    whole = torch.zeros(5, 4)
    flat = flatten([whole[:3], whole[3:]], [], "sgd", 0.0)
    assert flat is not None
    assert flat.weight.data_ptr() == whole.data_ptr()
    assert flat.starts.tolist() == [0, 3]


def test_no_gradient_is_asked_for_in_scoring() -> None:
    with torch.no_grad():
        assert not lookup(small("sgd", None), torch.tensor([1]), None, 1.0).requires_grad

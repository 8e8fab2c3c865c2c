"""Compressed tables: vectors by hand, PAD, memory, gradients on both paths, state, and how well they learn."""

from __future__ import annotations

import copy
import json
from dataclasses import asdict

import pytest
import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from palate.config import Training
from palate.nn.compress import hashed, slots_of
from palate.nn.embedding import Embeddings
from palate.train.optim import Optimizers
from palate.types import Compressed, ConfigError, Inputs, SparseInput

DENSE, FUSED = Training(sparse="dense"), Training(sparse="rowwise_adagrad", sparse_lr=0.1)
both = pytest.mark.parametrize("training", [DENSE, FUSED], ids=["dense", "fused"])


def qr(operation: str = "mult", collisions: int = 3) -> Compressed:
    return Compressed("qr", collisions=collisions, operation=operation, threshold=0)  # type: ignore[arg-type]


def bags(*rows: list[int], name: str = "a") -> KeyedJaggedTensor:
    lengths = torch.tensor([len(row) for row in rows])
    return KeyedJaggedTensor([name], torch.tensor([i for row in rows for i in row], dtype=torch.long), lengths=lengths)


def single(ids: torch.Tensor) -> KeyedJaggedTensor:
    return KeyedJaggedTensor(["a"], ids, lengths=torch.ones(len(ids), dtype=torch.long))


def tables_of(how: Compressed, training: Training, pooling: str = "sum", width: int = 4, rows: int = 10) -> Embeddings:
    """10 rows: PAD and ids 1 to 9. Row i of the first table holds i in every column, of the second 10 i."""
    embed = Embeddings(Inputs(sparse=(SparseInput("a", "t", rows, pooling, how),)), width, training)  # type: ignore[arg-type]
    with torch.no_grad():
        for place, weight in enumerate(embed.tables().values()):
            weight.copy_((torch.arange(len(weight)) * 10**place)[:, None].expand_as(weight))
    return embed


@both
@pytest.mark.parametrize(("operation", "expected"), [("mult", [30, 10, 0, 90]), ("add", [31, 11, 0, 33])])
def test_quotient_remainder_by_hand(training: Training, operation: str, expected: list[int]) -> None:
    # c = 3. id 3: j = 2, quotient row 1, remainder row 3 -> 1 and 30. id 1: 1 and 10. id 9: j = 8, rows 3 and 3 -> 3 and 30.
    embed = tables_of(qr(operation), training)
    assert {name: tuple(t.shape) for name, t in embed.tables().items()} == {"t:quotient": (4, 4), "t:remainder": (4, 4)}
    for batch in (bags([3], [1], [0], [9]), bags([3], [1], [], [9, 0])):
        assert embed(batch)[:, 0].tolist() == [[float(value)] * 4 for value in expected]


@both
def test_concatenation_by_hand(training: Training) -> None:
    width = 8 if training is FUSED else 4
    embed = tables_of(qr("concat"), training, width=width)
    half = width // 2
    assert embed(bags([3], [0]))[:, 0].tolist() == [[1.0] * half + [30.0] * half, [0.0] * width]
    other = SparseInput("b", "b", 5, "sum")
    both_widths = Embeddings(Inputs(sparse=(SparseInput("a", "t", 10, "sum", qr("concat")), other)), width, training)
    batch = KeyedJaggedTensor(["b", "a"], torch.tensor([1, 3]), lengths=torch.ones(2, dtype=torch.long))
    found = both_widths(batch)
    assert torch.equal(found[0, 1], both_widths.tables()["b"][1])
    assert torch.equal(found[0, 0, half:], both_widths.tables()["t:remainder"][3])


@both
def test_means_are_taken_in_each_table(training: Training) -> None:
    # ids 3 and 9: quotients 1 and 3, remainders 30 and 30; PAD counts for nothing. mean 2 x mean 30, and 2 + 30.
    assert tables_of(qr("mult"), training, "mean")(bags([3, 0, 9], [0]))[:, 0, 0].tolist() == [60.0, 0.0]
    assert tables_of(qr("add"), training, "mean")(bags([3, 0, 9], [0]))[:, 0, 0].tolist() == [32.0, 0.0]


@both
def test_bloom_by_hand(training: Training) -> None:
    how = Compressed("bloom", rows=5, hashes=2, threshold=0)
    embed = tables_of(how, training)
    assert {name: len(t) for name, t in embed.tables().items()} == {"t:bloom": 6}
    rows = [[1 + int(hashed(torch.tensor([i]), k)) % 5 for k in range(2)] for i in range(10)]
    assert embed(bags([4], [0], [7]))[:, 0, 0].tolist() == [sum(rows[4]), 0.0, sum(rows[7])]
    assert embed(bags([4, 7], [], [0]))[:, 0, 0].tolist() == [sum(rows[4]) + sum(rows[7]), 0.0, 0.0]
    mean = tables_of(how, training, "mean")
    assert mean(bags([4, 7]))[0, 0, 0] == (sum(rows[4]) + sum(rows[7])) / 2


def test_hashing_oracle() -> None:
    """SplitMix64 in Python's own whole numbers."""

    def oracle(i: int, function: int) -> int:
        full = 2**64 - 1
        z = (i + (function << 32)) * 0x9E3779B97F4A7C15 & full
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & full
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB & full
        return (z ^ (z >> 31)) & (2**63 - 1)

    ids = [0, 1, 2, 77, 10**6, 2**31 - 1]
    for function in (0, 1, 5):
        assert hashed(torch.tensor(ids), function).tolist() == [oracle(i, function) for i in ids]
    rows = hashed(torch.arange(100_000), 1).remainder(10)
    assert torch.bincount(rows).float().std() < 300  # sqrt(100,000 x .1 x .9) = 95


@both
@pytest.mark.parametrize("how", [qr("mult"), qr("add"), Compressed("bloom", rows=4, hashes=2, threshold=0)], ids=["mult", "add", "bloom"])
def test_padding_stays_zero_and_the_rest_learns(training: Training, how: Compressed) -> None:
    torch.manual_seed(1)
    embed = Embeddings(Inputs(sparse=(SparseInput("a", "t", 10, "mean", how),)), 4, training)
    before = copy.deepcopy({name: t.detach().clone() for name, t in embed.tables().items()})
    optimizers = Optimizers(embed, training)
    for batch in (bags([0], [3], [9]), bags([0, 3], [], [1, 2])):
        optimizers.zero_grad()
        embed(batch).sum().backward()
        optimizers.step()
    for name, table in embed.tables().items():
        assert not table[0].any()
        assert (table != before[name]).any()


@pytest.mark.parametrize("single", [True, False])
def test_the_quick_path_is_fbgemms(single: bool) -> None:
    """Every kind at once, beside a whole table: after some steps the state is that of TorchRec's own lookups."""
    sparse = (
        SparseInput("a", "t", 60, "mean", qr("mult", 7)),
        SparseInput("b", "b", 9, "sum"),
        SparseInput("c", "t", 60, "sum", qr("mult", 7)),
        SparseInput("d", "d", 50, "mean", Compressed("bloom", rows=11, hashes=3, threshold=0)),
        SparseInput("e", "e", 40, "sum", qr("concat", 5)),
    )
    torch.manual_seed(2)
    ours, theirs = (Embeddings(Inputs(sparse=sparse), 8, FUSED) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    assert ours._flat is not None
    theirs._flat = None
    weight = torch.randn(5, 8)
    for _ in range(3):
        lengths = torch.ones(5 * 6, dtype=torch.long) if single else torch.randint(0, 4, (5 * 6,))
        counts = lengths.view(5, 6).sum(1).tolist()
        values = torch.cat([torch.randint(0, f.rows, (count,)) for f, count in zip(sparse, counts, strict=True)])
        batch = KeyedJaggedTensor([f.name for f in sparse], values, lengths=lengths)
        found, expected = ours(batch), theirs(batch)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
        (found * weight).sum().backward()
        (expected * weight).sum().backward()
    for name, table in ours.tables().items():
        torch.testing.assert_close(table, theirs.tables()[name], rtol=1e-4, atol=1e-6)
    for name, state in ours.momentum().items():
        torch.testing.assert_close(state, theirs.momentum()[name], rtol=1e-4, atol=1e-6)


def test_memory_shrinks() -> None:
    def numbers(how: Compressed | None) -> int:
        return sum(t.numel() for t in Embeddings(Inputs(sparse=(SparseInput("a", "t", 100_001, "sum", how),)), 8, FUSED).tables().values())

    assert numbers(None) == 100_001 * 8
    assert numbers(Compressed("qr", collisions=4)) == (25_001 + 5) * 8
    assert numbers(Compressed("qr", collisions=100, operation="concat")) == (1_001 + 101) * 4
    assert numbers(Compressed("bloom", rows=10_000, hashes=2)) == 10_001 * 8


def test_small_tables_stay_whole() -> None:
    for how in (Compressed("qr", collisions=4), Compressed("bloom", rows=100, threshold=200), Compressed("bloom", rows=300, threshold=0)):
        assert list(Embeddings(Inputs(sparse=(SparseInput("a", "t", 200, "sum", how),)), 4, FUSED).tables()) == ["t"]


def test_a_product_starts_as_a_whole_table_would() -> None:
    torch.manual_seed(0)
    embed = Embeddings(Inputs(sparse=(SparseInput("a", "t", 2500, "sum", Compressed("qr")),)), 8, FUSED)
    found = embed(single(torch.arange(1, 2500))).detach().abs()
    assert 0.018 < float(found.max()) < 0.021
    assert float(found.mean()) == pytest.approx(0.01, rel=0.05)


def test_state_and_plain_values() -> None:
    feature = SparseInput("a", "t", 1000, "sum", Compressed("qr", collisions=9, operation="add"))
    assert SparseInput(**json.loads(json.dumps(asdict(feature)))) == feature
    first, second = (Embeddings(Inputs(sparse=(feature,)), 4, FUSED) for _ in range(2))
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(bags([5], [999])), second(bags([5], [999])))


def test_errors() -> None:
    with pytest.raises(ConfigError, match="the width must be one of 8"):
        list(slots_of(SparseInput("a", "t", 1000, "sum", qr("concat")), 12, fused=True))
    with pytest.raises(ConfigError, match="must be even"):
        list(slots_of(SparseInput("a", "t", 1000, "sum", qr("concat")), 1, fused=False))
    with pytest.raises(ConfigError, match="features that share a table must agree"):
        Embeddings(Inputs(sparse=(SparseInput("a", "t", 1000, "sum", qr()), SparseInput("b", "t", 1000, "sum"))), 4, FUSED)


def test_it_learns_nearly_as_well_as_a_whole_table() -> None:
    """Ids have a hidden value each; the loss is the squared error, about 1 without the ids."""
    draw = torch.Generator().manual_seed(3)
    hidden = torch.randn(401, generator=draw)
    found = {}
    settings = Training(sparse="rowwise_adagrad", sparse_lr=0.3)
    for name, how in {"whole": None, "mult": qr("mult", 4), "add": qr("add", 4)}.items():
        torch.manual_seed(4)
        embed = Embeddings(Inputs(sparse=(SparseInput("a", "t", 401, "sum", how),)), 16, settings)
        head = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.ReLU(), torch.nn.Linear(32, 1))
        adam = torch.optim.Adam(head.parameters(), lr=0.01)
        for _ in range(200):
            ids = torch.randint(1, 401, (256,), generator=draw)
            adam.zero_grad()
            loss = (head(embed(single(ids))[:, 0])[:, 0] - hidden[ids]).square().mean()
            loss.backward()
            adam.step()
        with torch.no_grad():
            every = torch.arange(1, 401)
            found[name] = float((head(embed(single(every))[:, 0])[:, 0] - hidden[every]).square().mean())
    assert found["whole"] < 0.02
    assert found["mult"] < 0.15, found
    assert found["mult"] < found["add"] + 0.05

"""Rows on disk in blocks: every row once an epoch, decided by seed and epoch, sharded and resumable like any loader."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from palate.data import shards
from palate.features.blocks import BlockLoader, BlockOrder
from palate.features.rows import Rows
from palate.types import Batch, Inputs, SparseInput

ROWS = 1003


def loader(**settings: object) -> BlockLoader:
    """A table whose only column is the row number; blocks of 64 rows, windows of 3 blocks."""
    rows = Rows.of(Inputs(("row",)), np.arange(ROWS, dtype=np.float32)[:, None], None, np.zeros(ROWS, dtype=np.float32))
    given = {"block": 64, "window": 3, "seed": 5, **settings}
    return BlockLoader(ROWS, rows._read, lambda part: rows._collate(**part), 50, **given)  # type: ignore[arg-type]


def numbers(batch: Batch) -> list[int]:
    return [int(number) for number in batch.dense[:, 0]]


@pytest.mark.parametrize("prefetch", [0, 2])
def test_every_row_once_an_epoch(prefetch: int) -> None:
    made = loader(prefetch=prefetch)
    epochs = [[number for batch in made for number in numbers(batch)] for _ in range(2)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(ROWS))
    assert epochs[0] != epochs[1]
    assert epochs[0] == [number for batch in loader(prefetch=0) for number in numbers(batch)]
    assert epochs[0] != [number for batch in loader(seed=6) for number in numbers(batch)]


def test_rows_says_what_iterating_gives() -> None:
    made = loader()
    assert [made.rows(0, batch).tolist() for batch in range(len(made))] == [numbers(batch) for batch in loader()]


def test_a_batch_is_mixed_from_the_blocks_of_a_window() -> None:
    blocks = {number // 64 for number in numbers(next(iter(loader())))}
    assert len(blocks) == 3
    order = BlockOrder(ROWS, 5, 0, 64, 3)
    assert {block for block, _ in order.ranges(0)} == {64 * block for block in blocks}


def test_taken_up_in_the_middle() -> None:
    whole = [numbers(batch) for batch in loader()]
    second = loader()
    second.load_state_dict({"epoch": 0, "batch": 7})
    assert [numbers(batch) for batch in second] == whole[7:]
    assert second.state_dict() == {"epoch": 1, "batch": 0}


def test_shards_share_the_rows() -> None:
    parts = [[number for batch in loader(shard=(rank, 2)) for number in numbers(batch)] for rank in range(2)]
    assert sorted(parts[0] + parts[1]) == list(range(ROWS))
    assert abs(len(parts[0]) - len(parts[1])) <= 1


def test_without_shuffling_rows_come_as_they_lie() -> None:
    assert [number for batch in loader(shuffle=False) for number in numbers(batch)] == list(range(ROWS))


def test_prepared_folders_are_read_so(tmp_path: Path) -> None:
    inputs = Inputs(("x",), (SparseInput("a", "a", 2000, "sum"),))
    written = []
    for part, size in enumerate((300, 500, 203)):
        begin = sum(shard.rows for shard in written)
        ids = np.arange(begin, begin + size, dtype=np.int32)[:, None] + 1
        path = f"train/{part:05}.safetensors"
        shards.write_shard(tmp_path / path, np.zeros((size, 1), dtype=np.float32), ids, np.ones((size, 1), dtype=np.uint8))
        written.append(shards.Shard(path, size))
    shards.write_manifest(tmp_path, shards.Manifest(inputs, {"train": tuple(written)}))
    rows = Rows.open(tmp_path)
    made = rows.loader(100, seed=1)
    assert isinstance(made, BlockLoader)
    ids = [int(value) for batch in made for value in batch.sparse.values()]
    assert sorted(ids) == list(range(1, 1004))
    assert ids != sorted(ids)

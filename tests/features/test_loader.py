from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palate.features.loader import Loader
from palate.types import ConfigError


def loader(size: int, batch_size: int, **settings: Any) -> Loader:
    """A loader whose batches are the row numbers themselves."""
    return Loader(size, lambda rows: rows, batch_size, **settings)  # type: ignore[arg-type, return-value]


def given_by(source: Loader) -> list[list[int]]:
    return [np.asarray(batch).tolist() for batch in source]


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "palate-loader"]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 60), st.integers(1, 9), st.integers(1, 4), st.booleans(), st.integers(0, 3), st.integers(0, 2))
def test_shards_are_disjoint_cover_and_are_equally_long(
    size: int, batch_size: int, world: int, shuffle: bool, seed: int, ahead: int
) -> None:
    if size < world:
        with pytest.raises(ConfigError):
            loader(size, batch_size, shard=(0, world))
        return
    shards = [loader(size, batch_size, shard=(rank, world), shuffle=shuffle, seed=seed, prefetch=ahead) for rank in range(world)]
    batches = [given_by(shard) for shard in shards]
    assert {len(shard) for shard in batches} == {len(shards[0])}
    assert sorted(row for shard in batches for batch in shard for row in batch) == list(range(size))
    assert all(1 <= len(batch) <= batch_size + 1 for shard in batches for batch in shard)
    assert not threads()


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 7), st.integers(0, 2), st.data())
def test_resuming_gives_exactly_the_rest(size: int, batch_size: int, ahead: int, data: st.DataObject) -> None:
    whole = loader(size, batch_size, seed=3, prefetch=0)
    epochs = [given_by(whole) for _ in range(3)]
    stop = data.draw(st.integers(0, 2 * len(whole)))
    first = loader(size, batch_size, seed=3, prefetch=ahead)
    taken: list[list[int]] = []
    while len(taken) < stop:
        for batch in first:
            taken.append(np.asarray(batch).tolist())
            if len(taken) == stop:
                break
    second = loader(size, batch_size, seed=3, prefetch=ahead)
    second.load_state_dict(first.state_dict())
    while second.state_dict()["epoch"] < 3:
        taken += given_by(second)
    assert taken == [batch for epoch in epochs for batch in epoch]


def test_epochs_differ_and_seeds_repeat() -> None:
    one, two = loader(50, 50, seed=1), loader(50, 50, seed=1)
    first, second = given_by(one), given_by(one)
    assert first != second
    assert [given_by(two), given_by(two)] == [first, second]
    assert given_by(loader(50, 50, seed=2)) != first
    assert given_by(loader(5, 2, shuffle=False)) == [[0, 1], [2, 3], [4]]
    assert one.rows(0, 0).tolist() == first[0]


def test_lengths() -> None:
    assert len(loader(10, 4)) == 3
    assert len(loader(10, 4, drop_last=True)) == 2
    assert [len(batch) for batch in given_by(loader(10, 4, drop_last=True))] == [4, 4]
    # 9 rows on two shards of 4: the ninth joins the only batch.
    assert [len(batch) for batch in given_by(loader(9, 4, shard=(0, 2)))] == [5]
    assert [len(batch) for batch in given_by(loader(9, 4, shard=(1, 2)))] == [4]


def test_the_order_of_rows_does_not_depend_on_the_number_of_shards() -> None:
    alone = given_by(loader(24, 4, seed=5))
    pair = [given_by(loader(24, 2, seed=5, shard=(rank, 2))) for rank in range(2)]
    assert [sorted(one + two) for one, two in zip(*pair, strict=True)] == [sorted(batch) for batch in alone]


def test_state_is_the_next_batch_to_be_given_even_with_prefetch() -> None:
    source = loader(12, 3, prefetch=3)
    assert source.state_dict() == {"epoch": 0, "batch": 0}
    walk = iter(source)
    next(walk)
    time.sleep(0.05)
    assert source.state_dict() == {"epoch": 0, "batch": 1}
    for _ in walk:
        pass
    assert source.state_dict() == {"epoch": 1, "batch": 0}


@pytest.mark.parametrize("ahead", [0, 2])
def test_what_make_raises_is_raised_here(ahead: int) -> None:
    def make(rows: np.ndarray) -> Any:
        if 3 in rows:
            raise ValueError("row 3")
        return rows

    source = Loader(6, make, 1, shuffle=False, prefetch=ahead)
    walk = iter(source)
    assert [int(np.asarray(next(walk))[0]) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="row 3"):
        next(walk)
    assert source.state_dict() == {"epoch": 0, "batch": 3}
    assert not threads()


def test_an_abandoned_iteration_leaves_no_thread() -> None:
    for batch in loader(1000, 1):
        assert len(np.asarray(batch)) == 1
        break
    walk = iter(loader(1000, 1))
    next(walk)
    assert threads()
    del walk
    assert not threads()


def test_batches_are_made_ahead() -> None:
    made: list[int] = []
    source = Loader(10, lambda rows: made.append(int(rows[0])) or rows, 1, shuffle=False, prefetch=2)  # type: ignore[func-returns-value, arg-type, return-value]
    walk = iter(source)
    next(walk)
    deadline = time.monotonic() + 240
    while len(made) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert made[:3] == [0, 1, 2]
    walk.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("size", "batch_size", "shard", "says"),
    [(0, 4, (0, 1), "do not fill"), (4, 0, (0, 1), "batch_size"), (4, 2, (2, 2), "rank 2 of 2"), (3, 4, (0, 4), "4 shards")],
)
def test_bad_settings(size: int, batch_size: int, shard: tuple[int, int], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        loader(size, batch_size, shard=shard)
    with pytest.raises(ConfigError, match="no batch 7"):
        loader(4, 2).load_state_dict({"epoch": 0, "batch": 7})

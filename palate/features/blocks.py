"""Shuffled batches of rows that lie on disk: whole blocks are read one after another, and mixed in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from palate.features.loader import Loader
from palate.types import Batch, Longs

Arrays = dict[str, npt.NDArray[np.generic]]

BLOCK = 16_384
WINDOW = 16


class BlockOrder:
    """The order of one epoch: blocks in a random order, and the rows of every `window` of them in a random order among themselves.

    It is a permutation of the rows, decided by seed and epoch, of which only the windows that are asked for are ever made. Rows move
    at most as far as their block does, so a table of one window is shuffled wholly, and a larger one well enough where blocks are many.
    """

    def __init__(self, size: int, seed: int, epoch: int, block: int = BLOCK, window: int = WINDOW, shuffle: bool = True) -> None:
        self.size, self.block, self._seed, self._shuffle = size, block, (seed, epoch), shuffle
        count = -(-size // block)
        order = np.random.default_rng(self._seed).permutation(count) if shuffle else np.arange(count)
        self.windows = [order[place : place + window] for place in range(0, count, window)]
        lengths = [int(np.minimum(block, size - blocks * block).sum()) for blocks in self.windows]
        self.ends: Longs = np.cumsum(lengths, dtype=np.int64)

    def ranges(self, window: int) -> list[tuple[int, int]]:
        """The blocks of a window as (first row, end)."""
        return [(int(block) * self.block, min((int(block) + 1) * self.block, self.size)) for block in self.windows[window]]

    def inside(self, window: int) -> Longs:
        """The order of the rows of a window, as places in its blocks laid end to end."""
        length = int(self.ends[window] - (self.ends[window - 1] if window else 0))
        return np.random.default_rng((*self._seed, window)).permutation(length) if self._shuffle else np.arange(length, dtype=np.int64)

    def pieces(self, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """Where places start..stop of the epoch lie: (window, first place in it, end)."""
        while start < stop:
            window = int(np.searchsorted(self.ends, start, side="right"))
            before = int(self.ends[window - 1]) if window else 0
            end = min(stop, int(self.ends[window]))
            yield window, start - before, end - before
            start = end

    def rows(self, start: int, stop: int) -> Longs:
        """The row numbers of places start..stop."""
        found = []
        for window, first, end in self.pieces(start, stop):
            numbers = np.concatenate([np.arange(*block, dtype=np.int64) for block in self.ranges(window)])
            found.append(numbers[self.inside(window)[first:end]])
        return np.concatenate(found) if found else np.zeros(0, dtype=np.int64)


class BlockLoader(Loader):
    """A `Loader` whose epochs are `BlockOrder`s: sharded, prefetched and resumable as any other.

    read: (first row, end) to arrays of those rows, read from start to end. collate: arrays to a Batch. Memory: two windows, that is
    2 x `window` x `block` rows. Cost: each row is copied twice, and nothing on disk is read out of order but where blocks begin.
    """

    def __init__(
        self,
        size: int,
        read: Callable[[int, int], Arrays],
        collate: Callable[[Arrays], Batch],
        batch_size: int,
        *,
        seed: int = 0,
        shuffle: bool = True,
        shard: tuple[int, int] = (0, 1),
        drop_last: bool = False,
        prefetch: int = 2,
        block: int = BLOCK,
        window: int = WINDOW,
    ) -> None:
        super().__init__(size, collate, batch_size, seed=seed, shuffle=shuffle, shard=shard, drop_last=drop_last, prefetch=prefetch)
        self._read, self._block, self._window = read, block, window

    def rows(self, epoch: int, batch: int) -> Longs:
        """The row numbers of one batch of this shard."""
        start, stop = (int(bound) for bound in self._bounds[batch : batch + 2])
        return self._blocks(epoch).rows(start, stop)[self._rank :: self._world]

    def _blocks(self, epoch: int) -> BlockOrder:
        return BlockOrder(self._size, self._seed, epoch, self._block, self._window, self._shuffle)

    def _here(self) -> Iterator[Batch]:
        order = self._blocks(self._epoch)
        held: dict[int, Arrays] = {}
        for batch in range(self._batch, len(self)):
            parts = []
            for window, first, end in order.pieces(int(self._bounds[batch]), int(self._bounds[batch + 1])):
                if window not in held:
                    held = {number: arrays for number, arrays in held.items() if number == window - 1}
                    held[window] = self._mixed(order, window)
                parts.append({name: array[first:end] for name, array in held[window].items()})
            arrays = parts[0] if len(parts) == 1 else {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
            yield self._make({name: array[self._rank :: self._world] for name, array in arrays.items()} if self._world > 1 else arrays)

    def _mixed(self, order: BlockOrder, window: int) -> Arrays:
        blocks = [self._read(*block) for block in order.ranges(window)]
        inside = order.inside(window)
        return {name: np.concatenate([block[name] for block in blocks])[inside] for name in blocks[0]}

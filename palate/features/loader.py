"""Batches in a reproducible order: sharded, shuffled, made ahead of time in the background, and resumable at any batch."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from palate.types import Batch, ConfigError, Longs


class Loader:
    """Iterating gives what is left of the current epoch, then the loader stands at the start of the next one.

    The rows of an epoch are one permutation of `size` rows (from seed + epoch), cut into global batches of world x batch_size rows;
    shard (rank, world) takes every world-th row of each, beginning with its rank. So all shards have the same number of batches,
    no row is given twice, and none is left out. A last global batch too small to give every shard a row joins the one before.

    size: rows. make: row numbers int64 [batch] to a Batch; it runs in a background thread, `prefetch` batches ahead (0: no thread),
    and what it raises is raised to whoever iterates. drop_last: leave out a last batch that is not full.
    """

    def __init__(
        self,
        size: int,
        make: Callable[[Any], Batch],
        batch_size: int,
        *,
        seed: int = 0,
        shuffle: bool = True,
        shard: tuple[int, int] = (0, 1),
        drop_last: bool = False,
        prefetch: int = 2,
    ) -> None:
        rank, world = shard
        if batch_size < 1:
            raise ConfigError(f"loader.batch_size: must be at least 1, got {batch_size}")
        if not 0 <= rank < world:
            raise ConfigError(f"loader.shard: the rank must be in 0..world - 1, got rank {rank} of {world}")
        self._size, self._make, self._seed, self._shuffle, self._prefetch = size, make, seed, shuffle, prefetch
        self._rank, self._world = rank, world
        whole = batch_size * world
        full, rest = divmod(size, whole)
        ends = [whole * (batch + 1) for batch in range(full)]
        if rest and not drop_last:
            if rest >= world:
                ends.append(size)
            elif ends:
                ends[-1] = size
        if not ends:
            raise ConfigError(f"loader: {size} rows do not fill one batch of {batch_size} on each of {world} shards; lower batch_size")
        self._bounds = np.array([0, *ends], dtype=np.int64)
        self._epoch = 0
        self._batch = 0

    def __len__(self) -> int:
        return len(self._bounds) - 1

    def state_dict(self) -> dict[str, int]:
        """The next batch that will be given (not the next that will be made)."""
        return {"epoch": self._epoch, "batch": self._batch}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Goes to a place that `state_dict` gave."""
        epoch, batch = int(state["epoch"]), int(state["batch"])
        if epoch < 0 or not 0 <= batch < len(self):
            raise ConfigError(f"loader: no batch {batch} of epoch {epoch}; an epoch has {len(self)} batches")
        self._epoch, self._batch = epoch, batch

    def rows(self, epoch: int, batch: int) -> Longs:
        """The row numbers of one batch of this shard. For looking; iterating makes the permutation only once an epoch."""
        return self._cut(self._order(epoch), batch)

    def _order(self, epoch: int) -> Longs:
        if not self._shuffle:
            return np.arange(self._size, dtype=np.int64)
        return np.random.default_rng(self._seed + epoch).permutation(self._size)

    def _cut(self, order: Longs, batch: int) -> Longs:
        return order[self._bounds[batch] : self._bounds[batch + 1]][self._rank :: self._world]

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._ahead() if self._prefetch else self._here():
            # Moved before the batch is given: whoever holds batch b and asks is told b + 1.
            self._batch += 1
            if self._batch == len(self):
                self._epoch, self._batch = self._epoch + 1, 0
            yield batch

    def _here(self) -> Iterator[Batch]:
        order = self._order(self._epoch)
        for batch in range(self._batch, len(self)):
            yield self._make(self._cut(order, batch))

    def _ahead(self) -> Iterator[Batch]:
        made: queue.Queue[Batch | BaseException | None] = queue.Queue(maxsize=self._prefetch)
        stop = threading.Event()

        def give(what: Batch | BaseException | None) -> None:
            while not stop.is_set():
                try:
                    return made.put(what, timeout=0.05)
                except queue.Full:
                    continue

        def work() -> None:
            try:
                for batch in self._here():
                    give(batch)
                    if stop.is_set():
                        return
                give(None)
            except BaseException as error:
                give(error)

        thread = threading.Thread(target=work, name="palate-loader", daemon=True)
        thread.start()
        try:
            while (batch := made.get()) is not None:
                if isinstance(batch, BaseException):
                    raise batch
                yield batch
        finally:
            stop.set()
            thread.join()

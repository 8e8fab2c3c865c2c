"""Search: the K items whose vectors have the largest inner product, or cosine, with each query's vector. Here exactly.

Exact search is the default: it is quick enough up to about a million items, and graph indexes fail silently on raw inner products
(`palate.retrieve.ann` does it beyond, and measures what it misses). The scan in blocks with a running list of the best is that of
J. Johnson, M. Douze, H. Jegou, "Billion-scale similarity search with GPUs" (IEEE Big Data 2019), section 3, without the quantiser.
"""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from palate.retrieve.topk import top_k
from palate.types import NOTHING, Bools, BundleError, Candidates, ConfigError, DataError, Floats, Ints, Queries, Ragged, State

ITEMS = 1 << 15
"""Items in a block."""

BLOCK = 1 << 21
"""Scores of a block, held at once by each thread of `scan` (8 MB of float32)."""

Similarity = Literal["dot", "cosine"]


def fingerprint(arrays: Mapping[str, npt.NDArray[Any]]) -> str:
    """The version of a tower: a short hash of its weights. Vectors of towers that differ in anything have nothing to say to each other.

    Cost: about a second a gigabyte.
    """
    found = hashlib.blake2b(digest_size=8)
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        found.update(f"{name} {array.dtype.str} {array.shape}".encode())
        found.update(array.reshape(-1).view(np.uint8).data if array.size else b"")
    return found.hexdigest()


class Index(ABC):
    """Item vectors that can be searched, added to and taken from. Row i of the vectors is item code i.

    vectors: float32 [N, D]. similarity: `dot` or `cosine` (vectors of length 0 then score 0). version: of the tower that made the vectors
    (`fingerprint`); vectors of another version are refused, wherever a version is given. Memory: the vectors (`cosine`: a normalised copy).
    """

    def __init__(self, vectors: Floats, similarity: Similarity = "dot", version: str = "") -> None:
        self.similarity = similarity
        self.version = version
        self._room = self._prepared(vectors)
        self._size = len(self._room)
        self.present: Bools = np.ones(self._size, dtype=np.bool_)

    def __len__(self) -> int:
        """One past the largest code."""
        return self._size

    @property
    def vectors(self) -> Floats:
        """float32 [N, D], as they are searched: scaled to length one for `cosine`. Rows of codes that are not there are of no meaning."""
        return self._room[: self._size]

    @property
    def dimension(self) -> int:
        """D."""
        return int(self._room.shape[1])

    def _prepared(self, vectors: Floats) -> Floats:
        vectors = np.ascontiguousarray(vectors, dtype=np.float32)
        if self.similarity == "dot":
            return vectors
        length = np.linalg.norm(vectors, axis=1, keepdims=True)
        return np.asarray(vectors / np.where(length > 0, length, 1), dtype=np.float32)

    def _check(self, vectors: Floats, version: str | None, whose: str) -> None:
        if vectors.ndim != 2 or vectors.shape[1] != self.dimension:
            shape = "x".join(map(str, vectors.shape[1:])) or "no"
            raise ConfigError(f"index: its vectors have {self.dimension} dimensions, {whose} {shape}; build the index with this tower")
        if version is not None and version != self.version:
            raise ConfigError(
                f"index: made by version {self.version or 'unknown'} of the tower, {whose} by {version or 'unknown'}; build the index again"
            )

    def search(
        self, vectors: Floats, k: int, blocked: Ragged | None = None, allowed: Bools | None = None, *, version: str | None = None
    ) -> tuple[Ints, Floats]:
        """Items int32 [B, K] and scores float32 [B, K], falling; equal scores by lower code; NOTHING and -inf where too few are left.

        vectors: [B, D]. blocked: for each query, codes never to return. allowed: bool [N], which items may be returned.
        Both are masked before the best are taken. version: of the tower that made the queries; None is not checked.
        Raises ConfigError for another dimension or version, DataError for vectors that are not finite.
        """
        self._check(vectors, version, "the queries")
        if not np.isfinite(vectors).all():
            raise DataError(f"index: query {int((~np.isfinite(vectors)).any(axis=1).argmax())} has a vector that is not finite")
        if not self.present.all():
            allowed = self.present if allowed is None else self.present & allowed
        elif allowed is not None and allowed.all():
            allowed = None
        if not len(self) or not len(vectors):
            return top_k(np.zeros((len(vectors), 0), dtype=np.float32), k)
        return self._search(self._prepared(vectors), k, blocked, allowed)

    @abstractmethod
    def _search(self, queries: Floats, k: int, blocked: Ragged | None, allowed: Bools | None) -> tuple[Ints, Floats]:
        """`search` of prepared vectors; `allowed` holds what is not present any more, too."""

    def retrieve(self, vectors: Floats, queries: Queries, k: int, source: str, *, version: str | None = None) -> Candidates:
        """The K best of each query as Candidates: `search` with the queries' own masks. vectors: [B, D], row b for query b."""
        return Candidates.of(*self.search(vectors, k, queries.blocked, queries.allowed, version=version), source)

    def add(self, codes: Ints, vectors: Floats, *, version: str | None = None) -> None:
        """Adds items, or puts new vectors in the place of old ones. codes: int [R], each once. vectors: [R, D], of the same tower.

        A code may be beyond the last; codes between that were never given are not there. Cost: O(R D), and now and then a copy of all.
        """
        codes = np.asarray(codes, dtype=np.int64)
        self._check(vectors, version, "the new ones")
        if len(codes) != len(vectors) or (len(codes) and int(codes.min()) < 0) or len(np.unique(codes)) != len(codes):
            raise DataError(
                f"index: add needs one vector a code and each code (from 0) once; got {len(codes)} codes, {len(vectors)} vectors"
            )
        if not np.isfinite(vectors).all():
            raise DataError(f"index: item {codes[int((~np.isfinite(vectors)).any(axis=1).argmax())]} has a vector that is not finite")
        if not len(codes):
            return
        size = max(self._size, int(codes.max()) + 1)
        if size > len(self._room):
            room = np.zeros((max(size, 3 * len(self._room) // 2), self.dimension), dtype=np.float32)
            room[: self._size] = self.vectors
            self._room = room
        self.present = np.concatenate([self.present, np.zeros(size - self._size, dtype=np.bool_)])
        self._size = size
        if not self._room.flags.writeable:
            self._room = self._room.copy()
        self._room[codes] = self._prepared(vectors)
        self.present[codes] = True
        self._added(codes)

    def remove(self, codes: Ints) -> None:
        """Takes items away; they may be added again. DataError for a code that is not there."""
        codes = np.asarray(codes, dtype=np.int64)
        unknown = (codes < 0) | (codes >= len(self))
        if not unknown.all():
            unknown[~unknown] = ~self.present[codes[~unknown]]
        if unknown.any():
            raise DataError(f"index: remove: no item {codes[int(unknown.argmax())]} is there")
        self.present = self.present.copy()
        self.present[codes] = False
        self._removed(codes)

    @abstractmethod
    def _added(self, codes: npt.NDArray[Any]) -> None:
        """What a kind has to do when vectors are new or different."""

    @abstractmethod
    def _removed(self, codes: npt.NDArray[Any]) -> None:
        """What a kind has to do when items are gone."""

    def state(self) -> State:
        """Vectors and what else the kind has; `restore` of `palate.retrieve.ann` takes it back."""
        arrays = {"vectors": self.vectors, "present": self.present}
        return State(arrays=arrays, meta={"kind": "exact", "similarity": self.similarity, "version": self.version})

    def restore(self, state: State, config: Any = None) -> None:
        """Takes over a state that `state` gave. Raises BundleError where its arrays do not fit together."""
        vectors, present = state.arrays["vectors"], state.arrays["present"]
        if vectors.ndim != 2 or present.shape != (len(vectors),):
            raise BundleError(f"index: vectors of shape {vectors.shape} and {present.shape} that are present do not fit together")
        self.similarity, self.version, self.present = state.meta["similarity"], str(state.meta["version"]), present.astype(np.bool_)
        self._room, self._size = vectors, len(vectors)


class ExactIndex(Index):
    """Searched in blocks of queries and of items. Memory: the vectors, and O(`BLOCK`) scores a thread while searching, never B x N.

    Cost of a search: O(B N D); on 2 cores some 10,000 queries a second over 40,000 items of 64 dimensions, 250 over a million. bfloat16
    was measured and is not offered: on processors with AMX the product takes 40 % of the time, but scores must become float32 to be
    ranked, which takes longer than what was gained.
    """

    def __init__(self, vectors: Floats, similarity: Similarity = "dot", items: int = ITEMS, version: str = "") -> None:
        super().__init__(vectors, similarity, version)
        self._items = items

    def restore(self, state: State, config: Any = None) -> None:
        super().restore(state, config)
        self._items = ITEMS

    def _search(self, queries: Floats, k: int, blocked: Ragged | None, allowed: Bools | None) -> tuple[Ints, Floats]:
        return scan(self.vectors, queries, k, blocked, allowed, self._items)

    def _added(self, codes: npt.NDArray[Any]) -> None:
        """Nothing: the vectors are the index."""

    def _removed(self, codes: npt.NDArray[Any]) -> None:
        """Nothing: what is not present is masked."""


def scan(
    vectors: Floats, queries: Floats, k: int, blocked: Ragged | None = None, allowed: Bools | None = None, block: int = ITEMS
) -> tuple[Ints, Floats]:
    """Every item against every query: items int32 [B, K], scores float32 [B, K], as `Index.search` says. block: items at once."""
    items = np.full((len(queries), k), NOTHING, dtype=np.int32)
    scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
    size = max(1, BLOCK // max(1, min(block, len(vectors))))

    def one(start: int) -> None:
        rows = slice(start, start + size)
        part = None if blocked is None else blocked.take(np.arange(start, min(start + size, len(queries))))
        items[rows], scores[rows] = _scan(vectors, queries[rows], k, part, allowed, block)

    starts = range(0, len(queries), size)
    workers = min(threads(), len(starts))
    if workers <= 1:
        for start in starts:
            one(start)
    else:
        # Each thread multiplies and ranks blocks of its own: nobody waits, as the threads of BLAS do for each other.
        with _ONE_BLAS_THREAD, ThreadPoolExecutor(workers) as pool:
            list(pool.map(one, starts))
    return items, scores


class _OneThread:
    """BLAS keeps to one thread while anybody is within; scans of several threads may overlap."""

    def __init__(self) -> None:
        self._lock, self._inside = Lock(), 0
        self._controller: Any = None
        self._limit: Any = None

    def __enter__(self) -> None:
        with self._lock:
            if self._controller is None:
                from threadpoolctl import ThreadpoolController

                self._controller = ThreadpoolController()
            if not self._inside:
                self._limit = self._controller.limit(limits=1, user_api="blas")
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._limit.restore_original_limits()


_ONE_BLAS_THREAD = _OneThread()


def threads() -> int:
    """How many threads to use: OMP_NUM_THREADS where it is set, else the processors that this process may use."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    if given.isdigit() and int(given):
        return int(given)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _scan(vectors: Floats, queries: Floats, k: int, blocked: Ragged | None, allowed: Bools | None, block: int) -> tuple[Ints, Floats]:
    """One block of queries: a running list of the best, merged with the best of each block of items."""
    items = np.full((len(queries), 0), NOTHING, dtype=np.int32)
    scores = np.full((len(queries), 0), -np.inf, dtype=np.float32)
    least: Floats | None = None
    if blocked is not None:
        order = np.argsort(blocked.values, kind="stable")
        codes, owners = blocked.values[order], blocked.rows[order]
    for start in range(0, len(vectors), block):
        stop = min(start + block, len(vectors))
        products = queries @ vectors[start:stop].T
        if allowed is not None:
            products[:, ~allowed[start:stop]] = -np.inf
        if blocked is not None:
            within = slice(*np.searchsorted(codes, [start, stop]))
            products[owners[within], codes[within] - start] = -np.inf
        # Of equal scores the running list has the lower codes, so that only greater ones of this block matter.
        found, best = top_k(products, k, least)
        if start == 0:
            items, scores = found, best
        elif (found != NOTHING).any():
            found[found != NOTHING] += start
            places, scores = top_k(np.concatenate([scores, best], axis=1), k)
            both = np.concatenate([items, found], axis=1)
            items = np.where(places == NOTHING, NOTHING, np.take_along_axis(both, np.maximum(places, 0), 1)).astype(np.int32)
        least = scores[:, -1] if k else None
    return items, scores

"""Search: the K items whose vectors have the largest inner product, or cosine, with each query's vector. Here exactly.

Exact search is the default: it is quick enough up to about a million items, and graph indexes fail silently on raw inner products
(`palate.retrieve.ann` does it beyond, and measures what it misses). The scan in blocks with a running list of the best is that of
J. Johnson, M. Douze, H. Jegou, "Billion-scale similarity search with GPUs" (IEEE Big Data 2019), section 3, without the quantiser.
"""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from palate.retrieve.bfloat16 import Bits, floats, rounded
from palate.retrieve.topk import inner_products, top_k
from palate.types import NOTHING, Bools, BundleError, Candidates, ConfigError, DataError, Floats, Ints, Queries, Ragged, State

ITEMS = 1 << 15
"""Items in a block."""

BLOCK = 1 << 21
"""Scores of a block, held at once by each thread of `scan` (8 MB of float32)."""

SPARE = 32
"""How many more than K, and half as many again, products of bfloat16 pick."""

Similarity = Literal["dot", "cosine"]
Precision = Literal["float32", "bf16"]


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
        self._room = self._kept(self._prepared(vectors))
        self._size = len(self._room)
        self.present: Bools = np.ones(self._size, dtype=np.bool_)
        self._alive = self._size
        """How many are present: counting a million takes longer than finding the best hundred."""

    def __len__(self) -> int:
        """One past the largest code."""
        return self._size

    @property
    def vectors(self) -> Floats:
        """float32 [N, D], as they are searched: scaled to length one for `cosine`. Rows of codes that are not there are of no meaning.

        Where an index keeps bfloat16 this is a copy of all, twice their size: `rows` and `score` read only what is asked for.
        """
        return floats(self._room[: self._size])

    def rows(self, codes: Ints) -> Floats:
        """Vectors of some items, as they are searched. codes: int [...] -> float32 [..., D]."""
        return floats(self._room[codes])

    def score(self, vectors: Floats, items: Ints) -> Floats:
        """Scores of given items [B, K]: float32 [B, K], -inf where the item is NOTHING; no masks. vectors: of the queries, [B, D]."""
        return inner_products(self._prepared(vectors), self._room[: self._size], items)

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

    def _kept(self, vectors: Floats) -> npt.NDArray[Any]:
        """How prepared vectors are kept."""
        return vectors

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
        if self._alive < self._size:
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
            room = np.zeros((max(size, 3 * len(self._room) // 2), self.dimension), dtype=self._room.dtype)
            room[: self._size] = self._room[: self._size]
            self._room = room
        self.present = np.concatenate([self.present, np.zeros(size - self._size, dtype=np.bool_)])
        self._size = size
        if not self._room.flags.writeable:
            self._room = self._room.copy()
        self._room[codes] = self._kept(self._prepared(vectors))
        self.present[codes] = True
        self._alive = int(self.present.sum())
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
        self._alive = int(self.present.sum())
        self._removed(codes)

    @abstractmethod
    def _added(self, codes: npt.NDArray[Any]) -> None:
        """What a kind has to do when vectors are new or different."""

    @abstractmethod
    def _removed(self, codes: npt.NDArray[Any]) -> None:
        """What a kind has to do when items are gone."""

    def state(self) -> State:
        """Vectors and what else the kind has; `restore` of `palate.retrieve.ann` takes it back."""
        arrays = {"vectors": self._room[: self._size], "present": self.present}
        return State(arrays=arrays, meta={"kind": "exact", "similarity": self.similarity, "version": self.version})

    def restore(self, state: State, config: Any = None) -> None:
        """Takes over a state that `state` gave. Raises BundleError where its arrays do not fit together."""
        vectors, present = state.arrays["vectors"], state.arrays["present"]
        if vectors.ndim != 2 or present.shape != (len(vectors),):
            raise BundleError(f"index: vectors of shape {vectors.shape} and {present.shape} that are present do not fit together")
        self.similarity, self.version, self.present = state.meta["similarity"], str(state.meta["version"]), present.astype(np.bool_)
        self._room, self._size, self._alive = vectors, len(vectors), int(self.present.sum())


class ExactIndex(Index):
    """Searched in blocks of queries and of items. Memory: the vectors, and O(`BLOCK`) scores a thread while searching, never B x N.

    Cost of a search: O(B N D); on 2 cores some 10,000 queries a second over 40,000 items of 64 dimensions, 250 over a million.

    precision: `bf16` rounds the vectors to bfloat16 and keeps half the memory. The rounded vectors are searched exactly: queries are not
    rounded, and scores are float32. Where the processor multiplies bfloat16, products of rounded queries pick some more than K, which are
    scored again in float32; a query whose K best may still miss one (see `_certain`) is scanned in float32, as all are on other
    processors, the vectors widened block by block.
    1,000 queries x 100,000 items x 64, one thread of a Xeon with AMX, norms all alike: for K = 10 0.55 s in float32 and 0.27 in bf16, for
    K = 100 0.53 and 0.39, for K = 1000 1.6 and 1.7, ranking being most of it; widened 0.56 for K = 100. Of the best 100 in float32,
    99.7 % are among the best 100 of the rounded vectors.
    """

    def __init__(
        self, vectors: Floats, similarity: Similarity = "dot", items: int = ITEMS, version: str = "", precision: Precision = "float32"
    ) -> None:
        self._items, self.precision = items, precision
        super().__init__(vectors, similarity, version)
        self._longest = self._longest_of(self._room)

    def _kept(self, vectors: Floats) -> npt.NDArray[Any]:
        return rounded(vectors) if self.precision == "bf16" else vectors

    def state(self) -> State:
        basic = super().state()
        return State(arrays=basic.arrays, meta={**basic.meta, "precision": self.precision})

    def restore(self, state: State, config: Any = None) -> None:
        super().restore(state, config)
        self._items, self.precision = ITEMS, state.meta.get("precision", "float32")
        if self._room.dtype != (np.uint16 if self.precision == "bf16" else np.float32):
            raise BundleError(f"index: says that its vectors are {self.precision}, but they are {self._room.dtype}")
        self._longest = self._longest_of(self._room)

    def _search(self, queries: Floats, k: int, blocked: Ragged | None, allowed: Bools | None) -> tuple[Ints, Floats]:
        kept = self._room[: self._size]
        if self.precision == "float32" or not k or not _multiplies_bfloat16():
            return scan(kept, queries, k, blocked, allowed, self._items)
        near, about = _picked(kept, queries, k + k // 2 + SPARE, blocked, allowed, self._items)
        near.sort(axis=1)  # of equal scores the lower code comes first
        places, scores = top_k(inner_products(queries, kept, near), k)
        items = np.where(places == NOTHING, NOTHING, np.take_along_axis(near, np.maximum(places, 0), 1)).astype(np.int32)
        rest = np.flatnonzero(~_certain(queries, scores[:, -1], about[:, -1], self._longest))
        if len(rest):
            items[rest], scores[rest] = scan(kept, queries[rest], k, None if blocked is None else blocked.take(rest), allowed, self._items)
        return items, scores

    def _added(self, codes: npt.NDArray[Any]) -> None:
        self._longest = max(self._longest, self._longest_of(self._room[codes]))

    def _longest_of(self, vectors: npt.NDArray[Any]) -> float:
        """The largest norm, which only the search of bfloat16 asks for."""
        return _longest(vectors) if self.precision == "bf16" else 0.0

    def _removed(self, codes: npt.NDArray[Any]) -> None:
        """Nothing: what is not present is masked."""


def scan(
    vectors: npt.NDArray[Any], queries: Floats, k: int, blocked: Ragged | None = None, allowed: Bools | None = None, block: int = ITEMS
) -> tuple[Ints, Floats]:
    """Every item against every query: items int32 [B, K], scores float32 [B, K], as `Index.search` says.

    vectors: [N, D], float32 or the `Bits` of bfloat16. block: items at once.
    """
    shape = (len(queries), len(vectors))
    return _best(lambda rows, items: queries[rows] @ floats(vectors[items]).T, shape, k, blocked, allowed, block)


def _picked(vectors: Bits, queries: Floats, k: int, blocked: Ragged | None, allowed: Bools | None, block: int) -> tuple[Ints, Floats]:
    """`scan` with queries and scores rounded to bfloat16; sums are float32."""
    import torch

    if not vectors.flags.writeable:  # as torch wants them; it does not write to them
        vectors = vectors.copy()
    wide, asked = (torch.from_numpy(bits).view(torch.bfloat16) for bits in (vectors, rounded(queries)))

    def product(rows: slice, items: slice) -> Floats:
        return np.asarray((asked[rows] @ wide[items].T).float())

    return _best(product, (len(queries), len(vectors)), k, blocked, allowed, block, alone=_one_torch_thread)


def _certain(queries: Floats, least: Floats, about: Floats, longest: float) -> Bools:
    """Whether no item that `_picked` left out scores as high as the K-th that was found: bool [B].

    least: the K-th score, exactly. about: the last score that was picked, in bfloat16; -inf where all were. longest: norm of an item. With
    q' the rounded query, x an item left out, and e what sums of float32 lose,

        <q, x> <= <q', x> + |q - q'| |x|,     <q', x> <= about + |about| / 256 + e |q| |x|
    """
    lost = np.linalg.norm(queries - floats(rounded(queries)), axis=1) + queries.shape[1] * 2.0**-22 * np.linalg.norm(queries, axis=1)
    every = np.isneginf(about)
    last = np.where(every, 0, about)
    return np.asarray(every | (least > last + np.abs(last) / 256 + lost * longest + 1e-30))  # products below that may have become 0


def _longest(vectors: npt.NDArray[Any]) -> float:
    """The largest norm of float32 or bfloat16 [N, D]; a copy of a block at a time."""
    parts = (floats(vectors[start : start + ITEMS]) for start in range(0, len(vectors), ITEMS))
    return float(max((np.einsum("nd,nd->n", part, part).max() for part in parts), default=0.0)) ** 0.5


def _multiplies_bfloat16() -> bool:
    """Whether the processor has instructions for it. Without, products take several times as long as those of float32."""
    import torch

    return any(there for name, there in torch.cpu.get_capabilities().items() if name.endswith("bf16"))


def _one_torch_thread() -> None:
    """In the thread that calls it, and in no other."""
    import torch
    from threadpoolctl import ThreadpoolController

    torch.get_num_threads()  # which gives a new thread its number of them
    ThreadpoolController().limit(limits=1, user_api="openmp")


def _best(
    product: Callable[[slice, slice], Floats],
    shape: tuple[int, int],
    k: int,
    blocked: Ragged | None,
    allowed: Bools | None,
    block: int,
    alone: Callable[[], None] | None = None,
) -> tuple[Ints, Floats]:
    """The K largest of each row of a matrix [B, N] that is made in parts: `scan` for any scores.

    product: rows and columns -> their scores, in an array of their own. alone: called in each thread, if there are several.
    """
    items = np.full((shape[0], k), NOTHING, dtype=np.int32)
    scores = np.full((shape[0], k), -np.inf, dtype=np.float32)
    size = max(1, BLOCK // max(1, min(block, shape[1])))

    def one(start: int) -> None:
        rows = slice(start, min(start + size, shape[0]))
        part = None if blocked is None else blocked.take(np.arange(start, rows.stop))
        items[rows], scores[rows] = _rows(lambda columns: product(rows, columns), shape[1], k, part, allowed, block)

    starts = range(0, shape[0] if shape[1] else 0, size)
    workers = min(threads(), len(starts))
    if workers <= 1:
        for start in starts:
            one(start)
    else:
        # Each thread multiplies and ranks blocks of its own: nobody waits, as the threads of BLAS do for each other.
        with _ONE_BLAS_THREAD, ThreadPoolExecutor(workers, initializer=alone) as pool:
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


def _rows(
    product: Callable[[slice], Floats], n_items: int, k: int, blocked: Ragged | None, allowed: Bools | None, block: int
) -> tuple[Ints, Floats]:
    """One block of queries: a running list of the best, merged with the best of each block of items. product: columns -> scores."""
    least: Floats | None = None
    if blocked is not None:
        order = np.argsort(blocked.values, kind="stable")
        codes, owners = blocked.values[order], blocked.rows[order]
    for start in range(0, n_items, block):
        stop = min(start + block, n_items)
        products = product(slice(start, stop))
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

"""Approximate search for catalogues beyond a million items, with its recall measured against exact search before it is used.

Graphs and inverted lists are made for distances. One dimension more makes the largest inner product the smallest distance (Y. Bachrach et
al. 2014, "Speeding up the Xbox recommender system using a Euclidean transformation for inner-product spaces", section 3.2), with M the
largest norm of the items:

    x' = [x / M, sqrt(1 - |x|^2 / M^2)],   q' = [q / |q|, 0],   |q' - x'|^2 = 2 - 2 <q, x> / (M |q|)

    hnsw    Y. Malkov, D. Yashunin 2016, "Efficient and robust approximate nearest neighbor search using HNSW graphs"
    ivf     H. Jegou, M. Douze, C. Schmid 2011, "Product quantization for nearest neighbor search": only the nearest of many lists are read
    ivf_pq  the same with vectors kept as codes of 4 bits a sub-space (Y. Andre et al. 2017, "Accelerated nearest neighbor search with
            Quick ADC"), and more fetched than asked for

Inverted lists are always made so. For graphs it cuts both ways: on raw inner products items that are nobody's nearest cannot be reached,
which has been seen to fail silently; but where norms are skewed, the further dimension is nearly the same for all but the longest vectors,
and the graph knows no way between them (20,000 x 64, norms as rank^-0.35: recall@100 at width 128 is .87 raw and .15 augmented). So
`hnsw` builds on raw inner products, and on augmented vectors if that does not reach the recall asked for.

The work is done by faiss. What it fetches is scored again with the very vectors, masked and cut, so that scores and ties are those of
exact search; a query left with too few is searched exactly. No pickle: faiss writes its index as plain bytes.
"""

from __future__ import annotations

import math
import sys
import time
from importlib import import_module
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import pydantic

from palate import config
from palate.metrics import ranking
from palate.retrieve.index import ExactIndex, Index, Precision, Similarity, scan
from palate.retrieve.topk import inner_products, top_k
from palate.types import NOTHING, Bools, BundleError, ConfigError, Floats, Ints, Ragged, State

ROWS = 4096
"""Queries searched at once."""
LEAST_SHARE = 0.2
"""Where fewer of the items may be returned, exact search is taken."""
MOST_DEAD = 0.25
"""Where more of the entries are of items removed or replaced, the index is built anew."""


class IndexConfig(config.Config):
    """How item vectors are searched.

    kind: `exact`; or `hnsw`, `ivf`, `ivf_pq`, see the file's head. precision: of the vectors that `exact` keeps, see `ExactIndex`.
    least_recall: building is refused where the share of the exact best
    `recall_at` that is found stays below this. sample: queries that it is measured on.
    width: how much of the index a query looks at, `efSearch` of hnsw, `nprobe` of ivf (None: the least power of two that has the recall).
    m, ef_construction: of hnsw, links of an item, and how widely they are looked for. space: of hnsw, see the file's head (None: whichever
    has the recall, `inner_product` first). nlist: of ivf (None: 4 sqrt(N)).
    over_fetch: how many times K are fetched and scored again (None: 1, and 10 for ivf_pq).
    """

    kind: Literal["exact", "hnsw", "ivf", "ivf_pq"] = "exact"
    precision: Precision = "float32"
    least_recall: float = pydantic.Field(0.95, gt=0, le=1)
    recall_at: int = pydantic.Field(100, ge=1)
    sample: int = pydantic.Field(1000, ge=1)
    width: int | None = pydantic.Field(None, ge=1)
    m: int = pydantic.Field(32, ge=2)
    ef_construction: int = pydantic.Field(80, ge=1)
    space: Literal["inner_product", "augmented"] | None = None
    nlist: int | None = pydantic.Field(None, ge=1)
    over_fetch: float | None = pydantic.Field(None, ge=1)

    @pydantic.model_validator(mode="after")
    def _only_exact_search_rounds(self) -> Self:
        if self.precision != "float32" and self.kind != "exact":
            raise ValueError(f'precision = "{self.precision}" needs kind = "exact", got "{self.kind}"')
        return self


def build_index(
    vectors: Floats,
    config: IndexConfig = IndexConfig(),
    *,
    similarity: Similarity = "dot",
    version: str = "",
    queries: Floats | None = None,
    seed: int = 0,
    quiet: bool = True,
) -> Index:
    """An index of the kind that the settings name. vectors: float32 [N, D], row i for item code i. version: of their tower.

    queries: vectors [R, D] of real queries to measure recall on; None takes item vectors, which lie elsewhere: give some where they are
    at hand. quiet: False prints what was measured. Raises ConfigError where the recall is too low.
    """
    if config.kind == "exact":
        return ExactIndex(vectors, similarity, version=version, precision=config.precision)
    return ANNIndex(vectors, config, similarity=similarity, version=version, queries=queries, seed=seed, quiet=quiet)


def restore_index(state: State, config: IndexConfig = IndexConfig()) -> Index:
    """From a state that an index gave, without measuring again. Raises BundleError for a state of another kind."""
    kind = str(state.meta["kind"])
    if kind != config.kind:
        raise BundleError(f"index: saved as {kind}, but the settings say {config.kind}")
    if (precision := state.meta.get("precision", "float32")) != config.precision:
        raise BundleError(f"index: saved in {precision}, but the settings say {config.precision}")
    index: Index = ExactIndex.__new__(ExactIndex) if kind == "exact" else ANNIndex.__new__(ANNIndex)
    index.restore(state, config)
    return index


class ANNIndex(Index):
    """Searched through faiss. Memory: the vectors, and once more in faiss with 8 m bytes of links (hnsw), once more (ivf), or D / 4 bytes
    an item (ivf_pq).

    Items added are searched at once; items removed or replaced are passed over, and the index is built anew when a quarter are, or when
    one is added to augmented vectors whose norm exceeds every norm before. Recall is measured again after each tenth of growth.
    Cost: building 1,000,000 x 64 takes some minutes a core for hnsw and seconds to a minute for ivf; see benchmarks/ann.py.
    With more than one thread, hnsw links items in an order that varies a little from one build to the next.
    """

    def __init__(
        self,
        vectors: Floats,
        config: IndexConfig,
        *,
        similarity: Similarity = "dot",
        version: str = "",
        queries: Floats | None = None,
        seed: int = 0,
        quiet: bool = True,
    ) -> None:
        super().__init__(vectors, similarity, version)
        if not np.isfinite(self.vectors).all():
            raise ConfigError(f"index: item {int((~np.isfinite(self.vectors)).any(axis=1).argmax())} has a vector that is not finite")
        self.config, self.seed, self.quiet = config, seed, quiet
        rng = np.random.default_rng(seed)
        given = self.vectors if queries is None else self._prepared(queries)
        self._sample: Floats = given[np.sort(rng.choice(len(given), min(config.sample, len(given)), replace=False))]
        self.report: dict[str, Any] = {}
        """What was measured: recall by width, the width taken, seconds."""
        self._build()

    def _build(self) -> None:
        began = time.perf_counter()
        self._codes: Ints = np.flatnonzero(self.present).astype(np.int32)
        self._place = np.full(len(self), -1, dtype=np.int64)
        self._place[self._codes] = np.arange(len(self._codes))
        own = self.vectors[self._codes]
        self._largest = float(np.sqrt(np.einsum("nd,nd->n", own, own).max(initial=0))) or 1.0
        spaces: tuple[Literal["inner_product", "augmented"], ...] = ("augmented",)
        if self.config.kind == "hnsw":
            spaces = (self.config.space,) if self.config.space else ("inner_product", "augmented")
        for space in spaces:
            self._space: str = space
            self._faiss = self._made(own)
            self.report = {"kind": self.config.kind, "items": len(self._codes), "build_s": time.perf_counter() - began, "space": space}
            self._width = self.config.width or 0
            try:
                self.check()
            except ConfigError:
                if space == spaces[-1]:
                    raise
            else:
                return

    def _made(self, own: Floats) -> Any:
        """The faiss index of these vectors."""
        faiss, n = _faiss(), len(own)
        wide = self._wide(own)
        d = wide.shape[1]
        if self.config.kind == "hnsw":
            metric = faiss.METRIC_INNER_PRODUCT if self._space == "inner_product" else faiss.METRIC_L2
            made = faiss.IndexHNSWFlat(d, self.config.m, metric)
            made.hnsw.efConstruction = self.config.ef_construction
        else:
            nlist = min(self.config.nlist or max(1, round(4 * math.sqrt(n))), max(1, n // 4))
            quantizer = faiss.IndexFlatL2(d)
            if self.config.kind == "ivf" or n < 1024:  # too few to learn codes from
                made = faiss.IndexIVFFlat(quantizer, d, nlist)
            else:
                made = faiss.IndexIVFPQFastScan(quantizer, d, nlist, d // 2, 4)
            made.cp.seed = self.seed
            made.cp.niter = 10
            made.cp.max_points_per_centroid = 64
            made.cp.min_points_per_centroid = 1
            made.train(wide if n else np.zeros((1, d), dtype=np.float32))
        made.add(wide)
        return made

    def _wide(self, vectors: Floats, *, items: bool = True) -> Floats:
        """With the further dimension, and zeros up to an even number of them: float32 [N, D + 1 or 2]. Or as they are, see `space`."""
        if self._space == "inner_product":
            return vectors
        lengths = np.sqrt(np.einsum("nd,nd->n", vectors, vectors))
        scale = self._largest if items else np.where(lengths > 0, lengths, 1)[:, None]
        wide = np.zeros((len(vectors), self.dimension + 2 - self.dimension % 2), dtype=np.float32)
        wide[:, : self.dimension] = vectors / scale
        if items:
            wide[:, self.dimension] = np.sqrt(np.maximum(0, 1 - (lengths / self._largest) ** 2))
        return wide

    def check(self) -> float:
        """Measures recall on the sample, keeps it in `report`, and prints it unless quiet.

        Raises ConfigError where it is below the floor. The width is widened until the recall is enough, where the settings leave it open.
        """
        n, k = len(self._codes), min(self.config.recall_at, self._alive)
        self._checked = n
        if not k or not len(self._sample):
            self._width = self._width or 1
            return 1.0
        best = scan(self.vectors, self._sample, k, None, None if self._alive == len(self) else self.present)[0]
        # A graph that is looked at more widely costs more than exact search.
        widest = min(n, max(4096, 8 * k)) if self.config.kind == "hnsw" else int(self._faiss.nlist)
        start = 1 << max(0, (k - 1).bit_length()) if self.config.kind == "hnsw" else 1
        widths = [self.config.width] if self.config.width else [*_powers(max(self._width, min(start, widest)), widest)]
        measured: dict[int, float] = {}
        for width in widths:
            self._width = width
            found = self._approximate(self._sample, k, None, None)[0]
            measured[width] = float(ranking.recall(ranking.hits(found, Ragged.of(best.tolist())), np.full(len(best), k), k).mean())
            if measured[width] >= self.config.least_recall:
                break
        recall = measured[self._width]
        self.report |= {"recall_at": k, "recall": recall, "width": self._width, "measured": measured, "queries": len(self._sample)}
        if not self.quiet:
            print(
                f"index {self.config.kind}: recall@{k} {recall:.4f} against exact on {len(self._sample):,} queries, "
                f"width {self._width}, {self._space}, {n:,} items, built in {self.report['build_s']:.1f} s",
                file=sys.stderr,
            )
        if recall < self.config.least_recall:
            raise ConfigError(
                f"index.kind {self.config.kind}: recall@{k} is {recall:.3f} at width {self._width}, below least_recall "
                f'{self.config.least_recall:g}; take kind "exact", or raise m, ef_construction, width or over_fetch'
            )
        return recall

    def _search(self, queries: Floats, k: int, blocked: Ragged | None, allowed: Bools | None) -> tuple[Ints, Floats]:
        items = np.full((len(queries), k), NOTHING, dtype=np.int32)
        scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
        for start in range(0, len(queries), ROWS):
            rows = slice(start, start + ROWS)
            part = None if blocked is None else blocked.take(np.arange(start, min(start + ROWS, len(queries))))
            items[rows], scores[rows] = self._block(queries[rows], k, part, allowed)
        return items, scores

    def _block(self, queries: Floats, k: int, blocked: Ragged | None, allowed: Bools | None) -> tuple[Ints, Floats]:
        there = len(self) if allowed is None else int(allowed.sum())
        forbidden = np.zeros(len(queries), dtype=np.int64) if blocked is None else blocked.lengths
        # Rows that a graph or lists would not help: nearly all blocked, or nothing to go by.
        exactly = (forbidden > 8 * k + 64) | ~queries.any(axis=1)
        if there < LEAST_SHARE * len(self._codes) or 4 * k > there:
            exactly[:] = True
        items = np.full((len(queries), k), NOTHING, dtype=np.int32)
        scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
        rows = np.flatnonzero(~exactly)
        if len(rows):
            own = None if blocked is None else blocked.take(rows)
            items[rows], scores[rows] = self._approximate(queries[rows], k, own, allowed)
            exactly[rows] = items[rows, -1] == NOTHING
        rows = np.flatnonzero(exactly)
        if len(rows):
            items[rows], scores[rows] = scan(self.vectors, queries[rows], k, None if blocked is None else blocked.take(rows), allowed)
        return items, scores

    def _approximate(self, queries: Floats, k: int, blocked: Ragged | None, allowed: Bools | None) -> tuple[Ints, Floats]:
        """As `_search`, with whatever faiss finds; rows may be short."""
        alive = self._alive if allowed is None else int(allowed.sum())
        over = self.config.over_fetch or (10.0 if self.config.kind == "ivf_pq" else 1.0)
        fetch = math.ceil(over * k) + (0 if blocked is None else int(blocked.lengths.max(initial=0)))
        fetch = min(len(self._codes), math.ceil(fetch * len(self._codes) / max(alive, 1)))
        if self.config.kind == "hnsw":
            self._faiss.hnsw.efSearch = self._width
        else:
            self._faiss.nprobe = self._width
        places = self._faiss.search(self._wide(queries, items=False), fetch)[1]
        found, hidden = self._codes[places], places < 0
        if self._alive < len(self._codes):  # some entries are of items removed or replaced
            hidden |= (self._place[found] != places) | ~self.present[found]
        if allowed is not None:
            hidden |= ~allowed[found]
        found = np.where(hidden, NOTHING, found).astype(np.int32)
        if blocked is not None:
            found[ranking.hits(found, blocked)] = NOTHING
        found.sort(axis=1)  # of equal scores the lower code comes first
        columns, scores = top_k(inner_products(queries, self.vectors, found), k)
        items = np.where(columns == NOTHING, NOTHING, np.take_along_axis(found, np.maximum(columns, 0), 1))
        return items.astype(np.int32), scores

    def _added(self, codes: npt.NDArray[Any]) -> None:
        own = self.vectors[codes]
        self._place = np.concatenate([self._place, np.full(len(self) - len(self._place), -1, dtype=np.int64)])
        self._place[codes] = len(self._codes) + np.arange(len(codes))
        if self._space == "augmented" and np.sqrt(np.einsum("nd,nd->n", own, own).max()) > 1.001 * self._largest:
            self._build()
            return
        self._codes = np.concatenate([self._codes, codes.astype(np.int32)])
        self._faiss.add(self._wide(own))
        if not self._tidied() and len(self._codes) > 1.1 * self._checked:
            self.check()

    def _removed(self, codes: npt.NDArray[Any]) -> None:
        self._tidied()

    def _tidied(self) -> bool:
        """Builds anew where too many entries are dead."""
        if len(self._codes) - self._alive <= MOST_DEAD * len(self._codes):
            return False
        self._build()
        return True

    def state(self) -> State:
        """The vectors, and faiss's index as the bytes that it writes."""
        basic = super().state()
        serialized = np.asarray(_faiss().serialize_index(self._faiss), dtype=np.uint8)
        arrays: dict[str, npt.NDArray[Any]] = {"faiss": serialized, "codes": self._codes, "place": self._place, "sample": self._sample}
        report = {**self.report, "measured": {str(width): recall for width, recall in self.report.get("measured", {}).items()}}
        about = {
            "kind": self.config.kind,
            "largest": self._largest,
            "space": self._space,
            "width": self._width,
            "checked": self._checked,
            "report": report,
        }
        return State(arrays={**basic.arrays, **arrays}, meta={**basic.meta, **about, "seed": self.seed})

    def restore(self, state: State, config: Any = None) -> None:
        super().restore(state, config)
        self.config, self.quiet, self.seed = config or IndexConfig(kind=state.meta["kind"]), True, int(state.meta["seed"])
        self._codes, self._place, self._sample = state.arrays["codes"], state.arrays["place"].copy(), state.arrays["sample"]
        self._space = str(state.meta["space"])
        self._largest, self._width, self._checked = float(state.meta["largest"]), int(state.meta["width"]), int(state.meta["checked"])
        self.report = dict(state.meta["report"])
        try:
            self._faiss = _faiss().deserialize_index(np.ascontiguousarray(state.arrays["faiss"]))
        except RuntimeError as error:
            raise BundleError(f"index: its bytes are damaged: {str(error).splitlines()[0]}") from None
        if self._faiss.ntotal != len(self._codes):
            raise BundleError(f"index: holds {self._faiss.ntotal} vectors for {len(self._codes)} items")


def _powers(start: int, end: int) -> list[int]:
    """start, 2 start, 4 start, ... and end."""
    found = [start]
    while 2 * found[-1] < end:
        found.append(2 * found[-1])
    return found if found[-1] == end else [*found, end]


def _faiss() -> Any:
    """Loaded when first needed: it takes half a second."""
    try:
        return import_module("faiss")
    except ModuleNotFoundError:
        raise ConfigError('index.kind: approximate search needs the package faiss-cpu; install it with pip, or take kind "exact"') from None

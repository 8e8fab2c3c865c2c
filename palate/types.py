"""The nouns of Palate. It imports nothing of ours but the errors, which the command line needs without numpy.

Shapes legend, used in every docstring:

    B  queries in a batch          K  list length           N  items in the catalogue
    R  rows (query, item pairs)    L  history length        U  users in the log
    F  features                    D  embedding width       T  tasks (labels)       E  events

Ids are strings outside and codes inside. A code is the row number in `Log.users` or `Log.items`; -1 is
"nobody" or "nothing". Times are microseconds since 1970 (UTC) wherever they are integers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import polars as pl

from palate.errors import BundleError as BundleError
from palate.errors import ConfigError as ConfigError
from palate.errors import DataError as DataError
from palate.errors import PalateError as PalateError
from palate.errors import SplitError as SplitError

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module
    from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

Ints = npt.NDArray[np.int32]
Longs = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]

NOBODY = -1
NOTHING = -1


@dataclass(frozen=True)
class Ragged:
    """Rows of different lengths as offsets and values: row `b` is `values[offsets[b]:offsets[b + 1]]`.

    offsets: int64 [B + 1], starting at 0, never falling.
    """

    offsets: Longs
    values: npt.NDArray[Any]

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]]) -> Ragged:
        """From Python lists: `Ragged.of([[1, 2], []])`. For tests and single requests."""
        lengths = np.fromiter((len(row) for row in rows), dtype=np.int64, count=len(rows))
        values = np.array([value for row in rows for value in row], dtype=np.int32)
        return cls(offsets_of(lengths), values)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> npt.NDArray[Any]:
        return self.values[self.offsets[row] : self.offsets[row + 1]]

    @property
    def lengths(self) -> Longs:
        return np.diff(self.offsets)

    @property
    def rows(self) -> Longs:
        """The row number of each value. int64 [len(values)]."""
        return np.repeat(np.arange(len(self), dtype=np.int64), self.lengths)

    def positions(self, rows: npt.NDArray[Any]) -> Longs:
        """Where the values of these rows lie in `values`, row after row. Cost: linear in what is returned, whatever else there is."""
        starts = self.offsets[:-1][rows]
        lengths = self.offsets[1:][rows] - starts
        ends = np.cumsum(lengths)
        return np.arange(int(ends[-1]) if len(ends) else 0, dtype=np.int64) + np.repeat(starts - (ends - lengths), lengths)

    def take(self, rows: npt.NDArray[Any]) -> Ragged:
        """The given rows, in the given order. Cost: linear in the values taken."""
        return Ragged(offsets_of(self.offsets[1:][rows] - self.offsets[:-1][rows]), self.values[self.positions(rows)])

    def above(self, other: Ragged) -> Ragged:
        """These rows, then those of the other."""
        offsets = np.concatenate([self.offsets, other.offsets[1:] + self.offsets[-1]])
        return Ragged(offsets, np.concatenate([self.values, other.values]))

    def tail(self, length: int) -> Ragged:
        """The last `length` values of every row (the most recent part of a history)."""
        kept = np.minimum(self.lengths, length)
        ends = np.cumsum(kept)
        starts = self.offsets[1:] - kept
        positions = np.arange(int(ends[-1]) if len(ends) else 0, dtype=np.int64) + np.repeat(starts - (ends - kept), kept)
        return Ragged(offsets_of(kept), self.values[positions])


def offsets_of(lengths: npt.NDArray[Any]) -> Longs:
    """Lengths [B] to offsets [B + 1]."""
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


@dataclass(frozen=True)
class Log:
    """Validated events, with a table of users and a table of items. Made by `palate.read`, the one gate.

    events: one row an event, in log order (oldest first; events of equal time keep the order of the file).
        user   Enum over `users["user"]`
        item   Enum over `items["item"]`
        time   Datetime("us"), UTC
        kind   Enum over the kinds that occur
        value  Float32, null where the event has none (a click), a rating, a dwell time ...
        and the declared context columns.
    users, items: one row an id, first column `user` / `item` (String, unique), then whatever is known about it
        (lists as List(String)). Every id of `events` is there; ids without events may be there too (cold items).
    positive: kinds that say "wanted"; what retrievers learn from. negative: kinds that say "never again".
    positive_value: where set, an event counts as wanted only if its value is at least this. valued: the kinds it is about (none: all),
        since the value of a play is no rating.
    checksum: sha256 over what was read. Stands in every result.
    """

    events: pl.DataFrame
    users: pl.DataFrame
    items: pl.DataFrame
    name: str = "log"
    checksum: str = ""
    positive: tuple[str, ...] = ()
    negative: tuple[str, ...] = ()
    positive_value: float | None = None
    valued: tuple[str, ...] = ()

    def __len__(self) -> int:
        return self.events.height

    @property
    def n_users(self) -> int:
        return self.users.height

    @property
    def n_items(self) -> int:
        return self.items.height

    @cached_property
    def user_codes(self) -> Ints:
        """int32 [E]: the row of `users` of each event."""
        return self.events["user"].to_physical().to_numpy().astype(np.int32)

    @cached_property
    def item_codes(self) -> Ints:
        """int32 [E]: the row of `items` of each event."""
        return self.events["item"].to_physical().to_numpy().astype(np.int32)

    @cached_property
    def times(self) -> Longs:
        """int64 [E], microseconds."""
        return self.events["time"].to_physical().to_numpy().astype(np.int64)

    @property
    def context(self) -> tuple[str, ...]:
        """Names of the context columns."""
        return tuple(c for c in self.events.columns if c not in ("user", "item", "time", "kind", "value"))

    def where(self, keep: npt.NDArray[Any] | pl.Expr) -> Log:
        """The same log with fewer events (a boolean mask, row numbers, or an expression). Ids keep their codes."""
        if isinstance(keep, pl.Expr):
            events = self.events.filter(keep)
        elif keep.dtype == np.bool_:
            events = self.events.filter(pl.Series(keep))
        else:
            events = self.events[keep]
        return replace(self, events=events)

    def positives(self) -> Log:
        """Only the events that say "wanted"."""
        return self.where(pl.col("kind").cast(pl.String).is_in(list(self.positive)) & self.high_enough)

    @property
    def high_enough(self) -> pl.Expr:
        """Whether the value of an event does not keep it from being wanted; never null."""
        if self.positive_value is None:
            return pl.lit(value=True)
        high = (pl.col("value") >= self.positive_value).fill_null(value=False)
        return high | ~pl.col("kind").cast(pl.String).is_in(list(self.valued)) if self.valued else high

    def negatives(self) -> Log:
        """Only the events that say "never again"."""
        return self.where(pl.col("kind").cast(pl.String).is_in(list(self.negative)))


@dataclass(frozen=True)
class Request:
    """Who asks, and for how much.

    user: a known or unknown id, or None. history: item ids (or titles), oldest first; added to what is stored of a known user.
    times: when each item of `history` was acted on, microseconds; none is "just now".
    context: values of the log's context columns. filters: rules on item columns such as `genre != "Horror"`.
    exclude: item ids never to show (disliked). seen: True lets items of the history come back.
    now: microseconds; None is "after everything in the log".
    """

    user: str | None = None
    history: tuple[str, ...] = ()
    context: Mapping[str, object] = field(default_factory=dict)
    k: int = 10
    filters: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    seen: bool = False
    now: int | None = None
    times: tuple[int, ...] = ()


@dataclass(frozen=True)
class Queries:
    """B requests, resolved against the catalogue: what every stage works on. Made by `features.history.History`.

    users: int32 [B], NOBODY where unknown. history: item codes, oldest first, all of it known before `now`.
    times: int64, one for each value of `history` (microseconds). now: int64 [B].
    blocked: item codes that must not come back (seen, disliked).
    allowed: bool [N], which items pass the filters; None is all. context: B rows, or None.
    """

    users: Ints
    history: Ragged
    times: Longs
    now: Longs
    blocked: Ragged
    allowed: Bools | None = None
    context: pl.DataFrame | None = None

    def __len__(self) -> int:
        return len(self.users)

    def take(self, rows: npt.NDArray[Any]) -> Queries:
        """Some of the queries, in the given order (row numbers, repeats allowed)."""
        return Queries(
            users=self.users[rows],
            history=self.history.take(rows),
            times=self.times[self.history.positions(rows)],
            now=self.now[rows],
            blocked=self.blocked.take(rows),
            allowed=self.allowed,
            context=None if self.context is None else self.context[rows],
        )

    def above(self, other: Queries) -> Queries:
        """These queries, then those of the other; both allow the same items."""
        contexts = [queries.context for queries in (self, other) if queries.context is not None]
        context: pl.DataFrame | None = None
        if contexts:
            some = [pl.DataFrame({"": range(len(queries))}) if queries.context is None else queries.context for queries in (self, other)]
            context = pl.concat(some, how="diagonal_relaxed").select(pl.exclude(""))
        return Queries(
            users=np.concatenate([self.users, other.users]),
            history=self.history.above(other.history),
            times=np.concatenate([self.times, other.times]),
            now=np.concatenate([self.now, other.now]),
            blocked=self.blocked.above(other.blocked),
            allowed=self.allowed,
            context=context,
        )

    def __getitem__(self, part: slice) -> Queries:
        return self.take(np.arange(len(self))[part])


@dataclass(frozen=True)
class Candidates:
    """Item codes and scores [B, K], best first, each tagged with the retriever it came from.

    items: int32 [B, K], NOTHING at the end where there were fewer. scores: float32 [B, K], -inf there.
    source: int8 [B, K], an index into `sources` (the retriever that ranked it best); -1 there.
    features: columns float32 [B, K] that later stages may use, for example `ease.score` and `ease.rank`;
        NaN where that retriever did not bring the item.
    """

    items: Ints
    scores: Floats
    sources: tuple[str, ...]
    source: npt.NDArray[np.int8]
    features: Mapping[str, Floats] = field(default_factory=dict)

    @classmethod
    def of(cls, items: Ints, scores: Floats, source: str) -> Candidates:
        """From one retriever."""
        present = items != NOTHING
        scores = np.where(present, scores, np.float32(-np.inf)).astype(np.float32, copy=False)
        return cls(items, scores, (source,), np.where(present, np.int8(0), np.int8(-1)))

    def __len__(self) -> int:
        return len(self.items)

    @property
    def present(self) -> Bools:
        """bool [B, K]: which places hold an item."""
        return self.items != NOTHING

    def take(self, rows: npt.NDArray[Any]) -> Candidates:
        """The lists of some of the queries."""
        features = {name: column[rows] for name, column in self.features.items()}
        return replace(self, items=self.items[rows], scores=self.scores[rows], source=self.source[rows], features=features)

    def reorder(self, order: npt.NDArray[Any], scores: Floats | None = None) -> Candidates:
        """The same lists in another order. order: int [B, K'] places in the old list; scores [B, K'] in the new order."""
        features = {name: np.take_along_axis(column, order, 1) for name, column in self.features.items()}
        moved = np.take_along_axis(self.scores, order, 1) if scores is None else scores
        return replace(
            self,
            items=np.take_along_axis(self.items, order, 1),
            scores=moved,
            source=np.take_along_axis(self.source, order, 1),
            features=features,
        )


@dataclass(frozen=True)
class Slate:
    """The final ordered items for one request.

    items: ids, best first. scores: what they were ordered by. sources: the retriever of each.
    probabilities: a mapping task -> prediction for each item: clicks as calibrated probabilities, ratings in their units, watch
    times in seconds. propensity: the probability with which the policy shows this item at this place (1.0 where nothing is random).
    reasons: one sentence an item. found: for each item the rank, from 1, that each retriever that brought it gave it.
    log_propensity: natural logarithm of the probability of the whole slate, in order; NaN where the policy cannot tell.
    """

    items: tuple[str, ...]
    scores: tuple[float, ...]
    sources: tuple[str, ...]
    probabilities: tuple[Mapping[str, float], ...]
    propensity: tuple[float, ...]
    reasons: tuple[str, ...]
    found: tuple[Mapping[str, int], ...] = ()
    log_propensity: float = 0.0

    def __len__(self) -> int:
        return len(self.items)


@dataclass(frozen=True)
class Compressed:
    """A table kept smaller than its ids, see `palate.nn.embedding`. Tables of up to `threshold` rows stay whole: nothing is gained there.

    qr: quotient and remainder by `collisions`, joined by `operation`. bloom: `hashes` rows out of a table of `rows`, summed.
    """

    kind: Literal["qr", "bloom"]
    collisions: int = 4
    operation: Literal["mult", "add", "concat"] = "mult"
    rows: int = 10_000
    hashes: int = 2
    threshold: int = 200


@dataclass(frozen=True)
class SparseInput:
    """One sparse feature as a model sees it: ids in [0, rows), looked up in `table`, pooled by `pooling`. Features may share a table.

    embedding: how its table is compressed; None keeps a row an id. Plain values (from JSON) become a `Compressed`.
    """

    name: str
    table: str
    rows: int
    pooling: Literal["sum", "mean"] = "mean"
    embedding: Compressed | None = None

    def __post_init__(self) -> None:
        given: Any = self.embedding
        if isinstance(given, Mapping):
            object.__setattr__(self, "embedding", Compressed(**given))


@dataclass(frozen=True)
class Inputs:
    """What a network is built for: names of the dense columns [F], sparse features in key order, tasks: label names [T]."""

    dense: tuple[str, ...] = ()
    sparse: tuple[SparseInput, ...] = ()
    tasks: tuple[str, ...] = ("label",)


@dataclass(frozen=True)
class Batch:
    """One training or scoring batch.

    dense: float [B, F]. sparse: KeyedJaggedTensor with one key a sparse feature. labels: float [B, T]. weights: float [B].
    extra: tensors [B, ...] that some losses need (item codes, log-Q, ...).
    """

    dense: Tensor
    sparse: KeyedJaggedTensor
    labels: Tensor
    weights: Tensor
    extra: Mapping[str, Tensor] = field(default_factory=dict)

    def to(self, device: Any) -> Batch:
        """The same batch on another device."""
        return Batch(
            self.dense.to(device),
            self.sparse.to(device),
            self.labels.to(device),
            self.weights.to(device),
            {name: tensor.to(device) for name, tensor in self.extra.items()},
        )

    def __len__(self) -> int:
        return int(self.weights.shape[0])


@dataclass(frozen=True)
class State:
    """What a fitted component is made of, apart from its Config: arrays (-> safetensors), frames (-> Parquet), meta (-> JSON)."""

    arrays: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    frames: Mapping[str, pl.DataFrame] = field(default_factory=dict)
    meta: Mapping[str, Any] = field(default_factory=dict)


class Loader(Protocol):
    """Batches of one epoch at a time, in an order that depends only on seed and epoch, and that can be taken up in the middle."""

    def __iter__(self) -> Iterator[Batch]: ...

    def __len__(self) -> int:
        """Batches an epoch (of this shard)."""
        ...

    def state_dict(self) -> dict[str, int]:
        """Where the loader stands: `{"epoch": ..., "batch": ...}`; the next batch it will give."""
        ...

    def load_state_dict(self, state: Mapping[str, int]) -> None: ...


class Train(Protocol):
    """The training engine as a model sees it (`palate.train.trainer.Trainer.fit` is one): the model is changed in place.

    step: the loss and whatever else is worth logging, `{"loss": scalar tensor, ...}`.
    validate: called after each epoch; larger is better for the metric named in `training.monitor` unless it ends in "loss".
    Returns the curves: a list a metric, one value an epoch.
    """

    def __call__(
        self,
        model: Module,
        loader: Any,
        step: Callable[[Any, Batch], Mapping[str, Tensor]],
        training: Any,
        *,
        name: str,
        run: Run,
        validate: Callable[[Any], Mapping[str, float]] | None = None,
    ) -> dict[str, list[float]]: ...


@dataclass(frozen=True)
class Warm:
    """What a run goes on from: a funnel that was fitted before. Its networks are where the new ones start, on what is new to it.

    funnel: an earlier `palate.funnel.Funnel`. since: the time of the newest event it learnt from, microseconds; what is younger, it never
    saw. epochs: the share of a network's own epochs that it trains. replay: how many older events are learnt again for each new one, so
    that they are not forgotten.
    """

    funnel: Any
    since: int
    epochs: float = 0.2
    replay: float = 1.0

    def epochs_of(self, own: int) -> int:
        """How many epochs (or other rounds) of so many."""
        return max(1, round(self.epochs * own))

    def before(self, component: Any) -> Any:
        """The earlier component of the same name and class; None where there is none."""
        others = (*self.funnel.retrievers, self.funnel.ranker)
        return next((other for other in others if type(other) is type(component) and other.name == component.name), None)

    def chosen(self, times: Longs, seed: int) -> Longs:
        """Which of some rows, by their times, are learnt from: all that are new, and a sample of the others. Row numbers, rising.

        Where nothing is new: a sample as large as if a tenth were.
        """
        old = np.flatnonzero(times <= self.since)
        new = len(times) - len(old)
        count = min(len(old), max(1, round(self.replay * (new or len(times) / 10))))
        return np.sort(np.concatenate([np.flatnonzero(times > self.since), np.random.default_rng(seed).choice(old, count, replace=False)]))


@dataclass(frozen=True)
class Run:
    """The circumstances of a run, apart from every hyperparameter.

    seed: of everything random. device: "cpu", "cuda", ... folder: where checkpoints and TensorBoard files go (None: nowhere).
    quiet: no progress bars. train: the engine for networks; None for components that have none. warm: what networks go on from.
    """

    seed: int = 0
    device: str = "cpu"
    folder: Path | None = None
    quiet: bool = True
    train: Train | None = None
    resume: bool = False
    warm: Warm | None = None

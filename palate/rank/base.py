"""What a ranker is: it learns from labelled candidates, and scores the candidates of each query."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Self

import numpy as np
import pydantic

from palate import config
from palate.rank.baseline import Rated
from palate.rank.blend import Blend
from palate.rank.tasks import WANTED, Kind, Task
from palate.types import Bools, Candidates, DataError, Floats, Ints, Longs, Queries, Run, Warm

if TYPE_CHECKING:
    from palate.features.encode import Encoder


@dataclass(frozen=True)
class Examples:
    """Labelled candidates: what the retrievers really brought, and what happened afterwards.

    queries: Q queries as of the cut. candidates: [Q, K]. labels: float32 [Q, K, T], one column a task; NaN where it is unknown.
    validation: bool [Q], queries held back for early stopping and calibration. rated: for a task that is a rating, by its name, the ratings
    before the cut, from which candidates may be told by who rates and what is rated.
    """

    encoder: Encoder
    queries: Queries
    candidates: Candidates
    labels: Floats
    validation: Bools
    tasks: tuple[str, ...] = ("label",)
    rated: Mapping[str, Rated] = field(default_factory=dict)


class Labelled(NamedTuple):
    """Queries, a list of candidates each, and what happened to those: labels float32 [Q, K, T], NaN where it is unknown."""

    queries: Queries
    candidates: Candidates
    labels: Floats


class Ranker(config.Component, ABC):
    """Scores candidates, each on its own: neither the order of a list nor its company changes a score.

    `fit` remembers what it needs of the encoder's inputs, `score` is given an encoder with the same inputs (after a refit of the
    retrievers it may stand on a newer history).
    """

    class Config(config.Config):
        """name: what tables call it (default: its file's name).

        tasks: what it predicts of a candidate, see `Task`; none is one task, `label`: is it wanted? blend: the score by which the funnel
        orders, a formula over the names of the tasks, see `Blend`; none is the score of the first task.
        """

        kinds: ClassVar[tuple[Kind, ...]] = ("click",)  # what a ranker of this class can learn

        name: str | None = None
        tasks: tuple[Task, ...] = ()
        blend: str | None = None

        @pydantic.model_validator(mode="after")
        def _tasks_that_it_can_learn(self) -> Self:
            names = [task.name for task in self.tasks or WANTED]
            for task in self.tasks:
                if names.count(task.name) > 1:
                    raise ValueError(f"tasks: two are called {task.name!r}")
                if task.kind not in self.kinds:
                    learns = " and ".join(f"{kind}s" for kind in self.kinds)
                    raise ValueError(
                        f'tasks: {task.name!r} is a {task.kind}, this ranker learns only {learns}; use = "multitask" learns all'
                    )
            if self.blend is not None:
                Blend.parse(self.blend, names)
            return self

    config: Config

    @abstractmethod
    def fit(self, examples: Examples, run: Run = Run()) -> Self:
        """Learns from labelled candidates; forgets whatever it knew before."""

    def goes_on(self, warm: Warm) -> bool:
        """Whether it would go on from what an earlier funnel holds, rather than begin anew."""
        return False

    @abstractmethod
    def score(self, queries: Queries, candidates: Candidates, encoder: Encoder) -> Floats:
        """Scores [B, K, T], one column a task; larger is better; -inf where there is no candidate."""


@dataclass(frozen=True)
class Pairs:
    """R (query, candidate) pairs: pair `r` is item `items[r]`, at place `places[r]` of the list of query `rows[r]`."""

    rows: Longs
    places: Longs
    items: Ints

    @classmethod
    def of(cls, candidates: Candidates, keep: Bools | None = None) -> Pairs:
        """Every candidate there is, list after list. keep: bool [B, K], only these."""
        rows, places = np.nonzero(candidates.present if keep is None else candidates.present & keep)
        return cls(rows, places, candidates.items[rows, places])

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, which: Longs | slice) -> Pairs:
        """Some of the pairs, in the given order."""
        return Pairs(self.rows[which], self.places[which], self.items[which])

    def blocks(self, size: int) -> Iterator[tuple[slice, Pairs]]:
        """All pairs, at most `size` at a time, so that memory does not grow with the number of candidates."""
        for start in range(0, len(self), size):
            part = slice(start, min(start + size, len(self)))
            yield part, self.take(part)


def candidate_features(candidates: Candidates, names: Sequence[str], pairs: Pairs) -> Floats:
    """What the retrievers said about each pair (`ease.score`, `ease.rank`, ...): float32 [R, C], NaN where one did not bring the item."""
    columns = np.empty((len(pairs), len(names)), dtype=np.float32)
    for place, name in enumerate(names):
        if name not in candidates.features:
            have = ", ".join(candidates.features) or "none"
            raise DataError(
                f"rank: the candidates lack the feature {name!r} that the ranker learnt from (they have {have}); use the same retrievers"
            )
        columns[:, place] = candidates.features[name][pairs.rows, pairs.places]
    return columns


def training_pairs(examples: Examples, negatives: int | None, seed: int) -> tuple[Pairs, Floats]:
    """The pairs of the training queries, and their weights [R]: all positives, and at most `negatives` others of each query.

    A pair is positive if any of its labels is known and not 0. The kept negatives of a query are drawn uniformly without replacement
    and weigh (negatives there were) / (negatives kept), so that sums over them are unbiased and probabilities need no correction.
    """
    training = ~examples.validation
    pairs = Pairs.of(examples.candidates, np.broadcast_to(training[:, None], examples.candidates.items.shape))
    if not len(pairs):
        raise DataError("rank: no candidate to learn from; the training queries have empty lists")
    weights = np.ones(len(pairs), dtype=np.float32)
    if negatives is None:
        return pairs, weights
    labels = examples.labels[pairs.rows, pairs.places]
    negative = np.flatnonzero(((labels == 0) | np.isnan(labels)).all(axis=1))
    drawn = negative[np.lexsort((np.random.default_rng(seed).random(len(negative)), pairs.rows[negative]))]
    there = np.bincount(pairs.rows[drawn], minlength=len(examples.queries))
    place = np.arange(len(drawn)) - np.repeat(np.cumsum(there) - there, there)  # of each negative in its query, in drawn order
    weights[negative] = np.maximum(there / np.maximum(np.minimum(there, negatives), 1), 1)[pairs.rows[negative]]
    keep = np.ones(len(pairs), dtype=np.bool_)
    keep[drawn[place >= negatives]] = False
    kept = np.flatnonzero(keep)
    return pairs.take(kept), weights[kept]

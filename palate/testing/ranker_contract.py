"""What every ranker must do, as a pytest mixin:

    class TestMyRanker(RankerContract):
        ranker = MyRanker
        settings = {"width": 8}

The contract is about plumbing; the formula of a model needs a hand-computed test of its own beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import polars as pl
import pytest

from palate import config
from palate.features.encode import Encoder
from palate.features.history import History
from palate.features.spec import FeatureSet
from palate.metrics import pointwise
from palate.rank.base import Examples, Ranker
from palate.types import NOBODY, NOTHING, Candidates, ConfigError, Floats, Ints, Log, Queries, Ragged, Run

CLUSTERS = 4
DAY = 86_400_000_000


@dataclass(frozen=True)
class World:
    """A log in which people of a taste want the items of a kind, and labelled random candidates of every user."""

    log: Log
    tastes: Ints
    kinds: Ints
    examples: Examples


def planted_log(n_users: int = 160, n_items: int = 60, seed: int = 0) -> tuple[Log, Ints, Ints]:
    """A log whose users have one of four tastes and whose items have one of four kinds; a user's events are of the kind of the taste.

    Users have the column `taste`, items `kind` and `genres` (the kind's own genre and a random one). Returns log, tastes [U], kinds [N].
    """
    rng = np.random.default_rng(seed)
    tastes, kinds = rng.integers(0, CLUSTERS, n_users), np.arange(n_items) % CLUSTERS
    users = pl.DataFrame({"user": [f"u{code}" for code in range(n_users)], "taste": [f"t{taste}" for taste in tastes]})
    genres = [[f"g{kind}", f"x{extra}"] for kind, extra in zip(kinds, rng.integers(0, 5, n_items), strict=True)]
    items = pl.DataFrame({"item": [f"i{code}" for code in range(n_items)], "kind": [f"k{kind}" for kind in kinds], "genres": genres})
    wanted = [rng.choice(np.flatnonzero(kinds == taste), rng.integers(3, 9), replace=False) for taste in tastes]
    who = np.repeat(np.arange(n_users), [len(one) for one in wanted])
    order = rng.permutation(len(who))
    events = pl.DataFrame(
        {
            "user": users["user"].gather(who[order]).cast(pl.Enum(users["user"])),
            "item": items["item"].gather(np.concatenate(wanted)[order]).cast(pl.Enum(items["item"])),
            "time": pl.Series(1_600_000_000_000_000 + DAY // 24 * np.arange(len(who))).cast(pl.Datetime("us", "UTC")),
            "kind": pl.Series(["event"] * len(who), dtype=pl.Enum(["event"])),
            "value": pl.Series([None] * len(who), dtype=pl.Float32),
        }
    )
    log = Log(events, users, items, name="planted-clusters", checksum="0" * 64, positive=("event",))
    return log, tastes.astype(np.int32), kinds.astype(np.int32)


def planted_examples(features: FeatureSet | None = None, *, said: bool = True, seed: int = 0) -> World:
    """Every user is a query with 24 random candidates (some lists are shorter), the last quarter of the users for validation.

    Tasks: `label` (the item's kind is the user's taste, 3 % flipped) and `second` (the same for items of even code only, a third
    unknown). said: two features of the candidates, a weak hint `hint.score` and its `hint.rank`, NaN for a third of the items.
    """
    rng = np.random.default_rng(seed + 1)
    log, tastes, kinds = planted_log(seed=seed)
    history = History.of(log)
    items = np.stack([rng.choice(log.n_items, 24, replace=False) for _ in range(log.n_users)]).astype(np.int32)
    items[np.arange(24)[None, :] >= rng.integers(12, 25, log.n_users)[:, None]] = NOTHING
    present = items != NOTHING
    match = (kinds[items] == tastes[:, None]) & present
    label = np.where(rng.random(items.shape) < 0.03, ~match & present, match).astype(np.float32)
    second = np.where(rng.random(items.shape) < 1 / 3, np.nan, match & (items % 2 == 0)).astype(np.float32)
    hint = np.where(rng.random(items.shape) < 1 / 3, np.nan, 0.5 * match + rng.normal(size=items.shape)).astype(np.float32)
    rank = np.argsort(np.argsort(-np.nan_to_num(hint, nan=-9.0), axis=1), axis=1) + 1.0
    columns = {"hint.score": hint, "hint.rank": np.where(np.isnan(hint), np.nan, rank).astype(np.float32)}
    candidates = replace(
        Candidates.of(items, -np.arange(24, dtype=np.float32)[None, :].repeat(len(items), 0), "hint"), features=columns if said else {}
    )
    encoder = Encoder.fit(features or FeatureSet.derive(log, history=10), log, history)
    validation = np.arange(log.n_users) >= log.n_users * 3 // 4
    queries = history.queries(np.arange(log.n_users, dtype=np.int32))
    examples = Examples(encoder, queries, candidates, np.stack([label, second], axis=2), validation, ("label", "second"))
    return World(log, tastes, kinds, examples)


@cache
def _world() -> World:
    return planted_examples()


def run_for(ranker: Ranker, seed: int = 3) -> Run:
    """A run with the training engine if the ranker trains a network."""
    if not hasattr(ranker.config, "train"):
        return Run(seed=seed)
    from palate.train.trainer import Trainer

    return Run(seed=seed, train=Trainer().fit)


class RankerContract:
    """Inherit, and name the class. settings: small enough for a test of seconds. lowest_auc: on the planted world, held-out queries."""

    ranker: ClassVar[type[Ranker]]
    settings: ClassVar[Mapping[str, Any]] = {}
    lowest_auc: ClassVar[float] = 0.8

    _fitted: ClassVar[dict[type, Ranker]] = {}

    def make(self) -> Ranker:
        """A fresh one."""
        return self.ranker(**self.settings)

    def fitted(self) -> Ranker:
        """One that was fitted on the planted world (once a test class)."""
        if type(self) not in self._fitted:
            ranker = self.make()
            assert ranker.fit(_world().examples, run_for(ranker)) is ranker, "fit must return self"
            self._fitted[type(self)] = ranker
        return self._fitted[type(self)]

    def score(self, ranker: Ranker, queries: Queries | None = None, candidates: Candidates | None = None) -> Floats:
        """Scores of the planted candidates, or of others."""
        examples = _world().examples
        return ranker.score(queries or examples.queries, candidates or examples.candidates, examples.encoder)

    def test_shape_and_absent_places(self) -> None:
        candidates, tasks = _world().examples.candidates, _world().examples.tasks
        scores = self.score(self.fitted())
        assert scores.dtype == np.float32
        assert scores.shape == (*candidates.items.shape, len(tasks))
        assert np.isfinite(scores[candidates.present]).all()
        assert np.isneginf(scores[~candidates.present]).all()

    def test_it_learns(self) -> None:
        examples = _world().examples
        held = examples.validation[:, None] & examples.candidates.present
        scores = self.score(self.fitted())
        for task in range(len(examples.tasks)):
            known = held & ~np.isnan(examples.labels[:, :, task])
            assert pointwise.auc(examples.labels[known][:, task], scores[known][:, task]) > self.lowest_auc, examples.tasks[task]

    def test_order_of_candidates_changes_no_score(self) -> None:
        candidates = _world().examples.candidates
        order = np.random.default_rng(5).permuted(np.tile(np.arange(candidates.items.shape[1]), (len(candidates), 1)), axis=1)
        moved = self.score(self.fitted(), candidates=candidates.reorder(order))
        np.testing.assert_allclose(moved, np.take_along_axis(self.score(self.fitted()), order[:, :, None], 1), atol=1e-5)

    def test_batch_of_one_equals_batch_of_many(self) -> None:
        examples, many = _world().examples, self.score(self.fitted())
        for row in (0, 7, len(examples.queries) - 1):
            one = self.score(self.fitted(), examples.queries.take(np.array([row])), examples.candidates.take(np.array([row])))
            np.testing.assert_allclose(one[0], many[row], atol=1e-5)

    def test_scoring_changes_nothing(self) -> None:
        first = self.score(self.fitted())
        np.testing.assert_array_equal(self.score(self.fitted()), first)

    def test_the_seed_decides_and_fit_forgets(self) -> None:
        ranker, examples = self.make(), _world().examples
        half = replace(examples, validation=~examples.validation)
        ranker.fit(half, run_for(ranker)).fit(examples, run_for(ranker))
        np.testing.assert_allclose(self.score(ranker), self.score(self.fitted()), atol=1e-6)

    def test_state_gives_the_same_scores(self, tmp_path: Path) -> None:
        from palate.serve.bundle import read_state, write_state

        write_state(tmp_path / "state", self.fitted().state())
        again = config.build(config.import_path(self.ranker), "rank", self.fitted().config.model_dump(mode="json"))
        assert isinstance(again, Ranker)
        np.testing.assert_allclose(self.score(again.restore(read_state(tmp_path / "state"))), self.score(self.fitted()), atol=1e-6)

    def test_unknown_user(self) -> None:
        encoder, candidates = _world().examples.encoder, _world().examples.candidates.take(np.array([0, 1]))
        stranger = replace(
            encoder.history.queries(np.array([NOBODY, NOBODY], dtype=np.int32)),
            history=Ragged.of([[], [0, 4]]),
            times=np.full(2, encoder.history.end - 1, dtype=np.int64),
        )
        scores = self.score(self.fitted(), stranger, candidates)
        assert np.isfinite(scores[candidates.present]).all()

    def test_empty_lists(self) -> None:
        examples = _world().examples
        nothing = np.full((2, 3), NOTHING, dtype=np.int32)
        said = {name: np.full((2, 3), np.nan, dtype=np.float32) for name in examples.candidates.features}
        candidates = replace(Candidates.of(nothing, np.zeros((2, 3), dtype=np.float32), "hint"), features=said)
        scores = self.score(self.fitted(), examples.queries.take(np.array([0, 1])), candidates)
        assert np.isneginf(scores).all()

    def test_without_validation_queries(self) -> None:
        ranker, examples = self.make(), _world().examples
        ranker.fit(replace(examples, validation=np.zeros_like(examples.validation)), run_for(ranker))
        assert np.isfinite(self.score(ranker)[examples.candidates.present]).all()

    def test_a_feature_of_the_candidates_that_is_gone_is_an_error(self) -> None:
        from palate.types import DataError

        with pytest.raises(DataError, match=r"hint\.score"):
            self.score(self.fitted(), candidates=replace(_world().examples.candidates, features={}))

    def test_not_fitted_is_an_error(self) -> None:
        with pytest.raises(ConfigError, match="fit first"):
            self.score(self.make())

    def test_mistyped_key_names_the_nearest(self) -> None:
        key = next(key for key in self.ranker.Config.model_fields if key != "name")
        with pytest.raises(ConfigError, match=f"{key}x: no such key; did you mean `{key}`"):
            self.ranker(**{f"{key}x": 1})

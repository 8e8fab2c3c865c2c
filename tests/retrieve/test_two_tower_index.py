"""Two towers behind an approximate index, watched over the whole catalogue while they train."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from palate.retrieve.ann import ANNIndex
from palate.retrieve.two_tower import TwoTower
from palate.testing.contracts import assert_can_be_saved, assert_well_formed, clustered, hit_rate
from palate.train.trainer import Trainer
from palate.types import BundleError, ConfigError, Run, State

SETTINGS: dict[str, Any] = {"width": 16, "n_negatives": 64, "train": {"epochs": 4, "batch_size": 128, "sparse_lr": 0.1, "lr": 0.01}}
RUN = Run(train=Trainer().fit)


def test_an_approximate_index_is_built_searched_saved_and_told_apart() -> None:
    log, queries, last = clustered(items=160)
    exact = TwoTower(**SETTINGS).fit(log, RUN)
    near = TwoTower(**SETTINGS, index={"kind": "hnsw", "recall_at": 10}).fit(log, RUN)
    assert isinstance(near.index, ANNIndex)
    assert near.index.report["recall"] >= 0.95
    assert near.version == near.index.version == exact.version  # the same weights
    found, expected = near.retrieve(queries, 10), exact.retrieve(queries, 10)
    assert_well_formed(found, len(queries), 10)
    both = [len(set(one) & set(other)) / 10 for one, other in zip(found.items.tolist(), expected.items.tolist(), strict=True)]
    assert np.mean(both) > 0.9
    assert hit_rate(found, last) == pytest.approx(hit_rate(expected, last), abs=0.05)
    state = near.state()
    assert_can_be_saved(state)
    again = TwoTower(**SETTINGS, index={"kind": "hnsw", "recall_at": 10}).restore(state)
    assert np.array_equal(again.retrieve(queries, 10).items, found.items)
    with pytest.raises(BundleError, match="index: saved as hnsw, but the settings say exact"):
        TwoTower(**SETTINGS).restore(state)


def test_an_index_of_other_weights_is_refused() -> None:
    log, queries, _ = clustered(users=40)
    tower = TwoTower(**SETTINGS).fit(log, RUN)
    state = tower.state()
    name = next(name for name in state.arrays if name.startswith("network.") and state.arrays[name].size > 10)
    other = State({**state.arrays, name: state.arrays[name] + 1}, state.frames, state.meta)
    with pytest.raises(ConfigError, match=r"index: made by version \w+ of the tower, the queries by \w+; build the index again"):
        TwoTower(**SETTINGS).restore(other).retrieve(queries, 5)


def test_the_whole_catalogue_is_watched_while_training() -> None:
    log, _, _ = clustered()
    train = {**SETTINGS["train"], "epochs": 3, "monitor": "recall@10"}
    tower = TwoTower(**{**SETTINGS, "train": train, "validate_on": 50}).fit(log, RUN)
    assert {"recall@1", "recall@10", "recall@100", "mrr"} <= set(tower.curves)
    curve = tower.curves["recall@10"]
    assert len(curve) == 3
    assert max(curve) > 1.5 * 10 / 60  # of 60 items, ten by chance
    assert log.n_items == len(tower.index)

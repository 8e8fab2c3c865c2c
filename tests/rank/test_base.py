"""Pairs, features of candidates, and the sampling of negatives."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from palate.rank.base import Pairs, candidate_features, training_pairs
from palate.testing.ranker_contract import planted_examples
from palate.types import NOTHING, Candidates, DataError


def lists() -> Candidates:
    items = np.array([[5, 3, NOTHING], [7, 8, 9]], dtype=np.int32)
    candidates = Candidates.of(items, np.zeros((2, 3), dtype=np.float32), "one")
    return replace(
        candidates, features={"a.score": np.arange(6, dtype=np.float32).reshape(2, 3), "a.rank": np.ones((2, 3), dtype=np.float32)}
    )


def test_pairs() -> None:
    pairs = Pairs.of(lists())
    assert pairs.rows.tolist() == [0, 0, 1, 1, 1]
    assert pairs.places.tolist() == [0, 1, 0, 1, 2]
    assert pairs.items.tolist() == [5, 3, 7, 8, 9]
    blocks = list(pairs.blocks(2))
    assert [part for part, _ in blocks] == [slice(0, 2), slice(2, 4), slice(4, 5)]
    assert np.concatenate([block.items for _, block in blocks]).tolist() == [5, 3, 7, 8, 9]
    assert Pairs.of(lists(), np.array([[False] * 3, [True] * 3])).items.tolist() == [7, 8, 9]


def test_candidate_features() -> None:
    assert candidate_features(lists(), ("a.rank", "a.score"), Pairs.of(lists())).tolist() == [[1, 0], [1, 1], [1, 3], [1, 4], [1, 5]]
    with pytest.raises(DataError, match=r"lack the feature 'b\.score'.*they have a\.score, a\.rank"):
        candidate_features(lists(), ("b.score",), Pairs.of(lists()))


def test_training_pairs_without_sampling_are_all() -> None:
    examples = planted_examples().examples
    pairs, weights = training_pairs(examples, None, 0)
    assert len(pairs) == (examples.candidates.present & ~examples.validation[:, None]).sum()
    assert not examples.validation[pairs.rows].any()
    assert (weights == 1).all()


@pytest.mark.parametrize("negatives", [1, 5, 1000])
def test_weights_undo_the_sampling(negatives: int) -> None:
    examples = planted_examples().examples
    every, _ = training_pairs(examples, None, 0)
    pairs, weights = training_pairs(examples, negatives, 7)
    positive = (examples.labels[every.rows, every.places] > 0).any(1)
    kept_positive = (examples.labels[pairs.rows, pairs.places] > 0).any(1)
    assert kept_positive.sum() == positive.sum()
    assert (weights[kept_positive] == 1).all()
    queries = len(examples.queries)
    there = np.bincount(every.rows[~positive], minlength=queries)
    kept = np.bincount(pairs.rows[~kept_positive], minlength=queries)
    np.testing.assert_array_equal(kept, np.minimum(there, negatives))
    mass = np.bincount(pairs.rows[~kept_positive], weights[~kept_positive], minlength=queries)
    np.testing.assert_allclose(mass, there, rtol=1e-6)
    # every pair once, list after list, and another draw for another seed
    keys = pairs.rows * 100 + pairs.places
    assert (np.diff(keys) > 0).all()
    if negatives == 5:
        other = training_pairs(examples, negatives, 8)[0]
        assert not np.array_equal(other.places, pairs.places)
        np.testing.assert_array_equal(training_pairs(examples, negatives, 7)[0].places, pairs.places)


def test_no_training_candidate_is_an_error() -> None:
    examples = planted_examples().examples
    with pytest.raises(DataError, match="no candidate to learn from"):
        training_pairs(replace(examples, validation=np.ones_like(examples.validation)), 5, 0)

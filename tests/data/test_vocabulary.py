from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from palate.data import vocabulary
from palate.data.vocabulary import FIRST, RARE, Vocabulary, bucket, counted, frequent, mix

KINDS = [np.uint32, np.uint64]


@pytest.mark.parametrize("kind", KINDS)
def test_mixing_makes_no_two_keys_one(kind: Any) -> None:
    keys = np.arange(100_000).astype(kind)
    mixed = mix(keys)
    assert mixed.dtype == kind
    assert len(np.unique(mixed)) == len(keys)
    leading = np.bincount((mixed >> kind(8 * mixed.itemsize - 6)).astype(np.int64), minlength=64)
    assert leading.min() > 1300  # 1562 in each 64th of the range, were it perfect
    assert (mix(keys, 1) != mix(keys, 2)).mean() > 0.99


@pytest.mark.parametrize("kind", KINDS)
def test_runs_merge_to_the_frequent_keys(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five runs, merged a few entries at a time, against a Counter."""
    monkeypatch.setattr(vocabulary, "MERGE", 50)
    rng = np.random.default_rng(0)
    parts = [mix(np.floor(300 * rng.random(400) ** 2).astype(kind)) for _ in range(5)]
    counts = Counter(key for part in parts for key in part.tolist())
    runs = [counted(part.copy()) for part in parts]
    assert all((np.diff(keys.astype(object)) > 0).all() and n.sum() == 400 for keys, n in runs)
    for least in (1, 5, 10**6):
        assert frequent(runs, least, kind).tolist() == sorted(key for key, n in counts.items() if n >= least)
    assert len(frequent([], 1, kind)) == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [0, 1, 2, 3, 1000])
def test_a_vocabulary_knows_its_own(kind: Any, size: int) -> None:
    raw = np.random.default_rng(size).choice(50_000, size, replace=False).astype(kind)
    words = Vocabulary(np.sort(mix(raw)))
    assert sorted(words.ids(raw).tolist()) == list(range(FIRST, FIRST + size))
    strangers = (np.arange(50_000).astype(kind) + kind(50_000))[:2000]
    assert (words.ids(strangers) == RARE).all()
    lowest, highest = np.array([0, np.iinfo(kind).max], dtype=kind)
    assert (words.ids(np.array([lowest, highest])[~np.isin([lowest, highest], raw)]) == RARE).all()


def test_buckets_differ_from_column_to_column_and_fill_evenly() -> None:
    keys = np.arange(10_000, dtype=np.uint32)
    one, other = bucket(keys, 10, 0), bucket(keys, 10, 1)
    assert (one.min(), one.max()) == (FIRST, FIRST + 9)
    assert np.bincount(one)[FIRST:].min() > 900
    assert (one == other).mean() < 0.2

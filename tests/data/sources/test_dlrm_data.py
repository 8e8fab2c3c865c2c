"""DLRM's generators: distances by hand and against a naive count, drawn traces beside the trace they were fitted to, random bags."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from palate.data.sources.clicks import skewed
from palate.data.sources.dlrm_data import COLD, LRUStack, fit_trace, random_bags, stack_distances, synthetic_bags
from palate.features.collate import collate
from palate.features.encode import Encoded
from palate.features.rows import Rows
from palate.types import DataError, Longs

LENGTH = 30_000


def zipf() -> Longs:
    return skewed(np.random.default_rng(0).random((LENGTH, 1)), np.array([3000]), 1.1)[:, 0].astype(np.int64)


def drifting() -> Longs:
    """New ids come all the time and old ones are forgotten."""
    return np.arange(LENGTH) // 20 + np.random.default_rng(1).exponential(60, LENGTH).astype(np.int64)


def bursts() -> Longs:
    """Ids that come in runs, as users of a log do."""
    rng = np.random.default_rng(2)
    return np.repeat(skewed(rng.random((LENGTH, 1)), np.array([800]), 0.8)[:, 0], rng.integers(1, 40, LENGTH))[:LENGTH].astype(np.int64)


TRACES = {"zipf": zipf, "drifting": drifting, "bursts": bursts}


def test_distances_by_hand() -> None:
    # a b c a a d b: a after b, c: 2; a again: 0; d is new; b after c, a, d: 3.
    assert stack_distances(np.array([10, 11, 12, 10, 10, 13, 11])).tolist() == [COLD, COLD, COLD, 2, 0, COLD, 3]
    assert stack_distances(np.zeros(0, dtype=np.int64)).tolist() == []


def test_distances_are_the_number_of_others_since() -> None:
    trace = zipf()[:6000] % 1500  # past several layings of the slots
    last: dict[int, int] = {}
    naive = []
    for place, value in enumerate(trace.tolist()):
        naive.append(len(set(trace[last[value] + 1 : place].tolist())) if value in last else COLD)
        last[value] = place
    assert stack_distances(trace).tolist() == naive


def test_the_stack_finds_by_depth() -> None:
    stack, plain = LRUStack(), list[int]()
    rng = np.random.default_rng(3)
    for value in rng.integers(0, 700, 5000).tolist():
        expected = plain.index(value) if value in plain else COLD
        if value in plain:
            plain.remove(value)
        plain.insert(0, value)
        assert stack.touch(value) == expected
        depth = int(rng.integers(0, len(plain)))
        assert stack.at(depth) == plain[depth]
    assert len(stack) == len(plain)


def test_hit_rate_by_hand() -> None:
    # Distances: cold, cold, 1, 0, cold, 2. A cache of one row hits once, of two twice, of three three times.
    fitted = fit_trace(np.array([7, 8, 7, 7, 9, 8]))
    np.testing.assert_allclose(fitted.hit_rate([0, 1, 2, 3, 100]), np.array([0, 1, 2, 3, 3]) / 6)
    assert len(fitted) == 6


@pytest.mark.parametrize("name", TRACES)
def test_a_drawn_trace_is_like_the_one_that_was_fitted(name: str) -> None:
    trace = TRACES[name]()
    fitted = fit_trace(trace)
    drawn = fitted.draw(LENGTH, seed=1)
    # Distances: Kolmogorov-Smirnov.
    theirs, ours = np.sort(stack_distances(trace)), np.sort(stack_distances(drawn))
    grid = np.unique(theirs)
    gap = np.searchsorted(theirs, grid, side="right") - np.searchsorted(ours, grid, side="right")
    assert np.abs(gap).max() / LENGTH < 0.05
    # Hit rates of caches of any size.
    sizes = [1, 10, 30, 100, 300, 1000]
    np.testing.assert_allclose(fit_trace(drawn).hit_rate(sizes), fitted.hit_rate(sizes), atol=0.05)
    # Ids: as many, and new ones come as early.
    assert set(drawn.tolist()) <= set(trace.tolist())
    news = [np.cumsum(np.bincount(np.flatnonzero(stack_distances(t) == COLD) * 8 // LENGTH, minlength=8)) for t in (trace, drawn)]
    np.testing.assert_allclose(news[1], news[0], rtol=0.1)


@pytest.mark.parametrize("name", ["zipf", "bursts"])
def test_popularity_keeps_its_tail(name: str) -> None:
    trace = TRACES[name]()
    drawn = fit_trace(trace).draw(LENGTH, seed=1)
    for share in (0.01, 0.1, 0.5):
        heads = []
        for one in (trace, drawn):
            counts = np.sort(np.unique(one, return_counts=True)[1])[::-1]
            heads.append(counts[: max(1, int(share * len(counts)))].sum() / LENGTH)
        assert heads[1] == pytest.approx(heads[0], abs=0.08)


def test_the_single_stack_of_the_paper_loses_popularity() -> None:
    trace = zipf()
    drawn = fit_trace(trace, by_popularity=False).draw(LENGTH, seed=1)
    assert np.bincount(trace).max() > 20 * np.bincount(drawn).max()


def test_trends_in_time_stay() -> None:
    # The first half walks over many ids, the second stays with few: so does what is drawn, also when it is shorter or longer.
    rng = np.random.default_rng(4)
    trace = np.concatenate([rng.integers(0, 2000, 8000), rng.integers(0, 50, 8000)])
    for length in (4000, 30_000):
        first, second = np.array_split(fit_trace(trace).draw(length, seed=2), 2)
        assert len(np.unique(first)) > 3 * len(np.unique(second[500:]))


def test_real_trace() -> None:
    folder = os.environ.get("PALATE_DATA")
    if not folder or not (Path(folder) / "ml-100k" / "u.data").exists():
        pytest.skip("PALATE_DATA is not set, or has no ml-100k")
    table = np.loadtxt(Path(folder) / "ml-100k" / "u.data", dtype=np.int64)
    trace = table[np.argsort(table[:, 3], kind="stable"), 1]
    fitted = fit_trace(trace[:40_000])
    drawn = fit_trace(fitted.draw(40_000, seed=1))
    sizes = [1, 10, 100, 300, 1000]
    np.testing.assert_allclose(drawn.hit_rate(sizes), fitted.hit_rate(sizes), atol=0.03)


def test_the_seed_decides() -> None:
    fitted = fit_trace(zipf()[:2000])
    np.testing.assert_array_equal(fitted.draw(500, seed=1), fitted.draw(500, seed=1))
    assert not np.array_equal(fitted.draw(500, seed=1), fitted.draw(500, seed=2))
    assert len(fitted.draw(0)) == 0
    assert fit_trace(np.array([5])).draw(3).tolist() == [5, 5, 5]


@pytest.mark.parametrize("trace", [np.zeros(0, dtype=np.int64), np.zeros((2, 2), dtype=np.int64), np.array([0.5])])
def test_what_is_no_trace_is_an_error(trace: np.ndarray) -> None:
    with pytest.raises(DataError, match="expected one row of whole numbers"):
        fit_trace(trace)


def test_random_bags_uniform() -> None:
    bags = random_bags(2000, sizes=[10, 1000], dense=3, lookups=[1, 4], seed=1)
    assert bags.dense.shape == (2000, 3)
    assert 0 <= bags.dense.min() <= bags.dense.max() < 1
    assert bags.labels.mean() == pytest.approx(0.5, abs=0.05)
    assert (bags.sparse["C1"].lengths == 1).all()
    np.testing.assert_allclose(np.bincount(bags.sparse["C1"].values, minlength=10)[1:] / 2000, 1 / 9, atol=0.03)
    assert bags.sparse["C1"].values.min() == 1
    four = bags.sparse["C2"]
    assert four.lengths.max() == 4
    assert all(len(set(four[row].tolist())) == len(four[row]) for row in range(2000))
    loose = random_bags(2000, sizes=[1000], lookups=4, fixed=False, seed=1).sparse["C1"]
    np.testing.assert_allclose(np.bincount(loose.lengths, minlength=5)[1:] / 2000, 0.25, atol=0.04)


def test_random_bags_gaussian() -> None:
    values = random_bags(20_000, sizes=[1001], spread="gaussian", mean=0.3, deviation=0.1, seed=1).sparse["C1"].values
    assert values.mean() == pytest.approx(300, abs=3)
    assert values.std() == pytest.approx(100, rel=0.03)
    edge = random_bags(1000, sizes=[7], spread="gaussian", mean=1.0, deviation=1.0, seed=1).sparse["C1"].values
    assert (edge.min(), edge.max()) == (1, 6)


def test_bags_are_batches_and_single_ids_are_rows() -> None:
    bags = random_bags(50, sizes=[10, 20], lookups=3, seed=[1, 2])
    batch = collate(Encoded(bags.dense, dict(bags.sparse), bags.inputs), bags.labels)
    assert len(batch) == 50
    with pytest.raises(DataError, match=r"'C1', row \d+: [23] ids where one is expected"):
        _ = bags.ids
    single = random_bags(50, sizes=[10, 20], seed=1)
    assert len(Rows.of(single.inputs, single.dense, single.ids, single.labels)) == 50


def test_synthetic_bags_read_as_a_trace() -> None:
    fitted = fit_trace(zipf()[:3000])
    bags = synthetic_bags(3000, traces=[fitted, fitted], dense=2, seed=1)
    again = fit_trace(bags.ids[:, 0])
    np.testing.assert_allclose(again.hit_rate([10, 100, 1000]), fitted.hit_rate([10, 100, 1000]), atol=0.05)
    assert not np.array_equal(bags.ids[:, 0], bags.ids[:, 1])
    assert bags.inputs.sparse[0].rows == zipf()[:3000].max() + 1
    Rows.of(bags.inputs, bags.dense, bags.ids, bags.labels)
    with pytest.raises(DataError, match="got the id -4"):
        synthetic_bags(3, traces=[fit_trace(np.array([-4, 2]))])


def test_impossible_settings_are_an_error() -> None:
    with pytest.raises(DataError, match="as many lookups"):
        random_bags(3, sizes=[4, 4], lookups=[1])

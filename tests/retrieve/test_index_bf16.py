"""Exact search of vectors kept in bfloat16, against numpy on the rounded vectors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from palate.retrieve import index
from palate.retrieve.ann import IndexConfig, build_index, restore_index
from palate.retrieve.bfloat16 import floats, rounded
from palate.retrieve.index import ExactIndex
from palate.retrieve.two_tower import TwoTower
from palate.testing.contracts import assert_can_be_saved, clustered
from palate.train.trainer import Trainer
from palate.types import BundleError, ConfigError, DataError, Ragged, Run

BF16 = IndexConfig(precision="bf16")


def by_torch(vectors: np.ndarray) -> np.ndarray:
    """The oracle's rounding: torch's."""
    return torch.from_numpy(np.ascontiguousarray(vectors, dtype=np.float32)).bfloat16().float().numpy()


def best(scores: np.ndarray, k: int, hidden: np.ndarray) -> list[list[int]]:
    """Of each row the K best that are not hidden, of equal scores the lower code first."""
    lists = []
    for row, gone in zip(scores, hidden, strict=True):
        codes = sorted(np.flatnonzero(~gone).tolist(), key=lambda code: (-row[code], code))[:k]
        lists.append(codes + [-1] * (k - len(codes)))
    return lists


@pytest.fixture(params=[True, False], ids=["multiplied", "widened"])
def multiplies(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Both ways to search, whatever the processor."""
    monkeypatch.setattr(index, "_multiplies_bfloat16", lambda: request.param)
    return bool(request.param)


def test_rounding_by_hand() -> None:
    """Eight bits of significand: 1 + 2^-8 lies half way and goes to the even 1, 1 + 3 x 2^-8 to 1 + 2^-6; a little more goes up."""
    numbers = np.array([1, 1 + 2**-8, 1 + 2**-8 + 2**-20, 1 + 3 * 2**-8, -0.0, np.inf, -np.inf, np.nan, 3.4e38], dtype=np.float32)
    back = floats(rounded(numbers))
    assert back[:5].tolist() == [1, 1, 1 + 2**-7, 1 + 2**-6, 0]
    assert np.signbit(back[4])
    assert [str(number) for number in back[5:]] == ["inf", "-inf", "nan", "inf"]
    assert np.isnan(floats(rounded(np.array([0x7FFFFFFF, 0xFFFFFFFF], dtype=np.uint32).view(np.float32)))).all()


def test_rounding_is_torchs_oracle() -> None:
    numbers = np.random.default_rng(0).integers(0, 2**32, 100_000, dtype=np.uint32).view(np.float32)
    numbers = numbers[~np.isnan(numbers)]
    assert np.array_equal(floats(rounded(numbers)), by_torch(numbers))


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_oracle_with_masks(data: st.DataObject) -> None:
    """numpy on the rounded vectors: the same lists, the same scores."""
    n, b, d = data.draw(st.integers(1, 400)), data.draw(st.integers(1, 6)), data.draw(st.integers(1, 20))
    rng = np.random.default_rng(data.draw(st.integers(0, 10_000)))
    whole = data.draw(st.booleans())  # small whole numbers: many ties, which certainty must not hide
    vectors = rng.integers(-2, 3, (n, d)) if whole else rng.normal(size=(n, d)) * (1 + np.arange(n))[:, None] ** -0.3
    vectors, queries = vectors.astype(np.float32), (rng.integers(-2, 3, (b, d)) if whole else rng.normal(size=(b, d))).astype(np.float32)
    hidden = rng.random((b, n)) < 0.1
    allowed = rng.random(n) < 0.7 if data.draw(st.booleans()) else np.ones(n, dtype=np.bool_)
    k = data.draw(st.integers(0, 40))
    search = ExactIndex(vectors, items=data.draw(st.sampled_from([7, 100, 1 << 15])), precision="bf16")
    exact = queries.astype(np.float64) @ by_torch(vectors).T.astype(np.float64)
    expected = best(exact, k, hidden | ~allowed)
    blocked = Ragged.of([np.flatnonzero(row).tolist() for row in hidden])
    with pytest.MonkeyPatch.context() as patch:
        for multiplies in (True, False):
            patch.setattr(index, "_multiplies_bfloat16", lambda there=multiplies: there)
            items, scores = search.search(queries, k, blocked, allowed)
            found = items >= 0
            assert (found == (np.array(expected).reshape(b, k) >= 0)).all()
            np.testing.assert_allclose(scores[found], exact_of(exact, expected), rtol=1e-5, atol=1e-5)
            if whole:
                assert items.tolist() == expected
            assert np.isneginf(scores[~found]).all()


def exact_of(exact: np.ndarray, lists: list[list[int]]) -> np.ndarray:
    return np.array([exact[row, code] for row, codes in enumerate(lists) for code in codes if code >= 0])


def test_what_products_of_bfloat16_cannot_tell_apart_is_told_in_float32(multiplies: bool) -> None:
    """A thousand vectors that differ by less than a rounded score can say: the best of them is found all the same."""
    rng = np.random.default_rng(0)
    vectors = by_torch(1 + rng.integers(0, 2, (1000, 16)) * 2.0**-7).astype(np.float32)
    query = (1 + rng.random((3, 16)) / 100).astype(np.float32)
    items, scores = ExactIndex(vectors, precision="bf16").search(query, 5)
    exact = query.astype(np.float64) @ vectors.T.astype(np.float64)
    np.testing.assert_allclose(scores, -np.sort(-exact, axis=1)[:, :5], rtol=1e-6)
    assert len(np.unique(items[0])) == 5


def test_few_queries_need_the_second_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """With norms as skewed as rank^-.35, what was picked is nearly always certain to hold the best."""
    monkeypatch.setattr(index, "_multiplies_bfloat16", lambda: True)
    again = []
    scan = index.scan
    monkeypatch.setattr(index, "scan", lambda kept, queries, *more: again.append(len(queries)) or scan(kept, queries, *more))
    rng = np.random.default_rng(0)
    vectors = (rng.normal(size=(20_000, 64)) * (1 + rng.permutation(20_000))[:, None] ** -0.35).astype(np.float32)
    queries = rng.normal(size=(100, 64)).astype(np.float32)
    found = ExactIndex(vectors, precision="bf16").search(queries, 100)[0]
    assert sum(again) <= 5
    expected = ExactIndex(vectors).search(queries, 100)[0]
    recall = np.mean([len(np.intersect1d(one, other)) / 100 for one, other in zip(found, expected, strict=True)])
    assert recall >= 0.99


def test_added_and_removed_by_hand(multiplies: bool) -> None:
    """Item 1 goes, item 0 gets another vector, item 5 comes; 2.505 is kept as 2.5."""
    search = ExactIndex(np.array([[1, 0], [2, 0], [3, 0]], dtype=np.float32), precision="bf16")
    search.remove(np.array([1]))
    search.add(np.array([5, 0]), np.array([[2.505, 0], [9, 0]], dtype=np.float32))
    items, scores = search.search(np.ones((1, 2), dtype=np.float32), 6)
    assert items.tolist() == [[0, 2, 5, -1, -1, -1]]
    assert scores[0, :3].tolist() == [9, 3, 2.5]
    assert search.search(np.ones((1, 2), dtype=np.float32), 1, allowed=np.arange(6) > 2)[0].tolist() == [[5]]
    assert search.vectors[5].tolist() == search.rows(np.array([5]))[0].tolist() == [2.5, 0]
    assert search.score(np.ones((1, 2), dtype=np.float32), np.array([[5, -1]])).tolist() == [[2.5, -np.inf]]
    with pytest.raises(DataError, match="remove: no item 1 is there"):
        search.remove(np.array([1]))
    # The longest vector is now a new one, and certainty goes by it.
    search.add(np.array([6]), np.array([[1000, 0]], dtype=np.float32))
    assert search._longest == 1000


def test_half_the_memory() -> None:
    vectors = np.random.default_rng(0).normal(size=(1000, 64)).astype(np.float32)
    kept = {precision: ExactIndex(vectors, precision=precision).state().arrays["vectors"] for precision in ("float32", "bf16")}
    assert kept["bf16"].nbytes * 2 == kept["float32"].nbytes == vectors.nbytes


def test_saved_restored_and_told_apart(multiplies: bool) -> None:
    rng = np.random.default_rng(0)
    search = build_index(rng.normal(size=(200, 4)).astype(np.float32), BF16, similarity="cosine", version="v")
    search.remove(np.array([4]))
    state = search.state()
    assert_can_be_saved(state)
    state.arrays["vectors"].flags.writeable = False
    again = restore_index(state, BF16)
    queries = rng.normal(size=(3, 4)).astype(np.float32)
    items, scores = again.search(queries, 5, version="v")
    expected, values = search.search(queries, 5)
    assert np.array_equal(items, expected)
    assert np.array_equal(scores, values)
    with pytest.raises(ConfigError, match="made by version v of the tower, the queries by w"):
        again.search(queries, 5, version="w")
    with pytest.raises(BundleError, match="index: saved in bf16, but the settings say float32"):
        restore_index(state)
    with pytest.raises(BundleError, match="says that its vectors are bf16, but they are float32"):
        restore_index(type(state)({**state.arrays, "vectors": search.vectors}, meta=state.meta), BF16)
    with pytest.raises(ConfigError, match='precision = "bf16" needs kind = "exact", got "hnsw"'):
        IndexConfig.parse({"kind": "hnsw", "precision": "bf16"}, "index")


def test_many_threads_change_nothing_and_torch_has_its_own_again(monkeypatch: pytest.MonkeyPatch, multiplies: bool) -> None:
    rng = np.random.default_rng(0)
    vectors, queries = rng.normal(size=(300, 4)).astype(np.float32), rng.normal(size=(100, 4)).astype(np.float32)
    monkeypatch.setattr(index, "BLOCK", 3000)
    before, found = torch.get_num_threads(), []
    for threads in ("1", "3"):
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
        found.append(ExactIndex(vectors, precision="bf16").search(queries, 7)[0])
    assert np.array_equal(*found)
    assert torch.get_num_threads() == before


def test_a_thread_of_the_search_keeps_torch_to_itself() -> None:
    from concurrent.futures import ThreadPoolExecutor

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with ThreadPoolExecutor(1, initializer=index._one_torch_thread) as pool:
            assert pool.submit(torch.get_num_threads).result() == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_two_towers_can_keep_their_items_so() -> None:
    log, queries, _ = clustered()
    given: dict[str, Any] = {"width": 16, "n_negatives": 64, "train": {"epochs": 2, "batch_size": 128, "sparse_lr": 0.1, "lr": 0.01}}
    run = Run(train=Trainer().fit)
    half, whole = (TwoTower(**given, index={"precision": precision}).fit(log, run) for precision in ("bf16", "float32"))
    found, expected = half.retrieve(queries, 10), whole.retrieve(queries, 10)
    np.testing.assert_allclose(half.score(queries, found.items), found.scores, rtol=1e-5)
    both = [len(set(one) & set(other)) / 10 for one, other in zip(found.items.tolist(), expected.items.tolist(), strict=True)]
    assert np.mean(both) > 0.9
    again = TwoTower(**given, index={"precision": "bf16"}).restore(half.state())
    assert np.array_equal(again.retrieve(queries, 10).items, found.items)
    assert half.because(queries, found.items).shape == found.items.shape

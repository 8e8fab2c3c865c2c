"""Approximate search: the transformation by hand, its recall, masks, adding and removing, saving, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from palate.config import Config
from palate.retrieve.ann import ANNIndex, IndexConfig, build_index, restore_index
from palate.retrieve.index import ExactIndex
from palate.testing.contracts import assert_can_be_saved
from palate.types import BundleError, ConfigError, Ragged, State

KINDS = ["hnsw", "ivf", "ivf_pq"]


def skewed(n: int = 1600, d: int = 16, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Items whose norms differ thirtyfold, as popularity makes them, and queries."""
    rng = np.random.default_rng(seed)
    items = rng.normal(size=(n, d)) * (1 + np.arange(n)[:, None]) ** -0.4
    return rng.permutation(items).astype(np.float32), rng.normal(size=(50, d)).astype(np.float32)


def made(kind: str, vectors: np.ndarray, queries: np.ndarray, **settings: object) -> ANNIndex:
    index = build_index(
        vectors,
        IndexConfig.parse({"kind": kind, "recall_at": 20, "least_recall": 0.9, "m": 16, "ef_construction": 40, **settings}, "index"),
        queries=queries,
    )
    assert isinstance(index, ANNIndex)
    return index


def test_the_transformation_by_hand() -> None:
    """|q' - x'|^2 = 2 - 2 <q, x> / (M |q|), for items (3, 4) and (0, 1) with M = 5, and q = (0, 2)."""
    vectors = np.array([[3, 4], [0, 1]] * 4, dtype=np.float32)
    index = made("ivf", vectors, vectors, recall_at=1, nlist=1)
    items, query = index._wide(vectors[:2]), index._wide(np.array([[0, 2]], dtype=np.float32), items=False)
    np.testing.assert_allclose(items, [[0.6, 0.8, 0, 0], [0, 0.2, np.sqrt(0.96), 0]], atol=1e-6)
    np.testing.assert_allclose(query, [[0, 1, 0, 0]])
    np.testing.assert_allclose(((items - query) ** 2).sum(axis=1), [2 - 2 * 8 / 10, 2 - 2 * 2 / 10], atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_recall_is_what_is_reported_and_scores_are_exact(kind: str) -> None:
    vectors, queries = skewed()
    index = made(kind, vectors, queries)
    items, scores = index.search(queries, 20)
    best, exact = ExactIndex(vectors).search(queries, 20)
    recall = np.mean([len(set(a) & set(b)) / 20 for a, b in zip(items.tolist(), best.tolist(), strict=True)])
    assert recall >= 0.9
    assert index.report["recall"] == pytest.approx(recall)
    assert index.report["measured"][index.report["width"]] == index.report["recall"]
    np.testing.assert_allclose(scores, np.take_along_axis(queries @ vectors.T, items, 1), rtol=1e-4, atol=1e-5)
    assert (scores[:, 1:] <= scores[:, :-1]).all()
    assert (scores <= exact + 1e-5).all()


@pytest.mark.parametrize("kind", KINDS)
def test_masks_come_before_the_cut(kind: str) -> None:
    vectors, queries = skewed()
    index = made(kind, vectors, queries, least_recall=0.98, over_fetch=20)
    best = ExactIndex(vectors).search(queries, 30)[0]
    blocked = Ragged.of(best[:, :10].tolist())  # the ten best of each query
    allowed = np.arange(len(vectors)) % 3 > 0
    items, _ = index.search(queries, 10, blocked, allowed)
    expected, _ = ExactIndex(vectors).search(queries, 10, blocked, allowed)
    assert allowed[items].all()
    assert not any(set(row) & set(own) for row, own in zip(items.tolist(), best[:, :10].tolist(), strict=True))
    assert np.mean([len(set(a) & set(b)) / 10 for a, b in zip(items.tolist(), expected.tolist(), strict=True)]) > 0.95


@pytest.mark.parametrize("kind", KINDS)
def test_where_few_are_left_search_is_exact(kind: str) -> None:
    vectors, queries = skewed()
    index, exact = made(kind, vectors, queries), ExactIndex(vectors)
    few = np.arange(1600) < 12
    for k, blocked, allowed in (
        (20, None, few),  # fewer than are asked for
        (5, None, np.arange(1600) < 300),
        (1200, None, None),
        (5, Ragged.of([range(1595)] * 50), None),  # nearly all blocked
    ):
        items, scores = index.search(queries, k, blocked, allowed)
        expected, values = exact.search(queries, k, blocked, allowed)
        assert np.array_equal(items, expected)
        assert np.array_equal(scores, values)
    nothing = np.zeros((1, 16), dtype=np.float32)  # says nothing of any item: all score 0, and lower codes come first
    assert index.search(nothing, 3)[0].tolist() == [[0, 1, 2]]
    assert (index.search(queries, 3, None, np.zeros(1600, dtype=bool))[0] == -1).all()


@pytest.mark.parametrize("kind", KINDS)
def test_added_and_removed(kind: str) -> None:
    vectors, queries = skewed()
    index = made(kind, vectors[:1400], queries)
    index.add(np.arange(1400, 1600), vectors[1400:])
    swapped = vectors.copy()
    swapped[[10, 1500]] = swapped[[1500, 10]]
    index.add(np.array([10, 1500]), swapped[[10, 1500]])
    gone = np.unique(ExactIndex(swapped).search(queries, 2)[0])
    index.remove(gone)
    exact = ExactIndex(swapped)
    exact.remove(gone)
    items, scores = index.search(queries, 20)
    assert not np.isin(items, gone).any()
    np.testing.assert_allclose(scores, np.take_along_axis(queries @ swapped.T, items, 1), rtol=1e-4, atol=1e-5)
    expected = exact.search(queries, 20)[0]
    assert np.mean([len(set(a) & set(b)) / 20 for a, b in zip(items.tolist(), expected.tolist(), strict=True)]) > 0.85
    index.remove(np.setdiff1d(np.arange(1000), gone))  # more than a quarter: built anew
    assert index.report["items"] == int(index.present.sum())


def test_a_norm_beyond_all_builds_anew() -> None:
    vectors, queries = skewed()
    index = made("ivf", vectors, queries)
    largest = 3 * np.abs(vectors).max() * np.ones((1, 16), dtype=np.float32)
    index.add(np.array([1600]), largest)
    assert index.report["items"] == 1601
    assert index.search(largest, 1)[0].tolist() == [[1600]]


@pytest.mark.parametrize("kind", KINDS)
def test_saved_and_restored(kind: str) -> None:
    vectors, queries = skewed()
    index = made(kind, vectors, queries)
    index.remove(np.array([5]))
    state = index.state()
    assert_can_be_saved(state)
    again = restore_index(state, index.config)
    assert np.array_equal(again.search(queries, 20)[0], index.search(queries, 20)[0])
    again.add(np.array([5]), vectors[[5]])
    assert index.search(queries, 20)[0].shape == (50, 20)
    with pytest.raises(BundleError, match=f"index: saved as {kind}, but the settings say exact"):
        restore_index(state)
    cut = State({**state.arrays, "faiss": state.arrays["faiss"][:200]}, meta=state.meta)
    with pytest.raises(BundleError, match="index: its bytes are damaged"):
        restore_index(cut, index.config)


def test_a_recall_below_the_floor_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    vectors, queries = skewed()
    settings = IndexConfig(kind="ivf", nlist=200, width=1, least_recall=0.99)
    with pytest.raises(ConfigError, match=r"index\.kind ivf: recall@100 is 0\.\d+ at width 1, below least_recall 0\.99; take kind"):
        build_index(vectors, settings, queries=queries, quiet=False)
    assert capsys.readouterr().err.startswith("index ivf: recall@100 0.")


def test_the_least_width_that_has_the_recall_is_taken() -> None:
    vectors, queries = skewed()
    index = made("ivf", vectors, queries, nlist=64)
    measured = index.report["measured"]
    assert list(measured) == [1 << place for place in range(len(measured))]
    assert all(recall < 0.9 for width, recall in measured.items() if width < index.report["width"])


def test_other_versions_and_dimensions_are_refused() -> None:
    vectors, queries = skewed(500)
    index = build_index(vectors, IndexConfig(kind="ivf"), version="one", queries=queries)
    with pytest.raises(ConfigError, match="made by version one of the tower, the queries by two"):
        index.search(queries, 5, version="two")
    with pytest.raises(ConfigError, match="16 dimensions, the queries 4"):
        index.search(queries[:, :4], 5)
    with pytest.raises(ConfigError, match="item 3 has a vector that is not finite"):
        build_index(np.where(np.arange(500)[:, None] == 3, np.nan, vectors).astype(np.float32), IndexConfig(kind="hnsw"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [0, 1, 7])
def test_small_catalogues(kind: str, n: int) -> None:
    vectors = np.arange(2 * n, dtype=np.float32).reshape(n, 2)
    index = build_index(vectors, IndexConfig(kind=kind))  # type: ignore[arg-type]
    items, _ = index.search(np.ones((2, 2), dtype=np.float32), 3)
    assert items.tolist() == [[*reversed(range(n)), -1, -1, -1][:3]] * 2


def test_cosine() -> None:
    vectors, queries = skewed()
    index = build_index(vectors, IndexConfig(kind="hnsw", recall_at=20), similarity="cosine", queries=queries)
    expected, values = ExactIndex(vectors, "cosine").search(queries, 10)
    items, scores = index.search(queries, 10)
    assert np.mean(items == expected) > 0.9
    np.testing.assert_allclose(scores[:, 0], values[:, 0], atol=1e-5)


def test_settings_are_strict() -> None:
    assert issubclass(IndexConfig, Config)
    with pytest.raises(ConfigError, match=r"index\.ef_constructon: no such key; did you mean `ef_construction`"):
        IndexConfig.parse({"ef_constructon": 9}, "index")


def test_the_space_that_has_the_recall_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, queries = skewed()
    assert made("hnsw", vectors, queries).report["space"] == "inner_product"
    given = made("hnsw", vectors, queries, space="augmented", least_recall=0.01)
    assert given.report["space"] == "augmented"
    assert given._wide(vectors[:3]).shape == (3, 18)
    again = restore_index(given.state(), given.config)
    assert np.array_equal(again.search(queries, 10)[0], given.search(queries, 10)[0])

    whole = ANNIndex._approximate

    def poor(index: ANNIndex, *arguments: Any) -> tuple[np.ndarray, np.ndarray]:
        items, scores = whole(index, *arguments)
        return (items * 0, scores) if index._space == "inner_product" else (items, scores)

    monkeypatch.setattr(ANNIndex, "_approximate", poor)
    assert made("hnsw", vectors, queries, least_recall=0.5).report["space"] == "augmented"

"""Maximal marginal relevance."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from palate.rerank import diverse as module
from palate.rerank.mmr import MMR
from palate.testing.contracts import RerankerContract, clustered, log_of, queries_of
from palate.types import Candidates, ConfigError, Log


class TestGenres(RerankerContract):
    def make(self) -> MMR:
        return MMR(beta=0.5)


class TestYears(RerankerContract):
    def make(self) -> MMR:
        return MMR(beta=0.4, column="year", relevance="rank", pool=None)


class TestVectors(RerankerContract):
    def make(self) -> MMR:
        return MMR(beta=1, relevance="raw", pool=12).with_vectors(np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32))


def world(values: list[object], name: str = "letter", dtype: pl.DataType | type[pl.DataType] | None = None) -> Log:
    items = pl.DataFrame({"item": [f"i{code}" for code in range(len(values))]}).with_columns(pl.Series(name, values, dtype=dtype))
    return log_of([(0, 0)], n_items=len(values), items=items)


def one_list(scores: list[float]) -> Candidates:
    return Candidates.of(np.arange(len(scores), dtype=np.int32)[None], np.array([scores], dtype=np.float32), "x")


@pytest.mark.parametrize("relevance", ["minmax", "raw", "rank"])
@pytest.mark.parametrize("column", ["letter", "letters", "vector"])
def test_the_worked_example_by_hand(relevance: str, column: str) -> None:
    """A1 1, A2 .8, B1 .6, B2 .4, C .2 at beta .5 gives A1, B1, C, A2, B2, if only items of one letter are alike."""
    letters = ["A", "A", "B", "B", "C"]
    values = {"letter": letters, "letters": [[x] for x in letters], "vector": [[float(x == y) for y in "ABC"] for x in letters]}[column]
    slate = (
        MMR(beta=0.5, column=column, relevance=relevance)
        .fit(world(list(values), column))
        .rerank(queries_of([[]]), one_list([1, 0.8, 0.6, 0.4, 0.2]), 5)
    )
    assert slate.items.tolist() == [[0, 2, 4, 1, 3]]
    if relevance == "raw":
        np.testing.assert_allclose(slate.scores, [[0.5, 0.3, 0.1, 0.4 - 0.5, 0.2 - 0.5]], atol=1e-6)


def test_jaccard_and_scaled_relevance_by_hand() -> None:
    """Relevance 1, 2/3, 0; likeness of 0 and 1 is 1/3, of 0 and 2 is 0: .7 x 2/3 - .3 x 1/3 against 0."""
    reranker = MMR(beta=0.3).fit(world([["a", "b"], ["b", "c"], ["d"]], "genres"))
    slate = reranker.rerank(queries_of([[]]), one_list([5, 4, 2]), 3)
    assert slate.items.tolist() == [[0, 1, 2]]
    np.testing.assert_allclose(slate.scores, [[0.7, 0.7 * 2 / 3 - 0.1, 0]], atol=1e-6)


def test_beta_0_keeps_the_order_and_beta_1_looks_at_likeness_alone() -> None:
    log = world([["a"], ["a"], ["a"], ["b"]], "genres")
    assert MMR(beta=0).fit(log).rerank(queries_of([[]]), one_list([9, 8, 7, 1]), 4).items.tolist() == [[0, 1, 2, 3]]
    assert MMR(beta=1).fit(log).rerank(queries_of([[]]), one_list([9, 8, 7, 1]), 2).items.tolist() == [[0, 3]]


def test_what_is_missing_is_like_nothing() -> None:
    lists = MMR(beta=0.9).fit(world([None, None, ["a"], [], ["a", None]], "genres", pl.List(pl.String)))
    assert lists.rerank(queries_of([[]]), one_list([5, 4, 3, 2, 1]), 5).items.tolist() == [[0, 1, 2, 3, 4]]
    words = MMR(beta=0.9, column="letter").fit(world([None, None, "a", "a"], dtype=pl.String))
    assert words.rerank(queries_of([[]]), one_list([4, 3, 2, 1]), 4).items.tolist() == [[0, 1, 2, 3]]


def test_many_values_need_several_words() -> None:
    """130 genres: sets of three 64-bit words."""
    values = [[f"g{code}", f"g{(code + 1) % 130}"] for code in range(130)]
    reranker = MMR(beta=0.5, column="genres").fit(world(list(values), "genres"))
    shown = reranker.likeness.features[None]
    likeness = reranker.likeness.between(shown, shown[:, 70])[0]
    assert {place: pytest.approx(likeness[place]) for place in np.flatnonzero(likeness)} == {69: 1 / 3, 70: 1, 71: 1 / 3}


def test_the_pool_bounds_how_far_down_it_reaches() -> None:
    log = world([["a"]] * 5 + [["b"]], "genres")
    reach = one_list([6, 5, 4, 3, 2, 1])
    assert 5 in MMR(beta=0.9, pool=None).fit(log).rerank(queries_of([[]]), reach, 2).items
    assert 5 not in MMR(beta=0.9, pool=5).fit(log).rerank(queries_of([[]]), reach, 2).items
    assert MMR(beta=0.9, pool=1).fit(log).rerank(queries_of([[]]), reach, 6).present.all()  # never fewer than asked for


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    log, queries, _ = clustered()
    rng = np.random.default_rng(0)
    items = np.argsort(rng.random((len(queries), 60)), axis=1)[:, :30].astype(np.int32)
    candidates = Candidates.of(items, -np.sort(-rng.random((len(queries), 30))).astype(np.float32), "x")
    reranker = MMR(beta=0.5).fit(log)
    whole = reranker.rerank(queries, candidates, 10).items
    monkeypatch.setattr(module, "BLOCK", 100)
    assert np.array_equal(reranker.rerank(queries, candidates, 10).items, whole)


def test_errors_name_the_column() -> None:
    with pytest.raises(ConfigError, match=r"mmr\.column: the item table has no column 'genres': .*did you mean `genre`\?"):
        MMR().fit(world(["a"], "genre"))
    with pytest.raises(ConfigError, match="'score' is Float64: alike needs a list, a category, or a vector"):
        MMR(column="score").fit(world([1.5], "score"))
    with pytest.raises(ConfigError, match="the vectors of 'v' are not all there or not all of one length"):
        MMR(column="v").fit(world([[1.0], [1.0, 2.0]], "v"))

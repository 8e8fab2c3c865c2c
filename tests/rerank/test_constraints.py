"""Constraints on slates."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from palate.rerank import constraints as module
from palate.rerank.constraints import Constraints, allowed
from palate.testing.contracts import RerankerContract, clustered, log_of, queries_of
from palate.types import Candidates, ConfigError


class TestNothingButMasks(RerankerContract):
    def make(self) -> Constraints:
        return Constraints()


class TestRulesAndCaps(RerankerContract):
    def make(self) -> Constraints:
        return Constraints(rules=["year >= 1985"], caps={"genres": 3, "year": 1})


ITEMS = pl.DataFrame(
    {
        "item": [f"i{code}" for code in range(6)],
        "genres": [["a"], ["a", "b"], ["b"], ["a"], [], None],
        "year": [1999, 1999, 2000, 2001, None, None],
    }
)
LOG = log_of([(0, 0)], n_items=6, items=ITEMS)
FALLING = Candidates.of(np.arange(6, dtype=np.int32)[None], np.arange(6, 0, -1, dtype=np.float32)[None], "x")


def slate(k: int = 6, blocked: tuple[int, ...] = (), **settings: object) -> list[int]:
    found = Constraints(**settings).fit(LOG).rerank(queries_of([[]], blocked=[blocked]), FALLING, k)
    return [item for item in found.items[0].tolist() if item >= 0]


def test_caps_by_hand() -> None:
    assert slate(caps={"genres": 1}) == [0, 2, 4, 5]  # 1 is of both genres and a is full; 3 is a; nothing known of 4 and 5
    assert slate(caps={"genres": 2}) == [0, 1, 2, 4, 5]
    assert slate(caps={"year": 1}) == [0, 2, 3, 4, 5]
    assert slate(caps={"genres": 1, "year": 1}) == [0, 2, 4, 5]
    assert slate(k=2, caps={"genres": 1}) == [0, 2]


def test_an_item_that_is_passed_over_takes_no_room() -> None:
    """Item 1 is dropped for its year, so it does not count for genre b."""
    assert slate(caps={"year": 1, "genres": 2}) == [0, 2, 3, 4, 5]


def test_seen_disliked_and_filtered_items_go() -> None:
    assert slate(blocked=(0, 3)) == [1, 2, 4, 5]
    queries = replace(queries_of([[]]), allowed=np.array([False, True, False, True, True, True]))
    assert Constraints().fit(LOG).rerank(queries, FALLING, 3).items.tolist() == [[1, 3, 4]]
    assert slate(rules=['genres != "b"'], caps={"genres": 1}) == [0, 4, 5]
    assert slate(rules=["year > 1999"], k=3) == [2, 3]


def test_scores_and_order_stay() -> None:
    found = Constraints(rules=['genres != "b"']).fit(LOG).rerank(queries_of([[]]), FALLING, 3)
    assert found.scores.tolist() == [[6, 3, 2]]


def test_caps_hold_in_every_slate() -> None:
    log, queries, _ = clustered()
    rng = np.random.default_rng(0)
    items = np.argsort(rng.random((len(queries), 60)), axis=1)[:, :40].astype(np.int32)
    candidates = Candidates.of(items, -np.sort(-rng.random((len(queries), 40))).astype(np.float32), "x")
    found = Constraints(caps={"genres": 2}).fit(log).rerank(queries, candidates, 8)
    genres = log.items["genres"].to_list()
    for row in range(len(queries)):
        shown = [genre for item in found.items[row] if item >= 0 for genre in genres[item]]
        assert max(map(shown.count, shown)) <= 2
        assert found.present[row].sum() >= 4


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    log, queries, _ = clustered()
    candidates = Candidates.of(np.tile(np.arange(30, dtype=np.int32), (120, 1)), np.zeros((120, 30), dtype=np.float32), "x")
    reranker = Constraints(caps={"genres": 2}).fit(log)
    whole = reranker.rerank(queries, candidates, 8).items
    monkeypatch.setattr(module, "_ROWS", 7)
    assert np.array_equal(reranker.rerank(queries, candidates, 8).items, whole)


def test_errors_name_the_key() -> None:
    with pytest.raises(ConfigError, match=r"constraints\.caps: the item table has no column 'genre': .*did you mean `genres`\?"):
        Constraints(caps={"genre": 2}).fit(LOG)
    with pytest.raises(ConfigError, match=r"constraints\.caps: .*a cap is at least 1, of 'genres' it is 0"):
        Constraints(caps={"genres": 0})
    with pytest.raises(ConfigError, match="did you mean `genres`"):
        Constraints(rules=['genre != "a"']).fit(LOG)


def test_allowed_is_named_here_too() -> None:
    assert allowed(ITEMS, ["year == 1999"]).tolist() == [True, True, False, False, False, False]

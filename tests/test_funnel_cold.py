"""Who is served by whom when there is little to go by: users with a history only, or with nothing; items with features only."""

from __future__ import annotations

from dataclasses import replace
from typing import Self

import numpy as np
import pytest

from palate.evaluate import evaluate
from palate.features.history import History
from palate.funnel import Funnel
from palate.rank.gbdt import GBDT
from palate.retrieve.base import Retriever, wanted
from palate.retrieve.ease import EASE
from palate.retrieve.item_knn import ItemKNN
from palate.retrieve.merge import behind, together
from palate.retrieve.popular import Popular
from palate.retrieve.topk import answer, score_given
from palate.testing.contracts import assert_well_formed, clustered, queries_of
from palate.types import NOBODY, NOTHING, Candidates, ConfigError, Floats, Ints, Log, Queries, Request, Run


class ByUser(Retriever):
    """Knows users by their ids alone: what everyone who is asked about wanted most, and nothing for strangers."""

    def fit(self, log: Log, run: Run = Run()) -> Self:
        self.users, self.counts = np.unique(wanted(log).user_codes), np.bincount(wanted(log).item_codes, minlength=log.n_items)
        return self

    def retrieve(self, queries: Queries, k: int) -> Candidates:
        return answer(self._score, queries, len(self.counts), k, self.name)

    def score(self, queries: Queries, items: Ints) -> Floats:
        return score_given(self._score, queries, len(self.counts), items)

    def _score(self, queries: Queries) -> Floats:
        known = np.isin(queries.users, self.users)[:, None]
        return np.where(known & (self.counts > 0), -self.counts, -np.inf).astype(np.float32)

    @property
    def serves_new_users(self) -> frozenset[str]:
        return frozenset()


class ByGenre(Retriever):
    """A content model in three lines: items that share the genre of the last item of the history, with events or without."""

    def fit(self, log: Log, run: Run = Run()) -> Self:
        wanted(log)
        self.genre = np.array([int(genres[0][1:]) for genres in log.items["genres"].to_list()])
        return self

    def retrieve(self, queries: Queries, k: int) -> Candidates:
        return answer(self._score, queries, len(self.genre), k, self.name)

    def _score(self, queries: Queries) -> Floats:
        last = np.array([row[-1] if len(row) else NOTHING for row in (queries.history[b] for b in range(len(queries)))])
        same = (self.genre[last][:, None] == self.genre) & (last != NOTHING)[:, None]
        return np.where(same, 1 + np.arange(len(self.genre)) / 100, -np.inf).astype(np.float32)

    @property
    def serves_new_items(self) -> bool:
        return True


@pytest.fixture(scope="module")
def log() -> Log:
    return clustered(users=60, cold=4)[0]


def funnel_of(*retrievers: Retriever, **settings: int) -> Funnel:
    return Funnel(list(retrievers), config=Funnel.Config(**settings))


def test_a_new_user_with_a_history_is_filled_by_those_that_know_histories(log: Log) -> None:
    """ByUser's quota of 6 goes to EASE (10) and popularity (2) in proportion: 10 * 18 / 12 = 15, and 2 * 18 / 12 = 3."""
    funnel = funnel_of(ByUser(name="by_user", quota=6), EASE(quota=10, l2=10), Popular(quota=2)).fit(log)
    queries = queries_of([[0, 4, 8], [0, 4, 8]], users=[3, NOBODY])
    lists, merged = funnel.candidates(queries)
    assert {name: found.present.sum(axis=1).tolist() for name, found in lists.items()} == {
        "by_user": [6, 0],
        "ease": [10, 15],
        "popular": [2, 3],
    }
    assert_well_formed(merged, 2, 400)
    assert np.isnan(merged.features["by_user.score"][1]).all()
    alone = funnel.candidates(queries[1:])[1]
    assert np.array_equal(alone.items, merged.items[1:])


def test_a_new_user_with_context_only_is_filled_by_those_that_need_no_history(log: Log) -> None:
    funnel = funnel_of(EASE(quota=10, l2=10), ItemKNN(quota=8), Popular(quota=2)).fit(log)
    lists, merged = funnel.candidates(queries_of([[], [0, 4], []], users=[NOBODY, 3, log.n_users - 1]))
    assert lists["popular"].present.sum(axis=1).tolist() == [20, 2, 20]
    assert merged.present.sum(axis=1).tolist()[::2] == [20, 20]
    slate = funnel.recommend([Request(user="nobody", k=12), Request(user="u3", k=12)])[0]
    assert len(slate) == 12
    assert set(slate.sources) == {"popular"}


def test_nobody_who_could_serve_is_an_empty_slate(log: Log) -> None:
    funnel = funnel_of(EASE(quota=10, l2=10), ItemKNN(quota=8)).fit(log)
    assert [len(slate) for slate in funnel.recommend([Request(k=5), Request(history=("i1",), k=5)])] == [0, 5]


def test_places_are_kept_for_items_without_events(log: Log) -> None:
    cold = np.arange(log.n_items) >= log.n_items - 4
    queries = queries_of([[0, 4], [1, 5], [2, 6]], users=[0, 1, 2])
    without = funnel_of(EASE(quota=20, l2=10), ByGenre(name="by_genre", quota=5), candidates=12).fit(log).candidates(queries)[1]
    funnel = funnel_of(EASE(quota=20, l2=10), ByGenre(name="by_genre", quota=5), candidates=12, new_items=1).fit(log)
    merged = funnel.candidates(queries)[1]
    assert_well_formed(merged, 3, 12)
    assert (merged.items[:, :11] == without.items[:, :11]).all()
    # items 60 to 63 are of the genres 0 to 3, and each came as the best of its genre already; so nothing is left to keep a place for
    assert cold[without.items].sum(axis=1).tolist() == [1, 1, 1]
    narrow = replace(queries, allowed=np.arange(log.n_items) != 60)
    found = funnel.candidates(narrow)[1]
    assert cold[np.maximum(found.items, 0)].sum(axis=1).tolist() == [0, 1, 1]


def test_a_kept_place_is_filled_where_the_item_would_not_have_won_it(log: Log) -> None:
    queries = queries_of([[0, 4], []], users=[0, NOBODY])
    funnel = funnel_of(
        EASE(quota=30, l2=10, name="one"), EASE(quota=30, l2=50, name="two"), ByGenre(name="by_genre", quota=1), candidates=12
    )
    plain = funnel.fit(log).candidates(queries)[1]
    kept = Funnel(funnel.retrievers, config=Funnel.Config(candidates=12, new_items=3)).fit(log).candidates(queries)[1]
    assert_well_formed(kept, 2, 12)
    assert (kept.items[0, :9] == plain.items[0, :9]).all()
    assert 60 in kept.items[0].tolist()
    assert kept.features["by_genre.score"][0, kept.items[0].tolist().index(60)] == pytest.approx(1.6)
    assert not kept.present[1].any()


def test_places_that_nobody_can_fill_are_refused(log: Log) -> None:
    with pytest.raises(ConfigError, match="new_items: keeps places for items without events, but none of popular, ease can bring such"):
        funnel_of(Popular(), EASE(), new_items=5).fit(log)
    with pytest.raises(ConfigError, match="new_items must leave room among 5 candidates, got 5"):
        Funnel.Config.parse({"candidates": 5, "new_items": 5}, "funnel")


def test_a_ranker_learns_with_kept_places(log: Log) -> None:
    settings = Funnel.Config(candidates=20, cuts=2, new_items=2)
    funnel = Funnel([Popular(quota=10), ByGenre(name="by_genre", quota=5)], GBDT(min_rows=5), config=settings).fit(log)
    assert len(funnel.recommend([Request(user="u1", k=5)])[0]) == 5


def test_lists_behind_one_another_by_hand() -> None:
    def of(items: list[list[int]], scores: list[list[float]]) -> Candidates:
        found = Candidates.of(np.array(items, dtype=np.int32), np.array(scores, dtype=np.float32), "a")
        return replace(found, features={"a.rank": np.where(found.present, np.arange(len(items[0])), np.nan).astype(np.float32)})

    first = of([[5, 3, -1], [-1, -1, -1]], [[0.5, 0.25, 0], [0, 0, 0]])
    both = behind(first, of([[3, 8], [8, 9]], [[0.9, 0.6], [0.4, 0.2]]))
    assert both.items.tolist() == [[5, 3, 8, -1, -1], [8, 9, -1, -1, -1]]
    assert_well_formed(both, 2, 5)
    np.testing.assert_array_equal(both.features["a.rank"], [[0, 1, 1, np.nan, np.nan], [0, 1, np.nan, np.nan, np.nan]])


def test_lists_put_back_in_order_by_hand() -> None:
    one = Candidates.of(np.array([[7, 8, 9]], dtype=np.int32), np.array([[3, 2, 1]], dtype=np.float32), "a")
    two = Candidates.of(np.array([[1], [2]], dtype=np.int32), np.array([[3], [2]], dtype=np.float32), "a")
    whole = together([(np.array([1]), one), (np.array([0, 2]), two)])
    assert whole.items.tolist() == [[1, -1, -1], [7, 8, 9], [2, -1, -1]]
    assert_well_formed(whole, 3, 3)


def test_evaluation_prints_warm_and_cold_slices() -> None:
    """Users 0 to 9 and items 50 to 59 are met in the test only."""
    log = clustered(users=60, cold=4)[0]
    positions = np.arange(len(log))
    test = positions >= len(log) * 3 // 4
    new = (log.user_codes < 10) | (log.item_codes >= 50)
    train, held = log.where(~test & ~new), log.where(test)
    funnel = funnel_of(Popular(quota=20), EASE(quota=20, l2=10), ByGenre(name="by_genre", quota=20), new_items=3).fit(train)
    assert History.of(train).n_users == log.n_users
    found = evaluate(funnel, held, ks=(5, 10), resamples=20)
    users, items = found.slices["users"], found.slices["items"]
    assert users["cold (no events)"]["queries"] == 10
    assert users["cold (no events)"]["stages"]["popular"]["recall@10"] > 0
    strangers = users["cold (no events)"]["stages"]
    assert strangers["funnel"]["recall@10"] == pytest.approx(strangers["popular"]["recall@10"])
    assert items["cold (no events)"]["targets"] > 0
    assert items["cold (no events)"]["stages"]["ease"]["recall@10"] == 0
    assert items["cold (no events)"]["stages"]["by_genre"]["recall@10"] > 0
    printed = str(found)
    for line in ("users: cold (no events)", "items: cold (no events)", "items: head (half of all events)"):
        assert line in printed

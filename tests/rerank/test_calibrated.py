"""Slates in the shares of the history."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palate.rerank import calibrated as module
from palate.rerank.calibrated import Calibrated
from palate.testing.contracts import DAY, RerankerContract, clustered, log_of, queries_of
from palate.types import Candidates, ConfigError, Log


class TestGenres(RerankerContract):
    def make(self) -> Calibrated:
        return Calibrated(weight=0.6)


class TestYears(RerankerContract):
    def make(self) -> Calibrated:
        return Calibrated(weight=1, column="year", relevance="raw", half_life_days=3, pool=None)


def world(genres: list[list[str] | None]) -> Log:
    return log_of([(0, 0)], n_items=len(genres), items=pl.DataFrame({"item": [f"i{n}" for n in range(len(genres))], "genres": genres}))


def one_list(items: list[int], scores: list[float]) -> Candidates:
    return Candidates.of(np.array([items], dtype=np.int32), np.array([scores], dtype=np.float32), "x")


def test_the_worked_example_by_hand() -> None:
    """A history of three a and one b. Candidates: 4 a (1), 5 a (.9), 6 a (.8), 7 b (.1), raw, weight one half.

    First, KL(p || q~) up to sum p log p with q = (1, 0) is -(.75 log(.99 + .0075) + .25 log .0025); with b it is dearer: a comes first,
    and so on with a; once the list is a, a third a leaves q~(b) at .0025 and b raises it to a third and p's .25 log of it by 1.2: b comes
    second or third as the relevance decides.
    """
    log = world([["a"], ["a"], ["a"], ["b"], ["a"], ["a"], ["a"], ["b"]])
    slate = (
        Calibrated(weight=0.5, relevance="raw").fit(log).rerank(queries_of([[0, 1, 2, 3]]), one_list([4, 5, 6, 7], [1, 0.9, 0.8, 0.1]), 4)
    )
    p = {"a": 0.75, "b": 0.25}

    def closeness(q_b: float) -> float:
        mixed = {"a": 0.99 * (1 - q_b) + 0.01 * p["a"], "b": 0.99 * q_b + 0.01 * p["b"]}
        return sum(p[g] * float(np.log(mixed[g])) for g in p)

    second = {"a": 0.9 + closeness(0), "b": 0.1 + closeness(1 / 2)}
    assert second["b"] > second["a"]
    third = {"a": 0.9 + closeness(1 / 3)}
    assert third["a"] > 0
    assert slate.items.tolist() == [[4, 7, 5, 6]]
    np.testing.assert_allclose(slate.scores, [[1, 0.9, 0.9, 0.8]])  # 7 was moved up: scored like the best behind it


def test_every_step_is_the_best_oracle() -> None:
    """Against equation 7 computed from scratch, with items of several categories."""
    rng = np.random.default_rng(5)
    kinds = "abcde"
    genres = [[kinds[g] for g in rng.choice(5, rng.integers(1, 4), replace=False)] for _ in range(20)]
    history, listed = [0, 3, 5, 8, 8], []
    scores = -np.sort(-rng.random(10))
    slate = (
        Calibrated(weight=0.7, relevance="raw", alpha=0.05)
        .fit(world(genres))
        .rerank(queries_of([history]), one_list(list(range(10, 20)), scores.tolist()), 6)
    )

    def shares(items: list[int]) -> np.ndarray:
        total = np.zeros(5)
        for item in items:
            for genre in genres[item]:
                total[kinds.index(genre)] += 1 / len(genres[item])
        return total / total.sum()

    p = shares(history)
    for place in range(6):
        values = {}
        for item in set(range(10, 20)) - set(listed):
            q = 0.95 * shares([*listed, item]) + 0.05 * p
            kl = sum(p[g] * np.log(p[g] / q[g]) for g in range(5) if p[g] > 0)
            values[item] = 0.3 * sum(np.float32(scores)[i - 10] for i in [*listed, item]) - 0.7 * kl
        best = max(values, key=lambda item: values[item])
        assert slate.items[0, place] == best
        listed.append(best)


def test_it_brings_the_shares_closer() -> None:
    log, queries, _ = clustered()
    candidates = Candidates.of(np.tile(np.arange(60, dtype=np.int32), (120, 1)), np.tile(-np.arange(60, dtype=np.float32), (120, 1)), "x")
    fitted = Calibrated(weight=0.9).fit(log)
    plain, calibrated = candidates.items[:, :10], fitted.rerank(queries, candidates, 10).items
    own = np.arange(120) % 4  # the genre that nine events in ten are of
    assert (calibrated % 4 == own[:, None]).mean() > 2 * (plain % 4 == own[:, None]).mean()


def test_old_events_count_less_if_asked() -> None:
    log = world([["a"], ["b"], ["a"], ["b"]])
    queries = replace(queries_of([[0, 1]]), times=np.array([0, 100 * DAY]), now=np.array([100 * DAY]))
    candidates = one_list([2, 3], [0.5, 0.49])
    assert Calibrated(weight=0.9, relevance="raw").fit(log).rerank(queries, candidates, 1).items.tolist() == [[2]]
    assert Calibrated(weight=0.9, relevance="raw", half_life_days=10).fit(log).rerank(queries, candidates, 1).items.tolist() == [[3]]


def test_without_a_history_or_categories_the_order_stays() -> None:
    log = world([["a"], [], None, ["b"]])
    for history in ([], [1], [2]):
        slate = Calibrated(weight=1).fit(log).rerank(queries_of([history]), one_list([3, 0, 2, 1], [4, 3, 2, 1]), 4)
        assert slate.items.tolist() == [[3, 0, 2, 1]]
    with pytest.raises(ConfigError, match=r"calibrated\.column: .*did you mean `genres`"):
        Calibrated(column="genre").fit(log)


@settings(deadline=None, max_examples=40)
@given(st.permutations(range(8)), st.integers(0, 8), st.lists(st.integers(0, 7), max_size=5), st.integers(1, 10), st.floats(0, 1))
def test_a_slate_is_a_part_of_the_list(items: list[int], count: int, history: list[int], k: int, weight: float) -> None:
    log = world([["a"], ["b"], ["a", "b"], None, [], ["c"], ["a"], ["c", "b"]])
    candidates = one_list(items[:count], np.linspace(1, 0, count).tolist())
    slate = Calibrated(weight=weight).fit(log).rerank(queries_of([history]), candidates, k)
    there = slate.items[0][slate.present[0]].tolist()
    assert len(set(there)) == len(there) == min(k, count)
    assert set(there) <= set(items[:count])


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    log, queries, _ = clustered()
    candidates = Candidates.of(np.tile(np.arange(30, dtype=np.int32), (120, 1)), np.tile(-np.arange(30, dtype=np.float32), (120, 1)), "x")
    reranker = Calibrated(half_life_days=5).fit(log)
    whole = reranker.rerank(queries, candidates, 8).items
    monkeypatch.setattr(module, "_BLOCK", 700)
    assert np.array_equal(reranker.rerank(queries, candidates, 8).items, whole)


def test_all_orders_of_a_list_give_one_set() -> None:
    """With equal scores only the shares decide which kinds are shown, whatever the order."""
    log = world([["a"], ["b"], ["a"], ["a"], ["b"], ["b"]])
    for order in permutations(range(2, 6)):
        slate = Calibrated(weight=0.9).fit(log).rerank(queries_of([[0, 1]]), one_list(list(order), [1, 1, 1, 1]), 2)
        assert sorted(log.items["genres"][int(item)][0] for item in slate.items[0]) == ["a", "b"]

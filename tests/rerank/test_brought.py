"""What requests bring for the rerankers, settings for one request, and propensities on the way to the slate."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from palate.funnel import Funnel
from palate.rerank.base import PROPENSITY, Reranker
from palate.rerank.brought import IMPRESSIONS, SEED, impressions, seeds, with_brought
from palate.rerank.constraints import Constraints
from palate.rerank.mmr import MMR
from palate.rerank.places import chosen
from palate.retrieve.popular import Popular
from palate.testing.contracts import clustered, queries_of
from palate.types import Candidates, ConfigError, DataError, Queries, Request


class Coin(Reranker):
    """Shows the list from its end where the request's seed is odd: each way round has probability one half."""

    draws = True

    def rerank(self, queries: Queries, candidates: Candidates, k: int) -> Candidates:
        order = np.where(seeds(queries)[:, None] % 2 == 1, np.arange(k)[::-1], np.arange(k))
        slate = chosen(candidates, order)
        return replace(slate, features={**slate.features, PROPENSITY: np.full(slate.items.shape, 0.5, dtype=np.float32)})


@pytest.fixture(scope="module")
def funnel() -> Funnel:
    return Funnel([Popular()], None, [MMR(beta=0.5), Coin()]).fit(clustered()[0])


def test_the_propensity_reaches_the_slate_and_the_seed_the_reranker(funnel: Funnel) -> None:
    one, two, again = funnel.recommend([Request(user="u1", k=5, context={SEED: seed}) for seed in (1, 2, 1)])
    assert one.propensity == (0.5,) * 5
    assert one.items == two.items[::-1] == again.items
    assert funnel.with_rerankers([MMR().fit(clustered()[0])]).recommend([Request(user="u1", k=5)])[0].propensity == (1.0,) * 5


def test_who_draws_stands_last(funnel: Funnel) -> None:
    for order in ([Coin(), MMR()], [Coin(), Coin()]):
        with pytest.raises(ConfigError, match=r"draws at random and writes the propensity of each place, so it stands last, and alone"):
            Funnel([Popular()], None, order)
        with pytest.raises(ConfigError, match="stands last"):
            funnel.with_rerankers(order)


def test_settings_for_one_request_leave_the_funnel_as_it_was(funnel: Funnel) -> None:
    mmr, _ = funnel.rerankers
    other = funnel.with_rerankers([mmr.with_settings(beta=0)])
    request = [Request(user="u1", k=5)]
    assert other.recommend(request)[0].items != funnel.recommend(request)[0].items
    assert (mmr.config.beta, mmr.with_settings(beta=0).config.beta) == (0.5, 0)
    with pytest.raises(
        ConfigError, match=r"mmr\.column: was used when fitted, so a request cannot change it; it can change beta, pool, rel"
    ):
        mmr.with_settings(column="year")
    with pytest.raises(ConfigError, match=r"mmr\.beta: input should be less than or equal to 1, got 3"):
        mmr.with_settings(beta=3)


def test_caps_of_one_request() -> None:
    log, queries, _ = clustered()
    capped = Constraints(caps={"genres": 2}).fit(log)
    candidates = Popular().fit(log).retrieve(queries, 30)
    tighter = Constraints(caps={"genres": 1}).fit(log).rerank(queries, candidates, 8).items
    assert np.array_equal(capped.with_settings(caps={"genres": 1}).rerank(queries, candidates, 8).items, tighter)
    assert np.array_equal(capped.with_settings(caps={}).rerank(queries, candidates, 8).items, candidates.items[:, :8])
    with pytest.raises(ConfigError, match=r"'year' had no cap when fitted, so a request cannot give it one; fitted: genres"):
        capped.with_settings(caps={"year": 1})


def test_columns_of_the_queries_by_hand() -> None:
    requests = [Request(), Request(context={SEED: -3, IMPRESSIONS: {"b": 2, "a": 0.5}}), Request(context={IMPRESSIONS: {"a": 1}})]
    queries = with_brought(queries_of([[], [], []]), requests, {"a": 4, "b": 7}.__getitem__)
    assert seeds(queries).tolist() == [0, -3, 0]
    found = impressions(queries)
    assert found is not None
    assert [array.tolist() for array in found] == [[1, 1, 2], [7, 4, 4], [2, 0.5, 1]]
    part = impressions(queries.take(np.array([2])))
    assert part is not None
    assert [array.tolist() for array in part] == [[0], [4], [1]]
    none = impressions(queries.take(np.array([0])))
    assert none is not None
    assert not len(none[0])
    plain = with_brought(queries_of([[]]), [Request()], {}.__getitem__)
    assert (plain.context, impressions(plain)) == (None, None)


@pytest.mark.parametrize(
    ("context", "message"),
    [
        ({SEED: "7"}, r"request\.context\.palate\.seed: a whole number of 64 bits expected, got '7'"),
        ({SEED: 2**63}, "a whole number of 64 bits expected"),
        ({SEED: True}, "a whole number of 64 bits expected"),
        ({IMPRESSIONS: ["i1"]}, r"request\.context\.palate\.impressions: item id -> count expected"),
        ({IMPRESSIONS: {"i1": -1}}, r"palate\.impressions\.i1: a count of 0 or more expected, got -1"),
        ({IMPRESSIONS: {"i1": float("nan")}}, "a count of 0 or more expected, got nan"),
    ],
)
def test_errors_are_one_line(funnel: Funnel, context: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        funnel.recommend([Request(user="u1", context=context)])
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="item 'i99': no such id"):
        funnel.recommend([Request(user="u1", context={IMPRESSIONS: {"i99": 1}})])

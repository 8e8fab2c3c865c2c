"""The candidate against the bundle in service: metrics by hand, what may not be seen, and when it passes."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np
import polars as pl
import pytest

from palate.data.log import read
from palate.feedback.export import COLUMNS
from palate.funnel import Funnel
from palate.learn import gate
from palate.learn.gate import Bundle, Person, Settings, Verdict, held_out, judge
from palate.retrieve.popular import Popular
from palate.serve.person import Rule

AT = datetime(2026, 1, 2, tzinfo=UTC)
NOTHING_BEFORE = pl.DataFrame(schema=dict(COLUMNS))


def popular(order: str, *more: tuple[str, str]) -> Funnel:
    """A funnel that shows these items in this order. more: what else was clicked, by whom."""
    rows = [(f"crowd{n}", item) for place, item in enumerate(order) for n in range(20 - 2 * place)]
    users, items = zip(*rows, *more, strict=True)
    return Funnel([Popular()]).fit(read(pl.DataFrame({"user": users, "item": items, "time": np.arange(len(users))})))


def bundle(funnel: Funnel, cursor: int = 0, least: float | None = None) -> Bundle:
    return Bundle(funnel, cursor, Rule(least))


def person(user: str, *pages: tuple[str, float]) -> Person:
    return Person(user, frozenset("".join(items for items, _ in pages)), tuple((frozenset(items), weight) for items, weight in pages))


def settings(**given: Any) -> Settings:
    return Settings(**{"k": 3, "people": 1, "resamples": 200, **given})


def table(*rows: dict[str, Any]) -> pl.DataFrame:
    plain = {"kind": "click", "time": AT, "value": None}
    return pl.DataFrame([{**plain, "seq": n + 1, "id": str(n), **row} for n, row in enumerate(rows)], schema=dict(COLUMNS))


def test_the_metrics_by_hand() -> None:
    """Lists a b c and f e d. p1 wants a; p2 f; p3 c, in the third place: 1 / log2(4)."""
    people = [person("p1", ("a", 2.0)), person("p2", ("f", 1.0)), person("p3", ("c", 10.0))]
    found = judge(bundle(popular("abcdef")), bundle(popular("fedcba")), people, NOTHING_BEFORE, AT, settings()).measures
    assert found["people"] == 3
    assert (found["hit_rate"], found["hit_rate.serving"]) == pytest.approx((2 / 3, 1 / 3))
    assert (found["ndcg"], found["ndcg.serving"]) == pytest.approx((1.5 / 3, 1 / 3))
    assert (found["pages"], found["pages.serving"]) == pytest.approx((12 / 13, 1 / 13))
    assert found["pages.difference"] == pytest.approx(11 / 13)
    assert found["ndcg.low"] <= found["ndcg.difference"] <= found["ndcg.high"]


def test_one_person_alone_has_an_interval_without_width_by_hand() -> None:
    """nDCG of two wanted items in the places 0 and 2 of three: (1 + 1/2) / (1 + 1/log2(3))."""
    verdict = judge(bundle(popular("abcdef")), bundle(popular("fedcba")), [person("p", ("ac", 1.0))], NOTHING_BEFORE, AT, settings())
    ndcg = 1.5 / (1 + 1 / np.log2(3))
    assert verdict.measures["ndcg"] == pytest.approx(ndcg)
    assert verdict.measures["ndcg.low"] == verdict.measures["ndcg.high"] == pytest.approx(ndcg)
    assert verdict.passed
    assert verdict.reason.startswith("better than the bundle in service: pages ")


@pytest.mark.parametrize(
    ("difference", "low", "high", "passed", "words"),
    [
        (0.02, 0.01, 0.03, True, "better than"),
        (-0.01, -0.02, 0.01, True, "not worse by more than 0.0200"),
        (-0.01, -0.03, 0.01, False, "may be worse by more than 0.0200"),
        (-0.05, -0.06, -0.04, False, "worse than the bundle in service"),
        (-0.015, -0.02, -0.01, True, "not worse by more than"),
    ],
)
def test_it_passes_if_the_interval_is_above_the_margin(difference: float, low: float, high: float, passed: bool, words: str) -> None:
    """The serving bundle has 0.2, of which a tenth may be lost."""
    measures = {"people": 90.0, "ndcg": 0.2 + difference, "ndcg.serving": 0.2, "ndcg.low": low, "ndcg.high": high}
    verdict = gate._verdict(measures, Settings(margin=0.1, metric="ndcg"))
    assert verdict.passed is passed
    assert verdict.reason.startswith(words)


def test_too_few_people_are_no_evidence() -> None:
    one = judge(bundle(popular("abc")), bundle(popular("cba")), [person("p", ("a", 1.0))], NOTHING_BEFORE, AT, settings(people=2))
    assert one == Verdict(False, "only 1 people wanted something new to them behind the cut, and 2 are needed to judge by", {"people": 1})


def test_what_somebody_had_before_is_not_asked_for() -> None:
    """From the store up to the cut, from either bundle's own history, or hidden; nor what neither bundle knows."""
    before = table({"user": "p", "item": "a"}, {"user": "p", "item": "b", "kind": "hide"}, {"user": "p", "item": "c", "kind": "impression"})
    mine, theirs = popular("abcdef", ("p", "d")), popular("abcdef", ("p", "e"))
    left = gate._unseen(
        person("p", ("ab", 1.0), ("cf", 2.0), ("dez", 1.0)), gate._actions(before, ["p"])["p"], [bundle(mine), bundle(theirs)]
    )
    assert left == Person("p", frozenset("cf"), ((frozenset("cf"), 2.0),))
    assert gate._unseen(person("p", ("z", 1.0)), [], [bundle(mine)]) is None


def test_each_is_asked_with_what_the_store_knew_behind_its_own_cursor() -> None:
    """One has learnt from the click on b, the other has it from the store: neither shows b. Nobody shows what was hidden (c)."""
    before = table({"user": "p", "item": "b"}, {"user": "p", "item": "c", "kind": "hide"})
    learnt = read(
        pl.DataFrame(
            {
                "user": ["p", "p", *(f"crowd{n}" for n in range(20))],
                "item": ["b", "c", *"aaaaaaabbbbbbccccdde"],
                "time": range(22),
                "kind": ["click", "hide", *["click"] * 20],
            }
        ),
        kind="kind",
    )
    mine, theirs = bundle(Funnel([Popular()]).fit(learnt), cursor=2), bundle(popular("abcde"), cursor=0)
    actions = gate._actions(before, ["p"])["p"]
    assert mine.funnel.recommend([gate._request(mine, person("p"), actions, None, 3)])[0].items == ("a", "d", "e")
    assert theirs.funnel.recommend([gate._request(theirs, person("p"), actions, None, 3)])[0].items == ("a", "d", "e")
    assert gate._request(theirs, person("p"), actions, None, 3).history == ("b",)
    assert gate._request(mine, person("p"), actions, None, 3).history == ()


def test_who_is_asked_and_what_their_pages_count_by_hand() -> None:
    """Page r1 held a with odds 1/4 and b with 1/2: it counts as its rarest click. c answers no page. A low rating is not wanted."""
    held = table(
        {"user": "p", "item": "a", "recommendation": "r1"},
        {"user": "p", "item": "b", "recommendation": "r1"},
        {"user": "p", "item": "c"},
        {"user": "q", "item": "d", "kind": "rating", "value": 2.0},
        {"user": "q", "item": "e", "kind": "rating", "value": 4.0},
        {"user": "q", "item": "f", "kind": "impression"},
        {"user": "s", "item": "a", "recommendation": "r2"},
    )
    slates = pl.DataFrame({"recommendation": ["r1", "r1", "r2"], "item": ["a", "b", "a"], "propensity": [0.25, 0.5, 0.001]})
    found = held_out(held, slates, Rule(4.0), Settings(), seed=0)
    assert found == [
        Person("p", frozenset("abc"), ((frozenset("ab"), 4.0), (frozenset("c"), 1.0))),
        Person("q", frozenset("e"), ((frozenset("e"), 1.0),)),
        Person("s", frozenset("a"), ((frozenset("a"), 10.0),)),
    ]
    assert len(held_out(held, slates, Rule(None), Settings(most=2), seed=1)) == 2


def test_exploring_bundles_are_asked_with_one_seed() -> None:
    """The same bundle against itself: no difference at all, though it draws at random."""
    from palate.rerank.epsilon_greedy import EpsilonGreedy

    rows = [(f"crowd{n}", item) for place, item in enumerate("abcdef") for n in range(20 - 2 * place)]
    users, items = zip(*rows, strict=True)
    log = read(pl.DataFrame({"user": users, "item": items, "time": np.arange(len(users))}))
    funnel = Funnel([Popular()], None, [EpsilonGreedy(epsilon=0.5)]).fit(log)
    people = [person(f"p{n}", ("abcdef"[n % 6], 1.0)) for n in range(30)]
    found = judge(bundle(funnel), bundle(funnel), people, NOTHING_BEFORE, AT, settings()).measures
    assert found["ndcg.difference"] == found["ndcg.low"] == found["ndcg.high"] == 0

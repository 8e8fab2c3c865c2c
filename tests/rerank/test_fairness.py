"""Declared bounds on the exposure of groups."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palate.rerank.fairness import Fairness, attention_of, failing, least_counts
from palate.testing.contracts import RerankerContract, log_of, queries_of
from palate.types import Candidates, ConfigError, Log


class TestShares(RerankerContract):
    def make(self) -> Fairness:
        return Fairness(column="genres", bounds={"g0": (0.3, 1), "g1": (0, 0.2), "common": (0.1, 0.5)})


class TestFair(RerankerContract):
    def make(self) -> Fairness:
        return Fairness(column="genres", bounds={"g2": (0.4, 1)}, attention="equal", significance=0.1)


class TestNoBounds(RerankerContract):
    def make(self) -> Fairness:
        return Fairness(column="year")


def world(groups: str) -> Log:
    items = pl.DataFrame({"item": [f"i{n}" for n in range(len(groups))], "group": [letter if letter != "." else None for letter in groups]})
    return log_of([(0, 0)], n_items=len(groups), items=items)


def slate(groups: str, k: int, **given_settings: object) -> str:
    """The groups of the slate, place by place, of candidates in the order of the letters."""
    items = np.arange(len(groups), dtype=np.int32)[None]
    candidates = Candidates.of(items, -items.astype(np.float32), "x")
    found = Fairness(**given_settings).fit(world(groups)).rerank(queries_of([[]]), candidates, k)
    return "".join(groups[item] for item in found.items[0] if item >= 0)


def test_the_worked_example_by_hand() -> None:
    """At least two fifths of every prefix: floor(.4 n) is 0, 0, 1, 1, 2, 2, 2, 3, 3, 4."""
    assert slate("aaaaaaaaaabbbbbbbbbb", 10, bounds={"b": (0.4, 1)}, attention="equal") == "aababaabab"
    # at most ceil(.5 n): 1, 1, 2, 2, 3, 3
    assert slate("aaaaaabbbbbb", 6, bounds={"a": (0, 0.5)}, attention="equal") == "ababab"


def test_attention_by_hand() -> None:
    """v = 1, .631, .5, .431, .387: of V = 1, 1.631, 2.131, 2.562, 2.948 a third is .333, .544, .710, .854, .983. b is due at place 3, as
    .5 fits in .710 and .631 not in .544; then .5 + .431 > .854, and at place 5 .5 + .387 fits in .983."""
    np.testing.assert_allclose(attention_of("log", 3), [1, 0.63093, 0.5], atol=1e-5)
    assert slate("aaaaaabbbbb", 5, bounds={"b": (1 / 3, 1)}) == "aabab"


def test_the_table_of_the_paper_oracle() -> None:
    """Zehlike et al. 2017, table 2 has the least counts before the correction, at alpha .1; they are binomial quantiles."""
    from palate.rerank.fairness import _table

    assert _table(12, 0.5, 0.1) == (0, 0, 0, 1, 1, 1, 2, 2, 3, 3, 3, 4)
    assert _table(12, 0.3, 0.1) == (0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 2)
    assert _table(12, 0.7, 0.1) == (0, 1, 1, 2, 2, 3, 3, 4, 5, 5, 6, 6)


def test_a_fair_coin_fails_as_often_as_declared() -> None:
    rng = np.random.default_rng(0)
    table = least_counts(20, 0.4, 0.1)
    tosses = np.cumsum(rng.random((40_000, 20)) < 0.4, axis=1)
    observed = float((tosses < np.array(table)).any(axis=1).mean())
    assert failing(table, 0.4) <= 0.1
    assert observed == pytest.approx(failing(table, 0.4), abs=0.006)
    assert failing(least_counts(20, 0.4, 0.3), 0.4) > failing(table, 0.4)
    assert (
        slate("a" * 20 + "b" * 20, 12, bounds={"b": (0.5, 1)}, attention="equal", significance=0.1).count("b")
        == least_counts(12, 0.5, 0.1)[-1]
    )


def test_what_cannot_hold_leaves_the_list_whole() -> None:
    assert slate("aaab", 4, bounds={"b": (0.9, 1)}, attention="equal") == "abaa"
    assert slate("aaaa", 3, bounds={"a": (0, 0.1)}) == "aaa"
    assert slate("aa.", 3, bounds={"a": (0, 0.5)}, attention="equal") == "a.a"  # of no group, so never full


@settings(deadline=None, max_examples=30)
@given(
    st.text("abc.", min_size=1, max_size=14), st.integers(1, 16), st.floats(0, 0.5), st.floats(0.5, 1), st.sampled_from(["log", "equal"])
)
def test_bounds_hold_wherever_they_can(groups: str, k: int, low: float, high: float, attention: str) -> None:
    """One group bounded from both sides: each prefix is within one place of its bounds, unless the group or all others ran out."""
    if "a" not in groups:
        groups += "a"
    shown = slate(groups, k, bounds={"a": (low, high)}, attention=attention)
    assert len(shown) == min(k, len(groups))
    assert all(shown.count(letter) <= groups.count(letter) for letter in set(shown))
    weight = attention_of(attention, len(shown))  # type: ignore[arg-type]
    for n in range(1, len(shown) + 1):
        part = shown[:n]
        got, total = float(weight[:n][[letter == "a" for letter in part]].sum()), float(weight[:n].sum())
        if groups.count("a") > part.count("a"):
            assert got > low * total - weight[0] - 1e-9
        if len(groups) - groups.count("a") > n - part.count("a"):
            assert got < high * total + weight[0] + 1e-9


def test_exposure_tells_the_shares() -> None:
    fair = Fairness(bounds={"a": (0, 1), "b": (0, 1)}).fit(world("ab."))
    slates = Candidates.of(np.array([[0, 1], [2, -1]], dtype=np.int32), np.zeros((2, 2), dtype=np.float32), "x")
    total = 2 + 1 / np.log2(3)
    assert fair.exposure(slates) == pytest.approx({"a": 1 / total, "b": 1 / np.log2(3) / total})


def test_errors_name_the_key() -> None:
    with pytest.raises(ConfigError, match=r"fairness\.bounds: no item has group 'aaa'"):
        Fairness(bounds={"aaa": (0, 1)}).fit(world("ab"))
    with pytest.raises(ConfigError, match=r"shares rise from 0 to 1; those of 'a' are 0.5 and 0.2"):
        Fairness(bounds={"a": (0.5, 0.2)})
    with pytest.raises(ConfigError, match=r'with `significance` set attention = "equal"'):
        Fairness(significance=0.1)
    candidates = Candidates.of(np.zeros((1, 1), dtype=np.int32), np.zeros((1, 1), dtype=np.float32), "x")
    asked = Fairness(bounds={"a": (0, 1)}).fit(world("ab")).with_settings(bounds={"c": (0, 1)})
    with pytest.raises(ConfigError, match=r"no item has group 'c'"):
        asked.rerank(queries_of([[]]), candidates, 1)

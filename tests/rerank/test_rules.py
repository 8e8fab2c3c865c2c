"""Rules on item columns."""

from __future__ import annotations

from datetime import UTC, date, datetime

import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from palate.rerank.rules import allowed
from palate.types import ConfigError

ITEMS = pl.DataFrame(
    {
        "item": ["a", "b", "c", "d"],
        "genre": pl.Series(["Horror", "Comedy", None, 'O"Neill'], dtype=pl.String),
        "genres": [["Horror", "Drama"], ["Comedy"], None, []],
        "year": [1989, 1990, None, 2001],
        "score": [0.5, None, -1.0, 3.25],
        "new": [True, False, None, True],
        "colour": pl.Series(["red", "blue", "red", None], dtype=pl.Enum(["red", "blue"])),
        "day": [date(1999, 12, 31), date(2000, 1, 1), None, date(2001, 1, 1)],
        "at": [datetime(2000, 1, 1, hour, tzinfo=UTC) for hour in range(4)],
        "sizes": [[1, 2], [2], [3], []],
        "box office": [1, 2, 3, 4],
    }
)


@pytest.mark.parametrize(
    ("rule", "passing"),
    [
        ('genre == "Horror"', "a"),
        ('genre != "Horror"', "bcd"),  # unknown is not Horror
        ("genre == 'Comedy'", "b"),
        (r'genre == "O\"Neill"', "d"),
        ("genre == 'O\"Neill'", "d"),
        ('genres has "Horror"', "a"),
        ('genres == "Horror"', "a"),
        ('genres != "Horror"', "bcd"),
        ('not genres has "Horror"', "bcd"),
        ("year >= 1990", "bd"),
        ("year < 1990", "a"),
        ("year>=1990 and year<=1990", "b"),
        ("year == 1990.0", "b"),
        ("not year >= 1990", "ac"),  # what is unknown is not from 1990 or later
        ("score > -1.5e0 and score < .75", "ac"),
        ("score == 3.25", "d"),
        ("new == true", "ad"),
        ("new != true", "bc"),
        ("new == False", "b"),
        ('colour == "red"', "ac"),
        ('colour != "red"', "bd"),
        ('colour == "green"', ""),
        ('day >= "2000-01-01"', "bd"),
        ('at >= "2000-01-01T02:00"', "cd"),
        ('at < "2000-01-01T03:30+02:00"', "ab"),
        ("sizes has 2", "ab"),
        ("sizes != 2.0", "cd"),
        ("score > 1e999", ""),
        ("year < 99999999999999999999999", "abd"),
        ("`box office` > 3", "d"),
        ('genre == "Horror" or year == 1990 and new == true', "a"),  # and binds closer
        ('(genre == "Horror" or year == 1990) and new == false', "b"),
        ('not (genre == "Horror" or year == 1990) AND NOT new == true', "c"),
        ("not not year == 2001", "d"),
    ],
)
def test_by_hand(rule: str, passing: str) -> None:
    assert "".join(ITEMS["item"].filter(pl.Series(allowed(ITEMS, [rule])))) == passing


def test_all_rules_must_hold_and_none_allows_all() -> None:
    assert allowed(ITEMS, ["year >= 1990", "new == true"]).tolist() == [False, False, False, True]
    assert allowed(ITEMS, []).all()


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ('gnre != "x"', r"place 1 \(gnre\): no column 'gnre' \(did you mean `genre`\?\)"),
        ("year = 1990", r"place 6 \(=\): one `=` is not a comparison; use =="),
        ("year >= ", r"place 9 \(the end\): expected a value"),
        ("year", r"place 5 \(the end\): expected one of == != < <= > >= has"),
        ("", r"place 1 \(the end\): expected a column"),
        ("year > 1 year < 2", r"place 10 \(year\): expected `and`, `or` or the end"),
        ("(year > 1", r"place 10 \(the end\): expected `\)`"),
        ("year > 1)", r"place 9 \(\)\): expected `and`, `or` or the end"),
        ('genre == "Horror', r'place 10 \("Horror\): the " is never closed'),
        ("genre == Horror", r"expected a value"),
        ("genre == 3", r'genre holds text; put text and dates in "quotes"'),
        ('year == "x"', r"year holds numbers, not text"),
        ("year == true", r"year holds numbers, not true or false"),
        ("not " * 9999 + "year > 1", r"more than 50 brackets and `not` within each other"),
        ("(" * 9999, r"more than 50 brackets and `not` within each other"),
        ("new < true", r"new holds true or false; use == or !="),
        ('year has "x"', r"year is no list column; use =="),
        ('genres > "x"', r"genres is a list column; use has"),
        ('day > "soon"', r"not a date such as 1999-12-31"),
        ("year & 3", r"place 6 \(&\): not understood"),
        ("__import__('os')", r"no column '__import__'"),
    ],
)
def test_errors_say_where(rule: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        allowed(ITEMS, [rule])
    assert "\n" not in str(caught.value)


@settings(deadline=None)
@given(
    st.one_of(
        st.text(max_size=30),
        st.lists(
            st.sampled_from(
                [
                    "year",
                    "genre",
                    "genres",
                    "day",
                    "at",
                    "sizes",
                    "(",
                    ")",
                    "not",
                    "and",
                    "or",
                    "has",
                    "==",
                    "<",
                    "1",
                    "2.5",
                    '"x"',
                    "true",
                    "!=",
                ]
            ),
            max_size=8,
        ).map(" ".join),
    )
)
@example("year == 99999999999999999999999")
@example('at < "0001-01-01T00:00+14:00"')
@example('day == "9999-12-31T23:59"')
@example("year == 1e999")
@example("new < true")
def test_any_text_gives_a_mask_or_one_line(rule: str) -> None:
    message = ""
    try:
        assert allowed(ITEMS, [rule]).shape == (4,)
    except ConfigError as error:
        message = str(error)
    assert "\n" not in message

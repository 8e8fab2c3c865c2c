"""The formula that makes one score of several predictions: its values, and everything that it must refuse."""

from __future__ import annotations

import re

import numpy as np
import pytest

from palate.rank.blend import DEEPEST, LONGEST, Blend
from palate.types import ConfigError, DataError

TASKS = ("click", "rating", "watch_time")
VALUES = {"click": np.array([0.5, 0.1]), "rating": np.array([4.0, 3.7]), "watch_time": np.array([0.0, 60.0])}


def test_by_hand() -> None:
    # 0.5 sqrt(4.3) + 0.01 ln 1 = 1.036822...;  0.1 sqrt(4) + 0.01 ln 61 = 0.2 + 0.0411087...
    scores = Blend.parse("click * (0.3 + rating) ** 0.5 + 0.01 * log1p(watch_time)", TASKS)(VALUES)
    np.testing.assert_allclose(scores, [1.0368221, 0.2411087], rtol=1e-6)


@pytest.mark.parametrize(
    ("formula", "expected"),
    [
        ("click", [0.5, 0.1]),
        ("-click + +1", [0.5, 0.9]),
        ("2 - 1 - 1 + click", [0.5, 0.1]),
        ("rating / 2 * 2", [4.0, 3.7]),
        ("2 ** 3 ** 0 + click", [2.5, 2.1]),
        ("min(click, 0.2, rating)", [0.2, 0.1]),
        ("max(click, 0.2)", [0.5, 0.2]),
        ("clip(watch_time, 1, 30)", [1.0, 30.0]),
        ("exp(log1p(watch_time))", [1.0, 61.0]),
        ("sqrt(rating - 3.7)", [0.3**0.5, 0.0]),
        ("7", [7.0, 7.0]),
        ("  \n\tclick\n + 1", [1.5, 1.1]),
    ],
)
def test_every_piece(formula: str, expected: list[float]) -> None:
    np.testing.assert_allclose(Blend.parse(formula, TASKS)(VALUES), expected, rtol=1e-12, atol=1e-12)


def test_any_shape_and_only_the_tasks_it_was_given() -> None:
    square = {name: np.tile(column, (3, 1)) for name, column in VALUES.items()}
    assert Blend.parse("click + 1", TASKS)(square).shape == (3, 2)


@pytest.mark.parametrize(
    ("formula", "position", "what"),
    [
        ("__import__('os')", 1, "no function"),
        ("click + __import__('os').system('ls')", 9, "no function"),
        ("click.__class__", 1, "not allowed"),
        ("(click).real", 1, "not allowed"),
        ("click[0]", 1, "not allowed"),
        ("click.__class__()", 1, "no function"),
        ("exp(click.mean)", 5, "not allowed"),
        ("'click'", 1, "not a finite number"),
        ("click + True", 9, "not a finite number"),
        ("1j", 1, "not a finite number"),
        ("1e999 * click", 1, "not a finite number"),
        ("9" * 400, 1, "not a finite number"),
        ("clik + 1", 1, "did you mean 'click'?"),
        ("  clik", 3, "no task"),
        ("rating if click else 0", 1, "not allowed"),
        ("click and rating", 1, "not allowed"),
        ("click < rating", 1, "not allowed"),
        ("not click", 1, "not allowed"),
        ("~click", 1, "not allowed"),
        ("click // 2", 1, "operator"),
        ("click % 2", 1, "operator"),
        ("click @ rating", 1, "operator"),
        ("[click]", 1, "not allowed"),
        ("lambda: 1", 1, "not allowed"),
        ("(x := 1)", 2, "not allowed"),
        ("[c for c in (1,)]", 1, "not allowed"),
        ("f'{click}'", 1, "not allowed"),
        ("eval('1')", 1, "no function"),
        ("log1p", 1, "no task"),
        ("log1p()", 1, "takes 1 plain"),
        ("clip(click, 0)", 1, "takes 3 plain"),
        ("min(click)", 1, "takes 2 to 9 plain"),
        ("min(*click, 1)", 1, "plain"),
        ("exp(x=click)", 1, "plain"),
        ("exp(**click)", 1, "plain"),
        ("click +", 7, "not a formula"),
        ("", 1, "not a formula"),
        ("click; rating", 6, "not a formula"),
        ("import os", 1, "not a formula"),
        ("click = 1", 7, "not a formula"),
        ("yield click", 1, "not a formula"),
        ("2click", 1, "not a formula"),
        ("click + é", 9, "no task"),
        ("é + click.real", 1, "no task"),
    ],
)
def test_hostile_and_mistaken_formulas_name_the_place(formula: str, position: int, what: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Blend.parse(formula, TASKS)
    message = str(caught.value)
    if what != "not a formula":  # where Python's own parser stops differs between its versions
        assert message.startswith(f"blend: position {position}: "), message
    assert re.match(r"blend: position \d+: ", message), message
    assert what in message
    assert message.endswith("a blend is made of click, rating, watch_time, numbers, + - * / **, brackets, log1p, exp, sqrt, min, max, clip")
    assert "\n" not in message


def test_positions_count_characters_not_bytes() -> None:
    with pytest.raises(ConfigError, match=r"position 5: 'clik'"):
        Blend.parse("é + clik", (*TASKS, "é"))


@pytest.mark.parametrize(
    "formula", ["(" * 240 + "click" + ")" * 240, "-" * (LONGEST - 5) + "click", "+".join(["1"] * 250), "\0click", "[" * 400]
)
def test_what_would_exhaust_the_parser_is_refused(formula: str) -> None:
    with pytest.raises(ConfigError, match=r"^blend: "):
        Blend.parse(formula, TASKS)


def test_long_formulas_are_refused_and_long_enough_ones_are_not() -> None:
    with pytest.raises(ConfigError, match=f"it may have {LONGEST}"):
        Blend.parse("click" + " " * LONGEST, TASKS)
    assert Blend.parse("+".join(["click"] * (DEEPEST - 1)), TASKS)(VALUES)[0] == pytest.approx(0.5 * (DEEPEST - 1))


def test_huge_powers_end_in_a_clear_error() -> None:
    """Of whole numbers this one would never end."""
    with pytest.raises(DataError, match=r"blend: '9\*\*9\*\*9\*\*9 \+ click' is inf for click = 0\.5.*keep it finite"):
        Blend.parse("9**9**9**9 + click", TASKS)(VALUES)


@pytest.mark.parametrize("formula", ["sqrt(click - 1)", "1 / watch_time", "log1p(0 - rating)", "(click - 1) ** 0.5", "exp(1000 * rating)"])
def test_scores_that_are_no_numbers_are_an_error(formula: str) -> None:
    with pytest.raises(DataError, match=r"for click = 0\.5, rating = 4, watch_time = 0; keep it finite"):
        Blend.parse(formula, TASKS)(VALUES)

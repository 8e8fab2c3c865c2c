"""One ranking score from several predictions, by a formula that the user declares.

    blend = "click * (0.3 + rating) ** 0.5 + 0.01 * log1p(watch_time)"

A weighted combination of predicted engagement and satisfaction is how Zhao et al. 2019, "Recommending What Video to Watch Next: a
Multitask Ranking System", section 4.2, order their slates. The formula is parsed into a tree, and only what is listed here may stand
in that tree: nothing is ever run as code.
"""

from __future__ import annotations

import ast
import difflib
import functools
import math
import operator
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from palate.types import ConfigError, DataError

Doubles = npt.NDArray[np.float64]

OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: np.power,
}
SIGNS: dict[type[ast.unaryop], Callable[[Any], Any]] = {ast.UAdd: operator.pos, ast.USub: operator.neg}
# name -> (least, most) arguments, and what it does to arrays
FUNCTIONS: dict[str, tuple[int, int, Callable[..., Any]]] = {
    "log1p": (1, 1, np.log1p),
    "exp": (1, 1, np.exp),
    "sqrt": (1, 1, np.sqrt),
    "min": (2, 9, lambda *values: functools.reduce(np.minimum, values)),
    "max": (2, 9, lambda *values: functools.reduce(np.maximum, values)),
    "clip": (3, 3, lambda value, low, high: np.minimum(np.maximum(value, low), high)),
}
LONGEST = 500  # characters
DEEPEST = 60  # brackets within brackets, terms of a sum


@dataclass(frozen=True)
class Blend:
    """A checked formula over task names. Made by `Blend.parse`; called with a column a task, it gives one score a row.

    >>> Blend.parse("click * sqrt(rating)", ("click", "rating"))({"click": np.array([0.5, 0.1]), "rating": np.array([4.0, 9.0])}).tolist()
    [1.0, 0.30000000000000004]
    """

    formula: str
    tasks: tuple[str, ...]
    tree: ast.expr

    @classmethod
    def parse(cls, formula: str, tasks: Sequence[str]) -> Blend:
        """Errors: ConfigError with the position (from 1) of what is not allowed, and what is."""
        if len(formula) > LONGEST:
            raise ConfigError(f"blend: the formula has {len(formula)} characters; it may have {LONGEST}")
        text = "".join(" " if letter.isspace() else letter for letter in formula)
        start = len(text) - len(text.lstrip())
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Python's advice on odd literals, which the check below refuses anyway
                tree = ast.parse(text[start:], mode="eval").body
        except SyntaxError as error:
            raise ConfigError(f"blend: position {start + (error.offset or 1)}: not a formula ({error.msg}); {_allowed(tasks)}") from None
        except (ValueError, RecursionError, MemoryError):
            raise ConfigError(f"blend: not a formula; {_allowed(tasks)}") from None
        _check(tree, text[start:], start, tuple(tasks), 1)
        return cls(formula, tuple(tasks), tree)

    def __call__(self, values: Mapping[str, npt.NDArray[Any]]) -> Doubles:
        """values: a column a task, all of one shape. Float64 of that shape. Errors: DataError where a score is not a finite number."""
        columns = {task: np.asarray(values[task], dtype=np.float64) for task in self.tasks}
        shape = np.broadcast_shapes(*(column.shape for column in columns.values()))
        with np.errstate(all="ignore"):
            scores = np.broadcast_to(np.asarray(_value(self.tree, columns), dtype=np.float64), shape)
        bad = ~np.isfinite(scores)
        if bad.any():
            first = tuple(int(axis[0]) for axis in np.nonzero(bad))
            given = ", ".join(f"{task} = {column[first]:g}" for task, column in columns.items())
            raise DataError(f"blend: {self.formula!r} is {scores[first]:g} for {given}; keep it finite with max, min or clip")
        return scores


def _check(node: ast.expr, text: str, start: int, tasks: tuple[str, ...], depth: int) -> None:
    """Walks the whole tree; whatever is not expressly allowed is an error."""

    def refuse(what: str, at: ast.expr = node) -> ConfigError:
        place = start + len(text.encode()[: at.col_offset].decode()) + 1
        return ConfigError(f"blend: position {place}: {what}; {_allowed(tasks)}")

    inner: list[ast.expr] = []
    if depth > DEEPEST:
        raise refuse(f"nested more than {DEEPEST} deep")
    if isinstance(node, ast.Constant):
        # bool is an int to Python; an int may be too large for a float
        if type(node.value) not in (int, float) or not math.isfinite(_number(node.value)):
            raise refuse(f"{_cited(node, text)} is not a finite number")
    elif isinstance(node, ast.Name):
        if node.id not in tasks:
            near = difflib.get_close_matches(node.id, tasks, n=1)
            raise refuse(f"{_cited(node, text)} is no task" + (f", did you mean {near[0]!r}?" if near else ""))
    elif isinstance(node, ast.BinOp):
        if type(node.op) not in OPERATORS:
            raise refuse(f"an operator in {_cited(node, text)} is not allowed")
        inner = [node.left, node.right]
    elif isinstance(node, ast.UnaryOp):
        if type(node.op) not in SIGNS:
            raise refuse(f"{_cited(node, text)} is not allowed")
        inner = [node.operand]
    elif isinstance(node, ast.Call):
        if not isinstance(node.func, ast.Name) or node.func.id not in FUNCTIONS:
            raise refuse(f"{_cited(node.func, text)} is no function of a blend")
        least, most, _ = FUNCTIONS[node.func.id]
        starred = any(isinstance(argument, ast.Starred) for argument in node.args)
        if node.keywords or starred or not least <= len(node.args) <= most:
            raise refuse(f"{node.func.id} takes {least if least == most else f'{least} to {most}'} plain arguments")
        inner = node.args
    else:
        raise refuse(f"{_cited(node, text)} is not allowed")
    for child in inner:
        _check(child, text, start, tasks, depth + 1)


def _value(node: ast.expr, columns: Mapping[str, Doubles]) -> Any:
    """The value of a checked tree. Numbers are floats, so that a power is an infinity at worst, and never a long computation."""
    if isinstance(node, ast.Constant):
        return np.float64(_number(node.value))
    if isinstance(node, ast.Name):
        return columns[node.id]
    if isinstance(node, ast.BinOp):
        return OPERATORS[type(node.op)](_value(node.left, columns), _value(node.right, columns))
    if isinstance(node, ast.UnaryOp):
        return SIGNS[type(node.op)](_value(node.operand, columns))
    assert isinstance(node, ast.Call)
    assert isinstance(node.func, ast.Name)
    return FUNCTIONS[node.func.id][2](*(_value(argument, columns) for argument in node.args))


def _number(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _cited(node: ast.expr, text: str) -> str:
    found = ast.get_source_segment(text, node) or type(node).__name__
    return repr(found if len(found) <= 40 else found[:37] + "...")


def _allowed(tasks: Sequence[str]) -> str:
    return f"a blend is made of {', '.join(tasks)}, numbers, + - * / **, brackets, {', '.join(FUNCTIONS)}"

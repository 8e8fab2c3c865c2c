"""Rules on item columns, as one writes them: `genres has "Comedy" and not (year < 1990 or language == "fr")`.

    rule        ::= all ("or" all)*
    all         ::= one ("and" one)*
    one         ::= "not" one | "(" rule ")" | column operator value
    operator    ::= "==" | "!=" | "<" | "<=" | ">" | ">=" | "has"
    value       ::= "text" | 'text' | number | true | false
    column      ::= letters, digits, _ and . | `anything in backquotes`

On a list column `has` and `==` mean "is among them", `!=` "is not among them". A missing value makes every comparison false but
`!=`, which it makes true: an item of unknown genre is not a horror film, and an item of unknown year is not from 1990 or later.
Dates are written as text: `released >= "1999-12-31"`. A recursive-descent parser; nothing is handed to Python's own.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from palate.config import unknown_key
from palate.types import Bools, ConfigError

_TOKENS = re.compile(
    r"""(?P<space>\s+)
    |(?P<text>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
    |(?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?(?![\w.]))
    |(?P<quoted>`[^`]+`)
    |(?P<word>[^\W\d][\w.]*)
    |(?P<operator>==|!=|<=|>=|<|>)
    |(?P<bracket>[()])""",
    re.VERBOSE,
)
_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}

_DEPTH = 50
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def allowed(items: pl.DataFrame, rules: Sequence[str]) -> Bools:
    """Which items pass all the rules: bool [N]. Errors (ConfigError) name the rule, the place, and the nearest column."""
    keep = np.ones(items.height, dtype=bool)
    for rule in rules:
        keep &= _Parser(rule, items).mask()
    return keep


class _Token(NamedTuple):
    kind: str
    text: str
    at: int


class _Parser:
    """One rule over one table: parses and evaluates in one go."""

    def __init__(self, rule: str, items: pl.DataFrame) -> None:
        self.rule, self.items = rule, items
        self.tokens = self._tokens()
        self.next = 0
        self.depth = 0

    def mask(self) -> Bools:
        keep = self._any()
        if self._peek().kind != "end":
            raise self._error("expected `and`, `or` or the end", self._peek())
        return keep

    def _tokens(self) -> list[_Token]:
        tokens, at = [], 0
        while at < len(self.rule):
            match = _TOKENS.match(self.rule, at)
            if match is None:
                raise self._error(_hint(self.rule, at), _Token("", self.rule[at:].split()[0], at))
            if match.lastgroup != "space":
                tokens.append(_Token(str(match.lastgroup), match.group(), at))
            at = match.end()
        return [*tokens, _Token("end", "the end", at)]

    def _peek(self) -> _Token:
        return self.tokens[self.next]

    def _take(self) -> _Token:
        self.next += 1
        return self.tokens[self.next - 1]

    def _word(self, word: str) -> bool:
        """Takes this word if it is next."""
        if self._peek().kind == "word" and self._peek().text.lower() == word:
            self.next += 1
            return True
        return False

    def _any(self) -> Bools:
        keep = self._all()
        while self._word("or"):
            keep = keep | self._all()
        return keep

    def _all(self) -> Bools:
        keep = self._one()
        while self._word("and"):
            keep = keep & self._one()
        return keep

    def _one(self) -> Bools:
        self.depth += 1
        if self.depth > _DEPTH:
            raise self._error(f"more than {_DEPTH} brackets and `not` within each other", self._peek())
        keep = self._nested()
        self.depth -= 1
        return keep

    def _nested(self) -> Bools:
        if self._word("not"):
            return ~self._one()
        if self._peek().text == "(" and self._peek().kind == "bracket":
            self._take()
            keep = self._any()
            if self._take().text != ")":
                raise self._error("expected `)`", self.tokens[self.next - 1])
            return keep
        return self._comparison()

    def _comparison(self) -> Bools:
        name = self._take()
        if name.kind not in ("word", "quoted"):
            raise self._error("expected a column", name)
        column = name.text.strip("`")
        if column not in self.items.columns:
            raise self._error(f"no column {column!r} ({unknown_key(column, self.items.columns).replace('no such key; ', '')})", name)
        sign = self._take()
        if sign.kind != "operator" and sign.text.lower() != "has":
            raise self._error("expected one of == != < <= > >= has", sign)
        value = self._take()
        series = self.items[column]
        if isinstance(series.dtype, (pl.List, pl.Array)):
            return self._among(series, name, sign, value)
        if sign.text.lower() == "has":
            raise self._error(f"{column} is no list column; use ==", sign)
        literal = self._literal(value, series.dtype, column)
        if series.dtype == pl.Boolean and sign.text not in ("==", "!="):
            raise self._error(f"{column} holds true or false; use == or !=", sign)
        result = _COMPARE[sign.text](_comparable(series, literal), literal)
        keep: Bools = result.fill_null(sign.text == "!=").to_numpy()
        return keep

    def _among(self, series: pl.Series, name: _Token, sign: _Token, value: _Token) -> Bools:
        if sign.text not in ("==", "!=") and sign.text.lower() != "has":
            raise self._error(f"{name.text} is a list column; use has", sign)
        inner = series.dtype.inner  # type: ignore[attr-defined]
        if not (inner.is_numeric() or inner in (pl.String, pl.Boolean) or isinstance(inner, (pl.Enum, pl.Categorical))):
            raise self._error(f"{name.text} is a list of {inner}, which rules cannot look into", name)
        literal = self._literal(value, inner, name.text)
        kind = pl.String if isinstance(literal, str) else pl.Boolean if isinstance(literal, bool) else pl.Float64
        lists, literal = series.cast(pl.List(kind)), literal if kind != pl.Float64 else float(literal)
        present: Bools = lists.list.contains(literal).fill_null(False).to_numpy()
        return ~present if sign.text == "!=" else present

    def _literal(self, token: _Token, dtype: pl.DataType, column: str) -> Any:
        """The value of a token, of the kind that the column holds."""
        textual = dtype == pl.String or isinstance(dtype, (pl.Enum, pl.Categorical))
        if token.kind == "text":
            text = re.sub(r"\\(.)", r"\1", token.text[1:-1])
            if textual:
                return text
            if dtype == pl.Date or isinstance(dtype, pl.Datetime):
                return self._moment(text, token)
            raise self._error(f"{column} holds {_plainly(dtype)}, not text", token)
        if token.kind == "number":
            if dtype.is_numeric():
                return int(token.text) if re.fullmatch(r"[+-]?\d{1,18}", token.text) else float(token.text)
            raise self._error(f'{column} holds {_plainly(dtype)}; put text and dates in "quotes"', token)
        if token.text.lower() in ("true", "false"):
            if dtype == pl.Boolean:
                return token.text.lower() == "true"
            raise self._error(f"{column} holds {_plainly(dtype)}, not true or false", token)
        raise self._error('expected a value: "text", a number, true or false', token)

    def _moment(self, text: str, token: _Token) -> int:
        """Microseconds since 1970; without a zone it is UTC, a date is its midnight."""
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            raise self._error("not a date such as 1999-12-31", token) from None
        return ((moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - _EPOCH) // timedelta(microseconds=1)

    def _error(self, message: str, token: _Token) -> ConfigError:
        return ConfigError(f"rule {self.rule!r}, place {token.at + 1} ({token.text}): {message}")


def _comparable(series: pl.Series, literal: Any) -> pl.Series:
    """The column in the type of the literal: text, microseconds, true or false, whole or other numbers."""
    if isinstance(literal, str):
        return series.cast(pl.String)
    if series.dtype.is_temporal():
        return series.cast(pl.Datetime("us", getattr(series.dtype, "time_zone", None))).to_physical()
    if series.dtype == pl.Boolean:
        return series
    whole = isinstance(literal, int) and series.dtype.is_integer() and series.dtype not in (pl.UInt64, pl.Int128)
    return series.cast(pl.Int64 if whole else pl.Float64)


def _plainly(dtype: pl.DataType) -> str:
    if dtype.is_numeric():
        return "numbers"
    if dtype.is_temporal():
        return "dates"
    if dtype == pl.String or isinstance(dtype, (pl.Enum, pl.Categorical)):
        return "text"
    return "true or false" if dtype == pl.Boolean else str(dtype)


def _hint(rule: str, at: int) -> str:
    if rule[at] in "\"'`":
        return f"the {rule[at]} is never closed"
    return "one `=` is not a comparison; use ==" if rule[at] == "=" else "not understood"

"""A click log as separated text: which column is what, and a piece of it as arrays. Each data set says what it is in `sources/`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from palate.data.fields import FRONT, LINE, Bytes, Problem, Split, binary, hexadecimal, integers, split, text_of, tokens
from palate.types import Bools, DataError, Longs

Columns = slice | list[int]


@dataclass(frozen=True)
class Parsed:
    """The rows of a piece of text.

    labels: uint8 [R]. dense: int64 [R, F], 0 where missing. keys: unsigned [R, S], what tells the values of a column apart.
    missing: bool [R, S]. lines: how many there were. problems: those that are no row.
    """

    labels: npt.NDArray[np.uint8]
    dense: Longs
    keys: npt.NDArray[Any]
    missing: Bools
    lines: int
    problems: list[Problem]


@dataclass(frozen=True)
class Keys:
    """keys: unsigned [R, S]. missing: bool [R, S]. bad: bool [R, C] of the text's columns `columns`, which are bad, and `what` they are."""

    keys: npt.NDArray[Any]
    missing: Bools
    bad: Bools
    columns: tuple[int, ...]
    what: str


@dataclass(frozen=True)
class Format:
    """How rows stand in a text file.

    columns: the names of all of a line's fields. label, dense, sparse: which of them are what. header: whether each file starts with the
    names ("maybe": where it does, that line is left out). days: into how many equal parts one file is cut. hex_keys: the categorical
    fields are hexadecimal numbers of 32 bits; else text.
    """

    name: str
    columns: tuple[str, ...]
    label: int
    dense: tuple[int, ...]
    sparse: tuple[int, ...]
    separator: str = "\t"
    header: bool | Literal["maybe"] = False
    days: int = 7
    hex_keys: bool = True

    @property
    def dense_names(self) -> tuple[str, ...]:
        return tuple(self.columns[place] for place in self.dense)

    @property
    def sparse_names(self) -> tuple[str, ...]:
        return tuple(self.columns[place] for place in self.sparse)

    @property
    def key_type(self) -> Any:
        return np.uint32 if self.hex_keys else np.uint64

    def parse(self, text: Bytes, start: int, stop: int) -> Parsed:
        """The rows of `text[start:stop]`, complete lines."""
        piece = split(text, start, stop, ord(self.separator), len(self.columns))
        rows = len(piece.line)
        labels, bad_labels = binary(piece, self.label)
        dense, bad_dense = np.zeros((rows, 0), dtype=np.int64), np.zeros((rows, 0), dtype=np.bool_)
        if self.dense:
            values, bad = integers(piece, run(self.dense))
            dense, bad_dense = values.reshape(rows, len(self.dense)), bad.reshape(rows, len(self.dense))
        values_of = self.keys(piece)
        keys, missing = values_of.keys, values_of.missing
        problems = list(piece.problems)
        for bad, columns, what in (
            (bad_labels[:, None], (self.label,), "not 0 or 1"),
            (bad_dense, self.dense, "not an integer"),
            (values_of.bad, values_of.columns, values_of.what),
        ):
            if bad.any():
                for row, place in zip(*np.nonzero(bad), strict=True):
                    shown = text_of(piece, row, columns[place])
                    problems.append(Problem(int(piece.line[row]), f"{self.columns[columns[place]]} is {shown[:40]!r}, {what}"))
        if len(problems) > len(piece.problems):
            good = ~np.isin(piece.line, [problem.line for problem in problems])
            labels, dense, keys, missing = labels[good], dense[good], keys[good], missing[good]
        first = {problem.line: problem for problem in reversed(problems)}  # one reason a line
        return Parsed(labels, dense, keys, missing, piece.lines, [first[line] for line in sorted(first)])

    def skip_header(self, text: Bytes, path: Path) -> tuple[int, int]:
        """Where the rows of a file's first block start, and the lines before them. Errors: DataError for a header of other columns."""
        if not self.header:
            return FRONT, 0
        end = FRONT + int(np.argmax(text[FRONT:] == LINE))
        names = text[FRONT:end].tobytes().decode("utf-8", "backslashreplace").strip("\r").removeprefix("\ufeff").split(self.separator)
        if tuple(names) != self.columns and self.header == "maybe":
            return FRONT, 0
        if tuple(names) != self.columns:
            raise DataError(f"{path}: the first line names {', '.join(names)[:200]}; expected {', '.join(self.columns)[:200]}")
        return end + 1, 1

    def keys(self, piece: Split) -> Keys:
        """The categorical values of a piece."""
        shape, columns = (len(piece.line), len(self.sparse)), run(self.sparse)
        if not self.hex_keys:
            found = tokens(piece, columns).reshape(shape)
            return Keys(found, found == 0, np.zeros((shape[0], 0), dtype=np.bool_), (), "")
        words, lengths = piece.words(columns)
        values, bad = hexadecimal(words, lengths)
        what = "not a hexadecimal number of at most 8 digits"
        return Keys(values.reshape(shape), (lengths == 0).reshape(shape), bad.reshape(shape), self.sparse, what)


def run(columns: tuple[int, ...]) -> Columns:
    """Neighbouring columns as a slice, which costs less to take."""
    if columns and columns == tuple(range(columns[0], columns[0] + len(columns))):
        return slice(columns[0], columns[0] + len(columns))
    return list(columns)

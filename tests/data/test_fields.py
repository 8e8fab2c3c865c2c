"""Every decoder against Python's own, on fields of every length and kind."""

from __future__ import annotations

import random

import numpy as np
import pytest

from palate.data.fields import FRONT, Split, binary, hexadecimal, integers, split, text_of, tokens


def cut(*rows: bytes, columns: int = 1, separator: bytes = b"\t") -> Split:
    text = np.frombuffer(b"\n" * FRONT + b"".join(row + b"\n" for row in rows), dtype=np.uint8)
    return split(text, FRONT, len(text), separator[0], columns)


def test_split_keeps_what_has_the_right_number_of_fields() -> None:
    piece = cut(b"a\tbb\t", b"one\ttwo", b"", b"\t\t\r", b"1\t2\t3\t4", b"x\ty\tz\r", columns=3)
    assert piece.line.tolist() == [0, 3, 5]
    assert piece.lines == 6
    assert [[text_of(piece, row, column) for column in range(3)] for row in range(3)] == [["a", "bb", ""], ["", "", ""], ["x", "y", "z"]]
    assert [(problem.line, problem.reason) for problem in piece.problems] == [
        (1, "2 columns, expected 3"),
        (2, "1 columns, expected 3"),
        (4, "4 columns, expected 3"),
    ]


def test_rows_that_make_up_for_each_other_are_both_bad() -> None:
    piece = cut(b"1\t2\t3", b"4", columns=2)  # four fields in two lines, as it should be, but not two each
    assert len(piece.line) == 0
    assert [problem.line for problem in piece.problems] == [0, 1]


def test_hexadecimal_as_python_reads_it() -> None:
    rng = random.Random(0)
    digits = "0123456789abcdefABCDEF"
    fields = ["".join(rng.choices(digits, k=rng.randrange(9))) for _ in range(500)] + ["ffffffff", "00000000", "0"]
    words, lengths = cut(*(field.encode() for field in fields)).words([0])
    values, bad = hexadecimal(words, lengths)
    assert values.tolist() == [int(field or "0", 16) for field in fields]
    assert not bad.any()


@pytest.mark.parametrize("place", [0, 3, 7])
def test_only_hexadecimal_digits_are_taken(place: int) -> None:
    """All 256 bytes, at each end and in the middle: exactly 22 are digits."""
    others = [byte for byte in range(256) if byte not in b"\t\n\r"]
    fields = [bytes([*b"0" * place, byte, *b"0" * (7 - place)]) for byte in others]
    piece = cut(*fields)
    _, bad = hexadecimal(*piece.words([0]))
    assert {others[row] for row in np.flatnonzero(~bad)} == set(b"0123456789abcdefABCDEF")


def test_integers_as_python_reads_them() -> None:
    rng = random.Random(1)
    fields = [str(rng.randrange(-(10**n), 10**n)) for n in range(1, 17) for _ in range(20)] + ["", "-0", "007", "9" * 16, "-" + "9" * 16]
    values, bad = integers(cut(*(field.encode() for field in fields)), [0])
    assert values.tolist() == [int(field or "0") for field in fields]
    assert not bad.any()


@pytest.mark.parametrize("field", [b"-", b"--1", b"1-", b"+1", b" 1", b"1.0", b"1e3", b"a", b"1234567a", b"a12345678", b"1" * 17, b"\xb9"])
def test_what_is_no_integer(field: bytes) -> None:
    assert integers(cut(b"5", field, b"6"), [0])[1].tolist() == [False, True, False]


def test_tokens_tell_texts_apart() -> None:
    fields = [b"", b"a", b"ab", b"\0", b"12345678", b"123456789", b"123456780", "über".encode(), b"a" * 500, b"a" * 501]
    keys = tokens(cut(*fields, *fields), [0])
    assert len(set(keys.tolist())) == len(fields) - 1  # the byte 0 alone is taken for an empty field
    assert keys[: len(fields)].tolist() == keys[len(fields) :].tolist()
    assert keys[0] == 0


def test_binary() -> None:
    values, bad = binary(cut(b"0", b"1", b"2", b"", b"01", b"/", b"t"), 0)
    assert values[:2].tolist() == [0, 1]
    assert bad.tolist() == [False, False, True, True, True, True, True]

"""Separated text to numbers, a piece of a file at a time, in numpy: what `palate prepare` reads click logs with.

A piece is cut at every separator and line end; each field is then the eight bytes before its end, read as one 64-bit word, and all fields
of a column are decoded at once by arithmetic on such words. That costs about what polars takes to make strings of the same text, and every
line that is not as it should be is known by its number. Pieces of some 128 KB keep the words in the processor's cache.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from palate.types import Bools, Longs

Bytes = npt.NDArray[np.uint8]
Words = npt.NDArray[np.uint64]

FRONT = 16  # bytes that stand before the text, so that every field has a word before its end
LINE, RETURN, MINUS, ZERO = 10, 13, 45, 48
W = np.uint64
ZEROS, ONES, HIGH = W(0x3030303030303030), W(0x0101010101010101), W(0x8080808080808080)
# The last n bytes of a word are its upper ones.
LAST: Words = np.array([(2**64 - 1) >> (64 - 8 * n) << (64 - 8 * n) if n else 0 for n in range(9)], dtype=np.uint64)


@dataclass(frozen=True)
class Problem:
    """A line that is no row. line: its number in the piece, from 0."""

    line: int
    reason: str


@dataclass
class Split:
    """The lines of a piece that have as many fields as they should.

    ends, lengths: int64 [R, C], where each field ends in `text` and how long it is. line: int64 [R], the line of each row, from 0.
    lines: how many lines there were. problems: the others.
    """

    text: Bytes
    ends: Longs
    lengths: Longs
    line: Longs
    lines: int
    problems: list[Problem] = field(default_factory=list)

    def words(self, columns: slice | list[int], back: int = 0) -> tuple[Words, Longs]:
        """The last eight bytes of the fields, `back` bytes earlier, the first the least: uint64 [R x columns]; and the lengths."""
        every: Words = np.lib.stride_tricks.as_strided(self.text[:8].view("<u8"), (len(self.text) - 7,), (1,), writeable=False)
        return every[(self.ends[:, columns] - (8 + back)).ravel()], self.lengths[:, columns].ravel()


def split(text: Bytes, start: int, stop: int, separator: int, columns: int) -> Split:
    """Cuts `text[start:stop]`, complete lines with at least FRONT bytes before them. Lines may end in CR LF."""
    piece = text[start:stop]
    mark = piece == separator
    mark |= piece == LINE
    ends = np.flatnonzero(mark)
    ends += start
    rows = len(ends) // columns
    line_ends = ends[columns - 1 :: columns]
    problems: list[Problem] = []
    regular = len(ends) == rows * columns and bool((text[line_ends] == LINE).all()) and np.count_nonzero(piece == LINE) == rows
    lengths = np.empty_like(ends)
    lengths[:1] = ends[:1] - start
    np.subtract(ends[1:], ends[:-1], out=lengths[1:])
    lengths[1:] -= 1
    lines, line = rows, np.arange(rows, dtype=np.int64)
    if not regular:
        last = np.flatnonzero(text[ends] == LINE)  # the place in `ends` of each line's end
        fields = np.diff(last, prepend=-1)
        lines, good = len(last), fields == columns
        problems = [Problem(int(n), f"{fields[n]} columns, expected {columns}") for n in np.flatnonzero(~good)]
        keep = np.repeat(good, fields)
        ends, lengths, line = ends[keep], lengths[keep], np.flatnonzero(good)
    found = Split(text, ends.reshape(-1, columns), lengths.reshape(-1, columns), line, lines, problems)
    returns = text[found.ends[:, -1] - 1] == RETURN
    returns &= found.lengths[:, -1] > 0
    found.ends[:, -1] -= returns
    found.lengths[:, -1] -= returns
    return found


def hexadecimal(words: Words, lengths: Longs) -> tuple[npt.NDArray[np.uint32], Bools]:
    """Fields of at most eight hexadecimal digits as numbers, and which are bad. An empty field is 0 and not bad.

    A digit c has the value (c & 15) + 9 for letters; it is one if writing that value again gives c.
    """
    empty = lengths == 0
    x = words
    if not ((lengths == 8) | empty).all():
        x = ((x ^ ZEROS) & LAST[np.minimum(lengths, 8)]) ^ ZEROS
    t = (x & W(0x4040404040404040)) >> W(1)  # capitals to small letters
    x = x | t
    t >>= W(5)
    t *= W(9)
    nibbles = x & W(0x0F0F0F0F0F0F0F0F)
    nibbles += t
    np.add(nibbles, W(0x0606060606060606), out=t)
    t >>= W(4)
    t &= ONES
    t *= W(39)
    t += nibbles
    t += ZEROS
    t ^= x
    t |= nibbles & W(0xF0F0F0F0F0F0F0F0)
    bad = t != 0
    bad |= lengths > 8
    bad &= ~empty
    nibbles *= W(0x1001)  # each with its neighbour: n << 12 | n
    nibbles >>= W(8)
    nibbles &= W(0x00FF00FF00FF00FF)
    np.left_shift(nibbles, W(8), out=t)
    nibbles >>= W(16)
    nibbles |= t
    nibbles &= W(0x0000FFFF0000FFFF)
    np.left_shift(nibbles, W(16), out=t)
    nibbles >>= W(32)
    nibbles |= t
    values = nibbles.astype(np.uint32)
    values[empty] = 0
    return values, bad


def integers(piece: Split, columns: slice | list[int]) -> tuple[Longs, Bools]:
    """Fields of at most sixteen decimal digits, with or without a minus, as int64 [R x columns]; and which are bad. Empty is 0, not bad."""
    words, lengths = piece.words(columns)
    empty = lengths == 0
    first = piece.ends[:, columns].ravel() - lengths
    negative = piece.text[first] == MINUS
    negative &= ~empty
    digits = lengths - negative
    values, bad = _digits(words, digits)
    long = np.flatnonzero(digits > 8)
    if len(long):
        upper, worse = _digits(piece.words(columns, back=8)[0][long], digits[long] - 8)
        values[long] += upper * 100_000_000
        bad[long] |= worse
    np.negative(values, out=values, where=negative)
    bad |= (digits > 16) | (negative & (digits == 0))
    return values, bad


def _digits(words: Words, digits: Longs) -> tuple[Longs, Bools]:
    """The number in the last `digits` bytes of each word (all eight, where there are more)."""
    x = words ^ ZEROS
    x &= LAST[np.minimum(digits, 8)]
    t = x + W(0x7676767676767676)
    t |= x
    t &= HIGH
    bad = t != 0
    for factor, shift, mask in ((10, 8, 0x00FF00FF00FF00FF), (100, 16, 0x0000FFFF0000FFFF), (10_000, 32, 0xFFFFFFFF)):
        np.right_shift(x, W(shift), out=t)
        x *= W(factor)
        x += t
        x &= W(mask)
    return x.view(np.int64), bad


def tokens(piece: Split, columns: slice | list[int]) -> Words:
    """Any text as a key, uint64 [R x columns]: its bytes where there are at most eight (0: empty), else 64 bits of their hash."""
    words, lengths = piece.words(columns)
    keys = words >> ((8 - lengths) * 8).clip(0, 63).astype(np.uint64)
    keys[lengths == 0] = 0
    long = np.flatnonzero(lengths > 8)
    if len(long):
        ends = piece.ends[:, columns].ravel()
        for place in long:  # few by the nature of such files
            raw = piece.text[ends[place] - lengths[place] : ends[place]].tobytes()
            keys[place] = _hash(raw)
    return keys


def _hash(raw: bytes) -> int:
    import hashlib

    return int.from_bytes(hashlib.blake2b(raw, digest_size=8).digest(), "little")


def binary(piece: Split, column: int) -> tuple[npt.NDArray[np.uint8], Bools]:
    """A field that is `0` or `1`; and which are bad."""
    value = piece.text[piece.ends[:, column] - 1] - np.uint8(ZERO)
    bad: Bools = (value > 1) | (piece.lengths[:, column] != 1)
    return value, bad


def text_of(piece: Split, row: int, column: int) -> str:
    """One field as text, for messages."""
    end, length = int(piece.ends[row, column]), int(piece.lengths[row, column])
    return piece.text[end - length : end].tobytes().decode("utf-8", "backslashreplace")

"""Text files as blocks of complete lines, plain or gz, and the checksum of the file on disk. Memory does not grow with the file."""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from palate.data.fields import FRONT, LINE, Bytes
from palate.types import DataError

BLOCK = 4 << 20  # bytes of text a block
LONGEST = 16  # blocks: a line longer than that is no line
PIECE = 1 << 20  # bytes of gz at a time
GZIP = b"\x1f\x8b"
PACKED = {
    b"PK\x03\x04": "zip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"7z\xbc\xaf": "7z",
    b"PAR1": "Parquet",
}


@dataclass(frozen=True)
class Block:
    """Complete lines. text: FRONT bytes, then the lines. number: of the block in the file; first_line: of its first line, both from 0."""

    text: Bytes
    number: int
    first_line: int
    lines: int


@dataclass
class Reader:
    """The blocks of one file, in order. The same text gives the same blocks, packed or not.

    After the last block `sha256` is that of the file on disk. advance: told of every byte read from it.
    """

    path: Path
    advance: Callable[[int], Any]
    block: int = BLOCK
    sha256: str = ""
    lines: int = 0
    _digest: Any = field(default_factory=hashlib.sha256)

    def __iter__(self) -> Iterator[Block]:
        try:
            with self.path.open("rb") as file:
                start = file.read(8)
                file.seek(0)
                for magic, kind in PACKED.items():
                    if start.startswith(magic):
                        raise DataError(f"{self.path}: a {kind} file; give it as plain text or gz")
                fill = self._unpacked(file) if start.startswith(GZIP) else self._plain(file)
                yield from self._blocks(fill)
        except OSError as error:
            raise DataError(f"{self.path}: cannot be read ({error.strerror or error})") from None
        self.sha256 = self._digest.hexdigest()

    def _blocks(self, fill: Callable[[memoryview], int]) -> Iterator[Block]:
        rest, number, size = b"", 0, self.block
        while True:
            buffer = bytearray(b"\n" * FRONT) + bytearray(size)
            buffer[FRONT : FRONT + len(rest)] = rest
            have = FRONT + len(rest)
            view = memoryview(buffer)
            while have < len(buffer):
                got = fill(view[have:])
                if not got:
                    break
                have += got
            ended = have < len(buffer)
            if ended and have > FRONT and buffer[have - 1] != LINE:  # the last line may lack its end
                buffer[have] = LINE
                have += 1
            stop = buffer.rfind(b"\n", FRONT, have) + 1
            if stop == 0 and not ended:
                if size >= LONGEST * self.block:
                    raise DataError(f"{self.path}: no end of line in {size:,} bytes after line {self.lines:,}; is it a text file?")
                rest, size = bytes(view[FRONT:have]), 2 * size
                continue
            if stop > FRONT:
                text = np.frombuffer(buffer, dtype=np.uint8)[:stop]
                lines = int(np.count_nonzero(text[FRONT:] == LINE))
                yield Block(text, number, self.lines, lines)
                self.lines += lines
                number += 1
            if ended:
                return
            rest, size = bytes(view[stop:have]), self.block

    def _plain(self, file: BinaryIO) -> Callable[[memoryview], int]:
        def fill(into: memoryview) -> int:
            got = int(file.readinto(into))  # type: ignore[attr-defined]
            self._digest.update(into[:got])
            self.advance(got)
            return got

        return fill

    def _unpacked(self, file: BinaryIO) -> Callable[[memoryview], int]:
        engine = zlib.decompressobj(wbits=31)
        waiting = b""

        def fill(into: memoryview) -> int:
            nonlocal engine, waiting
            try:
                while True:
                    if engine.eof:  # a file may be several gz streams after one another, and end in zeros
                        waiting = (waiting or engine.unused_data).lstrip(b"\0")
                        if not waiting:
                            waiting = self._next(file).lstrip(b"\0")
                            if not waiting:
                                return 0
                        engine = zlib.decompressobj(wbits=31)
                    if not waiting:
                        waiting = self._next(file)
                        if not waiting:
                            raise DataError(f"{self.path}: the gz file is cut short; fetch it again")
                    out = engine.decompress(waiting, len(into))
                    waiting = engine.unconsumed_tail
                    if out:
                        into[: len(out)] = out
                        return len(out)
            except zlib.error as error:
                raise DataError(f"{self.path}: the gz file is damaged after line {self.lines:,} ({error}); fetch it again") from None

        return fill

    def _next(self, file: BinaryIO) -> bytes:
        piece = file.read(PIECE)
        self._digest.update(piece)
        self.advance(len(piece))
        return piece


def sha256_of(path: Path) -> str:
    """The checksum of a file as it lies on disk."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def stamp(path: Path) -> tuple[int, int]:
    """Size in bytes and time of the last change in nanoseconds. Errors: DataError where there is no file, or an empty one."""
    try:
        found = os.stat(path)
    except OSError as error:
        raise DataError(f"{path}: {'no such file' if isinstance(error, FileNotFoundError) else error.strerror}") from None
    if not path.is_file():
        raise DataError(f"{path}: not a file; give the raw files one by one (day_0 day_1 ...)")
    if not found.st_size:
        raise DataError(f"{path}: the file is empty")
    return found.st_size, found.st_mtime_ns

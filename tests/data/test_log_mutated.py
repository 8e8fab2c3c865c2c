"""Two thousand damaged files: each gives a PalateError of one line, or a log in which every promise holds; never anything else."""

import io
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from palate.data.log import read
from palate.data.validate import validate
from palate.types import Log, PalateError

SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet", ".arrow")
DECLARED = {"kind": "kind", "value": "value", "context": ("hour", "tags")}


def original(suffix: str) -> bytes:
    rng = np.random.default_rng(1)
    rows = 12
    frame = pl.DataFrame(
        {
            "user": [f"u{number}" for number in rng.integers(0, 5, rows)],
            "item": [f'item, "{number}"' for number in rng.integers(0, 8, rows)],
            "time": rng.integers(1_500_000_000, 1_600_000_000, rows),
            "kind": rng.choice(["click", "view"], rows),
            "value": np.round(rng.random(rows), 3),
            "hour": rng.integers(0, 24, rows),
            "tags": ["a|ü", None, "c"] * 4,
            "other": ["x"] * rows,
        }
    )
    if suffix in (".parquet", ".arrow"):
        # dictionaries, lists and long texts: everything with pointers inside
        frame = frame.with_columns(
            pl.col("kind").cast(pl.Categorical),
            pl.col("tags").str.split("|"),
            item=pl.when(pl.int_range(pl.len()) % 3 == 0).then(pl.format("a rather long name {}", "item")).otherwise("item"),
        )
    buffer = io.BytesIO()
    match suffix:
        case ".csv":
            frame.write_csv(buffer)
        case ".tsv":
            frame.write_csv(buffer, separator="\t")
        case ".jsonl":
            frame.write_ndjson(buffer)
        case ".parquet":
            frame.write_parquet(buffer, compression="uncompressed" if rng.random() < 0.5 else "zstd")
        case _:
            frame.write_ipc(buffer)
    return buffer.getvalue()


def flip(data: bytearray, dice: random.Random) -> bytes:
    for _ in range(dice.choice([1, 1, 3, 20])):
        data[dice.randrange(len(data))] = dice.randrange(256)
    return bytes(data)


def truncate(data: bytearray, dice: random.Random) -> bytes:
    return bytes(data[: dice.randrange(len(data))])


def cut_out(data: bytearray, dice: random.Random) -> bytes:
    start = dice.randrange(len(data))
    return bytes(data[:start] + data[start + dice.randrange(1, 40) :])


def insert(data: bytearray, dice: random.Random) -> bytes:
    pieces = [
        b"\0",
        b'"',
        b"\n",
        b"\r",
        b",",
        b"\t",
        b"\xff\xfe",
        b"\xc3",
        b"1e999",
        b"-" * 9,
        b"9" * 30,
        b"nan",
        b"\xef\xbb\xbf",
        b"{",
        b"}]",
        b"null",
    ]
    place = dice.randrange(len(data))
    return bytes(data[:place] + dice.choice(pieces) * dice.choice([1, 1, 2, 500]) + data[place:])


def swap_separators(data: bytearray, dice: random.Random) -> bytes:
    old, new = dice.sample([b",", b"\t", b";", b"|", b"\n", b":", b'"', b" "], 2)
    return bytes(data).replace(old, new, dice.choice([1, 3, -1]))


def drop_a_column(data: bytearray, dice: random.Random) -> bytes:
    lines = bytes(data).split(b"\n")
    separator = dice.choice([b",", b"\t"])
    place = dice.randrange(8)
    kept = [separator.join(field for number, field in enumerate(line.split(separator)) if number != place) for line in lines]
    return b"\n".join(kept)


def move_lines(data: bytearray, dice: random.Random) -> bytes:
    lines = bytes(data).split(b"\n")
    dice.shuffle(lines)
    return b"\n".join(lines)


def double(data: bytearray, dice: random.Random) -> bytes:
    start = dice.randrange(len(data))
    end = min(len(data), start + dice.randrange(1, 300))
    return bytes(data[:end] + data[start:])


def huge_numbers(data: bytearray, dice: random.Random) -> bytes:
    text = bytes(data)
    for _ in range(dice.randrange(1, 4)):
        digit = dice.choice(b"0123456789")
        text = text.replace(bytes([digit]), dice.choice([b"9" * 25, b"-1", b"1e308", b"0x1F", b"", "٣".encode()]), 1)
    return text


def encode_otherwise(data: bytearray, dice: random.Random) -> bytes:
    return bytes(data).decode("utf-8", "replace").encode(dice.choice(["utf-16", "latin-1", "utf-32-le", "cp500"]), "replace")


MUTATIONS: tuple[Callable[[bytearray, random.Random], bytes], ...] = (
    flip, flip, flip, truncate, cut_out, insert, insert, swap_separators, drop_a_column, move_lines, double, huge_numbers, encode_otherwise,
)  # fmt: skip


def assert_sound(log: Log) -> None:
    """What every log promises."""
    assert len(log) >= 1
    events = log.events
    assert events.columns == ["user", "item", "time", "kind", "value", "hour", "tags"]
    assert not any(events.select("user", "item", "time", "kind").null_count().row(0))
    assert not events["value"].is_nan().any()
    assert not events["value"].is_infinite().any()
    assert (np.diff(log.times) >= 0).all()
    for ids in (log.users["user"], log.items["item"]):
        assert ids.dtype == pl.String
        assert ids.n_unique() == len(ids)
        assert not ids.str.contains(r"[\x00-\x1f\x7f]").any()
        assert (ids.str.strip_chars() != "").all()
    assert (log.user_codes < log.n_users).all()
    assert (log.item_codes < log.n_items).all()
    assert len(log.checksum) == 64


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_damaged_files_never_get_through(tmp_path: Path, suffix: str) -> None:
    good = original(suffix)
    dice = random.Random(suffix)
    path = tmp_path / f"events{suffix}"
    refused = read_well = 0
    for number in range(400):
        data = dice.choice(MUTATIONS)(bytearray(good), dice)
        path.write_bytes(data)
        try:
            log = read(path, **DECLARED)
        except PalateError as error:
            refused += 1
            message = str(error)
            assert "\n" not in message
            assert "events" in message
            assert len(message) < 500
        else:
            read_well += 1
            assert_sound(log)
        if number % 4 == 0:
            aside = tmp_path / "bad.jsonl"
            try:
                log = read(path, bad_rows=aside, **DECLARED)
            except PalateError:
                continue
            assert_sound(log)
            assert len(pl.read_ndjson(aside)) if aside.stat().st_size else True
        if number % 10 == 0:
            try:
                report = validate(path, **DECLARED)
            except PalateError:
                continue
            assert report.ok == (report.problem_count == 0)
    assert refused > 50
    assert refused + read_well == 400

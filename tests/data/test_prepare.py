from __future__ import annotations

import fcntl
import gzip
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_clicks import SMALL, contents, lines

from palate.data import prepare as preparing
from palate.data.prepare import Options, in_order_of_days, prepare, transformed
from palate.data.shards import open_split, read_manifest
from palate.data.sources import formats
from palate.data.sources.avazu import AVAZU
from palate.data.sources.criteo import CRITEO
from palate.features.rows import Rows
from palate.types import ConfigError, DataError

SPLITS = ("train", "valid", "test")


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Many blocks and shards of few rows; files with real rows are read as they would be."""
    if "real" in request.node.name:
        return
    for name, value in SMALL.items():
        monkeypatch.setattr(preparing, name, value)


def write(path: Path, rows: list[str], end: str = "\n") -> Path:
    path.write_bytes((end.join(rows) + end).encode())
    return path


def arrays(out: Path, splits: tuple[str, ...] = SPLITS) -> dict[str, np.ndarray[Any, Any]]:
    manifest = read_manifest(out)
    parts = [part for split in splits for part in open_split(out, manifest, split)]
    return {name: np.concatenate([part[name] for part in parts]) for name in ("labels", "dense", "ids")}


def row(label: int = 0, integers: str = "", categories: str = "") -> str:
    """A row by hand: the first integers and categories; the others are missing."""
    given = [*integers.split(",")] + [""] * 13
    named = [*categories.split(",")] + [""] * 26
    return "\t".join([str(label), *given[:13], *named[:26]])


@pytest.mark.parametrize(
    "options",
    [
        Options(),
        Options(min_count=4),
        Options(max_ind_range=7),
        Options(dense="none", buckets=11),
        Options(dense="log-square", min_count=3),
    ],
    ids=str,
)
def test_against_a_plain_reading_of_the_same_file(options: Options, tmp_path: Path) -> None:
    """Row by row and column by column, with dictionaries, as one would write it without a thought of speed."""
    text = lines(700)
    out = tmp_path / "out"
    told = prepare(CRITEO, [write(tmp_path / "train.txt", text)], out, options)
    found, inputs = arrays(out), read_manifest(out).inputs
    rows = [line.split("\t") for line in text]
    assert found["labels"][:, 0].tolist() == [int(r[0]) for r in rows]
    assert told["splits"] == {"train": 600, "valid": 50, "test": 50}
    integers = [[int(value or 0) for value in r[1:14]] for r in rows]
    if options.dense == "log":
        assert np.allclose(found["dense"], np.log1p(np.maximum(np.array(integers), 0)), rtol=1e-6, atol=0)
    elif options.dense == "none":
        assert np.allclose(found["dense"], np.array(integers), rtol=1e-6, atol=0)
    columns: list[list[Any]] = [[int(r[14 + c], 16) if r[14 + c] else None for r in rows] for c in range(26)]
    if options.max_ind_range:
        columns = [[value if value is None else value % options.max_ind_range for value in column] for column in columns]
    if options.dense == "log-square":
        assert inputs.dense == ()
        codes = [[math.floor(math.log(x) ** 2) if x > 2 else x for x in column] for column in zip(*integers, strict=True)]
        columns = [*codes, *columns]
    assert [feature.name for feature in inputs.sparse][-26:] == [f"C{n}" for n in range(1, 27)]
    for place, column in enumerate(columns):
        ids = found["ids"][:, place].tolist()
        assert all((i == 0) == (value is None) for i, value in zip(ids, column, strict=True))
        pairs = {(value, i) for i, value in zip(ids, column, strict=True) if value is not None}
        assert len({value for value, _ in pairs}) == len(pairs)  # one id a value
        if options.buckets:
            assert inputs.sparse[place].rows == options.buckets + 2
            assert min(i for _, i in pairs) >= 2
            assert max(i for _, i in pairs) < options.buckets + 2
            continue
        often = {value for value, n in Counter(column[:600]).items() if n >= options.min_count and value is not None}
        assert {value for value, i in pairs if i >= 2} == often
        assert sorted({i for _, i in pairs if i >= 2}) == list(range(2, 2 + len(often)))
        assert inputs.sparse[place].rows == 2 + len(often)


def test_thresholds_and_days_by_hand(tmp_path: Path) -> None:
    """Sixteen rows are seven days of 3, 3, 2, 2, 2, 2, 2 rows; the last row of day 6 is the test set, the one before it valid.

    Column C1 in the 14 training rows: a three times, b twice, c once. c stands three times in all, but twice after training.
    """
    text = [row(n % 2, str(n), value) for n, value in enumerate(["a", "b", "a", "", "c", "b", "", "", "a", *[""] * 5, "c", "c"])]
    told = prepare(CRITEO, [write(tmp_path / "train.txt", text)], tmp_path / "out", Options(min_count=2))
    assert told["days"] == {"day_0": 3, "day_1": 3, "day_2": 2, "day_3": 2, "day_4": 2, "day_5": 2, "day_6": 2}
    first = arrays(tmp_path / "out")["ids"][:, 0].tolist()
    a, b = first[0], first[1]
    assert {a, b} == {2, 3}
    assert first == [a, b, a, 0, 1, b, 0, 0, a, 0, 0, 0, 0, 0, 1, 1]
    assert told["tables"]["C1"] == 4  # missing, rare, a, b
    assert told["tables"]["C2"] == 2
    day = arrays(tmp_path / "out", ("day_1",))
    assert day["dense"][:, 0] == pytest.approx(np.log1p([3, 4, 5]))
    assert len(Rows.open(tmp_path / "out", "valid")) == len(Rows.open(tmp_path / "out", "test")) == 1


def test_transforms_by_hand() -> None:
    """ln(3)^2 = 1.21, ln(4)^2 = 1.92, ln(10)^2 = 5.30, ln(1000)^2 = 47.72; (the logarithm to base 2 would give 2, 4, 11, 99)."""
    values = np.array([[-2, 0, 1, 2, 3, 4, 10, 1000]])
    assert transformed(values, "log-square").tolist() == [[-2, 0, 1, 2, 1, 1, 5, 47]]
    assert transformed(values, "log")[0].tolist() == pytest.approx([0, 0, *np.log([2, 3, 4, 5, 11, 1001])])
    assert transformed(values, "none").tolist() == [[-2, 0, 1, 2, 3, 4, 10, 1000]]


def test_gz_plain_and_many_files_are_the_same(tmp_path: Path) -> None:
    """A file; the same packed, in several gz streams; with CR LF and no end of its last line; and as seven files of a day each."""
    text = lines(140)
    plain = write(tmp_path / "train.txt", text)
    raw = plain.read_bytes()
    packed = tmp_path / "train.txt.gz"
    packed.write_bytes(gzip.compress(raw[:5000]) + gzip.compress(b"") + gzip.compress(raw[5000:]) + b"\0\0\0\0")
    windows = tmp_path / "windows.txt"
    windows.write_bytes("\r\n".join(text).encode())
    days = [write(tmp_path / f"day_{day}", text[20 * day : 20 * day + 20]) for day in range(7)]
    made = {}
    for name, files in {"plain": [plain], "packed": [packed], "windows": [windows], "days": days[::-1]}.items():
        prepare(CRITEO, files, tmp_path / name)
        made[name] = {path: data for path, data in contents(tmp_path / name).items() if path != "manifest.json"}
    assert made["plain"] == made["packed"] == made["windows"] == made["days"]
    assert len(made["plain"]) == 26 + 8
    assert [entry["name"] for entry in read_manifest(tmp_path / "days").about["raw"]] == [f"day_{day}" for day in range(7)]


def test_days_come_in_the_order_of_their_numbers() -> None:
    shell = [Path("day_0"), Path("day_1"), Path("day_10"), Path("day_2")]
    assert [path.name for path in in_order_of_days(shell)] == ["day_0", "day_1", "day_2", "day_10"]
    assert in_order_of_days([Path("b"), Path("a")]) == [Path("b"), Path("a")]  # nothing tells, so as given
    with pytest.raises(ConfigError, match="given twice"):
        in_order_of_days([Path("a"), Path("a")])


DAMAGE: list[tuple[str, Callable[[list[str]], None], str]] = [
    ("too few", lambda f: f.pop(), "39 columns, expected 40"),
    ("too many", lambda f: f.append("x"), "41 columns, expected 40"),
    ("empty", lambda f: f.clear(), "1 columns, expected 40"),
    ("label", lambda f: f.__setitem__(0, "2"), "label is '2', not 0 or 1"),
    ("no label", lambda f: f.__setitem__(0, ""), "label is '', not 0 or 1"),
    ("fraction", lambda f: f.__setitem__(3, "1.5"), "I3 is '1.5', not an integer"),
    ("word", lambda f: f.__setitem__(13, "many"), "I13 is 'many', not an integer"),
    ("minus", lambda f: f.__setitem__(1, "-"), "I1 is '-', not an integer"),
    ("astronomic", lambda f: f.__setitem__(2, "1" * 19), "I2 is '1111111111111111111', not an integer"),
    ("not hex", lambda f: f.__setitem__(14, "0000000g"), "C1 is '0000000g', not a hexadecimal number"),
    ("long hex", lambda f: f.__setitem__(39, "123456789"), "C26 is '123456789', not a hexadecimal number"),
    ("a hole", lambda f: f.__setitem__(20, "a\0000000"), "C7 is 'a\\x000000', not a hexadecimal number"),
    ("accents", lambda f: f.__setitem__(20, "é"), "C7 is 'é', not a hexadecimal number"),
]


def test_damaged_rows_are_set_aside(tmp_path: Path) -> None:
    """Each kind of damage at a known line, over several blocks; the others are as if those lines were not there."""
    good = lines(400)
    text, at = list(good), {}
    for place, (name, damage, reason) in enumerate(DAMAGE):
        fields = lines(1, seed=place)[0].split("\t")
        damage(fields)
        where = 28 * place + 5
        text.insert(where, "\t".join(fields))
        at[name] = (where + 1, reason)
    raw = write(tmp_path / "train.txt", text)
    told = prepare(CRITEO, [raw], tmp_path / "out", max_bad=0.1)
    assert told["bad_rows"] == len(DAMAGE)
    assert told["rows"] == len(good)
    found = (tmp_path / "out" / "bad_rows.tsv").read_text().split("\n")
    assert found[0] == "file\tline\treason\ttext"
    assert found[-1] == ""
    for (line, reason), entry in zip(at.values(), found[1:-1], strict=True):
        name, number, why, shown = entry.split("\t", 3)
        assert (name, int(number)) == ("train.txt", line)
        assert why.startswith(reason)
        assert shown == text[line - 1]
    prepare(CRITEO, [write(tmp_path / "clean.txt", good)], tmp_path / "clean")
    for split in SPLITS:
        for one, other in zip(
            open_split(tmp_path / "out", read_manifest(tmp_path / "out"), split),
            open_split(tmp_path / "clean", read_manifest(tmp_path / "clean"), split),
            strict=True,
        ):
            assert all((one[name] == other[name]).all() for name in one)


def test_too_many_damaged_rows_are_an_error_that_can_be_lifted(tmp_path: Path) -> None:
    raw = write(tmp_path / "train.txt", [*lines(200), "x", "y"])
    with pytest.raises(
        DataError, match=r"2 of 202 lines are damaged \(0.99%, more than --max-bad 0.001\); the first is train.txt line 201"
    ):
        prepare(CRITEO, [raw], tmp_path / "out")
    assert (tmp_path / "out" / "bad_rows.tsv").read_text().count("\n") == 3
    assert prepare(CRITEO, [raw], tmp_path / "out", max_bad=0.01)["rows"] == 200


def test_a_wholly_other_file_is_refused_before_its_end(tmp_path: Path) -> None:
    raw = write(tmp_path / "log.csv", ["a,b,c"] * 20_000)
    with pytest.raises(
        DataError, match=r"log.csv: [\d,]+ of the first [\d,]+ lines are no rows of criteo; the first is log.csv line 1: 1 columns"
    ):
        prepare(CRITEO, [raw], tmp_path / "out")
    assert (tmp_path / "out" / "bad_rows.tsv").read_text().count("\n") < 15_000


def flipped(data: bytes) -> bytes:
    """One byte in the middle is another."""
    return data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 255]) + data[len(data) // 2 + 1 :]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "no such file"),
        (lambda path: path.write_bytes(b""), "the file is empty"),
        (lambda path: path.mkdir(), "not a file; give the raw files one by one"),
        (lambda path: path.write_bytes(b"PK\x03\x04 and more"), "a zip file; give it as plain text or gz"),
        (lambda path: path.write_bytes(gzip.compress(b"0\t" * 4000)[:-12]), "the gz file is cut short"),
        (lambda path: path.write_bytes(flipped(gzip.compress("\n".join(lines(50)).encode()))), "the gz file is damaged"),
        (lambda path: path.write_bytes(b"0" * (20 << 14)), "no end of line in"),
        (lambda path: path.write_bytes(b"\n".join([b""] * 9)), "holds no row of criteo"),
        (lambda path: write(path, lines(5)), "5 rows are too few for 7 days"),
    ],
)
def test_files_that_are_none(make: Callable[[Path], Any], message: str, tmp_path: Path) -> None:
    make(tmp_path / "train.txt")
    with pytest.raises(DataError, match=message) as caught:
        prepare(CRITEO, [tmp_path / "train.txt"], tmp_path / "out")
    assert "\n" not in str(caught.value)


def test_what_is_there_is_reused_only_if_nothing_changed(tmp_path: Path) -> None:
    text = lines(70)
    raw, out = write(tmp_path / "train.txt", text), tmp_path / "out"
    assert not prepare(CRITEO, [raw], out)["reused"]
    before = contents(out)
    assert prepare(CRITEO, [raw], out)["reused"]
    os.utime(raw, ns=(1, 1))  # another date, the same contents
    assert prepare(CRITEO, [raw], out)["reused"]
    with pytest.raises(DataError, match=r"--min-count was 1, now 2"):
        prepare(CRITEO, [raw], out, Options(min_count=2))
    with pytest.raises(DataError, match=r"raw files were train.txt, now other.txt"):
        prepare(CRITEO, [write(tmp_path / "other.txt", text)], out)
    with pytest.raises(DataError, match=r"its format was criteo, now avazu"):
        prepare(AVAZU, [raw], out)
    write(raw, ["1" + line[1:] for line in text])  # the same size
    with pytest.raises(DataError, match=r"has changed since it was prepared \(its sha256 differs\)"):
        prepare(CRITEO, [raw], out)
    write(raw, lines(71))
    with pytest.raises(DataError, match=r"train.txt has changed since \([\d,]+ bytes, now [\d,]+\)"):
        prepare(CRITEO, [raw], out)
    assert contents(out) == before


def test_folders_that_belong_to_others(tmp_path: Path) -> None:
    raw, out = write(tmp_path / "train.txt", lines(70)), tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    with pytest.raises(DataError, match="exists and holds something else"):
        prepare(CRITEO, [raw], out)
    (out / "thesis.txt").unlink()
    (out / ".work").mkdir()
    with (out / ".work" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(DataError, match="another `palate prepare` is at work there"):
            prepare(CRITEO, [raw], out)
    with pytest.raises(DataError, match=r"an unfinished preparation of other data is there \(--dense was log, now none\)"):
        prepare(CRITEO, [raw], out, Options(dense="none"))
    assert prepare(CRITEO, [raw], out)["rows"] == 70


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (Options(buckets=10, min_count=2), "--buckets hashes and counts nothing, so --min-count"),
        (Options(buckets=10, max_ind_range=5), "so --max-ind-range"),
        (Options(min_count=0), "--min-count: from 1 to"),
        (Options(days=1), "--days: from 2 to"),
        (Options(dense="log2"), "--dense: log, log-square or none, got 'log2'"),  # type: ignore[arg-type]
    ],
)
def test_options_that_cannot_be(options: Options, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        prepare(CRITEO, [tmp_path / "none"], tmp_path / "out", options)


def process(raw: Path, out: Path, constants: dict[str, int], options: dict[str, Any], pause: float) -> subprocess.Popen[str]:
    script = Path(__file__).with_name("small_clicks.py")
    command = [sys.executable, str(script), str(raw), str(out), json.dumps(constants), json.dumps(options), str(pause)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def kill_when(child: subprocess.Popen[str], folder: Path, pattern: str, number: int) -> None:
    """SIGKILL as soon as so many files match."""
    deadline = time.monotonic() + 240
    while len(list(folder.glob(pattern))) < number:
        assert child.poll() is None, child.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.kill(child.pid, signal.SIGKILL)
    child.communicate()
    assert child.returncode == -signal.SIGKILL


def test_killed_in_every_pass_and_taken_up(tmp_path: Path) -> None:
    """SIGKILL while reading, while counting and while encoding: the result is that of an undisturbed run, byte for byte."""
    raw, out = write(tmp_path / "train.txt", [*lines(1200), "damaged"]), tmp_path / "out"
    options = {"min_count": 2}
    prepare(CRITEO, [raw], tmp_path / "whole", Options(**options))  # type: ignore[arg-type]
    work = out / ".work"

    child = process(raw, out, SMALL, options, pause=0.02)
    kill_when(child, work / "rows", "*.safetensors", 5)
    kept = {path.name: path.stat().st_ino for path in (work / "rows").glob("*.safetensors")}
    assert not (work / "plan.json").exists()

    child = process(raw, out, SMALL, options, pause=0.02)
    kill_when(child, work / "runs", "*.safetensors", 2)
    assert {name: (work / "rows" / name).stat().st_ino for name in kept} == kept  # not read again
    assert not (work / "sizes.json").exists()

    child = process(raw, out, SMALL, options, pause=0.02)
    kill_when(child, out / "train", "*.safetensors", 10)
    kept = {path.name: path.stat().st_ino for path in (out / "train").glob("*.safetensors")}
    assert not (out / "manifest.json").exists()

    child = process(raw, out, SMALL, options, pause=0.0)
    said = child.communicate()
    assert child.returncode == 0, said
    assert {name: (out / "train" / name).stat().st_ino for name in kept} == kept  # not encoded again
    assert contents(out) == contents(tmp_path / "whole")
    assert "bad_rows.tsv" in contents(out)


def test_ctrl_c_says_how_to_go_on(tmp_path: Path) -> None:
    raw, out = write(tmp_path / "train.txt", lines(1200)), tmp_path / "out"
    child = process(raw, out, SMALL, {}, pause=0.05)
    while not (out / ".work" / "rows").is_dir():
        assert child.poll() is None, child.communicate()
        time.sleep(0.002)
    child.send_signal(signal.SIGINT)
    problem = child.communicate()[1].strip().splitlines()[-1]
    assert problem.endswith("out: stopped; the same command goes on from there"), problem
    assert not (out / "manifest.json").exists()
    assert prepare(CRITEO, [raw], out)["rows"] == 1200


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="the peak of memory is read from /proc")
def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """Small blocks and shards, a process each: five times the rows, 18 MB more text, at most 8 MB more memory."""
    constants = {"BLOCK": 1 << 18, "GROUP": 1 << 13, "SHARD": 1 << 12}
    peaks = {}
    text = ("\n".join(lines(2000, values=500)) + "\n").encode()
    for times in (10, 50):
        raw = tmp_path / f"train-{times}.txt"
        with raw.open("wb") as file:
            for _ in range(times):
                file.write(text)
        child = process(raw, tmp_path / f"out-{times}", constants, {}, pause=0.0)
        said, problem = child.communicate()
        assert child.returncode == 0, problem
        peaks[times] = float(said)
    assert raw.stat().st_size > 20 << 20
    assert peaks[50] < peaks[10] + 8, peaks


def test_any_csv_by_its_header(tmp_path: Path) -> None:
    raw = tmp_path / "log.csv"
    rows = [
        f"{n % 3 == 0:d},{n},{['red', 'blue, deep', 'a very long name of a colour'][n % 3].replace(',', '')},x{n % 2}" for n in range(40)
    ]
    raw.write_text("\ufeffclicked,price,colour,site\n" + "\n".join(rows) + "\n")
    form, dense = formats.find("csv", [raw], label="clicked", dense="price", sparse="colour,site")
    told = prepare(form, [raw], tmp_path / "out", Options(dense))
    found = arrays(tmp_path / "out")
    assert found["dense"][:, 0].tolist() == list(range(40))
    assert found["labels"][:, 0].tolist() == [n % 3 == 0 for n in range(40)]
    assert told["tables"] == {"colour": 5, "site": 4}
    assert len(set(found["ids"][:3, 0])) == 3
    assert (found["ids"][3:, 0] == found["ids"][:-3, 0]).all()
    with pytest.raises(DataError, match=r"log.csv: column 'colour2' stands 0 times in the header; it has clicked, price, colour, site"):
        formats.find("csv", [raw], label="clicked", dense="price", sparse="colour2")
    with pytest.raises(ConfigError, match="column 'price' is named twice"):
        formats.find("csv", [raw], label="clicked", dense="price", sparse="price")
    with pytest.raises(ConfigError, match="no format 'critéo'; did you mean `criteo`"):
        formats.find("critéo", [raw])
    with pytest.raises(ConfigError, match="--label and --sparse belong to `palate prepare csv`"):
        formats.find("avazu", [raw], label="click")


def real(name: str) -> Path:
    root = os.environ.get("PALATE_DATA")
    if not root or not (Path(root) / name / "train.csv").is_file():
        pytest.skip(f"PALATE_DATA holds no {name}/train.csv (rows of the real set)")
    return Path(root) / name


def test_real_rows_of_criteo(tmp_path: Path) -> None:
    """7,200 lines of the Kaggle file (tab-separated, whatever their suffix says), against a reading with polars."""
    import polars as pl

    raw = real("criteo") / "train.csv"
    told = prepare(CRITEO, [raw], tmp_path / "out")
    frame = pl.read_csv(raw, separator="\t", has_header=False, infer_schema=False)
    assert told["rows"] == frame.height == 7200
    assert told["bad_rows"] == 0
    found = arrays(tmp_path / "out")
    assert found["labels"][:, 0].tolist() == frame.to_series(0).cast(pl.Int64).to_list()
    integers = frame.select(pl.nth(range(1, 14)).cast(pl.Int64).fill_null(0).clip(lower_bound=0)).to_numpy()
    assert np.allclose(found["dense"], np.log1p(integers), rtol=1e-6, atol=0)
    training = told["splits"]["train"]
    for column in range(26):
        values = frame.to_series(14 + column)
        assert told["tables"][f"C{column + 1}"] == 2 + values[:training].drop_nulls().n_unique()
        assert ((found["ids"][:, column] == 0) == values.is_null().to_numpy()).all()


def test_real_rows_of_criteo_that_someone_has_worked_on_are_refused(tmp_path: Path) -> None:
    raw = real("criteo") / "snail_train.txt"
    with pytest.raises(DataError, match=r"1,999 of the first 1,999 lines are no rows of criteo; .* line 1: I1 is '1.0', not an integer"):
        prepare(CRITEO, [raw], tmp_path / "out")


def test_real_rows_of_avazu(tmp_path: Path) -> None:
    """A file with a header and one without; all are of Tuesday, 21 October 2014, at midnight."""
    folder = real("avazu")
    told = prepare(AVAZU, [folder / "train.csv", folder / "test.csv"], tmp_path / "out")
    assert told["rows"] == 8087 + 432
    assert told["bad_rows"] == 0
    assert list(told["tables"])[:4] == ["hour", "weekday", "is_weekend", "C1"]
    assert len(told["tables"]) == 24
    assert told["tables"]["weekday"] == told["tables"]["is_weekend"] == 3
    import polars as pl

    frame = pl.read_csv(folder / "train.csv", infer_schema=False)
    ids = arrays(tmp_path / "out", ("train",))["ids"]
    assert told["tables"]["device_ip"] == 2 + frame["device_ip"].n_unique()
    codes = dict(zip(frame["device_ip"], ids[:, list(told["tables"]).index("device_ip")], strict=True))
    assert [codes[value] for value in frame["device_ip"]] == ids[:, list(told["tables"]).index("device_ip")].tolist()

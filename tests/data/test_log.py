"""The gate: the same log from every format, every kind of bad row refused by file, row and column, nothing lost when set aside."""

import hashlib
import json
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from palate.data import tables
from palate.data.log import read
from palate.types import DataError, Log

DECLARED = {"kind": "kind", "value": "value", "context": ("hour", "device")}

# Anything a person may call an id, but what the gate refuses: blank, or with control characters.
names = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), min_size=1, max_size=8).filter(
    lambda text: text.strip() != ""
)
events = st.lists(
    st.fixed_dictionaries(
        {
            "user": names,
            "item": names,
            "time": st.integers(0, 2_000_000_000),
            "kind": st.sampled_from(["click", "view", "hide"]),
            "value": st.none() | st.floats(-1e6, 1e6, width=32),
            "hour": st.integers(0, 23),
            "device": st.none() | st.sampled_from(["phone", "desk, top", 'a "tablet"', "ünï"]),
        }
    ),
    min_size=1,
    max_size=30,
)
SCHEMA = {
    "user": pl.String,
    "item": pl.String,
    "time": pl.Int64,
    "kind": pl.String,
    "value": pl.Float64,
    "hour": pl.Int64,
    "device": pl.String,
}


def as_file(frame: pl.DataFrame, folder: Path, suffix: str) -> Path:
    path = folder / f"events{suffix}"
    match suffix:
        case ".csv":
            frame.write_csv(path)
        case ".tsv":
            frame.write_csv(path, separator="\t")
        case ".jsonl":
            frame.write_ndjson(path)
        case ".parquet":
            frame.write_parquet(path)
        case ".arrow":
            frame.write_ipc(path)
    return path


def assert_same(one: Log, other: Log) -> None:
    assert_frame_equal(one.events, other.events)
    assert_frame_equal(one.users, other.users)
    assert_frame_equal(one.items, other.items)
    assert (one.positive, one.negative) == (other.positive, other.negative)


@given(rows=events)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_format_gives_the_same_log(rows: list[dict[str, object]], tmp_path: Path) -> None:
    frame = pl.DataFrame(rows, schema=SCHEMA)
    expected = read(frame, **DECLARED)
    for suffix in (".csv", ".tsv", ".jsonl", ".parquet", ".arrow"):
        path = as_file(frame, tmp_path, suffix)
        log = read(path, **DECLARED)
        assert_same(log, expected)
        assert log.checksum == hashlib.sha256(path.read_bytes()).hexdigest()
        assert log.name == "events"
    for source in (frame.to_pandas(), frame.to_arrow(), frame.lazy()):
        assert_same(read(source, **DECLARED), expected)


@given(rows=events)
@settings(max_examples=60, deadline=None)
def test_the_log_keeps_what_the_rows_said(rows: list[dict[str, object]]) -> None:
    log = read(pl.DataFrame(rows, schema=SCHEMA), **DECLARED)
    # sorted() is stable, and so must the log be
    expected = sorted(rows, key=lambda row: row["time"])
    assert log.events["user"].cast(pl.String).to_list() == [row["user"] for row in expected]
    assert log.events["item"].cast(pl.String).to_list() == [row["item"] for row in expected]
    assert log.times.tolist() == [row["time"] * 1_000_000 for row in expected]
    assert log.events["kind"].cast(pl.String).to_list() == [row["kind"] for row in expected]
    assert log.events["value"].to_list() == [row["value"] for row in expected]
    assert log.events["hour"].to_list() == [row["hour"] for row in expected]
    assert log.users["user"].gather(log.user_codes).to_list() == [row["user"] for row in expected]
    assert log.users["user"].to_list() == list(dict.fromkeys(row["user"] for row in rows))
    assert log.items["item"].to_list() == list(dict.fromkeys(row["item"] for row in rows))
    assert log.events["time"].dtype == pl.Datetime("us")
    assert log.events["value"].dtype == pl.Float32


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks so small that every file has many."""
    monkeypatch.setattr(tables, "BLOCK", 256)
    monkeypatch.setattr(tables, "CHUNK", 7)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet", ".arrow"])
def test_chunks_do_not_show(tmp_path: Path, suffix: str) -> None:
    rng = np.random.default_rng(0)
    rows = 300
    frame = pl.DataFrame(
        {
            "user": [f"u{number}" for number in rng.integers(0, 20, rows)],
            "item": [f"i,{number}" for number in rng.integers(0, 30, rows)],
            "time": rng.integers(0, 50, rows),
            "kind": rng.choice(["view", "click"], rows),
            "value": rng.random(rows),
            "hour": rng.integers(0, 24, rows),
            "device": rng.choice(["a", "b"], rows),
        }
    )
    path = as_file(frame, tmp_path, suffix)
    log = read(path, **DECLARED)
    expected = frame.sort("time", maintain_order=True)
    assert log.events["item"].cast(pl.String).to_list() == expected["item"].to_list()
    assert log.items["item"].to_list() == frame["item"].unique(maintain_order=True).to_list()
    assert log.events["kind"].cast(pl.String).to_list() == expected["kind"].to_list()


@pytest.mark.usefixtures("small")
def test_rows_are_named_by_their_line_in_any_chunk(tmp_path: Path) -> None:
    lines = ["user,item,time"]
    wrong = {}
    for number in range(400):
        line = len(lines) + 1
        if number % 50 == 17:
            lines.append("")  # blank lines are no rows, but they count as lines
        if number % 40 == 9:
            wrong[len(lines) + 1] = "2 fields where the header has 3"
            lines.append("u,i")
        elif number % 60 == 30:
            wrong[len(lines) + 1] = "missing"
            lines.append(f"u{number},,5")
        elif number % 70 == 35:
            lines.append(f'u{number},"i, ""{number}""",5')
        else:
            lines.append(f"u{number},i{number},{line}")
    path = tmp_path / "events.csv"
    path.write_text("\n".join(lines), encoding="utf-8")
    aside = tmp_path / "bad.parquet"
    log = read(path, bad_rows=aside)
    bad = pl.read_parquet(aside)
    assert dict(zip(bad["row"], bad["reason"], strict=True)) == wrong
    assert bad["record"].to_list() == [lines[row - 1] for row in wrong]
    assert len(log) + len(wrong) == 400
    first = min(wrong)
    with pytest.raises(DataError, match=rf"^events.csv, line {first}.*{wrong[first]}.*\(and {len(wrong) - 1} more problems"):
        read(path)


HEADER = "user,item,time,kind,value,hour,device\n"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (",a,1,click,,1,x", "column 'user': missing"),
        ("u,  ,1,click,,1,x", "column 'item': missing"),
        ("u,a,,click,,1,x", "column 'time': missing"),
        ("u,a,1,,,1,x", "column 'kind': missing"),
        ("u,a,soon,click,,1,x", "column 'time': 'soon' is not a number of seconds"),
        ("u,a,inf,click,,1,x", "column 'time': .*inf"),
        ("u,a,1260759144000,click,,1,x", 'look like milliseconds: say time_unit="ms"'),
        ("u,a,1260759144000000,click,,1,x", 'look like microseconds: say time_unit="us"'),
        ("u,a,1260759144000000000,click,,1,x", "nanoseconds, divide by 1000"),
        ("u,a,99999999999999999999,click,,1,x", "outside the years"),
        ("u,a,-9999999999,click,,1,x", "outside the years"),
        ("u,a,1,click,many,1,x", "column 'value': 'many' is not a number"),
        ("u,a,1,click,nan,1,x", "column 'value': 'nan' is not finite"),
        ("u,a,1,click,1e300,1,x", "column 'value': '1e300' is not finite, or too large"),
        ("u,a,1,click,1", "line 3: 5 fields where the header has 7"),
        ("u,a,1,click,1,1,x,y", "line 3: 8 fields where the header has 7"),
        ('"u\nv",a,1,click,1,1,x', "control character"),
        ("u\0,a,1,click,1,1,x", "control character"),
        ('u,"a,1,click,1,1,x', "line 3: 2 fields"),
        ("u" * 1001 + ",a,1,click,1,1,x", "more than 1000 bytes"),
        ("u,a,1,click,1,1,x\0", "column 'device': .* is no plain text"),
    ],
)
def test_a_bad_row_of_text_is_refused(tmp_path: Path, row: str, message: str) -> None:
    path = tmp_path / "events.csv"
    path.write_text(f"{HEADER}u,a,1,click,2.5,1,x\n{row}\n", encoding="utf-8")
    with pytest.raises(DataError, match=message) as error:
        read(path, **DECLARED)
    assert str(error.value).startswith("events.csv, line 3")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300
    log = read(path, bad_rows=tmp_path / "bad.jsonl", **DECLARED)
    assert len(log) == 1
    bad = [json.loads(line) for line in (tmp_path / "bad.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(one["file"], one["row"], one["record"]) for one in bad] == [("events.csv", 3, row)]


def test_bytes_that_are_not_utf8_are_named(tmp_path: Path) -> None:
    path = tmp_path / "events.csv"
    path.write_bytes("user,item,time\nu,a,1\nu,café,2\nu,b,3\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"^events.csv, line 3, column 'item': not UTF-8 text; save the file as UTF-8$"):
        read(path)
    assert len(read(path, bad_rows=tmp_path / "bad.csv")) == 2
    # a row that is broken in two ways, below a header that is not ASCII
    path.write_bytes("\ufeffuser,ïtem,time\nü,a,1\n".encode() + b"\xff,b\nu,\xe9,3\n")
    log = read(path, item="ïtem", bad_rows=tmp_path / "bad.csv")
    assert log.users["user"].to_list() == ["ü"]
    bad = pl.read_csv(tmp_path / "bad.csv")
    assert bad["row"].to_list() == [3, 4]
    assert bad["reason"].to_list() == ["2 fields where the header has 3", "not UTF-8 text; save the file as UTF-8"]
    path.write_bytes("user,item,time\nu,a,1\n".encode("utf-16"))
    with pytest.raises(DataError, match="UTF-16"):
        read(path)
    path.write_bytes(b"\xef\xbb\xbfuser,item,time\nu,a,1\n")
    assert len(read(path)) == 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"user": 1, "item": 2', "not valid JSON"),
        ("[1, 2, 3]", "an array where an object was expected"),
        ("5", "not an object"),
        ('{"user": 1, "time": 3}', "column 'item': missing"),
        ('{"user": {"a": 1}, "item": 2, "time": 3}', "is no id"),
        ('{"user": 1.5, "item": "2", "time": 3}', "column 'user': 1.5 is no id"),
        ('{"user": 1, "item": 2, "time": NaN}', "column 'time': "),
        ('{"user": 1, "item": 2, "time": 1e400}', "column 'time': "),
        ("[" * 100_000, "(not readable|not valid) JSON"),
    ],
)
def test_a_bad_line_of_json_is_refused(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text('{"user": 1, "item": "a", "time": 1}\n\n' + line + '\n{"user": 2, "item": 5, "time": 4}\n', encoding="utf-8")
    with pytest.raises(DataError, match=f"^events.jsonl, line 3.*{message}"):
        read(path)
    log = read(path, bad_rows=tmp_path / "bad.csv")
    assert log.items["item"].to_list() == ["a", "5"]


def test_bad_rows_of_frames_are_named_by_row() -> None:
    frame = pl.DataFrame({"user": [1, None, 3], "item": ["a", "b", None], "time": [1, 2, 3]})
    with pytest.raises(DataError, match=r"^frame, row 2, column 'user': missing \(and 1 more problem; `palate validate` lists them\)$"):
        read(frame)
    with pytest.raises(DataError, match=r"^clicks, row 2, column 'user'"):
        read(frame, name="clicks")


def test_ids_become_strings() -> None:
    times = pl.Series([1, 2, 3])
    for users, expected in (
        (pl.Series([3, 1, 3], dtype=pl.UInt64), ["3", "1"]),
        (pl.Series([3.0, 1.0, 3.0]), ["3", "1"]),
        (pl.Series(["03", "1", "03"]), ["03", "1"]),
        (pl.Series(["x", "y", "x"], dtype=pl.Categorical), ["x", "y"]),
        (pl.Series(["x", "y", "x"], dtype=pl.Enum(["y", "x"])), ["x", "y"]),
        (pl.Series([b"x", b"y", b"x"]), ["x", "y"]),
    ):
        log = read(pl.DataFrame({"user": users, "item": users, "time": times}))
        assert log.users["user"].to_list() == expected
        assert log.user_codes.tolist() == [0, 1, 0]
    with pytest.raises(DataError, match=r"row 1, column 'user': 0.5 is no id"):
        read(pl.DataFrame({"user": [0.5], "item": [1], "time": [1]}))
    with pytest.raises(DataError, match="column 'user' holds truth values"):
        read(pl.DataFrame({"user": [True], "item": [1], "time": [1]}))
    with pytest.raises(DataError, match="column 'user' holds lists"):
        read(pl.DataFrame({"user": [[1]], "item": [1], "time": [1]}))
    # a missing id turns a pandas column into floats
    with pytest.raises(DataError, match="row 2, column 'user': missing"):
        read(pd.DataFrame({"user": [1, None], "item": [1, 2], "time": [1, 2]}))


def test_times_of_every_kind() -> None:
    expected = datetime(2024, 5, 1, 12, 30, 0, 250_000)
    micros = 1_714_566_600_250_000

    def first(values: object, **more: object) -> int:
        return int(read(pl.DataFrame({"user": ["u"], "item": ["i"], "time": values}), **more).times[0])  # type: ignore[arg-type]

    assert first([micros], time_unit="us") == micros
    assert first([micros // 1000], time_unit="ms") == micros
    assert first([micros / 1e6]) == micros
    assert first([f"{micros / 1e6}"]) == micros
    assert first([expected]) == micros
    assert first([expected.replace(tzinfo=UTC)]) == micros
    assert first([(expected + timedelta(hours=2)).replace(tzinfo=timezone(timedelta(hours=2)))]) == micros
    assert first(["2024-05-01T12:30:00.25"]) == micros
    assert first(["2024-05-01 12:30:00.250Z"]) == micros
    assert first(["2024-05-01T14:30:00.25+02:00"]) == micros
    assert first(["2024-05-01T14:30:00.25+0200"]) == micros
    assert first(["2024-05-01"]) == first([expected.date()]) == 1_714_521_600_000_000
    assert first([0]) == 0
    with pytest.raises(DataError, match="column 'time': 'yesterday' is not a time; ISO 8601 is, such as 2024-05-01"):
        first(["yesterday"])
    with pytest.raises(DataError, match="'3024-05-01' lies outside the years"):
        first(["3024-05-01"])
    with pytest.raises(DataError, match="column 'time' holds truth values"):
        first([True])
    with pytest.raises(DataError, match="time_unit must be one of s, ms, us"):
        first([0], time_unit="hours")


def test_forms_of_dates_may_be_mixed() -> None:
    texts = ["2024-05-02", "2024-05-01T00:00:00Z", "2024-05-01 12:00", "2024-05-01T23:00:00+01:00"]
    log = read(pl.DataFrame({"user": ["a", "b", "c", "d"], "item": ["i"] * 4, "time": texts}))
    assert log.events["user"].cast(pl.String).to_list() == ["b", "c", "d", "a"]


def test_without_times_the_order_of_the_rows_counts() -> None:
    frame = pl.DataFrame({"user": ["a", "b", "c"], "item": ["z", "y", "x"]})
    with pytest.raises(DataError, match=r"no column 'time'.*say time=.column., or time=None"):
        read(frame)
    log = read(frame, time=None)
    assert log.times.tolist() == [0, 1_000_000, 2_000_000]
    assert log.items["item"].to_list() == ["z", "y", "x"]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (["uid", "item", "time"], "no column 'user'; it has 'uid', 'item', 'time'; say user='uid'"),
        (["userId", "movieId", "timestamp"], "no column 'user'.*say user='userId'"),
        (["user", "movieId", "timestamp"], "no column 'item'.*say item='movieId'"),
        (["user", "item", "timestamp"], "no column 'time'.*say time='timestamp'"),
        (["user", "itme", "time"], "no column 'item'.*say item='itme'"),
    ],
)
def test_missing_columns_are_hinted_at(columns: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(pl.DataFrame({column: ["1"] for column in columns}))


def test_declarations_are_checked(tmp_path: Path) -> None:
    frame = pl.DataFrame({"user": ["u"], "item": ["i"], "time": [1], "kind": ["click"], "value": [1.0], "x": [object()]})
    with pytest.raises(DataError, match="'user' is declared twice, as user and as item"):
        read(frame, item="user")
    with pytest.raises(DataError, match="context: 'value' is a name of the log's own"):
        read(frame, context=["value"])
    with pytest.raises(DataError, match="context must be a list of columns"):
        read(frame, context="value")
    with pytest.raises(DataError, match="column 'x' holds Python objects"):
        read(frame, context=["x"])
    with pytest.raises(DataError, match="positive: no event is of kind 'clik'; did you mean 'click'"):
        read(frame, kind="kind", positive=["clik"])
    with pytest.raises(DataError, match="positive: no event is of kind 'order'; the log has 'click'"):
        read(frame, kind="kind", positive=["order"])
    with pytest.raises(DataError, match="positive must be a list of kinds"):
        read(frame, kind="kind", positive="click")
    with pytest.raises(DataError, match=r"must end in .parquet, .csv, .jsonl"):
        read(frame, bad_rows=tmp_path / "bad.txt")
    with pytest.raises(DataError, match="there is no folder"):
        read(frame, bad_rows=tmp_path / "none" / "bad.csv")
    with pytest.raises(DataError, match="its columns and tables are known"):
        read("planted", user="uid")
    with pytest.raises(DataError, match="planted has no events of kind 'order'"):
        read("planted", positive=["order"])


def test_sources_that_are_no_source(tmp_path: Path) -> None:
    for name, text, message in (
        ("empty.csv", "", "empty.csv: the file is empty"),
        ("blank.csv", "\n\n", "no header"),
        ("header.csv", "user,item,time\n", "header.csv: no events"),
        ("twice.csv", "user,item,time,user\n1,2,3,4\n", "column 'user' stands 2 times"),
        ("semicolons.csv", "user;item;time\n1;2;3\n", 'is it another separator\\? say separator=";"'),
        ("array.jsonl", '[{"user": 1}]\n', "one object a line"),
        ("no.parquet", "PAR1", "no.parquet: cannot be read as Parquet"),
        ("no.arrow", "ARROW1", "no.arrow: cannot be read as Arrow"),
        ("old.feather", "FEA1xxxx", "Feather version 1"),
        ("packed.csv.gz", "x", "unpack it first"),
        ("book.xlsx", "x", "unknown suffix '.xlsx'"),
    ):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        with pytest.raises(DataError, match=message):
            read(path)
    with pytest.raises(DataError, match="no such file"):
        read(tmp_path / "none.csv")
    with pytest.raises(DataError, match="no such file, and no source of that name; did you mean 'movielens-small'"):
        read("movielens-smal")
    with pytest.raises(DataError, match="cannot read a int"):
        read(5)
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(DataError, match="not a file"):
        read(tmp_path / "folder.csv")


def test_text_with_other_separators(tmp_path: Path) -> None:
    for name, separator, said in (("a.csv", ";", ";"), ("a.txt", "|", None), ("a.txt", "\t", None), ("a.tsv", "\t", None)):
        path = tmp_path / name
        path.write_text(separator.join(["user", "item", "time"]) + "\n" + separator.join(["u", "i", "1"]) + "\n", encoding="utf-8")
        assert read(path, separator=said).items["item"].to_list() == ["i"]
    with pytest.raises(DataError, match="separator must be one ASCII character"):
        read(path, separator="::")


def test_lone_carriage_returns_end_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"user,item,time\ru,i,1\ru,,2\r")
    with pytest.raises(DataError, match="line 3, column 'item': missing"):
        read(path)


def test_tables_come_first_in_the_catalogue(tmp_path: Path) -> None:
    items = tmp_path / "items.csv"
    items.write_text("sku,title,genres,price,zip,new\nb,B,Drama|War,2.5,01002,true\nz,Z,,,,\n", encoding="utf-8")
    frame = pl.DataFrame({"user": ["u", "v", "u"], "sku": ["c", "b", "a"], "time": [3, 2, 1]})
    log = read(frame, item="sku", items=items, users=pl.DataFrame({"user": ["w"], "age": [30]}))
    expected = pl.DataFrame(
        {
            "item": ["b", "z", "c", "a"],
            "title": ["B", "Z", None, None],
            "genres": [["Drama", "War"], [], None, None],
            "price": [2.5, None, None, None],
            "zip": ["01002", None, None, None],
            "new": [True, None, None, None],
        }
    )
    assert_frame_equal(log.items, expected)
    assert_frame_equal(log.users, pl.DataFrame({"user": ["w", "u", "v"], "age": [30, None, None]}))
    assert log.item_codes.tolist() == [3, 0, 2]
    other = pl.read_csv(items, schema_overrides={"zip": pl.String}).with_columns(pl.col("genres").str.split("|").fill_null([]))
    again = read(frame, item="sku", items=other.rename({"sku": "item"}), users=pl.DataFrame({"user": ["w"], "age": [30]}))
    assert_frame_equal(log.items, again.items)
    assert log.checksum != again.checksum
    assert read(frame, item="sku", items=items, list_separator="/").items["genres"][0] == "Drama|War"


tables_of_items = st.lists(
    st.fixed_dictionaries(
        {
            "item": names,
            "title": st.none() | names,
            "tags": st.lists(st.sampled_from(["a", "b b", "ç"]), max_size=3),
            "price": st.none() | st.floats(0, 1e6).map(lambda price: round(price, 2)),
            "stock": st.none() | st.integers(-(2**60), 2**60),
        }
    ),
    min_size=1,
    max_size=12,
    unique_by=lambda row: row["item"],
)


@given(rows=tables_of_items)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_tables_are_the_same_from_every_format(rows: list[dict[str, object]], tmp_path: Path) -> None:
    schema = {"item": pl.String, "title": pl.String, "tags": pl.List(pl.String), "price": pl.Float64, "stock": pl.Int64}
    frame = pl.DataFrame(rows, schema=schema)
    log_rows = pl.DataFrame({"user": ["u"], "item": [rows[0]["item"]], "time": [1]})
    expected = read(log_rows, items=frame)
    assert_frame_equal(expected.items, frame)
    for suffix in (".jsonl", ".parquet", ".arrow"):
        found = read(log_rows, items=as_file(frame, tmp_path, suffix)).items
        # a column that holds nothing has no type in JSON
        filled = [name for name in frame.columns if suffix != ".jsonl" or frame[name].null_count() < frame.height]
        assert_frame_equal(found.select(filled), frame.select(filled))
    assert_frame_equal(read(log_rows, items=frame.to_arrow()).items, frame)


def test_tables_are_checked_too(tmp_path: Path) -> None:
    frame = pl.DataFrame({"user": ["u"], "item": ["a"], "time": [1]})
    path = tmp_path / "items.csv"
    path.write_text("item,title,price\na,A,1\nb,B,2\n,C,3\na,D,4\nc,E\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"^items.csv, line 4, column 'item': missing .and 2 more problems"):
        read(frame, items=path)
    aside = tmp_path / "bad.csv"
    log = read(frame, items=path, bad_rows=aside)
    assert log.items["title"].to_list() == ["A", "B"]
    bad = pl.read_csv(aside)
    assert bad["row"].to_list() == [4, 5, 6]
    assert bad["reason"].to_list() == ["missing", "id 'a' stands in the table twice", "2 fields where the header has 3"]
    with pytest.raises(DataError, match=r"items: column 'price' holds objects with fields|holds objects"):
        read(frame, items=pl.DataFrame({"item": ["a"], "price": [{"x": 1}]}))
    with pytest.raises(DataError, match="items, row 2, column 'price': inf is not finite"):
        read(frame, items=pl.DataFrame({"item": ["a", "b"], "price": [1.0, float("inf")]}))
    path.write_text("item,price\na,1.5\nb,nan\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"items.csv, line 3, column 'price'"):
        read(frame, items=path)
    with pytest.raises(DataError, match=r"no column 'item'.*say items='sku'|no column 'item'"):
        read(frame, items=pl.DataFrame({"sku": ["a"]}))


def test_wanted_and_unwanted_kinds() -> None:
    frame = pl.DataFrame(
        {"user": ["u"] * 5, "item": list("abcde"), "time": [1, 2, 3, 4, 5], "kind": ["view", "click", "hide", "order", "Impression"]}
    )
    log = read(frame, kind="kind")
    assert (log.positive, log.negative) == (("click", "order"), ("hide",))
    assert len(log.positives()) == 2
    assert len(log.negatives()) == 1
    log = read(frame, kind="kind", positive=["order"], negative=["view", "dislike"])
    assert (log.positive, log.negative) == (("order",), ("view", "dislike"))
    assert read(frame).positive == ("event",)


def test_all_rows_bad(tmp_path: Path) -> None:
    frame = pl.DataFrame({"user": [None, None], "item": ["a", "b"], "time": [1, 2]}, schema_overrides={"user": pl.String})
    with pytest.raises(DataError, match="frame: no events; all 2 rows were bad, see"):
        read(frame, bad_rows=tmp_path / "bad.parquet")
    bad = pl.read_parquet(tmp_path / "bad.parquet")
    assert [json.loads(record) for record in bad["record"]] == [
        {"user": None, "item": "a", "time": 1},
        {"user": None, "item": "b", "time": 2},
    ]


def test_the_checksum_of_a_frame_is_of_its_rows() -> None:
    frame = pl.DataFrame({"user": ["u", "v"], "item": ["a", "b"], "time": [1, 2], "other": [1, 2]})
    pieces = pl.concat([frame[:1], frame[1:]], rechunk=False)
    assert read(frame).checksum == read(pieces).checksum == read(frame.drop("other")).checksum
    assert read(frame).checksum != read(frame[::-1]).checksum


def test_arrow_streams(tmp_path: Path) -> None:
    frame = pl.DataFrame({"user": ["u", "v"], "item": ["a", "b"], "time": [1, 2]})
    table = frame.to_arrow()
    with pa.OSFile(str(tmp_path / "stream.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    assert_same(read(tmp_path / "stream.arrow"), read(frame))


def test_a_view_that_points_nowhere_behind_a_null_is_refused() -> None:
    """Arrow's own validation lets it pass, and reading it would end the process."""
    views = np.array([[1, ord("a"), 0, 0], [99, 0, 7, 12345]], dtype=np.int32)
    buffers = [pa.py_buffer(bytes([0b01])), pa.py_buffer(views.tobytes())]
    device = pa.Array.from_buffers(pa.string_view(), 2, buffers)
    device.validate(full=True)
    table = pa.table({"user": ["u", "v"], "item": ["a", "b"], "time": [1, 2], "device": device})
    with pytest.raises(DataError, match="cannot be read as a pyarrow frame: a view points outside its data"):
        read(table, context=["device"])

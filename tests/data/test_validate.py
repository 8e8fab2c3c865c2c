"""The report of a source: what it holds, and every problem."""

import io
import json
from pathlib import Path

import polars as pl
import pytest
from rich.console import Console

from palate.data import tables
from palate.data.log import read
from palate.data.validate import ColumnReport, Report, of_log, render, validate
from palate.types import DataError

TEXT = """uid,item,time,kind,stars,hour,note
1,a,100,click,,3,x
1,a,100,click,,3,
2,b,soon,click,1,5,y
3,,50,click,many,7,y

4,b,60
5,c,70,view,2.5,1,
"""
DECLARED = {"user": "uid", "kind": "kind", "value": "stars", "context": ("hour",)}


def shown(report: Report) -> str:
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(render(report))
    return console.export_text()


def test_everything_wrong_is_listed(tmp_path: Path) -> None:
    path = tmp_path / "events.csv"
    path.write_text(TEXT, encoding="utf-8")
    report = validate(path, **DECLARED)
    assert [str(problem) for problem in report.problems] == [
        "events.csv, line 4, column 'time': 'soon' is not a number of seconds, as the other times are",
        "events.csv, line 5, column 'item': missing",
        "events.csv, line 5, column 'stars': 'many' is not a number",
        "events.csv, line 7: 3 fields where the header has 7",
    ]
    assert (report.ok, report.problem_count, report.rows, report.rejected) == (False, 4, 3, 3)
    text = shown(report)
    assert "4 problems" in text
    assert "events.csv, line 4, column 'time'" in text
    aside = tmp_path / "bad.csv"
    assert validate(path, bad_rows=aside, **DECLARED).problem_count == 4
    assert pl.read_csv(aside)["row"].to_list() == [4, 5, 7]
    with pytest.raises(DataError, match="line 4"):
        read(path, **DECLARED)


def test_what_a_good_file_holds(tmp_path: Path) -> None:
    path = tmp_path / "events.csv"
    path.write_text(
        "\n".join(line for line in TEXT.splitlines() if "soon" not in line and "many" not in line and line != "4,b,60"), "utf-8"
    )
    items = tmp_path / "items.csv"
    items.write_text("item,tags,price\na,x|y,1.5\nb,x,\n", encoding="utf-8")
    report = validate(path, items=items, **DECLARED)
    assert report.ok
    assert (report.rows, report.users, report.items, report.duplicates) == (3, 2, 2, 1)
    assert report.kinds == {"click": 2, "view": 1}
    assert (report.first, report.last) == ("1970-01-01T00:01:10.000000", "1970-01-01T00:01:40.000000")
    assert report.per_user == [("1", 1), ("2", 1)]
    assert report.columns == [
        ColumnReport("uid", "user", "integer", 0),
        ColumnReport("item", "item", "text", 0),
        ColumnReport("time", "time", "integer", 0),
        ColumnReport("kind", "kind", "text", 0),
        ColumnReport("stars", "value", "number", 2),
        ColumnReport("hour", "context", "integer", 0),
        ColumnReport("note", "", "text", 2),
    ]
    assert report.tables[0].columns == [
        ColumnReport("item", "item", "text", 0),
        ColumnReport("tags", "", "list", 0),
        ColumnReport("price", "", "number", 1),
    ]
    plain = json.loads(json.dumps(report.to_json()))
    assert plain["ok"] is True
    assert plain["per_user"] == {"1": 1, "2": 1}
    text = shown(report)
    assert "No problems found." in text
    assert "not declared" in text


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet", ".csv"])
def test_columns_are_the_same_in_chunks(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "BLOCK", 100)
    monkeypatch.setattr(tables, "CHUNK", 3)
    frame = pl.DataFrame(
        {
            "user": ["u"] * 30,
            "item": [f"i{number}" for number in range(30)],
            "time": list(range(30)),
            "size": [None] * 10 + [1.0] * 10 + [2.5] * 10,
            "late": [None] * 29 + ["x"],
        }
    )
    path = tmp_path / f"events{suffix}"
    if suffix == ".jsonl":
        rows = [{key: value for key, value in row.items() if value is not None} for row in frame.to_dicts()]
        path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    elif suffix == ".parquet":
        frame.write_parquet(path)
    else:
        frame.write_csv(path)
    columns = {column.name: (column.type, column.missing) for column in validate(path).columns}
    assert columns == {"user": ("text", 0), "item": ("text", 0), "time": ("integer", 0), "size": ("number", 10), "late": ("text", 29)}


def test_many_problems_are_summed_up() -> None:
    frame = pl.DataFrame({"user": ["u"] * 3000, "item": [""] * 3000, "time": [1] * 3000})
    report = validate(frame)
    assert (len(report.problems), report.problem_count, report.rows) == (1000, 3000, 0)
    assert [(reason.column, reason.reason, reason.count) for reason in report.reasons] == [("item", "missing", 3000)]
    assert "2,980 more" in shown(report)


def test_a_source_by_name_and_a_log() -> None:
    report = validate("planted")
    assert report.ok
    assert report.rows == 40_000
    assert set(report.kinds) == {"impression", "click", "purchase", "dislike"}
    assert of_log(read("planted")).to_json()["rows"] == 40_000
    assert "events a user" in shown(report)


def test_what_cannot_be_reported_on_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        validate(tmp_path / "none.csv")
    with pytest.raises(DataError, match="no column 'user'"):
        validate(pl.DataFrame({"uid": [1]}))
    with pytest.raises(DataError, match="time_unit must be one of"):
        validate(pl.DataFrame({"user": [1], "item": [1], "time": [1]}), time_unit="h")

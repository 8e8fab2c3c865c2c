"""Recommendations for many people into a file: the same slates, whole or not at all, in bounded memory."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

import palate
from palate import Request
from palate.cli import app
from palate.errors import BundleError, ConfigError, DataError, PalateError, StoreError
from palate.feedback.events import Event
from palate.feedback.store import EventStore
from palate.serve import score as module
from palate.serve.schemas import Recommend
from palate.serve.score import score
from palate.serve.service import Service
from palate.serve.shelf import Shelf, version_of

NOW = datetime(2026, 11, 23, 9, tzinfo=UTC)


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_the_same_slates_as_the_funnel(films: Path, tmp_path: Path) -> None:
    done = score(films, tmp_path / "out.parquet", k=7, batch=16)
    funnel = palate.Recommender.load(films).funnel
    users = funnel.users["user"].to_list()
    slates = funnel.recommend([Request(user=user, k=7) for user in users])
    found = pl.read_parquet(tmp_path / "out.parquet")
    assert (done.users, done.strangers, done.empty, done.rows) == (60, 0, 0, 60 * 7)
    assert found.columns == ["user", "position", "item", "score", "source", "propensity", "probabilities", "reason", "known"]
    assert found["user"].to_list() == [user for user in users for _ in range(7)]
    assert found["position"].to_list() == list(range(7)) * 60
    for name, column in (("item", "items"), ("score", "scores"), ("source", "sources"), ("reason", "reasons"), ("propensity",) * 2):
        assert found[name].to_list() == [value for slate in slates for value in getattr(slate, column)], name
    assert found["probabilities"].to_list() == [dict(one) for slate in slates for one in slate.probabilities]
    about = json.loads(pl.read_parquet_metadata(tmp_path / "out.parquet")["palate"])
    assert (about["version"], about["k"]) == (version_of(films), 7)


@pytest.mark.parametrize("kind", ["txt", "csv", "parquet", "jsonl", "frame"])
def test_people_come_in_any_form_and_stay_in_order(films: Path, tmp_path: Path, kind: str) -> None:
    people = ["p9", "nobody", "p1", "p30"]
    frame, file = pl.DataFrame({"user": people, "segment": [1, 2, 3, 4]}), tmp_path / f"users.{kind}"
    if kind == "txt":
        file.write_bytes("\ufeffp9\r\nnobody\n\np1\np30".encode())
    elif kind == "csv":
        frame.write_csv(file)
    elif kind == "parquet":
        frame.write_parquet(file)
    elif kind == "jsonl":
        frame.write_ndjson(file)
    done = score(films, tmp_path / "out.parquet", users=frame if kind == "frame" else file, k=3, batch=3)
    found = pl.read_parquet(tmp_path / "out.parquet")
    assert found["user"].unique(maintain_order=True).to_list() == people
    assert found.filter(~pl.col("known"))["user"].unique().to_list() == ["nobody"]
    assert (done.users, done.strangers, done.rows) == (4, 1, 12)
    stranger = palate.Recommender.load(films).funnel.recommend([Request(k=3)])[0]
    assert found.filter(pl.col("user") == "nobody")["item"].to_list() == list(stranger.items)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("users.txt", "p1\n\np2\np1\n", r"users\.txt, line 4: 'p1' stands in line 1 already; name everybody once"),
        ("users.csv", 'user,note\np1,"two\nlines"\np2,\np1,\n', r"users\.csv, line 5: 'p1' stands in line 2 already"),
        ("users.csv", "user,note\np1,a\n,b\n", r"users\.csv, line 3, column 'user': missing$"),
        ("users.csv", "user,note\np1\n,b\n", r"users\.csv, line 2: 1 fields where the header has 2 \(and 1 more problem\)"),
        ("users.csv", "usr\np1\n", r"users\.csv: no column 'user'; it has 'usr'; did you mean 'usr'\?"),
        ("users.txt", "p1\n \n", r"users\.txt, line 2: missing"),
        ("users.txt", "", r"users\.txt: holds no ids"),
        ("users.csv", "", r"users\.csv: the file is empty"),
        ("users.txt", "\n\n", r"users\.txt: holds no ids"),
        ("users.csv", "user\n", r"users\.csv: holds no ids"),
        ("users.xls", "p1", r"unknown suffix '\.xls'"),
    ],
)
def test_bad_lists_are_refused_with_the_line(films: Path, tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        score(films, tmp_path / "out.parquet", users=write(tmp_path / name, text))
    assert sorted(path.name for path in tmp_path.iterdir()) == [name]


def test_twice_is_found_however_far_apart(films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hashes are compared in parts, and those of different ids may be equal."""
    monkeypatch.setattr(module, "HASHES", 100)
    people = [f"user {number}" for number in range(2000)]
    pl.DataFrame({"user": [*people, "user 700"]}).write_parquet(tmp_path / "users.parquet")
    with pytest.raises(DataError, match=r"users\.parquet, row 2001: 'user 700' stands in row 701 already"):
        score(films, tmp_path / "out.parquet", users=tmp_path / "users.parquet")
    monkeypatch.setattr(pl.Series, "hash", lambda column: pl.Series([7] * len(column), dtype=pl.UInt64))
    assert score(films, tmp_path / "out.parquet", users=pl.DataFrame({"user": people[:50]}), k=1).users == 50


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"out": "slates.csv"}, ConfigError, r"slates\.csv would be a Parquet file; let its name end in \.parquet"),
        ({"out": "nowhere/slates.parquet"}, ConfigError, r"there is no folder .*nowhere"),
        ({"bundle": "none"}, BundleError, r"none: no such bundle; `palate train"),
        ({"filters": ["yer > 1990"]}, PalateError, "year"),
        ({"users": "none.txt"}, DataError, r"none\.txt: cannot be read \(No such file"),
        ({"store": "none.db"}, StoreError, r"none\.db"),
        ({"k": 0}, ConfigError, "at least 1"),
    ],
)
def test_errors_are_one_line_and_leave_nothing(
    films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, object], error: type[Exception], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message) as caught:
        score(settings.pop("bundle", films), settings.pop("out", "slates.parquet"), **settings)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_nothing_left_is_counted(films: Path, tmp_path: Path) -> None:
    done = score(films, tmp_path / "out.parquet", users=pl.DataFrame({"user": ["p1", "p2"]}), filters=["year >= 2500"])
    assert (done.users, done.empty, done.rows) == (2, 2, 0)
    assert pl.read_parquet(tmp_path / "out.parquet").height == 0


def test_the_bundle_in_service_is_asked(bundle: Path, tmp_path: Path) -> None:
    """Of a bundle and its later versions, the one that a service would answer from; a version may be named."""
    recommender = palate.Recommender(retrieve=["popular"])
    recommender.fit(palate.read(pl.DataFrame({"user": ["a", "b"], "item": ["f1", "f2"], "time": [1, 2]}))).save(tmp_path / "other")
    shelf = Shelf(bundle)
    (tmp_path / "other").rename(shelf.draft())
    later = shelf.keep(shelf.draft())
    shelf.promote(later)
    one = pl.DataFrame({"user": ["a"]})
    assert score(bundle, tmp_path / "out.parquet", users=one).version == shelf.version(later)
    assert "probabilities" not in pl.read_parquet_schema(tmp_path / "out.parquet")  # there is no ranker in it
    assert score(tmp_path / later, tmp_path / "out.parquet", users=one).bundle == later
    shelf.roll_back()
    assert score(bundle, tmp_path / "out.parquet", users=one).bundle == "films"


def test_with_a_store_it_says_what_the_service_says(serving: Callable[..., Service], bundle: Path, tmp_path: Path) -> None:
    service = serving()
    first = service.recommend(Recommend(user="p1", k=3, record=False), NOW)
    assert first is not None
    top = [item["item"] for item in first["items"]]
    made = [("hide", "p1", top[0]), ("click", "p1", top[1]), ("click", "new", top[2]), ("click", "p5", top[0])]
    events = [
        Event(id=str(number), kind=kind, user=user, item=item, time=NOW - timedelta(minutes=9 - number))
        for number, (kind, user, item) in enumerate(made)
    ]
    service.store.append(events)
    service.store.forget("p5")
    people = ["p1", "new", "p5", "p7"]
    done = score(bundle, tmp_path / "out.parquet", users=pl.DataFrame({"user": people}), k=5, store=tmp_path / "events.db", now=NOW)
    assert (done.users, done.forgotten, done.strangers) == (3, 1, 1)
    found = pl.read_parquet(tmp_path / "out.parquet")
    for user in ("p1", "new", "p7"):
        answer = service.recommend(Recommend(user=user, k=5, record=False), NOW)
        assert answer is not None
        rows = found.filter(pl.col("user") == user)
        assert rows["item"].to_list() == [item["item"] for item in answer["items"]]
        assert rows["score"].to_list() == pytest.approx([item["score"] for item in answer["items"]], rel=1e-6)
    assert not {top[0], top[1]} & set(found.filter(pl.col("user") == "p1")["item"])
    assert "p5" not in found["user"]
    assert score(bundle, tmp_path / "plain.parquet", users=pl.DataFrame({"user": people}), k=5).forgotten == 0


def test_a_store_that_cannot_answer_ends_it(films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch must not quietly rest on half of what is known, as an answer to somebody who waits may."""
    with EventStore.open(tmp_path / "events.db"):
        pass

    def gone(*_: object, **__: object) -> None:
        raise StoreError("events.db: gone")

    monkeypatch.setattr(EventStore, "person", gone)
    with pytest.raises(StoreError, match=r"events\.db: gone"):
        score(films, tmp_path / "out.parquet", store=tmp_path / "events.db")
    assert not list(tmp_path.glob("*out*"))


def test_memory_does_not_grow_with_the_number_of_people(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events = pl.DataFrame({"user": ["a", "a", "b"], "item": ["x", "y", "x"], "time": [1, 2, 3]})
    bundle = palate.Recommender(retrieve=["popular"]).fit(palate.read(events)).save(tmp_path / "bundle")
    monkeypatch.setattr(module, "ROW_GROUP", 300)
    monkeypatch.setattr(module, "PIECE", 2000)
    monkeypatch.setattr(module, "HASHES", 300)
    peaks = []
    for count in (200, 600, 1800):
        users = write(tmp_path / "users.txt", "".join(f"user {number:09}\n" for number in range(count)))
        tracemalloc.start()
        assert score(bundle, tmp_path / "out.parquet", users=users, k=2, batch=50).rows == 2 * count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert pl.scan_parquet(tmp_path / "out.parquet").select(pl.len()).collect().item() == 3600
    assert peaks[2] < 1.1 * peaks[1] + 50_000, peaks


def test_a_stopped_run_leaves_the_old_file_and_no_half_one(films: Path, tmp_path: Path) -> None:
    write(tmp_path / "users.txt", "".join(f"user {number}\n" for number in range(200_000)))
    (tmp_path / "out.parquet").write_bytes(b"the old one")
    arguments = [sys.executable, "-m", "palate.cli", "score", str(films), "--users", "users.txt", "--out", "out.parquet"]
    with subprocess.Popen(arguments, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        until = time.monotonic() + 240
        while not (tmp_path / ".out.parquet.part").exists() and time.monotonic() < until:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        errors = process.communicate(timeout=240)[1]
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.parquet", "users.txt"]
    assert (tmp_path / "out.parquet").read_bytes() == b"the old one"


def test_a_full_disk_is_one_line_and_leaves_no_half_file(films: Path, tmp_path: Path) -> None:
    """No file of this process may grow beyond 4096 bytes for a moment."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(DataError, match=r"out\.parquet: cannot be written \(.*File too large.*\); see that its folder"):
            score(films, tmp_path / "out.parquet", users=pl.DataFrame({"user": [f"user {number}" for number in range(300)]}))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())


def test_the_command_says_what_it_did(films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "users.csv", "user\np1\nsomebody\n")
    options = ["score", str(films), "--users", "users.csv", "--out", "out.parquet", "--k", "2"]
    done = CliRunner(env={"COLUMNS": "120"}).invoke(app, options)
    assert done.exit_code == 0, done.output
    assert "4 rows for 2 people in out.parquet" in done.stdout
    assert "1 whom the bundle has never seen" in done.stdout
    done = CliRunner().invoke(app, [*options, "--json"])
    assert json.loads(done.stdout)["strangers"] == 1
    assert not done.stderr

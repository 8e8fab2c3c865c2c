"""The protocol of click tables: reading and encoding by hand, bad files, runs that are kept, and the command."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from palate.rank.neural import NeuralRanker
from palate.reproduce import clicks, command, runs
from palate.reproduce.base import Entry, markdown, table_of, tables
from palate.reproduce.frappe_x1 import ENTRIES, MD5
from palate.types import ConfigError, DataError

FIELDS = ("user", "item", "daytime")


def world(folder: Path, rows: int, seed: int = 0) -> Path:
    """Who clicks depends on user and item together."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for split, count in (("train", rows), ("valid", rows // 3), ("test", rows // 3)):
        user, item, daytime = rng.integers(0, 12, count), rng.integers(20, 32, count), rng.integers(40, 44, count)
        label = (((user + item) % 2 == 0) ^ (rng.random(count) < 0.05)).astype(int)
        pl.DataFrame({"label": label, "user": user, "item": item, "daytime": daytime}).write_csv(folder / f"{split}.csv")
    return folder


def write(folder: Path, **files: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / f"{name}.csv").write_text(text)
    return folder


def test_reading_by_hand(tmp_path: Path) -> None:
    folder = write(
        tmp_path,
        train="label,user,price\n1,7,1.0\n0,9,3.0\n0,7,2.0\n",
        valid="label,user,price\n1,9,2.0\n",
        test="label,user,price\n1,8,\n0,7,5.0\n",
    )
    data = clicks.read(folder)
    assert data.train.inputs.dense == ("price",)
    (user,) = data.train.inputs.sparse
    assert (user.name, user.rows) == ("user", 3)  # 7, 9, and row 0 for what training never saw
    np.testing.assert_array_equal(data.train.parts[0]["ids"][:, 0], [1, 2, 1])
    np.testing.assert_array_equal(data.test.parts[0]["ids"][:, 0], [0, 1])
    spread = np.sqrt(2 / 3)
    np.testing.assert_allclose(data.train.parts[0]["dense"][:, 0], [-1 / spread, 1 / spread, 0], rtol=1e-6)
    np.testing.assert_allclose(data.test.parts[0]["dense"][:, 0], [0, 3 / spread], rtol=1e-6)  # a missing number is the mean
    np.testing.assert_array_equal(data.test.labels[:, 0], [1, 0])


def test_counts_by_hand(tmp_path: Path) -> None:
    train = "label,user,item\n1,7,20\n1,7,20\n0,7,20\n1,7,21\n0,8,20\n"
    data = clicks.read(write(tmp_path, train=train, valid="label,user,item\n1,7,20\n0,8,21\n", test="label,user,item\n1,9,20\n0,7,21\n"))
    more = clicks.with_counts(data, [("user", "item"), ("user",)])
    assert more.train.inputs.dense == ("count.user+item", "count.user")
    # (7, 20) was wanted twice: a row that was one of the two counts the other one.
    np.testing.assert_allclose(np.expm1(more.train.parts[0]["dense"]), [[1, 2], [1, 2], [2, 3], [0, 2], [0, 0]], atol=1e-6)
    np.testing.assert_allclose(np.expm1(more.valid.parts[0]["dense"]), [[2, 3], [0, 0]], atol=1e-6)
    np.testing.assert_allclose(np.expm1(more.test.parts[0]["dense"]), [[0, 0], [1, 3]], atol=1e-6)
    with pytest.raises(ConfigError, match="no such column 'usr'; did you mean `user`"):
        clicks.with_counts(data, [("usr",)])


GOOD = "label,user\n1,7\n0,9\n"


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"train": GOOD, "valid": GOOD, "test": "label,user\n1,7\n2,9\n"}, r"test\.csv: line 3, column 'label': 2 is neither 0 nor 1"),
        ({"train": GOOD, "valid": GOOD, "test": "label,user\n1,7\n,9\n"}, r"test\.csv: line 3, column 'label': None"),
        ({"train": GOOD, "valid": "y,user\n1,7\n", "test": GOOD}, r"valid\.csv: no column 'label' \(it has y, user\)"),
        ({"train": GOOD, "valid": "label,item\n1,7\n", "test": GOOD}, r"valid\.csv: column 'item' is not in both"),
        ({"train": GOOD, "valid": "label,user\n", "test": GOOD}, r"valid\.csv: has no rows"),
        ({"train": GOOD, "valid": "", "test": GOOD}, r"valid\.csv: not a CSV file"),
        (
            {"train": "label,x\n1,0.5\n0,inf\n", "valid": "label,x\n1,0.5\n", "test": "label,x\n1,0.5\n"},
            r"train\.csv: line 3, column 'x': inf",
        ),
    ],
)
def test_bad_files(tmp_path: Path, files: dict[str, str], says: str) -> None:
    with pytest.raises(DataError, match=says):
        clicks.read(write(tmp_path, **files))


def test_all_labels_equal_is_an_error(tmp_path: Path) -> None:
    data = clicks.read(write(tmp_path, train="label,user\n1,7\n1,9\n", valid=GOOD, test=GOOD))
    with pytest.raises(DataError, match="label 'label' is 1 in all 2 rows"):
        clicks.train_one(ENTRIES[0], 0, data)


def test_where_the_files_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = table_of("frappe-x1")
    with pytest.raises(DataError, match=r"lacks valid\.csv, test\.csv"):
        clicks.find(table, write(tmp_path / "some", train=GOOD))
    monkeypatch.setenv("PALATE_DATA", str(tmp_path))
    whole = write(tmp_path / "frappe_x1", train=GOOD, valid=GOOD, test=GOOD)
    assert clicks.find(table, None) == whole
    notes = clicks.read(whole, md5=MD5).notes
    assert len(notes) == 3
    assert "is not the published file" in notes[0]


def test_neither_here_nor_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PALATE_DATA", str(tmp_path))
    monkeypatch.setenv("PALATE_CACHE", str(tmp_path / "cache"))
    from dataclasses import replace

    table = replace(table_of("frappe-x1"), url="http://127.0.0.1:9/Frappe_x1.zip")  # nobody listens there
    with pytest.raises(DataError, match=r"no folder 'frappe_x1' with train\.csv, valid\.csv, test\.csv in PALATE_DATA, and the download"):
        clicks.find(table, None, quiet=True)


def test_every_entry_of_every_table_is_a_network_with_settings_that_exist() -> None:
    for table in (table for table in tables().values() if table.protocol == "clicks"):
        assert len({entry.key for entry in table.entries}) == len(table.entries)
        for entry in table.entries:
            assert isinstance(clicks.ranker_of(entry), NeuralRanker), entry.key


@pytest.mark.parametrize(
    ("key", "count"),
    [
        ("lr", 5390), ("fm", 59280), ("ipnn", 433491), ("wide_deep", 423280), ("deepfm", 423280), ("dcn", 418591), ("dcn_v2", 458391),
        ("xdeepfm", 429809), ("autoint", 622180), ("dlrm", 417891), ("masknet", 571691),
    ],
)  # fmt: skip
def test_the_entries_have_the_published_numbers_of_parameters(key: str, count: int) -> None:
    from palate.types import Inputs, SparseInput

    entry = next(entry for entry in ENTRIES if entry.key == key)
    rows = {"user": 958, "item": 4080, **{f"c{place}": 43 for place in range(7)}, "city": 50}
    assert sum(rows.values()) == 5389
    network = clicks.ranker_of(entry).build(Inputs((), tuple(SparseInput(name, name, size) for name, size in rows.items())))
    assert sum(weight.numel() for weight in network.parameters()) == count


def test_runs_are_kept_and_not_repeated(tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = command.reproduce("frappe-x1", ["lr", "fm"], 2, world(tmp_path / "world", 900), out, quiet=True, command="test")
    assert done.rows[0]["ours"]["auc"][0] < 0.6  # the world is an interaction, which it cannot see
    assert "published" not in done.rows[0]
    assert done.rows[0]["parameters"] == 12 + 12 + 4 + 3 + 1
    kept = sorted((out / "frappe-x1-world").glob("fm-*.json"))
    assert len(kept) == 2
    record = json.loads(kept[0].read_text())
    assert record["run"]["settings"]["train"]["batch_size"] == 4096
    assert record["environment"]["versions"]["torch"]
    assert set(record["data"]) == {"train.csv", "valid.csv", "test.csv"}
    stamps = [path.stat().st_mtime_ns for path in kept]
    again = command.reproduce("frappe-x1", ["lr", "fm"], 2, tmp_path / "world", out, quiet=True)
    assert [path.stat().st_mtime_ns for path in kept] == stamps
    assert again.rows == done.rows
    text = (out / "frappe-x1-world" / "table.md").read_text()
    assert "| FM |" in text
    assert "Seeds 0, 1; float32." in text


def test_the_command(tmp_path: Path) -> None:
    folder = world(tmp_path / "world", 600)
    base = [sys.executable, "-m", "palate.cli", "reproduce"]
    listed = subprocess.run([*base, "--list"], capture_output=True, text=True, check=True).stdout
    assert "frappe-x1" in listed
    assert "deepfm" in listed
    arguments = ["frappe-x1", "--models", "lr", "--data", str(folder), "--out", str(tmp_path / "out"), "--json"]
    found = subprocess.run([*base, *arguments], capture_output=True, text=True, check=True)
    rows: list[dict[str, Any]] = json.loads(found.stdout)["rows"]
    assert rows[0]["model"] == "LR"
    assert {"ours", "parameters", "seconds"} <= rows[0].keys()
    assert len(rows[0]["ours"]["auc"]) == 2
    assert found.stderr == ""
    wrong = subprocess.run([*base, "frappe-x1", "--models", "deepfn", "--data", str(folder)], capture_output=True, text=True, check=False)
    assert wrong.returncode == 1
    assert wrong.stderr == "palate: --models deepfn: no such model; did you mean `deepfm`?\n"


def test_unknown_table() -> None:
    with pytest.raises(ConfigError, match="frappe: no such table; did you mean `frappe-x1`"):
        table_of("frappe")


def test_markdown_shows_published_beside_ours() -> None:
    row = {
        "model": "FM", "published": {"auc": 0.9671, "logloss": 0.2065, "auc_mean": 0.967},
        "ours": {"auc": [0.97, 0.001], "logloss": [0.2, 0.01]},
        "parameters": 59280, "seconds": 12.4,
    }  # fmt: skip
    line = markdown([row], ("auc", "logloss")).splitlines()[2]
    assert line == "| FM | 0.9671 (mean 0.9670) | 0.2065 | 0.9700 ± 0.0010 | 0.2000 ± 0.0100 | 59,280 | 12 |"


def test_two_at_a_time_give_the_same(tmp_path: Path) -> None:
    folder = world(tmp_path / "world", 600)
    lr: Entry = ENTRIES[0]
    one, _ = runs.run(table_of("frappe-x1"), [lr], [0, 1], folder, tmp_path / "one")
    two, _ = runs.run(table_of("frappe-x1"), [lr], [0, 1], folder, tmp_path / "two", jobs=2)
    assert [run.metrics["auc"] for run in one["lr"]] == pytest.approx([run.metrics["auc"] for run in two["lr"]], abs=1e-6)

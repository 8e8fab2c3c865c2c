"""The commands as a person types them: real processes, what they print and how they exit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


def palate(*arguments: str, cwd: Path, expect: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "palate.cli", *arguments], cwd=cwd, capture_output=True, text=True, env=os.environ | {"COLUMNS": "120"}
    )
    assert done.returncode == expect, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture(scope="module")
def trained(shared_small_files: Path) -> Path:
    folder = shared_small_files
    done = palate("train", "my.toml", "--out", "bundle", cwd=folder)
    assert "popular" in done.stdout
    assert "palate recommend bundle --user" in done.stdout
    assert "[1/6]" in done.stderr
    return folder


def test_evaluate_prints_one_json_object(trained: Path) -> None:
    done = palate("evaluate", "bundle", "--json", cwd=trained)
    result = json.loads(done.stdout)
    assert next(iter(result["stages"])) == "popular"
    assert {"popular", "ease", "merged", "funnel"} <= result["stages"].keys()
    assert 0 < result["stages"]["ease"]["ndcg@10"] <= 1
    assert {"auc", "logloss"} <= result["ranker"].keys()
    assert result["slices"]
    stored = json.loads((trained / "bundle" / "manifest.json").read_text())["metrics"]["stages"]
    assert stored["funnel"]["ndcg@10"] == pytest.approx(result["stages"]["funnel"]["ndcg@10"])


def test_the_report_stands_alone(trained: Path) -> None:
    page = (trained / "bundle" / "report.html").read_text(encoding="utf-8")
    assert "<svg" in page
    assert 'src="http' not in page
    assert "<script src" not in page


def test_recommend_for_a_user_and_for_a_history(trained: Path) -> None:
    done = palate("recommend", "bundle", "--user", "u1", "--k", "3", "--json", cwd=trained)
    assert len(json.loads(done.stdout)["items"]) == 3
    done = palate("recommend", "bundle", "--history", "Title, 0,Title, 4,i8", "--k", "4", "--json", cwd=trained)
    answer = json.loads(done.stdout)
    assert answer["history"] == ["Title, 0", "Title, 4", "i8"]
    assert {"item", "title", "score", "reason", "source"} <= answer["items"][0].keys()
    done = palate("recommend", "bundle", "--user", "u1", "--filter", 'genres has "red"', cwd=trained)
    assert "Title, " in done.stdout
    assert "green" not in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["recommend", "nowhere", "--user", "1"], "no such bundle"),
        (["recommend", "bundle"], "give --user ID or --history A,B"),
        (["recommend", "bundle", "--history", "Titel 4"], "did you mean 'Title, 4'"),
        (["recommend", "bundle", "--user", "u1", "--filter", 'genre has "red"'], "genres"),
        (["train", "nothing.toml", "--out", "x"], "no such recipe"),
        (["train", "my.toml", "--out", "x", "--set", "rank.objectiv=binary"], "did you mean `objective`"),
        (["evaluate", "my.toml"], "no such bundle"),
    ],
)
def test_mistakes_are_one_line(trained: Path, arguments: list[str], message: str) -> None:
    done = palate(*arguments, cwd=trained, expect=1)
    assert message in done.stderr
    assert done.stderr.startswith("palate: ")
    assert len(done.stderr.strip().splitlines()) == 1


def test_changed_data_is_noticed(trained: Path, tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "copy"
    shutil.copytree(trained, folder)
    manifest = json.loads((folder / "bundle" / "manifest.json").read_text())
    manifest["recipe"]["data"]["source"] = str(folder / "events.csv")
    (folder / "bundle" / "manifest.json").write_text(json.dumps(manifest))
    palate("evaluate", "bundle", "--json", cwd=folder)
    with (folder / "events.csv").open("a") as file:
        file.write("u1,i1,999999\n")
    done = palate("evaluate", "bundle", cwd=folder, expect=1)
    assert "has changed since training" in done.stderr


def test_validate(trained: Path) -> None:
    done = palate("validate", "events.csv", "--json", cwd=trained)
    assert json.loads(done.stdout)["rows"] == 160 * 7
    assert "160" in palate("validate", "events.csv", cwd=trained).stdout
    (trained / "bad.csv").write_text("user,item,time\nu1,i1,5\nu2,,6\nu3,i3,soon\n")
    done = palate("validate", "bad.csv", cwd=trained, expect=1)
    assert "bad.csv" in done.stdout
    palate("validate", "bad.csv", "--bad-rows", "rejected.csv", cwd=trained)
    assert len((trained / "rejected.csv").read_text().strip().splitlines()) == 3


def test_recipe_lists_and_prints(tmp_path: Path) -> None:
    names = palate("recipe", cwd=tmp_path).stdout.split()
    assert "your-own-csv" in names
    assert "[data]" in palate("recipe", "your-own-csv", cwd=tmp_path).stdout


def test_generate_then_train(tmp_path: Path) -> None:
    palate("generate", "events.parquet", "--events", "3000", "--users", "100", "--items", "50", cwd=tmp_path)
    (tmp_path / "r.toml").write_text('[data]\nsource = "events.parquet"\nkind = "kind"\n[[retrieve]]\nuse = "popular"\n')
    palate("train", "r.toml", cwd=tmp_path)


def test_doctor(tmp_path: Path) -> None:
    report = json.loads(palate("doctor", "--json", cwd=tmp_path).stdout)
    assert report["ok"]
    assert {"torch", "torchrec", "fbgemm", "bf16", "memory", "GPU"} <= {check["name"] for check in report["checks"]}


@pytest.mark.parametrize(
    "command",
    ["demo", "train", "evaluate", "recommend", "validate", "recipe", "prepare", "reproduce", "generate", "generate-clicks", "doctor"],
)
def test_every_command_has_help_with_an_example(command: str, tmp_path: Path) -> None:
    assert "Example" in palate(command, "--help", cwd=tmp_path).stdout

"""From raw text to a bundle of one ranker and back, by the commands a person types."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from palate import click_job
from palate import recipe as recipes
from palate.features.rows import Rows
from palate.types import BundleError, ConfigError, DataError

RECIPE = """
[data]
rows = "rows"

[rank]
use = "lr"

[rank.train]
epochs = 3
batch_size = 128
sparse_lr = 0.3
"""


def palate(*arguments: str, cwd: Path, expect: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "palate.cli", *arguments], cwd=cwd, capture_output=True, text=True, env=os.environ | {"COLUMNS": "120"}
    )
    assert done.returncode == expect, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log whose clicks hang on the site alone: 4 of 5 on a, 1 of 5 elsewhere; prepared, with a recipe beside it."""
    folder = tmp_path_factory.mktemp("clicks")
    rng = random.Random(0)
    rows = []
    for _ in range(2000):
        site = rng.choice("abcd")
        rows.append(f"{int(rng.random() < (0.8 if site == 'a' else 0.2))},{rng.randrange(9)},{site},{rng.randrange(20)}")
    (folder / "log.csv").write_text("\n".join(["click,price,site,ad", *rows]) + "\n")
    columns = ["--label", "click", "--dense", "price", "--sparse", "site,ad", "--min-count", "2"]
    told = json.loads(palate("prepare", "csv", "--raw", "log.csv", "--out", "rows", *columns, "--json", cwd=folder).stdout)
    assert told["splits"] == {"train": 1800, "valid": 100, "test": 100}
    assert told["tables"] == {"site": 6, "ad": 22}
    (folder / "my.toml").write_text(RECIPE)
    return folder


@pytest.fixture(scope="module")
def trained(prepared: Path) -> Path:
    done = palate("train", "my.toml", "--out", "bundle", cwd=prepared)
    assert "base rate" in done.stdout
    assert "parameters, trained in" in done.stdout
    return prepared


def test_the_bundle_gives_the_same_figures_again(trained: Path) -> None:
    done = palate("evaluate", "bundle", "--json", cwd=trained)
    result = json.loads(done.stdout)
    stored = json.loads((trained / "bundle" / "manifest.json").read_text())
    assert result["models"] == stored["metrics"]["models"]
    assert result["rows"] == {"valid": 100, "test": 100}
    assert result["data"]["raw"][0]["sha256"]
    lr, base = (result["models"][name] for name in ("lr", "base rate"))
    assert lr["valid"]["click"]["auc"] > 0.7
    assert base["test"]["click"]["auc"] == 0.5
    for split in ("valid", "test"):
        assert lr[split]["click"]["logloss"] < base[split]["click"]["logloss"]
        assert lr[split]["click"]["ne"] < 1
    assert palate("evaluate", "bundle", cwd=trained).stdout.count("lr") == 2


def test_the_loaded_ranker_says_what_the_trained_one_said(prepared: Path, tmp_path: Path) -> None:
    recipe = recipes.load(str(prepared / "my.toml"), ["rank.train.epochs=1"])
    job = click_job.train(recipe, tmp_path / "bundle", quiet=True)
    ranker, manifest = click_job.load(tmp_path / "bundle")
    rows = Rows.open(prepared / "rows", "test")
    assert np.array_equal(ranker.predict(rows), job.ranker.predict(rows))
    assert manifest["parameters"] == job.parameters == 4 * (6 + 22) + 2  # two tables (four wide, for the fused kernels), a price and a bias
    assert recipes.parse(manifest["recipe"]) == recipe


def test_bundles_and_folders_that_do_not_fit(trained: Path, tmp_path: Path) -> None:
    done = palate("recommend", "bundle", "--user", "3", cwd=trained, expect=1)
    assert "holds a click model without a funnel" in done.stderr
    done = palate("evaluate", "bundle", "--report", "page.html", cwd=trained, expect=1)
    assert "--report draws the stages of a funnel" in done.stderr
    manifest = trained / "bundle" / "manifest.json"
    text = manifest.read_text()
    try:
        manifest.write_text(text.replace('"min_count": 2', '"min_count": 3'))
        with pytest.raises(DataError, match=r"was prepared anew since training .its options differ."):
            click_job.evaluate(trained / "bundle")
        manifest.write_text(text.replace('"lr"', '"popular"').replace("palate.rank.lr:LR", "elsewhere:LR"))
        with pytest.raises(BundleError, match=r"pass trust=\['elsewhere'\]"):
            click_job.load(trained / "bundle")
    finally:
        manifest.write_text(text)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["data.source=movielens-small"], "data.source: belongs to a log; data.rows is split"),
        (["data.fraction=0.2"], "data.fraction: belongs to a log"),
        (["funnel.candidates=9"], "funnel: has no meaning beside data.rows"),
        (["rank.widht=9"], "rank.widht: no such key"),
        (["rank={use = 'gbdt'}"], "'gbdt' does not learn from data.rows; a network does"),
        (["data={}"], "data.source: field required"),
    ],
)
def test_recipes_that_cannot_be(prepared: Path, settings: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        recipes.click_ranker(recipes.load(str(prepared / "my.toml"), settings))


def test_a_recipe_needs_a_ranker_and_a_funnel_needs_a_retriever() -> None:
    with pytest.raises(ConfigError, match=r"rank: field required; say which ranker learns from data.rows"):
        recipes.parse({"data": {"rows": "rows"}})
    with pytest.raises(ConfigError, match="retrieve: field required"):
        recipes.parse({"data": {"source": "movielens-small"}})
    with pytest.raises(DataError, match=r"nowhere: no manifest.json; `palate prepare` writes such folders"):
        click_job.train(recipes.parse({"data": {"rows": "nowhere"}, "rank": {"use": "lr"}}), Path("bundle"), quiet=True)


def test_what_memory_cannot_hold_is_refused_before_training(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Machine:
        total = 1000

    monkeypatch.setattr("psutil.virtual_memory", Machine)
    with pytest.raises(ConfigError, match=r"^lr\.train\.batch_size: a batch of 128 rows takes about .*; \d+ would fit"):
        click_job.train(recipes.load(str(prepared / "my.toml"), []), tmp_path / "bundle", quiet=True)
    assert not list(tmp_path.iterdir())


def test_a_damaged_log_is_one_line(prepared: Path) -> None:
    (prepared / "bad.csv").write_text("click,price,site,ad\n" + "maybe,1,a,2\n" * 9)
    done = palate("prepare", "criteo", "bad.csv", "--out", "bad", cwd=prepared, expect=1)
    assert (
        done.stderr.strip().splitlines()[-1].startswith("palate: bad.csv: holds no row of criteo; the first is bad.csv line 1: 1 columns")
    )

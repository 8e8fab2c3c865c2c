"""The plan of a recipe: tables, memory and steps by hand, nothing trained, and what is too large is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from palate import plan
from palate import recipe as recipes
from palate.cli import app
from palate.data import shards
from palate.types import Compressed, ConfigError, Inputs, SparseInput

FEATURES = (
    SparseInput("user", "user", 1001, "sum", Compressed("qr", collisions=10)),
    SparseInput("item", "item", 50, "sum"),
    SparseInput("tag", "tag", 5000, "sum", Compressed("bloom", rows=100)),
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """300 rows; the tables of users and tags are compressed."""
    ids = np.ones((300, 3), dtype=np.int32)
    for split in ("train", "valid", "test"):
        shards.write_shard(tmp_path / f"{split}.safetensors", np.zeros((300, 2), np.float32), ids, np.zeros((300, 1), np.uint8))
    splits = {split: (shards.Shard(f"{split}.safetensors", 300),) for split in ("train", "valid", "test")}
    shards.write_manifest(tmp_path, shards.Manifest(Inputs(("x", "y"), FEATURES), splits))
    return tmp_path


def recipe_of(folder: Path, **rank: object) -> recipes.Recipe:
    settings = {"use": "dlrm", "width": 8, "bottom": [16], "top": [4], "train": {"batch_size": 128, "epochs": 3}, **rank}
    return recipes.parse({"data": {"rows": str(folder)}, "rank": settings})


def test_rows_by_hand(folder: Path) -> None:
    made = plan.of(recipe_of(folder))
    (network,) = made.networks
    found = {table.name: (table.rows, table.kind, table.bytes) for table in network.tables}
    # Row-wise Adagrad: 8 weights and one number of state a row. 1000 ids in tens: 100 quotients, 10 remainders, and PAD in each.
    assert found == {
        "user:quotient": (101, "qr", 101 * 36),
        "user:remainder": (11, "qr", 11 * 36),
        "item": (50, "whole", 50 * 36),
        "tag:bloom": (101, "bloom", 101 * 36),
    }
    bottom, top = (2 * 16 + 16) + (16 * 8 + 8), (8 + 6) * 4 + 4 + 4 + 1
    assert network.dense_parameters == bottom + top
    assert network.parameters == bottom + top + 8 * (101 + 11 + 50 + 101)
    assert network.dense_bytes == 4 * 4 * (bottom + top)  # weights, gradients, and Adam's two moments
    assert (network.epochs, network.steps_an_epoch, network.batch_size) == (3, 3, 128)
    assert network.path == "fused rowwise_adagrad"
    made.check()


def test_the_dense_path_keeps_gradients_and_moments(folder: Path) -> None:
    network = plan.of(recipe_of(folder, train={"sparse": "dense"})).networks[0]
    assert {table.name: table.bytes for table in network.tables}["item"] == 50 * 8 * 4 * 4


def test_what_is_too_large_is_refused(folder: Path) -> None:
    made = plan.of(recipe_of(folder))
    with pytest.raises(ConfigError, match="the largest table is 'user:quotient'"):
        replace(made, memory=made.networks[0].batch_bytes).check()
    with pytest.raises(ConfigError, match="batch_size: a batch of 128 rows takes about"):
        replace(made, memory=1000).check()


def test_tables_larger_than_memory_are_never_allocated() -> None:
    from palate.config import Training
    from palate.nn.embedding import Embeddings

    huge = Inputs(sparse=(SparseInput("small", "small", 9), SparseInput("vast", "vast", 2**40)))
    with pytest.raises(ConfigError, match=r"this machine has .* the largest is 'vast', 1,099,511,627,776 rows x 16"):
        Embeddings(huge, 16, Training())


def test_command(folder: Path, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    text = f'[data]\nrows = "{folder}"\n[rank]\nuse = "dlrm"\n'
    (tmp_path / "recipe.toml").write_text(text)
    runner = CliRunner()
    done = runner.invoke(app, ["train", str(tmp_path / "recipe.toml"), "--dry-run", "--json", "--out", str(tmp_path / "bundle")])
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert said["plan"] == [{"stage": "rank", "use": "dlrm"}]
    assert [table["kind"] for table in said["networks"][0]["tables"]] == ["qr", "qr", "whole", "bloom"]
    shown = runner.invoke(app, ["train", str(tmp_path / "recipe.toml"), "--dry-run", "--out", str(tmp_path / "bundle")])
    assert "user:quotient" in shown.stdout
    assert "nothing was trained" in shown.stdout
    assert not (tmp_path / "bundle").exists()


def test_a_funnel() -> None:
    raw = {
        "data": {"source": "planted"},
        "retrieve": [{"use": "popular"}, {"use": "two_tower", "width": 8, "train": {"epochs": 2}}],
        "rank": {"use": "dlrm", "width": 8},
        "features": [{"kind": "categorical", "source": "item", "embedding": {"kind": "qr", "threshold": 0}}],
    }
    made = plan.of(recipes.parse(raw))
    assert made.stages == (("retrieve", "popular"), ("retrieve", "two_tower"), ("rank", "dlrm"))
    tower, ranker = made.networks
    assert tower.name == "two_tower"
    assert tower.steps_an_epoch is not None
    assert {table.name: table.kind for table in ranker.tables}["item:quotient"] == "qr"
    assert ranker.dense_parameters > 0

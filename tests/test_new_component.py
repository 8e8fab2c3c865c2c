"""Adding a ranker takes two new files, one of them its test, and nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

RANKER = '''
"""A toy ranker: one hidden layer over embeddings and dense features."""

import torch
from torch import nn

from palate.nn.mlp import MLP
from palate.rank.neural import NeuralRanker


class Network(nn.Module):
    def __init__(self, inputs, embeddings, hidden):
        super().__init__()
        self.embeddings = embeddings
        self.layers = MLP(len(inputs.dense) + len(inputs.sparse) * embeddings.width, (hidden,), out=len(inputs.tasks))

    def forward(self, batch):
        return self.layers(torch.cat([batch.dense, self.embeddings(batch.sparse).flatten(1)], dim=1))


class Shallow(NeuralRanker):
    class Config(NeuralRanker.Config):
        hidden: int = 16

    def network(self, inputs, embed):
        return Network(inputs, embed(self.config.width), self.config.hidden)
'''
TEST = """
from shallow import Shallow

from palate.testing.ranker_contract import RankerContract


class TestShallow(RankerContract):
    ranker = Shallow
    settings = {"width": 8, "train": {"epochs": 5, "batch_size": 128, "lr": 5e-3}}
"""


def test_a_new_ranker_is_two_files_and_a_recipe(small_files: Path) -> None:
    (small_files / "shallow.py").write_text(RANKER)
    (small_files / "test_shallow.py").write_text(TEST)
    env = os.environ | {"PYTHONPATH": str(small_files)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(small_files / "test_shallow.py")]
    contract = subprocess.run(command, env=env, capture_output=True, text=True, cwd=small_files)
    assert contract.returncode == 0, contract.stdout + contract.stderr
    assert "passed" in contract.stdout
    recipe = small_files / "my.toml"
    recipe.write_text(recipe.read_text().replace('use = "gbdt"\nmin_rows = 5', 'use = "shallow:Shallow"\nwidth = 8'))
    command = [sys.executable, "-m", "palate.cli", "train", str(recipe), "--out", "bundle", "--json", "--set", "rank.hidden=8"]
    trained = subprocess.run(command, env=env, capture_output=True, text=True, cwd=small_files)
    assert trained.returncode == 0, trained.stderr
    assert {"popular", "ease", "merged", "funnel"} <= json.loads(trained.stdout)["stages"].keys()
    ranker = json.loads((small_files / "bundle" / "manifest.json").read_text())["components"][2]
    assert ranker["use"] == "shallow:Shallow"
    assert ranker["config"]["hidden"] == 8

"""Adding a ranker takes two new files, one of them its test, and nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

RANKER = '''
"""A toy ranker: the mean label of each item, smoothed."""

from typing import Self

import numpy as np

from palate.rank.base import Examples, Ranker
from palate.types import NOTHING, Candidates, Floats, Queries, Run, State


class ItemMean(Ranker):
    """mean_i = (labels_i + prior) / (shown_i + 2 prior)."""

    class Config(Ranker.Config):
        prior: float = 1.0

    def fit(self, examples: Examples, run: Run = Run()) -> Self:
        n = int(examples.candidates.items.max()) + 1
        present = examples.candidates.present
        items, labels = examples.candidates.items[present], examples.labels[present][:, 0]
        shown, liked = np.bincount(items, minlength=n), np.bincount(items, labels, minlength=n)
        self.mean = ((liked + self.config.prior) / (shown + 2 * self.config.prior)).astype(np.float32)
        return self

    def score(self, queries: Queries, candidates: Candidates, encoder: object) -> Floats:
        known = np.append(self.mean, np.float32(0.5))
        scores = known[np.where(candidates.items < len(self.mean), candidates.items, len(self.mean))]
        return np.where(candidates.items == NOTHING, -np.inf, scores).astype(np.float32)[:, :, None]

    def state(self) -> State:
        return State(arrays={"mean": self.mean})

    def restore(self, state: State) -> Self:
        self.mean = state.arrays["mean"]
        return self
'''
TEST = """
from item_mean import ItemMean

from palate.testing.ranker_contract import RankerContract


class TestItemMean(RankerContract):
    def make(self):
        return ItemMean()
"""


def test_a_new_ranker_is_two_files_and_a_recipe(small_files: Path) -> None:
    (small_files / "item_mean.py").write_text(RANKER)
    (small_files / "test_item_mean.py").write_text(TEST)
    env = os.environ | {"PYTHONPATH": str(small_files)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(small_files / "test_item_mean.py")]
    contract = subprocess.run(command, env=env, capture_output=True, text=True, cwd=small_files)
    assert contract.returncode == 0, contract.stdout + contract.stderr
    assert "passed" in contract.stdout
    out = small_files / "bundle"
    command = [sys.executable, "-m", "palate.cli", "train", str(small_files / "my.toml"), "--out", str(out), "--json"]
    toml = (small_files / "my.toml").read_text().replace('use = "gbdt"', 'use = "item_mean:ItemMean"')
    (small_files / "my.toml").write_text(toml)
    trained = subprocess.run([*command, "--set", "rank.prior=2"], env=env, capture_output=True, text=True, cwd=small_files)
    assert trained.returncode == 0, trained.stderr
    stages = json.loads(trained.stdout)["stages"]
    assert {"popular", "ease", "merged", "funnel"} <= stages.keys()
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["components"][2]["use"] == "item_mean:ItemMean"
    assert manifest["components"][2]["config"]["prior"] == 2

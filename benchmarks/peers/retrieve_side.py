"""One model of one library: fitted, and asked for the 100 best of every user. `retrieve_peers.py` starts it; it prints one JSON line.

    python retrieve_side.py implicit als train.txt --epochs 10

Common settings: 64 factors; ALS with conjugate gradients, alpha 10, l2 10; item kNN with cosine and 100 neighbours; EASE with l2 80. What
a library is given (a sparse matrix, a data set, a log) is made before the clock starts. recall: of a tenth of each user's items that nobody
learns from, to see that both sides do the same, not to compare models.

BPR is another matter: one side takes a step of SGD for each pair, on all cores at once; the other steps of row-wise Adagrad for batches of
positives, each against negatives that the batch shares. An epoch of the one is not an epoch of the other, so each has the settings that
gave it the most recall soonest, of those tried on Gowalla (`BPR`), and the recalls are part of the result.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import math
import os
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
from scipy import sparse

FACTORS, ALPHA, L2, NEIGHBOURS, RIDGE, K = 64, 10.0, 10.0, 100, 80.0, 100
BPR: dict[str, dict[str, Any]] = {
    # Tried: rates .01, .02, .05; regularization .01, .001; 10 to 100 iterations.
    "implicit": {"learning_rate": 0.05, "regularization": 0.001, "iterations": 20},
    # Tried: 16, 64, 256 shared negatives, uniform or by popularity; l2 0, .005, .02; biases or none; rates .1, .2, .3; 1 to 4 epochs.
    "palate": {
        "biases": False,
        "shared": 64,
        "keep_hits": True,
        "train": {"epochs": 1, "batch_size": 4096, "sparse": "rowwise_adagrad", "sparse_lr": 0.1},
    },
}
Work = tuple[Callable[[], Any], Callable[[], np.ndarray]]  # fit, and the items [U, 100]


def resident() -> float:
    """Of this process, in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


class Peak:
    """The most memory seen while within, a look every 20 ms."""

    def __enter__(self) -> Peak:
        self.most, self.over = resident(), threading.Event()
        self.watch = threading.Thread(target=self._look, daemon=True)
        self.watch.start()
        return self

    def _look(self) -> None:
        while not self.over.wait(0.02):
            self.most = max(self.most, resident())

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.watch.join()
        self.most = max(self.most, resident())


def read(path: Path, most: int | None = None) -> tuple[sparse.csr_matrix, list[np.ndarray]]:
    """Users by items, and the items held out of each user. most: only so many items, the most frequent."""
    rng, rows, columns, held = np.random.default_rng(0), [], [], []
    users = [np.array(line.split()[1:], dtype=np.int32) for line in path.read_text().splitlines()]
    if most is not None:
        place = np.full(1 + max(int(items.max(initial=0)) for items in users), -1, dtype=np.int32)
        frequent = np.argsort(-np.bincount(np.concatenate(users)), kind="stable")[:most]
        place[frequent] = np.arange(len(frequent))
        users = [kept[kept >= 0] for kept in (place[items] for items in users) if (kept >= 0).any()]
    for user, items in enumerate(users):
        order = rng.permutation(len(items))
        cut = len(items) // 10
        held.append(items[order[:cut]])
        columns.append(np.sort(items[order[cut:]]))
        rows.append(np.full(len(items) - cut, user, dtype=np.int32))
    codes = np.concatenate(columns)
    shape = (len(held), 1 + max(int(codes.max()), max((int(some.max()) for some in held if len(some)), default=0)))
    return sparse.csr_matrix((np.ones(len(codes), dtype=np.float32), (np.concatenate(rows), codes)), shape=shape), held


def of_implicit(model: str, x: sparse.csr_matrix, epochs: int) -> Work:
    from implicit.als import AlternatingLeastSquares
    from implicit.bpr import BayesianPersonalizedRanking
    from implicit.nearest_neighbours import CosineRecommender

    made: dict[str, Callable[[], Any]] = {
        "als": lambda: AlternatingLeastSquares(factors=FACTORS, regularization=L2, alpha=1.0, iterations=epochs, random_state=0),
        "bpr": lambda: BayesianPersonalizedRanking(factors=FACTORS, random_state=0, **BPR["implicit"]),
        "item_knn": lambda: CosineRecommender(K=NEIGHBOURS),
    }
    fitted = made[model]()
    given = x.copy()
    if model == "als":
        given.data = 1 + ALPHA * given.data
    users = np.arange(x.shape[0])
    return lambda: fitted.fit(given, show_progress=False), lambda: fitted.recommend(users, x, N=K, filter_already_liked_items=True)[0]


def of_rectools(model: str, x: sparse.csr_matrix, epochs: int) -> Work:
    import pandas as pd
    from implicit.nearest_neighbours import CosineRecommender
    from rectools import Columns
    from rectools.dataset import Dataset
    from rectools.models import EASEModel, ImplicitItemKNNWrapperModel

    entries = x.tocoo()
    frame = pd.DataFrame({Columns.User: entries.row, Columns.Item: entries.col, Columns.Weight: 1.0, Columns.Datetime: "2020-01-01"})
    data = Dataset.construct(frame)
    fitted = EASEModel(regularization=RIDGE) if model == "ease" else ImplicitItemKNNWrapperModel(CosineRecommender(K=NEIGHBOURS))
    users = np.arange(x.shape[0])

    def recommend() -> np.ndarray:
        found = fitted.recommend(users=users, dataset=data, k=K, filter_viewed=True)
        items = np.full((x.shape[0], K), -1)
        items[found[Columns.User], found[Columns.Rank] - 1] = found[Columns.Item]
        return items

    return lambda: fitted.fit(data), recommend


def of_palate(model: str, x: sparse.csr_matrix, epochs: int) -> Work:
    from palate.config import build
    from palate.features.history import History
    from palate.reproduce.pairs import log_of
    from palate.retrieve.base import Retriever
    from palate.types import Run

    entries = x.tocoo()
    log = log_of(entries.row.astype(np.int64), entries.col.astype(np.int64), *x.shape, name="peers", checksum="")
    settings: dict[str, dict[str, Any]] = {
        "als": {"width": FACTORS, "alpha": ALPHA, "l2": L2, "iterations": epochs},
        "bpr": {"width": FACTORS, "loss": "bpr", "negatives": "uniform", **BPR["palate"]},
        "item_knn": {"similarity": "cosine", "neighbours": NEIGHBOURS},
        "ease": {"l2": RIDGE, "keep": None},
    }
    retriever = build({"bpr": "mf"}.get(model, model), "retrieve", settings[model])
    assert isinstance(retriever, Retriever)
    run = Run()
    if model == "bpr":
        from palate.train.trainer import Trainer

        run = Run(train=Trainer().fit, quiet=True)
    queries = History.of(log).queries(np.arange(x.shape[0], dtype=np.int32))
    # What is loaded when first used is loaded now, as the peers' modules are.
    some = log.where(log.user_codes < 50)
    warm = build({"bpr": "mf"}.get(model, model), "retrieve", settings[model])
    assert isinstance(warm, Retriever)
    warm.fit(some, run).retrieve(queries[:50], K)
    return lambda: retriever.fit(log, run), lambda: retriever.retrieve(queries, K).items


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library", choices=["palate", "implicit", "rectools"])
    parser.add_argument("model", choices=["als", "bpr", "item_knn", "ease"])
    parser.add_argument("train", type=Path)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--items", type=int)
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # of the peers
    x, held = read(options.train, options.items)
    fit, recommend = {"palate": of_palate, "implicit": of_implicit, "rectools": of_rectools}[options.library](
        options.model, x, options.epochs
    )
    # What was freed before is given back, so that nobody's new memory hides in it.
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    before = resident()
    with Peak() as peak:
        began, busy = time.perf_counter(), time.process_time()
        fit()
        fitted = time.perf_counter()
        items = recommend()
        done, busy = time.perf_counter(), time.process_time() - busy
    shares = [np.isin(own, items[user, :20]).mean() for user, own in enumerate(held) if len(own)]
    figures = {"fit_s": fitted - began, "recommend_s": done - fitted, "cpu_s": busy, "peak_mb": peak.most - before}
    figures["recall"] = float(np.mean(shares)) if shares else math.nan
    print(json.dumps(figures))


if __name__ == "__main__":
    main()

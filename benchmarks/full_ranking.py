"""Recall and nDCG of vectors with every item ranked and seen items masked, at Gowalla's size. Prints a table, then one JSON line.

    python benchmarks/full_ranking.py                  # 29,858 users x 40,981 items x 64
    python benchmarks/full_ranking.py --users 500 --items 2000 --rounds 1

    palate   `ExactIndex.search` and `palate.metrics.ranking`, as `palate reproduce` evaluates
    torch    blocks of 2,048 users: matmul, scores of seen items to -inf, topk, and the same metrics

Vectors are random; each user has seen 27 items on average (1 to 800, skewed as Gowalla's) and has 7 test items. Each side runs in a process
of its own; peak memory is what it adds to the vectors and lists that it was given. Both must give the same figures.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np

from palate.metrics import ranking
from palate.retrieve.index import ExactIndex
from palate.types import Ragged, offsets_of

K = 20
SIDES = ("palate", "torch")


def world(users: int, items: int, width: int, seed: int) -> tuple[np.ndarray, np.ndarray, Ragged, Ragged]:
    """Vectors of users and items, seen items and test items."""
    rng = np.random.default_rng(seed)
    vectors = [rng.normal(size=(n, width)).astype(np.float32) for n in (users, items)]
    lengths = np.clip(np.round(16 * rng.pareto(1.6, users) + 4), 1, min(800, items // 4)).astype(np.int64)
    seen = Ragged(offsets_of(lengths), rng.integers(0, items, int(lengths.sum())).astype(np.int32))
    test = Ragged(offsets_of(np.full(users, 7)), rng.integers(0, items, 7 * users).astype(np.int32))
    return vectors[0], vectors[1], seen, test


def by_palate(queries: np.ndarray, items: np.ndarray, seen: Ragged) -> np.ndarray:
    return ExactIndex(items).search(queries, K, seen)[0]


def by_torch(queries: np.ndarray, items: np.ndarray, seen: Ragged) -> np.ndarray:
    import torch

    with torch.inference_mode():
        q, v = torch.from_numpy(queries), torch.from_numpy(items).T.contiguous()
        found = []
        for start in range(0, len(q), 2048):
            scores = q[start : start + 2048] @ v
            hidden = seen.take(np.arange(start, min(start + 2048, len(q))))
            scores[torch.from_numpy(hidden.rows), torch.from_numpy(hidden.values.astype(np.int64))] = -torch.inf
            found.append(scores.topk(K).indices)
        return torch.cat(found).numpy().astype(np.int32)


def one(side: str, options: argparse.Namespace) -> dict[str, float]:
    queries, items, seen, test = world(options.users, options.items, options.width, options.seed)
    act = {"palate": by_palate, "torch": by_torch}[side]
    act(queries[:64], items, seen.take(np.arange(64)))  # loads what is loaded lazily
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds, processor = [], []
    for _ in range(options.rounds):
        began, used = time.perf_counter(), time.process_time()
        hits = ranking.hits(act(queries, items, seen), test)
        recall, ndcg = (float(metric(hits, test.lengths, K).mean()) for metric in (ranking.recall, ranking.ndcg))
        seconds.append(time.perf_counter() - began)
        processor.append(time.process_time() - used)
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    used = statistics.median(processor)
    return {
        "seconds": statistics.median(seconds),
        "least": min(seconds),
        "processor_s": used,
        "peak_mb": peak,
        "recall@20": recall,
        "ndcg@20": ndcg,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=29_858)
    parser.add_argument("--items", type=int, default=40_981)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        print(json.dumps(one(options.side, options)))
        return
    found = {}
    for side in SIDES:
        done = subprocess.run([sys.executable, __file__, *sys.argv[1:], "--side", side], capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{side}: {done.stderr.strip().splitlines()[-1]}")
        found[side] = json.loads(done.stdout)
    print(f"{options.users:,} users x {options.items:,} items x {options.width}, recall@{K} and nDCG@{K}, seen items masked\n")
    print(f"{'':<8}{'seconds':>10}{'least':>10}{'processor':>12}{'peak MB':>10}{'recall':>12}{'ndcg':>12}")
    for side, each in found.items():
        figures = f"{each['recall@20']:>12.6f}{each['ndcg@20']:>12.6f}"
        print(f"{side:<8}{each['seconds']:>10.2f}{each['least']:>10.2f}{each['processor_s']:>12.2f}{each['peak_mb']:>10.0f}{figures}")
    if abs(found["palate"]["recall@20"] - found["torch"]["recall@20"]) > 1e-5:
        sys.exit("the sides disagree")
    ratio = found["torch"]["seconds"] / found["palate"]["seconds"]
    machine = {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()}
    size = {"users": options.users, "items": options.items, "width": options.width, "rounds": options.rounds}
    print(json.dumps({"benchmark": "full_ranking", **size, "sides": found, "torch / palate": round(ratio, 2), **machine}))


if __name__ == "__main__":
    main()

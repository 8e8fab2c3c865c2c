"""Search over 1,000,000 x 64 vectors whose norms are skewed as popularity is: exact, faiss by `palate.retrieve.ann`, usearch.

    python benchmarks/ann.py                                       # some minutes a side on 2 cores; hnsw takes longest to build
    python benchmarks/ann.py --items 20000 --queries 200 --sides exact,ivf,hnsw

Items are drawn about 2,000 centres in 64 dimensions and scaled by (1 + rank)^-skew; queries about the same centres. With the default skew
the largest norm is 7 times the median: iALS on gowalla gives 7.6, MF with a softmax 2.4. At .35 it is 100 times, and search by parts
fails: what is near in direction hardly matters. Each side runs in a process of its own:

    exact          `ExactIndex`
    hnsw, ivf, ivf_pq   `ANNIndex`: what is fetched is scored again exactly; width is the least power of two with the recall asked for
    hnsw_augmented      hnsw on norm-augmented vectors, at the width that `hnsw` took on raw inner products
    usearch             its graph by inner product (only if it is installed: pip install usearch)

recall@100 against exact search over `--queries` queries, that no side has seen before; queries/s in batches, all cores; p99 of queries one
by one; memory is what the process adds to the vectors given to it, at its peak while building and in the end.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import psutil

from palate.retrieve.ann import ANNIndex, IndexConfig, build_index
from palate.retrieve.index import scan

K = 100
SIDES = ("exact", "hnsw", "ivf", "ivf_pq", "hnsw_augmented", "usearch")
Search = Callable[[np.ndarray], np.ndarray]


def world(items: int, queries: int, width: int, skew: float, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Items, queries to tune on and queries to judge on."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(2000, width)).astype(np.float32)

    def about(count: int) -> np.ndarray:
        vectors = centres[rng.integers(0, len(centres), count)] + 0.7 * rng.standard_normal((count, width), dtype=np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    norms = rng.permutation((1 + np.arange(items)) ** -skew).astype(np.float32)
    return about(items) * norms[:, None], about(min(queries, 1000)), about(queries)


def resident() -> float:
    return psutil.Process().memory_info().rss / 2**20


def made(side: str, items: np.ndarray, tune: np.ndarray, options: argparse.Namespace, facts: dict[str, Any]) -> Search:
    """Builds, notes what it took, and gives the search."""
    if side in ("exact", "hnsw", "ivf", "ivf_pq"):
        settings = IndexConfig(kind=side, least_recall=options.recall, recall_at=K)  # type: ignore[arg-type]
        index = build_index(items, settings, queries=tune, seed=options.seed)
        if isinstance(index, ANNIndex):
            facts |= {"build_s": index.report["build_s"], "width": index.report["width"], "by_width": index.report["measured"]}
        return lambda queries: index.search(queries, K)[0]
    if side == "hnsw_augmented":
        settings = IndexConfig(kind="hnsw", space="augmented", width=options.width_of_hnsw, least_recall=1e-9, recall_at=K)
        index = build_index(items, settings, queries=tune, seed=options.seed)
        assert isinstance(index, ANNIndex)
        facts |= {"build_s": index.report["build_s"], "width": index.report["width"]}
        return lambda queries: index.search(queries, K)[0]
    from usearch.index import Index

    began = time.perf_counter()
    graph = Index(ndim=items.shape[1], metric="ip", dtype="f32", connectivity=32, expansion_add=IndexConfig().ef_construction)
    graph.add(np.arange(len(items)), items)
    facts["build_s"] = time.perf_counter() - began

    def search(queries: np.ndarray) -> np.ndarray:
        return np.atleast_2d(graph.search(queries, K).keys).astype(np.int64)

    best = scan(items, tune, K)[0]
    facts["by_width"] = {}
    for width in (128, 256, 512, 1024, 2048, 4096):
        graph.expansion_search = facts["width"] = width
        facts["by_width"][width] = recall_of(search(tune), best)
        if facts["by_width"][width] >= options.recall:
            break
    return search


def recall_of(found: np.ndarray, best: np.ndarray) -> float:
    return float(np.mean([len(np.intersect1d(one, other)) / K for one, other in zip(found, best, strict=True)]))


def one(side: str, options: argparse.Namespace) -> dict[str, Any]:
    files = np.lib.format.open_memmap
    items, tune, queries, best = (
        np.array(files(options.folder / f"{name}.npy", mode="r")) for name in ("items", "tune", "queries", "best")
    )
    before, began = resident(), time.perf_counter()
    facts: dict[str, Any] = {}
    search = made(side, items, tune, options, facts)
    facts.setdefault("build_s", time.perf_counter() - began)
    facts["memory_mb"] = resident() - before
    try:
        peak = next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
        facts["build_peak_mb"] = peak / 1024 - before
    except OSError:
        pass
    found = search(queries)
    began = time.perf_counter()
    search(queries)
    facts |= {"recall": recall_of(found, best), "queries_per_s": len(queries) / (time.perf_counter() - began)}
    waits = []
    for row in range(min(len(queries), options.single)):
        began = time.perf_counter()
        search(queries[row : row + 1])
        waits.append(1000 * (time.perf_counter() - began))
    return facts | {"p50_ms": float(np.percentile(waits, 50)), "p99_ms": float(np.percentile(waits, 99))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--skew", type=float, default=0.15, help="norms fall as rank^-skew")
    parser.add_argument("--queries", type=int, default=2000)
    parser.add_argument("--single", type=int, default=500, help="queries asked one by one")
    parser.add_argument("--recall", type=float, default=0.95, help="what approximate sides must reach")
    parser.add_argument("--sides", default=",".join(SIDES))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--width-of-hnsw", type=int, default=128, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        print(json.dumps(one(options.side, options)))
        return
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        items, tune, queries = world(options.items, options.queries, options.width, options.skew, options.seed)
        for name, array in (("items", items), ("tune", tune), ("queries", queries), ("best", scan(items, queries, K)[0])):
            np.save(Path(folder) / f"{name}.npy", array.astype(np.float32) if array.dtype.kind == "f" else array)
        del items, tune, queries
        for side in options.sides.split(","):
            width = str(found.get("hnsw", {}).get("width", 128))
            command = [sys.executable, __file__, *sys.argv[1:], "--side", side, "--folder", folder, "--width-of-hnsw", width]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            last = done.stderr.strip().splitlines()[-1:] or [f"ended with {done.returncode}"]
            found[side] = json.loads(done.stdout) if not done.returncode else {"error": last[0][:200]}
            print(f"{side} done", file=sys.stderr)
    print(f"{options.items:,} x {options.width}, recall@{K} of at least {options.recall:g} asked for\n")
    print(f"{'':<10}{'recall':>9}{'width':>7}{'build s':>10}{'queries/s':>12}{'p50 ms':>9}{'p99 ms':>9}{'memory MB':>11}{'peak MB':>10}")
    for side, each in found.items():
        if "error" in each:
            print(f"{side:<10}{each['error']}")
            continue
        rates = f"{each['build_s']:>10.1f}{each['queries_per_s']:>12,.0f}{each['p50_ms']:>9.2f}{each['p99_ms']:>9.2f}"
        memory = f"{each['memory_mb']:>11,.0f}{each.get('build_peak_mb', float('nan')):>10,.0f}"
        print(f"{side:<10}{each['recall']:>9.4f}{each.get('width', ''):>7}{rates}{memory}")
    machine = {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()}
    size = {"items": options.items, "dimensions": options.width, "skew": options.skew, "queries": options.queries, "seed": options.seed}
    print(json.dumps({"benchmark": "ann", **size, "sides": found, **machine}))


if __name__ == "__main__":
    main()

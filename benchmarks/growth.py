"""Fit time and memory of every retriever against events: 1, 2, 5 and 10 million generated. Prints a table, then one JSON line.

    python benchmarks/growth.py --out docs/results            # growth.md, and images/growth.svg
    python benchmarks/growth.py --events 0.02,0.05 --models popular,ease

40 events a user, items drawn with popularity 1 / rank^0.8 from 10,000; each user prefers one of 50 kinds. Each fit runs in a process of its
own. Networks train for one epoch, so that their time is that of an epoch. Memory is the most that the fit adds to its log. A fit that
passes --limit is not tried with more events.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
sys.path.insert(0, str(Path(__file__).parent / "peers"))

import numpy as np
from retrieve_side import Peak, resident

from palate.config import build
from palate.reproduce.pairs import log_of
from palate.retrieve.base import Retriever
from palate.types import Log, Run

EPOCH = {"train": {"epochs": 1}}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "popular": ("popular", {}),
    "item_knn": ("item_knn", {"similarity": "cosine"}),
    "user_knn": ("user_knn", {}),
    "ease": ("ease", {}),
    "slim": ("slim", {}),
    "graph_filter": ("graph_filter", {}),
    "als": ("als", {}),
    "mf": ("mf", {"negatives": "uniform", "shared": 256, "train": {"epochs": 1, "batch_size": 4096, "sparse": "rowwise_adagrad"}}),
    "two_tower": ("two_tower", {"train": {"epochs": 1, "batch_size": 2048}}),
}


def world(events: int, items: int, seed: int) -> Log:
    """Half of a user's events are of the user's own kind."""
    rng = np.random.default_rng(seed)
    users = max(1, events // 40)
    chance = (1 + np.arange(items)) ** -0.8
    cumulative = np.cumsum(chance) / chance.sum()
    who = rng.integers(0, users, events)
    what = np.minimum(np.searchsorted(cumulative, rng.random(events)), items - 1)
    own = rng.random(events) < 0.5
    what[own] = np.minimum(what[own] // 50 * 50 + who[own] % 50, items - 1)
    return log_of(who, rng.permutation(items)[what], users, items, name="generated", checksum="")


def one(model: str, options: argparse.Namespace) -> dict[str, float]:
    log = world(options.count, options.items, options.seed)
    log.user_codes, log.item_codes, log.times  # noqa: B018 - kept with the log once they are asked for
    use, settings = MODELS[model]
    retriever = build(use, "retrieve", settings)
    assert isinstance(retriever, Retriever)
    run = Run(seed=options.seed)
    if "train" in type(retriever).Config.model_fields:
        from palate.train.trainer import Trainer

        run = Run(seed=options.seed, train=Trainer().fit)
    before = resident()
    with Peak() as peak:
        began = time.perf_counter()
        retriever.fit(log, run)
        seconds = time.perf_counter() - began
    return {"fit_s": seconds, "peak_mb": peak.most - before}


def drawing(found: dict[str, dict[str, dict[str, Any]]]) -> str:
    """Both figures against events, on logarithmic axes, as SVG."""
    import vl_convert

    rows = [
        {"model": model, "events (millions)": float(events), "what": what, "value": max(each[key], 0.01)}
        for model, by_events in found.items()
        for events, each in by_events.items()
        if "error" not in each
        for key, what in (("fit_s", "fit, seconds"), ("peak_mb", "memory, MB"))
    ]
    log = {"type": "log"}
    x = {"field": "events (millions)", "type": "quantitative", "scale": log, "axis": {"values": [1, 2, 5, 10]}}
    y = {"field": "value", "type": "quantitative", "scale": log, "title": None}
    colour = {"field": "model", "type": "nominal", "scale": {"scheme": "tableau10"}}
    panel = {"width": 360, "height": 300, "mark": {"type": "line", "point": True}, "encoding": {"x": x, "y": y, "color": colour}}
    facet = {"field": "what", "type": "nominal", "title": None}
    chart = {"data": {"values": rows}, "facet": {"column": facet}, "spec": panel, "resolve": {"scale": {"y": "independent"}}}
    return str(vl_convert.vegalite_to_svg({"$schema": "https://vega.github.io/schema/vega-lite/v5.json", **chart}, vl_version="5.21"))


def markdown(found: dict[str, dict[str, dict[str, Any]]], sizes: list[str], command: str) -> str:
    head = ["model", *(f"{size} M" for size in sizes)]
    lines = [head, ["---"] + ["---:"] * len(sizes)]
    for model, each in found.items():
        cells = [each.get(size, {"error": "-"}) for size in sizes]
        lines.append([model, *(cell.get("error") or f"{cell['fit_s']:.1f} s, {cell['peak_mb']:,.0f} MB" for cell in cells)])
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    words = (
        "Seconds of the fit, and the memory it adds to the log, against millions of events (40 a user, 10,000 items). Networks: one epoch."
    )
    return f"# Growth\n\n{words}\n\n{table}\n\n![growth](images/growth.svg)\n\nCommand: `{command}`.\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", default="1,2,5,10", help="millions")
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--limit", type=float, default=900.0, help="seconds for a fit")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="folder for growth.md and images/growth.svg")
    parser.add_argument("--model", choices=list(MODELS), help=argparse.SUPPRESS)
    parser.add_argument("--count", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.model:
        print(json.dumps(one(options.model, options)))
        return
    sizes = options.events.split(",")
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for model in options.models.split(","):
        found[model] = {}
        for size in sizes:
            count = str(round(float(size) * 1e6))
            command = [
                sys.executable,
                __file__,
                "--model",
                model,
                "--count",
                count,
                "--items",
                str(options.items),
                "--seed",
                str(options.seed),
            ]
            try:
                done = subprocess.run(command, capture_output=True, text=True, timeout=2 * options.limit, check=False)
            except subprocess.TimeoutExpired:
                found[model][size] = {"error": f"over {2 * options.limit:.0f} s"}
                break
            last = done.stderr.strip().splitlines()[-1:] or [f"ended with {done.returncode}"]
            found[model][size] = json.loads(done.stdout) if not done.returncode else {"error": last[0][:80]}
            print(f"{model} {size} M: {found[model][size]}", file=sys.stderr)
            if "error" in found[model][size] or found[model][size]["fit_s"] > options.limit:
                break
    text = markdown(found, sizes, "python benchmarks/growth.py " + " ".join(sys.argv[1:]))
    print(text)
    if options.out:
        (options.out / "images").mkdir(parents=True, exist_ok=True)
        (options.out / "growth.md").write_text(text, encoding="utf-8")
        (options.out / "images" / "growth.svg").write_text(drawing(found), encoding="utf-8")
    machine = {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()}
    print(json.dumps({"benchmark": "growth", "items": options.items, "seed": options.seed, "models": found, **machine}))


if __name__ == "__main__":
    main()

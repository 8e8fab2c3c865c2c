"""Load on the service: a catalogue of a million items, 500 candidates, DLRM, MMR, and people who come when they come.

    python benchmarks/serve.py build --out served          # a planted world, two towers, inverted lists, DLRM; some minutes, once
    python benchmarks/serve.py load served --rates 20,40,60 --seconds 30
    python benchmarks/serve.py load served --rates 40 --seconds 600      # is its memory flat?

`load` starts `palate serve` as a process of its own and asks it over HTTP from another: an open loop, requests leave at equal distances
(as wrk2 sends them) or, with `--arrivals poisson`, as people come, whether or not the earlier ones have been answered, and latency counts
from the time at which a request should have left (Tene 2015, "How not to measure latency"). Half of the users are known to the bundle;
every tenth request is an event. Prints one JSON line a rate: p50, p90, p99, answered, refused, by policy; the share of the service's time
inside index and model: of the stages of an answer, and of the whole of a request from the head to the last byte (both from its own
metrics); the processor time it took; its memory, at the beginning and at ten moments; and `taken_away`, the share of the time in which
the machine's cores were ready and a hypervisor let others have them: no percentile means much where that is large.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import psutil

WHOLE = re.compile(r'^palate_request_seconds_(sum|count)\{route="/v1/recommend"\} (\S+)$', re.M)
LEFT_OUT = ("context.position", "item.genres", "item_age", "item_recent_count", "affinity.genres", "affinity.genres.last5")
STAGES = re.compile(r'^palate_stage_seconds_sum\{stage="(\w+)"\} (\S+)$', re.M)


def build(out: Path, items: int, users: int, events: int) -> None:
    import palate
    from palate.data.sources import planted
    from palate.features.spec import FeatureSet
    from palate.rank.dlrm import DLRM
    from palate.retrieve.two_tower import TwoTower

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "events.parquet"
        truth = planted.write_events(file, events=events, users=users, items=items, seed=0)
        columns = truth.columns
        log = palate.read(
            file, user=columns.user, item=columns.item, time=columns.time, kind=columns.kind, value=columns.value,
            context=columns.context, users=truth.users, items=truth.items,
        )  # fmt: skip
    print(f"{len(log):,} events, {log.n_users:,} users, {log.n_items:,} items", file=sys.stderr)
    towers = TwoTower(
        quota=450, width=32, negatives="mixed", train={"epochs": 1, "batch_size": 1024},
        index={"kind": "ivf", "least_recall": 0.9, "recall_at": 450, "sample": 500},
    )  # fmt: skip
    # What a ranker of this size reads in production: ids, tables, history and counts; not the shares of genres in a history, say.
    plain = FeatureSet.derive(log).without(*LEFT_OUT)
    recommender = palate.Recommender(
        retrieve=[palate.Popular(quota=100), towers],
        rank=DLRM(train={"epochs": 1}),
        rerank=[palate.MMR(beta=0.3)],
        features=plain,
        candidates=500, queries=2000, cuts=1,
    )  # fmt: skip
    recommender.fit(log, quiet=False).save(out)


class Client:
    """A connection that is kept, one request at a time."""

    def __init__(self, port: int) -> None:
        self.port, self.reader, self.writer, self.last = port, None, None, 0.0

    async def post(self, path: str, body: bytes) -> tuple[int, bytes]:
        if self.writer is not None and time.perf_counter() - self.last > 4:  # the server closes what is idle for 5 s
            self.writer.close()
            self.writer = None
        if self.writer is None:
            self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        self.writer.write(head.encode() + body)
        answer = await self.reader.readuntil(b"\r\n\r\n")
        self.last = time.perf_counter()
        length = int(re.search(rb"content-length: (\d+)", answer, re.I)[1])
        return int(answer[9:12]), await self.reader.readexactly(length)


async def load(port: int, rate: float, seconds: float, users: list[str], seed: int, arrivals: str) -> dict[str, Any]:
    rng = random.Random(seed)
    idle: list[Client] = []
    taken: list[float] = []
    statuses: dict[str, int] = {}
    shown: list[tuple[str, str, str]] = []

    async def one(due: float, number: int) -> None:
        client = idle.pop() if idle else Client(port)
        user = rng.choice(users) if rng.random() < 0.5 else f"new-{rng.randrange(1000)}"
        event = number % 10 == 9 and bool(shown)
        if event:
            user, item, recommendation = shown[rng.randrange(len(shown))]
            sent = {"id": f"{seed}-{number}", "kind": "click", "user": user, "item": item, "recommendation": recommendation}
            path, body = "/v1/events", json.dumps({**sent, "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}).encode()
        else:
            path, body = "/v1/recommend", json.dumps({"user": user, "k": 10}).encode()
        try:
            status, answer = await client.post(path, body)
        except (OSError, asyncio.IncompleteReadError) as error:
            statuses[type(error).__name__] = statuses.get(type(error).__name__, 0) + 1
            return
        if not event:
            taken.append(time.perf_counter() - due)
            name = f"{status}"
            if status == 200:
                said = json.loads(answer)
                name = said["policy"]
                if number % 7 == 0:
                    shown.append((user, said["items"][0]["item"], said["recommendation"]))
                    del shown[:-500]
            statuses[name] = statuses.get(name, 0) + 1
        elif status != 200:
            statuses[f"events {status}"] = statuses.get(f"events {status}", 0) + 1
        idle.append(client)

    began, due, number, tasks = time.perf_counter(), time.perf_counter(), 0, set()
    while True:
        due += rng.expovariate(rate) if arrivals == "poisson" else 1 / rate
        if due - began > seconds:
            break
        wait = due - time.perf_counter()
        if wait > 0:
            await asyncio.sleep(wait)
        task = asyncio.create_task(one(due, number))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        number += 1
    if tasks:
        await asyncio.wait(tasks, timeout=30)
    spent = time.perf_counter() - began
    quantiles = np.quantile(taken, [0.5, 0.9, 0.99]) * 1000
    return {
        "rate": rate, "arrivals": arrivals, "seconds": round(spent, 1), "requests": len(taken), "per_second": round(len(taken) / spent, 1),
        "p50_ms": round(quantiles[0], 2), "p90_ms": round(quantiles[1], 2), "p99_ms": round(quantiles[2], 2),
        "max_ms": round(max(taken) * 1000, 1), "answers": statuses,
    }  # fmt: skip


def watch(process: psutil.Process, sizes: list[int], seconds: float) -> None:
    """Memory at ten moments of the run."""
    for _ in range(10):
        time.sleep(seconds / 10)
        sizes.append(process.memory_info().rss)


def metrics(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        return answer.read().decode()


def stages(port: int) -> dict[str, float]:
    text = metrics(port)
    return {name: float(value) for name, value in STAGES.findall(text)} | {
        f"request {name}": float(value) for name, value in WHOLE.findall(text)
    }


def measure(bundle: Path, rates: list[float], seconds: float, workers: int, deadline: float, arrivals: str) -> None:
    import polars as pl

    users = pl.read_parquet(bundle / "users.parquet")["user"].sample(5000, with_replacement=True, seed=0).to_list()
    with tempfile.TemporaryDirectory() as folder:
        settings = Path(folder) / "serve.toml"
        settings.write_text(f'store = "{folder}/events.db"\nworkers = {workers}\ndeadline_ms = {deadline}\nport = 0\n')
        command = [str(Path(sys.executable).with_name("palate")), "serve", str(bundle), "--config", str(settings)]
        server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert server.stderr is not None
        try:
            port = int(re.search(r"http://127\.0\.0\.1:(\d+)", server.stderr.readline())[1])
            while True:
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/health/ready").read()
                    break
                except OSError:
                    if server.poll() is not None:
                        raise SystemExit(server.stderr.read()) from None
                    time.sleep(0.5)
            drain = subprocess.Popen(["cat"], stdin=server.stderr, stdout=subprocess.DEVNULL)
            process = psutil.Process(server.pid)
            asyncio.run(load(port, rates[0], 5, users, 1, arrivals))  # warm
            for number, rate in enumerate(rates):
                before, cpu, stolen = stages(port), sum(process.cpu_times()[:2]), psutil.cpu_times()
                memory = [process.memory_info().rss]
                watcher = threading.Thread(target=watch, args=(process, memory, seconds), daemon=True)
                watcher.start()
                result = asyncio.run(load(port, rate, seconds, users, 100 + number, arrivals))
                watcher.join()
                after, count = stages(port), result["requests"]
                spent = {name: after[name] - before.get(name, 0.0) for name in after}
                cpu = sum(process.cpu_times()[:2]) - cpu
                now = psutil.cpu_times()
                taken_away = getattr(now, "steal", 0.0) - getattr(stolen, "steal", 0.0)  # not every system tells
                inside = sum(spent.get(name, 0.0) for name in ("retrieve", "rank", "rerank"))
                answers = sum(value for name, value in spent.items() if not name.startswith("request "))
                each = {name: round(1000 * value / count, 3) for name, value in spent.items() if name != "request count"}
                line = {
                    "ms_a_request": each,
                    "index_and_model_of_an_answer": round(inside / answers, 3),
                    "index_and_model_of_a_request": round(inside / spent["request sum"], 3),
                    "processor_ms_a_request": round(1000 * cpu / count, 2),
                    "taken_away": round(taken_away / max(sum(now) - sum(stolen), 1e-9), 3),
                    "memory_mib": [round(size / 2**20) for size in memory],
                }
                print(json.dumps({"benchmark": "serve", "workers": workers, **result, **line}), flush=True)
        finally:
            server.terminate()
            server.wait(20)
            if "drain" in locals():
                drain.terminate()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("build")
    one.add_argument("--out", type=Path, default=Path("served"))
    one.add_argument("--items", type=int, default=1_000_000)
    one.add_argument("--users", type=int, default=100_000)
    one.add_argument("--events", type=int, default=2_000_000)
    two = commands.add_parser("load")
    two.add_argument("bundle", type=Path)
    two.add_argument("--rates", default="20,40,60")
    two.add_argument("--seconds", type=float, default=30)
    two.add_argument("--workers", type=int, default=2)
    two.add_argument("--deadline", type=float, default=500)
    two.add_argument("--arrivals", choices=["constant", "poisson"], default="constant")
    given = parser.parse_args()
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if given.command == "build":
        build(given.out, given.items, given.users, given.events)
    else:
        measure(
            given.bundle, [float(rate) for rate in given.rates.split(",")], given.seconds, given.workers, given.deadline, given.arrivals
        )


if __name__ == "__main__":
    main()

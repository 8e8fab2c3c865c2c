"""`palate prepare criteo` on generated files of the Kaggle set's shape: rows a second, peak memory, and parsing against a bare polars scan.

    python benchmarks/prepare_criteo.py --rows 1000000 5000000 20000000 [--min-count 10] [--gz] [--json]

Each file is written in chunks: 13 skewed integers and 26 categorical columns with the cardinalities of the Kaggle file (10.1 million the
largest; a value's rank is log-uniform, so that few stand often and most are rare), a quarter clicks, missing values as there. For each
size, every step in a process of its own:

    scan      polars `scan_csv(...).collect(engine="streaming")` of the file, integers and texts, nothing else: the bare scan
    lean      the same scan, but only counting rows of one column, so that nothing is kept: polars at its fastest
    parse     Palate's parser alone over the file: numbers, keys and bad rows, nothing kept
    prepare   the whole `palate prepare`, all three passes, to shards

Prints a table and one JSON line a size: seconds, rows a second, peak resident memory of each process (MiB), and ratios.
The peak is VmHWM of /proc/self/status (Linux). `vocabulary_mib` is what the tables of values take of it in `prepare` (12 bytes each).
"""

from __future__ import annotations

import argparse
import gzip
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl

CARDINALITIES = (1460, 583, 10131227, 2202608, 305, 24, 12517, 633, 3, 93145, 5683, 8351593, 3194, 27, 14992, 5461306, 10, 5652, 2173, 4,
                 7046547, 18, 15, 286181, 105, 142572)  # fmt: skip
MISSING_INTEGERS = (0.45, 0.0, 0.21, 0.22, 0.03, 0.22, 0.04, 0.0, 0.04, 0.45, 0.04, 0.77, 0.22)
MISSING_CATEGORIES = {3: 0.03, 4: 0.03, 6: 0.12, 12: 0.03, 16: 0.03, 19: 0.44, 20: 0.44, 21: 0.03, 22: 0.76, 24: 0.03, 25: 0.44, 26: 0.44}
CHUNK = 200_000
TEXTS = {"label": pl.UInt8} | {f"I{n}": pl.Int64 for n in range(1, 14)} | {f"C{n}": pl.String for n in range(1, 27)}


def generate(path: Path, rows: int, seed: int = 0) -> None:
    """Streams `rows` lines to `path`, gz where it says so."""
    rng = np.random.default_rng(seed)
    with gzip.open(path, "wb", compresslevel=1) if path.suffix == ".gz" else path.open("wb") as file:
        for start in range(0, rows, CHUNK):
            file.write(chunk(rng, min(CHUNK, rows - start)))


def chunk(rng: np.random.Generator, rows: int) -> bytes:
    """Some rows as text."""
    columns: dict[str, pl.Series] = {"label": pl.Series((rng.random(rows) < 0.256).astype(np.int8))}
    for place, missing in enumerate(MISSING_INTEGERS):
        values = np.floor(np.exp(rng.normal(0.5 + (place * 5 % 13) / 2, 1.5, rows))).astype(np.int64) - (place == 1)
        columns[f"I{place + 1}"] = pl.Series(values).set(pl.Series(rng.random(rows) < missing), None)
    digits = np.frombuffer(b"0123456789abcdef", dtype=np.uint8)
    for place, cardinality in enumerate(CARDINALITIES, 1):
        rank = (cardinality ** rng.random(rows)).astype(np.uint64)
        hashed = (rank * np.uint64(0x9E3779B1) + np.uint64(place * 0x85EBCA6B)) & np.uint64(0xFFFFFFFF)
        nibbles = (hashed[:, None] >> np.arange(28, -4, -4, dtype=np.uint64)) & np.uint64(15)
        text = pl.Series(digits[nibbles].view("S8").ravel().astype("U8"))
        columns[f"C{place}"] = text.set(pl.Series(rng.random(rows) < MISSING_CATEGORIES.get(place, 0.0)), None)
    return pl.DataFrame(columns).write_csv(None, separator="\t", include_header=False, null_value="").encode()


STEPS = {
    "scan": "frame = pl.scan_csv(raw, separator='\\t', has_header=False, schema=TEXTS).collect(engine='streaming'); rows = frame.height",
    "lean": "rows = pl.scan_csv(raw, separator='\\t', has_header=False, schema=TEXTS).select(pl.all().count())"
    ".collect(engine='streaming')['label'][0]",
    "parse": "rows = parse(raw)",
    "prepare": "rows = prepare(CRITEO, [raw], out, Options(min_count=least))['rows']",
}
SCRIPT = """
import json, sys, time
from pathlib import Path
sys.path.insert(0, {here!r})
from prepare_criteo import *
from palate.data.prepare import Options, prepare
from palate.data.sources.criteo import CRITEO
raw, out, least = Path({raw!r}), Path({out!r}), {least}
start, used = time.perf_counter(), time.process_time()
{step}
seconds, used = time.perf_counter() - start, time.process_time() - used
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]
print(json.dumps([rows, seconds, used, int(peak) / 1024]))
"""


def parse(raw: Path) -> int:
    """Palate's parser over a file, in as many threads as `palate prepare` uses; how many rows there are."""
    import os
    from concurrent.futures import ThreadPoolExecutor

    from palate.data.blocks import FRONT, Block, Reader
    from palate.data.prepare import PIECE, _flow, line_end
    from palate.data.sources.criteo import CRITEO

    def one(block: Block) -> int:
        start, stop, rows = FRONT, len(block.text), 0
        while start < stop:
            end = line_end(block.text, start, min(start + PIECE, stop))
            rows += len(CRITEO.parse(block.text, start, end).labels)
            start = end
        return rows

    workers = os.cpu_count() or 1
    with ThreadPoolExecutor(workers) as pool:
        return sum(_flow(pool, one, Reader(raw, lambda count: None), workers + 1))


def measure(step: str, raw: Path, out: Path, least: int) -> dict[str, float]:
    """One step in a process of its own."""
    script = SCRIPT.format(here=str(Path(__file__).parent), raw=str(raw), out=str(out), least=least, step=STEPS[step])
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    if done.returncode:
        return {}  # polars may need more memory than there is; the row says so
    rows, seconds, used, peak = json.loads(done.stdout.splitlines()[-1])
    return {"rows": rows, "seconds": round(seconds, 2), "cpu_seconds": round(used, 2), "peak_mib": round(peak)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000])
    parser.add_argument("--min-count", type=int, default=10)
    parser.add_argument("--gz", action="store_true", help="pack the file; polars then reads the whole of it into memory")
    parser.add_argument("--folder", type=Path, help="where the files go (default: the system's temporary folder)")
    parser.add_argument("--json", action="store_true", help="JSON lines only")
    arguments = parser.parse_args()
    heads = ("rows", "MiB", *(f"{step} rows/s" for step in STEPS), *(f"{step} MiB" for step in STEPS), "parse/scan", "prepare/scan")
    if not arguments.json:
        print(" | ".join(heads))
    for rows in arguments.rows:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            raw = Path(folder) / ("train.txt.gz" if arguments.gz else "train.txt")
            start = time.perf_counter()
            generate(raw, rows)
            seconds = time.perf_counter() - start
            found = {step: measure(step, raw, Path(folder) / "out", arguments.min_count) for step in STEPS}
            if not found["prepare"] or not found["parse"]:
                sys.exit(f"palate prepare failed on {rows:,} rows")
            manifest = json.loads((Path(folder) / "out" / "manifest.json").read_text(encoding="utf-8"))
            kept = sum(feature["rows"] for feature in manifest["sparse"])
            rate = {step: rows / each["seconds"] if each else float("nan") for step, each in found.items()}
            line = {
                "rows": rows, "file_mib": round(raw.stat().st_size / 2**20), "generated_in": round(seconds, 1),
                "min_count": arguments.min_count, "values_kept": kept, "vocabulary_mib": round(kept * 12 / 2**20), "steps": found,
                "parse_of_scan": round(rate["parse"] / rate["scan"], 3), "prepare_of_scan": round(rate["prepare"] / rate["scan"], 3),
                "parse_of_lean": round(rate["parse"] / rate["lean"], 3),
            }  # fmt: skip
            if not arguments.json:
                peaks = [str(found[step].get("peak_mib", "-")) for step in STEPS]
                ratios = [f"{line['parse_of_scan']:.2f}", f"{line['prepare_of_scan']:.2f}"]
                print(" | ".join([f"{rows:,}", str(line["file_mib"]), *(f"{rate[step]:,.0f}" for step in STEPS), *peaks, *ratios]))
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()

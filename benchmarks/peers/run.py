"""Training rates of FuxiCTR, torch-rechub and DeepCTR-Torch beside ours, on the same batches. Prints a table, then one JSON line.

    python benchmarks/peers/run.py --env DIR                          # Criteo Kaggle's shape: 26 tables, 33.76 million rows, width 16
    python benchmarks/peers/run.py --env DIR --shape small --seconds 5

DIR is a folder outside the repository. At the first run a virtual environment is made there with what requirements.txt beside this file
pins (some 1.5 GB); FuxiCTR, torch-rechub and DeepCTR-Torch are imported from it, nothing of theirs is copied here. Batches are made by
palate/data/sources/dlrm_data.py (`random`, uniform ids), written once, and read by every side. The sides run one after another, each
alone in a process of its own, and the rate is that of the median step: a library's own training step with Adam, see side.py. A side that
cannot be run is in the table with the reason. At Kaggle's shape the peers need 9 to 13 GB: their gradients are as large as the tables.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

HERE = Path(__file__).parent

# Ids of each field of Criteo's Kaggle data, all of them: 33,762,577.
KAGGLE = (
    *(1_460, 583, 10_131_227, 2_202_608, 305, 24, 12_517, 633, 3, 93_145, 5_683, 8_351_593, 3_194, 27, 14_992, 5_461_306, 10, 5_652),
    *(2_173, 4, 7_046_547, 18, 15, 286_181, 105, 142_572),
)
SHAPES: dict[str, dict[str, Any]] = {
    "kaggle": {"sizes": KAGGLE, "width": 16, "bottom": (512, 256, 64), "top": (512, 256), "deep": (400, 400, 400), "batch": 2048},
    "small": {"sizes": (10_000,) * 26, "width": 16, "bottom": (512, 256, 64), "top": (512, 256), "deep": (400, 400, 400), "batch": 2048},
    "tiny": {"sizes": (500,) * 26, "width": 8, "bottom": (32,), "top": (32,), "deep": (32,), "batch": 256},
}
SIDES = ("palate", "palate-bf16", "fuxictr", "torch-rechub", "deepctr-torch")
MODELS = ("dlrm", "deepfm")


def make_environment(folder: Path) -> Path:
    """The Python of the peers' virtual environment, made if it is not there or was made for other versions."""
    python = folder / "bin" / "python"
    wanted = (HERE / "requirements.txt").read_text(encoding="utf-8")
    ready = folder / "requirements.txt"
    if ready.exists() and ready.read_text(encoding="utf-8") == wanted:
        return python
    if HERE.parent.parent in folder.resolve().parents:
        sys.exit(f"--env {folder}: choose a folder outside the repository")
    print(f"making {folder} ...", file=sys.stderr)
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    install = [str(python), "-m", "pip", "install", "--quiet", "--no-compile", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*install, "-r", str(HERE / "requirements.txt")], check=True)
    ready.write_text(wanted, encoding="utf-8")
    return python


def write_batches(folder: Path, shape: dict[str, Any], batches: int, seed: int) -> tuple[Path, Path]:
    """The shape and the rows as files."""
    from palate.data.shards import write_shard
    from palate.data.sources.dlrm_data import random_bags

    bags = random_bags(shape["batch"] * batches, sizes=shape["sizes"], dense=13, seed=seed)
    write_shard(folder / "batches.safetensors", bags.dense, bags.ids, bags.labels)
    (folder / "shape.json").write_text(json.dumps(shape), encoding="utf-8")
    return folder / "shape.json", folder / "batches.safetensors"


def run_side(python: Path, library: str, model: str, files: tuple[Path, Path], seconds: float, least: int, threads: int) -> dict[str, Any]:
    """The figures of one side, or `{"error": why}`."""
    command = [str(python), str(HERE / "side.py"), library, model, *map(str, files), "--seconds", str(seconds), "--least", str(least)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)} if threads else dict(os.environ)
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        last = done.stderr.strip().splitlines()[-1:] or [""]
        killed = "killed, probably for want of memory" if done.returncode == -9 else f"ended with {done.returncode}"
        return {"error": f"{killed}: {last[0][:160]}"}
    found: dict[str, Any] = json.loads(lines[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", type=Path, required=True, help="folder of the peers' virtual environment, outside the repository")
    parser.add_argument("--shape", choices=list(SHAPES), default="kaggle")
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--sides", default=",".join(SIDES))
    parser.add_argument("--seconds", type=float, default=20.0, help="for each side and model")
    parser.add_argument("--least", type=int, default=3, help="steps to measure at least")
    parser.add_argument("--batches", type=int, default=16, help="different batches, taken in turn")
    parser.add_argument("--threads", type=int, default=0, help="0: as torch chooses")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    theirs, shape = make_environment(arguments.env), SHAPES[arguments.shape]
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        files = write_batches(Path(folder), shape, arguments.batches, arguments.seed)
        for model in arguments.models.split(","):
            for library in arguments.sides.split(","):
                python = Path(sys.executable) if library.startswith("palate") else theirs
                each = run_side(python, library, model, files, arguments.seconds, arguments.least, arguments.threads)
                found.setdefault(model, {})[library] = each
    print(
        f"{arguments.shape}: {len(shape['sizes'])} tables, {sum(shape['sizes']):,} rows, width {shape['width']}, batch {shape['batch']:,}\n"
    )
    print(f"{'model':<8}{'library':<16}{'rows/s':>12}{'ours is':>10}  remark")
    for model, sides in found.items():
        ours = sides.get("palate", {}).get("rows_per_second")
        for library, each in sides.items():
            rate = each.get("rows_per_second")
            if rate and ours:
                each["ours_is"] = round(ours / rate, 2)
            shown = f"{rate:>12,.0f}" if rate else f"{'-':>12}"
            times = f"{each['ours_is']:>9.2f}x" if "ours_is" in each else f"{'-':>10}"
            print(f"{model:<8}{library:<16}{shown}{times}  {each.get('error', '')}")
    machine = {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()}
    print(json.dumps({"benchmark": "peers", "shape": arguments.shape, "seed": arguments.seed, "models": found, **machine}))


if __name__ == "__main__":
    main()

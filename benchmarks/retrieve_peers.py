"""Fit, and the 100 best for every user, on Gowalla: ours beside `implicit` and RecTools. Prints a table, then one JSON line.

    python benchmarks/retrieve_peers.py --env DIR                     # PALATE_DATA/gowalla
    python benchmarks/retrieve_peers.py --env DIR --models ease --items 10000 --out page.md

DIR is a folder outside the repository. At the first run a virtual environment is made there with what peers/retrieve_requirements.txt
pins (some 300 MB); nothing of the peers is copied here. `--data` holds train.txt as the full-ranking protocol reads it; `--items` keeps
its most frequent items (EASE inverts items x items). The sides of a model run one after another, each in a process of its own with the
same settings, see peers/retrieve_side.py. cpu s is the processor time of both steps, all threads together: on a machine that is shared it
means more than the clock. Peak memory is what a side adds to the interactions it was given. A side that cannot be run is in the table with
the reason. `--out` writes the table as Markdown, with the command, versions and the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent / "peers"
SIDES = {"als": ("palate", "implicit"), "bpr": ("palate", "implicit"), "item_knn": ("palate", "implicit", "rectools"),
         "ease": ("palate", "rectools")}  # fmt: skip


def make_environment(folder: Path) -> Path:
    """The Python of the peers' virtual environment, made if it is not there or was made for other versions."""
    python, wanted = folder / "bin" / "python", (HERE / "retrieve_requirements.txt").read_text(encoding="utf-8")
    ready = folder / "requirements.txt"
    if ready.exists() and ready.read_text(encoding="utf-8") == wanted:
        return python
    if HERE.parent.parent in folder.resolve().parents:
        sys.exit(f"--env {folder}: choose a folder outside the repository")
    print(f"making {folder} ...", file=sys.stderr)
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    install = [str(python), "-m", "pip", "install", "--quiet", "--no-compile", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*install, "-r", str(HERE / "retrieve_requirements.txt")], check=True)
    ready.write_text(wanted, encoding="utf-8")
    return python


def run_side(python: Path, library: str, model: str, options: argparse.Namespace) -> dict[str, Any]:
    """The figures of one side, or `{"error": why}`."""
    command = [
        str(python),
        str(HERE / "retrieve_side.py"),
        library,
        model,
        str(options.data / "train.txt"),
        "--epochs",
        str(options.epochs),
        *(["--items", str(options.items)] if options.items else []),
    ]
    threads = {"OMP_NUM_THREADS": str(options.threads)} if options.threads else {}
    try:
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **threads}, timeout=options.limit, check=False)
    except subprocess.TimeoutExpired:
        return {"error": f"not done after {options.limit} s"}
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        last = done.stderr.strip().splitlines()[-1:] or [""]
        killed = "killed, probably for want of memory" if done.returncode == -9 else f"ended with {done.returncode}"
        return {"error": f"{killed}: {last[0].strip()[:160]}"}
    found: dict[str, Any] = json.loads(lines[-1])
    return found


OURS = ("time_of_ours", "cpu_of_ours", "memory_of_ours")


def compare(found: dict[str, dict[str, dict[str, Any]]]) -> None:
    """Adds to each peer how many times as much of each ours takes."""
    for sides in found.values():
        ours = sides["palate"]
        for library, each in sides.items():
            if library != "palate" and "error" not in each and "error" not in ours:
                each["time_of_ours"] = round((ours["fit_s"] + ours["recommend_s"]) / (each["fit_s"] + each["recommend_s"]), 2)
                each["cpu_of_ours"] = round(ours["cpu_s"] / each["cpu_s"], 2)
                each["memory_of_ours"] = round(ours["peak_mb"] / max(each["peak_mb"], 1), 2)


def page(found: dict[str, dict[str, dict[str, Any]]], options: argparse.Namespace) -> str:
    """The table as Markdown, with all that is needed to run it again."""
    pinned = dict(
        line.split("==") for line in (HERE / "retrieve_requirements.txt").read_text(encoding="utf-8").splitlines() if "==" in line
    )
    threads = f"OMP_NUM_THREADS={options.threads} for every side" if options.threads else "threads as each library chooses"
    hidden = {"--env": "DIR", "--data": "FOLDER", "--out": "FILE"}
    words = [hidden.get(before, word) for before, word in zip(["", *sys.argv[1:]], sys.argv[1:], strict=False)]
    ours = ", ".join(f"{name} {version(name)}" for name in ("numpy", "scipy", "implicit", "torch"))
    theirs = ", ".join(f"{name} {pinned[name]}" for name in ("implicit", "RecTools", "numpy", "scipy"))
    lines = [
        "# Fit and recommend, beside other libraries",
        "",
        f"    python benchmarks/retrieve_peers.py {shlex.join(words)}",
        "",
        f"{options.data.name}{f', its {options.items:,} most frequent items' if options.items else ''}; a tenth of each user's items held"
        f" out (seed 0, as everywhere). {_processor()}, {os.cpu_count()} cores, {threads}; median of {options.rounds} round(s). Palate:"
        f" Python {platform.python_version()}, {ours}. Peers: {theirs}.",
        "",
        "*top 100* is the list of every user without what they had. *cpu s* is the processor time of fit and top 100 together. Peak memory",
        "is what a side adds to the interactions. The last three columns say how many times as much of each Palate takes as that library.",
        "",
        "| model | library | fit s | top 100 s | cpu s | peak MB | recall@20 | time | cpu | memory |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for model, sides in found.items():
        for library, each in sides.items():
            if "error" in each:
                lines.append(f"| {model} | {library} | {each['error']} | | | | | | | |")
                continue
            ratios = " | ".join(f"{each[key]:.2f}" if key in each else "" for key in OURS)
            figures = (
                f"{each['fit_s']:.2f} | {each['recommend_s']:.2f} | {each['cpu_s']:.2f} | {each['peak_mb']:.0f} | {each['recall']:.4f}"
            )
            lines.append(f"| {model} | {library} | {figures} | {ratios} |")
    return "\n".join(lines) + "\n"


def _processor() -> str:
    """The processor's name, where the system tells it."""
    told = Path("/proc/cpuinfo")
    names = (
        [line.partition(":")[2].strip() for line in told.read_text().splitlines() if line.startswith("model name")] if told.exists() else []
    )
    return names[0] if names else platform.processor() or platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", type=Path, required=True, help="folder of the peers' virtual environment, outside the repository")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("PALATE_DATA", ".")) / "gowalla")
    parser.add_argument("--models", default=",".join(SIDES))
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=10, help="of als; those of bpr are in peers/retrieve_side.py")
    parser.add_argument("--items", type=int, help="only so many items, the most frequent")
    parser.add_argument("--threads", type=int, default=0, help="0: as each library chooses")
    parser.add_argument("--limit", type=int, default=3600, help="seconds for a side")
    parser.add_argument("--out", type=Path, help="a Markdown file for the table")
    options = parser.parse_args()
    if not (options.data / "train.txt").is_file():
        sys.exit(f"--data {options.data}: has no train.txt")
    theirs = make_environment(options.env)
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for model in options.models.split(","):
        rounds: dict[str, list[dict[str, Any]]] = {}
        for _ in range(options.rounds):
            for library in SIDES[model]:
                python = Path(sys.executable) if library == "palate" else theirs
                rounds.setdefault(library, []).append(run_side(python, library, model, options))
        for library, each in rounds.items():
            failed = [one for one in each if "error" in one]
            figures = failed[0] if failed else {key: statistics.median(one[key] for one in each) for key in each[0]}
            found.setdefault(model, {})[library] = figures
    compare(found)
    names = f"{'fit s':>9}{'top 100 s':>11}{'cpu s':>9}{'peak MB':>9}{'recall@20':>11}"
    print(f"{'model':<10}{'library':<10}{names}  ours takes (time, cpu, memory)")
    for model, sides in found.items():
        for library, each in sides.items():
            if "error" in each:
                print(f"{model:<10}{library:<10}{each['error']}")
                continue
            told = ", ".join(f"{each[key]:.2f}x" for key in OURS if key in each)
            figures = (
                f"{each['fit_s']:>9.2f}{each['recommend_s']:>11.2f}{each['cpu_s']:>9.2f}{each['peak_mb']:>9.0f}{each['recall']:>11.4f}"
            )
            print(f"{model:<10}{library:<10}{figures}  {told}")
    if options.out is not None:
        options.out.write_text(page(found, options), encoding="utf-8")
    machine = {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()}
    print(json.dumps({"benchmark": "retrieve_peers", "data": options.data.name, "epochs": options.epochs, "models": found, **machine}))


if __name__ == "__main__":
    main()

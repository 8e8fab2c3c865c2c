"""Small click logs in Criteo's text format, and `palate prepare` with small blocks and shards; also a process to be killed."""

from __future__ import annotations

import json
import random
import sys
import time
from pathlib import Path
from typing import Any

from palate.data import prepare as preparing
from palate.data.sources.criteo import CRITEO

SMALL = {"BLOCK": 1 << 14, "PIECE": 1 << 12, "GROUP": 300, "SHARD": 40}


def lines(rows: int, seed: int = 0, values: int = 30) -> list[str]:
    """Rows with skewed values, missing ones and negative integers."""
    rng = random.Random(seed)
    found = []
    for _ in range(rows):
        integers = ["" if rng.random() < 0.2 else str(int(rng.paretovariate(0.5)) - 2) for _ in range(13)]
        integers[4] = str(rng.randrange(10**12))
        categories = ["" if rng.random() < 0.1 else f"{int(values * rng.random() ** 3) * 2654435761 % 2**32:08x}" for _ in range(26)]
        found.append("\t".join([str(int(rng.random() < 0.25)), *integers, *categories]))
    return found


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def main(raw: str, out: str, constants: str, options: str, pause: str) -> None:
    """Prepares, with a pause after every file that is written, so that the test can choose its moment; prints the peak of memory in MiB."""
    for name, value in json.loads(constants).items():
        setattr(preparing, name, value)
    seconds = float(pause)
    if seconds:
        for name in ("_save", "write_shard"):

            def slow(*given: Any, own: Any = getattr(preparing, name)) -> None:
                own(*given)
                time.sleep(seconds)

            setattr(preparing, name, slow)
    preparing.prepare(CRITEO, [Path(raw)], Path(out), preparing.Options(**json.loads(options)), workers=2)
    # Not getrusage: its peak is handed on from the process that started this one.
    print(int(next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")).split()[1]) / 1024)


if __name__ == "__main__":
    main(*sys.argv[1:])

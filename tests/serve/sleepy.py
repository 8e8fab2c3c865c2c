"""A ranker that sleeps while the file is there that PALATE_SLEEPY names."""

from __future__ import annotations

import os
import time
from pathlib import Path

from palate.features.encode import Encoder
from palate.rank.gbdt import GBDT
from palate.types import Candidates, Floats, Queries


class Sleepy(GBDT):
    """Trees that may sleep before they score."""

    def score(self, queries: Queries, candidates: Candidates, encoder: Encoder) -> Floats:
        told = Path(os.environ.get("PALATE_SLEEPY", "nowhere"))
        while told.is_file():
            time.sleep(0.02)
        return super().score(queries, candidates, encoder)

"""A ranker that is as slow as it is told: the file that PALATE_SLEEPY names holds the seconds of its naps; without it there are none."""

from __future__ import annotations

import os
import time
from pathlib import Path

from palate.features.encode import Encoder
from palate.rank.gbdt import GBDT
from palate.types import Candidates, Floats, Queries


class Sleepy(GBDT):
    """Trees that nap before they score."""

    def score(self, queries: Queries, candidates: Candidates, encoder: Encoder) -> Floats:
        told = Path(os.environ.get("PALATE_SLEEPY", "nowhere"))
        if told.is_file():
            time.sleep(float(told.read_text()))
        return super().score(queries, candidates, encoder)

from __future__ import annotations

import datetime

import numpy as np

from palate.data.fields import FRONT, split
from palate.data.sources.avazu import AVAZU, hour_features


def test_every_hour_as_the_calendar_has_it() -> None:
    start = datetime.datetime(2014, 2, 20)
    moments = [start + datetime.timedelta(hours=7 * n) for n in range(500)]
    text = np.frombuffer(b"\n" * FRONT + "".join(f"{m:%y%m%d%H}\n" for m in moments).encode(), dtype=np.uint8)
    made, bad = hour_features(split(text, FRONT, len(text), ord(","), 1), 0)
    assert made.tolist() == [[m.hour + 1, m.weekday() + 1, (m.weekday() >= 5) + 1] for m in moments]
    assert not bad.any()


def test_moments_that_are_none() -> None:
    fields = ["14102100", "14023000", "14022924", "14130100", "14001000", "141021", "14102125", "", "x4102100", "-14102100", "114102100"]
    text = np.frombuffer(b"\n" * FRONT + "".join(f"{field}\n" for field in fields).encode(), dtype=np.uint8)
    assert hour_features(split(text, FRONT, len(text), ord(","), 1), 0)[1].tolist() == [False, *[True] * 10]


def test_a_row_by_hand() -> None:
    """Saturday, 25 October 2014, 13 o'clock."""
    row = "1000,1,14102513,1005,0,1fbe01fe," + ",".join(["7"] * 18)
    text = np.frombuffer(b"\n" * FRONT + f"{row}\n".encode(), dtype=np.uint8)
    parsed = AVAZU.parse(text, FRONT, len(text))
    assert parsed.labels.tolist() == [1]
    assert parsed.dense.shape == (1, 0)
    assert parsed.keys[0, :6].tolist() == [14, 6, 2, *(int.from_bytes(v, "little") for v in (b"1005", b"0", b"1fbe01fe"))]
    assert len(AVAZU.sparse_names) == parsed.keys.shape[1] == 24

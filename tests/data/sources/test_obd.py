"""Open Bandit: the counts of the real files, and damaged ones."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from palate.data.sources.obd import load, read
from palate.types import DataError

real = pytest.mark.skipif(
    not (Path(os.environ.get("PALATE_DATA", "/nowhere")) / "obd" / "bts_men.csv").exists(), reason="PALATE_DATA has no folder obd"
)
HEAD = ",timestamp,item_id,position,click,propensity_score,user_feature_0,user_feature_1,user_feature_2,user_feature_3,other\n"
LATE = "0,2019-11-24 00:03:13.442536+00:00,14,3,0,0.25,a,b,c,d,0.0\n"
EARLY = "1,2019-11-24 00:01:03+00:00,0,1,1,1.0,a,b,c,e,0.0\n"


@real
@pytest.mark.parametrize(
    ("policy", "campaign", "items", "clicks"),
    [("random", "men", 34, 46), ("bts", "men", 34, 69), ("random", "women", 46, 46), ("bts", "women", 46, 46)],
)
def test_the_published_files(policy: Any, campaign: Any, items: int, clicks: int) -> None:
    log = load(policy, campaign)
    assert (len(log), log.n_items, int(log.column("click").sum())) == (10_000, items, clicks)
    assert log.frame["time"].is_sorted()
    assert log.frame["item"].n_unique() == items
    if policy == "random":
        np.testing.assert_allclose(log.column("propensity"), 1 / items, atol=1e-12)


def test_by_hand(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text(HEAD + LATE + EARLY)
    log = read(tmp_path / "x.csv", "bts", "men")
    assert log.frame.drop("time").rows() == [(0, 0, 1, 1.0, "a/b/c/e"), (14, 2, 0, 0.25, "a/b/c/d")]
    assert log.frame["time"].dt.strftime("%H:%M:%S%.6f").to_list() == ["00:01:03.000000", "00:03:13.442536"]
    assert len(log.checksum) == 64


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (",14,3,", ",34,3,", "row 1: column item_id"),
        (",14,3,", ",14,4,", "row 1: column position"),
        (",0.25,", ",0.0,", "row 1: column propensity_score"),
        (",0.25,", ",,", "row 1: column propensity_score"),
        (",0,0.25", ",2,0.25", "row 1: column click"),
        ("2019-11-24 00:03", "yesterday 00:03", "row 1: column timestamp"),
        ("position", "place", "cannot be read"),
        (",14,3,", ",fourteen,3,", "cannot be read"),
    ],
)
def test_damage_is_one_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    (tmp_path / "x.csv").write_text((HEAD + LATE + EARLY).replace(old, new))
    with pytest.raises(DataError, match=message) as raised:
        read(tmp_path / "x.csv", "bts", "men")
    assert "\n" not in str(raised.value)
    assert str(tmp_path) not in str(raised.value)


def test_no_files_and_no_such_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PALATE_DATA", str(tmp_path))
    monkeypatch.setenv("PALATE_CACHE", str(tmp_path))
    with pytest.raises(DataError, match="found no folder obd"):
        load("bts", "men")
    with pytest.raises(DataError, match="no such log 'best' of 'men'"):
        load("best", "men")  # type: ignore[arg-type]

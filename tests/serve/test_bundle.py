from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from palate.data.split import split
from palate.recommender import Recommender
from palate.retrieve.ease import EASE
from palate.serve import bundle
from palate.types import BundleError, Log, Request


@pytest.fixture(scope="module")
def fitted(small_log: Log) -> Recommender:
    train, test = split(small_log, "leave-last-out")
    recommender = Recommender(["popular", EASE(l2=10)], "gbdt", ["mmr"], candidates=30, cuts=4).fit(train)
    recommender.evaluate(test)
    return recommender


@pytest.fixture
def saved(fitted: Recommender, tmp_path: Path) -> Path:
    return fitted.save(tmp_path / "bundle")


REQUESTS = [Request(user="u3", k=6), Request(history=("i1", "i5"), k=6), Request(user="who?", k=6)]


def test_a_loaded_bundle_gives_the_same_slates(fitted: Recommender, saved: Path) -> None:
    loaded = Recommender.load(saved)
    for before, after in zip(fitted.funnel.recommend(REQUESTS), loaded.funnel.recommend(REQUESTS), strict=True):
        assert before.items == after.items
        assert before.reasons == after.reasons
        np.testing.assert_allclose(before.scores, after.scores, rtol=1e-5)
        np.testing.assert_allclose([p["label"] for p in before.probabilities], [p["label"] for p in after.probabilities], rtol=1e-5)
    assert loaded.metrics["stages"]["funnel"] == bundle.plain(fitted.metrics["stages"]["funnel"])


def test_a_bundle_saved_again_is_the_same(saved: Path, tmp_path: Path) -> None:
    again = Recommender.load(saved).save(tmp_path / "again")
    first, second = (json.loads((folder / "manifest.json").read_text())["files"] for folder in (saved, again))
    assert first.keys() == second.keys()
    assert {name for name in first if first[name] != second[name]} == set()


def test_only_plain_files(saved: Path) -> None:
    assert {path.suffix for path in saved.rglob("*") if path.is_file()} <= {".json", ".parquet", ".safetensors"}


def test_any_changed_byte_is_refused(saved: Path) -> None:
    rng = np.random.default_rng(0)
    for path in sorted(saved.rglob("*")):
        if path.is_dir() or path.name == "manifest.json":
            continue
        whole = path.read_bytes()
        if not whole:
            continue
        place = int(rng.integers(len(whole)))
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        with pytest.raises(BundleError, match="is damaged"):
            bundle.load(saved)
        path.unlink()
        with pytest.raises(BundleError, match="is missing"):
            bundle.load(saved)
        path.write_bytes(whole)
    bundle.load(saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m | {"format_version": 99}, "newer than this Palate reads"),
        (lambda m: m | {"format": "other"}, "not a manifest of Palate"),
        (lambda m: m | {"files": None}, "lists no files"),
        (lambda m: m | {"components": [m["components"][0] | {"use": "os:system"}]}, "not part of Palate"),
        (lambda m: m | {"components": [m["components"][0] | {"use": "palate.retrieve.gone:Gone"}]}, "no such component"),
        (lambda m: m | {"components": [m["components"][0] | {"folder": "../else"}]}, "points outside"),
        (lambda m: {key: value for key, value in m.items() if key != "components"}, "does not hold what its manifest says"),
    ],
)
def test_foreign_manifests_are_refused(saved: Path, change, message: str) -> None:  # type: ignore[no-untyped-def]
    path = saved / "manifest.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(BundleError, match=message):
        bundle.load(saved)


def test_what_is_not_a_bundle_is_refused(tmp_path: Path, saved: Path) -> None:
    with pytest.raises(BundleError, match="no such bundle"):
        bundle.load(tmp_path / "nowhere")
    with pytest.raises(BundleError, match=r"no manifest\.json"):
        bundle.load(tmp_path)
    (saved / "manifest.json").write_text('{"format"')
    with pytest.raises(BundleError, match="damaged"):
        bundle.load(saved)


def test_a_bundle_is_replaced_whole_and_other_folders_are_kept(fitted: Recommender, saved: Path, tmp_path: Path) -> None:
    (saved / "old").write_text("old")
    fitted.save(saved)
    assert not (saved / "old").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_text("meow")
    with pytest.raises(BundleError, match="is not a bundle"):
        fitted.save(tmp_path / "photos")
    assert (tmp_path / "photos" / "cat.jpg").read_text() == "meow"


def test_a_crash_while_writing_leaves_the_old_bundle(fitted: Recommender, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bundle, "_sync", full)
    with pytest.raises(OSError, match="No space left"):
        fitted.save(saved)
    monkeypatch.undo()
    bundle.load(saved)
    assert [path.name for path in saved.parent.iterdir()] == ["bundle"]


def test_an_unfitted_funnel_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="not fitted"):
        Recommender(["popular"]).save(tmp_path / "bundle")


def test_components_of_others_need_trust(small_log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text("from palate.retrieve.popular import Popular\n\n\nclass Mine(Popular):\n    pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import mine  # type: ignore[import-not-found]

    folder = Recommender([mine.Mine()]).fit(small_log).save(tmp_path / "bundle")
    with pytest.raises(BundleError, match="if you trust that module"):
        Recommender.load(folder)
    assert len(Recommender.load(folder, trust=["mine"]).recommend("u1", k=3)) == 3
    shutil.rmtree(folder)

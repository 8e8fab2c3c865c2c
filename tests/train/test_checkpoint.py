import json
from pathlib import Path

import pytest
import torch
from torch import nn

from palate.train import checkpoint
from palate.types import BundleError


def write(folder: Path, number: float = 0.0) -> Path:
    return checkpoint.save(folder, {"step": number}, {"model": {"a.weight": torch.full((2, 3), number), "n": torch.tensor(7)}, "empty": {}})


def test_round_trip(tmp_path: Path) -> None:
    path = write(tmp_path, 0.1)
    found = checkpoint.load(path)
    assert found.meta == {"step": 0.1} == checkpoint.read_meta(path)
    assert torch.equal(found.tensors["model"]["a.weight"], torch.full((2, 3), 0.1))
    assert found.tensors["model"]["n"].dtype == torch.int64
    assert found.tensors["empty"] == {}


def test_keeps_the_newest_two_and_clears(tmp_path: Path) -> None:
    (tmp_path / ".checkpoint-000001.99").mkdir()  # left by a process that was killed
    for number in range(4):
        write(tmp_path, number)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-000003", "checkpoint-000004"]
    newest = checkpoint.newest(tmp_path)
    assert newest is not None
    assert checkpoint.read_meta(newest) == {"step": 3}
    checkpoint.clear(tmp_path)
    assert checkpoint.newest(tmp_path) is None
    assert checkpoint.newest(tmp_path / "nowhere") is None


def test_tied_weights_and_views(tmp_path: Path) -> None:
    layer = nn.Linear(4, 4, bias=False)
    big = torch.arange(12.0)
    entries = {"a": layer.weight, "b": layer.weight, "c": big[:6].view(2, 3), "d": big[6:], "e": big[::2], "f": torch.zeros(0)}
    found = checkpoint.load(checkpoint.save(tmp_path, {}, {"model": entries})).tensors["model"]
    for name, tensor in entries.items():
        assert torch.equal(found[name], tensor.detach())


def test_damaged_or_foreign_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path)
    weights = path / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(BundleError, match=r"model\.safetensors: damaged"):
        checkpoint.load(path)
    weights.unlink()
    with pytest.raises(BundleError, match=r"lacks the file 'model\.safetensors'"):
        checkpoint.load(path)
    weights.write_bytes(whole)

    manifest = path / "checkpoint.json"
    good = json.loads(manifest.read_text())
    for change, message in [
        ({"format": "other"}, "not a checkpoint of Palate"),
        ({"format_version": 2}, "newer than this Palate reads"),
        ({"files": None}, "damaged"),
        ({"files": {"../../secret": "0"}}, "lacks the file"),
    ]:
        manifest.write_text(json.dumps(good | change))
        with pytest.raises(BundleError, match=message):
            checkpoint.load(path)
    manifest.write_text("{")
    with pytest.raises(BundleError, match="damaged"):
        checkpoint.load(path)
    manifest.unlink()
    with pytest.raises(BundleError, match="missing"):
        checkpoint.load(path)


def test_a_file_that_is_no_safetensors_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path)
    (path / "model.safetensors").write_bytes(b"junk")
    manifest = json.loads((path / "checkpoint.json").read_text())
    manifest["files"]["model.safetensors"] = checkpoint._sha256(path / "model.safetensors")
    (path / "checkpoint.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="unreadable"):
        checkpoint.load(path)


def test_random_state() -> None:
    cpu = torch.device("cpu")
    state = {name: tensor.clone() for name, tensor in checkpoint.random_state(cpu).items()}
    first = torch.rand(3)
    checkpoint.set_random_state(state, cpu)
    assert torch.equal(torch.rand(3), first)

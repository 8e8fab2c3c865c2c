"""Two real processes over gloo against one."""

import json
import socket
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest
import small_run
import torch
from safetensors.torch import load_file
from small_run import WORLD_SIZE, Net, settings

from palate.train import shard
from palate.types import PalateError


def together(processes: ForkServerContext, folder: Path, sparse: str, **more: object) -> None:
    """Trains on WORLD_SIZE processes; each leaves what it learnt in `folder/<rank>.safetensors`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = [processes.Process(target=small_run.member, args=(folder, sparse, rank, port), kwargs=more) for rank in range(WORLD_SIZE)]
    for child in children:
        child.start()
    for child in children:
        child.join(240)
    said = "".join((folder / f"said.{rank}").read_text() for rank in range(WORLD_SIZE))
    assert [child.exitcode for child in children] == [0] * WORLD_SIZE, said
    assert said == ""


@pytest.mark.parametrize("sparse", ["rowwise_adagrad", "adagrad", "sgd", "dense"])
def test_two_processes_do_what_one_does(sparse: str, tmp_path: Path, processes: ForkServerContext) -> None:
    """The same global batches: curves and weights agree to float32's precision, and both processes end with the same model."""
    together(processes, tmp_path, sparse)
    one, curves = small_run.train(None, settings(sparse), dropout=0.0)
    found = [load_file(tmp_path / f"{rank}.safetensors") for rank in range(WORLD_SIZE)]
    for name, tensor in one.state_dict().items():
        assert torch.equal(found[0][name], found[1][name]), name
        torch.testing.assert_close(found[0][name], tensor, rtol=1e-4, atol=1e-5)
    for rank in range(WORLD_SIZE):
        theirs = json.loads((tmp_path / f"{rank}.json").read_text())
        assert theirs.keys() == curves.keys()
        for key, values in curves.items():
            assert theirs[key] == pytest.approx(values, rel=1e-4)
    start = Net(settings(sparse), dropout=0.0).state_dict()
    assert not torch.allclose(
        one.state_dict()["embeddings.collection.embedding_bags.f0.weight"], start["embeddings.collection.embedding_bags.f0.weight"]
    )


def test_two_processes_resume(tmp_path: Path, processes: ForkServerContext) -> None:
    """Stopped together in mid-epoch and taken up: the curves and weights of the run that was not stopped, to the last bit."""
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    for folder in (whole, stopped):
        folder.mkdir()
    together(processes, whole, "rowwise_adagrad", dropout=0.2, checkpoints=True)
    together(processes, stopped, "rowwise_adagrad", dropout=0.2, checkpoints=True, stop_at=25)
    together(processes, stopped, "rowwise_adagrad", dropout=0.2, checkpoints=True, resume=True)
    for rank in range(WORLD_SIZE):
        assert json.loads((stopped / f"{rank}.json").read_text()) == json.loads((whole / f"{rank}.json").read_text())
        expected = load_file(whole / f"{rank}.safetensors")
        for name, tensor in load_file(stopped / f"{rank}.safetensors").items():
            assert torch.equal(tensor, expected[name]), name


def test_a_rowwise_rule_is_not_cut_by_columns() -> None:
    assert shard.sharding_types(settings("rowwise_adagrad")) == ["table_wise"]
    assert shard.sharding_types(settings("adagrad")) == ["table_wise", "column_wise"]


def test_without_torchrun() -> None:
    assert shard.rank_and_world() == (0, 1)
    with pytest.raises(PalateError, match="start with torchrun"):
        shard.join("cpu")

"""Real processes, really killed."""

import json
import os
import signal
import time
from collections.abc import Iterator
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

import pytest
import small_run
import torch
from safetensors.torch import load_file


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def wait_for_checkpoint(folder: Path, number: int, child: ForkServerProcess) -> None:
    deadline = time.monotonic() + 240
    while not (folder / "net" / f"checkpoint-{number:06d}").is_dir():
        assert child.is_alive(), (folder / "said").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("sparse", ["rowwise_adagrad", "dense"])
def test_kill_and_ctrl_c_in_mid_epoch_then_resume(sparse: str, tmp_path: Path, processes: ForkServerContext) -> None:
    """SIGKILL in mid-epoch, resume, SIGINT, resume: the same curves and weights to the last bit as without."""

    def start(resume: bool, pause: float) -> ForkServerProcess:
        child = processes.Process(target=small_run.child, args=(tmp_path, sparse, resume, pause))
        child.start()
        return child

    child = start(resume=False, pause=0.03)
    wait_for_checkpoint(tmp_path, 2, child)
    time.sleep(0.1)  # some steps past the checkpoint: work that is lost and must be done again
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    child.join(240)
    assert child.exitcode == -signal.SIGKILL
    assert not (tmp_path / "out.safetensors").exists()

    child = start(resume=True, pause=0.03)
    wait_for_checkpoint(tmp_path, 4, child)
    assert child.pid is not None
    os.kill(child.pid, signal.SIGINT)
    child.join(240)
    said = (tmp_path / "said").read_text()
    assert child.exitcode == 1, said
    assert said.count("\n") == 1, said
    assert "net: stopped and saved at step" in said
    assert "the same command with resume goes on from there" in said

    child = start(resume=True, pause=0.0)
    child.join(240)
    assert child.exitcode == 0, (tmp_path / "said").read_text()
    net, curves = small_run.train(None, small_run.settings(sparse))
    assert json.loads((tmp_path / "out.json").read_text()) == curves
    assert len(curves["loss"]) > 3
    found = load_file(tmp_path / "out.safetensors")
    for name, tensor in net.state_dict().items():
        assert torch.equal(found[name], tensor), name

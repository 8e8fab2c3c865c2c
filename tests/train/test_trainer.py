import itertools
import os
import re
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import small_run
import torch
from rich.console import Console
from small_run import Net, World, bce, logloss, settings
from torch import Tensor, nn

from palate.config import Training
from palate.train import checkpoint
from palate.train.trainer import Interrupted, Trainer
from palate.types import Batch, BundleError, ConfigError, PalateError, Run

PATHS = pytest.mark.parametrize("sparse", ["rowwise_adagrad", "dense"])


def fit(
    training: Training, *, net: Net | None = None, step: Any = bce, validate: Any = None, **run: Any
) -> tuple[Net, dict[str, list[float]]]:
    net = net or Net(training)
    return net, Trainer()(net, World().loader(), step, training, name="net", run=Run(**run), validate=validate)


def equal(first: nn.Module, second: nn.Module) -> bool:
    return all(torch.equal(tensor, second.state_dict()[name]) for name, tensor in first.state_dict().items())


@pytest.mark.parametrize("sparse", ["rowwise_adagrad", "adagrad", "sgd", "dense"])
def test_learns(sparse: str) -> None:
    training = Training(epochs=10, sparse=sparse, sparse_lr=5.0 if sparse == "sgd" else 0.1, lr=0.01)
    net, curves = fit(training)
    assert list(curves) == ["loss"]
    assert len(curves["loss"]) == 10
    assert curves["loss"][-1] < 0.8 * curves["loss"][0]
    assert not net.training


def test_seeded() -> None:
    training = settings("rowwise_adagrad")
    first, second = (fit(training, net=Net(training, dropout=0.2), seed=5)[0] for _ in range(2))
    other = fit(training, net=Net(training, dropout=0.2), seed=6)[0]
    assert equal(first, second)
    assert not equal(first, other)


@PATHS
@pytest.mark.parametrize("at", [3, 8, 10, 11, 20, 59])
def test_taken_up_from_anywhere_it_ends_the_same(tmp_path: Path, sparse: str, at: int) -> None:
    """Epochs have 10 steps, checkpoints come every 7 at the earliest: before any, in an epoch, at its end, in the last epoch."""
    training = settings(sparse, patience=None)
    count = itertools.count(1)

    def falls(model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        if next(count) == at:
            raise OSError("power cut")
        return bce(model, batch)

    net = Net(training, dropout=0.2)
    with pytest.raises(OSError, match="power cut"):
        fit(training, net=net, step=falls, validate=logloss, seed=3, folder=tmp_path)
    net, curves = fit(
        training, net=Net(training, seed=9 if at > 7 else 0, dropout=0.2), validate=logloss, seed=3, folder=tmp_path, resume=True
    )
    whole, expected = small_run.train(None, training)
    assert curves == expected
    assert equal(net, whole)


def test_early_stopping_cuts_the_rate_and_brings_back_the_best() -> None:
    """Validations .5 .6 .6 .55 .7 .7 .7: best at the fifth; rates after each; patience 2 ends it after the seventh."""
    values = iter([0.5, 0.6, 0.6, 0.5999, 0.7, 0.7, 0.7 + 1e-7, 0.9])
    training = Training(epochs=9, lr=1e-2, sparse_lr=0.1, schedule="plateau", factor=0.5, patience=2, monitor="auc")
    seen: list[dict[str, Tensor]] = []
    rates: list[float] = []
    net = Net(training)

    def validate(model: nn.Module) -> Mapping[str, float]:
        assert not model.training
        assert not torch.is_grad_enabled()
        rates.append(net.embeddings.collection.fused_optimizer().param_groups[0]["lr"])
        seen.append({name: tensor.detach().clone() for name, tensor in model.state_dict().items()})
        return {"auc": next(values)}

    # .6, .6, .5999 are two validations in a row without gain: it ends there, with the weights of the second.
    _, curves = fit(training, net=net, validate=validate)
    assert curves["auc"] == [0.5, 0.6, 0.6, 0.5999]
    assert rates == pytest.approx([0.1, 0.1, 0.1, 0.05])
    assert all(torch.equal(tensor, seen[1][name]) for name, tensor in net.state_dict().items())
    assert not all(torch.equal(tensor, seen[3][name]) for name, tensor in net.state_dict().items())


def test_training_goes_on_from_the_current_weights_after_a_cut() -> None:
    """Not from the best ones: FuxiCTR loads those only at the end."""
    values = iter([0.6, 0.5, 0.7])
    training = Training(epochs=3, lr=1e-2, sparse="dense", schedule="plateau", patience=2, monitor="auc")
    seen = []

    def validate(model: nn.Module) -> Mapping[str, float]:
        seen.append(model.state_dict()["mlp.head.weight"].clone())
        return {"auc": next(values)}

    fit(training, validate=validate)
    step_sizes = [float((after - before).abs().max()) for before, after in itertools.pairwise(seen)]
    assert step_sizes[1] < 0.5 * step_sizes[0]  # from epoch 2 to epoch 3 at a tenth of the rate, so near to epoch 2, not to epoch 1
    assert float((seen[2] - seen[0]).abs().max()) > step_sizes[1]


def test_smaller_is_better_for_a_loss_and_nan_is_no_gain() -> None:
    values = iter([float("nan"), 0.5, 0.4, 0.6, 0.6])
    training = Training(epochs=9, patience=2, monitor="logloss")
    _, curves = fit(training, validate=lambda model: {"logloss": next(values), "loss": 1.0})
    assert curves["logloss"][1:] == [0.5, 0.4, 0.6, 0.6]
    assert curves["validation_loss"] == [1.0] * 5
    assert len(curves["loss"]) == 5


def test_without_validation_the_training_loss_can_be_watched() -> None:
    training = Training(epochs=50, lr=1e-9, sparse_lr=1e-9, patience=2)
    _, curves = fit(training)
    assert len(curves["loss"]) < 50


def test_monitor_must_exist() -> None:
    with pytest.raises(ConfigError, match=r"net: training.monitor 'auc' is not among the validation metrics: logloss"):
        fit(Training(monitor="auc"), validate=logloss)
    _, curves = fit(Training(monitor="auc", epochs=3, patience=1))  # nothing to watch: all epochs
    assert len(curves["loss"]) == 3


def test_loss_that_is_not_finite() -> None:
    count = itertools.count(1)

    def step(model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        return {"loss": bce(model, batch)["loss"] * (float("inf") if next(count) == 14 else 1.0)}

    with pytest.raises(PalateError, match=r"net: the loss is inf at step 14 \(epoch 2\); try a lower lr"):
        fit(Training(), step=step)


def test_what_went_wrong_names_the_last_good_checkpoint(tmp_path: Path) -> None:
    count = itertools.count(1)

    def step(model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        return {"loss": bce(model, batch)["loss"] * (float("nan") if next(count) == 14 else 1.0)}

    with pytest.raises(PalateError, match=rf"the loss is nan at step 14 .*; the checkpoint of step 12 is kept in {tmp_path / 'net'}$"):
        fit(Training(checkpoint_every=4), step=step, folder=tmp_path)
    assert checkpoint.newest(tmp_path / "net") is not None


def test_a_batch_that_memory_cannot_hold_is_one_line() -> None:
    count = itertools.count(1)

    def step(model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        if next(count) == 3:
            torch.empty(2**50, dtype=torch.uint8)  # a petabyte: the allocator itself refuses
        return bce(model, batch)

    with pytest.raises(
        ConfigError, match=r"^net\.train\.batch_size: step 3, a batch of 64 rows does not fit into the memory of cpu; try 32$"
    ):
        fit(Training(), step=step)


def test_other_errors_of_a_step_are_not_taken_for_memory() -> None:
    def step(model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        fit(Training(), step=step)


def test_an_empty_loader_is_an_error() -> None:
    class Empty:
        def __len__(self) -> int:
            return 0

    training = Training()
    with pytest.raises(PalateError, match="no batches"):
        Trainer()(Net(training), Empty(), bce, training, name="net", run=Run())


@PATHS
def test_bf16_comes_close_and_keeps_the_tables_float32(sparse: str) -> None:
    kinds = set()

    class Spy(Net):
        def forward(self, batch: Batch) -> Tensor:
            vectors = self.embeddings(batch.sparse)
            hidden = self.mlp.hidden(torch.cat([vectors.flatten(1), batch.dense], 1))
            kinds.add((vectors.dtype, hidden.dtype))
            return super().forward(batch)

    training = Training(epochs=5, sparse=sparse, sparse_lr=0.1, lr=0.01, bf16=True)
    net, curves = fit(training, net=Spy(training))
    _, exact = fit(training.model_copy(update={"bf16": False}))
    assert kinds == {(torch.float32, torch.bfloat16)}
    assert curves["loss"][-1] == pytest.approx(exact["loss"][-1], rel=0.02)
    assert curves["loss"] != exact["loss"]
    assert {tensor.dtype for tensor in net.state_dict().values()} == {torch.float32}


# Folders


def test_a_finished_run_is_taken_up_without_training_again_or_begun_anew(tmp_path: Path) -> None:
    training = settings("rowwise_adagrad")
    net, curves = fit(training, validate=logloss, folder=tmp_path)

    def never(model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        raise AssertionError

    again, same = fit(training, net=Net(training, seed=4), step=never, validate=logloss, folder=tmp_path, resume=True)
    assert same == curves
    assert equal(again, net)
    fit(training.model_copy(update={"epochs": 1}), validate=logloss, folder=tmp_path)
    path = checkpoint.newest(tmp_path / "net")
    assert path is not None
    assert checkpoint.read_meta(path)["now"]["steps"] == 10


def unfinished(folder: Path, training: Training) -> None:
    count = itertools.count(1)

    def step(model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        if next(count) == 9:
            raise OSError("power cut")
        return bce(model, batch)

    with pytest.raises(OSError, match="power cut"):
        fit(training, step=step, folder=folder)


def test_what_cannot_be_taken_up_is_refused(tmp_path: Path) -> None:
    training = settings("rowwise_adagrad", monitor="loss")
    unfinished(tmp_path, training)
    with pytest.raises(PalateError, match="holds a run that was not finished; resume it, or delete that folder"):
        fit(training, folder=tmp_path)
    with pytest.raises(BundleError, match=r"made with training.lr = 0.01, now 0.5; resume with the same"):
        fit(training.model_copy(update={"lr": 0.5}), folder=tmp_path, resume=True)
    with pytest.raises(BundleError, match=r"made with seed = 0, now 1"):
        fit(training, folder=tmp_path, resume=True, seed=1)

    class Other(Net):
        def __init__(self) -> None:
            super().__init__(training)
            self.mlp.head = nn.Linear(8, 3)

    with pytest.raises(BundleError, match="is of another network"):
        fit(training, net=Other(), folder=tmp_path, resume=True)
    path = checkpoint.newest(tmp_path / "net")
    assert path is not None
    checkpoint.save(tmp_path / "net", {"something": "else"}, {})
    for resume in (True, False):
        with pytest.raises(BundleError, match="not a checkpoint of a training run"):
            fit(training, folder=tmp_path, resume=resume)


def test_resume_with_nothing_there_begins(tmp_path: Path) -> None:
    _, curves = fit(Training(epochs=2), folder=tmp_path, resume=True)
    assert len(curves["loss"]) == 2


# Ctrl-C


def interrupting(at: int) -> Any:
    count = itertools.count(1)

    def step(model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        if next(count) == at:
            os.kill(os.getpid(), signal.SIGINT)
        return bce(model, batch)

    return step


def test_ctrl_c_without_a_folder_says_so_and_gives_the_signal_back() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(Interrupted, match="stopped at step 4; nothing was saved"):
        fit(Training(), step=interrupting(4))
    assert signal.getsignal(signal.SIGINT) is before
    assert issubclass(Interrupted, KeyboardInterrupt)
    assert issubclass(Interrupted, PalateError)


@pytest.mark.parametrize("at", [4, 10, 20])
def test_ctrl_c_at_the_end_of_an_epoch_or_of_everything(tmp_path: Path, at: int) -> None:
    training = Training(epochs=2, lr=0.01)
    with pytest.raises(Interrupted, match=f"stopped and saved at step {at}"):
        fit(training, step=interrupting(at), folder=tmp_path)
    net, curves = fit(training, folder=tmp_path, resume=True)
    whole, expected = fit(training)
    assert curves == expected
    assert equal(net, whole)


# What a person sees


def test_without_a_terminal_one_line_an_epoch(capfd: pytest.CaptureFixture[str]) -> None:
    fit(Training(epochs=3), validate=lambda model: {"loss": 0.5, "auc": 0.75}, quiet=False)
    out, err = capfd.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("net epoch 1/3  loss 0.")
    assert "auc 0.7500" in lines[0]
    assert "rows/s" in lines[0]


def test_quiet_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    fit(Training(epochs=1), quiet=True)
    assert capfd.readouterr() == ("", "")


def test_on_a_terminal_a_bar_with_rate_losses_and_time_left(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    def terminal(**settings: Any) -> Console:
        return Console(**settings, force_terminal=True, width=160)

    monkeypatch.setattr("palate.train.report.Console", terminal)
    fit(Training(epochs=4), quiet=False)
    err = capfd.readouterr().err
    assert "steps/s" in err
    assert "rows/s" in err
    assert re.search(r"\b\d+/40\b", err)
    assert "loss 0." in err
    assert "epoch 2/4" in err
    assert re.search(r"\d:\d\d:\d\d|-:--:--", err)


def test_tensorboard(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    fit(Training(epochs=4), validate=lambda model: {"auc": 0.75, "loss": 0.5}, folder=tmp_path)
    events = EventAccumulator(str(tmp_path / "tensorboard" / "net")).Reload()
    assert set(events.Tags()["scalars"]) == {
        "train/loss",
        "train/lr",
        "train/rows_per_second",
        "epoch/loss",
        "epoch/auc",
        "epoch/validation_loss",
    }
    assert [point.step for point in events.Scalars("epoch/auc")] == [10, 20, 30, 40]
    steps = [point.step for point in events.Scalars("train/loss")]  # every 20 steps, or each second on a slow machine
    assert steps
    assert steps == sorted(set(steps))

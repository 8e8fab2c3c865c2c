"""The training engine. It names no model: it turns batches and a step into a trained network.

    for batch in loader:                 one epoch
        rates -> step(model, batch) -> backward (fused tables are updated in it) -> L2, clip, update of the rest
    validate -> keep the best, cut the rate, or stop

A run with a folder leaves checkpoints in `folder/name` and TensorBoard files in `folder/tensorboard/name`. Killed at any moment and
started again with `resume`, it ends with the same weights as if it had never been killed (on the CPU to the last bit).
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any, Self

import torch
from torch import Tensor, nn

from palate.config import Training
from palate.train import checkpoint, shard
from palate.train.optim import Optimizers, multiplier
from palate.train.report import Report
from palate.types import Batch, BundleError, ConfigError, PalateError, Run

Step = Callable[[Any, Batch], Mapping[str, Tensor]]
Validate = Callable[[Any], Mapping[str, float]]

GAIN = 1e-6  # a validation counts as better from this difference on (as FuxiCTR)


class Interrupted(PalateError, KeyboardInterrupt):  # noqa: N818 - nothing went wrong
    """Ctrl-C, after the state was saved. Both a PalateError (one line) and a KeyboardInterrupt."""


class Trainer:
    """Trains a network in place; `fit` is the `Train` protocol of `palate.types`.

    Early stopping and the plateau schedule work as in FuxiCTR, on which the published small-data tables rest: each validation without
    gain multiplies the rates by `training.factor` and training goes on from the current weights; `training.patience` of them in a
    row end it; the weights of the best validation are loaded at the end. Without `validate` the training metric of that name (the loss)
    is watched instead, if there is one, and the last weights are kept.

    Errors: PalateError where the loss is not finite (names the step), ConfigError where `training.monitor` names no metric,
    BundleError where `run.resume` finds a checkpoint that is damaged or was made with other settings.
    """

    def fit(
        self,
        model: nn.Module,
        loader: Any,
        step: Step,
        training: Training,
        *,
        name: str,
        run: Run,
        validate: Validate | None = None,
    ) -> dict[str, list[float]]:
        """Trains `model` in place, leaves it in eval mode, and returns the curves: a list a metric, one value an epoch."""
        fit = _Fit(model, loader, step, training, name, run, validate)
        fit.take_up()
        fit.spread()
        with fit.report(), _CtrlC() as stop:
            while not fit.finished:
                fit.epoch(stop)
                fit.judge()
                fit.save_if_due()
                fit.leave_if(stop)
        model.eval()
        return fit.now.curves

    __call__ = fit


@dataclass
class _Now:
    """Where a run stands, apart from tensors: what goes into the JSON of a checkpoint."""

    steps: int = 0
    epoch: int = 0
    rows: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    curves: dict[str, list[float]] = field(default_factory=dict)
    best: float | None = None
    stale: int = 0
    scale: float = 1.0
    finished: bool = False


class _Fit:
    """One call of `Trainer.fit`."""

    def __init__(
        self, model: nn.Module, loader: Any, step: Step, training: Training, name: str, run: Run, validate: Validate | None
    ) -> None:
        self.model, self.loader, self.step, self.validate = model, loader, step, validate
        self.training, self.name, self.run = training, name, run
        self.rank, self.world = shard.rank_and_world()
        torch.manual_seed(run.seed + self.rank)
        self.device = torch.device(run.device)
        model.to(self.device)
        self.optimizers = Optimizers(model, training)
        self.batches = len(loader)
        if self.batches == 0:
            raise PalateError(f"{name}: the loader has no batches; is the log empty, or batch_size larger than it with drop_last?")
        self.now = _Now()
        self.best_weights: dict[str, Tensor] = {}
        self.folder: Path | None = None if run.folder is None else run.folder / name
        self.saved = 0
        self.forward: Callable[[Batch], Mapping[str, Tensor]] = lambda batch: step(model, batch)
        self.reported: Report

    @property
    def finished(self) -> bool:
        return self.now.finished

    def report(self) -> Report:
        board = None if self.run.folder is None or self.rank else self.run.folder / "tensorboard" / self.name
        total = self.training.epochs * self.batches
        self.reported = Report(self.name, total, quiet=self.run.quiet or self.rank > 0, folder=board, done=self.now.steps)
        return self.reported

    def epoch(self, stop: _CtrlC) -> None:
        """The rest of the loader's epoch."""
        now, total = self.now, self.training.epochs * self.batches
        label = f"epoch {now.epoch + 1}/{self.training.epochs}"
        self.began, self.rows_before = time.perf_counter(), now.rows
        self.model.train()
        for batch in self.loader:
            self.optimizers.scale = now.scale
            self.optimizers.set_rates(multiplier(self.training.schedule, now.steps, total, self.training.warmup))
            values = self.one_step(batch)
            now.steps += 1
            now.rows += len(batch)
            for key, value in values.items():
                now.sums[key] = now.sums.get(key, 0.0) + value * len(batch)
            self.reported.step(now.steps, label, values, len(batch), self.optimizers.rate)
            if now.steps % self.batches:  # after the last batch of an epoch, saving waits for the validation
                self.save_if_due()
                self.leave_if(stop)

    def one_step(self, batch: Batch) -> dict[str, float]:
        try:
            return self._one_step(batch)
        except RuntimeError as error:  # torch.OutOfMemoryError is one as well
            if not isinstance(error, torch.OutOfMemoryError) and "allocate memory" not in str(error):
                raise
            raise ConfigError(
                f"{self.name}.train.batch_size: step {self.now.steps + 1}, a batch of {len(batch):,} rows does not fit into the memory of "
                f"{self.device}; try {max(1, len(batch) // 2):,}{self._kept()}"
            ) from None

    def _kept(self) -> str:
        if self.folder is None or not self.saved:
            return ""
        return f"; the checkpoint of step {self.saved} is kept in {self.folder}"

    def _one_step(self, batch: Batch) -> dict[str, float]:
        if self.device.type != "cpu":
            batch = batch.to(self.device)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.training.bf16):
            outputs = self.forward(batch)
        values = {key: float(value.detach()) for key, value in outputs.items()}
        if not math.isfinite(values["loss"]):
            # Before the backward pass: the fused tables are still whole, and so is the last checkpoint.
            raise PalateError(
                f"{self.name}: the loss is {values['loss']} at step {self.now.steps + 1} (epoch {self.now.epoch + 1}); "
                f"try a lower lr or sparse_lr, a clip, or look for infinities in the dense features{self._kept()}"
            )
        self.optimizers.zero_grad()
        outputs["loss"].backward()  # type: ignore[no-untyped-call]
        self.optimizers.step()
        return values

    def judge(self) -> None:
        """Ends the epoch: validates, keeps the best weights, cuts the rate, decides whether to go on."""
        now, training = self.now, self.training
        sums = shard.add_up({**now.sums, "": now.rows})  # over the processes; "" is how many rows there were
        metrics = {key: value / max(1.0, sums[""]) for key, value in sums.items() if key}
        watched = metrics
        if self.validate is not None:
            self.model.eval()
            with torch.no_grad():
                watched = shard.of_first({key: float(value) for key, value in self.validate(self.model).items()})
            clashes = {key: f"validation_{key}" for key in watched if key in metrics}
            metrics.update({clashes.get(key, key): value for key, value in watched.items()})
        for key, value in metrics.items():
            now.curves.setdefault(key, []).append(value)
        now.epoch += 1
        seconds, rows = time.perf_counter() - self.began, now.rows - self.rows_before
        self.reported.epoch(now.steps, f"epoch {now.epoch}/{training.epochs}", metrics, seconds, rows)
        now.sums, now.rows = {}, 0
        if training.monitor in watched:
            self._weigh(watched[training.monitor])
        elif self.validate is not None:
            raise ConfigError(
                f"{self.name}: training.monitor {training.monitor!r} is not among the validation metrics: {', '.join(watched) or 'none'}"
            )
        if now.epoch >= training.epochs:
            now.finished = True
        if now.finished:
            self.gather()
            if self.best_weights:
                self.model.load_state_dict(self.best_weights)

    def _weigh(self, metric: float) -> None:
        now, training = self.now, self.training
        value = -metric if training.monitor.endswith("loss") else metric
        if math.isfinite(value) and (now.best is None or value > now.best + GAIN):
            now.best, now.stale = value, 0
            if self.validate is not None:
                self.best_weights = {key: tensor.detach().to("cpu", copy=True) for key, tensor in shard.whole_state(self.model).items()}
            return
        now.stale += 1
        if training.schedule == "plateau":
            now.scale *= training.factor
        if training.patience is not None and now.stale >= training.patience:
            now.finished = True

    # Several processes

    def spread(self) -> None:
        """Spreads the tables over the processes, and has the gradients of the rest averaged."""
        if self.world > 1 and not self.finished:
            dense, random = list(self.optimizers.named), checkpoint.random_state(self.device)
            shard.shard(self.model, self.training)
            self.forward = shard.data_parallel(self.model, self.step, dense)
            checkpoint.set_random_state(random, self.device)  # sharding draws numbers, and a resumed run must not

    def gather(self) -> None:
        """An ordinary model again, the same on every process."""
        if self.world > 1:
            shard.unshard(self.model)

    # Checkpoints

    @property
    def settings(self) -> dict[str, Any]:
        """What must be equal for a run to be taken up."""
        settings = {f"training.{key}": value for key, value in self.training.model_dump(mode="json").items() if key != "checkpoint_every"}
        return {**settings, "seed": self.run.seed, "batches an epoch": self.batches, "processes": self.world}

    def save_if_due(self) -> None:
        if self.folder is not None and (self.finished or self.now.steps - self.saved >= self.training.checkpoint_every):
            self.save()

    def save(self) -> None:
        assert self.folder is not None
        tensors: dict[str, Mapping[str, Tensor]] = {"model": shard.whole_state(self.model)}
        if not self.finished:
            tensors["optimizer"] = self.optimizers.state()
            tensors["best"] = self.best_weights
            tensors["random"] = shard.everyones(checkpoint.random_state(self.device))
        now = replace(self.now, sums=shard.add_up(self.now.sums), rows=int(shard.add_up({"": self.now.rows})[""]))
        if self.rank == 0:
            meta = {"now": asdict(now), "loader": dict(self.loader.state_dict()), "settings": self.settings}
            checkpoint.save(self.folder, meta, tensors)
        shard.wait()
        self.saved = self.now.steps

    def take_up(self) -> None:
        """With `run.resume`, the newest checkpoint; without, a finished run there is forgotten and an unfinished one is an error."""
        path = None if self.folder is None else checkpoint.newest(self.folder)
        if path is None or self.folder is None:
            return
        try:
            if self.run.resume:
                self._take_up(checkpoint.load(path))
            elif not checkpoint.read_meta(path)["now"]["finished"]:
                raise PalateError(f"{self.name}: {self.folder} holds a run that was not finished; resume it, or delete that folder")
            else:
                shard.wait()  # until all processes have looked
                if self.rank == 0:
                    checkpoint.clear(self.folder)
        except (KeyError, TypeError) as error:
            raise BundleError(f"{path}: not a checkpoint of a training run ({error} is missing); delete {self.folder}") from None

    def _take_up(self, found: checkpoint.Checkpoint) -> None:
        for key, value in self.settings.items():
            there = found.meta["settings"].get(key)
            if there != value:
                raise BundleError(
                    f"{found.path}: made with {key} = {there!r}, now {value!r}; resume with the same, or delete {self.folder}"
                )
        try:
            self.model.load_state_dict(found.tensors["model"])
        except RuntimeError as error:
            reason = str(error).splitlines()[-1].strip()
            raise BundleError(f"{found.path}: is of another network ({reason}); delete {self.folder}") from None
        self.now = _Now(**found.meta["now"])
        self.saved = self.now.steps
        if self.finished:
            return
        self.optimizers.restore(found.tensors["optimizer"])
        self.best_weights = found.tensors["best"]
        if self.rank > 0:  # the sums so far are those of all processes; process 0 holds them
            self.now.sums, self.now.rows = dict.fromkeys(self.now.sums, 0.0), 0
        random = {name.removesuffix(f".{self.rank}"): state for name, state in found.tensors["random"].items()}
        checkpoint.set_random_state(random, self.device)
        self.loader.load_state_dict(found.meta["loader"])

    def leave_if(self, stop: _CtrlC) -> None:
        if not stop.asked:
            return
        stop.asked = False
        if self.folder is None:
            raise Interrupted(f"{self.name}: stopped at step {self.now.steps}; nothing was saved, for the run has no folder")
        if self.world > 1:  # saving takes all processes, and they may be at different steps
            raise Interrupted(f"{self.name}: stopped at step {self.now.steps}; resume goes on from the last checkpoint in {self.folder}")
        if not self.finished:  # else it was saved a moment ago
            self.save()
        raise Interrupted(
            f"{self.name}: stopped and saved at step {self.now.steps} in {self.folder}; the same command with resume goes on from there"
        )


class _CtrlC:
    """Within it, the first Ctrl-C only sets `asked`, so that a step is never cut in two; the second one interrupts at once."""

    def __init__(self) -> None:
        self.asked = False
        self._before: Any = None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._ask)
        return self

    def __exit__(self, kind: type[BaseException] | None, *problem: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
        if self.asked and kind is None:
            raise KeyboardInterrupt

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True

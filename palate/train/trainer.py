"""The training engine. It names no model: it turns batches and a step into a trained network."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from palate.config import Training
from palate.train.optim import Optimizers, multiplier
from palate.types import Batch, ConfigError, PalateError, Run

Step = Callable[[Any, Batch], Mapping[str, Tensor]]
Validate = Callable[[Any], Mapping[str, float]]


class Trainer:
    """Trains a network in place; `fit` is the `Train` protocol of `palate.types`."""

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
        torch.manual_seed(run.seed)
        device = torch.device(run.device)
        model.to(device)
        optimizers = Optimizers(model, training)
        total = training.epochs * len(loader)
        curves: dict[str, list[float]] = {}
        best, best_weights, stale, done = -math.inf, None, 0, 0
        for _ in range(training.epochs):
            model.train()
            sums: dict[str, float] = {}
            rows = 0
            for batch in loader:
                if device.type != "cpu":
                    batch = batch.to(device)
                optimizers.set_rates(multiplier(training.schedule, done, total, training.warmup))
                with torch.autocast(device.type, dtype=torch.bfloat16, enabled=training.bf16):
                    outputs = step(model, batch)
                loss = outputs["loss"]
                values = {key: float(value.detach()) for key, value in outputs.items()}
                if not math.isfinite(values["loss"]):
                    raise PalateError(f"{name}: the loss is {values['loss']} at step {done + 1}; try a lower lr or sparse_lr, or clip")
                optimizers.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizers.step()
                done += 1
                rows += len(batch)
                for key, value in values.items():
                    sums[key] = sums.get(key, 0.0) + value * len(batch)
            metrics = {key: value / max(1, rows) for key, value in sums.items()}
            if validate is not None:
                model.eval()
                with torch.no_grad():
                    found = dict(validate(model))
                if training.monitor not in found:
                    raise ConfigError(f"{name}: monitor {training.monitor!r} is not among the validation metrics {', '.join(found)}")
                metrics.update(found)
            for key, value in metrics.items():
                curves.setdefault(key, []).append(value)
            if validate is None:
                continue
            value = -metrics[training.monitor] if training.monitor.endswith("loss") else metrics[training.monitor]
            if value > best + 1e-6:
                best, stale = value, 0
                best_weights = {key: tensor.detach().clone() for key, tensor in model.state_dict().items()}
                continue
            stale += 1
            if training.schedule == "plateau":
                optimizers.scale *= training.factor
            if training.patience is not None and stale >= training.patience:
                break
        if best_weights is not None:
            model.load_state_dict(best_weights)
        model.eval()
        return curves

    __call__ = fit

"""Optimisers and learning rates: the fused ones inside the embedding tables, and a torch one for everything else."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from palate.config import Training
from palate.train.shard import embeddings_of, is_sharded, whole_momentum
from palate.types import BundleError

LOWEST = 1e-6  # the plateau schedule goes no lower (as FuxiCTR)


def multiplier(schedule: str, step: int, total: int, warmup: int = 0) -> float:
    """What every learning rate is multiplied by at this step (counted from 0) of `total`.

    Linear warm-up: (step + 1) / warmup for the first `warmup` steps. After it, with p in [0, 1) the part of the remaining steps
    that is done: linear 1 - p; cosine (1 + cos(pi p)) / 2 (Loshchilov and Hutter 2017, eq. 5, without restarts); else 1.

    >>> [round(multiplier("linear", step, 6, warmup=2), 2) for step in range(6)]
    [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
    """
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, total - warmup)
    if schedule == "linear":
        return max(0.0, 1.0 - done)
    if schedule == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))
    return 1.0


class Optimizers:
    """All optimisers of a model behind one face.

    Fused tables are updated by the backward pass, so `set_rates` comes before it and `step` does not touch them. Everything else
    belongs to one torch optimiser; on the dense path that includes the tables, in a group of their own: `weight_decay` is for the
    network, `training.l2` for the tables (as the gradient l2 x table of l2 / 2 ||table||^2, added before clipping).
    """

    def __init__(self, model: nn.Module, training: Training) -> None:
        self.training = training
        modules = list(embeddings_of(model))
        self.fused = {name: module for name, module in modules if module.fused and module.table_rows}
        in_tables = {id(weight) for _, module in modules for weight in module.tables().values()}
        in_fused = {id(weight) for module in self.fused.values() for weight in module.tables().values()}
        named = {name: weight for name, weight in model.named_parameters() if weight.requires_grad and id(weight) not in in_fused}
        self.named: dict[str, nn.Parameter] = named
        self.tables = [weight for weight in named.values() if id(weight) in in_tables]
        network = [weight for weight in named.values() if id(weight) not in in_tables]
        groups = [{"params": network, "weight_decay": training.weight_decay}, {"params": self.tables, "weight_decay": 0.0}]
        self.dense = _dense([group for group in groups if group["params"]], training)
        self.scale = 1.0

    def set_rates(self, factor: float) -> None:
        """Sets every learning rate to its base x `factor` x what the plateau schedule has left of it."""
        if self.dense is not None:
            for group in self.dense.param_groups:
                group["lr"] = self._rate(self.training.lr, factor)
        for module in self.fused.values():
            optimizer, rate = module.optimizer(), self._rate(self.training.sparse_lr, factor)
            groups = optimizer.param_groups
            if any(group["lr"] != rate for group in groups):
                for group in groups:
                    group["lr"] = rate
                optimizer.step()  # hands the rate to the kernel; fused optimisers do nothing else here

    @property
    def rate(self) -> float:
        """The learning rate of the dense part as it stands."""
        groups = self.dense.param_groups if self.dense is not None else []
        return float(groups[0]["lr"]) if groups else math.nan

    def _rate(self, base: float, factor: float) -> float:
        return max(base * self.scale, min(base, LOWEST)) * factor

    def zero_grad(self) -> None:
        """Forgets the gradients of the last step."""
        if self.dense is not None:
            self.dense.zero_grad(set_to_none=True)

    @torch.no_grad()
    def step(self) -> float:
        """L2 of the tables, clipping, update. Returns the global norm of the gradients before clipping (nan without clipping)."""
        if self.dense is None:
            return math.nan
        if self.training.l2:
            for table in self.tables:
                if table.grad is None:
                    table.grad = torch.zeros_like(table)
                table.grad.add_(table, alpha=self.training.l2)
        norm = math.nan
        if self.training.clip is not None:
            norm = float(nn.utils.clip_grad_norm_(self.named.values(), self.training.clip))
        self.dense.step()
        return norm

    def state(self) -> dict[str, Tensor]:
        """Every tensor that the next step depends on, by name, whole. With several processes a collective."""
        tensors: dict[str, Tensor] = {}
        if self.dense is not None:
            for name, weight in self.named.items():
                for key, value in self.dense.state[weight].items():
                    if isinstance(value, Tensor):
                        tensors[f"dense.{name}.{key}"] = value
        for name, module in self.fused.items():
            tensors |= {f"fused.{name}.{table}": state for table, state in whole_momentum(module).items()}
        return tensors

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes over what `state` gave, before tables are sharded. Errors: BundleError where it is another optimiser's."""
        left = dict(tensors)
        for name, module in self.fused.items():
            assert not is_sharded(module)
            for table, state in module.momentum().items():
                state.copy_(_taken(left, f"fused.{name}.{table}", state.shape))
        if self.dense is not None:
            for name, weight in self.named.items():
                prefix = f"dense.{name}."
                for full in [full for full in left if full.startswith(prefix) and "." not in full[len(prefix) :]]:
                    value = left.pop(full)
                    key = full[len(prefix) :]
                    self.dense.state[weight][key] = value.clone() if key == "step" else value.to(weight.device, copy=True)
        if left:
            raise BundleError(f"checkpoint: state of {next(iter(left))!r}, which this model's optimisers do not have")


def _taken(tensors: dict[str, Tensor], key: str, shape: torch.Size) -> Tensor:
    value = tensors.pop(key, None)
    if value is None or value.shape != shape:
        raise BundleError(f"checkpoint: expected {key!r} of shape {tuple(shape)}, found {'none' if value is None else tuple(value.shape)}")
    return value


def _dense(groups: list[dict[str, Any]], training: Training) -> torch.optim.Optimizer | None:
    if not groups:
        return None
    if training.dense == "adam":
        return torch.optim.Adam(groups, lr=training.lr)
    if training.dense == "adamw":
        return torch.optim.AdamW(groups, lr=training.lr)
    if training.dense == "adagrad":
        return torch.optim.Adagrad(groups, lr=training.lr)
    return torch.optim.SGD(groups, lr=training.lr)

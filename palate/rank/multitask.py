"""Several tasks at once (clicks, ratings, watch times), by experts and towers over the representation of any other network."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

import numpy as np
import pydantic
import torch
from torch import Tensor, nn

from palate.config import Training, component_class
from palate.losses import mean_of_known, uncertainty_weighted
from palate.nn.body import Body
from palate.nn.experts import PLE, MMoE, SharedBottom, Towers
from palate.rank.kinds import KINDS
from palate.rank.neural import Embed, NeuralRanker, click_quality
from palate.rank.tasks import Kind, Task
from palate.types import Batch, ConfigError, DataError, Floats, Inputs, State

Layers = tuple[pydantic.PositiveInt, ...]
FROM_HERE = ("name", "tasks", "blend", "width", "init", "init_std", "negatives_per_query", "train")


class MultiTaskHead(nn.Module):
    """Stands where the head of a body was: x [B, H] -> experts [B, T, D] -> towers -> logits [B, T].

    log_variances [T]: of the tasks, where they are learnt (Kendall et al. 2018); they start at 0, every task weighing the same.
    """

    def __init__(self, experts: nn.Module, towers: Towers, tasks: int, uncertainty: bool) -> None:
        super().__init__()
        self.experts, self.towers = experts, towers
        self.log_variances = nn.Parameter(torch.zeros(tasks)) if uncertainty else None

    def forward(self, x: Tensor) -> Tensor:
        """[B, H] -> [B, T], float32."""
        logits: Tensor = self.towers(self.experts(x))
        return logits


class MultiTask(NeuralRanker):
    """Multi-task learning over any interaction body (DLRM, DCN V2, ...): its representation feeds experts instead of its head.

    Structures: shared bottom (Caruana 1997), MMoE (Ma et al. 2018), PLE (Tang et al. 2020), see `palate.nn.experts`. What a task learns
    and serves, by its kind, for a logit z (see `palate.rank.kinds`; a label that is NaN teaches nothing):

        click        cross-entropy of 0/1                                                       serves sigmoid(z)
        rating       (z - (y - mean) / deviation)^2, both of the training ratings               serves mean + deviation z
        watch_time   logistic regression in which a positive weighs its seconds, and the odds   serves exp(z), expected seconds
                     are the expected watch time (Covington et al. 2016, section 4.2)

    Cost a row: the body, then experts x D H.
    """

    class Config(NeuralRanker.Config):
        """tasks: see `Task`; none makes every label a click. structure: how they share. body: a ranker whose network is a
        `palate.nn.body.Body`, by short name or import path; body_settings: its own settings (`width`, `train` and the like are said here).

        experts: shared ones (MMoE: all). task_experts: of each task, a level, and levels: how many (both PLE). expert, tower: hidden
        layers of each expert (the one bottom of a shared bottom) and of each task's tower. dropout: in experts and towers.
        weighting: "declared" adds the losses by the `weight` of each task; "uncertainty" learns the weights (Kendall et al. 2018).
        train.monitor: "joint_loss" is the mean over tasks, by declared weight, of loss / loss of the best constant answer; there are also
        logloss, auc and ndcg@10 (means over the click tasks), and each task's own, such as "rating.rmse" and "watch_time.mae".
        """

        kinds: ClassVar[tuple[Kind, ...]] = ("click", "rating", "watch_time")

        structure: Literal["shared_bottom", "mmoe", "ple"] = "mmoe"
        body: str = "dlrm"
        body_settings: dict[str, Any] = pydantic.Field(default_factory=dict)
        experts: int = pydantic.Field(4, ge=1)
        task_experts: int = pydantic.Field(2, ge=1)
        levels: int = pydantic.Field(1, ge=1)
        expert: Layers = pydantic.Field((64,), min_length=1)
        tower: Layers = (32,)
        dropout: float = pydantic.Field(0.0, ge=0, lt=1)
        weighting: Literal["declared", "uncertainty"] = "declared"
        train: Training = Training(epochs=10, batch_size=1024, patience=2, monitor="joint_loss")

        @pydantic.model_validator(mode="after")
        def _what_can_be_known_before_the_data(self) -> Self:
            if self.weighting == "uncertainty" and any(task.weight != 1 for task in self.tasks):
                raise ValueError('weighting = "uncertainty" learns the weights of the tasks; leave their `weight` out')
            _body(self)
            return self

    config: Config
    scale: Floats  # [T, 4], see `KindOfTask`

    def network(self, inputs: Inputs, embed: Embed) -> nn.Module:
        """The body, with experts and towers in the place of its head (so that nothing is left that does not learn)."""
        own = self.config
        body = _body(own).network(inputs, embed)
        if not isinstance(body, Body):
            raise ConfigError(f"{self.name}.body: the network of {own.body!r} has no representation for experts to read; {_bodies()}")
        width, tasks = body.head.in_features, len(inputs.tasks)
        experts: SharedBottom | MMoE | PLE
        if own.structure == "shared_bottom":
            experts = SharedBottom(width, tasks, own.expert, own.dropout)
        elif own.structure == "mmoe":
            experts = MMoE(width, tasks, own.expert, own.experts, own.dropout)
        else:
            experts = PLE(width, tasks, own.expert, own.experts, own.task_experts, own.levels, own.dropout)
        towers = Towers(experts.width_out, tasks, own.tower, own.dropout)
        body.add_module("head", MultiTaskHead(experts, towers, tasks, own.weighting == "uncertainty"))
        return body

    def _declared(self, names: tuple[str, ...]) -> tuple[Task, ...]:
        tasks = self.config.tasks or tuple(Task(name=name) for name in names)
        if tuple(task.name for task in tasks) != names:
            given = ", ".join(task.name for task in tasks)
            raise ConfigError(
                f"{self.name}.tasks: {given} are declared, but the labels are {', '.join(names)}; name the same, in that order"
            )
        return tasks

    def check_labels(self, labels: Floats, tasks: tuple[str, ...]) -> None:
        """DataError where a label is not of its kind, or a task has none."""
        self.declared = self._declared(tasks)
        for place, task in enumerate(self.declared):
            known = labels[:, place][~np.isnan(labels[:, place])]
            if not len(known):
                raise DataError(f"{self.name}: task {task.name!r}: no row has a label to learn from; leave the task out")
            wrong = ~KINDS[task.kind].right(known.astype(np.float64))
            if wrong.any():
                expected = KINDS[task.kind].expected
                raise DataError(f"{self.name}: task {task.name!r}: a label is {known[wrong][0]:g}; it must be {expected} or NaN (unknown)")

    def learn_labels(self, labels: Floats, weights: Floats | None) -> Floats:
        """The scale of each task; its logits start from the best constant answer (of a table of rows, those of clicks from 0)."""
        known, mass = ~np.isnan(labels), np.ones(len(labels)) if weights is None else weights.astype(np.float64)
        columns = [(labels[known[:, t], t].astype(np.float64), mass[known[:, t]]) for t in range(len(self.declared))]
        kinds = [KINDS[task.kind] for task in self.declared]
        self.scale = np.array([kind.scale(*column) for kind, column in zip(kinds, columns, strict=True)], dtype=np.float32)
        starts = [kind.start(*column) for kind, column in zip(kinds, columns, strict=True)]
        return np.array(
            [0.0 if weights is None and task.kind == "click" else z for task, z in zip(self.declared, starts, strict=True)],
            dtype=np.float32,
        )

    def keep_scale(self, before: Any) -> None:
        """With the scale of the labels."""
        super().keep_scale(before)
        self.scale = before.scale

    def losses(self, model: nn.Module, logits: Tensor, batch: Batch) -> Mapping[str, Tensor]:
        """`loss`, and each task's own as `<task>.loss`; unknown labels and tasks without a known one count for nothing."""
        known = ~batch.labels.isnan()
        labels = batch.labels.where(known, torch.zeros_like(batch.labels))
        scale = torch.from_numpy(self.scale).to(logits.device)
        columns = [KINDS[task.kind].loss(logits[:, t], labels[:, t], scale[t]) for t, task in enumerate(self.declared)]
        each = mean_of_known(torch.stack(columns, dim=1), known, batch.weights)
        log_variances: Tensor | None = getattr(model.head, "log_variances", None)
        if log_variances is None:
            loss = each @ torch.tensor([task.weight for task in self.declared], device=each.device)
        else:
            squared = torch.tensor([KINDS[task.kind].squared for task in self.declared], device=each.device)
            loss = uncertainty_weighted(each, log_variances, squared, known.any(dim=0))
        return {"loss": loss, **{f"{task.name}.loss": each[t] for t, task in enumerate(self.declared)}}

    def answers(self, logits: Tensor) -> Tensor:
        """Probabilities, grades and expected seconds, [B, T]."""
        scale = torch.from_numpy(self.scale).to(logits.device)
        return torch.stack([KINDS[task.kind].answer(logits[:, t], scale[t]) for t, task in enumerate(self.declared)], dim=1)

    def quality(self, scores: Floats, labels: Floats) -> dict[str, float]:
        """`joint_loss`, each task's own metrics as `<task>.<metric>` (see `Task`), and logloss, auc and ndcg@10 over the click tasks."""
        clicks = [t for t, task in enumerate(self.declared) if task.kind == "click"]
        names = tuple(self.declared[t].name for t in clicks)
        found = click_quality(scores[..., clicks], labels[..., clicks], names) if clicks else {}
        relative, weights = [], []
        for t, task in enumerate(self.declared):
            kind, known = KINDS[task.kind], np.isfinite(scores[..., t]) & ~np.isnan(labels[..., t])
            p, y = scores[known, t].astype(np.float64), labels[known, t].astype(np.float64)
            if not len(y):
                continue
            found |= {f"{task.name}.{metric}": value for metric, value in task.metrics(y, p).items()}
            constant = kind.mean_loss(np.full_like(y, kind.constant(y)), y)
            if constant > 1e-6:  # else there is only one answer, and nothing to compare with
                relative.append(kind.mean_loss(p, y) / constant)
                weights.append(task.weight)
        return found | {"joint_loss": float(np.average(relative, weights=weights)) if relative else float("nan")}

    def state(self) -> State:
        """With the scale of the labels."""
        state = super().state()
        return State({**state.arrays, "scale": self.scale}, meta=state.meta)

    def restore(self, state: State) -> Self:
        """Takes over a state that `state` gave."""
        self.scale = np.array(state.arrays["scale"])
        self.declared = self._declared(tuple(state.meta["inputs"]["tasks"]))
        return super().restore(state)


def _body(config: MultiTask.Config) -> NeuralRanker:
    """The ranker whose network is to be the body. Errors: ConfigError where it has none, or has a setting that is said elsewhere."""
    cls = component_class(config.body, "rank")
    if not issubclass(cls, NeuralRanker) or issubclass(cls, MultiTask):
        raise ConfigError(f"multitask.body: {config.body!r} has no network of its own; {_bodies()}")
    if cls.pretrain is not NeuralRanker.pretrain:
        raise ConfigError(f"multitask.body: {config.body!r} learns in two steps, of which its network is only the second; {_bodies()}")
    for key in config.body_settings:
        if key in FROM_HERE:
            raise ConfigError(f"multitask.body_settings.{key}: say it of multitask itself; the body takes it from there")
    shared = {key: getattr(config, key) for key in ("width", "init", "init_std", "train")}
    return cls(**{**config.body_settings, **shared})


def _bodies() -> str:
    """Which rankers do: those whose file holds a Body, and that learn in one step."""
    import palate.rank

    names = []
    for found in pkgutil.iter_modules(palate.rank.__path__):
        module = importlib.import_module(f"palate.rank.{found.name}")
        own = [value for value in vars(module).values() if isinstance(value, type) and value.__module__ == module.__name__]
        two_steps = any(issubclass(value, NeuralRanker) and value.pretrain is not NeuralRanker.pretrain for value in own)
        if any(issubclass(value, Body) for value in own) and not two_steps:
            names.append(found.name)
    return f"it can be {', '.join(names)}, or a ranker of yours whose network is a palate.nn.body.Body"

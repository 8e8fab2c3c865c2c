"""The kinds of task: what a network's logit means for each, and what it learns from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from palate.losses import weighted_logistic
from palate.metrics import pointwise
from palate.types import Bools

Doubles = npt.NDArray[np.float64]


class KindOfTask(ABC):
    """One kind. z is a logit, y a known label, p what is served, w the weight of a row.

    scale [4], learnt from the training labels: mean and deviation (of what the kind says), then the least and the most ever served.
    """

    expected: ClassVar[str]  # of a label, in words
    squared: ClassVar[bool] = False  # whether the loss is a squared error, else a cross-entropy

    @abstractmethod
    def right(self, y: Doubles) -> Bools:
        """Which labels are of this kind."""

    @abstractmethod
    def scale(self, y: Doubles, w: Doubles) -> tuple[float, float, float, float]:
        """The scale of these training labels."""

    @abstractmethod
    def start(self, y: Doubles, w: Doubles) -> float:
        """The logit of the best constant answer."""

    @abstractmethod
    def loss(self, z: Tensor, y: Tensor, scale: Tensor) -> Tensor:
        """Of each row, [B]."""

    @abstractmethod
    def answer(self, z: Tensor, scale: Tensor) -> Tensor:
        """What is served, [B]."""

    @abstractmethod
    def constant(self, y: Doubles) -> float:
        """The best constant answer."""

    @abstractmethod
    def mean_loss(self, p: Doubles, y: Doubles) -> float:
        """The loss of what is served."""


class Click(KindOfTask):
    """Cross-entropy of 0/1; serves sigmoid(z)."""

    expected = "0, 1"

    def right(self, y: Doubles) -> Bools:
        return (y == 0) | (y == 1)

    def scale(self, y: Doubles, w: Doubles) -> tuple[float, float, float, float]:
        return 0.0, 1.0, 0.0, 1.0

    def start(self, y: Doubles, w: Doubles) -> float:
        return float(np.log((w @ y + 0.5) / (w @ (1 - y) + 0.5)))

    def loss(self, z: Tensor, y: Tensor, scale: Tensor) -> Tensor:
        return functional.binary_cross_entropy_with_logits(z, y, reduction="none")

    def answer(self, z: Tensor, scale: Tensor) -> Tensor:
        return torch.sigmoid(z)

    def constant(self, y: Doubles) -> float:
        return float(y.mean())

    def mean_loss(self, p: Doubles, y: Doubles) -> float:
        return pointwise.logloss(y, p)


class Rating(KindOfTask):
    """Squared error of the standardised grade, (z - (y - mean) / deviation)^2; serves mean + deviation z, in the units of the grades.

    Squared error for grades is as in Zhao et al. 2019, "Recommending What Video to Watch Next: a Multitask Ranking System", section 4.2.
    Standardised, the loss starts near 1 whatever the scale of the grades, so that it can stand beside a cross-entropy.
    """

    expected = "a finite grade"
    squared = True

    def right(self, y: Doubles) -> Bools:
        return np.isfinite(y)

    def scale(self, y: Doubles, w: Doubles) -> tuple[float, float, float, float]:
        mean = float(np.average(y, weights=w))
        return mean, float(np.sqrt(np.average((y - mean) ** 2, weights=w))) or 1.0, float(y.min()), float(y.max())

    def start(self, y: Doubles, w: Doubles) -> float:
        return 0.0

    def loss(self, z: Tensor, y: Tensor, scale: Tensor) -> Tensor:
        return (z - (y - scale[0]) / scale[1]) ** 2

    def answer(self, z: Tensor, scale: Tensor) -> Tensor:
        return torch.clamp(scale[0] + scale[1] * z, scale[2], scale[3])

    def constant(self, y: Doubles) -> float:
        return float(y.mean())

    def mean_loss(self, p: Doubles, y: Doubles) -> float:
        return float(np.mean((p - y) ** 2))


class WatchTime(KindOfTask):
    """Logistic regression in which a positive weighs its seconds; the odds are the expected watch time, and exp(z) seconds are served.

    Covington et al. 2016, "Deep Neural Networks for YouTube Recommendations", section 4.2; see `weighted_logistic`. The loss is divided by
    the mean weight of a training row (the deviation), so that it is as large as a click's. No answer exceeds the longest time of training.
    """

    expected = "seconds, 0 or more,"

    def right(self, y: Doubles) -> Bools:
        return np.isfinite(y) & (y >= 0)

    def scale(self, y: Doubles, w: Doubles) -> tuple[float, float, float, float]:
        return 0.0, float(np.average(1.0 + y, weights=w)), 0.0, float(y.max())

    def start(self, y: Doubles, w: Doubles) -> float:
        return float(np.log((w @ y + 0.5) / (w.sum() + 0.5)))

    def loss(self, z: Tensor, y: Tensor, scale: Tensor) -> Tensor:
        return weighted_logistic(z, y) / scale[1]

    def answer(self, z: Tensor, scale: Tensor) -> Tensor:
        return torch.clamp(torch.exp(z), scale[2], scale[3])

    def constant(self, y: Doubles) -> float:
        return float(y.mean())

    def mean_loss(self, p: Doubles, y: Doubles) -> float:
        odds = np.maximum(p, 1e-7)
        return float(np.mean(y * np.log1p(1 / odds) + np.log1p(odds)))


KINDS: dict[str, KindOfTask] = {"click": Click(), "rating": Rating(), "watch_time": WatchTime()}

"""Losses as pure functions of logits. Sign convention: smaller is better; a logit is the log-odds of label 1."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def binary_cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor | None = None, task_weights: Tensor | None = None) -> Tensor:
    """Binary cross-entropy with logits over several tasks; a label that is NaN is unknown and counts for nothing.

        l_bt = log(1 + exp(z_bt)) - y_bt z_bt                     (= -y log p - (1 - y) log(1 - p), p = 1 / (1 + exp(-z)))
        L    = sum_t a_t  (sum_b w_b m_bt l_bt) / (sum_b w_b m_bt)     m_bt = 1 where the label is known

    Each task is a weighted mean over the rows whose label is known, so a task with few labels (conversions among clicks)
    weighs as much as one with many; `task_weights` says otherwise. A task without a known label in the batch adds 0.
    Weights that undo a sub-sampling of negatives go into `weights` (He et al. 2014, section 6.3, undoes it after the fact instead).

    logits, labels: float [B, T], labels in [0, 1] or NaN. weights: float [B], None is 1. task_weights: float [T], None is 1.
    Returns a scalar. Neither the value nor any gradient is NaN for finite logits.
    """
    known = ~labels.isnan()
    targets = labels.where(known, torch.zeros_like(labels))
    losses = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    mass = known.to(logits.dtype)
    if weights is not None:
        mass = mass * weights.unsqueeze(1)
    total = mass.sum(0)
    per_task = (losses * mass).sum(0) / total.where(total > 0, torch.ones_like(total))
    if task_weights is not None:
        per_task = per_task * task_weights
    return per_task.sum()

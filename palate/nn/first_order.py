"""The first-order (wide) part of a model: one weight an id and a dense column."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from palate.nn.embedding import Embeddings
from palate.nn.precision import full_precision
from palate.types import Batch, Inputs


class LinearFromZero(nn.Linear):
    """A linear layer whose weights and biases start at zero. (Torch's own start warns where there is no column.)"""

    def reset_parameters(self) -> None:
        for weight in self.parameters():
            nn.init.zeros_(weight)


class FirstOrder(nn.Module):
    """One weight an id and a dense column, for each task:

        y_t = b_t + <w_t, dense> + sum_f pool_{i in bag f} v_t[f, i]

    embeddings: tables of width `width_for(tasks, ...)`; their columns after the first T stay as they start. bias: whether there is b.
    Dense weights and biases start at zero.
    """

    def __init__(self, inputs: Inputs, embeddings: Embeddings, bias: bool = True) -> None:
        super().__init__()
        self.tasks = len(inputs.tasks)
        self.embeddings = embeddings
        self.dense = LinearFromZero(len(inputs.dense), self.tasks, bias=bias)

    def terms(self, batch: Batch) -> Tensor:
        """The summands of `forward` without b, one an input, sparse ones first, as in `Fields`: Batch -> [B, F, T], float32."""
        first: Tensor = self.embeddings(batch.sparse)[:, :, : self.tasks].float()
        return torch.cat([first, batch.dense.float().unsqueeze(2) * self.dense.weight.t()], dim=1)

    def forward(self, batch: Batch) -> Tensor:
        """Batch -> [B, T], float32."""
        with full_precision(batch.dense.device):
            first: Tensor = self.dense(batch.dense.float())
            return first + self.embeddings(batch.sparse)[:, :, : self.tasks].float().sum(dim=1)


def width_for(tasks: int, fused: bool) -> int:
    """The width of first-order tables: a weight a task; FBGEMM's kernels take multiples of 4.

    >>> width_for(1, fused=True), width_for(1, fused=False)
    (4, 1)
    """
    return -(-tasks // 4) * 4 if fused else tasks

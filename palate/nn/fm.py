"""The second-order part of a factorisation machine: all pairs of fields, in time linear in their number."""

from __future__ import annotations

from torch import Tensor, nn


class SecondOrder(nn.Module):
    """The sum of the inner products of all pairs of field vectors, for each task: [B, F, T D] -> [B, T].

        y_t = sum_{i < j} <v_{t,i}, v_{t,j}>  =  1/2 sum_d [ (sum_i v_{t,i,d})^2 - sum_i v_{t,i,d}^2 ]

    Rendle 2010, "Factorization Machines", section III-A.4, lemma 3.1: the square of the sum holds every pair twice and every field with
    itself once. tasks: T; each has D of the T D numbers of a field to itself, the first task the first D. Cost: B F T D, instead of
    the B F^2 T D of the pairs. In float32 even under autocast: the two terms nearly cancel, and bfloat16 would leave nothing of the
    difference.

    >>> import torch
    >>> SecondOrder()(torch.tensor([[[1.0, 2.0], [3.0, 4.0], [0.0, 1.0]]]))  # 11 + 2 + 4
    tensor([[17.]])
    """

    def __init__(self, tasks: int = 1) -> None:
        super().__init__()
        self.tasks = tasks

    def forward(self, x: Tensor) -> Tensor:
        """[B, F, T D] -> [B, T], float32."""
        rows, fields, width = x.shape
        v = x.float().reshape(rows, fields, self.tasks, width // self.tasks)  # and autocast leaves sums and squares of float32 alone
        return 0.5 * (v.sum(dim=1).square() - v.square().sum(dim=1)).sum(dim=2)

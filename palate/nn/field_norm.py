"""Layer normalisation of each field vector by itself."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class FieldNorm(nn.Module):
    """Every field vector to mean 0 and deviation 1, then to a gain and a shift of its own: x [B, F, D] -> [B, F, D].

        y_f = g_f * (x_f - mean(x_f)) / sqrt(var(x_f) + 1e-5) + b_f           g_f, b_f in R^D

    Ba, Kiros and Hinton 2016, "Layer Normalization", on each of the F vectors, as in Wang et al. 2021, "MaskNet", equation 9.
    """

    def __init__(self, fields: int, width: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(fields, width))
        self.shift = nn.Parameter(torch.zeros(fields, width))

    def forward(self, x: Tensor) -> Tensor:
        """[B, F, D] -> [B, F, D]."""
        return torch.addcmul(self.shift, functional.layer_norm(x, x.shape[2:]), self.gain)

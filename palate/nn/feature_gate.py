"""The feature gate: what a row is about decides how loudly each of its numbers speaks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from palate.nn.mlp import MLP, linear


class FeatureGate(nn.Module):
    """Scales each number of x by a factor between 0 and 2 that depends on a context c:

        y = 2 sigmoid(W_L relu(... relu(W_1 c + b_1) ...) + b_L) * x          c [B, C], x and y [B, W]

    Mao et al. 2023, "FinalMLP: An Enhanced Two-Stream MLP Model for CTR Prediction", section "Stream-Specific Feature Selection". Without a
    context, c is a learnt vector of width C that starts at zero: then every row is scaled alike (and where there is a hidden ReLU layer,
    whose input is then 0, no gradient passes it: as published, b_L alone learns the scale). hidden: layers of the network. Cost: that of
    the network, once a row, or once a batch without a context.
    """

    def __init__(self, width: int, context: int, hidden: Sequence[int], learnt: bool = False) -> None:
        super().__init__()
        self.context = nn.Parameter(torch.zeros(1, context)) if learnt else None
        self.hidden = MLP(context, hidden)
        self.out = linear(self.hidden.width_out, width)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """[B, W] and [B, C] (None where it is learnt) -> [B, W]."""
        given = self.context if self.context is not None else context
        assert given is not None
        gated: Tensor = 2.0 * torch.sigmoid(self.out(self.hidden(given))) * x
        return gated

"""A head for a representation that has parts: a linear layer for each, added."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from palate.nn.mlp import Head
from palate.nn.precision import full_precision


class SumHead(Head):
    """Logits of parts h_1 ... h_P that lie side by side, each with a linear layer of its own: [B, H_1 + ... + H_P] -> [B, out].

        logits = sum_p (W_p h_p + b_p)

    As a function that is one `Head` over all of them. It differs in how it learns: W_p starts as N(0, 2 / (H_p + out)), by the width of
    its own part, and each part brings a bias [P, out], as where the published networks add up logits. Always in float32.
    """

    def __init__(self, widths: Sequence[int], out: int) -> None:
        super().__init__(sum(widths), out)
        for part in torch.split(self.weight, list(widths), dim=1):
            nn.init.normal_(part, std=(2 / (part.shape[1] + out)) ** 0.5)
        self.bias = nn.Parameter(torch.zeros(len(widths), out))

    def forward(self, x: Tensor) -> Tensor:
        """[B, H_1 + ... + H_P] -> [B, out], float32."""
        with full_precision(x.device):
            return functional.linear(x.float(), self.weight, self.bias.sum(dim=0))

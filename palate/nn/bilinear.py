"""Multi-head bilinear fusion: two vectors are joined into logits by their products, not only by their sum."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from palate.nn.mlp import Head
from palate.nn.precision import full_precision
from palate.types import ConfigError


class BilinearHead(nn.Module):
    """Logits from two streams x [B, X] and y [B, Y], given side by side:

        logit_t = <w_x, x> + b_x + <w_y, y> + b_y + sum_{h = 1}^{H} x_h^T W_{h, t} y_h

    where x_h and y_h are the h-th of H equal pieces of x and y, so that W has X Y / H numbers a task instead of X Y. H = 1 is the full
    bilinear form, and W = 0 the plain sum of two heads.

    Mao et al. 2023, "FinalMLP: An Enhanced Two-Stream MLP Model for CTR Prediction", section "Stream-Level Fusion". Weights start as
    Glorot's normal (W as X Y / H inputs to T outputs). It runs in float32 also under autocast, as `Head` does. Cost: X Y / H
    multiplications a row and task. `in_features` is X + Y. Errors: ConfigError where H does not divide both widths.
    """

    def __init__(self, width_x: int, width_y: int, out: int, heads: int = 1) -> None:
        super().__init__()
        if width_x % heads or width_y % heads:
            raise ConfigError(f"heads: {heads} do not divide the last layers of both streams, {width_x} and {width_y}")
        self.width_x, self.heads = width_x, heads
        self.in_features, self.out_features = width_x + width_y, out
        self.x, self.y = Head(width_x, out), Head(width_y, out)
        self.products = nn.Parameter(nn.init.xavier_normal_(torch.empty(width_x * width_y // heads, out)))

    def forward(self, streams: Tensor) -> Tensor:
        """[x, y], [B, X + Y] -> [B, T], float32."""
        with full_precision(streams.device):
            x, y = streams[:, : self.width_x].float(), streams[:, self.width_x :].float()
            x_h, y_h = (stream.reshape(len(stream), self.heads, stream.shape[1] // self.heads) for stream in (x, y))
            weight = self.products.view(self.heads, x_h.shape[2], y_h.shape[2], self.out_features)
            products = torch.einsum("bhi,hijt,bhj->bt", x_h, weight, y_h)
            logits: Tensor = self.x(x) + self.y(y) + products
            return logits

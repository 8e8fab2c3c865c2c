"""A convolution over the table of vectors of a row: what neighbouring numbers of neighbouring fields say together."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from palate.types import ConfigError


class FieldConvolution(nn.Module):
    """The vectors of a row as a picture of m x D points, under C kernels of k x k: [B, m, D] -> [B, C m, D].

        y[c, i, d] = sum_{u, v < k} K[c, u, v] x[i + u - k // 2, d + v - k // 2]          zeros outside

    That is `Conv2d(1, C, k, padding=k // 2, bias=False)`, the convolution of DHEN (Zhang et al. 2022, arXiv 2203.11014, equation 5). k is
    odd. There is no bias: it would be the same for all numbers of a vector, and the LayerNorm that follows in DHEN would take it out again.
    It is computed as one product of each vector and its neighbours, side by side, with banded matrices: more multiplications (k C D^2
    instead of k^2 C D a vector), but several times as quick on a CPU as convolutions of pictures as small as these. Parameters: C k^2.
    """

    _bands: Tensor

    def __init__(self, width: int, channels: int, kernel: int) -> None:
        super().__init__()
        if kernel % 2 == 0:
            raise ConfigError(f"kernel: expected an odd number, so that the picture keeps its size, got {kernel}")
        self.kernel = nn.Parameter(nn.init.xavier_normal_(torch.empty(channels, 1, kernel, kernel)))
        # bands[v, a, d] = 1 where a is the number that place v of a kernel around number d sees
        offset = torch.arange(width)[:, None] - torch.arange(width)
        bands = torch.stack([(offset == place - kernel // 2).float() for place in range(kernel)])
        self.register_buffer("_bands", bands, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, m, D] -> [B, C m, D]: the m vectors of the first kernel, then those of the second ..."""
        batch, count, width = x.shape
        channels, _, rows, _ = self.kernel.shape
        bands = torch.einsum("cuv,vad->uacd", self.kernel[:, 0], self._bands).reshape(rows * width, channels * width)
        padded = functional.pad(x, (0, 0, rows // 2, rows // 2))
        seen = torch.cat([padded[:, row : row + count] for row in range(rows)], dim=2)  # each vector with its neighbours
        return (seen @ bands).view(batch, count, channels, width).transpose(1, 2).reshape(batch, channels * count, width)

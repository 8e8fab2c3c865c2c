"""Cross layers: each multiplies its input with the first one, so that L of them hold all products of up to L + 1 inputs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from palate.nn.mlp import ACTIVATIONS, linear
from palate.types import ConfigError


class VectorCross(nn.Module):
    """The cross network of DCN, L layers with a weight vector each: x_0 [B, W] -> x_L [B, W].

        x_{l+1} = x_0 <x_l, w_l> + b_l + x_l              w_l, b_l in R^W

    Wang et al. 2017, "Deep & Cross Network for Ad Click Predictions", section 2.2, equation 3. Cost: L W multiplications a row, 2 L W
    parameters. Each x_l is a multiple of x_0 (by a number that depends on the row) plus a constant: cheap, and no more than that.
    """

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.weights = nn.ModuleList(linear(width, 1, bias=False) for _ in range(layers))
        self.biases = nn.Parameter(torch.zeros(layers, width))

    def forward(self, x0: Tensor) -> Tensor:
        """[B, W] -> [B, W]."""
        x = x0
        for weight, bias in zip(self.weights, self.biases, strict=True):
            x = x0 * weight(x) + (x + bias)
        return x


class MatrixCross(nn.Module):
    """The cross network of DCN V2, L layers with a weight matrix each: x_0 [B, W] -> x_L [B, W].

        x_{l+1} = x_0 * (W_l x_l + b_l) + x_l             W_l in R^{W x W}, * element by element

    Wang et al. 2021, "DCN V2: Improved Deep & Cross Network and Practical Lessons for Web-scale Learning to Rank Systems", section 3.2,
    equation 1. Cost: L W^2 multiplications a row, L (W^2 + W) parameters.
    """

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(linear(width, width) for _ in range(layers))

    def forward(self, x0: Tensor) -> Tensor:
        """[B, W] -> [B, W]."""
        x = x0
        for layer in self.layers:
            x = torch.addcmul(x, x0, layer(x).to(x0.dtype))
        return x


class MixtureCross(nn.Module):
    """The cost-effective cross network of DCN V2: L layers, each a mixture of K experts in subspaces of R dimensions.

        x_{l+1} = sum_i G_i(x_l) E_i(x_l) + x_l           i = 1 ... K
        E_i(x)  = x_0 * (U_l^i g(C_l^i g(V_l^i x)) + b_l)  V in R^{R x W}, C in R^{R x R}, U in R^{W x R}
        G(x)    = softmax(W_G x + b_G)                    the same for all layers; with one expert, 1

    Wang et al. 2021, "DCN V2", section 3.5, equations 3 and 4 with softmax for gates. With activation g = "identity" there is no C
    (equation 3), and with K = 1 beside it that is the low-rank layer of equation 2. The experts' matrices lie side by side, so a layer is
    two products with K R columns, and since the gates sum to one, b_l is added once. x_0: [B, W] -> x_L [B, W].
    Cost: L K (2 W R + R^2) multiplications a row.
    """

    def __init__(self, width: int, layers: int, rank: int, experts: int = 1, activation: str = "identity") -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ConfigError(f"activation: no {activation!r}; it takes {', '.join(ACTIVATIONS)}")
        self.experts, self.rank = experts, rank
        self.down = nn.ModuleList(linear(width, experts * rank, bias=False) for _ in range(layers))
        self.up = nn.ModuleList(linear(experts * rank, width) for _ in range(layers))
        self.gate = linear(width, experts) if experts > 1 else None
        self.activation = ACTIVATIONS[activation]()
        inner = layers if activation != "identity" else 0
        self.inner = nn.ParameterList(nn.Parameter(torch.randn(experts, rank, rank) * rank**-0.5) for _ in range(inner))
        for layer in (*self.down, *self.up):  # as wide as one expert sees it
            nn.init.normal_(layer.weight, std=(2 / (width + rank)) ** 0.5)

    def forward(self, x0: Tensor) -> Tensor:
        """[B, W] -> [B, W]."""
        x = x0
        for place, (down, up) in enumerate(zip(self.down, self.up, strict=True)):
            h = self.activation(down(x))
            if self.inner:
                h = self.activation(torch.einsum("bkr,kqr->bkq", h.unflatten(1, (self.experts, self.rank)), self.inner[place])).flatten(1)
            if self.gate is not None:
                h = (h.unflatten(1, (self.experts, self.rank)) * torch.softmax(self.gate(x), dim=1).unsqueeze(2)).flatten(1)
            x = torch.addcmul(x, x0, up(h).to(x0.dtype))
        return x

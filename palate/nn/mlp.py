"""The multilayer perceptron: what turns features into logits or vectors in most models of this field."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from palate.nn.dropout import Dropout
from palate.nn.precision import full_precision
from palate.types import ConfigError

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "identity": nn.Identity,
}


class MLP(nn.Module):
    """Fully connected layers: x [B, width] -> [B, layers[-1]], or [B, out] where `out` is given.

        h_0 = x,   h_l = dropout(activation(batch_norm(W_l h_{l-1} + b_l))),   y = W h_L + b  (only with `out`)

    Weights start as N(0, 2 / (in + out)) and biases at zero (Glorot and Bengio 2010, "Understanding the difficulty of training
    deep feedforward neural networks", normal form of eq. 16). The last, linear layer runs in float32 even under autocast:
    bfloat16 has 8 bits of precision, too few for a logit. `width_out` is the width of the result.

    >>> import torch
    >>> MLP(3, [8, 4], out=1)(torch.zeros(2, 3)).shape
    torch.Size([2, 1])
    """

    def __init__(
        self,
        width: int,
        layers: Sequence[int],
        activation: str = "relu",
        dropout: float = 0.0,
        batch_norm: bool = False,
        out: int | None = None,
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ConfigError(f"activation: no {activation!r}; it takes {', '.join(ACTIVATIONS)}")
        modules: list[nn.Module] = []
        for size in layers:
            modules.append(linear(width, size))
            if batch_norm:
                modules.append(nn.BatchNorm1d(size))
            modules.append(ACTIVATIONS[activation]())
            if dropout > 0:
                modules.append(Dropout(dropout))
            width = size
        self.hidden = nn.Sequential(*modules)
        self.head = None if out is None else Head(width, out)
        self.width_out = width if out is None else out

    def forward(self, x: Tensor) -> Tensor:
        """[B, width] -> [B, width_out]."""
        x = self.hidden(x)
        return x if self.head is None else self.head(x)


class Head(nn.Linear):
    """The linear layer that gives logits, [B, width] -> [B, out]: always in float32, also under autocast."""

    def __init__(self, width: int, out: int, bias: bool = True) -> None:
        super().__init__(width, out, bias=bias)
        nn.init.xavier_normal_(self.weight)
        if bias:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """[B, width] -> [B, out], float32."""
        with full_precision(x.device):
            return super().forward(x.float())


def linear(width: int, size: int, bias: bool = True) -> nn.Linear:
    """A linear layer with Glorot's normal weights and zero biases."""
    layer = nn.Linear(width, size, bias=bias)
    nn.init.xavier_normal_(layer.weight)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer

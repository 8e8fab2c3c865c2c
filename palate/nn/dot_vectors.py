"""Pairwise products made into vectors again, so that they can be multiplied once more."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from palate.nn.dot import Dot
from palate.nn.mlp import MLP, linear
from palate.types import ConfigError


class DotVectors(nn.Module):
    """The DLRM module of DHEN: [B, m, D] -> [B, l, D].

        h = MLP([<x_i, x_j> for i > j])          [B, H]      ReLU after every layer
        u = W_m h                                [B, l D], read as l vectors

    Zhang et al. 2022, "DHEN", arXiv 2203.11014, equation 3; there it is an in-house "AdvancedDLRM", known only as DLRM's products and
    networks on top. The dense features, which DLRM puts beside the products, are one of the x_i. Cost: m^2 D / 2 for the products, and the
    network, whose first layer has m (m - 1) / 2 inputs. Errors: ConfigError where there is only one vector.
    """

    def __init__(self, count: int, width: int, out: int, hidden: Sequence[int]) -> None:
        super().__init__()
        if count < 2:
            raise ConfigError(f'"dot" needs two vectors to multiply, got {count}; leave it out, or give it another feature')
        self.out = out
        self.products = Dot()
        self.mlp = MLP(Dot.width(count), hidden)
        self.vectors = linear(self.mlp.width_out, out * width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, m, D] -> [B, l, D]."""
        return self.vectors(self.mlp(self.products(x))).view(len(x), self.out, x.shape[2])

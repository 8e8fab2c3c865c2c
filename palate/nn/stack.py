"""A row as one flat vector: its embeddings and its dense columns side by side."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from palate.nn.embedding import Embeddings
from palate.types import Batch, ConfigError, Inputs


class Stack(nn.Module):
    """The input of networks that work on single numbers (bits) instead of on field vectors:

        x_0 = [e_1, ..., e_F, x_dense]                    [B, F D + dense columns]

    Wang et al. 2017, "Deep & Cross Network for Ad Click Predictions", section 2.1, equation 2. `width_out` is the width of x_0.
    Errors: ConfigError where there is no input at all.
    """

    def __init__(self, inputs: Inputs, embeddings: Embeddings) -> None:
        super().__init__()
        self.embeddings = embeddings
        self.dense = len(inputs.dense)
        self.width_out = len(inputs.sparse) * embeddings.width + self.dense
        if self.width_out == 0:
            raise ConfigError("the network has nothing to look at; give it a feature")

    def forward(self, batch: Batch) -> Tensor:
        """Batch -> [B, width_out], float32."""
        flat: Tensor = self.embeddings(batch.sparse).flatten(1)
        return torch.cat([flat, batch.dense], dim=1) if self.dense else flat

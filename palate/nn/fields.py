"""The field vectors of a row: one vector an input, sparse or dense, which is what interactions work on."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from palate.nn.embedding import Embeddings
from palate.types import Batch, Inputs


class Fields(nn.Module):
    """A batch as field vectors [B, F, D]: first the sparse features, then the dense columns.

        e_f = the pooled embedding of sparse feature f
        e_j = x_j v_j                                    for dense column j, with a vector v_j of its own

    That is the field embedding of Rendle 2010, "Factorization Machines" (the x_i v_i of equation 1), and of Song et al. 2019, "AutoInt",
    equations 2 to 4. v starts as N(0, 1 / D), so that products of fields start neither dead nor loud, or as N(0, std^2) where std is given.
    `count` is F, `width` D, `flat` F D.
    """

    def __init__(self, inputs: Inputs, embeddings: Embeddings, std: float | None = None) -> None:
        super().__init__()
        self.embeddings = embeddings
        self.width = embeddings.width
        self.count = len(inputs.sparse) + len(inputs.dense)
        self.flat = self.count * self.width
        std = self.width**-0.5 if std is None else std
        self.vectors = nn.Parameter(torch.randn(len(inputs.dense), self.width) * std) if inputs.dense else None

    def forward(self, batch: Batch) -> Tensor:
        """Batch -> [B, F, D]."""
        vectors: Tensor = self.embeddings(batch.sparse)
        if self.vectors is None:
            return vectors
        return torch.cat([vectors, batch.dense.unsqueeze(2) * self.vectors], dim=1)

"""The shape that most networks share: a representation of the row, and a linear head that reads the logits off it."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor, nn

from palate.nn.mlp import Head
from palate.types import Batch


class Body(nn.Module):
    """logits = head(represent(batch)). Subclasses set `head` and say what `represent` is.

    Multi-task models put experts and towers where the head was: any Body can be theirs. `head.in_features` is the width H of
    the representation. A network with a wide part beside the head overrides `forward` and adds it there.
    """

    head: Head

    @abstractmethod
    def represent(self, batch: Batch) -> Tensor:
        """Batch -> [B, H], what the head reads."""

    def forward(self, batch: Batch) -> Tensor:
        """Batch -> logits [B, T], float32."""
        logits: Tensor = self.head(self.represent(batch))
        return logits

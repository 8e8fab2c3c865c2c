"""FinalMLP: two plain networks that see the features through gates of their own, joined by a bilinear form."""

from __future__ import annotations

from collections.abc import Sequence

import pydantic
import torch
from torch import Tensor, nn

from palate.nn.bilinear import BilinearHead
from palate.nn.body import Body
from palate.nn.embedding import Embeddings
from palate.nn.feature_gate import FeatureGate
from palate.nn.fields import Fields
from palate.nn.mlp import MLP
from palate.rank.neural import Embed, NeuralRanker
from palate.types import Batch, ConfigError, Inputs

Layers = tuple[pydantic.PositiveInt, ...]


class Stream(nn.Module):
    """One stream: x = MLP(gate(e | context)), [B, F D] -> [B, H]. contexts: tables of its own; None has the gate learn its context."""

    def __init__(self, fields: Fields, mlp: MLP, gate: Sequence[int] | None, contexts: Embeddings | None = None) -> None:
        super().__init__()
        self.contexts, self.mlp = contexts, mlp
        width = fields.width if contexts is None else len(contexts.names) * contexts.width
        self.gate = None if gate is None else FeatureGate(fields.flat, width, gate, learnt=contexts is None)

    def forward(self, flat: Tensor, batch: Batch) -> Tensor:
        """Field vectors side by side, [B, F D] -> [B, H]."""
        if self.gate is not None:
            flat = self.gate(flat, None if self.contexts is None else self.contexts(batch.sparse).flatten(1))
        hidden: Tensor = self.mlp(flat)
        return hidden


class FinalMLPNetwork(Body):
    """Two streams over the same field vectors, and their fusion:

        e      = [e_1, ..., e_F], flat                        [B, F D]
        x      = MLP_1(2 sigmoid(gate_1(c_1)) * e)            [B, X]
        y      = MLP_2(2 sigmoid(gate_2(c_2)) * e)            [B, Y]
        logits = w_x x + b_x + w_y y + b_y + sum_h x_h^T W_h y_h                  [B, T]

    Mao et al. 2023, "FinalMLP: An Enhanced Two-Stream MLP Model for CTR Prediction", section "Our Proposed Model". The contexts c_1 and c_2
    (say, the user's vector and the item's) come from tables that serve nothing else; without one the gate learns a constant in its place.
    """

    head: BilinearHead  # type: ignore[assignment]  # the fusion is the head: it reads both streams, side by side

    def __init__(self, inputs: Inputs, fields: Fields, first: Stream, second: Stream, heads: int = 1) -> None:
        super().__init__()
        self.fields, self.first, self.second = fields, first, second
        self.head = BilinearHead(first.mlp.width_out, second.mlp.width_out, len(inputs.tasks), heads)

    def represent(self, batch: Batch) -> Tensor:
        """Batch -> [x, y], [B, X + Y]."""
        flat = self.fields(batch).flatten(1)
        return torch.cat([self.first(flat, batch), self.second(flat, batch)], dim=1)


class FinalMLP(NeuralRanker):
    """FinalMLP on labelled candidates. Cost a row: the two networks, the two gates and X Y / heads for the fusion."""

    class Config(NeuralRanker.Config):
        """mlp1, mlp2: layers of the streams. dropout1, dropout2: in each. batch_norm: in both.

        use_fs: whether there are gates (feature selection). fs1_context, fs2_context: sparse features that set each gate (none: the gate
        learns a constant). fs_hidden: hidden layers of the gates. heads: of the fusion; must divide the last layers of both streams.
        """

        mlp1: Layers = pydantic.Field((64,), min_length=1)
        mlp2: Layers = pydantic.Field((32,), min_length=1)
        dropout1: float = pydantic.Field(0.0, ge=0, lt=1)
        dropout2: float = pydantic.Field(0.0, ge=0, lt=1)
        batch_norm: bool = False
        use_fs: bool = True
        fs1_context: tuple[str, ...] = ()
        fs2_context: tuple[str, ...] = ()
        fs_hidden: Layers = (64,)
        heads: int = pydantic.Field(4, ge=1)

    config: Config

    def network(self, inputs: Inputs, embed: Embed) -> nn.Module:
        own = self.config
        fields = Fields(inputs, embed(own.width))
        if not fields.count:
            raise ConfigError(f"{self.name}: the network has nothing to look at; give it a feature")

        def stream(layers: Sequence[int], dropout: float, context: tuple[str, ...]) -> Stream:
            contexts = embed(own.width, only=context) if own.use_fs and context else None
            mlp = MLP(fields.flat, layers, dropout=dropout, batch_norm=own.batch_norm)
            return Stream(fields, mlp, own.fs_hidden if own.use_fs else None, contexts)

        first, second = stream(own.mlp1, own.dropout1, own.fs1_context), stream(own.mlp2, own.dropout2, own.fs2_context)
        return FinalMLPNetwork(inputs, fields, first, second, own.heads)

"""MaskNet: hidden layers whose inputs are multiplied by masks made from the embeddings, one after the other or side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import pydantic
import torch
from torch import Tensor, nn

from palate.nn.body import Body
from palate.nn.embedding import Embeddings
from palate.nn.field_norm import FieldNorm
from palate.nn.fields import Fields
from palate.nn.mask_block import MaskBlock
from palate.nn.mlp import MLP, Head
from palate.rank.dlrm import Layers
from palate.rank.neural import Embed, NeuralRanker
from palate.types import Batch, ConfigError, Inputs


class MaskNetNetwork(Body):
    """Mask blocks, all guided by the embeddings, then an MLP:

        v = [e_1, ..., e_F] laid flat                         [B, F D]
        x = v, or [norm(e_1), ..., norm(e_F)] with `embedding_norm`
        parallel: y = [block_1(v, x), ..., block_U(v, x)]     [B, H_1 + ... + H_U]    see `MaskBlock`
        serial:   y = block_U(v, ... block_1(v, x))           [B, H_U]
        logits = W MLP(y) + b                                 [B, T]

    Wang et al. 2021, "MaskNet: Introducing Feature-Wise Multiplication to CTR Ranking Models by Instance-Guided Mask", section 3.4,
    figure 4, equations 9 to 17. blocks: their widths H_1 ... H_U. The paper's serial form has no MLP (`layers` empty).
    """

    def __init__(
        self,
        inputs: Inputs,
        embeddings: Embeddings,
        blocks: Sequence[int],
        layers: Sequence[int],
        structure: Literal["parallel", "serial"] = "parallel",
        ratio: float = 2.0,
        embedding_norm: bool = True,
        layer_norm: bool = True,
        dropout: float = 0.0,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        self.fields = Fields(inputs, embeddings)
        flat = self.fields.flat
        if flat == 0:
            raise ConfigError("masknet: the network has nothing to look at; give it a feature")
        self.parallel = structure == "parallel"
        self.norm = FieldNorm(self.fields.count, self.fields.width) if embedding_norm else None
        widths = [flat] * len(blocks) if self.parallel else [flat, *blocks[:-1]]
        self.blocks = nn.ModuleList(
            MaskBlock(flat, width, size, ratio, layer_norm, dropout) for width, size in zip(widths, blocks, strict=True)
        )
        self.top = MLP(sum(blocks) if self.parallel else blocks[-1], layers, dropout=dropout, batch_norm=batch_norm)
        self.head = Head(self.top.width_out, len(inputs.tasks))

    def represent(self, batch: Batch) -> Tensor:
        """Batch -> the last hidden layer, [B, H]."""
        vectors = self.fields(batch)
        guide = vectors.flatten(1)
        x = guide if self.norm is None else self.norm(vectors).flatten(1)
        if self.parallel:
            x = torch.cat([block(guide, x) for block in self.blocks], dim=1)
        else:
            for block in self.blocks:
                x = block(guide, x)
        hidden: Tensor = self.top(x)
        return hidden


class MaskNet(NeuralRanker):
    """MaskNet on labelled candidates. Cost a row: the MLP, and for each block of input width W ratio W (F D + W), which soon is more."""

    class Config(NeuralRanker.Config):
        """structure: "parallel" or "serial" blocks. blocks: their widths. ratio: of a mask's inner layer to the mask.

        layers: of the MLP over the blocks (the paper's serial form has none). embedding_norm: layer normalisation of each field vector
        before it is masked. layer_norm: in the blocks. dropout: after each block and in the MLP. batch_norm: in the MLP.
        """

        structure: Literal["parallel", "serial"] = "parallel"
        blocks: Layers = (32, 32, 32)
        ratio: float = pydantic.Field(2.0, gt=0)
        layers: Layers = (64, 32)
        embedding_norm: bool = True
        layer_norm: bool = True
        dropout: float = pydantic.Field(0.0, ge=0, lt=1)
        batch_norm: bool = False

    config: Config

    def network(self, inputs: Inputs, embed: Embed) -> nn.Module:
        own = self.config
        if not own.blocks:
            raise ConfigError(f"{self.name}.blocks: expected at least one block; without any it is a plain network, which `mlp` is")
        return MaskNetNetwork(
            inputs,
            embed(own.width),
            own.blocks,
            own.layers,
            own.structure,
            own.ratio,
            own.embedding_norm,
            own.layer_norm,
            own.dropout,
            own.batch_norm,
        )

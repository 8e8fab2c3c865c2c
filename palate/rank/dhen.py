"""DHEN, the deep and hierarchical ensemble network: layers of several kinds of interaction at once, each over what the last one found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import pydantic
import torch
from torch import Tensor, nn

from palate.nn.body import Body
from palate.nn.dot_vectors import DotVectors
from palate.nn.embedding import Embeddings
from palate.nn.field_convolution import FieldConvolution
from palate.nn.field_cross import FieldCross
from palate.nn.field_linear import FieldLinear
from palate.nn.mlp import MLP, Head
from palate.nn.transformer import TransformerLayer
from palate.rank.neural import Embed, NeuralRanker
from palate.types import Batch, ConfigError, Inputs

Layers = tuple[pydantic.PositiveInt, ...]
Interaction = Literal["dot", "attention", "convolution", "linear", "cross"]
Ensemble = Literal["concat", "sum", "weighted"]


class DHENLayer(nn.Module):
    """An ensemble of k interactions, a shortcut and a norm: X [B, m, D] -> Y [B, l', D].

        Y = LayerNorm(Ensemble_{i=1}^{k} Interaction_i(X) + ShortCut(X))                      equation 1
        Ensemble(u_1 ... u_k) = [u_1, ..., u_k] ("concat", l' = k l), sum_i u_i ("sum") or sum_i a_i u_i ("weighted", a learnt), l' = l
        ShortCut(X)           = X where m = l', else W X                                      equation 2

    interactions: modules [B, m, D] -> [B, l, D]. The norm is over the D numbers of each vector. The a_i start at 1.
    """

    def __init__(self, interactions: Sequence[nn.Module], count: int, width: int, vectors: int, ensemble: Ensemble) -> None:
        super().__init__()
        self.interactions = nn.ModuleList(interactions)
        self.count_out = vectors * (len(interactions) if ensemble == "concat" else 1)
        self.concat = ensemble == "concat"
        self.weights = nn.Parameter(torch.ones(len(interactions))) if ensemble == "weighted" else None
        self.shortcut = nn.Identity() if count == self.count_out else FieldLinear(count, self.count_out)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """[B, m, D] -> [B, l', D]."""
        found = [interaction(x) for interaction in self.interactions]
        if self.weights is not None:
            found = [u * weight for u, weight in zip(found, self.weights, strict=True)]
        ensemble = torch.cat(found, dim=1) if self.concat else torch.stack(found).sum(dim=0)
        y: Tensor = self.norm(ensemble + self.shortcut(x))
        return y


class DHENNetwork(Body):
    """Feature processing, a stack of layers, and a network on top:

        X_0     = [bottom(dense), e_1, ..., e_F]              [B, m, D]     as in DLRM: ReLU after every layer, the last of width D
        X_{n+1} = DHENLayer_n(X_n)                            [B, l', D]    n = 0 ... N - 1
        logits  = top(X_N, flat)                              [B, T]        ReLU between, linear at the end

    Zhang et al. 2022, "DHEN: A Deep and Hierarchical Ensemble Network for Large-Scale Click-Through Rate Prediction", arXiv 2203.11014,
    section 3. Layer n sees what every kind of interaction made of what every kind had made before: k^N compositions. make: the interaction
    module for a name and a number of vectors m. modules: the names, for each of the N layers.
    """

    def __init__(
        self,
        inputs: Inputs,
        embeddings: Embeddings,
        make: Callable[[Interaction, int], nn.Module],
        modules: Sequence[Sequence[Interaction]],
        vectors: int,
        ensemble: Ensemble = "concat",
        bottom: Sequence[int] = (),
        top: Sequence[int] = (),
        dropout: float = 0.0,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        self.embeddings = embeddings
        self.bottom = MLP(len(inputs.dense), (*bottom, embeddings.width), batch_norm=batch_norm) if inputs.dense else None
        count = len(inputs.sparse) + (self.bottom is not None)
        if not count:
            raise ConfigError("dhen: the network has nothing to look at; give it a feature")
        layers = []
        for names in modules:
            layers.append(DHENLayer([make(name, count) for name in names], count, embeddings.width, vectors, ensemble))
            count = layers[-1].count_out
        self.layers = nn.Sequential(*layers)
        self.top = MLP(count * embeddings.width, top, dropout=dropout, batch_norm=batch_norm)
        self.head = Head(self.top.width_out, len(inputs.tasks))

    def represent(self, batch: Batch) -> Tensor:
        """Batch -> the last hidden layer, [B, H]."""
        x: Tensor = self.embeddings(batch.sparse)
        if self.bottom is not None:
            x = torch.cat([self.bottom(batch.dense).unsqueeze(1), x], dim=1)
        hidden: Tensor = self.top(self.layers(x).flatten(1))
        return hidden


class DHEN(NeuralRanker):
    """DHEN on labelled candidates. Cost a row: see the modules; with m vectors of width D, attention takes the most, 12 m D^2 + 2 m^2 D.

    >>> from palate.types import SparseInput
    >>> inputs = Inputs((), tuple(SparseInput(name, name, 100) for name in ("user", "item", "hour")))
    >>> one = DHEN(layers=4, modules=("attention", "linear"), vectors=8)                     # the same modules in each of 4 layers
    >>> two = DHEN(layers=2, modules=(("dot", "linear"), ("attention", "convolution")))      # other modules in each of 2
    >>> [len(ranker.build(inputs).layers) for ranker in (one, two)]
    [4, 2]
    """

    class Config(NeuralRanker.Config):
        """layers: N. modules: the interactions of every layer, or a list of interactions for each: "dot", "attention", "convolution",
        "linear", "cross". vectors: l, how many vectors each makes. ensemble: "concat" (l' = k l vectors a layer), "sum" or "weighted" (l).

        hidden: of the network over the products of "dot". heads: of "attention", must divide `width`. channels, kernel: of "convolution".
        bottom, top: hidden layers below and above (the bottom's last one, of width `width`, and the logits come on their own).
        dropout: in the top. batch_norm: in both.
        """

        layers: int = pydantic.Field(2, ge=1)
        modules: tuple[tuple[Interaction, ...], ...] = (("dot", "attention", "convolution", "linear", "cross"),)
        vectors: int = pydantic.Field(4, ge=1)
        ensemble: Ensemble = "concat"
        hidden: Layers = (32,)
        heads: int = pydantic.Field(2, ge=1)
        channels: int = pydantic.Field(1, ge=1)
        kernel: int = pydantic.Field(3, ge=1)
        bottom: Layers = (64,)
        top: Layers = (64, 32)
        dropout: float = pydantic.Field(0.0, ge=0, lt=1)
        batch_norm: bool = False

        @pydantic.field_validator("modules", mode="before")
        @classmethod
        def _one_list_is_for_every_layer(cls, given: Any) -> Any:
            flat = isinstance(given, list | tuple) and all(isinstance(name, str) for name in given)
            return (given,) if flat else given

        @pydantic.model_validator(mode="after")
        def _modules_for_each_layer(self) -> DHEN.Config:
            if len(self.modules) not in (1, self.layers):
                raise ValueError(f"modules: expected one list, or {self.layers} for as many layers, got {len(self.modules)}")
            if not all(self.modules):
                raise ValueError("modules: a layer needs at least one")
            return self

    config: Config

    def network(self, inputs: Inputs, embed: Embed) -> nn.Module:
        own = self.config
        modules = own.modules * own.layers if len(own.modules) == 1 else own.modules
        return DHENNetwork(
            inputs, embed(own.width), self.interaction, modules, own.vectors, own.ensemble, own.bottom, own.top, own.dropout, own.batch_norm
        )

    def interaction(self, name: Interaction, count: int) -> nn.Module:
        """One of the five modules of section 3.2, [B, m, D] -> [B, l, D], m = count."""
        own = self.config
        match name:
            case "dot":
                return DotVectors(count, own.width, own.vectors, own.hidden)
            case "attention":
                return nn.Sequential(TransformerLayer(own.width, own.heads), FieldLinear(count, own.vectors))
            case "convolution":
                pictures = FieldConvolution(own.width, own.channels, own.kernel)
                return nn.Sequential(pictures, FieldLinear(own.channels * count, own.vectors))
            case "linear":
                return FieldLinear(count, own.vectors)
            case "cross":
                return FieldCross(own.width, own.vectors)

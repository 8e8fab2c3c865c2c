"""FNN: a network whose first layer is a trained factorisation machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import pydantic
import torch
from torch import Tensor, nn

from palate.config import Training
from palate.nn.body import Body
from palate.nn.mlp import MLP, Head
from palate.rank.fm import FMNetwork
from palate.rank.neural import Embed, NeuralRanker
from palate.types import Batch, ConfigError, Inputs, Run

Layers = tuple[pydantic.PositiveInt, ...]


class FNNNetwork(Body):
    """The parameters of an FM, side by side, into a network:

        z      = [w_0, z_1, ..., z_F],   z_i = (w_i, v_i) x_i                [B, T + F (T + T D)]
        h      = MLP(z)                                                      [B, H]         tanh after every layer
        logits = W h + b                                                     [B, T]

    Zhang, Du and Wang 2016, "Deep Learning over Multi-field Categorical Data: A Case Study on User Response Prediction", section 3.1,
    where w_0, w_i, v_i start as the bias, the weight and the factors that an FM learnt for the id of field i, and are trained on with the
    rest. A field of several ids, or of one number, stands there as in the FM: pooled, or times the number. With T tasks, z holds the bias,
    the weights and the factors of each.

    fm: the FM, of which only the parameters are used, not its sums of products. layers, activation, dropout, batch_norm: of the MLP.
    """

    def __init__(
        self, fm: FMNetwork, layers: Sequence[int], activation: str = "tanh", dropout: float = 0.0, batch_norm: bool = False
    ) -> None:
        super().__init__()
        if fm.fields.count == 0:
            raise ConfigError("fnn: the network has nothing to look at; give it a feature")
        self.fm = fm
        tasks = fm.second.tasks
        self.mlp = MLP(tasks + fm.fields.count * tasks + fm.fields.flat, layers, activation, dropout, batch_norm)
        self.head = Head(self.mlp.width_out, tasks)

    def represent(self, batch: Batch) -> Tensor:
        """Batch -> the last hidden layer, [B, H]."""
        bias = self.fm.first.dense.bias.expand(len(batch), -1)
        z = torch.cat([bias, self.fm.first.terms(batch).flatten(1), self.fm.fields(batch).flatten(1)], dim=1)
        hidden: Tensor = self.mlp(z)
        return hidden


class FNN(NeuralRanker):
    """FNN on labelled candidates, in two stages: an FM, then the network that starts from it.

    The FM is trained like the network (same rows, loss and optimisers, by `train`), but for `pretrain_epochs` whole epochs and without
    validation, under the name `<name>.fm`; then its bias and tables become the network's, whose optimisers start afresh. Both stages
    leave checkpoints, so a run that was killed in either is taken up where it was. The paper's other pre-training, of the layers above by
    contrastive divergence, is left out: their weights start as `MLP` says. Cost a row: that of the MLP; while the FM is trained, its
    tables are there twice.
    """

    class Config(NeuralRanker.Config):
        """width: of the factors of each task, D. layers, activation, dropout, batch_norm: of the network; tanh is the paper's choice.

        pretrain_epochs: passes over the rows for the FM; 0: it stays as it starts. pretrain_l2: `train.l2` of that stage (None: the same);
        an FM has no layers above it that could scale its factors up again, and bears far less than the network does.
        init, init_std: N(0, 0.01^2), as for `FM`.
        """

        layers: Layers = (64, 32)
        activation: str = "tanh"
        dropout: float = pydantic.Field(0.0, ge=0, lt=1)
        batch_norm: bool = False
        pretrain_epochs: int = pydantic.Field(5, ge=0)
        pretrain_l2: float | None = pydantic.Field(None, ge=0)
        init: Literal["uniform", "normal"] = "normal"
        init_std: float = pydantic.Field(0.01, ge=0)

    config: Config

    def network(self, inputs: Inputs, embed: Embed) -> nn.Module:
        own = self.config
        return FNNNetwork(self._fm(inputs, embed), own.layers, own.activation, own.dropout, own.batch_norm)

    def _fm(self, inputs: Inputs, embed: Embed) -> FMNetwork:
        own = self.config
        return FMNetwork(inputs, embed, own.train, own.width, own.init_std)

    def pretrain(self, model: nn.Module, loader: Any, run: Run) -> None:
        """Trains an FM and gives its parameters to `model`."""
        own = self.config
        if own.pretrain_epochs == 0:
            return
        assert isinstance(model, FNNNetwork)
        assert run.train is not None
        l2 = own.train.l2 if own.pretrain_l2 is None else own.pretrain_l2
        stage = {"epochs": own.pretrain_epochs, "l2": l2, "monitor": "loss", "patience": None}
        training = Training.parse({**own.train.model_dump(), **stage}, f"{self.name}.pretrain")
        # Not model.fm itself: fused tables keep the optimiser's state with them, and the second stage would start with the first one's.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(run.seed)
            fm = self._fm(self.inputs, self._embed(self.inputs))
        run.train(fm, loader, self.step, training, name=f"{self.name}.fm", run=run)
        model.fm.load_state_dict(fm.state_dict())

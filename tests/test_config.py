"""Settings within settings: a network's own way of training, and what is given of another."""

import pydantic
import pytest

from palate.config import Config, Training, component_class
from palate.rank.deepfm import DeepFM
from palate.rank.lr import LR
from palate.rank.multitask import MultiTask
from palate.retrieve.mf import MF
from palate.retrieve.ncf import NCF
from palate.retrieve.rbm import RBM
from palate.retrieve.softmax_dnn import SoftmaxDNN
from palate.retrieve.two_tower import TwoTower
from palate.types import ConfigError


class Network(Config):
    depth: int = 2
    train: Training = Training(epochs=7, lr=0.5)
    fuse: Training = Training(epochs=9)
    other: Training | None = None


class Shorter(Network):
    train: Training = Training(epochs=1, lr=0.25)


def test_what_is_left_out_is_the_defaults_of_that_place():
    given = Network(train={"lr": 0.1}, fuse=Training(lr=0.1))
    assert (given.train.epochs, given.train.lr) == (7, 0.1)
    assert (given.fuse.epochs, given.fuse.lr) == (9, 0.1)
    assert given.train.batch_size == Training().batch_size
    assert Network() == Network(train={}, fuse=Training(epochs=9), depth=2)


def test_a_setting_named_counts_even_if_it_is_what_training_says():
    assert Network(train=Training(epochs=Training().epochs)).train.epochs == Training().epochs


def test_a_subclass_has_its_own():
    assert Shorter.parse({"train": {"batch_size": 3}}, "here").train == Training(epochs=1, lr=0.25, batch_size=3)


def test_without_a_training_as_its_default_nothing_is_filled_in():
    assert Network(other=Training(lr=0.1)).other == Training(lr=0.1)
    assert Network(other={"lr": 0.1}).other == Training(lr=0.1)


@pytest.mark.parametrize(("given", "said"), [({"rate": 1}, "net.train.rate: no such key"), ({"lr": 0}, "net.train.lr"), (3, "net.train: ")])
def test_errors_name_the_key(given, said):
    with pytest.raises(ConfigError, match=said):
        Network.parse({"train": given}, "net")


@pytest.mark.parametrize("model", [DeepFM, LR, MF, MultiTask, NCF, RBM, SoftmaxDNN, TwoTower])
def test_networks_keep_their_own(model):
    own = model.Config.model_fields["train"].default
    assert own != Training()
    assert model(train={"clip": 3.0}).config.train == model(train=Training(clip=3.0)).config.train
    assert model(train={"clip": 3.0}).config.train == own.model_copy(update={"clip": 3.0})


def test_settings_stay_as_they_are():
    with pytest.raises(pydantic.ValidationError):
        Network().train = Training()


@pytest.mark.parametrize(
    ("use", "message"),
    [
        ("explore", r"rerank: 'explore' is a file that others share and holds no component; did you mean 'explore_category'"),
        ("likeness", r"rerank: 'likeness' is a file that others share and holds no component; did you mean 'fairness' or 'freshness'\?"),
        ("explor_category", r"rerank: no component 'explor_category'; did you mean 'explore_category'"),
        ("zzz", r"rerank: no component 'zzz'$"),
    ],
)
def test_a_file_without_a_component_is_called_so(use: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        component_class(use, "rerank")

"""Settings: frozen, typed, strict. A component's hyperparameters live in the `Config` nested in its class, and nowhere else.

class EASE(Retriever):
    class Config(Retriever.Config):
        l2: float = 300.0

EASE(l2=300)          # in Python
use = "ease"          # in a recipe
l2 = 300
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import typing
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any, ClassVar, Literal, Self

import pydantic

from palate.types import ConfigError, State


class Config(pydantic.BaseModel):
    """The parent of all settings: unknown keys, wrong types and changes after the fact are errors.

    Where a default is a `Training`, what a given one leaves out is that default's, and not `Training`'s: a network keeps its own rate if
    only its epochs are set.
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, strict=False, validate_default=True)

    @pydantic.model_validator(mode="before")
    @classmethod
    def _what_is_left_out_is_the_models_own(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        own = {key: field.default for key, field in cls.model_fields.items() if key in given and isinstance(field.default, Training)}
        return {**given, **{key: _filled(given[key], default) for key, default in own.items()}} if own else given

    @classmethod
    def parse(cls, settings: Mapping[str, Any], where: str) -> Self:
        """Settings from a mapping; an error is one line that names `where.key` and the nearest key.

        >>> Config.parse({"depth": 2}, "rank")
        Traceback (most recent call last):
        ...
        palate.errors.ConfigError: rank.depth: no such key; it takes none
        """
        try:
            return cls.model_validate(dict(settings))
        except pydantic.ValidationError as error:
            raise ConfigError(_one_line(cls, error, where)) from None


def _filled(given: Any, own: Training) -> Any:
    """What was given of a Training, and the rest of `own`; anything else as it is, for pydantic to refuse."""
    if isinstance(given, Training):
        given = {key: getattr(given, key) for key in given.model_fields_set}
    return {key: getattr(own, key) for key in Training.model_fields} | dict(given) if isinstance(given, Mapping) else given


def _one_line(cls: type[pydantic.BaseModel], error: pydantic.ValidationError, where: str) -> str:
    first = error.errors()[0]
    path = ".".join(str(part) for part in (where, *first["loc"]) if str(part))
    if first["type"] == "extra_forbidden":
        return f"{path}: {unknown_key(str(first['loc'][-1]), _keys_at(cls, first['loc'][:-1]))}"
    given = "" if first["type"] == "missing" else f", got {first['input']!r}"
    message = first["msg"][0].lower() + first["msg"][1:]
    return f"{path}: {message}{given}"


def _keys_at(cls: type[pydantic.BaseModel], path: tuple[int | str, ...]) -> list[str]:
    models: list[type[pydantic.BaseModel]] = [cls]
    for part in path:
        if isinstance(part, int):  # an entry of a tuple
            continue
        entries = [model.model_fields[part].annotation for model in models if part in model.model_fields]
        # A part that is no key is the tag of one of several models, such as the kind "qr".
        tagged = [model for model in models if any(field.default == part for field in model.model_fields.values())]
        models = [model for entry in entries for model in _models_in(entry)] if entries else tagged
    return [key for model in models for key in model.model_fields]


def _models_in(annotation: Any) -> list[type[pydantic.BaseModel]]:
    if inspect.isclass(annotation) and issubclass(annotation, pydantic.BaseModel):
        return [annotation]
    return [model for inner in typing.get_args(annotation) for model in _models_in(inner)]


def unknown_key(key: str, known: Iterable[str]) -> str:
    """The sentence for a key that does not exist, with the nearest one that does."""
    names = sorted(known)
    near = difflib.get_close_matches(key, names, n=1, cutoff=0.5)
    if near:
        return f"no such key; did you mean `{near[0]}`?"
    return f"no such key; it takes {', '.join(names) if names else 'none'}"


class Training(Config):
    """How a network is trained. Each network's own Config holds one, with the defaults that suit it.

    epochs: passes over the data. batch_size: rows a step.
    sparse: the optimiser of the embedding tables. `rowwise_adagrad`, `adagrad`, `sgd` are fused into the backward pass (FBGEMM);
        `dense` gives the tables to the dense optimiser: the parity path of published small-data tables.
    sparse_lr, sparse_eps: of the fused optimisers. dense, lr: the optimiser of everything else. weight_decay: as that optimiser means it.
    l2: adds l2 / 2 x the squared norm of the whole of every table to the loss (dense path only).
    clip: bound on the global gradient norm (dense parameters; on the dense path the tables too).
    schedule: of all learning rates. `plateau` multiplies by `factor` after each validation without gain.
    warmup: steps of linear warm-up. patience: validations in a row without gain before stopping; None trains to the end.
    monitor: the validation metric to watch; the best weights are kept. bf16: autocast the dense part to bfloat16.
    checkpoint_every: steps between checkpoints, where the run has a folder.
    """

    epochs: int = pydantic.Field(5, ge=1)
    batch_size: int = pydantic.Field(1024, ge=1)
    sparse: Literal["rowwise_adagrad", "adagrad", "sgd", "dense"] = "rowwise_adagrad"
    sparse_lr: float = pydantic.Field(0.05, gt=0)
    sparse_eps: float = pydantic.Field(1e-8, gt=0)
    dense: Literal["adam", "adamw", "adagrad", "sgd"] = "adam"
    lr: float = pydantic.Field(1e-3, gt=0)
    weight_decay: float = pydantic.Field(0.0, ge=0)
    l2: float = pydantic.Field(0.0, ge=0)
    clip: float | None = None
    schedule: Literal["constant", "linear", "cosine", "plateau"] = "constant"
    factor: float = 0.1
    warmup: int = pydantic.Field(0, ge=0)
    patience: int | None = None
    monitor: str = "loss"
    bf16: bool = False
    checkpoint_every: int = pydantic.Field(1000, ge=1)

    @pydantic.model_validator(mode="after")
    def _l2_needs_the_dense_path(self) -> Self:
        if self.l2 and self.sparse != "dense":
            raise ValueError('l2 over whole tables needs sparse = "dense"')
        return self


class Component:
    """A stage of the funnel with a Config: `EASE(l2=300)`. Settings that do not exist are an error that names the nearest.

    A fitted component is its Config plus its State; `state` and `restore` are all that saving needs.
    """

    Config: ClassVar[type[Config]] = Config
    config: Any

    def __init__(self, **settings: Any) -> None:
        self.config = type(self).Config.parse(settings, short_name(type(self)))

    @property
    def name(self) -> str:
        """What tables call it: the Config's `name`, else the name of its file."""
        given = getattr(self.config, "name", None)
        return str(given) if given else short_name(type(self))

    def state(self) -> State:
        """Everything learnt, as arrays, frames and plain values."""
        return State()

    def restore(self, state: State) -> Self:
        """Takes over a state that `state` gave; returns self."""
        return self

    def __repr__(self) -> str:
        changed = ", ".join(f"{key}={value!r}" for key, value in self.config if key in self.config.model_fields_set)
        return f"{type(self).__name__}({changed})"


def short_name(cls: type) -> str:
    """The name of the file a component lives in: `palate.rank.dlrm:DLRM` is `dlrm`."""
    return cls.__module__.rpartition(".")[2]


def import_path(cls: type) -> str:
    """`package.module:Class`, which `component_class` takes back."""
    return f"{cls.__module__}:{cls.__qualname__}"


def component_class(use: str, stage: str) -> type[Component]:
    """The class behind `use`: `package.module:Class`, or short, the one component in `palate/<stage>/<use>.py`.

    >>> component_class("ease", "retrieve").__name__
    'EASE'
    """
    module_name, _, class_name = use.partition(":")
    if not class_name:
        module_name = f"palate.{stage}.{use}"
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and not module_name.startswith(error.name):
            raise ConfigError(f"{stage}: {use!r} needs the package {error.name!r}; install it with pip") from None
        raise ConfigError(f"{stage}: no component {use!r}{_nearest(use, stage)}") from None
    if class_name:
        cls = getattr(module, class_name, None)
        if not (inspect.isclass(cls) and issubclass(cls, Component)):
            raise ConfigError(f"{stage}: {module_name} has no component {class_name!r}")
        return cls
    own = _components_in(module)
    if not own:
        raise ConfigError(f"{stage}: {use!r} is a file that others share and holds no component{_nearest(use, stage)}")
    if len(own) > 1:
        names = " or ".join(f"{module_name}:{cls.__qualname__}" for cls in own)
        raise ConfigError(f"{stage}: {module_name} holds {len(own)} components, name one: {names}")
    return own[0]


def _components_in(module: ModuleType) -> list[type[Component]]:
    """The components that are written in this file, without parents that cannot be made."""
    classes = [value for value in vars(module).values() if inspect.isclass(value) and value.__module__ == module.__name__]
    return [cls for cls in classes if issubclass(cls, Component) and not inspect.isabstract(cls)]


def _nearest(use: str, stage: str) -> str:
    """`; did you mean 'ease'?`: the stage's components whose names are near, at most three; nothing where none is."""
    from importlib.resources import files

    try:
        names = [entry.name[:-3] for entry in files(f"palate.{stage}").iterdir() if entry.name.endswith(".py")]
    except ModuleNotFoundError:
        return ""
    near = difflib.get_close_matches(use, [name for name in names if name not in ("__init__", use)], n=5, cutoff=0.4)
    found = [repr(name) for name in near if _components_in(importlib.import_module(f"palate.{stage}.{name}"))][:3]
    return f"; did you mean {' or '.join(found)}?" if found else ""


def build(use: str | Component, stage: str, settings: Mapping[str, Any] | None = None) -> Component:
    """A component from its name and settings; a component is passed through.

    >>> build("ease", "retrieve", {"l2": 250}).config.l2
    250.0
    """
    if isinstance(use, Component):
        return use
    cls = component_class(use, stage)
    component = cls.__new__(cls)
    Component.__init__(component, **dict(settings or {}))
    return component

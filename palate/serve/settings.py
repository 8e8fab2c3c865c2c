"""How a service is run: where it listens, how much it takes on, and what it bounds."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

import pydantic

from palate import config
from palate.feedback.ab import Layer
from palate.types import ConfigError

LOOPBACK = ("127.0.0.1", "::1", "localhost")
Knobs = dict[str, dict[str, Any] | None]
"""Settings of rerankers by their names; None leaves one out."""


class Settings(config.Config):
    """From a TOML file, from options of `palate serve`, or from Python.

    host, port: where it listens. keys: a file of API keys (`palate key create`); without one everything is open, and only the machine
    itself may be let in. hosts: names by which it may be asked for, besides those of the machine itself.
    store: path or URL of the event store. store_seconds: how long it may be waited for where it is locked or has no connection free.
    workers: requests answered at the same time; waiting: so many more may wait, the next is told to come again (503).
    deadline_ms: when an answer is not there by then, a cheaper funnel gives one. 0: whenever it comes.
    clock: the moment for which answers are made. `wall`: now. `log`: the end of the log that was learnt from. `auto`: `log` for a log that
        ended more than `stale_days` ago, since a model that never saw the years between would find all of it old; else `wall`.
    record: whether what is shown is written to the store, which learning and estimates need.
    rerank: settings of the bundle's rerankers for every request, such as a share of exploration.
    layer, arms: an A/B test, see `palate.feedback.ab`; for each arm the settings of rerankers that it changes. A request's own go first.
    max_*: what a request may ask for at most. max_body: bytes. body_seconds, head_seconds: how long a sender may take.
    """

    host: str = "127.0.0.1"
    port: int = pydantic.Field(8080, ge=0, le=65535)
    keys: Path | None = None
    hosts: tuple[str, ...] = ()
    store: str = "events.db"
    store_seconds: float = pydantic.Field(5.0, gt=0)
    workers: int = pydantic.Field(2, ge=1, le=64)
    waiting: int = pydantic.Field(64, ge=0)
    deadline_ms: float = pydantic.Field(500.0, ge=0)
    clock: Literal["auto", "wall", "log"] = "auto"
    stale_days: float = pydantic.Field(90.0, gt=0)
    record: bool = True
    rerank: Knobs = pydantic.Field(default_factory=dict)
    layer: Layer | None = None
    arms: dict[str, Knobs] = pydantic.Field(default_factory=dict)
    max_body: int = pydantic.Field(4_194_304, ge=1024)
    max_k: int = pydantic.Field(200, ge=1)
    max_history: int = pydantic.Field(1000, ge=1)
    max_exclude: int = pydantic.Field(1000, ge=0)
    max_filters: int = pydantic.Field(16, ge=0)
    max_candidates: int = pydantic.Field(1000, ge=1)
    max_events: int = pydantic.Field(10_000, ge=1, le=10_000)
    body_seconds: float = pydantic.Field(10.0, gt=0)
    head_seconds: float = pydantic.Field(10.0, gt=0)

    @pydantic.model_validator(mode="after")
    def _arms_of_the_experiment(self) -> Self:
        known = {arm for experiment in (self.layer.experiments if self.layer else ()) for arm in experiment.arms}
        for arm in self.arms:
            if arm not in known:
                raise ValueError(f"arms: {arm!r} is no arm of an experiment of the layer; there are {', '.join(sorted(known)) or 'none'}")
        return self

    @property
    def open_bind(self) -> bool:
        """Whether others than this machine can reach it."""
        return self.host not in LOOPBACK

    def check(self) -> None:
        """ConfigError where it would be open to everybody."""
        if self.open_bind and self.keys is None:
            raise ConfigError(
                f"serve: {self.host} is open to other machines, and there are no keys; make one with `palate key create --keys keys.json "
                "--name shop --scope recommend --scope events` and pass --keys keys.json, or stay on 127.0.0.1"
            )

    @classmethod
    def read(cls, file: Path | None, options: Mapping[str, Any]) -> Self:
        """Options over what a file says."""
        given: dict[str, Any] = {}
        if file is not None:
            try:
                given = tomllib.loads(file.read_text(encoding="utf-8"))
            except OSError as error:
                raise ConfigError(f"{file}: cannot be read ({error.strerror})") from None
            except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
                raise ConfigError(f"{file}: not valid TOML: {error}") from None
        return cls.parse({**given, **{key: value for key, value in options.items() if value is not None}}, str(file or "serve"))

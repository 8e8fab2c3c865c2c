"""A recipe: the whole run as one TOML file, checked key by key before anything is read or trained.

[data]            where the log comes from and how it is split; or rows = "DIR", prepared rows, with [rank] and [run] alone
[[retrieve]]      use = "ease", then that component's settings     (once per retriever)
[rank]            use = "gbdt", ...                                (may be left out)
[[rerank]]        use = "mmr", ...                                 (any number)
[[features]]      inputs that replace or add to the derived ones   (any number)
[funnel]          candidates, the ranker's cut, calibration
[run]             seed, device
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pydantic

from palate import config
from palate.data.log import read
from palate.data.split import split
from palate.features.spec import FeatureSet
from palate.funnel import Funnel
from palate.rank.base import Ranker
from palate.rerank.base import Reranker
from palate.retrieve.base import Retriever
from palate.types import ConfigError, Log

if TYPE_CHECKING:
    from palate.rank.neural import NeuralRanker


class Data(config.Config):
    """source: a file, or the name of a source; or rows: a folder that `palate prepare` wrote, for a ranker alone. The columns are those
    of `palate.read`. split and what belongs to it: k (leave-last-out), fraction or at (global-time), fraction (random), gap_minutes or
    session (session).
    """

    source: str = ""
    rows: Path | None = None
    user: str = "user"
    item: str = "item"
    time: str | None = "time"
    kind: str | None = None
    value: str | None = None
    context: tuple[str, ...] = ()
    users: str | None = None
    items: str | None = None
    positive: tuple[str, ...] | None = None
    negative: tuple[str, ...] | None = None
    positive_value: float | None = None
    time_unit: Literal["s", "ms", "us"] = "s"
    bad_rows: str = "refuse"
    list_separator: str = "|"
    split: Literal["leave-last-out", "global-time", "random", "session"] = "leave-last-out"
    k: int | None = pydantic.Field(None, ge=1)
    fraction: float | None = pydantic.Field(None, gt=0, lt=1)
    at: str | None = None
    gap_minutes: float | None = None
    session: str | None = None


class RunSettings(config.Config):
    """seed: of everything random. device: where networks train."""

    seed: int = 0
    device: str = "cpu"


class Recipe(config.Config):
    """A recipe as given; `check` builds every component once, so that each mistyped key is found before the data is read."""

    data: Data
    retrieve: tuple[dict[str, Any], ...] = ()
    rank: dict[str, Any] | None = None
    rerank: tuple[dict[str, Any], ...] = ()
    features: tuple[dict[str, Any], ...] = ()
    funnel: Funnel.Config = Funnel.Config()
    run: RunSettings = RunSettings()


def shipped() -> list[str]:
    """The names of the recipes that come with Palate."""
    return sorted(entry.name[:-5] for entry in files("palate.recipes").iterdir() if entry.name.endswith(".toml"))


def text_of(name: str) -> str:
    """The text of a recipe: a path, or a shipped name."""
    path = Path(name)
    if path.is_file():
        return path.read_text(encoding="utf-8")
    if name in shipped():
        return files("palate.recipes").joinpath(f"{name}.toml").read_text(encoding="utf-8")
    hint = config.unknown_key(name, shipped()).replace("no such key; ", "").replace("it takes", "shipped are")
    raise ConfigError(f"{name}: no such recipe file; {hint}")


def load(name: str, settings: Sequence[str] = ()) -> Recipe:
    """A recipe from a file or a shipped name, with `--set` changes such as `rank.width=32` or `retrieve.ease.l2=200`."""
    try:
        raw = tomllib.loads(text_of(name))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{name}: not valid TOML: {error}") from None
    for setting in settings:
        apply_setting(raw, setting)
    if Path(name).is_file():
        _resolve_paths(raw, Path(name).parent)
    return parse(raw)


def parse(raw: Mapping[str, Any]) -> Recipe:
    """A checked recipe from plain values."""
    recipe = Recipe.parse(raw, "")
    _check_together(recipe)
    components(recipe)
    return recipe


def _check_together(recipe: Recipe) -> None:
    """ConfigError for keys that have no meaning beside each other: a funnel learns from a log, a ranker alone from prepared rows."""
    data = recipe.data
    if data.rows is None:
        if not data.source:
            raise ConfigError("data.source: field required (a log, for a funnel); or give data.rows (prepared rows, for a ranker alone)")
        if not recipe.retrieve:
            raise ConfigError("retrieve: field required; name at least one retriever")
        return
    unset = Data(rows=data.rows)
    for key in Data.model_fields:
        if getattr(data, key) != getattr(unset, key):
            raise ConfigError(f"data.{key}: belongs to a log; data.rows is split and checked already, leave one of them out")
    for stage in ("retrieve", "rerank", "features", "funnel"):
        if getattr(recipe, stage) != Recipe.model_fields[stage].default:
            raise ConfigError(f"{stage}: has no meaning beside data.rows, which trains one ranker on labelled rows; leave it out")
    if recipe.rank is None:
        raise ConfigError('rank: field required; say which ranker learns from data.rows, for example use = "dlrm"')


def apply_setting(raw: dict[str, Any], setting: str) -> None:
    """Changes one value in place. Lists of tables are entered by number or by their `use` or `name`.

    >>> raw = {"rank": {"use": "dlrm"}, "retrieve": [{"use": "ease"}]}
    >>> apply_setting(raw, "rank.width=32"); apply_setting(raw, "retrieve.ease.l2=200"); raw
    {'rank': {'use': 'dlrm', 'width': 32}, 'retrieve': [{'use': 'ease', 'l2': 200}]}
    """
    key, equals, text = setting.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set {setting}: write it as key=value, for example --set rank.width=32")
    *path, last = key.strip().split(".")
    at: Any = raw
    for part in path:
        if isinstance(at, list):
            at = _entry(at, part, setting)
        else:
            at = at.setdefault(part, {})
        if not isinstance(at, (dict, list)):
            raise ConfigError(f"--set {setting}: {part} is a value, not a table")
    if isinstance(at, list):
        at[at.index(_entry(at, last, setting))] = _value(text)
    else:
        at[last] = _value(text)


def _entry(tables: list[Any], part: str, setting: str) -> Any:
    if part.isdigit() and int(part) < len(tables):
        return tables[int(part)]
    for table in tables:
        if isinstance(table, dict) and part in (table.get("name"), table.get("use")):
            return table
    names = ", ".join(str(table.get("name") or table.get("use")) for table in tables if isinstance(table, dict))
    raise ConfigError(f"--set {setting}: no entry {part!r}; there are {names}")


def _value(text: str) -> Any:
    """A TOML value; anything else is a string (`rank.use=gbdt` needs no quotes)."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _resolve_paths(raw: dict[str, Any], folder: Path) -> None:
    """Paths in a recipe are relative to the recipe."""
    data = raw.get("data")
    if not isinstance(data, dict):
        return
    for key in ("source", "rows", "users", "items", "bad_rows"):
        value = data.get(key)
        is_there = Path.is_dir if key == "rows" else Path.is_file
        if isinstance(value, str) and not Path(value).is_absolute() and is_there(folder / value):
            data[key] = str((folder / value).resolve())


def components(recipe: Recipe) -> tuple[list[Retriever], Ranker | None, list[Reranker]]:
    """Fresh, unfitted components."""
    return (
        [_component(entry, "retrieve", Retriever, place) for place, entry in enumerate(recipe.retrieve)],
        _component(recipe.rank, "rank", Ranker) if recipe.rank is not None else None,
        [_component(entry, "rerank", Reranker, place) for place, entry in enumerate(recipe.rerank)],
    )


def _component(entry: Mapping[str, Any], stage: str, kind: type[Any], place: int | None = None) -> Any:
    settings = dict(entry)
    where = stage if place is None else f"{stage}[{place}]"
    use = settings.pop("use", None)
    if not isinstance(use, str):
        raise ConfigError(f'{where}: say which component, for example use = "ease"')
    cls = config.component_class(use, stage)
    if not issubclass(cls, kind):
        raise ConfigError(f"{where}: {use} is not a {kind.__name__}")
    cls.Config.parse(settings, f"{where} ({use})" if place is not None else stage)
    return config.build(use, stage, settings)


def features(recipe: Recipe, log: Log) -> FeatureSet | None:
    """The features of the recipe over those derived from the log; None where the recipe names none."""
    if not recipe.features:
        return None
    given = FeatureSet.parse({"features": list(recipe.features)}, "")
    return FeatureSet.derive(log).override(*given.features)


def read_data(recipe: Recipe) -> Log:
    """The log of the recipe, through the gate."""
    data = recipe.data
    settings: dict[str, Any] = {
        key: getattr(data, key)
        for key in ("user", "item", "time", "kind", "value", "context", "users", "items", "positive", "negative", "positive_value",
                    "time_unit", "list_separator")
    }  # fmt: skip
    settings["bad_rows"] = "refuse" if data.bad_rows == "refuse" else Path(data.bad_rows)
    return read(data.source, **settings)


def split_data(recipe: Recipe, log: Log) -> tuple[Log, Log]:
    """Train and test, as the recipe says."""
    data = recipe.data
    given = {key: getattr(data, key) for key in ("k", "fraction", "at", "gap_minutes", "session") if getattr(data, key) is not None}
    return split(log, data.split, **given)


def click_ranker(recipe: Recipe) -> NeuralRanker:
    """The ranker of a recipe over prepared rows. Errors: ConfigError for one that only learns from a funnel's candidates."""
    from palate.rank.neural import NeuralRanker

    ranker = components(recipe)[1]
    if not isinstance(ranker, NeuralRanker):
        raise ConfigError(
            f'rank: {(recipe.rank or {}).get("use")!r} does not learn from data.rows; a network does, for example use = "dlrm"'
        )
    return ranker


def as_plain(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain values, for the manifest."""
    plain: dict[str, Any] = json.loads(recipe.model_dump_json())
    return plain

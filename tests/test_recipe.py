from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from palate import recipe as recipes
from palate.types import ConfigError


@pytest.mark.parametrize("name", recipes.shipped())
def test_shipped_recipes_are_sound(name: str) -> None:
    raw = tomllib.loads(recipes.text_of(name))
    recipe = recipes.parse(raw)
    assert recipes.parse(recipes.as_plain(recipe)) == recipe


def test_the_four_recipes_ship() -> None:
    assert {"movielens-small", "movielens-100k", "movielens-1m", "your-own-csv"} <= set(recipes.shipped())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("data.sorce=x", "data.sorce: no such key; did you mean `source`"),
        ("retrieve.ease.l3=5", r"retrieve\[1\] \(ease\).l3: no such key; did you mean `l2`"),
        ("rank.objectve=binary", "rank.objectve: no such key; did you mean `objective`"),
        ("rank.use=gbtd", "no component 'gbtd'; did you mean 'gbdt'"),
        ("funnel.candidate=5", "funnel.candidate: no such key; did you mean `candidates`"),
        ("funnel.candidates=many", "funnel.candidates: "),
        ("fnnel.candidates=5", "fnnel: no such key; did you mean `funnel`"),
        ("retrieve.slim.l2=5", "no entry 'slim'; there are popular, ease"),
        ("nothing", "write it as key=value"),
    ],
)
def test_a_typing_mistake_names_the_nearest_key(small_files: Path, change: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        recipes.load(str(small_files / "my.toml"), [change])


def test_set_changes_one_value(small_files: Path) -> None:
    recipe = recipes.load(str(small_files / "my.toml"), ["retrieve.ease.l2=77", "rank.objective=binary", "run.seed=5"])
    retrievers, ranker, _ = recipes.components(recipe)
    assert retrievers[1].config.l2 == 77
    assert ranker is not None
    assert ranker.config.objective == "binary"
    assert recipe.run.seed == 5


def test_paths_are_relative_to_the_recipe(
    small_files: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    monkeypatch.chdir(small_files.parent)
    log = recipes.read_data(recipes.load(str(small_files / "my.toml")))
    assert log.n_items == 48


def test_an_unknown_recipe_is_one_line() -> None:
    with pytest.raises(ConfigError, match="did you mean `movielens-small`"):
        recipes.load("movielens-smal")


def test_toml_errors_name_the_file(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text("[data\n")
    with pytest.raises(ConfigError, match=r"bad\.toml: not valid TOML"):
        recipes.load(str(tmp_path / "bad.toml"))

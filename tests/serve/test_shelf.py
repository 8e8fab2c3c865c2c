"""The shelf: which bundle is in service, going back, and names that lead nowhere else."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from palate.serve.shelf import Shelf, forget_old, version_of
from palate.types import BundleError


def put(root: Path, name: str, content: str) -> str:
    folder = root / name
    folder.mkdir()
    (folder / "manifest.json").write_text(json.dumps({"content": content}))
    return name


def later(root: Path, shelf: Shelf, content: str) -> str:
    put(root, shelf.draft().name, content)
    return shelf.keep(shelf.draft())


def test_the_first_bundle_is_in_service_until_another_is_promoted(tmp_path: Path) -> None:
    put(tmp_path, "demo", "a")
    shelf = Shelf(tmp_path / "demo")
    assert (shelf.current(), shelf.names()) == ("demo", ["demo"])
    second = later(tmp_path, shelf, "b")
    assert second == f"demo@{version_of(tmp_path / second)}"
    assert (shelf.current(), shelf.names()) == ("demo", ["demo", second])
    shelf.promote(second)
    assert Shelf(tmp_path / second).current() == second  # any bundle of the shelf names it
    assert json.loads((tmp_path / "demo.current").read_text()) == {"bundle": second, "previous": ["demo"]}


def test_going_back_and_forth(tmp_path: Path) -> None:
    put(tmp_path, "demo", "a")
    shelf = Shelf(tmp_path / "demo")
    second, third = later(tmp_path, shelf, "b"), later(tmp_path, shelf, "c")
    shelf.promote(second)
    shelf.promote(second)  # it is there already
    shelf.promote(third)
    with pytest.raises(BundleError, match="no earlier bundle to go back to"):
        shelf.roll_back(third)
    assert shelf.roll_back("demo") == "demo"
    assert shelf.pointer() == ("demo", ())
    shelf.promote(second)
    shelf.promote(third)
    assert shelf.roll_back() == second
    shutil.rmtree(tmp_path / "demo")
    with pytest.raises(BundleError, match=r"demo@\w{12}: no earlier bundle to go back to"):
        shelf.roll_back()


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../demo", "demo/../demo", "/etc", "demo@../../x", "demo@ABCDEF012345", "other", "demo\0", "x" * 5000]
)
def test_only_names_of_the_shelf_are_paths(tmp_path: Path, name: str) -> None:
    put(tmp_path, "demo", "a")
    put(tmp_path, "other", "b")
    shelf = Shelf(tmp_path / "demo")
    with pytest.raises(BundleError, match=r"no such bundle; there are demo$"):
        shelf.path(name)
    with pytest.raises(BundleError, match="no such bundle"):
        shelf.promote(name)


def test_a_name_with_odd_letters_is_that_name_only(tmp_path: Path) -> None:
    put(tmp_path, "de[m]o*", "a")
    shelf = Shelf(tmp_path / "de[m]o*")
    second = later(tmp_path, shelf, "b")
    put(tmp_path, "demo@0123456789ab", "c")
    assert shelf.names() == ["de[m]o*", second]


def test_a_damaged_pointer_says_how_to_mend_it(tmp_path: Path) -> None:
    put(tmp_path, "demo", "a")
    (tmp_path / "demo.current").write_text('{"bundle": 7}')
    with pytest.raises(BundleError, match=r'demo\.current: damaged; write \{"bundle": "demo"'):
        Shelf(tmp_path / "demo").current()


def test_the_same_bundle_made_twice_lies_there_once(tmp_path: Path) -> None:
    put(tmp_path, "demo", "a")
    shelf = Shelf(tmp_path / "demo")
    second = later(tmp_path, shelf, "b")
    put(tmp_path, shelf.draft().name, "b")
    assert shelf.keep(shelf.draft()) == second
    assert not shelf.draft().exists()
    assert shelf.names() == ["demo", second]


def test_what_may_be_deleted(tmp_path: Path) -> None:
    put(tmp_path, "demo", "a")
    shelf = Shelf(tmp_path / "demo")
    names = [later(tmp_path, shelf, content) for content in "bcdef"]
    for place, name in enumerate(names):
        os.utime(tmp_path / name / "manifest.json", (place, place))
    for name in names[:3]:
        shelf.promote(name)
    assert forget_old(shelf, keep=1) == [names[0], names[3]]  # the third serves, the second was before it, the newest stays

"""Every Python example in README, docs/, examples/ and in docstrings runs; every recipe and link in them is real."""

from __future__ import annotations

import doctest
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
TOML = re.compile(r"^```toml\n(.*?)^```", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\((?!https?:)([^)#]+)")


def run(script: str, folder: Path) -> None:
    done = subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]


@pytest.mark.parametrize("page", [page for page in PAGES if BLOCK.search(page.read_text(encoding="utf-8"))], ids=lambda page: page.name)
def test_python_of_a_page_runs(page: Path, tmp_path: Path) -> None:
    """The blocks of one page run after one another, in an empty folder."""
    run("\n".join(BLOCK.findall(page.read_text(encoding="utf-8"))), tmp_path)


@pytest.mark.parametrize("page", [page for page in PAGES if TOML.search(page.read_text(encoding="utf-8"))], ids=lambda page: page.name)
def test_recipes_of_a_page_are_sound(page: Path) -> None:
    import tomllib

    from palate import recipe as recipes
    from palate.serve.settings import Settings

    for text in TOML.findall(page.read_text(encoding="utf-8")):
        given = tomllib.loads(text)
        if text.startswith("# serve.toml"):
            Settings.parse(given, "serve.toml")
            continue
        funnel = {"data": {"source": "movielens-small"}, "retrieve": [{"use": "popular"}]}
        recipes.parse(given if "rows" in given.get("data", {}) else funnel | given)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_of_a_page_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        assert (page.parent / link).exists(), f"{page.name}: {link}"


@pytest.mark.parametrize("example", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.name)
def test_an_example_runs(example: Path, tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, str(example)], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip()


def with_examples() -> list[str]:
    found = []
    for path in sorted((ROOT / "palate").rglob("*.py")):
        if ">>> " in path.read_text(encoding="utf-8"):
            found.append(".".join(path.relative_to(ROOT).with_suffix("").parts))
    return found


@pytest.mark.parametrize("module", with_examples())
def test_docstring_examples(module: str) -> None:
    failed, tried = doctest.testmod(importlib.import_module(module))
    assert tried
    assert not failed

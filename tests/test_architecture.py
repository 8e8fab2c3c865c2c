"""The rules of the house, as tests: who may import whom, the fence around TorchRec, quick start, tests and papers for every model."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "palate"

# Rooms from the top of the house down. A room imports only from lines above its own; rooms on one line are blind to each other.
ORDER: list[tuple[str, ...]] = [
    ("errors", "recipes"),
    ("types", "progress", "versions"),
    ("config",),
    ("data", "nn", "losses", "sampling", "metrics"),
    ("features",),
    ("retrieve", "rank", "rerank"),
    ("train", "funnel"),
    ("evaluate", "report", "feedback", "reproduce"),
    ("serve",),
    ("recommender", "recipe"),
    ("plan",),
    ("job", "click_job"),
    ("learn",),
    ("testing", "cli", "demo", "doctor"),
]
# Rooms on one line that do see each other, and why.
NEIGHBOURS = {
    ("report", "evaluate"),  # the report draws an Evaluation
    ("demo", "cli"),  # the demo shows what the commands show
    ("cli", "demo"),  # and is one of the commands
    ("cli", "doctor"),
    ("rerank", "rank"),  # objectives are formulas of rank.blend, the one parser of them
}
LEVEL = {room: level for level, rooms in enumerate(ORDER) for room in rooms}

FENCED = ("torchrec", "fbgemm_gpu")
INSIDE_THE_FENCE = ("features/collate.py", "nn/embedding.py", "train/", "serve/bundle.py")
WITHOUT_TORCH = (
    "palate",
    "palate.types",
    "palate.config",
    "palate.data.log",
    "palate.data.split",
    "palate.data.sources.movielens",
    "palate.data.sources.planted",
    "palate.data.sources.formats",
    "palate.data.sources.clicks",
    "palate.data.sources.dlrm_data",
    "palate.data.prepare",
    "palate.features.history",
    "palate.features.encode",
    "palate.metrics.ranking",
    "palate.metrics.pointwise",
    "palate.metrics.beyond",
    "palate.retrieve.popular",
    "palate.retrieve.item_knn",
    "palate.retrieve.user_knn",
    "palate.retrieve.ease",
    "palate.retrieve.slim",
    "palate.retrieve.graph_filter",
    "palate.retrieve.ann",
    "palate.retrieve.index",
    "palate.retrieve.als",
    "palate.retrieve.fold_in",
    "palate.sampling",
    "palate.retrieve.merge",
    "palate.rank.gbdt",
    *(f"palate.rerank.{path.stem}" for path in sorted((PACKAGE / "rerank").glob("*.py"))),
    "palate.data.sources.obd",
    *(f"palate.feedback.{path.stem}" for path in sorted((PACKAGE / "feedback").glob("*.py"))),
    "palate.funnel",
    "palate.evaluate",
    "palate.serve.app",
    "palate.serve.run",
    "palate.serve.score",
    "palate.learn.job",
    "palate.testing.simulator",
    "palate.cli",
)


CALLS_THAT_RUN_CODE = {"eval", "exec", "torch.load", "torch.save", "pd.read_pickle", "pandas.read_pickle", "np.load"}


def sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> set[tuple[str, bool]]:
    """Every import of the file, lazy ones included: (module, only for type checking)."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            typing_only.update(child for statement in node.body for child in ast.walk(statement))
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update((alias.name, node in typing_only) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            for alias in node.names:
                inner = PACKAGE.parent / Path(*node.module.split(".")) / f"{alias.name}.py"
                found.add((f"{node.module}.{alias.name}" if inner.exists() else node.module, node in typing_only))
    return found


@pytest.mark.parametrize("path", sources(), ids=module_of)
def test_imports_point_upwards(path: Path) -> None:
    own = room_of(module_of(path))
    if not own:
        return  # palate/__init__.py names everything, lazily
    for module, typing_only in imports(path):
        if not module.startswith("palate"):
            continue
        other = room_of(module)
        if other in ("", own):
            continue
        assert other in LEVEL, f"{module} stands in no room of the table"
        if typing_only and other == "types":
            continue
        allowed = LEVEL[other] < LEVEL[own] or (own, other) in NEIGHBOURS
        assert allowed, f"{module_of(path)} imports {module}: {own} may not see {other}"


def test_every_room_is_in_the_table() -> None:
    rooms = {room_of(module_of(path)) for path in sources()} - {""}
    assert rooms <= set(LEVEL)


def test_no_cycles_between_files() -> None:
    graph = {module_of(path): {m for m, _ in imports(path) if m.startswith("palate.")} for path in sources()}
    graph.pop("palate")
    pair = {("palate.demo", "palate.cli"), ("palate.cli", "palate.demo")}  # a command that shows what commands show
    state: dict[str, int] = {}

    def visit(module: str, trail: tuple[str, ...]) -> None:
        if state.get(module) == 2:
            return
        assert state.get(module) != 1, " -> ".join([*trail, module])
        state[module] = 1
        for other in graph.get(module, ()):
            if (module, other) not in pair:
                visit(other, (*trail, module))
        state[module] = 2

    for module in graph:
        visit(module, ())


@pytest.mark.parametrize("path", sources(), ids=module_of)
def test_torchrec_stays_inside_its_fence(path: Path) -> None:
    where = str(path.relative_to(PACKAGE))
    if where.startswith(INSIDE_THE_FENCE):
        return
    for module, typing_only in imports(path):
        if module.split(".")[0] in FENCED:
            assert (typing_only, where) == (True, "types.py"), f"{where} imports {module}"


@pytest.mark.parametrize("path", sources(), ids=module_of)
def test_nothing_can_run_code_from_a_file(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    banned_modules = {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
    assert not {module.split(".")[0] for module, _ in imports(path)} & banned_modules
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            assert name not in ("eval", "exec", "torch.load", "torch.save", "pd.read_pickle", "pandas.read_pickle", "np.load"), (
                f"{path}: {name}"
            )


def test_inits_below_the_top_are_empty() -> None:
    for path in PACKAGE.rglob("__init__.py"):
        if path.parent != PACKAGE:
            assert path.read_text() == "", path


def test_modules_that_need_no_torch_do_not_load_it() -> None:
    script = "import importlib, sys\n"
    for module in WITHOUT_TORCH:
        script += f"importlib.import_module({module!r})\n"
        script += f"assert 'torch' not in sys.modules, {module!r}\n"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_help_loads_little() -> None:
    """What makes `palate --help` quick: besides the standard library it loads what any help of typer's loads, the commands, and no more."""
    shown = "import sys; sys.argv = ['palate', '--help']\nfrom palate.cli import main as app\n"
    bare = "import sys, typer\napp = typer.Typer()\n@app.command()\ndef one(): pass\nsys.argv = ['one', '--help']\n"
    loaded: list[set[str]] = []
    for script in (shown, bare):
        script += "try:\n app()\nfinally:\n print('\\nloaded', *sys.modules)"
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        said, _, names = done.stdout.rpartition("\nloaded ")
        assert ("palate demo" in said) == (script.startswith(shown))
        loaded.append(set(names.split()))
    ours, others = ({name for name in loaded[0] if name.split(".")[0] == "palate"}, loaded[0] - loaded[1])
    assert ours == {"palate", "palate.cli", "palate.errors"}
    assert {name.split(".")[0] for name in others - ours} <= sys.stdlib_module_names


PAPER = re.compile(r"\b(19|20)\d\d\b")
PARENTS = {"Retriever", "Ranker", "NeuralRanker", "Reranker", "Diverse"}


def models() -> list[Path]:
    """The files that hold a component: a class that inherits from a stage's base."""
    found = []
    for stage in ("retrieve", "rank", "rerank"):
        for path in sorted((PACKAGE / stage).rglob("*.py")):
            classes = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.ClassDef)]
            bases = {ast.unparse(base) for node in classes for base in node.bases}
            if bases & PARENTS and path.stem not in ("base", "neural", "diverse"):
                found.append(path)
    return found


@pytest.mark.parametrize("path", models(), ids=module_of)
def test_every_model_cites_its_source_and_has_its_tests(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    docstrings = [ast.get_docstring(node) or "" for node in ast.walk(ast.parse(text)) if isinstance(node, (ast.Module, ast.ClassDef))]
    if path.stem not in ("popular", "constraints"):  # counting and filtering have no paper
        assert any(PAPER.search(docstring) for docstring in docstrings), f"{path} cites no source"
    test = ROOT / "tests" / path.parent.name / f"test_{path.stem}.py"
    assert test.exists(), f"{test} is missing"
    tests = test.read_text(encoding="utf-8")
    assert "Contract" in tests, f"{test} inherits no contract"
    assert re.search(r"def test_\w*(oracle|by_hand|hand)", tests), f"{test}: no test with `oracle` or `by_hand` in its name"


@pytest.mark.parametrize("path", sources(), ids=module_of)
def test_every_file_says_what_it_is(path: Path) -> None:
    if path.name != "__init__.py" or path.parent == PACKAGE:
        assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), f"{path} has no docstring"


@pytest.mark.parametrize("path", models(), ids=module_of)
def test_model_files_are_short(path: Path) -> None:
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    assert len(lines) <= 320, f"{path}: {len(lines)} lines"


def test_no_place_of_this_machine_is_named() -> None:
    """Nothing that is committed names an absolute folder of the machine it was written on."""
    folders = re.compile("/" + "work/|/ro" + "ot/|/ho" + "me/")
    for pattern in (
        "palate/**/*.py",
        "palate/**/*.toml",
        "tests/**/*.py",
        "benchmarks/**/*.py",
        "examples/**/*",
        "docs/**/*.md",
        "*.md",
        "Makefile",
    ):
        for path in ROOT.glob(pattern):
            if path.is_file() and path.suffix in (".py", ".toml", ".md", ""):
                assert not folders.search(path.read_text(encoding="utf-8")), path

"""The bundle: one versioned folder with everything a served funnel needs, and nothing that can run code.

    bundle/
      manifest.json         format, versions, recipe, data facts, metrics, components, sha256 of every other file
      items.parquet users.parquet popularity/ history/ encoder/ calibrator/<task>/
      retrieve/<name>/ rank/<name>/ rerank/<n>-<name>/
          arrays.safetensors  frames/*.parquet  meta.json

Saving is atomic: a new folder is written beside the old one, synced, and renamed into place. A bundle that is damaged, foreign,
or written by a newer Palate is refused with one line. Loading needs no training data.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from palate import config
from palate.features.encode import Encoder
from palate.features.history import History
from palate.features.spec import FeatureSet
from palate.funnel import Funnel
from palate.rank.base import Ranker
from palate.rank.calibrate import Calibrator
from palate.rerank.base import Reranker
from palate.retrieve.base import Retriever
from palate.types import BundleError, ConfigError, State
from palate.versions import versions

FORMAT = "palate-bundle"
FORMAT_VERSION = 2


def save(
    funnel: Funnel,
    folder: str | os.PathLike[str],
    *,
    recipe: Mapping[str, Any] | None = None,
    data: Mapping[str, Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
) -> Path:
    """Writes a fitted funnel. An older bundle at the same place is replaced in one step; any other folder there is an error."""
    if not hasattr(funnel, "history"):
        raise BundleError("the funnel is not fitted; call fit before save")

    def write(fresh: Path) -> Mapping[str, Any]:
        return {
            "recipe": dict(recipe or {}),
            "data": dict(data or {}),
            "metrics": dict(metrics or {}),
            "funnel": funnel.config.model_dump(mode="json"),
            "verb": funnel.verb,
            "features": funnel.features.model_dump(mode="json") if funnel.features else None,
            "curves": funnel.curves,
            "components": _write(funnel, fresh),
        }

    return save_folder(folder, write)


def save_folder(folder: str | os.PathLike[str], write: Callable[[Path], Mapping[str, Any]]) -> Path:
    """Writes a bundle whole or not at all. write: fills a fresh folder (`write_state`) and returns what the manifest says of it."""
    target = Path(folder).absolute()
    if target.exists() and not (target / "manifest.json").is_file() and (not target.is_dir() or any(target.iterdir())):
        raise BundleError(f"{target}: exists and is not a bundle; choose another folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        said = write(fresh)
        files = {str(path.relative_to(fresh)): _sha256(path) for path in _files(fresh)}
        manifest = {"format": FORMAT, "format_version": FORMAT_VERSION, "versions": versions(), **said, "files": files}
        (fresh / "manifest.json").write_text(json.dumps(plain(manifest), indent=2, allow_nan=False) + "\n", encoding="utf-8")
        for path in [*_files(fresh), fresh]:
            _sync(path)
        fresh.chmod(0o755)  # mkdtemp made it private
        _swap(fresh, target)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return target


def load(folder: str | os.PathLike[str], *, trust: Sequence[str] = ()) -> tuple[Funnel, dict[str, Any]]:
    """A funnel and its manifest. Components outside `palate` are imported only from the modules named in `trust`."""
    root = Path(folder)
    manifest = checked_manifest(root)
    if manifest.get("kind") == "clicks":
        raise BundleError(f"{root}: holds a click model without a funnel, so it cannot recommend; `palate evaluate {root}` takes it")
    try:
        return _read(root, manifest, trust), manifest
    except (KeyError, ValueError, TypeError, OSError, SafetensorError, pl.exceptions.PolarsError) as error:
        raise BundleError(f"{root}: does not hold what its manifest says ({type(error).__name__}: {error}); train it again") from error


def checked_manifest(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """The manifest, after every file it lists was found to be there and whole."""
    manifest = read_manifest(folder)
    _check_files(Path(folder), manifest)
    return manifest


def read_manifest(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """The manifest alone, checked for format and version."""
    root = Path(folder)
    path = root / "manifest.json"
    if not root.is_dir():
        raise BundleError(f"{root}: no such bundle; `palate train RECIPE --out {root}` makes one")
    if not path.is_file():
        raise BundleError(f"{root}: not a bundle (no manifest.json)")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BundleError(f"{path}: damaged ({error}); restore it from a copy or train again") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise BundleError(f"{path}: not a manifest of Palate")
    written = manifest.get("format_version")
    if not isinstance(written, int) or written > FORMAT_VERSION:
        raise BundleError(f"{root}: bundle format {written} is newer than this Palate reads ({FORMAT_VERSION}); upgrade palate")
    return manifest


def plain(value: Any) -> Any:
    """JSON-able: numpy scalars become numbers, NaN and infinities become null, tuples lists."""
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _components(funnel: Funnel) -> Iterator[tuple[str, str, config.Component]]:
    for retriever in funnel.retrievers:
        yield "retrieve", retriever.name, retriever
    if funnel.ranker is not None:
        yield "rank", funnel.ranker.name, funnel.ranker
    for place, reranker in enumerate(funnel.rerankers):
        yield "rerank", f"{place}-{reranker.name}", reranker


def _write(funnel: Funnel, root: Path) -> list[dict[str, Any]]:
    funnel.items.write_parquet(root / "items.parquet")
    funnel.users.write_parquet(root / "users.parquet")
    write_state(root / "popularity", State(arrays={"popularity": funnel.popularity}))
    write_state(root / "history", funnel.history.state())
    if funnel.encoder is not None:
        write_state(root / "encoder", funnel.encoder.state())
    for task, calibrator in funnel.calibrators.items():
        write_state(root / "calibrator" / _safe(task), calibrator.state())
    return [write_component(root, stage, name, component) for stage, name, component in _components(funnel)]


def _read(root: Path, manifest: Mapping[str, Any], trust: Sequence[str]) -> Funnel:
    stages: dict[str, list[config.Component]] = {"retrieve": [], "rank": [], "rerank": []}
    for entry in manifest["components"]:
        stages[entry["stage"]].append(read_component(root, entry, trust))
    features = manifest.get("features")
    funnel = Funnel(
        [_as(component, Retriever) for component in stages["retrieve"]],
        _as(stages["rank"][0], Ranker) if stages["rank"] else None,
        [_as(component, Reranker) for component in stages["rerank"]],
        FeatureSet.parse(features, "features") if features else None,
        Funnel.Config.parse(manifest["funnel"], "funnel"),
    )
    funnel.curves = manifest.get("curves", {})
    funnel.verb = str(manifest.get("verb", "chose"))
    funnel.items = pl.read_parquet(root / "items.parquet")
    funnel.users = pl.read_parquet(root / "users.parquet")
    funnel.item_ids = funnel.items["item"].to_list()
    funnel.popularity = read_state(root / "popularity").arrays["popularity"]
    funnel.history = History.restore(read_state(root / "history"))
    funnel.encoder = Encoder.restore(read_state(root / "encoder"), funnel.history) if (root / "encoder").is_dir() else None
    # before format 2 there was one task, and its calibrator lay in the folder itself
    folders = {task.name: root / "calibrator" / (_safe(task.name) if manifest["format_version"] > 1 else "") for task in funnel.tasks}
    funnel.calibrators = {task: Calibrator().restore(read_state(folder)) for task, folder in folders.items() if folder.is_dir()}
    return funnel


def read_component(root: Path, entry: Mapping[str, Any], trust: Sequence[str] = ()) -> config.Component:
    """A fitted component of a bundle. entry: its place in the manifest's `components`."""
    module = entry["use"].partition(":")[0]
    if module.partition(".")[0] != "palate" and module not in trust:
        raise BundleError(f"{root}: uses {entry['use']}, which is not part of Palate; pass trust=[{module!r}] if you trust that module")
    try:
        component = config.build(entry["use"], entry["stage"], entry["config"])
    except ConfigError as error:
        raise BundleError(f"{root}: {error}; this Palate has no such component or setting") from None
    return component.restore(read_state(root / entry["folder"]))


def write_component(root: Path, stage: str, name: str, component: config.Component) -> dict[str, Any]:
    """Writes a fitted component and returns its entry in the manifest."""
    where = f"{stage}/{_safe(name)}"
    write_state(root / where, component.state())
    settings = component.config.model_dump(mode="json")
    return {"stage": stage, "folder": where, "use": config.import_path(type(component)), "config": settings}


def _as(component: config.Component, kind: type[Any]) -> Any:
    if not isinstance(component, kind):
        raise BundleError(f"{type(component).__name__} is not a {kind.__name__}")
    return component


def write_state(folder: Path, state: State) -> None:
    """One component's state as files."""
    folder.mkdir(parents=True)
    if state.arrays:
        save_file({name: np.ascontiguousarray(array) for name, array in state.arrays.items()}, folder / "arrays.safetensors")
    for name, frame in state.frames.items():
        (folder / "frames").mkdir(exist_ok=True)
        frame.write_parquet(folder / "frames" / f"{_safe(name)}.parquet")
    meta = {"meta": state.meta, "frames": {name: f"{_safe(name)}.parquet" for name in state.frames}}
    (folder / "meta.json").write_text(json.dumps(meta, allow_nan=False), encoding="utf-8")


def read_state(folder: Path) -> State:
    """What `write_state` wrote."""
    meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    arrays = load_file(folder / "arrays.safetensors") if (folder / "arrays.safetensors").is_file() else {}
    frames = {name: pl.read_parquet(folder / "frames" / file) for name, file in meta["frames"].items()}
    return State(arrays=arrays, frames=frames, meta=meta["meta"])


def _check_files(root: Path, manifest: Mapping[str, Any]) -> None:
    listed = manifest.get("files")
    if not isinstance(listed, dict):
        raise BundleError(f"{root}: manifest.json lists no files; restore it from a copy or train again")
    there = {str(path.relative_to(root)) for path in _files(root)} - {"manifest.json"}
    for name, digest in listed.items():
        if name not in there:
            raise BundleError(f"{root}: {name} is missing; restore it from a copy or train again")
        if _sha256(root / name) != digest:
            raise BundleError(f"{root}: {name} is damaged (its checksum differs); restore it from a copy or train again")
    for entry in manifest.get("components", []):
        if ".." in Path(entry["folder"]).parts or Path(entry["folder"]).is_absolute():
            raise BundleError(f"{root}: manifest.json points outside the bundle ({entry['folder']})")


def _files(root: Path) -> list[Path]:
    """The bundle's own files; reports and curves that people put beside them (`report.html`, `tensorboard/`) are not part of it."""
    own = ("retrieve", "rank", "rerank", "history", "encoder", "calibrator", "popularity")
    top = [root / name for name in ("items.parquet", "users.parquet", "manifest.json") if (root / name).is_file()]
    return sorted([*top, *(path for part in own for path in (root / part).rglob("*") if path.is_file())])


def _safe(name: str) -> str:
    """A file name for a component or frame: letters, digits, `-`, `_` and `.` stay; others become `%xx`."""
    kept = "".join(letter if letter.isalnum() or letter in "-_." else f"%{ord(letter):02x}" for letter in name)
    return f"%{kept}" if kept.startswith(".") else kept


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _swap(fresh: Path, target: Path) -> None:
    """Puts the new folder in the place of the old. A crash in between leaves the old one beside it, whole, as `.<name>.old`."""
    aside = target.parent / f".{target.name}.old"
    shutil.rmtree(aside, ignore_errors=True)
    if target.exists():
        os.rename(target, aside)
        os.rename(fresh, target)
        shutil.rmtree(aside, ignore_errors=True)
    else:
        os.rename(fresh, target)
    _sync(target.parent)

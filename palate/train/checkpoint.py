"""Checkpoints: numbered folders of safetensors and one JSON file, written whole or not at all.

    <folder>/checkpoint-000007/
        checkpoint.json           format, step, everything that is not a tensor, sha256 of every other file
        model.safetensors         and one file for each other group of tensors (optimizer, best, random)

A folder is written under another name, synced to disk, and renamed: a process killed at any moment leaves the last whole one.
The newest two are kept. Nothing is pickled. A checkpoint that is damaged or foreign is refused with one line.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from palate.types import BundleError

FORMAT = "palate-checkpoint"
FORMAT_VERSION = 1
KEPT = 2
MANIFEST = "checkpoint.json"
_NAME = re.compile(r"checkpoint-(\d{6,})")

Tensors = Mapping[str, Mapping[str, Tensor]]


@dataclass(frozen=True)
class Checkpoint:
    """What `save` wrote. meta: plain values. tensors: by group and name, on the CPU."""

    path: Path
    meta: dict[str, Any]
    tensors: dict[str, dict[str, Tensor]]


def save(folder: Path, meta: Mapping[str, Any], tensors: Tensors) -> Path:
    """Writes the next checkpoint of `folder`, then forgets all but the newest two. Cost: one copy of the tensors, on disk."""
    folder.mkdir(parents=True, exist_ok=True)
    found = _all(folder)
    number = 1 + (int(_number(found[-1])) if found else 0)
    fresh, target = folder / f".checkpoint-{number:06d}.{os.getpid()}", folder / f"checkpoint-{number:06d}"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    for group, entries in tensors.items():
        save_file(_unshared(entries), fresh / f"{group}.safetensors")
    files = {path.name: _sha256(path) for path in sorted(fresh.iterdir())}
    manifest = {"format": FORMAT, "format_version": FORMAT_VERSION, "files": files, "meta": dict(meta)}
    (fresh / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    for path in [*fresh.iterdir(), fresh]:
        _sync(path)
    fresh.rename(target)
    _sync(folder)
    for old in found[: 1 - KEPT]:
        shutil.rmtree(old)
    for leftover in folder.glob(".checkpoint-*"):  # of a process that was killed while it wrote
        shutil.rmtree(leftover, ignore_errors=True)
    return target


def newest(folder: Path) -> Path | None:
    """The newest whole checkpoint of `folder`, or None."""
    found = _all(folder)
    return found[-1] if found else None


def clear(folder: Path) -> None:
    """Removes every checkpoint of `folder`."""
    for path in _all(folder):
        shutil.rmtree(path)


def read_meta(path: Path) -> dict[str, Any]:
    """The plain values alone. Errors: BundleError where this is no checkpoint, or one of a newer Palate."""
    return dict(_manifest(path)["meta"])


def load(path: Path) -> Checkpoint:
    """Reads a checkpoint after checking the sha256 of every file. Errors: BundleError."""
    manifest = _manifest(path)
    tensors: dict[str, dict[str, Tensor]] = {}
    for name, expected in manifest["files"].items():
        file = path / name
        if Path(name).name != name or not file.is_file():
            raise BundleError(f"{path}: lacks the file {name!r}; delete this checkpoint to go on from the one before")
        if _sha256(file) != expected:
            raise BundleError(f"{file}: damaged (its checksum differs); delete this checkpoint to go on from the one before")
        if file.suffix == ".safetensors":
            try:
                tensors[file.stem] = load_file(file)
            except (SafetensorError, OSError, ValueError) as error:
                raise BundleError(f"{file}: unreadable ({error}); delete this checkpoint to go on from the one before") from None
    return Checkpoint(path, dict(manifest["meta"]), tensors)


def _manifest(path: Path) -> dict[str, Any]:
    file = path / MANIFEST
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = "missing" if isinstance(error, FileNotFoundError) else "damaged"
        raise BundleError(f"{file}: {reason}; delete this checkpoint to go on from the one before") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise BundleError(f"{file}: not a checkpoint of Palate")
    version = manifest.get("format_version")
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise BundleError(f"{file}: checkpoint format {version} is newer than this Palate reads ({FORMAT_VERSION}); upgrade palate")
    if not isinstance(manifest.get("files"), dict) or not isinstance(manifest.get("meta"), dict):
        raise BundleError(f"{file}: damaged; delete this checkpoint to go on from the one before")
    return manifest


def _all(folder: Path) -> list[Path]:
    """Whole checkpoints, oldest first."""
    found = [path for path in folder.iterdir() if _NAME.fullmatch(path.name)] if folder.is_dir() else []
    return sorted(found, key=lambda path: int(_number(path)))


def _number(path: Path) -> str:
    return path.name.removeprefix("checkpoint-")


def _unshared(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """On the CPU, contiguous, and no two names for the same memory (tied weights, which safetensors refuses)."""
    seen: set[int] = set()
    result: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        plain = tensor.detach().to("cpu").contiguous()
        if plain.numel() and plain.data_ptr() in seen:
            plain = plain.clone()
        seen.add(plain.data_ptr())
        result[name] = plain
    return result


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def random_state(device: torch.device) -> dict[str, Tensor]:
    """The state of torch's random generators (dropout draws from them)."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def set_random_state(states: Mapping[str, Tensor], device: torch.device) -> None:
    """Takes over what `random_state` gave."""
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)

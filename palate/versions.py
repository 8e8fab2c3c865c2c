"""The versions that a figure depends on; they stand in every result."""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Iterable
from importlib import metadata


def versions() -> dict[str, str]:
    """Python, Palate and the libraries that compute."""
    packages = ("palate", "torch", "torchrec", "fbgemm-gpu", "fbgemm-gpu-cpu", "polars", "numpy", "scipy", "lightgbm")
    return {"python": platform.python_version(), **_installed(packages)}


def libraries() -> dict[str, str]:
    """Libraries that only some retrievers use."""
    return _installed(("implicit", "faiss-cpu", "faiss-gpu"))


def _installed(packages: Iterable[str]) -> dict[str, str]:
    found = {}
    for package in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found

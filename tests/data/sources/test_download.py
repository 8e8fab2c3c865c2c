"""Fetching against a real server on the loopback: resuming, checksums, and archives that mean harm."""

import hashlib
import io
import stat
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from palate.data.sources.download import Archive, cache_folder, download, fetch, local_folder, unpack
from palate.types import DataError


def zipped(**files: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, data in files.items():
            archive.writestr(name.replace("__", "/").replace("_dot_", "."), data)
    return buffer.getvalue()


CONTENT = zipped(set__ratings_dot_csv=bytes(range(256)) * 4000, set__movies_dot_csv=b"movieId,title\n")


class Server(ThreadingHTTPServer):
    """Serves `content`; `break_after` bytes it hangs up once. `ranges` notes what was asked for."""

    content = CONTENT
    break_after: int | None = None
    knows_ranges = True

    def __init__(self) -> None:
        self.ranges: list[str | None] = []
        super().__init__(("127.0.0.1", 0), Handler)


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path.startswith("/none"):
            self.send_error(404)
            return
        asked = self.headers.get("Range")
        self.server.ranges.append(asked)
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and self.server.knows_ranges else 0
        if start >= len(self.server.content):
            self.send_error(416)
            return
        body = self.server.content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(self.server.content) - 1}/{len(self.server.content)}")
        self.end_headers()
        if self.server.break_after is not None:
            body, self.server.break_after = body[: self.server.break_after], None
            self.close_connection = True
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("PALATE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("PALATE_DATA", raising=False)
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def address(server: Server, name: str = "set.zip") -> str:
    return f"http://127.0.0.1:{server.server_port}/{name}"


def md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def test_fetched_checked_and_unpacked(server: Server) -> None:
    folder = fetch(Archive(address(server), md5(CONTENT)), "set")
    assert folder == cache_folder() / "set"
    assert (folder / "ratings.csv").read_bytes() == bytes(range(256)) * 4000
    assert local_folder("set", [["ratings.csv", "movies.csv"]]) == folder
    assert local_folder("set", [["other.csv"], ["movies.csv"]]) == folder
    assert local_folder("set", [["other.csv"]]) is None
    assert sorted(path.name for path in cache_folder().iterdir()) == ["set"]


def test_a_broken_transfer_is_taken_up_again(server: Server) -> None:
    server.break_after = 300_000
    with pytest.raises(DataError, match="run it again to go on"):
        fetch(Archive(address(server), md5(CONTENT)), "set", quiet=True)
    part = cache_folder() / "set.zip.part"
    have = part.stat().st_size
    assert 0 < have <= 300_000
    fetch(Archive(address(server), md5(CONTENT)), "set", quiet=True)
    assert server.ranges == [None, f"bytes={have}-"]
    assert not part.exists()


def test_a_server_without_ranges_starts_anew(server: Server, tmp_path: Path) -> None:
    server.knows_ranges = False
    file = tmp_path / "part"
    file.write_bytes(b"x" * 1000)
    download(address(server), file, quiet=True)
    assert file.read_bytes() == CONTENT


def test_a_transfer_that_was_complete_is_not_fetched_again(server: Server, tmp_path: Path) -> None:
    file = tmp_path / "part"
    file.write_bytes(CONTENT)
    download(address(server), file, quiet=True)
    assert file.read_bytes() == CONTENT


def test_a_wrong_checksum_is_refused_and_thrown_away(server: Server) -> None:
    with pytest.raises(DataError, match="is not the published 0000; what came was thrown away"):
        fetch(Archive(address(server), "0000"), "set", quiet=True)
    assert list(cache_folder().iterdir()) == []
    with pytest.raises(DataError, match="at least 9,999,999,999 were expected"):
        fetch(Archive(address(server), least=9_999_999_999), "set", quiet=True)
    fetch(Archive(address(server), least=1000), "set", quiet=True)


def test_failures_of_the_net(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the server answers 404"):
        fetch(Archive(address(server, "none.zip"), "0"), "set", quiet=True)
    with pytest.raises(DataError, match=r"put the files into PALATE_DATA by hand"):
        fetch(Archive("http://127.0.0.1:9/set.zip", "0"), "set", quiet=True)
    with pytest.raises(DataError, match="only http and https"):
        download("file:///etc/passwd", tmp_path / "x")


def test_a_folder_that_is_not_there(server: Server) -> None:
    with pytest.raises(DataError, match="holds no folder 'other'"):
        fetch(Archive(address(server), md5(CONTENT)), "other", quiet=True)


def test_archives_that_mean_harm_are_not_unpacked(tmp_path: Path) -> None:
    for name in ("../evil", "/evil", "a/../../evil", "..\\evil", "C:\\evil"):
        file = tmp_path / "bad.zip"
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("good", b"x")
            archive.writestr(name, b"x")
        with pytest.raises(DataError, match="leads out of the folder"):
            unpack(file, tmp_path / "out")
        assert not (tmp_path / "out").exists()
        assert not (tmp_path / "evil").exists()
    link = zipfile.ZipInfo("link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(DataError, match="is a link"):
        unpack(file, tmp_path / "out")
    file.write_bytes(CONTENT[:5000])
    with pytest.raises(DataError, match="not a zip file"):
        unpack(file, tmp_path / "out")
    damaged = bytearray(CONTENT)
    damaged[5000] ^= 255
    file.write_bytes(damaged)
    with pytest.raises(DataError, match="not a zip file that can be unpacked: Bad CRC"):
        unpack(file, tmp_path / "out")

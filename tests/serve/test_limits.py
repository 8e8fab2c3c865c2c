"""Limits, over ASGI and over raw sockets against a real uvicorn: every bound has its answer, and a client that drags is let go."""

from __future__ import annotations

import asyncio
import json
import pickle
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
import uvicorn

from palate.serve import limits
from palate.serve.limits import SECURITY, Headers, Limits, Message, Receive, Scope, Send, allowed_hosts, protocol

JSON = {"content-type": "application/json"}


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with the length of the body it got."""
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body", False):
            break
    answer = json.dumps({"bytes": len(body)}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(answer)).encode()), (b"X-Frame-Options", b"ALLOWALL")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer})


def ask(app: Any, method: str = "POST", path: str = "/v1/x", **options: Any) -> httpx.Response:
    async def once() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1:8080") as client:
            return await client.request(method, path, **options)

    return asyncio.run(once())


def scope_of(method: str = "POST", path: str = "/v1/x", headers: list[tuple[bytes, bytes]] | None = None) -> Scope:
    return {"type": "http", "method": method, "path": path, "headers": [(b"content-type", b"application/json"), *(headers or [])]}


async def answered(app: Any, scope: Scope, receive: Receive) -> list[Message]:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return sent


# -- bodies ---------------------------------------------------------------------------------------------------------------------------


def test_a_body_within_bounds_reaches_the_application_whole() -> None:
    assert ask(Limits(echo, max_body=1000), content=b"1" * 1000, headers=JSON).json() == {"bytes": 1000}


def test_a_larger_body_is_413() -> None:
    answer = ask(Limits(echo, max_body=1000), content=b"1" * 1001, headers=JSON)
    assert answer.status_code == 413
    assert answer.json() == {"error": "the body is larger than 1000 bytes"}
    assert answer.headers["connection"] == "close"


@pytest.mark.parametrize("length", [None, b"5"])
def test_a_length_that_is_missing_or_lies_does_not_help(length: bytes | None) -> None:
    async def endless() -> Message:
        nonlocal pieces
        pieces += 1
        return {"type": "http.request", "body": b"1" * 100, "more_body": True}

    async def main() -> list[Message]:
        headers = [(b"content-length", length)] if length else []
        return await answered(Limits(echo, max_body=1000), scope_of(headers=headers), endless)

    pieces = 0
    limits_linger, limits.LINGER_SECONDS = limits.LINGER_SECONDS, 0.0
    try:
        sent = asyncio.run(main())
    finally:
        limits.LINGER_SECONDS = limits_linger
    assert sent[0]["status"] == 413
    assert pieces <= 13  # it stopped reading


@pytest.mark.parametrize("length", [b"99999999999999999999999999", b"-1", b"1e3", b"0x10", b"", "٣".encode()])
def test_a_length_that_is_none_is_413(length: bytes) -> None:
    async def never() -> Message:
        raise AssertionError("the body was read")

    async def main() -> int:
        limited = Limits(echo)
        try:
            limited._check_head(scope_of(headers=[(b"content-length", length)]))
        except limits.Refused as refused:
            return refused.status
        return 0

    assert asyncio.run(main()) == 413


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (JSON, 200), ({"content-type": "application/json; charset=utf-8"}, 200), ({"content-type": "APPLICATION/JSON"}, 200), ({}, 415),
        ({"content-type": "text/plain"}, 415), ({"content-type": "application/x-www-form-urlencoded"}, 415),
        ({"content-type": "multipart/form-data; boundary=application/json"}, 415), ({"content-type": "application/jsonx"}, 415),
    ],
)  # fmt: skip
def test_a_body_that_is_not_json_is_415(headers: dict[str, str], status: int) -> None:
    assert ask(Limits(echo), content=b"{}", headers=headers).status_code == status


def test_no_body_needs_no_content_type() -> None:
    assert ask(Limits(echo)).json() == {"bytes": 0}
    assert ask(Limits(echo), "GET").json() == {"bytes": 0}


def test_a_slow_body_is_408() -> None:
    async def slow() -> Message:
        await asyncio.sleep(0.02)
        return {"type": "http.request", "body": b"1", "more_body": True}

    limited = Limits(echo, body_seconds=0.1)
    sent = asyncio.run(answered(limited, scope_of(), slow))
    assert sent[0]["status"] == 408
    assert (b"connection", b"close") in sent[0]["headers"]
    assert limited.held == 0


def test_a_client_that_leaves_gets_nothing() -> None:
    async def gone() -> Message:
        return {"type": "http.disconnect"}

    assert asyncio.run(answered(Limits(echo), scope_of(), gone)) == []


def test_bodies_in_pieces_share_one_bound_and_whole_ones_do_not_count() -> None:
    limited = Limits(echo, max_body=1000, max_held=1500, body_seconds=5)

    async def sender(pieces: list[tuple[bytes, bool]], pause: asyncio.Event) -> list[Message]:
        left = list(pieces)

        async def receive() -> Message:
            if not left:
                return {"type": "http.disconnect"}
            if len(left) == 1:
                await pause.wait()
            body, more = left.pop(0)
            return {"type": "http.request", "body": body, "more_body": more}

        return await answered(limited, scope_of(), receive)

    async def main() -> tuple[list[Message], ...]:
        go, now = asyncio.Event(), asyncio.Event()
        now.set()
        slow = asyncio.create_task(sender([(b"1" * 900, True), (b"1", False)], go))
        await asyncio.sleep(0)
        assert limited.held == 900
        other = await sender([(b"1" * 700, True), (b"1", False)], now)
        whole = await sender([(b"1" * 1000, False)], now)
        go.set()
        return await slow, other, whole

    slow, other, whole = asyncio.run(main())
    assert (slow[0]["status"], other[0]["status"], whole[0]["status"]) == (200, 503, 200)
    assert limited.held == 0


# -- how many at a time ---------------------------------------------------------------------------------------------------------------


def held_by(gate: asyncio.Event, started: list[int], after_start: bool = False) -> limits.App:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        started.append(1)
        if not after_start:
            await gate.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        if after_start:
            await gate.wait()
        await send({"type": "http.response.body", "body": b""})

    return app


async def empty() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}


def test_a_request_too_many_is_503_at_once_and_costs_nothing() -> None:
    async def main() -> None:
        gate, started = asyncio.Event(), []
        limited = Limits(held_by(gate, started), at_once=3)
        running = [asyncio.create_task(answered(limited, scope_of(), empty)) for _ in range(3)]
        await asyncio.sleep(0)

        async def never() -> Message:
            raise AssertionError("its body was read")

        sent = await answered(limited, scope_of(), never)
        assert sent[0]["status"] == 503
        assert (b"retry-after", b"1") in sent[0]["headers"]
        assert len(started) == 3
        alive = asyncio.create_task(answered(limited, scope_of("GET", "/health/live"), empty))
        await asyncio.sleep(0)
        assert len(started) == 4  # liveness is answered all the same
        gate.set()
        for task in [*running, alive]:
            assert (await task)[0]["status"] == 200
        assert limited.in_progress == 0
        assert (await answered(limited, scope_of(), empty))[0]["status"] == 200

    asyncio.run(main())


def test_a_place_is_free_when_the_answer_begins() -> None:
    async def main() -> None:
        gate, started = asyncio.Event(), []
        limited = Limits(held_by(gate, started, after_start=True), at_once=1)
        slow_reader = asyncio.create_task(answered(limited, scope_of(), empty))
        await asyncio.sleep(0)
        assert limited.in_progress == 0
        gate.set()
        await slow_reader

    asyncio.run(main())


def test_a_handler_that_fails_gives_its_place_back() -> None:
    async def fails(scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError("no")

    limited = Limits(fails, at_once=1)
    for _ in range(3):
        with pytest.raises(RuntimeError):
            asyncio.run(answered(limited, scope_of(), empty))
    assert limited.in_progress == 0


# -- names and pages ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200), ("localhost:8080", 200), ("LOCALHOST:1", 200), ("127.0.0.1", 200), ("127.0.0.1:9", 200), ("[::1]", 200),
        ("[::1]:8080", 200), ("localhost.", 200), ("rec.example.com", 200), ("evil.com", 400), ("localhost.evil.com", 400), ("", 400),
        ("127.0.0.1.evil.com", 400), ("evil.com:127", 400), ("localhost:x", 400), ("a@localhost", 400), ("localhost/x", 400),
        ("[::1", 400), ("192.168.0.1", 400), ("0.0.0.0", 400), ("evil.com#localhost", 400), ("localhost:99999", 400),
    ],
)  # fmt: skip
def test_asked_for_by_a_strange_name(host: str, status: int) -> None:
    limited = Limits(echo, hosts=allowed_hosts("127.0.0.1", ["rec.example.com"]))
    sent = asyncio.run(answered(limited, scope_of(headers=[(b"host", host.encode())]), empty))
    assert sent[0]["status"] == status


def test_no_name_or_two_are_strange() -> None:
    limited = Limits(echo, hosts=("localhost",))
    for headers in ([], [(b"host", b"localhost"), (b"host", b"localhost")]):
        assert asyncio.run(answered(limited, scope_of(headers=headers), empty))[0]["status"] == 400


def test_which_names_are_asked() -> None:
    assert allowed_hosts("127.0.0.1") == ("localhost",)
    assert allowed_hosts("localhost") == ("localhost",)
    assert allowed_hosts("::1", ["a"]) == ("localhost", "a")
    assert allowed_hosts("0.0.0.0") is None
    assert allowed_hosts("0.0.0.0", ["rec.example.com"]) == ("localhost", "rec.example.com")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200), ({"sec-fetch-site": "same-origin"}, 200), ({"sec-fetch-site": "none"}, 200), ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403), ({"origin": "http://127.0.0.1:8080"}, 200), ({"origin": "https://evil.com"}, 403),
        ({"origin": "null"}, 403), ({"origin": "http://127.0.0.1:9090"}, 403),
        ({"origin": "https://proxy.example", "sec-fetch-site": "same-origin"}, 200),
    ],
)  # fmt: skip
def test_changes_are_for_our_own_page(headers: dict[str, str], status: int) -> None:
    for method in ("POST", "DELETE"):
        assert ask(Limits(echo), method, headers=headers).status_code == status
    assert ask(Limits(echo), "GET", headers=headers).status_code == 200


# -- headers --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/v1/x", "/", "/page/page.js", "/docs", "/metrics", "/nothing"])
def test_security_headers_stand_on_every_answer(path: str) -> None:
    app = Headers(Limits(echo, max_body=1000))
    for answer in (ask(app, "GET", path), ask(app, path=path, content=b"1" * 2000, headers=JSON)):
        for name, value in SECURITY.items():
            assert answer.headers.get_list(name.decode()) == [value.decode()]  # once, and ours
        assert not any(name.startswith("access-control-") for name in answer.headers)
        kept = answer.status_code == 200 and path in ("/", "/page/page.js", "/docs")
        assert answer.headers.get("cache-control") == (None if kept else "no-store")


def test_the_content_security_policy_lets_nothing_in_line() -> None:
    policy = SECURITY[b"content-security-policy"].decode()
    assert "default-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy


# -- the protocol, over raw sockets ---------------------------------------------------------------------------------------------------


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        return
    if scope["path"] == "/large":
        size = 64 << 20
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", str(size).encode())]})
        for _ in range(size >> 16):
            await send({"type": "http.response.body", "body": bytes(1 << 16), "more_body": True})
        await send({"type": "http.response.body", "body": b""})
        return
    if scope["path"] == "/slow":
        await asyncio.sleep(0.3)
    await echo(scope, receive, send)


LONG = 240.0  # seconds within which a busy machine does anything


@contextmanager
def serving(app: Any, **bounds: Any) -> Iterator[int]:
    """A real uvicorn in a thread; its port."""
    with server(app, **bounds) as running:
        yield running.servers[0].sockets[0].getsockname()[1]


@contextmanager
def server(app: Any, **bounds: Any) -> Iterator[uvicorn.Server]:
    http: Any = protocol(**bounds)
    config = uvicorn.Config(app, host="127.0.0.1", port=0, http=http, ws="none", lifespan="off", log_config=None, access_log=False)
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run)
    thread.start()
    try:
        until = time.monotonic() + LONG
        while not running.started and time.monotonic() < until:
            time.sleep(0.005)
        yield running
    finally:
        running.should_exit = True
        thread.join(LONG)
    assert not thread.is_alive()


HASTE, PATIENCE = 0.3, 2 * LONG


@pytest.fixture(scope="module")
def hasty() -> Iterator[int]:
    """Where whoever is late is let go soon."""
    bounds = {"head_seconds": HASTE, "read_seconds": HASTE}
    with serving(Headers(Limits(application, max_body=100_000, body_seconds=0.4, at_once=4)), **bounds) as number:
        yield number


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """Where nobody is ever late, however busy the machine."""
    bounds = {"head_seconds": PATIENCE, "read_seconds": PATIENCE, "max_head": 4096, "connections": 8}
    with serving(Headers(Limits(application, max_body=100_000, body_seconds=PATIENCE, at_once=4)), **bounds) as number:
        yield number


def exchange(port: int, *pieces: bytes | float) -> bytes:
    """Sends pieces, with pauses where one is a number; what came back until the other side closed."""
    came = b""
    with socket.create_connection(("127.0.0.1", port), timeout=LONG) as connection:
        try:
            for piece in pieces:
                if isinstance(piece, float):
                    time.sleep(piece)
                else:
                    connection.sendall(piece)
        except (BrokenPipeError, ConnectionResetError):
            pass
        try:
            while data := connection.recv(65536):
                came += data
        except ConnectionResetError:
            came += b"[reset]"
    return came


def statuses(came: bytes) -> list[int]:
    return [int(part[:3]) for part in came.split(b"HTTP/1.1 ")[1:]]


def post(body: bytes, *headers: bytes, path: bytes = b"/v1/x") -> bytes:
    lines = [b"POST " + path + b" HTTP/1.1", b"host: localhost", b"content-type: application/json", b"content-length: %d" % len(body)]
    return b"\r\n".join([*lines, *headers]) + b"\r\n\r\n" + body


GET = b"GET /v1/x HTTP/1.1\r\nhost: localhost\r\n\r\n"
LAST = b"GET /v1/x HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"


def checked(came: bytes, status: int) -> dict[str, Any]:
    """The one answer, which has the security headers, closes, and says one line."""
    assert statuses(came) == [status], came[:500]
    head, _, body = came.partition(b"\r\n\r\n")
    for name, value in SECURITY.items():
        assert name + b": " + value in head
    assert b"connection: close" in head
    assert b"cache-control: no-store" in head
    return dict(json.loads(body))


def test_several_requests_on_one_connection_pass(port: int) -> None:
    came = exchange(port, GET, post(b"[1]"), 0.02, GET[:10], 0.02, GET[10:] + post(b"[1,2]"), LAST)
    assert statuses(came) == [200] * 5


@pytest.mark.parametrize(
    "pieces",
    [
        [GET[:10]], [b"POST /v1/x HTTP/1.1\r\nhost: localhost\r\nx: y"], [b"\r\n"], [GET[:5], 0.1, GET[5:9], 0.1, GET[9:12]],
        [part for byte in GET[:-2] + b"x: " + b"y" * 5000 for part in (bytes([byte]), 0.02)], [b"\r\n", 0.1, b"\r\n", 0.1, b"\r\n"],
    ],
    ids=["line", "header", "blank", "drips", "bytes", "blanks"],
)  # fmt: skip
def test_a_head_that_is_late_is_408(hasty: int, pieces: list[bytes | float]) -> None:
    began = time.monotonic()
    assert checked(late(hasty, *pieces), 408) == {"error": "the head of the request was not whole within 0.3 s"}
    assert time.monotonic() - began > 0.8 * HASTE


def late(port: int, *pieces: bytes | float, least: int = 1) -> bytes:
    """What is said to one who is late in the middle. Whoever is late before the first byte is told nothing, and a busy machine makes one
    so: they try again until there are so many answers.
    """
    until = time.monotonic() + LONG
    while len(statuses(came := exchange(port, *pieces))) < least:
        assert time.monotonic() < until, came
    return came


def test_a_late_head_after_a_good_request_is_408_too(hasty: int) -> None:
    assert statuses(late(hasty, GET + GET[:20], least=2)) == [200, 408]


def test_a_late_head_behind_a_request_in_progress_lets_its_answer_out() -> None:
    slow = b"GET /slow HTTP/1.1\r\nhost: localhost\r\n\r\n"
    with serving(Limits(application), head_seconds=0.1) as other:
        assert statuses(late(other, slow + GET[:20]))[0] == 200


def test_a_connection_that_asks_nothing_is_closed(hasty: int) -> None:
    began = time.monotonic()
    assert exchange(hasty) == b""
    assert time.monotonic() - began > 0.8 * HASTE


@pytest.mark.parametrize(
    "head",
    [
        b"GET /v1/x HTTP/1.1\r\nhost: localhost\r\nx: " + b"y" * 5000 + b"\r\n\r\n",
        b"GET /v1/x HTTP/1.1\r\nhost: localhost\r\nx: " + b"y" * 5000,
        b"GET /" + b"y" * 5000 + b" HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"GET /" + b"y" * 5000,
        b"GET / HTTP/1.1\r\n" + b"".join(b"x%d: y\r\n" % number for number in range(1000)) + b"\r\n",
        b"GET / HTTP/1.1\r\n" + b"".join(b"x%d: y\r\n" % number for number in range(100_000)),
        b"GET / HTTP/1.1\r\nx: " + b"y" * 3_000_000,
    ],
    ids=["header", "part", "path", "path part", "many", "endless headers", "endless header"],
)
def test_a_head_that_is_large_is_431(port: int, head: bytes) -> None:
    came = exchange(port, head)
    assert "larger than 4096 bytes" in checked(came.removesuffix(b"[reset]"), 431)["error"]


@pytest.mark.parametrize(
    "junk",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"HELLO\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost localhost\r\n\r\n", b"CONNECT a:1 HTTP/1.1\r\nhost: a\r\n\r\n", b"\0\0\0\0", b"\xff" * 50,
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabcd",
        b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    ],
)  # fmt: skip
def test_what_is_not_http_is_400(port: int, junk: bytes) -> None:
    checked(exchange(port, junk), 400)


def test_junk_behind_a_request_in_progress_lets_its_answer_out(port: int) -> None:
    assert statuses(exchange(port, b"GET /slow HTTP/1.1\r\nhost: localhost\r\n\r\nJUNK junk\r\n\r\n")) == [200]


def test_a_body_that_drips_is_408_and_closed(hasty: int) -> None:
    came = late(hasty, post(b"1" * 100)[:-90], *[part for _ in range(40) for part in (b"1", 0.02)])
    assert checked(came.removesuffix(b"[reset]"), 408) == {"error": "the body was not whole within 0.4 s"}


def test_a_large_body_gets_to_read_its_413(port: int) -> None:
    assert checked(exchange(port, post(b"1" * 3_000_000)), 413) == {"error": "the body is larger than 100000 bytes"}


def test_a_large_body_in_chunks_is_413(port: int) -> None:
    head = b"POST /v1/x HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
    came = exchange(port, head + (b"4000\r\n" + b"1" * 0x4000 + b"\r\n") * 20)
    checked(came.removesuffix(b"[reset]"), 413)


def test_who_is_refused_and_goes_on_sending_slowly_is_let_go(port: int) -> None:
    head = post(b"", path=b"/v1/x").replace(b"content-length: 0", b"content-length: 999999")
    came = exchange(port, head, *[part for _ in range(int(LONG / 0.02)) for part in (b"1", 0.02)])
    checked(came.removesuffix(b"[reset]"), 413)


def test_who_does_not_read_is_let_go() -> None:
    asked = threading.Event()

    async def noticed(scope: Scope, receive: Receive, send: Send) -> None:
        asked.set()
        await application(scope, receive, send)

    with (
        server(Limits(noticed), head_seconds=PATIENCE, read_seconds=HASTE) as running,
        socket.create_connection(running.servers[0].sockets[0].getsockname(), timeout=LONG) as connection,
    ):
        connection.sendall(b"GET /large HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert asked.wait(LONG)
        until = time.monotonic() + LONG
        while running.server_state.connections:
            assert time.monotonic() < until
            time.sleep(0.01)
        came = 0
        try:
            while data := connection.recv(1 << 20):
                came += len(data)
        except ConnectionResetError:
            pass
    assert came < 64 << 20


def test_who_reads_gets_all_of_a_large_answer() -> None:
    with serving(application) as port:  # with the usual patience: a busy machine stops its readers for longer than these tests allow
        assert len(httpx.get(f"http://127.0.0.1:{port}/large", timeout=120).content) == 64 << 20


def test_connections_are_bounded(port: int) -> None:
    with serving(Limits(application), head_seconds=PATIENCE, connections=3) as other:
        held = [socket.create_connection(("127.0.0.1", other), timeout=LONG) for _ in range(3)]
        try:
            came = exchange(other)
            assert "3 connections are open" in checked(came, 503)["error"]
            assert b"retry-after: 1" in came
        finally:
            for connection in held:
                connection.close()
        until = time.monotonic() + LONG
        while statuses(exchange(other, LAST)) != [200]:
            assert time.monotonic() < until


def test_the_service_answers_others_while_it_is_attacked() -> None:
    """Forty senders that drip; the bound on connections is above them, and an honest client is answered while they are waited for."""
    with serving(Limits(application, body_seconds=PATIENCE), head_seconds=PATIENCE, connections=100) as other:
        drips = [socket.create_connection(("127.0.0.1", other), timeout=LONG) for _ in range(40)]
        try:
            for number, connection in enumerate(drips):
                connection.sendall(GET[:9] if number % 2 else post(b"1" * 50)[:-40])
            assert statuses(exchange(other, LAST)) == [200]
        finally:
            for connection in drips:
                connection.close()


def test_the_protocol_can_go_to_other_processes() -> None:
    again: Any = pickle.loads(pickle.dumps(protocol(head_seconds=3.0)))
    assert again.func is limits.Protocol
    assert again.keywords["head_seconds"] == 3.0

"""What the service takes on, and what it turns away before anything is computed.

Three pieces stand around the application, the first outermost, so that a refusal is counted and carries the headers as an answer does:

    Headers(Records(Limits(app)))

    Headers   security headers on every answer; nothing of /v1 is kept by a cache. There is no CORS: other sites may not read an answer.
    Limits    asked for by its own name (DNS rebinding), and for changes by its own page (Fetch Metadata, as in Go's
              http.CrossOriginProtection); a body that is JSON, no larger and no slower than allowed; so many requests at a time.
    protocol  below them, of uvicorn: a head that is whole in time and not too large, so many connections, readers that do read.

A request in excess is told 503 with Retry-After before its body is read. A request holds its place until its answer begins: a client that
reads slowly keeps no one waiting. Bodies that come in pieces share one bound, so that many slow senders cannot fill the memory.
"""

from __future__ import annotations

import asyncio
import functools
import ipaddress
import json
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping, Sequence
from typing import Any, cast
from urllib.parse import urlsplit

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

SECURITY: Mapping[bytes, bytes] = {
    b"content-security-policy": b"default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'",
    b"cross-origin-opener-policy": b"same-origin",
    b"cross-origin-resource-policy": b"same-origin",
    b"referrer-policy": b"no-referrer",
    b"x-content-type-options": b"nosniff",
    b"x-frame-options": b"DENY",
}
KEPT = ("/page/", "/docs", "/openapi.json")
"""What a cache may keep, besides the page itself: it holds nobody's data."""
ALWAYS = ("/health/live", "/health/ready", "/metrics")
"""Answered however much there is to do: a service that is busy must not be taken for one that is dead."""
CHANGING = frozenset({"POST", "PUT", "PATCH", "DELETE"})
LINGER_SECONDS = 1.0
"""How long what a refused client goes on sending is read and thrown away, so that it gets to read the refusal: a connection that is closed
with something unread is reset, and the client's system may then throw the refusal away.
"""


class Refused(Exception):  # noqa: N818
    """An answer instead of what was asked for. closing: the connection is of no use after it."""

    def __init__(self, status: int, message: str, *, closing: bool = False) -> None:
        super().__init__(message)
        self.status, self.message, self.closing = status, message, closing


class Headers:
    """Sets SECURITY on every answer, whatever the handler said, and `cache-control: no-store` where personal data may be."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        kept = scope["path"] == "/" or scope["path"].startswith(KEPT)

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                ours = dict(SECURITY)
                if not kept or message["status"] >= 400:
                    ours[b"cache-control"] = b"no-store"
                theirs = [(name, value) for name, value in message.get("headers", ()) if name.lower() not in ours]
                message["headers"] = [*theirs, *ours.items()]
            await send(message)

        await self.app(scope, receive, with_headers)


class Limits:
    """Turns away what is too large, too slow, too much, not JSON, or asked for by a strange name.

    max_body: bytes of one body. body_seconds: from its head to its last byte. at_once: requests in progress. hosts: as `allowed_hosts`
    gives; None asks no name. max_held: bytes of all bodies that are still being received.
    """

    def __init__(
        self,
        app: App,
        *,
        max_body: int = 4_194_304,
        body_seconds: float = 10.0,
        at_once: int = 64,
        hosts: Sequence[str] | None = None,
        max_held: int | None = None,
    ) -> None:
        self.app = app
        self.max_body, self.body_seconds, self.at_once = max_body, body_seconds, at_once
        self.hosts = None if hosts is None else frozenset(host.lower() for host in hosts)
        self.max_held = max_held if max_held is not None else 32 * max_body
        self.in_progress = 0
        self.held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        bounded, holds, whole = scope["path"] not in ALWAYS, False, False
        try:
            self._check_head(scope)
            if bounded:
                self._check_room()  # before the body is read, so that a refusal costs next to nothing
            body = await self._body(scope, receive)
            if body is None:
                return  # the client is gone
            whole = True
            if body and scope["method"] in CHANGING and not _is_json(_one(scope["headers"], b"content-type")):
                raise Refused(415, "the body must be JSON: send `Content-Type: application/json`")
            if bounded:
                self._check_room()
        except Refused as refused:
            await _refuse(refused, scope, receive, send, whole)
            return
        if bounded:
            self.in_progress += 1
            holds = True

        def let_go() -> None:
            nonlocal holds
            if holds:
                self.in_progress -= 1
                holds = False

        waiting: Message | None = {"type": "http.request", "body": body, "more_body": False}

        async def again() -> Message:
            nonlocal waiting
            if waiting is None:
                return await receive()
            message, waiting = waiting, None
            return message

        async def watched(message: Message) -> None:
            if message["type"] == "http.response.start":
                let_go()
            await send(message)

        try:
            await self.app(scope, again, watched)
        finally:
            let_go()

    def _check_head(self, scope: Scope) -> None:
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        asked = [value for name, value in headers if name == b"host"]
        if self.hosts is not None and not (len(asked) == 1 and self._is_ours(_host(asked[0]))):
            raise Refused(400, "asked for by a strange name (the Host header); name it in the setting `hosts` if it is meant", closing=True)
        if scope["method"] in CHANGING:
            site = _one(headers, b"sec-fetch-site")
            origin = _one(headers, b"origin")
            if site is not None:
                strange = site not in (b"same-origin", b"none")
            else:  # an older browser, or none
                strange = origin is not None and (not asked or _authority(origin).partition("://")[2] != _authority(asked[0]))
            if strange:
                raise Refused(403, "asked for by a page of another site", closing=True)
        length = _one(headers, b"content-length")
        if length is not None and (not length.isdigit() or len(length) > 18 or int(length) > self.max_body):
            raise self._too_large()

    def _is_ours(self, host: str | None) -> bool:
        return host is not None and self.hosts is not None and (host in self.hosts or _is_loopback(host))

    def _too_large(self) -> Refused:
        return Refused(413, f"the body is larger than {self.max_body} bytes", closing=True)

    def _check_room(self) -> None:
        if self.in_progress >= self.at_once:
            raise Refused(503, f"{self.in_progress} requests are in progress; come again")

    async def _body(self, scope: Scope, receive: Receive) -> bytes | None:
        """The whole body, or None where the client left."""
        pieces: list[bytes] = []
        size = held = 0
        try:
            async with asyncio.timeout(self.body_seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    piece = message.get("body", b"")
                    size += len(piece)
                    if size > self.max_body:
                        raise self._too_large()
                    pieces.append(piece)
                    if not message.get("more_body", False):
                        break
                    held += len(piece)
                    self.held += len(piece)
                    if self.held > self.max_held:
                        raise Refused(503, "too many large bodies are being received; come again", closing=True)
        except TimeoutError:
            raise Refused(408, f"the body was not whole within {self.body_seconds:g} s", closing=True) from None
        finally:
            self.held -= held
        return b"".join(pieces)


def allowed_hosts(host: str, more: Iterable[str] = ()) -> tuple[str, ...] | None:
    """Names the service may be asked for by when bound to `host`: this machine's and `more`. None, any, where all may come: see `keys`."""
    named = tuple(more)
    if named or host == "localhost" or _is_loopback(host):
        return ("localhost", *named)
    return None


async def _refuse(refused: Refused, scope: Scope, receive: Receive, send: Send, whole: bool) -> None:
    """whole: the body was read to its end."""
    body = error_body(refused.message)
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if refused.status in (429, 503):
        headers.append((b"retry-after", b"1"))
    if refused.closing:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": refused.status, "headers": headers})
    if whole or not any(name in (b"content-length", b"transfer-encoding") for name, _ in scope["headers"]):
        await send({"type": "http.response.body", "body": body})
        return
    # The whole answer is on its way, and the rest of the body is still coming.
    await send({"type": "http.response.body", "body": body, "more_body": True})
    clock = asyncio.get_running_loop().time
    until = clock() + LINGER_SECONDS
    try:
        async with asyncio.timeout_at(until):
            while (message := await receive())["type"] == "http.request" and message.get("more_body", False) and clock() < until:
                pass
    except TimeoutError:
        pass
    await send({"type": "http.response.body", "body": b""})


def error_body(message: str) -> bytes:
    """The body of every refusal: `{"error": "one line"}`."""
    return json.dumps({"error": message}).encode()


def _one(headers: Sequence[tuple[bytes, bytes]], wanted: bytes) -> bytes | None:
    return next((value for name, value in headers if name == wanted), None)


def _is_json(content_type: bytes | None) -> bool:
    return content_type is not None and content_type.partition(b";")[0].strip().lower() == b"application/json"


def _authority(header: bytes) -> str:
    return header.decode("latin-1").strip().lower()


def _host(header: bytes) -> str | None:
    """The name in a Host header, without its port; None if it is none."""
    try:
        parts = urlsplit(f"//{_authority(header)}")
        parts.port  # noqa: B018 (raises where it is no port)
    except ValueError:
        return None
    if parts.username is not None or parts.path or parts.query or parts.fragment:
        return None
    return (parts.hostname or "").rstrip(".") or None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Protocol(HttpToolsProtocol):
    """uvicorn's HTTP on httptools, with bounds on what comes before the application is asked, and after it has answered.

    head_seconds: from the first byte of a request (from the connection, for its first one) to the end of its head. max_head: bytes of it.
    connections: at a time. read_seconds: how long a client may leave an answer unread.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        head_seconds: float = 10.0,
        max_head: int = 16_384,
        connections: int = 1000,
        read_seconds: float = 30.0,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.head_seconds, self.max_head, self.max_connections, self.read_seconds = head_seconds, max_head, connections, read_seconds
        self._head_timer: asyncio.TimerHandle | None = None
        self._read_timer: asyncio.TimerHandle | None = None
        self._heads = 0  # complete ones
        self._begun = False  # the first bytes of a head are there, and not its end
        self._expects_head = True  # no body is being received
        self._unfinished = 0  # bytes of a head that is not complete
        self._head_size = 0
        self._over = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.max_connections:
            self._refuse(503, f"{self.max_connections} connections are open; come again")
            return
        self._head_timer = self.loop.call_later(self.head_seconds, self._head_is_late)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_head_timer()
        self.resume_writing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._over:
            return
        expected, heads = self._expects_head, self._heads
        super().data_received(data)
        if self._over or self.transport.is_closing():
            return
        if self._begun or (expected and heads == self._heads):  # a part of a head, or blank lines before one
            self._unfinished = self._unfinished + len(data) if heads == self._heads else 0
            if self._unfinished > self.max_head:
                self._head_is_large()
            elif self._head_timer is None:
                self._head_timer = self.loop.call_later(self.head_seconds, self._head_is_late)
        else:
            self._unfinished = 0

    def on_message_begin(self) -> None:
        self._begun, self._head_size = True, 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._measure(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._measure(len(name) + len(value) + 4)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._begun = self._expects_head = False
        self._heads += 1
        self._stop_head_timer()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._expects_head = True
        super().on_message_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._read_timer is None:
            self._read_timer = self.loop.call_later(self.read_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        if self._read_timer is not None:
            self._read_timer.cancel()
            self._read_timer = None
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """What uvicorn calls where a request is not HTTP."""
        if not self._over:
            self._refuse(400, "this is not a request in HTTP/1.1")

    def _measure(self, size: int) -> None:
        self._head_size += size
        if self._head_size > self.max_head:
            self._head_is_large()
            raise ValueError("the head is too large")  # stops the parser

    def _head_is_large(self) -> None:
        self._refuse(431, f"the head of the request is larger than {self.max_head} bytes")

    def _head_is_late(self) -> None:
        self._head_timer = None
        if not self._begun and not self._unfinished and not self._heads:
            self.transport.close()  # nothing was asked
        else:
            self._refuse(408, f"the head of the request was not whole within {self.head_seconds:g} s")

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _refuse(self, status: int, message: str) -> None:
        """Answers and closes; where an earlier request is still being answered, its answer is the last."""
        self._over = True
        self._stop_head_timer()
        self._unset_keepalive_if_required()
        cycle = self.cycle
        if self.transport.is_closing():
            return
        if cycle is not None and not cycle.response_complete:
            if not cycle.more_body:
                cycle.keep_alive = False
                return
            if self.pipeline or cycle.response_started:  # a refusal here would be taken for another request's answer
                self.transport.close()
                return
        body = error_body(message)
        lines = [b"content-type: application/json", b"content-length: %d" % len(body), b"connection: close", b"cache-control: no-store"]
        if status == 503:
            lines.append(b"retry-after: 1")
        lines += [name + b": " + value for name, value in SECURITY.items()]
        self.transport.write(STATUS_LINE[status] + b"\r\n".join(lines) + b"\r\n\r\n" + body)
        if len(self.connections) > self.max_connections:  # there is no room to wait in
            self.transport.close()
            return
        self.transport.write_eof()
        self.loop.call_later(LINGER_SECONDS, self.transport.close)


def protocol(
    *, head_seconds: float = 10.0, max_head: int = 16_384, connections: int = 1000, read_seconds: float = 30.0
) -> type[asyncio.Protocol]:
    """What `uvicorn.Config(http=...)` takes: Protocol with these bounds. It survives pickling, so uvicorn may start more processes."""
    bound = functools.partial(Protocol, head_seconds=head_seconds, max_head=max_head, connections=connections, read_seconds=read_seconds)
    return cast("type[asyncio.Protocol]", bound)

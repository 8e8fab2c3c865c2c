"""Logs: one JSON object a line on standard error, without anybody's data.

    {"time": "2026-11-23T09:14:03.512Z", "level": "info", "event": "request", "request": 17, "method": "POST",
     "route": "/v1/recommend", "status": 200, "ms": 7.1}

A request is told by its number and by the template of its route: never by its path, query, body, headers or address, which hold people,
items or keys. An exception is told by its type and its frames; its message only where it is one of ours, since others may quote what they
were given. The same holds for the records of other libraries: of theirs, only the text that stands in their code is kept.
"""

from __future__ import annotations

import itertools
import json
import logging
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, TextIO

from palate.errors import PalateError
from palate.serve.limits import ALWAYS, App, Message, Receive, Scope, Send, error_body

logger = logging.getLogger("palate.serve")
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
UNKNOWN = "unknown"
"""The route of a request that has none: no such path, or refused before it was looked for."""
CLIENT_LEFT = 499
"""The status of a request whose client was gone before its answer: nginx's number for it."""
FRAMES = 30
Observe = Callable[[str, str, int, float], None]
"""What is told of every request: route, method, status, seconds."""


def configure(level: str = "INFO", stream: TextIO | None = None) -> logging.Handler:
    """Sends all logs of this process to `stream` (standard error): JSON lines, or words where a person watches a terminal.

    Start uvicorn with `log_config=None, access_log=False`.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(Words() if handler.stream.isatty() else Lines())
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(max(logging.WARNING, logging.getLevelName(level.upper())))  # other libraries tell much that nobody asked for
    logger.setLevel(level.upper())
    for name in ("uvicorn", "uvicorn.error", "uvicorn.asgi"):
        theirs = logging.getLogger(name)
        theirs.handlers.clear()
        theirs.propagate = True
        theirs.setLevel(logging.WARNING if handler.stream.isatty() else level.upper())
    access = logging.getLogger("uvicorn.access")  # it would tell paths
    access.handlers.clear()
    access.propagate = False
    return handler


def tell(event: str, *, level: int = logging.INFO, error: BaseException | None = None, **fields: Any) -> None:
    """A line in the log. fields: plain values that are nobody's data."""
    logger.log(level, event, exc_info=error, extra={"fields": fields}, stacklevel=2)


class Lines(logging.Formatter):
    """A record as one JSON object."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, ASCII, whatever the record holds."""
        ours = record.name.partition(".")[0] in ("palate", "uvicorn")
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "event": record.getMessage() if ours else _template(record),
        }
        if not ours:
            line["logger"] = record.name
        line |= getattr(record, "fields", {})
        if record.exc_info and record.exc_info[1] is not None:
            line["error"] = describe(record.exc_info[1])
        return json.dumps(line, default=lambda value: type(value).__name__)


class Words(Lines):
    """The same for somebody who watches: `09:14:03  POST /v1/recommend  200  7.1 ms`. What uvicorn tells of itself is left out."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, but for an exception, which comes in JSON behind it."""
        line = json.loads(super().format(record))
        at = datetime.fromtimestamp(record.created).strftime("%H:%M:%S")
        event, level = line.pop("event"), line.pop("level")
        if event == "request":
            return f"{at}  {line['method']:<6} {line['route']:<24} {line['status']}  {line['ms']:.1f} ms"
        for told in ("time", "logger"):
            line.pop(told, None)
        more = "  ".join(f"{name} {value if isinstance(value, (str, int, float)) else json.dumps(value)}" for name, value in line.items())
        return f"{at}  {event if level == 'info' else f'{level}: {event}'}{'  ' if more else ''}{more}"


def _template(record: logging.LogRecord) -> str:
    """Of a record of another library: its text before values were put in, if they were; else only where it was written."""
    return str(record.msg) if record.args else f"{record.module}:{record.lineno}"


def describe(error: BaseException, depth: int = 3) -> dict[str, Any]:
    """Type and frames (innermost last) of an exception and of its causes; the message of ours alone."""
    frames = [
        f"{frame.f_globals.get('__name__', '?')}:{line} {frame.f_code.co_name}" for frame, line in traceback.walk_tb(error.__traceback__)
    ]
    told: dict[str, Any] = {"type": type(error).__name__}
    if isinstance(error, PalateError):
        told["message"] = str(error)
    told["frames"] = frames[-FRAMES:]
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if cause is not None and depth:
        told["cause"] = describe(cause, depth - 1)
    if isinstance(error, BaseExceptionGroup) and depth:
        told["members"] = [describe(member, depth - 1) for member in error.exceptions[:5]]
    return told


class Records:
    """A line for every request; and for one whose handler fails, a 500 that says only its number.

    observe: is told route, method, status and seconds of each, as `Telemetry.request` takes them. The number stands in
    `scope["palate.request"]` for handlers that log.
    """

    def __init__(self, app: App, observe: Observe | None = None) -> None:
        self.app, self.observe = app, observe
        self._numbers = itertools.count(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        number = scope["palate.request"] = next(self._numbers)
        started, status = time.perf_counter(), 0
        held: list[Message] = []

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            if status == 500:  # kept back: frameworks send one of their own, and then raise
                held.append(message)
            else:
                await send(message)

        failure: Exception | None = None
        try:
            try:
                await self.app(scope, receive, watched)
            except Exception as error:
                failure = error
                if status in (0, 500):
                    status, held = 500, internal_error(number)
            for message in held:
                await send(message)
        finally:
            self._record(scope, number, status or CLIENT_LEFT, time.perf_counter() - started, failure)

    def _record(self, scope: Scope, number: int, status: int, seconds: float, failure: Exception | None) -> None:
        route = template(scope)
        method = scope["method"] if scope["method"] in METHODS else "OTHER"
        if self.observe is not None:
            self.observe(route, method, status, seconds)
        level = logging.ERROR if failure is not None else logging.DEBUG if route in ALWAYS else logging.INFO
        if logger.isEnabledFor(level):
            fields = {"request": number, "method": method, "route": route, "status": status, "ms": round(seconds * 1000, 2)}
            tell("request failed" if failure is not None else "request", level=level, error=failure, **fields)


def internal_error(number: int) -> list[Message]:
    """The answer where a handler failed: the log knows more."""
    body = error_body(f"internal error; request {number} in the log")
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    return [{"type": "http.response.start", "status": 500, "headers": headers}, {"type": "http.response.body", "body": body}]


def template(scope: Mapping[str, Any]) -> str:
    """The route's path as it was declared, such as `/v1/similar/{item}`."""
    return str(getattr(scope.get("route"), "path", UNKNOWN)).replace(":path}", "}") or UNKNOWN

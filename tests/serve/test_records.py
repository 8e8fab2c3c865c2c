"""Logs: a JSON object a line, with what is needed to find a fault and nothing that is somebody's."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import re
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI, Request

from palate.errors import StoreError
from palate.serve import records
from palate.serve.limits import SECURITY, Headers, Limits, Message, protocol
from palate.serve.records import Records, configure, describe, tell

SECRET = "palate_00000000_" + "5ec2e7" * 10


@pytest.fixture
def lines() -> Iterator[Any]:
    """Reads the log as objects (every line must be one), without those of the client of these tests."""
    root, stream = logging.getLogger(), io.StringIO()
    kept, level = root.handlers[:], root.level
    configure("INFO", stream)
    yield lambda: [line for line in map(json.loads, stream.getvalue().splitlines()) if line.get("logger") != "httpx"]
    root.handlers[:] = kept
    root.setLevel(level)
    logging.getLogger("palate.serve").setLevel(logging.NOTSET)


def application() -> FastAPI:
    app = FastAPI()

    @app.get("/v1/users/{id}")
    def user(id: str) -> dict[str, str]:
        return {"user": id}

    @app.post("/v1/events")
    async def events(request: Request) -> dict[str, Any]:
        return {"asked": await request.json(), "request": request.scope["palate.request"]}

    @app.get("/v1/fails/{id}")
    def fails(id: str) -> None:
        try:
            raise KeyError(f"no row of {id}")
        except KeyError as error:
            raise ValueError(f"user {id} is odd") from error

    @app.get("/v1/store/{id}")
    def store(id: str) -> None:
        raise StoreError("events.db: no room is left; make some")

    @app.get("/health/live")
    def live() -> dict[str, bool]:
        return {"live": True}

    return app


def ask(app: Any, method: str, path: str, **options: Any) -> httpx.Response:
    async def once() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
            return await client.request(method, path, **options)

    return asyncio.run(once())


def test_a_request_is_told_by_its_template(lines: Any) -> None:
    told: list[tuple[Any, ...]] = []
    app = Headers(Records(Limits(application()), observe=lambda *what: told.append(what)))
    ask(app, "GET", "/v1/users/ann@example.com?query=secret", headers={"authorization": f"Bearer {SECRET}"})
    answer = ask(app, "POST", "/v1/events", json={"user": "bob", "item": "i7"})
    assert answer.json()["request"] == 2
    first, second = lines()
    assert first.keys() == {"time", "level", "event", "request", "method", "route", "status", "ms"}
    assert {key: first[key] for key in ("level", "event", "request", "method", "route", "status")} == {
        "level": "info", "event": "request", "request": 1, "method": "GET", "route": "/v1/users/{id}", "status": 200,
    }  # fmt: skip
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", first["time"])
    assert second["route"] == "/v1/events"
    assert [what[:3] for what in told] == [("/v1/users/{id}", "GET", 200), ("/v1/events", "POST", 200)]
    assert all(0 < what[3] < 5 for what in told)
    text = json.dumps(lines())
    assert not [word for word in ("ann", "secret", "bob", "i7", "5ec2e7", "127.0.0.1") if word in text]


def test_unknown_paths_and_methods_are_not_told(lines: Any) -> None:
    app = Records(application())
    assert ask(app, "GET", "/v1/people/ann").status_code == 404
    assert ask(app, "ANN", "/v1/users/ann").status_code == 405
    assert [(line["method"], line["route"], line["status"]) for line in lines()] == [
        ("GET", "unknown", 404),
        ("OTHER", "/v1/users/{id}", 405),
    ]
    assert "ann" not in json.dumps(lines()).lower().replace("/v1/users/{id}", "")


def test_what_is_refused_is_told_too(lines: Any) -> None:
    app = Headers(Records(Limits(application(), max_body=10)))
    assert ask(app, "POST", "/v1/events", json={"user": "bobobobobobob"}).status_code == 413
    assert [(line["route"], line["status"]) for line in lines()] == [("unknown", 413)]


def test_probes_are_told_only_when_asked_for(lines: Any) -> None:
    app = Records(application())
    ask(app, "GET", "/health/live")
    assert lines() == []
    logging.getLogger("palate.serve").setLevel("DEBUG")
    ask(app, "GET", "/health/live")
    assert [line["route"] for line in lines() if line["event"] == "request"] == ["/health/live"]


def test_a_failure_is_a_number_outside_and_frames_inside(lines: Any) -> None:
    app = Headers(Records(Limits(application())))
    answer = ask(app, "GET", "/v1/fails/ann")
    assert answer.status_code == 500
    assert answer.json() == {"error": "internal error; request 1 in the log"}
    assert all(answer.headers[name.decode()] == value.decode() for name, value in SECURITY.items())
    (line,) = lines()
    assert (line["level"], line["event"], line["status"], line["request"]) == ("error", "request failed", 500, 1)
    assert line["error"]["type"] == "ValueError"
    assert line["error"]["cause"]["type"] == "KeyError"
    assert line["error"]["frames"][-1].startswith(f"{__name__}:")
    assert line["error"]["frames"][-1].endswith(" fails")
    assert "ann" not in json.dumps(line)
    assert "odd" not in json.dumps(line)


def test_the_message_of_our_own_errors_is_told(lines: Any) -> None:
    assert ask(Records(application()), "GET", "/v1/store/ann").status_code == 500
    assert lines()[0]["error"]["message"] == "events.db: no room is left; make some"
    assert "ann" not in json.dumps(lines())


def test_a_failure_after_the_answer_began_is_told_and_the_answer_is_cut(lines: Any) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise RuntimeError("ann")

    async def main() -> list[Message]:
        sent: list[Message] = []

        async def send(message: Message) -> None:
            sent.append(message)

        await Records(app)({"type": "http", "method": "GET", "path": "/", "headers": []}, send, send)  # type: ignore[arg-type]
        return sent

    assert [message["type"] for message in asyncio.run(main())] == ["http.response.start"]
    assert lines()[0]["error"]["type"] == "RuntimeError"


def test_a_500_that_is_meant_goes_out() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 500, "headers": []})
        await send({"type": "http.response.body", "body": b"meant"})

    assert ask(Records(app), "GET", "/").content == b"meant"


def test_a_client_that_left_is_told_as_499(lines: Any) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        return

    async def nothing(*_: Any) -> Any:
        return None

    asyncio.run(Records(app)({"type": "http", "method": "GET", "path": "/", "headers": []}, nothing, nothing))
    assert lines()[0]["status"] == 499


def test_other_libraries_are_told_without_what_they_quote(lines: Any) -> None:
    other = logging.getLogger("sqlalchemy.engine")
    other.warning("row of %s", "ann")
    other.warning(f"row of {'ann'}")
    try:
        raise ValueError("ann")
    except ValueError:
        logging.getLogger("asyncio").exception("Exception in callback <ann>")
    text = json.dumps(lines())
    assert "ann" not in text
    first, second, third = lines()
    assert (first["event"], first["logger"]) == ("row of %s", "sqlalchemy.engine")
    assert second["event"].startswith("test_records:")
    assert third["error"]["type"] == "ValueError"


def test_a_line_is_one_line_whatever_it_holds(lines: Any) -> None:
    tell("a\nb\u2028c", version="x\ny", odd=object(), error=None)
    (line,) = lines()
    assert line["event"] == "a\nb\u2028c"
    assert line["odd"] == "object"


def test_groups_and_deep_frames_are_bounded() -> None:
    def deep(left: int) -> None:
        if left:
            deep(left - 1)
        raise RuntimeError("ann")

    try:
        deep(200)
    except RuntimeError as error:
        told = describe(ExceptionGroup("ann", [error] * 50))
    assert len(told["members"]) == 5
    assert len(told["members"][0]["frames"]) == records.FRAMES
    assert "ann" not in json.dumps(told)


def test_a_real_server_logs_json_lines_and_no_addresses_or_paths(lines: Any) -> None:
    config = uvicorn.Config(
        Headers(Records(Limits(application()))), host="127.0.0.1", port=0, http=protocol(), ws="none", log_config=None, access_log=False,
        lifespan="off",
    )  # fmt: skip
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        until = time.monotonic() + 240
        while not server.started and time.monotonic() < until:
            time.sleep(0.005)
        port = server.servers[0].sockets[0].getsockname()[1]
        with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
            assert client.get("/v1/users/ann").status_code == 200
            assert client.get("/v1/fails/ann", headers={"authorization": f"Bearer {SECRET}"}).status_code == 500
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(b"ANN \0\r\n\r\n")
            assert connection.recv(1000).startswith(b"HTTP/1.1 400")
    finally:
        server.should_exit = True
        thread.join(10)
    told = lines()
    assert [line["route"] for line in told if line["event"].startswith("request")] == ["/v1/users/{id}", "/v1/fails/{id}"]
    text = json.dumps(told)
    assert not [word for word in ("ann", "ANN", "5ec2e7", "Traceback") if word in text]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_words() -> None:
    root, stream = logging.getLogger(), Terminal()
    kept, level = root.handlers[:], root.level
    try:
        configure("INFO", stream)
        tell("request", request=3, method="POST", route="/v1/recommend", status=200, ms=7.13)
        tell("ready", version="c8a92193f9f4", milliseconds=7.2)
        tell("bundle", level=logging.ERROR, action="follow", why="items.parquet is damaged")
    finally:
        root.handlers[:] = kept
        root.setLevel(level)
        logging.getLogger("palate.serve").setLevel(logging.NOTSET)
    lines = [line.partition("  ")[2] for line in stream.getvalue().splitlines()]
    assert lines == [
        "POST   /v1/recommend            200  7.1 ms",
        "ready  version c8a92193f9f4  milliseconds 7.2",
        "error: bundle  action follow  why items.parquet is damaged",
    ]

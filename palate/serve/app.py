"""The HTTP face of the service: routes, keys, errors. What is answered is made in `service`; nothing is decided here.

    app = create(Settings(store="events.db"), "demo")         an ASGI application; `palate serve demo` runs it

A route names the scope that its key must have. Bodies are JSON; whatever is wrong with one is told in one line:

    {"error": "rerank.mmr.bta: no such key; did you mean 'beta'?"}
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, TypeVar

import pydantic_core
from fastapi import Depends, FastAPI, Query
from fastapi import Path as InPath
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException
from starlette.requests import Request as HTTPRequest
from starlette.responses import Response

from palate.errors import BundleError, ConfigError, DataError, PalateError, StoreError
from palate.feedback.events import parse_events
from palate.feedback.store import EventStore
from palate.serve import schemas
from palate.serve.dashboard import dashboard
from palate.serve.keys import SCOPES, AccessError, Keys, Scope
from palate.serve.limits import Headers, Limits, allowed_hosts, error_body
from palate.serve.pool import Busy, Pool
from palate.serve.records import Records, tell
from palate.serve.service import NotFound, Service, Swapping
from palate.serve.settings import Settings
from palate.serve.shelf import Shelf
from palate.serve.telemetry import Telemetry
from palate.serve.writer import Overloaded, Writer

T = TypeVar("T")
STORE_SECONDS = 15.0
"""How long somebody waits for the store, whose own timeouts are shorter: what is left is a server that takes questions and says nothing."""
LOOK_SECONDS = 1.0
"""Between looks at what the shelf points to."""
REMEMBER_SECONDS = 5.0
"""Between looks at who was forgotten."""
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
    ".json": "application/json",
}
Limit = Annotated[int, Query(ge=1, le=200)]
ThisId = Annotated[str, InPath(min_length=1, max_length=256, pattern=r"^[^\x00-\x1f\x7f]*$")]
ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": schemas.Problem, "description": "This is no request, or it asks for a strange host."},
    401: {"model": schemas.Problem, "description": "No key, or an unknown one."},
    403: {"model": schemas.Problem, "description": "The key lacks the scope, or a page of another site asks for a change."},
    422: {"model": schemas.Problem, "description": "What was sent cannot be used; the line says why."},
    503: {"model": schemas.Problem, "description": "Too much to do, or not ready; Retry-After says when to come again."},
}
BODY: dict[int | str, dict[str, Any]] = {
    408: {"model": schemas.Problem, "description": "The body was not whole in time."},
    413: {"model": schemas.Problem, "description": "The body is too large."},
    415: {"model": schemas.Problem, "description": "The body is not sent as application/json."},
}
NOT_FOUND: dict[int | str, dict[str, Any]] = {404: {"model": schemas.Problem, "description": "Nothing has this id."}}


class State:
    """What the routes share: made when the application is, and filled when it starts."""

    def __init__(self, settings: Settings, folder: str | os.PathLike[str], trust: Sequence[str]) -> None:
        self.settings = settings
        self.keys = Keys.load(settings.keys) if settings.keys is not None else None
        self.telemetry = Telemetry()
        self.store = EventStore.open(settings.store, timeout=settings.store_seconds)
        self.writer = Writer(self.store)
        self.service = Service(Shelf(folder), self.store, self.writer, settings, trust=trust, watch=self.telemetry)
        self.pool = Pool(settings.workers, settings.waiting, _one_thread_each)
        self.side = ThreadPoolExecutor(4, thread_name_prefix="side")  # lists, loading: nothing that a slate waits for
        self.asking = ThreadPoolExecutor(4, thread_name_prefix="store")  # apart from those, since a store may hang
        self.failed: str | None = None
        self.telemetry.watch_queue("answers", lambda: self.pool.busy)
        self.telemetry.watch_queue("events", lambda: self.writer.waiting[0])
        self.telemetry.watch_queue("slates", lambda: self.writer.waiting[1])
        self.telemetry.watch_dropped(lambda: self.writer.dropped)

    def close(self) -> None:
        self.pool.close()
        self.side.shutdown(wait=False, cancel_futures=True)
        self.asking.shutdown(wait=False, cancel_futures=True)
        self.writer.close(5.0)
        self.store.close()

    async def ask(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """Runs something that waits for the store, which may hang: nobody waits for it longer than STORE_SECONDS."""
        return await self.patiently(asyncio.get_running_loop().run_in_executor(self.asking, work, *arguments))

    async def patiently(self, answer: Awaitable[T]) -> T:
        """The answer, or a StoreError after STORE_SECONDS."""
        try:
            return await asyncio.wait_for(answer, STORE_SECONDS)
        except TimeoutError:
            brief = "does not answer; try again"
            raise StoreError(f"{self.store.where}: {brief}", passing=True, brief=brief) from None

    async def aside(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """Runs something that waits in a thread of its own kind."""
        return await asyncio.get_running_loop().run_in_executor(self.side, work, *arguments)


def _one_thread_each() -> None:
    """Requests are answered side by side, so each is computed by its own thread alone. Bundles without networks load no torch."""
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)


def create(settings: Settings, folder: str | os.PathLike[str], *, trust: Sequence[str] = ()) -> Any:
    """The application, with all that stands around it. Opens the store at once; the bundle is loaded when the server starts.

    Errors: ConfigError, StoreError. Close what it holds with `app.state.held.close()` if no server runs it.
    """
    held = State(settings, folder, trust)
    inner = _routes(held)
    at_once = 2 * (settings.workers + settings.waiting) + 64
    limits = Limits(
        inner,
        max_body=settings.max_body,
        body_seconds=settings.body_seconds,
        at_once=at_once,
        hosts=allowed_hosts(settings.host, settings.hosts),
    )
    outer: Any = Headers(Records(limits, held.telemetry.request))
    outer.state = inner.state
    outer.openapi = inner.openapi
    return outer


def _routes(held: State) -> FastAPI:
    settings, service, telemetry = held.settings, held.service, held.telemetry

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(_start(held)), asyncio.create_task(_watch(held)), asyncio.create_task(_remember(held))]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            with suppress(asyncio.CancelledError):
                await asyncio.gather(*tasks)
            await held.aside(held.writer.flush, 5.0)
            held.close()

    app = FastAPI(
        title="Palate",
        summary="From an event log to a served slate of recommendations, and back.",
        version=_version(),
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        responses=ERRORS,
        generate_unique_id_function=lambda route: route.name,
    )
    app.state.held = held
    app.router.route_class = KeyFirst
    _errors(app)

    async def ready() -> None:
        if not service.ready:
            told = held.failed if held.keys is None else held.failed and "no bundle can be loaded; the log of the service says why"
            raise NotReady(told or "no bundle is loaded yet")

    asks, sends, rules = (Depends(Needs(held.keys, scope)) for scope in SCOPES)
    warm = Depends(ready)

    @app.post("/v1/recommend", response_model=schemas.Recommendation, dependencies=[asks, warm], responses=BODY, tags=["recommend"])
    async def recommend(body: schemas.Recommend) -> Response:
        """A slate: for a user, or for anyone with a history or a context."""
        now = datetime.now(UTC)
        answer = await held.pool.run(
            lambda ticket: service.recommend(body, now, ticket),
            lambda why: service.fallback(body, now, why),
            settings.deadline_ms / 1000,
        )
        return _json(answer)

    @app.get("/v1/similar/{item:path}", response_model=schemas.Similar, dependencies=[asks, warm], responses=NOT_FOUND, tags=["recommend"])
    async def similar(item: ThisId, k: Annotated[int, Query(ge=1, le=schemas.MOST)] = 10) -> Response:
        """Items that go with an item."""
        return _json(await held.pool.run(lambda _: service.similar(item, k), None, 0))

    @app.post("/v1/rank", response_model=schemas.Ranking, dependencies=[asks, warm], responses=BODY, tags=["recommend"])
    async def rank(body: schemas.Rank) -> Response:
        """Given items in the order in which somebody would want them."""
        now = datetime.now(UTC)
        return _json(await held.patiently(held.pool.run(lambda _: service.rank(body, now), None, 0)))

    @app.get("/v1/items", dependencies=[asks, warm], tags=["recommend"])
    async def items(
        query: Annotated[str, Query(max_length=256)] = "", limit: Limit = 20, after: Annotated[int, Query(ge=0, le=2**53)] = 0
    ) -> Response:
        """Items whose title or id holds the query, the most popular first."""
        return _json(await held.aside(service.items, query, limit, after))

    @app.get("/v1/items/{item:path}", dependencies=[asks, warm], responses=NOT_FOUND, tags=["recommend"])
    async def one_item(item: ThisId) -> Response:
        """One item, with all that is known about it."""
        return _json(await held.aside(service.item, item))

    @app.get("/v1/about", dependencies=[asks, warm], tags=["recommend"])
    async def about() -> Response:
        """What is served: stages and their settings, columns that filters may use, limits."""
        return _json({**(await held.aside(service.about)), "keys": held.keys is not None})

    @app.post(
        "/v1/events", response_model=schemas.Kept, dependencies=[sends], responses=BODY, tags=["events"], openapi_extra=_events_schema()
    )
    async def events(request: HTTPRequest) -> Response:
        """One event or a list of them: on the disk when this answers, kept once however often it is sent."""
        raw = await request.body()
        batch = await held.aside(_parsed, raw, settings.max_events)
        done = held.writer.events(batch)
        kept = await held.patiently(asyncio.wrap_future(done))
        telemetry.events(**kept._asdict())
        return _json(kept._asdict())

    @app.get("/v1/users", dependencies=[rules, warm], tags=["people"])
    async def users(query: Annotated[str, Query(max_length=256)] = "", limit: Limit = 20) -> Response:
        """Ids of users that the bundle has learnt from, by their beginning."""
        return _json(await held.ask(service.users, query, limit))

    @app.get("/v1/users/{user:path}", dependencies=[rules, warm], responses=NOT_FOUND, tags=["people"])
    async def user(user: ThisId) -> Response:
        """What the system knows about somebody."""
        return _json(await held.ask(service.user, user))

    @app.delete("/v1/users/{user:path}", response_model=schemas.Removed, dependencies=[rules], responses=NOT_FOUND, tags=["people"])
    async def forget(user: ThisId) -> Response:
        """Forgets somebody, everywhere, and drops whatever comes of them later."""
        await held.ask(held.writer.flush, 5.0)
        return _json(await held.ask(service.forget, user))

    @app.post("/v1/users/{user:path}/readmit", dependencies=[rules], responses=NOT_FOUND, tags=["people"])
    async def readmit(user: ThisId) -> Response:
        """Lets a forgotten person begin anew."""
        return _json(await held.ask(service.readmit, user))

    @app.get("/v1/bundles", dependencies=[rules, warm], tags=["bundles"])
    async def bundles() -> Response:
        """The bundles of the shelf, and which is in service."""
        return _json(await held.aside(service.bundles))

    @app.post(
        "/v1/bundles",
        dependencies=[rules, warm],
        responses={409: {"model": schemas.Problem, "description": "Another is being loaded."}, **BODY},
        tags=["bundles"],
    )
    async def swap(body: schemas.Swap) -> Response:
        """Puts another bundle into service without dropping a request; a damaged one is refused, and the old one goes on."""
        fresh = await held.aside(service.swap, body.bundle)
        telemetry.bundle(fresh.version, fresh.name)
        tell("bundle", action="promote", version=fresh.version)
        return _json(await held.aside(service.bundles))

    @app.post(
        "/v1/rollback",
        dependencies=[rules, warm],
        responses={409: {"model": schemas.Problem, "description": "Nothing to go back to, or another is being loaded."}},
        tags=["bundles"],
    )
    async def roll_back() -> Response:
        """Puts the bundle before into service again."""
        fresh = await held.aside(service.roll_back)
        telemetry.bundle(fresh.version, fresh.name)
        tell("bundle", action="roll back", version=fresh.version)
        return _json(await held.aside(service.bundles))

    @app.get("/v1/dashboard", dependencies=[rules, warm], tags=["dashboard"])
    async def board(days: Annotated[int, Query(ge=1, le=366)] = 28) -> Response:
        """Traffic, clicks by position, coverage, calibration, events, versions, A/B tests and off-policy estimates."""
        served = service.served
        await held.ask(held.writer.flush, 2.0)

        def make() -> dict[str, Any]:
            return dashboard(
                held.store,
                version=served.version,
                catalogue=len(served.funnel.item_ids),
                now=datetime.now(UTC),
                days=days,
                layers=[settings.layer] if settings.layer else [],
            )

        return _json(await held.ask(make))

    @app.get("/health/live", tags=["health"])
    async def live() -> Response:
        """Whether the process runs, and can keep events."""
        if not held.writer.alive:
            raise NotReady("the thread that writes events has died; start the service again")
        return _json({"live": True})

    @app.get("/health/ready", tags=["health"])
    async def is_ready() -> Response:
        """Whether it answers: a bundle is loaded and warm. 503 until then."""
        await ready()
        return _json({"ready": True, "version": service.served.version})

    @app.get("/metrics", dependencies=[rules], tags=["health"], response_class=Response)
    async def metrics() -> Response:
        """For Prometheus."""
        text, content_type = telemetry.render()
        return Response(text, media_type=content_type)

    _page(app)
    return app


async def _start(held: State) -> None:
    """Loads the bundle in service; without one nothing is answered, and readiness says why."""
    try:
        served = await held.aside(held.service.start)
    except PalateError as error:
        held.failed = str(error)
        tell("bundle", level=logging.ERROR, action="start", why=str(error))
        return
    held.telemetry.bundle(served.version, served.name)
    tell("ready", version=served.version, milliseconds=round(served.seconds * 1000, 2))


async def _watch(held: State) -> None:
    """Takes up what the shelf points to. What cannot be served is said once, and not tried again until the shelf changes."""
    refused = ""
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        try:
            if not held.service.ready and held.failed is None:
                continue
            pointed = await held.aside(held.service.shelf.current)
            if pointed == refused:
                continue
            fresh = await held.aside(held.service.follow)
            if fresh is not None:
                held.failed, refused = None, ""
                held.telemetry.bundle(fresh.version, fresh.name)
                tell("bundle", action="follow", version=fresh.version)
        except Swapping:
            continue
        except PalateError as error:
            refused = pointed
            tell("bundle", level=logging.ERROR, action="follow", why=str(error))


async def _remember(held: State) -> None:
    """Keeps up with who was forgotten through other processes."""
    while True:
        await asyncio.sleep(REMEMBER_SECONDS)
        with suppress(StoreError):
            await held.ask(held.service.remember)


class Needs(HTTPBearer):
    """A key with a scope, where there are keys; the OpenAPI says so, too."""

    def __init__(self, keys: Keys | None, scope: Scope) -> None:
        scopes = " or ".join(dict.fromkeys([scope, "admin"]))
        super().__init__(scheme_name=scope, description=f"A key of `palate key create` with the scope {scopes}.", auto_error=False)
        self.keys, self.scope = keys, scope

    async def __call__(self, request: HTTPRequest) -> None:  # type: ignore[override]
        """Raises an AccessError; looks only once at a request."""
        if self.keys is not None and request.scope.get("palate.granted") != self.scope:
            self.keys.check(request.headers.get("authorization"), self.scope)
            request.scope["palate.granted"] = self.scope


class KeyFirst(APIRoute):
    """A route that looks at the key before it looks at the body."""

    def get_route_handler(self) -> Callable[[HTTPRequest], Coroutine[Any, Any, Response]]:
        """The handler, behind what the route needs."""
        handle = super().get_route_handler()
        needed = [each.dependency for each in self.dependencies if isinstance(each.dependency, Needs)]

        async def checked(request: HTTPRequest) -> Response:
            for need in needed:
                await need(request)
            return await handle(request)

        return checked


class NotReady(PalateError):  # noqa: N818 - it passes
    """Nothing can be answered yet."""


def _errors(app: FastAPI) -> None:
    """Every error as one line, with the status that says whose it is and whether to come again."""

    def said(status: int, headers: dict[str, str] | None = None) -> Callable[[HTTPRequest, Exception], Awaitable[Response]]:
        async def answer(request: HTTPRequest, error: Exception) -> Response:
            return _problem(str(error), status, headers)

        return answer

    soon = {"Retry-After": "1"}
    app.add_exception_handler(NotFound, said(404))
    app.add_exception_handler(DataError, said(422))
    app.add_exception_handler(ConfigError, said(422))
    app.add_exception_handler(Swapping, said(409, soon))
    app.add_exception_handler(NotReady, said(503, soon))

    async def of_bundle(request: HTTPRequest, error: Exception) -> Response:
        nowhere = "no earlier bundle" in str(error)
        return _problem(str(error), 409 if nowhere else 422)

    async def of_store(request: HTTPRequest, error: Exception) -> Response:
        assert isinstance(error, StoreError)
        tell("store", level=logging.WARNING, why=str(error))
        return _problem(f"event store: {error.brief}", 503, {"Retry-After": "2" if error.passing else "60"})

    async def busy(request: HTTPRequest, error: Exception) -> Response:
        assert isinstance(error, (Busy, Overloaded))
        return _problem(str(error), 503, {"Retry-After": str(max(1, round(error.seconds)))})

    async def access(request: HTTPRequest, error: Exception) -> Response:
        assert isinstance(error, AccessError)
        return _problem(str(error), error.status, dict(error.headers))

    async def invalid(request: HTTPRequest, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return _problem(_first(error.errors()), 422)

    async def http(request: HTTPRequest, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return _problem(str(error.detail), error.status_code, error.headers)

    app.add_exception_handler(BundleError, of_bundle)
    app.add_exception_handler(StoreError, of_store)
    app.add_exception_handler(Busy, busy)
    app.add_exception_handler(Overloaded, busy)
    app.add_exception_handler(AccessError, access)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)


def _problem(line: str, status: int, headers: Mapping[str, str] | None = None) -> Response:
    """An error as one line that is not too long, whatever it quotes."""
    line = " ".join(line.split())
    return Response(error_body(line if len(line) <= 500 else f"{line[:497]}..."), status, headers, media_type="application/json")


def _first(errors: Sequence[Any]) -> str:
    """The first thing that pydantic found, as one line."""
    first = errors[0]
    where = [str(part) for part in first["loc"] if part not in ("body", "query", "path")]
    if first["type"] == "json_invalid":
        return f"the body is not JSON: {first.get('ctx', {}).get('error', 'it cannot be read')}"
    message = str(first["msg"]).removeprefix("Value error, ")
    message = {"extra_forbidden": "no such field; leave it out", "missing": "is missing; add it"}.get(first["type"], message)
    given = first.get("input")
    got = (
        f", got {_short(given)}"
        if first["type"] not in ("missing", "extra_forbidden") and isinstance(given, (str, int, float, bool))
        else ""
    )
    name = ".".join(part[:64] for part in where) or "the body"
    return f"{name}: {message[:1].lower()}{message[1:]}{got}"[:500]


def _short(given: object) -> str:
    text = repr(given)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _parsed(raw: bytes, most: int) -> Any:
    try:
        given = json.loads(raw)
    except RecursionError:
        raise DataError("the body is nested too deeply; events are flat") from None
    except ValueError as error:
        raise DataError(f"the body is not JSON: {str(error)[:200]}") from None
    return parse_events(given, now=datetime.now(UTC), most=most)


def _json(value: Any) -> Response:
    return Response(pydantic_core.to_json(value, inf_nan_mode="null"), media_type="application/json")


def _events_schema() -> dict[str, Any]:
    """Events are checked by the one parser of them, which says more than a schema can; this is what it takes, for the OpenAPI."""
    from palate.feedback.events import MOST_EVENTS, Event

    event = Event.model_json_schema()
    event.pop("$defs", None)
    many = {"type": "array", "items": event, "maxItems": MOST_EVENTS}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": {"anyOf": [event, many]}}}}}


def _version() -> str:
    from importlib.metadata import version

    return version("palate")


def _page(app: FastAPI) -> None:
    """The page for people, read once: no path of the disk is made from what is asked for."""
    folder = files("palate.serve").joinpath("page")
    held = {entry.name: entry.read_bytes() for entry in folder.iterdir() if Path(entry.name).suffix in TYPES}

    def answer(name: str) -> Response:
        if name not in held:
            raise HTTPException(404, "no such page")
        return Response(held[name], media_type=TYPES[Path(name).suffix], headers={"Cache-Control": "no-cache"})

    @app.get("/", include_in_schema=False)
    async def index() -> Response:
        return answer("index.html")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return answer("docs.html")

    @app.get("/page/{name}", include_in_schema=False)
    async def page(name: str) -> Response:
        return answer(name)

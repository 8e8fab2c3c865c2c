"""Who may do what, and what must never come out: keys, scopes, binds, names of bundles, sizes, forgotten people, logs, other sites."""

from __future__ import annotations

import io
import json
import logging
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

import pytest

from palate.errors import ConfigError
from palate.feedback.store import EventStore
from palate.serve import app as app_module
from palate.serve import keys as keyring
from palate.serve import records
from palate.serve.limits import SECURITY
from palate.serve.run import run
from palate.serve.settings import Settings

OPEN = {("GET", "/health/live"), ("GET", "/health/ready")}
SCOPES = {
    ("POST", "/v1/recommend"): "recommend",
    ("GET", "/v1/similar/{item}"): "recommend",
    ("POST", "/v1/rank"): "recommend",
    ("GET", "/v1/items"): "recommend",
    ("GET", "/v1/items/{item}"): "recommend",
    ("GET", "/v1/about"): "recommend",
    ("POST", "/v1/events"): "events",
    ("GET", "/v1/users"): "admin",
    ("GET", "/v1/users/{user}"): "admin",
    ("DELETE", "/v1/users/{user}"): "admin",
    ("POST", "/v1/users/{user}/readmit"): "admin",
    ("GET", "/v1/bundles"): "admin",
    ("POST", "/v1/bundles"): "admin",
    ("POST", "/v1/rollback"): "admin",
    ("GET", "/v1/dashboard"): "admin",
    ("GET", "/metrics"): "admin",
}
"""Every route of the OpenAPI stands here, or in OPEN; one that is new and does not fails the test below."""
UNLISTED = {"/", "/page/{name}", "/openapi.json", "/docs"}
"""The page and its files, and the OpenAPI: nobody's data, so that a browser can load them before it has a key."""
BODIES: dict[str, Any] = {
    "/v1/recommend": {"user": "p3", "k": 3},
    "/v1/rank": {"user": "p3", "items": ["f1", "f2"]},
    "/v1/bundles": {"bundle": "nothing"},
}


def event(id_: str, user: str, item: str = "f7", kind: str = "click") -> dict[str, Any]:
    return {"id": id_, "kind": kind, "user": user, "item": item, "time": (datetime.now(UTC) - timedelta(minutes=1)).isoformat()}


class Guarded(NamedTuple):
    app: Any
    keys: dict[str, str]
    wrong: list[str]
    log: io.StringIO


@pytest.fixture(scope="module")
def guarded(films: Path, tmp_path_factory: pytest.TempPathFactory, application: Any) -> Iterator[Guarded]:
    """With a key for every scope; all that is logged is kept."""
    folder = tmp_path_factory.mktemp("guarded")
    bundle = Path(shutil.copytree(films, folder / "films"))
    file = folder / "keys.json"
    keys = {scope: keyring.create(file, f"of {scope}", [scope])[1] for scope in keyring.SCOPES}
    revoked, dead = keyring.create(file, "revoked", ["admin"])
    keyring.revoke(file, revoked.id)
    wrong = [dead, "palate_00000000_" + "0" * 64, keys["admin"][:-1] + ("0" if keys["admin"][-1] != "0" else "1"), "x"]
    root, stream = logging.getLogger(), io.StringIO()
    kept, level = root.handlers[:], root.level
    records.configure("DEBUG", stream)
    try:
        with application(bundle, store=str(folder / "events.db"), keys=file) as app:
            yield Guarded(app, keys, wrong, stream)
    finally:
        root.handlers[:] = kept
        root.setLevel(level)


@pytest.fixture
def free(bundle: Path, tmp_path: Path, application: Any) -> Iterator[Any]:
    """Without keys, as on a laptop."""
    with application(bundle, store=str(tmp_path / "events.db")) as app:
        yield app


def path_of(template: str) -> str:
    return template.replace("{item}", "f1").replace("{user}", "p3")


# -- keys and scopes ------------------------------------------------------------------------------------------------------------------


def test_every_route_has_a_scope(guarded: Guarded) -> None:
    listed = {(method.upper(), path) for path, methods in guarded.app.app.openapi()["paths"].items() for method in methods}
    assert listed == set(SCOPES) | OPEN
    inner = guarded.app.app.app.app.app  # Headers, Records, Limits
    unlisted = {route.path.replace(":path}", "}") for route in inner.routes} - {path for _, path in listed}
    assert unlisted <= UNLISTED


@pytest.mark.parametrize(("method", "template"), SCOPES, ids=lambda part: part)
def test_a_route_is_for_its_scope(guarded: Guarded, method: str, template: str) -> None:
    needed, path = SCOPES[method, template], path_of(template)
    body = BODIES.get(template) if template != "/v1/events" else event("e1", "nobody")
    for key in (None, *guarded.wrong):
        answer = guarded.app.ask(method, path, body, key=key)
        assert answer.status == 401, key
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert set(answer.json()) == {"error"}
    if method == "DELETE" or template in ("/v1/users/{user}/readmit", "/v1/rollback"):
        path = path.replace("p3", "somebody")
    for scope, key in guarded.keys.items():
        status = guarded.app.ask(method, path, body, key=key).status
        if scope in (needed, "admin"):
            assert status not in (401, 403), scope
        else:
            assert status == 403, scope


@pytest.mark.parametrize("path", ["/v1/recommend", "/v1/rank", "/v1/events", "/v1/bundles"])
@pytest.mark.parametrize("body", [b"{", b"[" * 100_000, b'{"user": "a", "none": 1}', b"\xff"])
def test_a_body_is_not_looked_at_without_a_key(guarded: Guarded, path: str, body: bytes) -> None:
    assert guarded.app.ask("POST", path, body).status == 401


def test_strangers_are_not_told_where_things_lie(films: Path, tmp_path: Path, application: Any) -> None:
    bundle = Path(shutil.copytree(films, tmp_path / "films"))
    (bundle / "items.parquet").write_bytes(b"damaged")
    _, key = keyring.create(tmp_path / "keys.json", "one", ["admin"])
    for keys in (None, tmp_path / "keys.json"):
        with application(bundle, ready=False, store=str(tmp_path / "events.db"), keys=keys) as app:
            until = time.monotonic() + 240
            while (answer := app.ask("GET", "/health/ready")).json()["error"] == "no bundle is loaded yet":
                assert time.monotonic() < until
                time.sleep(0.01)
            assert (answer.status, "retry-after" in answer.headers) == (503, True)
            assert (str(tmp_path) in answer.json()["error"]) == (keys is None)
            assert app.ask("GET", "/v1/about", key=key).status == 503


@pytest.mark.parametrize("user", ["%00", "p3%00", "%0a", "p3%1b[31m", "%7f", "x" * 257])
def test_ids_that_no_store_could_hold_are_refused(free: Any, user: str) -> None:
    for method, path in (("GET", f"/v1/users/{user}"), ("DELETE", f"/v1/users/{user}"), ("POST", f"/v1/users/{user}/readmit")):
        assert free.ask(method, path).status in (404, 422)  # 404: a line break is in no path
    assert free.ask("GET", f"/v1/items/{user}").status in (404, 422)
    assert free.ask("POST", "/v1/recommend", {"user": unquote(user)}).status == 422


@pytest.mark.parametrize(
    "path", ["/v1/similar/nothing", "/v1/items/nothing", "/v1/users/nobody", "/v1/items?limit=x", "/v1/users?limit=-1"]
)
def test_what_there_is_is_not_told_without_a_key(guarded: Guarded, path: str) -> None:
    assert guarded.app.ask("GET", path).status == 401


@pytest.mark.parametrize(("method", "path"), [*sorted(OPEN), ("GET", "/"), ("GET", "/openapi.json")])
def test_what_needs_no_key_holds_nobodys_data(guarded: Guarded, method: str, path: str) -> None:
    answer = guarded.app.ask(method, path)
    assert answer.status == 200
    assert not [word for word in (b"p3", b"Film 3", *(key.encode() for key in guarded.keys.values())) if word in answer.body]


def test_a_key_in_the_query_or_a_cookie_is_no_key(guarded: Guarded) -> None:
    key = guarded.keys["admin"]
    assert guarded.app.ask("GET", f"/v1/users?key={key}&access_token={key}").status == 401
    assert guarded.app.ask("GET", "/v1/users", headers={"cookie": f"key={key}; authorization=Bearer {key}"}).status == 401


def test_keys_and_people_stand_in_no_log_and_no_figure(guarded: Guarded) -> None:
    ask, admin = guarded.app.ask, guarded.keys["admin"]
    person, item, query = "ann.secret@example.com", "f7", "zebra-query"
    for key in (admin, *guarded.wrong):
        ask("POST", "/v1/recommend", {"user": person, "history": [item], "context": {"device": "zebra-device"}}, key=key)
        ask("POST", "/v1/recommend", {"user": person, "history": ["zebra-item"]}, key=key)
        ask("POST", "/v1/recommend", {"user": person, "k": -1, "zebra-field": 1}, key=key)
        ask("POST", "/v1/events", event("zebra-event", person), key=key)
        ask("POST", "/v1/events", {"id": "zebra-bad", "kind": "zebra"}, key=key)
        ask("GET", f"/v1/items?query={query}", key=key)
        ask("GET", f"/v1/users/{person}", key=key)
        ask("GET", f"/zebra-path/{person}?zebra=1", key=key)
        ask("DELETE", f"/v1/users/{person}", key=key)
        ask("GET", f"/v1/users?key={key}", key=key)
    figures = ask("GET", "/metrics", key=admin).body.decode()
    logged = guarded.log.getvalue()
    assert '"route": "/v1/users/{user}"' in logged
    for text in (figures, logged):
        secrets = [key.split("_")[-1] for key in (*guarded.keys.values(), *guarded.wrong) if key != "x"]
        assert not [word for word in (person, "ann.secret", "zebra", query, *secrets) if word in text]
    assert all(isinstance(json.loads(line), dict) for line in logged.splitlines())
    assert "Traceback" not in logged


def test_a_revoked_key_is_refused_by_a_running_service(
    bundle: Path, tmp_path: Path, application: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keyring, "LOOK_EVERY", 0.0)
    made, key = keyring.create(tmp_path / "keys.json", "one", ["recommend"])
    with application(bundle, store=str(tmp_path / "events.db"), keys=tmp_path / "keys.json") as app:
        assert app.ask("GET", "/v1/items", key=key).status == 200
        keyring.revoke(tmp_path / "keys.json", made.id)
        assert app.ask("GET", "/v1/items", key=key).status == 401
        (tmp_path / "keys.json").unlink()
        answer = app.ask("GET", "/v1/items", key=key)
        assert (answer.status, "retry-after" in answer.headers) == (503, True)
        assert str(tmp_path) not in answer.body.decode()


# -- where it listens -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.168.0.1", "example.com", "0", "127.0.0.1.example.com", "*"])
def test_an_open_bind_without_keys_is_refused(bundle: Path, tmp_path: Path, host: str) -> None:
    with pytest.raises(ConfigError, match="there are no keys"):
        run(Settings(host=host, port=0, store=str(tmp_path / "events.db")), bundle)
    assert not (tmp_path / "events.db").exists()


def test_the_command_refuses_it_in_one_line(bundle: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from palate.cli import main; main()", "serve", str(bundle), "--host", "0.0.0.0", "--port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=240)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "palate key create" in done.stderr


def test_an_open_bind_with_keys_is_let() -> None:
    Settings(host="0.0.0.0", keys=Path("keys.json")).check()
    assert Settings(host="127.0.0.1").open_bind is False


@pytest.mark.parametrize("host", ["evil.com", "evil.com:8080", "127.0.0.1.evil.com", ""])
def test_another_name_for_this_machine_is_refused(free: Any, host: str) -> None:
    """A page of evil.com that points its name to 127.0.0.1 (DNS rebinding) is of the same origin for a browser; its Host gives it away."""
    for path in ("/", "/v1/users/p3", "/v1/about", "/health/live"):
        assert free.ask("GET", path, headers={"host": host}).status == 400
    assert free.ask("GET", "/v1/about", headers={"host": "localhost:8080"}).status == 200
    assert free.ask("GET", "/v1/about", headers={"host": "[::1]:8080"}).status == 200


# -- other sites ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "template"), [*SCOPES, *sorted(OPEN), ("GET", "/")], ids=lambda part: part)
def test_there_is_no_cors_and_every_answer_has_its_headers(guarded: Guarded, method: str, template: str) -> None:
    headers = {"origin": "https://evil.com", "access-control-request-method": method, "access-control-request-headers": "authorization"}
    for how in (method, "OPTIONS"):
        answer = guarded.app.ask(how, path_of(template), headers=headers)
        assert not [name for name in answer.headers if name.startswith("access-control")]
        assert {name.decode(): value.decode() for name, value in SECURITY.items()}.items() <= answer.headers.items()
        assert "set-cookie" not in answer.headers
        if template.startswith("/v1"):
            assert answer.headers["cache-control"] == "no-store"
    if method != "GET":
        assert guarded.app.ask(method, path_of(template), headers={"origin": "https://evil.com"}).status == 403


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=a", ""])
def test_what_a_form_of_another_site_can_send_is_refused(free: Any, content_type: str) -> None:
    for path in ("/v1/recommend", "/v1/events", "/v1/bundles"):
        assert free.ask("POST", path, b'{"bundle": "films"}', headers={"content-type": content_type}).status == 415
    for path in ("/v1/rollback", "/v1/users/p3/readmit"):
        assert free.ask("POST", path, headers={"origin": "https://evil.com", "sec-fetch-site": "cross-site"}).status == 403


# -- names of bundles and of files ----------------------------------------------------------------------------------------------------


def test_no_name_of_a_bundle_leads_elsewhere(free: Any, bundle: Path, tmp_path: Path) -> None:
    outside = Path(shutil.copytree(bundle, tmp_path / "deeper" / "films"))
    beside = Path(shutil.copytree(bundle, tmp_path / "other"))
    (tmp_path / "films@000000000000").symlink_to(tmp_path / "nowhere")
    names = [
        "../films", "../../etc/passwd", str(outside), str(beside), str(bundle), "deeper/films", "other", "films/", "./films",
        "films/../films", "films@../other", "films@0", ".films.draft", "films.current", "films\0", "films\n", "FILMS", "", ".", "..", "/",
        "films/manifest.json", "%2e%2e/films", "films@000000000000", "~", "file:///etc/passwd", "\\\\host\\share", "films@" + "0" * 300,
        "ﬁlms", "*", "films@????????????",
    ]  # fmt: skip
    version = free.ask("GET", "/v1/about").json()["version"]
    for name in names:
        answer = free.ask("POST", "/v1/bundles", {"bundle": name})
        assert answer.status == 422, name
        assert str(tmp_path) not in answer.body.decode() or str(tmp_path) in name, name
    assert free.ask("GET", "/v1/about").json()["version"] == version
    assert [each["name"] for each in free.ask("GET", "/v1/bundles").json()["bundles"]] == ["films"]
    assert not (tmp_path / "films.current").exists()


@pytest.mark.parametrize(
    "path",
    [
        "/page/../../../pyproject.toml", "/page/..%2f..%2fapp.py", "/page/%2e%2e%2fkeys.py", "/page//etc/passwd", "/page/%00", "/page/",
        "/page/../app.py", "/page/..", "/page/index.html%00.js", "//etc/passwd", "/../../etc/passwd", "/page/..%5c..%5capp.py",
    ],
)  # fmt: skip
def test_no_path_leads_out_of_the_page(guarded: Guarded, path: str) -> None:
    answer = guarded.app.ask("GET", path)
    assert answer.status == 404
    assert b"import" not in answer.body


# -- sizes ----------------------------------------------------------------------------------------------------------------------------


def test_whatever_is_too_much_is_refused_in_one_line(bundle: Path, tmp_path: Path, application: Any) -> None:
    bounds = {
        "max_body": 200_000,
        "max_k": 20,
        "max_history": 10,
        "max_exclude": 10,
        "max_filters": 2,
        "max_candidates": 10,
        "max_events": 5,
    }
    with application(bundle, store=str(tmp_path / "events.db"), **bounds) as app:
        too_much: list[tuple[str, str, Any, int]] = [
            ("POST", "/v1/recommend", b" " * 200_001, 413),
            ("POST", "/v1/events", b" " * 200_001, 413),
            ("POST", "/v1/recommend", {"k": 21}, 422),
            ("POST", "/v1/recommend", {"k": 10**30}, 422),
            ("POST", "/v1/recommend", {"history": ["f1"] * 11}, 422),
            ("POST", "/v1/recommend", {"exclude": ["f1"] * 11}, 422),
            ("POST", "/v1/recommend", {"filters": ["year > 1"] * 3}, 422),
            ("POST", "/v1/recommend", {"filters": ["year > 1 and " * 100 + "year > 1"]}, 422),
            ("POST", "/v1/recommend", {"user": "x" * 257}, 422),
            ("POST", "/v1/recommend", {"context": {f"c{number}": 1 for number in range(33)}}, 422),
            ("POST", "/v1/recommend", {"placement": "x" * 65}, 422),
            ("POST", "/v1/rank", {"items": [f"f{number}" for number in range(11)]}, 422),
            ("POST", "/v1/events", [event(f"e{number}", "p1") for number in range(6)], 422),
            ("GET", "/v1/items?limit=201", None, 422),
            ("GET", "/v1/items?after=99999999999999999999999", None, 422),
            ("GET", "/v1/items?query=" + "x" * 257, None, 422),
            ("GET", "/v1/similar/f1?k=21", None, 422),
            ("GET", "/v1/users/" + "x" * 257, None, 422),
            ("GET", "/v1/dashboard?days=367", None, 422),
        ]
        for method, path, body, status in too_much:
            answer = app.ask(method, path, body)
            assert answer.status == status, (path, body, answer.body)
            assert "\n" not in answer.json()["error"]
            assert len(answer.body) < 1000
        assert app.ask("POST", "/v1/recommend", {"k": 20, "history": ["f1"] * 10}).status == 200


# -- forgotten people -----------------------------------------------------------------------------------------------------------------


def told_of(app: Any, user: str) -> str:
    """All that the service says that could hold this person."""
    said = [app.ask("GET", path).body for path in ("/v1/users?query=p&limit=200", f"/v1/users?query={user}", "/v1/dashboard", "/metrics")]
    return b" ".join(said).decode()


def test_the_forgotten_are_forgotten_everywhere(bundle: Path, tmp_path: Path, application: Any, caplog: pytest.LogCaptureFixture) -> None:
    store = tmp_path / "events.db"
    person = "p3"  # the bundle knows p3, too
    with application(bundle, store=str(store)) as app:
        for number in range(20):
            app.ask("POST", "/v1/events", event(f"unmistakable-{number}", person, f"f{number}"))
            app.ask("POST", "/v1/recommend", {"user": person})
        app.ask("POST", "/v1/events", event("hide", person, "f40", "hide"))
        held = app.ask("GET", f"/v1/users/{person}").json()
        assert held["known"]
        assert len(held["events"]) == 21
        assert app.ask("POST", "/v1/recommend", {"user": person}).json()["history"]
        assert person in app.ask("GET", "/v1/users?query=p3").json()["users"]

        gone = app.ask("DELETE", f"/v1/users/{person}").json()
        assert gone["events"] == 21
        assert gone["slates"] >= 20

        def check(app: Any) -> None:
            held = app.ask("GET", f"/v1/users/{person}").json()
            assert held == {
                "user": person, "known": False, "forgotten": True, "history": [], "hidden": [], "events": [], "slates": [],
            }  # fmt: skip
            answer = app.ask("POST", "/v1/recommend", {"user": person}).json()
            stranger = app.ask("POST", "/v1/recommend", {}).json()
            assert [entry["item"] for entry in answer["items"]] == [entry["item"] for entry in stranger["items"]]
            assert (answer["known"], answer["history"], answer["user"]) == (False, [], None)
            ranked = app.ask("POST", "/v1/rank", {"user": person, "items": ["f1", "f2", "f3"]}).json()
            assert ranked["user"] is None
            assert ranked["items"] == app.ask("POST", "/v1/rank", {"items": ["f1", "f2", "f3"]}).json()["items"]
            late = app.ask("POST", "/v1/events", [event("unmistakable-late", person), event("other", "p4")]).json()
            assert late["forgotten"] == 1  # whatever comes later of them is dropped
            assert person not in app.ask("GET", "/v1/users?query=p3&limit=200").json()["users"]
            assert f'"{person}"' not in told_of(app, person)

        check(app)
        app.ask("POST", "/v1/recommend", {"user": person})
        assert app.ask("DELETE", f"/v1/users/{person}").json() == {"events": 0, "slates": 0}  # nothing was kept meanwhile
    with application(bundle, store=str(store)) as app:  # and after a restart
        check(app)
    for file in tmp_path.glob("events.db*"):
        assert b"unmistakable" not in file.read_bytes(), file
    assert "unmistakable" not in caplog.text
    with application(bundle, store=str(store)) as app:
        assert app.ask("POST", f"/v1/users/{person}/readmit").json() == {"readmitted": True}
        assert app.ask("GET", f"/v1/users/{person}").json()["events"] == []  # what was forgotten stays so
        assert app.ask("POST", "/v1/events", event("new", person)).json()["new"] == 1


def test_who_another_process_forgot_is_not_named_while_the_store_is_away(
    bundle: Path, application: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service looks from time to time, and remembers what it saw."""
    monkeypatch.setattr(app_module, "REMEMBER_SECONDS", 0.05)
    path = tmp_path / "events.db"
    with application(bundle, store=str(path)) as app:
        marks = app.app.state.held.service.store.marks
        told: list[Any] = []
        monkeypatch.setattr(app.app.state.held.service.store, "marks", lambda before: told.append(marks(before)) or told[-1])
        with EventStore.open(path) as other:
            other.forget("p7")
            until = time.monotonic() + 240
            while not (told and other.mark("p7") in told[-1].of):
                assert time.monotonic() < until, "it does not look"
                time.sleep(0.02)
        path.rename(tmp_path / "away.db")
        answers = {user: app.ask("POST", "/v1/recommend", {"user": user}).json() for user in ("p7", "p8")}
        (tmp_path / "away.db").rename(path)
    assert (answers["p7"]["user"], answers["p7"]["history"]) == (None, [])
    assert answers["p8"]["user"] == "p8"
    assert answers["p8"]["history"]
    assert all("event store" in answer["why"] for answer in answers.values())


def test_the_openapi_says_what_the_routes_take(guarded: Guarded) -> None:
    told = guarded.app.ask("GET", "/openapi.json").json()
    assert told["openapi"].startswith("3.")
    assert told["info"]["title"] == "Palate"
    for (method, path), scope in SCOPES.items():
        operation = told["paths"][path][method.lower()]
        assert {"401", "403"} <= operation["responses"].keys(), path
        assert operation["security"] == [{scope: []}], path
        assert operation.get("description"), path

"""The service over HTTP, as a process of its own: what it answers, what an event changes, swaps under load, and how it starts and stops."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from palate.serve.shelf import Shelf


def event(number: str, **more: Any) -> dict[str, Any]:
    return {"id": number, "kind": "click", "time": datetime.now(UTC).isoformat(), **more}


@pytest.fixture(scope="module")
def client(films: Path, tmp_path_factory: pytest.TempPathFactory, running: Any) -> Iterator[httpx.Client]:
    folder = tmp_path_factory.mktemp("app")
    bundle = shutil.copytree(films, folder / "films")
    with running(Path(bundle)) as server, httpx.Client(base_url=server.url, timeout=240) as client:
        yield client


def items(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [entry["item"] for entry in answer.json()["items"]]


def test_a_click_changes_the_next_answer(client: httpx.Client) -> None:
    first = items(client.post("/v1/recommend", json={"user": "just came"}))
    told = client.post("/v1/events", json=event("e1", user="just came", item=first[0]))
    assert (told.status_code, told.json()) == (200, {"new": 1, "repeated": 0, "forgotten": 0})
    answer = client.post("/v1/recommend", json={"user": "just came"})
    assert first[0] not in items(answer)
    assert any(entry["reason"].startswith("because you opened") for entry in answer.json()["items"])
    again = client.post("/v1/events", json=[event("e1", user="just came", item=first[0]), event("e2", user="just came", item=first[1])])
    assert again.json() == {"new": 1, "repeated": 1, "forgotten": 0}


def test_every_route_answers(client: httpx.Client) -> None:
    about = client.get("/v1/about").json()
    assert about["stages"]["retrieve"] == ["popular", "item_knn", "ease"]
    assert about["stages"]["rerank"][0]["schema"]["properties"]["beta"]["maximum"] == 1
    assert len(items(client.get("/v1/similar/f3", params={"k": 4}))) == 4
    ranked = client.post("/v1/rank", json={"user": "p7", "items": ["f1", "f2"]})
    assert sorted(items(ranked)) == ["f1", "f2"]
    assert client.get("/v1/items", params={"query": "horror"}).json()["total"] > 5
    assert client.get("/v1/items/f3").json()["year"] == 1963
    assert client.get("/v1/users", params={"query": "p1", "limit": 2}).json() == {"users": ["p1", "p10"], "total": 11}
    assert len(client.get("/v1/users/p1").json()["history"]) == 12
    assert client.get("/v1/bundles").json()["current"] == "films"
    assert client.get("/health/live").json() == {"live": True}
    assert client.get("/health/ready").json()["ready"]
    assert 'palate_answers_total{policy="full"}' in client.get("/metrics").text
    assert "traffic" in client.get("/v1/dashboard").json()
    described = client.get("/openapi.json").json()
    assert {"/v1/recommend", "/v1/events", "/v1/similar/{item}", "/v1/users/{user}"} <= set(described["paths"])
    for path in ("/docs", "/page/docs.js", "/page/docs.css"):
        assert client.get(path).status_code == 200
    page = client.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'self'" in page.headers["content-security-policy"]


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "said"),
    [
        ("POST", "/v1/recommend", {"usr": "1"}, 422, "usr: no such field; leave it out"),
        ("POST", "/v1/recommend", {"user": 7}, 422, "user: input should be a valid string, got 7"),
        ("POST", "/v1/recommend", {"k": 0}, 422, "k: input should be greater than or equal to 1, got 0"),
        ("POST", "/v1/recommend", {"k": 201}, 422, "k: 201 are too many; at most 200"),
        ("POST", "/v1/recommend", {"filters": ["yaer > 1990"]}, 422, "yaer"),
        ("POST", "/v1/recommend", {"history": ["Film 33, or"]}, 422, "no such id or title; did you mean 'Film"),
        ("POST", "/v1/recommend", {"rerank": {"mmr": {"beta": 2}}}, 422, "mmr.beta: input should be less than or equal to 1"),
        ("POST", "/v1/recommend", {"context": {"weather": "rain"}}, 422, "request.context.weather: no such key"),
        ("POST", "/v1/events", {"id": "x"}, 422, "event.kind: is missing; add it"),
        ("POST", "/v1/events", [], 200, None),
        ("GET", "/v1/similar/f1000", None, 404, "item 'f1000': no such id"),
        ("GET", "/v1/similar/a/b", None, 404, "item 'a/b': no such id"),
        ("GET", "/v1/items/a%2Fb", None, 404, "item 'a/b': no such id"),
        ("GET", "/v1/users/a/b", None, 200, None),
        ("GET", "/v1/nothing", None, 404, "Not Found"),
        ("GET", "/page/..%2fapp.py", None, 404, "Not Found"),
        ("GET", "/page/app.py", None, 404, "no such page"),
        ("POST", "/v1/bundles", {"bundle": "../films"}, 422, "'../films': no such bundle; there are films"),
        ("POST", "/v1/rollback", None, 409, "films: no earlier bundle to go back to"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line(client: httpx.Client, method: str, path: str, body: Any, status: int, said: str | None) -> None:
    answer = client.request(method, path, json=body) if body is not None else client.request(method, path)
    assert answer.status_code == status, answer.text
    if said is not None:
        assert said in answer.json()["error"]
        assert "\n" not in answer.json()["error"]


def test_a_body_that_is_not_json(client: httpx.Client) -> None:
    for path in ("/v1/recommend", "/v1/events"):
        answer = client.post(path, content=b"{nothing", headers={"content-type": "application/json"})
        assert (answer.status_code, answer.json()["error"].split(":")[0]) == (422, "the body is not JSON")


def test_swapping_drops_no_request_and_going_back_is_one_call(bundle: Path, running: Any) -> None:
    shelf = Shelf(bundle)
    shutil.copytree(bundle, shelf.draft())
    manifest = json.loads((shelf.draft() / "manifest.json").read_text())
    (shelf.draft() / "manifest.json").write_text(json.dumps({**manifest, "note": "the second"}))
    second = shelf.keep(shelf.draft())
    damaged = shutil.copytree(bundle, bundle.parent / "films@0123456789ab")
    (damaged / "items.parquet").write_bytes(b"nothing")
    failures: list[str] = []
    versions: set[str] = set()
    done = threading.Event()

    def ask(url: str) -> None:
        with httpx.Client(base_url=url, timeout=240) as client:
            while not done.is_set():
                answer = client.post("/v1/recommend", json={"user": "p3", "k": 5})
                if answer.status_code != 200 or len(answer.json()["items"]) != 5:
                    failures.append(answer.text)
                versions.add(answer.json()["version"])

    with running(bundle) as server, httpx.Client(base_url=server.url, timeout=240) as client:
        threads = [threading.Thread(target=ask, args=(server.url,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            refused = client.post("/v1/bundles", json={"bundle": damaged.name})
            assert refused.status_code == 422
            assert "items.parquet is damaged" in refused.json()["error"]
            assert client.get("/v1/bundles").json()["current"] == "films"
            swapped = client.post("/v1/bundles", json={"bundle": second}).json()
            assert (swapped["current"], swapped["previous"], swapped["serving"]["name"]) == (second, ["films"], second)
            time.sleep(0.2)
            assert client.post("/v1/rollback").json()["current"] == "films"
            time.sleep(0.2)
            shelf.promote(second)  # somebody else does, such as `palate learn`: the service follows by itself
            until = time.monotonic() + 240
            while client.get("/v1/bundles").json()["serving"]["name"] != second:
                assert time.monotonic() < until
                time.sleep(0.1)
        finally:
            done.set()
            for thread in threads:
                thread.join()
        decided = [(entry["action"], entry["version"]) for entry in client.get("/v1/dashboard").json()["decisions"]]
    assert failures == []
    assert versions == {shelf.version("films"), shelf.version(second)}
    assert [action for action, _ in reversed(decided)] == ["refuse", "promote", "roll back"]


def test_a_damaged_bundle_at_the_start_gives_way_to_the_one_before(bundle: Path, running: Any) -> None:
    damaged = shutil.copytree(bundle, bundle.parent / "films@0123456789ab")
    shelf = Shelf(bundle)
    shelf.promote(damaged.name)
    (damaged / "items.parquet").write_bytes(b"nothing")
    with running(bundle) as server:
        told = httpx.get(f"{server.url}/v1/bundles", timeout=240).json()
        assert told["serving"]["name"] == "films"
        assert len(items(httpx.post(f"{server.url}/v1/recommend", json={"user": "p3"}, timeout=240))) == 10


def test_without_a_bundle_it_is_alive_and_not_ready(tmp_path: Path, running: Any) -> None:
    (tmp_path / "nothing").mkdir()
    with running(tmp_path / "nothing", wait=False) as server:
        until = time.monotonic() + 240
        while not any('"why"' in line for line in server.lines):
            assert time.monotonic() < until, server.log
            time.sleep(0.05)
        url = next(word for line in server.lines for word in line.split() if word.startswith("http://"))
        assert httpx.get(f"{url}/health/live", timeout=240).status_code == 200
        for method, path in (("GET", "/health/ready"), ("POST", "/v1/recommend")):
            answer = httpx.request(method, f"{url}{path}", json={} if method == "POST" else None)
            assert answer.status_code == 503
            assert answer.headers["retry-after"] == "1"
            assert "no such bundle" in answer.json()["error"]
        kept = httpx.post(f"{url}/v1/events", json=event("e1", user="p1", item="f1"), timeout=240)
        assert kept.json()["new"] == 1


def test_an_open_bind_without_keys_is_refused(bundle: Path, running: Any) -> None:
    with running(bundle, "--host", "0.0.0.0", wait=False) as server:
        assert server.process.wait(240) == 1
        time.sleep(0.1)
        assert "0.0.0.0 is open to other machines, and there are no keys" in server.log
        assert "Traceback" not in server.log


def test_it_stops_when_told_to_and_keeps_what_was_shown(bundle: Path, running: Any) -> None:
    from palate.feedback.store import EventStore

    with running(bundle) as server:
        answer = httpx.post(f"{server.url}/v1/recommend", json={"user": "p3"}, timeout=240).json()
        assert server.stop() in (0, -15), server.log  # uvicorn ends by the signal that it was sent, when all is done
    lines = [json.loads(line) for line in server.lines if line.startswith("{")]
    assert any(line.get("event") == "ready" for line in lines)
    assert "p3" not in server.log.replace(str(os.getpid()), "")
    with EventStore.open(bundle.parent / "films.events.db", create=False) as store:
        kept = store.slate(answer["recommendation"])
    assert kept is not None
    assert [one.item for one in kept.items] == [entry["item"] for entry in answer["items"]]

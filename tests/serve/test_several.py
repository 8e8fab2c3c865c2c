"""Two services that share a PostgreSQL store and a shelf: what one of them was told, the other knows."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from palate.feedback.store import EventStore

LONG = 240.0
Running = Callable[..., AbstractContextManager[Any]]


class Sites(NamedTuple):
    """The two, by clients of theirs; their store and their bundle."""

    one: httpx.Client
    other: httpx.Client
    store: str
    bundle: Path


@pytest.fixture(scope="module")
def sites(films: Path, postgresql: Any, running: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sites]:
    bundle = Path(shutil.copytree(films, tmp_path_factory.mktemp("several") / "films"))
    url = postgresql.fresh()
    with (
        running(bundle, "--store", url) as one,
        running(bundle, "--store", url) as other,
        httpx.Client(base_url=one.url, timeout=LONG) as first,
        httpx.Client(base_url=other.url, timeout=LONG) as second,
    ):
        yield Sites(first, second, url, bundle)


def event(name: str, user: str, item: str = "f1") -> dict[str, Any]:
    return {"id": name, "kind": "click", "user": user, "item": item, "time": datetime.now(UTC).isoformat()}


def good(answer: httpx.Response) -> Any:
    assert answer.status_code == 200, answer.text
    return answer.json()


def recommend(site: httpx.Client, user: str) -> Any:
    return good(site.post("/v1/recommend", json={"user": user}))


def items(answer: Any) -> list[str]:
    return [entry["item"] for entry in answer["items"]]


def until(check: Callable[[], bool]) -> None:
    limit = time.monotonic() + LONG
    while not check():
        assert time.monotonic() < limit
        time.sleep(0.05)


def test_what_one_is_told_counts_in_the_next_answer_of_the_other(sites: Sites) -> None:
    first = items(recommend(sites.other, "just came"))[0]
    assert good(sites.one.post("/v1/events", json=event("told", "just came", first)))["new"] == 1
    answer = recommend(sites.other, "just came")
    assert first not in items(answer)
    assert [entry["item"] for entry in answer["history"]] == [first]


def test_an_event_sent_to_both_at_once_is_kept_once(sites: Sites) -> None:
    batches = [[event(f"both {batch}-{number}", f"u{number}") for number in range(20)] for batch in range(30)]
    with ThreadPoolExecutor(4) as threads:
        sent = [threads.submit(site.post, "/v1/events", json=batch) for batch in batches for site in sites[:2]]
        kept = [good(answer.result(LONG)) for answer in sent]
    assert sum(each["new"] for each in kept) == 600
    assert sum(each["repeated"] for each in kept) == 600


def test_who_is_forgotten_by_one_is_a_stranger_to_the_other(sites: Sites) -> None:
    good(sites.one.post("/v1/events", json=event("before", "p7", "f2")))
    assert recommend(sites.other, "p7")["history"]
    assert good(sites.one.delete("/v1/users/p7"))["events"] == 1
    answer = recommend(sites.other, "p7")
    assert (answer["user"], answer["history"]) == (None, [])
    assert good(sites.other.post("/v1/events", json=event("later", "p7")))["forgotten"] == 1
    assert good(sites.other.get("/v1/users/p7"))["forgotten"]
    assert good(sites.other.post("/v1/users/p7/readmit"))["readmitted"]
    assert recommend(sites.one, "p7")["known"]


def test_a_bundle_put_into_service_at_one_is_taken_up_by_the_other(sites: Sites) -> None:
    def serving(site: httpx.Client) -> str:
        return str(good(site.get("/v1/bundles"))["serving"]["name"])

    second = "films@" + "1" * 12
    shutil.copytree(sites.bundle, sites.bundle.with_name(second))
    good(sites.one.post("/v1/bundles", json={"bundle": second}))
    until(lambda: serving(sites.other) == second)
    good(sites.other.post("/v1/rollback"))
    until(lambda: serving(sites.one) == "films")
    actions = [entry["action"] for entry in good(sites.one.get("/v1/dashboard"))["decisions"]]
    assert actions[:2] == ["roll back", "promote"]


def test_the_death_of_one_loses_nothing_and_leaves_the_other_at_work(sites: Sites, running: Running) -> None:
    """Under load, kill -9: whoever was being answered by it sends the same again to the other."""
    acknowledged: list[str] = []
    done = threading.Event()
    with running(sites.bundle, "--store", sites.store) as doomed:

        def send(sender: int) -> None:
            with httpx.Client(base_url=doomed.url, timeout=LONG) as client:
                number = 0
                while not done.is_set():
                    batch = [event(f"load {sender}-{number}-{place}", f"sender{sender}") for place in range(10)]
                    number += 1
                    try:
                        good(client.post("/v1/events", json=batch))
                    except httpx.TransportError:
                        good(sites.other.post("/v1/events", json=batch))
                    acknowledged.extend(each["id"] for each in batch)
                    recommend(sites.other, f"sender{sender}")

        with ThreadPoolExecutor(3) as threads:
            senders = [threads.submit(send, sender) for sender in range(3)]
            until(lambda: len(acknowledged) > 200)
            doomed.kill()
            before = len(acknowledged)
            until(lambda: len(acknowledged) > before + 200)
            done.set()
            for sender in senders:
                sender.result(LONG)
    with EventStore.open(sites.store) as store:
        found = [each.id for each in store.events(limit=1_000_000)[0] if each.id.startswith("load ")]
    assert len(found) == len(set(found))
    assert set(acknowledged) <= set(found)

"""The same answer offline and online: 1,000 requests through the funnel and through HTTP, several at a time."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx

from palate.serve import bundle as bundles
from palate.types import Request

REQUESTS = 1000


def asked(rng: random.Random) -> dict[str, Any]:
    body: dict[str, Any] = {"k": rng.choice([1, 3, 10, 25])}
    who = rng.random()
    if who < 0.6:
        body["user"] = f"p{rng.randrange(60)}"
    elif who < 0.7:
        body["user"] = "somebody new"
    if who > 0.5:
        body["history"] = [f"f{rng.randrange(80)}" for _ in range(rng.randrange(6))]
    if rng.random() < 0.3:
        body["filters"] = [rng.choice(["year >= 1990", 'genres has "Drama"', 'genres != "Horror"'])]
    if rng.random() < 0.3:
        body["exclude"] = [f"f{rng.randrange(80)}" for _ in range(3)]
    if rng.random() < 0.2:
        body["seen"] = True
    return body


def test_a_thousand_requests_are_answered_alike(bundle: Path, running: Any) -> None:
    funnel, manifest = bundles.load(bundle)
    rng = random.Random(0)
    bodies = [asked(rng) for _ in range(REQUESTS)]
    with running(bundle) as server, httpx.Client(base_url=server.url, timeout=240) as client:

        def send(body: dict[str, Any]) -> dict[str, Any]:
            answer = client.post("/v1/recommend", json=body)
            assert answer.status_code == 200, answer.text
            return dict(answer.json())

        with ThreadPoolExecutor(4) as threads:
            answers = list(threads.map(send, bodies))
    slates = funnel.recommend(
        [Request(**{key: tuple(value) if isinstance(value, list) else value for key, value in body.items()}) for body in bodies]
    )
    assert manifest["data"]["name"] == "films"
    for body, answer, slate in zip(bodies, answers, slates, strict=True):
        assert [entry["item"] for entry in answer["items"]] == list(slate.items), body
        assert [entry["score"] for entry in answer["items"]] == list(slate.scores)
        assert [entry["probabilities"] for entry in answer["items"]] == [dict(each) for each in slate.probabilities]
        assert [entry["sources"] for entry in answer["items"]] == [dict(each) for each in slate.found]
        assert [entry["reason"] for entry in answer["items"]] == list(slate.reasons)
        assert answer["policy"] == "full"

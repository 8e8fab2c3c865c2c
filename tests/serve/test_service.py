"""The service without HTTP: the same slates as the funnel, what an event changes, limits, people, items, an A/B test, fallback."""

from __future__ import annotations

import shutil
import threading
import time
import weakref
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from palate.feedback.ab import Experiment, Layer
from palate.feedback.events import parse_events
from palate.feedback.store import EventStore
from palate.serve.person import clock
from palate.serve.pool import Ticket
from palate.serve.schemas import Rank, Recommend
from palate.serve.service import NotFound, Service
from palate.types import BundleError, ConfigError, DataError, Request

NOW = datetime(2026, 11, 23, 9, 30, tzinfo=UTC)
Serving = Callable[..., Service]


def ask(service: Service, now: datetime = NOW, **asked: Any) -> dict[str, Any]:
    answer = service.recommend(Recommend(**asked), now)
    assert answer is not None
    return answer


def items(answer: dict[str, Any]) -> list[str]:
    return [entry["item"] for entry in answer["items"]]


def tell(service: Service, *events: dict[str, Any]) -> None:
    sent = [
        {"id": f"e{place}-{event['user']}-{event.get('item')}-{event['kind']}", "time": NOW.isoformat(), **event}
        for place, event in enumerate(events)
    ]
    assert service.store.append(parse_events(sent)).new == len(events)


def test_the_funnel_says_the_same(serving: Serving) -> None:
    service = serving()
    for asked in (
        Recommend(user="p7"),
        Recommend(user="nobody", history=["f3", "f9"], k=5),
        Recommend(history=["f3"], filters=["year >= 1990"], exclude=["f11"]),
        Recommend(context={}, user=None, k=3),
        Recommend(user="p8", seen=True),
    ):
        answer = service.recommend(asked, NOW)
        assert answer is not None
        slate = service.served.funnel.recommend([service.request_of(asked, NOW, answer["recommendation"])])[0]
        assert items(answer) == list(slate.items)
        assert [entry["score"] for entry in answer["items"]] == list(slate.scores)
        assert [entry["probabilities"] for entry in answer["items"]] == [dict(each) for each in slate.probabilities]
        assert [entry["reason"] for entry in answer["items"]] == list(slate.reasons)


def test_an_answer_says_what_it_is(serving: Serving) -> None:
    answer = ask(serving(), user="p7", k=4)
    assert len(answer["recommendation"]) == 32
    assert len(answer["version"]) == 12
    assert answer["known"]
    assert (answer["policy"], answer["why"], answer["stages"]) == ("full", None, None)
    assert [entry["position"] for entry in answer["items"]] == [0, 1, 2, 3]
    first = answer["items"][0]
    assert first["source"] in first["sources"]
    assert min(first["sources"].values()) >= 1
    assert 0 < first["probabilities"]["label"] < 1
    assert first["propensity"] == 1.0
    assert first["reason"].startswith("because you opened Film")
    assert len(answer["history"]) == 12


def test_an_event_changes_the_next_answer(serving: Serving) -> None:
    service = serving()
    before = ask(service, user="new")
    assert not before["known"]
    clicked = items(before)[0]
    tell(service, {"user": "new", "item": clicked, "kind": "play", "value": 60})
    after = ask(service, user="new")
    assert clicked not in items(after)
    assert items(after) != items(before)
    assert after["history"] == [{"item": clicked, "title": before["items"][0]["title"], "kind": "play"}]
    assert any(entry["reason"].startswith("because you watched Film") for entry in after["items"])


def test_what_is_hidden_never_comes_back_until_it_is_liked(serving: Serving) -> None:
    service = serving()
    shown = items(ask(service, user="p7"))[0]
    tell(service, {"user": "p7", "item": shown, "kind": "hide"})
    assert shown not in items(ask(service, user="p7", k=50, seen=True))
    tell(service, {"user": "p7", "item": shown, "kind": "like"})
    assert shown in items(ask(service, user="p7", k=70, seen=True))


def test_a_rating_below_what_the_bundle_calls_wanted_is_no_history_but_is_seen(serving: Serving) -> None:
    service = serving()
    from dataclasses import replace

    from palate.serve.person import Rule

    service._served = replace(service.served, rule=Rule(least=3.5))
    first, second = items(ask(service, user="new"))[:2]
    tell(
        service, {"user": "new", "item": first, "kind": "rating", "value": 2}, {"user": "new", "item": second, "kind": "rating", "value": 4}
    )
    answer = ask(service, user="new")
    assert [entry["item"] for entry in answer["history"]] == [second]
    assert not {first, second} & set(items(answer))


def test_items_that_the_bundle_does_not_know_are_passed_over(serving: Serving) -> None:
    service = serving()
    tell(service, {"user": "p7", "item": "made yesterday", "kind": "click"})
    assert items(ask(service, user="p7")) == items(ask(service, user="p7", exclude=["made yesterday"]))
    told = service.user("p7")
    assert told["history"][-1]["item"] == "made yesterday"


def test_knobs_of_one_request(serving: Serving) -> None:
    service = serving()
    plain, mixed = ask(service, user="p7"), ask(service, user="p7", rerank={"mmr": {"beta": 0.9}})
    assert items(plain) != items(mixed)
    assert items(ask(service, user="p7")) == items(plain)
    off = ask(service, user="p7", rerank={"mmr": None}, stages=True)
    ranked = next(stage for stage in off["stages"] if stage["name"] == "ranked")
    assert items(off) == [entry["item"] for entry in ranked["items"]][:10]
    with pytest.raises(ConfigError, match=r"rerank\.mrm: no such key; did you mean .mmr"):
        ask(service, user="p7", rerank={"mrm": {}})
    with pytest.raises(ConfigError, match=r"mmr\.bta: no such key; did you mean .beta"):
        ask(service, user="p7", rerank={"mmr": {"bta": 1}})
    with pytest.raises(ConfigError, match="a request cannot change it"):
        ask(service, user="p7", rerank={"mmr": {"column": "year"}})


def test_stages_of_an_answer(serving: Serving) -> None:
    answer = ask(serving(), user="p7", stages=True, k=5)
    assert [stage["name"] for stage in answer["stages"]] == ["popular", "item_knn", "ease", "merged", "ranked", "mmr", "slate"]
    assert [entry["item"] for entry in answer["stages"][-1]["items"]] == items(answer)


def test_slates_are_recorded_unless_it_is_a_preview(serving: Serving) -> None:
    service = serving()
    shown = ask(service, user="p7", placement="home", k=3)
    ask(service, user="p7", record=False)
    service.writer.flush(240)  # type: ignore[attr-defined]
    kept, _ = service.store.slates()
    assert [(slate.recommendation, slate.user, slate.placement, slate.version) for slate in kept] == [
        (shown["recommendation"], "p7", "home", shown["version"])
    ]
    assert [(one.item, one.propensity, one.source) for one in kept[0].items] == [
        (entry["item"], entry["propensity"], entry["source"]) for entry in shown["items"]
    ]
    assert kept[0].context == {"palate.policy": "full", "palate.log_propensity": 0.0}


def test_what_nobody_waits_for_is_not_recorded(serving: Serving) -> None:
    service, ticket = serving(), Ticket()
    ticket.claim()
    assert service.recommend(Recommend(user="p7"), NOW, ticket) is None
    service.writer.flush(240)  # type: ignore[attr-defined]
    assert service.store.slates()[0] == []


def test_the_fallback_says_so(serving: Serving) -> None:
    answer = serving().fallback(Recommend(user="p7", k=5, filters=["year >= 1990"]), NOW, "the ranker was late")
    assert (answer["policy"], answer["why"]) == ("fallback", "the ranker was late")
    assert [entry["sources"] for entry in answer["items"]] == [{"popular": rank + 1} for rank in range(5)]
    assert [entry["probabilities"] for entry in answer["items"]] == [{}] * 5


def test_the_fallback_does_not_hang_with_the_store(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    service, back, asked = serving(deadline_ms=100.0), threading.Event(), []
    person = service.store.person

    def hangs(user: str, **more: Any) -> Any:
        asked.append(user)
        assert back.wait(240)
        return person(user, **more)

    with monkeypatch.context() as patched:
        patched.setattr(service.store, "person", hangs)
        for _ in range(3):
            answer = service.fallback(Recommend(user="p7", k=5), NOW, "too many requests at once")
            assert len(answer["items"]) == 5
            assert answer["why"].startswith("too many requests at once; the event store cannot be asked")
        assert len(asked) < 3  # who has seen somebody wait in vain does not ask any more
        back.set()
    limit = time.monotonic() + 240
    while "event store" in service.fallback(Recommend(user="p7", k=5), NOW, "late")["why"]:
        assert time.monotonic() < limit


def test_limits_are_said(serving: Serving) -> None:
    service = serving(max_k=5, max_history=2, max_exclude=1, max_filters=1, max_candidates=2)
    for asked, said in (
        ({"k": 6}, "k: 6 are too many; at most 5"),
        ({"history": ["f1", "f2", "f3"]}, "history: 3 items are too many; at most 2"),
        ({"exclude": ["f1", "f2"]}, "exclude: 2 are too many"),
        ({"filters": ["year > 1", "year > 2"]}, "filters: 2 are too many"),
        ({"context": {"palate.seed": 7}}, "context.palate.seed: names that begin with `palate.`"),
    ):
        with pytest.raises(ConfigError, match=said.replace(".", r"\.").replace("(", r"\(")):
            ask(service, **{"k": 3, **asked})
    with pytest.raises(ConfigError, match="items: 3 are too many"):
        service.rank(Rank(items=["f1", "f2", "f3"]), NOW)


def test_given_items_are_ranked(serving: Serving) -> None:
    service = serving()
    ranked = service.rank(Rank(user="p7", items=["f1", "f2", "f3", "f4"]), NOW)
    assert {entry["item"] for entry in ranked["items"]} == {"f1", "f2", "f3", "f4"}
    scores = [entry["score"] for entry in ranked["items"]]
    assert scores == sorted(scores, reverse=True)
    with pytest.raises(DataError, match="'f1' stands twice"):
        service.rank(Rank(items=["f1", "f1"]), NOW)
    with pytest.raises(DataError, match="no such id or title"):
        service.rank(Rank(items=["nothing"]), NOW)


def test_similar_items_are_of_the_same_kind(serving: Serving) -> None:
    service = serving()
    told = service.similar("f3", 8)
    kind = told["title"].rpartition(" ")[2]
    assert sum(entry["title"].endswith(kind) for entry in told["items"]) >= 6
    assert "f3" not in [entry["item"] for entry in told["items"]]
    with pytest.raises(NotFound, match="'f300': no such id"):
        service.similar("f300", 8)


def test_who_is_forgotten_is_a_stranger(serving: Serving) -> None:
    service = serving()
    tell(service, {"user": "p7", "item": "f1", "kind": "click"})
    stranger = items(ask(service, user="never seen"))
    assert items(ask(service, user="p7")) != stranger
    assert service.forget("p7") == {"events": 1, "slates": 0}
    answer = ask(service, user="p7")
    assert items(answer) == stranger
    assert (answer["user"], answer["known"], answer["history"]) == (None, False, [])
    told = service.user("p7")
    assert (told["forgotten"], told["known"], told["history"], told["events"]) == (True, False, [], [])
    assert "p7" not in service.users("p7", 20)["users"]
    assert service.readmit("p7") == {"readmitted": True}
    assert ask(service, user="p7")["known"]


def test_who_is_forgotten_is_a_stranger_also_while_the_store_is_away(
    serving: Serving, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever did the forgetting: another process, or this one before it was started again."""
    service = serving()
    stranger = items(ask(service, user="never seen"))
    with EventStore.open(tmp_path / "events.db") as other:
        other.forget("p7")
    service.remember()
    again = serving()
    away = (tmp_path / "events.db").rename(tmp_path / "away.db")
    for each in (service, again):
        answer = ask(each, user="p7")
        assert "event store" in answer["why"]
        assert (answer["user"], answer["history"], items(answer)) == (None, [], stranger)
        assert ask(each, user="p8")["history"]
        for _ in range(3):
            each.remember()  # nothing can be read, so what was read stays
        assert items(ask(each, user="p7")) == stranger
    assert [record.getMessage() for record in caplog.records if record.name == "palate.serve"] == ["forgotten not read"] * 2
    away.rename(tmp_path / "events.db")
    assert service.readmit("p7") == {"readmitted": True}
    assert ask(service, user="p7")["known"]


def test_people_and_items_are_found(serving: Serving) -> None:
    service = serving()
    assert service.users("p5", 3) == {"users": ["p5", "p50", "p51"], "total": 11}
    found = service.items("DRAMA", 5, 0)
    assert all(entry["title"].endswith("Drama") for entry in found["items"])
    assert found["next"] == 5
    events = [entry["events"] for entry in found["items"]]
    assert events == sorted(events, reverse=True)
    assert service.item("f3")["year"] == 1963
    assert service.about()["columns"] == [
        {"name": "title", "type": "text"},
        {"name": "genres", "type": "list"},
        {"name": "year", "type": "number"},
    ]


def test_arms_of_an_experiment_change_the_knobs_and_are_recorded(serving: Serving) -> None:
    layer = Layer(name="slate", experiments=(Experiment(name="diversity", arms={"plain": 1, "mixed": 1}),))
    service = serving(layer=layer, arms={"mixed": {"mmr": {"beta": 0.9}}})
    answers = [ask(service, user=f"p{person}") for person in range(20)]
    assert {answer["arm"] for answer in answers} == {"plain", "mixed"}
    assert {answer["experiment"] for answer in answers} == {"diversity"}
    for person, answer in enumerate(answers):
        beta = 0.9 if answer["arm"] == "mixed" else 0.2
        served = service.served.knobs({"mmr": {"beta": beta}})
        slate = served.recommend([service.request_of(Recommend(user=f"p{person}"), NOW, answer["recommendation"])])[0]
        assert items(answer) == list(slate.items)
    assert ask(service)["arm"] is None  # nobody is in no test


def test_the_clock_of_an_old_log_stands_still() -> None:
    day = 86_400_000_000
    end = 1_700_000_000_000_000
    moment = datetime.fromtimestamp((end + 10 * day) / 1e6, UTC)
    assert clock("auto", end, 90)(moment) == end + 10 * day
    assert clock("auto", end, 9)(moment) is None
    assert clock("log", end, 90)(moment) is None
    assert clock("wall", end, 9)(moment) == end + 10 * day
    assert clock("wall", end + 20 * day, 9)(moment) == end + 20 * day  # a log from the future has happened already


def test_the_clock_of_a_fresh_log_gives_events_their_times(serving: Serving) -> None:
    service = serving(clock="wall")
    tell(service, {"user": "p7", "item": "f1", "kind": "click"})
    asked = service.request_of(Recommend(user="p7", history=["f2"]), NOW, "0" * 32)
    micros = int(NOW.timestamp()) * 1_000_000
    assert (asked.history, asked.times, asked.now) == (("f1", "f2"), (micros, micros), micros)


def test_the_service_has_settings_of_its_own_over_which_a_request_goes(serving: Serving) -> None:
    plain = serving()
    service = serving(rerank={"mmr": {"beta": 0.9, "pool": 30}})
    assert items(ask(service, user="p7")) == items(ask(plain, user="p7", rerank={"mmr": {"beta": 0.9, "pool": 30}}))
    assert items(ask(service, user="p7", rerank={"mmr": {"beta": 0.2}})) == items(ask(plain, user="p7", rerank={"mmr": {"pool": 30}}))
    with pytest.raises(BundleError, match=r"films: the settings of this service do not fit it: rerank\.dpp: no such key"):
        serving(rerank={"dpp": {"theta": 0.5}})


def test_what_the_store_cannot_hold_is_answered_all_the_same(serving: Serving, caplog: pytest.LogCaptureFixture) -> None:
    """Titles may be of any length; an id that the store would not take keeps a slate out of it, and the log says so."""
    service = serving()
    funnel = service.served.funnel
    funnel.names[:] = [f"{name} {'and on ' * 200}" for name in funnel.names]
    answer = ask(service, user="p7", k=3)
    assert all(len(entry["reason"]) > 512 for entry in answer["items"])
    service.writer.flush(240)  # type: ignore[attr-defined]
    kept = service.store.slate(answer["recommendation"])
    assert kept is not None
    assert [one.reason for one in kept.items] == [entry["reason"][:512] for entry in answer["items"]]
    funnel.item_ids[:] = [f"{item}-{'x' * 300}" for item in funnel.item_ids]
    slate = funnel.recommend([Request(user="p7", k=3)])[0]
    service._record(slate, recommendation="r1", time=NOW, version="v1")
    service.writer.flush(240)  # type: ignore[attr-defined]
    assert service.store.slate("r1") is None
    assert [record.getMessage() for record in caplog.records if record.name == "palate.serve"] == ["slate not recorded"]


def test_bundles_that_were_replaced_are_let_go(serving: Serving, bundle: Path) -> None:
    """Also what only the garbage collector finds: what is frozen for it is thawed before the next bundle is."""
    for number in range(4):
        shutil.copytree(bundle, bundle.with_name(f"films@{number:012x}"))
    service = serving()
    seen = []
    for number in range(4):
        vars(service.served.funnel)["itself"] = service.served.funnel  # a circle, such as networks are full of
        seen.append(weakref.ref(service.served.funnel))
        service.swap(f"films@{number:012x}")
        ask(service, user="p3")
    seen.append(weakref.ref(service.served.funnel))
    assert seen[-1]() is service.served.funnel
    assert [funnel() for funnel in seen[:-2]] == [None] * 3

"""Figures: what is counted is read back, labels are few, two applications do not share."""

from __future__ import annotations

import re
import time

import pytest
from prometheus_client.parser import text_string_to_metric_families

from palate.serve.telemetry import Telemetry


def figures(telemetry: Telemetry) -> dict[tuple[str, ...], float]:
    """By name and labels; the labels in the order of the alphabet of their names, as they are written."""
    body, _ = telemetry.render()
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }


def test_requests_by_route_method_and_status() -> None:
    telemetry = Telemetry()
    telemetry.request("/v1/recommend", "POST", 200, 0.004)
    telemetry.request("/v1/recommend", "POST", 200, 0.2)
    telemetry.request("/v1/users/{id}", "GET", 404, 0.001)
    read = figures(telemetry)
    assert read["palate_requests_total", "POST", "/v1/recommend", "200"] == 2
    assert read["palate_requests_total", "GET", "/v1/users/{id}", "404"] == 1
    assert read["palate_request_seconds_count", "/v1/recommend"] == 2
    assert read["palate_request_seconds_sum", "/v1/recommend"] == pytest.approx(0.204)
    assert read["palate_request_seconds_bucket", "0.005", "/v1/recommend"] == 1


def test_stages_answers_and_events() -> None:
    telemetry = Telemetry()
    before = figures(telemetry)
    assert before["palate_answers_total", "fallback"] == 0  # read before it happens, so that a rate can be taken
    assert before["palate_stage_seconds_count", "rank"] == 0
    telemetry.stage("rank", 0.003)
    with telemetry.timing("store"):
        time.sleep(0.002)
    with pytest.raises(ValueError, match="late"), telemetry.timing("store"):
        raise ValueError("late")
    telemetry.answered("full")
    telemetry.answered("fallback")
    telemetry.answered("fallback")
    telemetry.events(new=5, repeated=2)
    telemetry.events(new=1, forgotten=3)
    read = figures(telemetry)
    assert read["palate_stage_seconds_sum", "rank"] == pytest.approx(0.003)
    assert read["palate_stage_seconds_count", "store"] == 2
    assert read["palate_stage_seconds_sum", "store"] >= 0.002
    assert (read["palate_answers_total", "full"], read["palate_answers_total", "fallback"]) == (1, 2)
    assert [read["palate_events_total", outcome] for outcome in ("new", "repeated", "forgotten")] == [6, 2, 3]


def test_one_bundle_answers() -> None:
    telemetry = Telemetry()
    telemetry.bundle("aaaaaaaaaaaa", "demo")
    telemetry.bundle("bbbbbbbbbbbb", "demo@2")
    told = {key[1:]: value for key, value in figures(telemetry).items() if key[0] == "palate_bundle_info"}
    assert told == {("demo@2", "bbbbbbbbbbbb"): 1}


def test_queue_and_dropped_are_read_when_asked_for() -> None:
    telemetry, waiting = Telemetry(), [1, 2, 3]
    assert figures(telemetry)["palate_slates_dropped_total",] == 0
    telemetry.watch_queue("writer", lambda: len(waiting))
    telemetry.watch_dropped(lambda: 7)
    assert figures(telemetry)["palate_queue_length", "writer"] == 3
    waiting.pop()
    read = figures(telemetry)
    assert read["palate_queue_length", "writer"] == 2
    assert read["palate_slates_dropped_total",] == 7


def test_memory_of_the_process() -> None:
    assert figures(Telemetry())["process_resident_memory_bytes",] > 1e6


def test_two_applications_do_not_share() -> None:
    one, other = Telemetry(), Telemetry()
    one.answered("full")
    assert figures(other)["palate_answers_total", "full"] == 0


def test_the_page_is_what_prometheus_reads() -> None:
    body, content_type = Telemetry().render()
    assert content_type.startswith("text/plain; version=")
    assert re.search(rb"^# TYPE palate_requests counter$|^# TYPE palate_requests_total counter$", body, re.MULTILINE)

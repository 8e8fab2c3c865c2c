"""What Prometheus reads: counts, times, and what is loaded. Labels are few and fixed: no person, item, key or path is ever one.

palate_requests_total{route, method, status}    palate_request_seconds{route}      palate_stage_seconds{stage}
palate_answers_total{policy}                    palate_events_total{outcome}       palate_slates_dropped_total
palate_queue_length{queue}                      palate_bundle_info{version, name}  process_resident_memory_bytes and the like
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from time import perf_counter
from typing import Literal, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

Stage = Literal["store", "retrieve", "rank", "rerank", "reasons", "other"]
Policy = Literal["full", "fallback"]
Outcome = Literal["new", "repeated", "forgotten"]
SECONDS = (0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
STAGE_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0)


class Telemetry:
    """The figures of one application, in a registry of its own. Thread-safe; each call costs some microseconds at most."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._requests = Counter("palate_requests", "Requests answered.", ("route", "method", "status"), registry=self.registry)
        self._seconds = Histogram(
            "palate_request_seconds", "Time to answer, from a whole head to the end.", ("route",), registry=self.registry, buckets=SECONDS
        )
        stages = Histogram(
            "palate_stage_seconds", "Time in a stage of an answer.", ("stage",), registry=self.registry, buckets=STAGE_SECONDS
        )
        answers = Counter("palate_answers", "Recommendations, by what made them.", ("policy",), registry=self.registry)
        events = Counter("palate_events", "Events received.", ("outcome",), registry=self.registry)
        # Made now, so that what has not happened yet reads 0.
        self._stages: Mapping[Stage, Histogram] = {name: stages.labels(name) for name in get_args(Stage)}
        self._answers: Mapping[Policy, Counter] = {name: answers.labels(name) for name in get_args(Policy)}
        self._events: Mapping[Outcome, Counter] = {name: events.labels(name) for name in get_args(Outcome)}
        self._bundle = Gauge("palate_bundle_info", "1 for the bundle that answers.", ("version", "name"), registry=self.registry)
        self._bundle_lock = threading.Lock()
        self._read = _Read()
        self.registry.register(self._read)

    def request(self, route: str, method: str, status: int, seconds: float) -> None:
        """A request was answered. route: its template, never its path."""
        self._requests.labels(route, method, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def stage(self, name: Stage, seconds: float) -> None:
        """A stage of an answer took so long."""
        self._stages[name].observe(seconds)

    @contextmanager
    def timing(self, name: Stage) -> Iterator[None]:
        """`with telemetry.timing("store"): ...`: the time of a block, also of one that fails."""
        started = perf_counter()
        try:
            yield
        finally:
            self.stage(name, perf_counter() - started)

    def answered(self, policy: Policy) -> None:
        """A recommendation was made, by the whole funnel or by the cheaper one."""
        self._answers[policy].inc()

    def events(self, *, new: int = 0, repeated: int = 0, forgotten: int = 0) -> None:
        """Events were appended: what the store said of them."""
        counts: Mapping[Outcome, int] = {"new": new, "repeated": repeated, "forgotten": forgotten}
        for name, count in counts.items():
            if count:
                self._events[name].inc(count)

    def bundle(self, version: str, name: str = "") -> None:
        """This bundle answers from now on."""
        with self._bundle_lock:
            self._bundle.clear()
            self._bundle.labels(version, name).set(1)

    def watch_queue(self, name: str, length: Callable[[], float]) -> None:
        """A queue whose length is asked for whenever the figures are read, such as `writer`."""
        self._read.queues[name] = length

    def watch_dropped(self, total: Callable[[], float]) -> None:
        """How many slates were not recorded since the start, asked for likewise."""
        self._read.dropped = total

    def render(self) -> tuple[bytes, str]:
        """The page of figures and its content type."""
        return generate_latest(self.registry), CONTENT_TYPE_LATEST


class _Read(Collector):
    """What is counted elsewhere and read when it is asked for."""

    def __init__(self) -> None:
        self.queues: dict[str, Callable[[], float]] = {}
        self.dropped: Callable[[], float] = lambda: 0

    def collect(self) -> Iterator[Metric]:
        lengths = GaugeMetricFamily("palate_queue_length", "What waits.", labels=["queue"])
        for name, length in list(self.queues.items()):
            lengths.add_metric([name], length())
        yield lengths
        yield CounterMetricFamily("palate_slates_dropped", "Slates that were shown and not recorded.", value=self.dropped())

"""What the service answers, without HTTP: from a question in the words of `schemas` to an answer as plain values.

    service = Service(Shelf("demo"), store, writer, Settings())
    service.start()
    service.recommend(Recommend(user="42", k=10), now)["items"][0]["reason"]

Every method may be called from any thread. An answer is made from one bundle, whatever happens to the shelf meanwhile.
"""

from __future__ import annotations

import functools
import gc
import logging
import os
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Protocol

import numpy as np
import polars as pl
import pydantic

from palate.errors import StoreError
from palate.features.spec import DAY
from palate.feedback.events import ShownSlate, micros, moment
from palate.feedback.store import Decision, EventStore, Marks
from palate.funnel import VERBS, Funnel
from palate.serve import served as bundles
from palate.serve.person import Known, Patience, clock, look_up, request, within
from palate.serve.pool import Ticket
from palate.serve.schemas import Asker, Rank, Recommend
from palate.serve.served import Served
from palate.serve.settings import Settings
from palate.serve.shelf import Shelf
from palate.serve.telemetry import Policy, Stage
from palate.types import NOTHING, BundleError, Candidates, ConfigError, DataError, PalateError, Queries, Request, Slate

LONGEST = 512
"""Letters of a reason that the store keeps."""
SHOWN = 50
"""Items of a stage that an answer shows, and of a history."""
MONTH = 30 * DAY
"""Microseconds: so old impressions still count as seen in vain."""

WITHOUT_STORE = "the event store cannot be asked: only what the bundle learnt is known"


class NotFound(PalateError):  # noqa: N818 - as HTTP calls it
    """Nothing has this id."""


class Keeps(Protocol):
    """Where slates go: `palate.serve.writer.Writer` is one."""

    def slate(self, shown: ShownSlate) -> bool: ...


class Watches(Protocol):
    """Who counts: `palate.serve.telemetry.Telemetry` is one."""

    def stage(self, name: Stage, seconds: float) -> None: ...

    def answered(self, policy: Policy) -> None: ...


class Service:
    """One shelf of bundles and one event store. `start` loads the bundle in service and warms it up; until then nothing is answered."""

    def __init__(
        self,
        shelf: Shelf,
        store: EventStore,
        writer: Keeps,
        settings: Settings = Settings(),
        *,
        trust: Sequence[str] = (),
        watch: Watches | None = None,
    ) -> None:
        self.shelf, self.store, self.writer, self.settings, self.trust, self.watch = shelf, store, writer, settings, tuple(trust), watch
        self._served: Served | None = None
        self._swapping = threading.Lock()
        self._gone: Marks | None = None
        self._blind = False
        self._patience = Patience(settings.deadline_ms / 2000 or 5.0)

    # -- bundles ------------------------------------------------------------------------------------------------------------------

    def start(self) -> Served:
        """Loads the bundle in service; if it is damaged, the last one before it that is not, and writes that down."""
        self.remember()
        pointer = self.shelf.pointer()
        names = [pointer.bundle, *reversed(pointer.previous)]
        first: BundleError | None = None
        for name in names:
            try:
                self._served = self._load(name)
            except BundleError as error:
                first = first or error
                continue
            if first is not None:
                self._decide("fall back", self._served.version, None, f"{pointer.bundle} cannot be served: {first}")
            return self._served
        assert first is not None
        raise first

    @property
    def ready(self) -> bool:
        """Whether a bundle is loaded and warm."""
        return self._served is not None

    @property
    def served(self) -> Served:
        """The bundle that answers now."""
        if self._served is None:
            raise BundleError("the service is not ready: no bundle is loaded yet")
        return self._served

    def swap(self, name: str) -> Served:
        """Puts another bundle of the shelf into service: loaded, checked and warm before the first request goes to it."""
        return self._replace(name, "promote", lambda: self.shelf.promote(name), "asked for")

    def roll_back(self) -> Served:
        """Puts the bundle before into service again; where that is damaged, the one before it."""
        pointer = self.shelf.pointer()
        there = [name for name in pointer.previous if name in self.shelf.names()]
        if not there:
            raise BundleError(f"{pointer.bundle}: no earlier bundle to go back to")
        refused: BundleError | None = None
        for name in reversed(there):
            try:
                return self._replace(name, "roll back", functools.partial(self.shelf.roll_back, name), "asked for")
            except Swapping:
                raise
            except BundleError as error:
                refused = refused or error
        assert refused is not None
        raise refused

    def follow(self) -> Served | None:
        """Takes up what the shelf points to, if that has changed. Returns the new bundle; None if there is nothing new."""
        name = self.shelf.current()
        if self._served is not None and name == self._served.name:
            return None
        return self._replace(name, "", lambda: None, "the shelf points to it")

    def _replace(self, name: str, action: str, point: Any, reason: str) -> Served:
        if not self._swapping.acquire(blocking=False):
            raise Swapping("another bundle is being loaded; wait until that is done")
        try:
            before = self._served
            try:
                fresh = self._load(name)
            except BundleError as error:
                self._decide("refuse", name.rpartition("@")[2][:128], before.version if before else None, str(error))
                raise
            point()
            self._served = fresh
            if action:
                self._decide(action, fresh.version, before.version if before else None, reason)
            return fresh
        finally:
            self._swapping.release()

    def _load(self, name: str) -> Served:
        """A bundle that can answer with the settings of this service and of each arm."""
        served = bundles.load(self.shelf, name, self.trust)
        # What was loaded stays: the collector of garbage need not walk through a million items again and again. What was set aside so for
        # an earlier bundle is looked through once more, or no bundle that was replaced would ever be let go.
        gc.unfreeze()
        gc.collect()
        gc.freeze()
        try:
            for arm in ({}, *self.settings.arms.values()):
                served.knobs(together(self.settings.rerank, arm))
        except ConfigError as error:
            raise BundleError(f"{name}: the settings of this service do not fit it: {error}") from None
        return served

    def _decide(self, action: str, version: str, against: str | None, reason: str) -> None:
        try:
            self.store.decide(Decision(datetime.now(UTC), action, version, against, reason, {}))
        except StoreError as error:  # what is served does not wait for the store
            fields = {"action": action, "version": version, "why": str(error)}
            logging.getLogger("palate.serve").warning("decision not kept", extra={"fields": fields})

    # -- answers ------------------------------------------------------------------------------------------------------------------

    def recommend(self, asked: Recommend, now: datetime, ticket: Ticket | None = None) -> dict[str, Any] | None:
        """A Recommendation. None if somebody else has claimed the ticket meanwhile: then nothing is recorded."""
        return self._answer(asked, now, ticket, None)

    def fallback(self, asked: Recommend, now: datetime, why: str) -> dict[str, Any]:
        """The same from the cheaper funnel, which says why."""
        answer = self._answer(asked, now, None, why)
        assert answer is not None
        return answer

    def request_of(self, asked: Recommend, now: datetime, recommendation: str, known: Known | None = None) -> Request:
        """What the funnel is asked for this question under this recommendation id."""
        served = self.served
        return self._request(served, asked, now, recommendation, self._known(served, asked.user) if known is None else known)

    def _answer(self, asked: Recommend, now: datetime, ticket: Ticket | None, why: str | None) -> dict[str, Any] | None:
        began = time.perf_counter()
        served, clock = self.served, _Clock(self.watch)
        self._check(asked)
        recommendation = os.urandom(16).hex()
        known = self._known(served, asked.user) if why is None else self._known_soon(served, asked.user)
        experiment, arm = self._assign(asked.user if not known.forgotten else None)
        if why is None:
            funnel = served.knobs(together(self.settings.rerank, self.settings.arms.get(arm, {}) if arm else {}, asked.rerank))
        else:
            funnel = served.fallback
        asks = self._request(served, asked, now, recommendation, known)
        clock.lap("store")
        queries = funnel.queries([asks], asks.filters)
        lists, merged = funnel.candidates(queries)
        clock.lap("retrieve")
        ranked = funnel.rank(queries, merged)
        clock.lap("rank")
        steps = [(funnel.ranker.name if funnel.ranker else "merged", ranked), *funnel.rerank_steps(queries, ranked, asks.k)]
        final = steps[-1][1].reorder(np.tile(np.arange(min(asks.k, steps[-1][1].items.shape[1])), (1, 1)))
        clock.lap("rerank")
        verbs = {funnel.history.item_code(item): VERBS.get(kind, "chose") for item, kind in zip(known.history, known.kinds, strict=True)}
        slate = funnel.slates(queries, final, verbs)[0]
        clock.lap("reasons")
        if ticket is not None and not ticket.claim():
            return None
        policy: Policy = "full" if why is None else "fallback"
        said = "; ".join(part for part in (why, WITHOUT_STORE if known.trouble else None) if part) or None
        user = asked.user if not known.forgotten else None
        if asked.record and self.settings.record:
            context = {**asked.context, "palate.policy": policy}
            if slate.log_propensity == slate.log_propensity:
                context["palate.log_propensity"] = slate.log_propensity
            about = {"user": user, "placement": asked.placement, "experiment": experiment, "arm": arm, "context": context}
            self._record(slate, recommendation=recommendation, time=now, version=served.version, **about)
        if self.watch is not None:
            self.watch.answered(policy)
        answer = {
            "recommendation": recommendation,
            "version": served.version,
            "user": user,
            "known": asks.user is not None and funnel.history.user_code(asks.user) >= 0,
            "policy": policy,
            "why": said,
            "experiment": experiment,
            "arm": arm,
            "time": now.isoformat(),
            "took_ms": 0.0,
            "items": _items(funnel, slate),
            "history": _remembered(funnel, queries, known),
            "stages": _stages(funnel, lists, merged, steps, final) if asked.stages else None,
        }
        clock.lap("other")
        answer["took_ms"] = round((time.perf_counter() - began) * 1000, 3)
        return answer

    def _record(self, slate: Slate, **about: Any) -> None:
        """Hands a slate to the writer. What the store cannot hold, such as an id of 300 letters, is left out, and that is in the log."""
        if any(len(reason) > LONGEST for reason in slate.reasons):  # a title may be longer than that
            slate = replace(slate, reasons=tuple(reason[:LONGEST] for reason in slate.reasons))
        try:
            shown = ShownSlate.of(slate, **about)
        except (DataError, pydantic.ValidationError) as error:
            why = str(error).partition(":")[0] if isinstance(error, DataError) else error.errors(include_url=False)[0]["type"]
            logging.getLogger("palate.serve").warning("slate not recorded", extra={"fields": {"why": why}})
            return
        self.writer.slate(shown)

    def _check(self, asked: Recommend) -> None:
        limits = self.settings
        self._check_asker(asked)
        for name, given, most in (
            ("k", asked.k, limits.max_k),
            ("exclude", len(asked.exclude), limits.max_exclude),
            ("filters", len(asked.filters), limits.max_filters),
        ):
            if given > most:
                raise ConfigError(f"{name}: {given:,} are too many; at most {most:,}")

    def _check_asker(self, asked: Asker) -> None:
        if len(asked.history) > self.settings.max_history:
            raise ConfigError(f"history: {len(asked.history):,} items are too many; at most {self.settings.max_history:,}")
        for key in asked.context:
            if key.startswith("palate."):
                raise ConfigError(f"context.{key}: names that begin with `palate.` are the service's own")

    def _known(self, served: Served, user: str | None) -> Known:
        if user is None:
            return Known()
        since = micros(datetime.now(UTC)) - MONTH if served.counts_impressions else None
        after = served.cursors.get(self.store.id, 0)
        if self._patience.lost:
            return self._stranger(user, f"{self.store.where}: does not answer")
        with self._patience:
            known = look_up(self.store, user, served.funnel.history, served.rule, after=after, impressions_since=since)
        return self._stranger(user, known.trouble) if known.trouble else known

    def _known_soon(self, served: Served, user: str | None) -> Known:
        """`_known` for who must not hang: the one thread with the cheaper answers would take everybody along."""
        try:
            return within(self._patience.seconds, lambda: self._known(served, user))
        except TimeoutError:
            return self._stranger(user, f"{self.store.where}: does not answer")

    def _stranger(self, user: str | None, trouble: str) -> Known:
        """What is known where the store cannot be asked: only whether it said that the person was forgotten."""
        gone = user is not None and self._gone is not None and self.store.mark(user) in self._gone.of
        return Known(forgotten=gone, trouble=trouble)

    def remember(self) -> None:
        """Takes note of who was forgotten, by whichever process, for when the store cannot be asked. Cheap if nothing has changed."""
        try:
            self._gone = self.store.marks(self._gone)
        except StoreError as error:
            if not self._blind:  # is said once, until it can be read again
                logging.getLogger("palate.serve").warning("forgotten not read", extra={"fields": {"why": str(error)}})
            self._blind = True
        else:
            self._blind = False

    def _request(self, served: Served, asked: Recommend, now: datetime, recommendation: str, known: Known) -> Request:
        at = clock(self.settings.clock, served.funnel.history.latest, self.settings.stale_days)(now)
        ids = served.funnel.history
        return request(
            asked.user,
            known,
            history=[served.funnel.item_ids[ids.item_code(item)] for item in asked.history],
            context=dict(asked.context),
            k=asked.k,
            filters=asked.filters,
            exclude=[item for item in asked.exclude if ids.has_item(item)],
            seen=asked.seen,
            now=at,
            seed=int(recommendation[:15], 16) if any(reranker.draws for reranker in served.funnel.rerankers) else None,
        )

    def _assign(self, user: str | None) -> tuple[str, str] | tuple[None, None]:
        layer = self.settings.layer
        found = layer.assign(user) if layer is not None and user is not None else None
        return found or (None, None)

    def similar(self, item: str, k: int) -> dict[str, Any]:
        """What goes with an item: what the retrievers bring for a history of it alone, merged."""
        if not 1 <= k <= self.settings.max_k:
            raise ConfigError(f"k: from 1 to {self.settings.max_k}, got {k}")
        served = self.served
        code = self._code(served, item)
        names = [retriever.name for retriever in served.funnel.retrievers if "history" in retriever.serves_new_users]
        plain = served.funnel.cheaper(names or [served.funnel.retrievers[0].name], lambda _: False)
        queries = plain.queries([Request(history=(served.funnel.item_ids[code],), k=k)])
        merged = plain.candidates(queries)[1]
        told = [retriever.because(queries, merged.items) for retriever in plain.retrievers]
        near = np.any([found != NOTHING for found in told if found is not None] or [merged.present], axis=0) & merged.present
        found = np.flatnonzero(near[0])[:k] if near.any() else np.arange(min(k, merged.items.shape[1]))
        slate = plain.slates(queries, merged.reorder(found[None]))[0]
        title = served.funnel.names[code]
        # Where no retriever knows anything that goes with it, what is popular is shown, and called that.
        reasons = [f"goes with {title}" if near.any() else reason for reason in slate.reasons]
        keep = ("item", "title", "score", "source", "sources")
        items = [
            {**{key: entry[key] for key in keep}, "reason": reason} for entry, reason in zip(_items(plain, slate), reasons, strict=True)
        ]
        return {"item": served.funnel.item_ids[code], "title": title, "version": served.version, "items": items}

    def rank(self, asked: Rank, now: datetime) -> dict[str, Any]:
        """Given items in the ranker's order."""
        self._check_asker(asked)
        if len(asked.items) > self.settings.max_candidates:
            raise ConfigError(f"items: {len(asked.items):,} are too many; at most {self.settings.max_candidates:,}")
        if len(set(asked.items)) < len(asked.items):
            twice = next(item for place, item in enumerate(asked.items) if item in asked.items[:place])
            raise DataError(f"items: {twice[:80]!r} stands twice; give each once")
        served = self.served
        codes = [served.funnel.history.item_code(item) for item in asked.items]
        known = self._known(served, asked.user)
        plain = Recommend(user=asked.user, history=asked.history, context=asked.context, k=1, seen=True)
        asks = self._request(served, plain, now, os.urandom(16).hex(), known)
        queries = served.funnel.queries([asks])
        ranked = served.funnel.rank_items(queries, np.array([codes], dtype=np.int32))
        slate = served.funnel.slates(queries, ranked)[0]
        keep = ("item", "title", "position", "score", "probabilities", "source", "sources")
        items = [{key: entry[key] for key in keep} for entry in _items(served.funnel, slate)]
        return {
            "version": served.version,
            "user": None if known.forgotten else asked.user,
            "why": WITHOUT_STORE if known.trouble else None,
            "items": items,
        }

    # -- people -------------------------------------------------------------------------------------------------------------------

    def user(self, user: str) -> dict[str, Any]:
        """What the system knows of a person: the bundle's history, and the store's events and slates."""
        served = self.served
        forgotten = self.store.is_forgotten(user)
        history: list[dict[str, Any]] = []
        events, slates = ([], []) if forgotten else self.store.of_user(user)
        code = -1 if forgotten else served.funnel.history.user_code(user)
        names = served.funnel.names
        if code >= 0:
            queries = served.funnel.history.queries(np.array([code], dtype=np.int32))
            for item, at in zip(queries.history[0].tolist()[-1000:], queries.times.tolist()[-1000:], strict=True):
                entry = {"item": served.funnel.item_ids[item], "title": names[item], "kind": None, "value": None}
                history.append({**entry, "time": moment(at).isoformat(), "from": "bundle"})
        after = served.cursors.get(self.store.id, 0)
        known = Known() if forgotten else self._known(served, user)
        for action in [] if forgotten else self.store.actions(user, after=after):
            if action.kind == "hide":
                continue
            entry = {"item": action.item, "title": self._title(served, action.item), "kind": action.kind, "value": action.value}
            history.append({**entry, "time": moment(action.time).isoformat(), "from": "store"})
        return {
            "user": user,
            "known": code >= 0,
            "forgotten": forgotten,
            "history": history,
            "hidden": [{"item": item, "title": self._title(served, item)} for item in sorted(known.hidden)],
            "events": [event.model_dump(mode="json", exclude_none=True) for event in events],
            "slates": [shown.model_dump(mode="json", exclude_none=True) for shown in slates],
        }

    def forget(self, user: str) -> dict[str, int]:
        """Removes a person from the store for good. To the bundle in service they are a stranger from now on, to the next one unknown."""
        removed = self.store.forget(user)
        self.remember()
        return removed._asdict()

    def readmit(self, user: str) -> dict[str, bool]:
        """Lets a forgotten person begin anew."""
        back = self.store.readmit(user)
        self.remember()
        return {"readmitted": back}

    def users(self, query: str, limit: int) -> dict[str, Any]:
        """Ids of the bundle's users that begin with the query; who was forgotten is not named."""
        ids = self.served.funnel.users["user"]
        found = ids.filter(ids.str.starts_with(query)) if query else ids
        some = found.head(limit).to_list()
        gone = self.store.forgotten_among(some)
        return {"users": [user for user in some if user not in gone], "total": len(found)}

    # -- items, and what is served ------------------------------------------------------------------------------------------------

    def items(self, query: str, limit: int, after: int) -> dict[str, Any]:
        """Items whose title or id holds the query, the most popular first."""
        served = self.served
        names = pl.Series(served.funnel.names)
        if query:
            wanted = query.casefold()
            match = names.str.to_lowercase().str.contains(wanted, literal=True) | (served.funnel.items["item"] == query)
            codes = np.flatnonzero(match.fill_null(False).to_numpy())
        else:
            codes = np.arange(len(names))
        order = codes[np.argsort(-served.funnel.popularity[codes], kind="stable")]
        page = order[after : after + limit]
        ahead = after + len(page)
        return {
            "items": [self._item(served, int(code)) for code in page],
            "total": len(order),
            "next": ahead if ahead < len(order) else None,
        }

    def item(self, item: str) -> dict[str, Any]:
        """One item, by id."""
        served = self.served
        return self._item(served, self._code(served, item))

    def _item(self, served: Served, code: int) -> dict[str, Any]:
        row = served.funnel.items.row(code, named=True)
        own = {key: _plain(value) for key, value in row.items() if key not in ("item", "title", "events")}
        return {
            **own,
            "item": served.funnel.item_ids[code],
            "title": served.funnel.names[code],
            "events": int(served.funnel.popularity[code]),
        }

    def _code(self, served: Served, item: str) -> int:
        if not served.funnel.history.has_item(item):
            raise NotFound(f"item {item[:80]!r}: no such id")
        return served.funnel.history.item_code(item)

    def _title(self, served: Served, item: str) -> str:
        return served.funnel.names[served.funnel.history.item_code(item)] if served.funnel.history.has_item(item) else item

    def about(self) -> dict[str, Any]:
        """What is served, and what may be asked for."""
        served = self.served
        funnel, data = served.funnel, served.manifest.get("data", {})
        return {
            "version": served.version,
            "palate": served.manifest.get("versions", {}).get("palate"),
            "data": {key: data.get(key) for key in ("name", "events", "users", "items", "seed", "split")},
            "stages": {
                "retrieve": [retriever.name for retriever in funnel.retrievers],
                "rank": funnel.ranker.name if funnel.ranker else None,
                "rerank": [
                    {
                        "name": reranker.name,
                        "use": type(reranker).__module__.rpartition(".")[2],
                        "settings": reranker.config.model_dump(mode="json"),
                        "fixed": sorted({*reranker.fixed, "name"}),
                        "schema": type(reranker).Config.model_json_schema(),
                    }
                    for reranker in funnel.rerankers
                ],
                "fallback": [retriever.name for retriever in served.fallback.retrievers],
            },
            "columns": [{"name": name, "type": _kind(dtype)} for name, dtype in funnel.items.schema.items() if name != "item"],
            "context": {name: _kind(dtype) for name, dtype in funnel.history.context.schema.items()},
            "limits": {
                key: getattr(self.settings, f"max_{key}") for key in ("k", "history", "exclude", "filters", "candidates", "events", "body")
            },
            "deadline_ms": self.settings.deadline_ms,
        }

    def bundles(self) -> dict[str, Any]:
        """The shelf: what is in service, what was, and what there is."""
        pointer = self.shelf.pointer()
        listed = []
        for name in self.shelf.names():
            try:
                version = self.shelf.version(name)
            except BundleError:
                continue  # deleted between the two looks
            listed.append({"name": name, "version": version})
        serving = self.served
        return {
            "serving": {"name": serving.name, "version": serving.version, "loaded": serving.loaded.isoformat()},
            "current": pointer.bundle,
            "previous": list(pointer.previous),
            "bundles": listed,
        }


def together(*knobs: Mapping[str, Mapping[str, Any] | None]) -> dict[str, dict[str, Any] | None]:
    """Settings of rerankers over one another, the later first; what one leaves out another may put back."""
    merged: dict[str, dict[str, Any] | None] = {}
    for some in knobs:
        for name, settings in some.items():
            merged[name] = None if settings is None else {**(merged.get(name) or {}), **settings}
    return merged


class Swapping(BundleError):  # noqa: N818 - nothing is wrong with a bundle
    """Another bundle is being loaded."""


class _Clock:
    """Tells the watch how long each part took."""

    def __init__(self, watch: Watches | None) -> None:
        self._watch, self._last = watch, time.perf_counter()

    def lap(self, name: Stage) -> None:
        now = time.perf_counter()
        if self._watch is not None:
            self._watch.stage(name, now - self._last)
        self._last = now


def _items(funnel: Funnel, slate: Slate) -> list[dict[str, Any]]:
    codes = funnel.history
    return [
        {
            "item": item,
            "title": funnel.names[codes.item_code(item)],
            "position": place,
            "score": score,
            "probabilities": dict(probabilities),
            "source": source,
            "sources": dict(found),
            "propensity": propensity,
            "reason": reason,
        }
        for place, (item, score, probabilities, source, found, propensity, reason) in enumerate(
            zip(slate.items, slate.scores, slate.probabilities, slate.sources, slate.found, slate.propensity, slate.reasons, strict=True)
        )
    ]


def _remembered(funnel: Funnel, queries: Queries, known: Known) -> list[dict[str, Any]]:
    """The history that the answer rests on, newest first. Kinds are known of what the store said."""
    codes = queries.history[0].tolist()
    kinds = dict(zip(known.history, known.kinds, strict=True))
    found = [(funnel.item_ids[code], funnel.names[code]) for code in codes[::-1][:SHOWN]]
    return [{"item": item, "title": title, "kind": kinds.get(item)} for item, title in found]


def _stages(
    funnel: Funnel, lists: Mapping[str, Candidates], merged: Candidates, steps: Sequence[tuple[str, Candidates]], final: Candidates
) -> list[dict[str, Any]]:
    ranked = [("ranked", steps[0][1])] if funnel.ranker is not None else []
    return [
        {
            "name": name,
            "items": [
                {"item": funnel.item_ids[code], "title": funnel.names[code], "score": score}
                for code, score in zip(found.items[0, :SHOWN].tolist(), found.scores[0, :SHOWN].tolist(), strict=True)
                if code != NOTHING
            ],
        }
        for name, found in [*lists.items(), ("merged", merged), *ranked, *steps[1:], ("slate", final)]
    ]


def _kind(dtype: Any) -> str:
    """What a column holds, in a word: text, number, boolean, time, list, vector."""
    if isinstance(dtype, pl.List | pl.Array):
        return "list" if isinstance(dtype.inner, pl.String | pl.Categorical | pl.Enum) else "vector"
    if dtype.is_numeric():
        return "number"
    if dtype.is_temporal():
        return "time"
    return "boolean" if dtype == pl.Boolean else "text"


def _plain(value: Any) -> Any:
    """A cell of the item table as JSON has it."""
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value][:SHOWN]
    if isinstance(value, float) and value != value:
        return None
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)

"""What `palate learn` does: a bundle and what has happened since become a new bundle, which takes its place if it is no worse.

    learnt = learn("demo", EventStore.open("events.db"))
    print(learnt.action, learnt.reason)

    1. What the bundle was made of is read again, and the store's events are added up to a cut; the newest are held out.
    2. A funnel of the same settings is fitted, its networks going on from those in service.
    3. It is saved where no service looks, loaded again, and judged beside the bundle in service on what was held out.
    4. It gets its name and the shelf points to it, in one step; or it is thrown away. Either way the store holds the decision.

Killed at any moment it leaves a whole bundle in service: the pointer is replaced in one step, and only to a bundle that was read again and
found whole. What a killed run left behind is cleared away by the next.
"""

from __future__ import annotations

import contextlib
import copy
import fcntl
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import polars as pl
import pydantic

from palate import config
from palate import recipe as recipes
from palate.errors import LearnError, PalateError
from palate.feedback import export
from palate.feedback import join as joins
from palate.feedback.events import WANTED
from palate.feedback.store import Decision, EventStore
from palate.funnel import Funnel
from palate.learn import gate
from palate.learn.data import combine
from palate.learn.shown import Shown
from palate.recommender import Recommender
from palate.serve import bundle as bundles
from palate.serve.person import Rule
from palate.serve.shelf import Shelf, forget_old, version_of
from palate.types import BundleError, ConfigError, DataError, Log, SplitError, Warm

Action = Literal["promote", "refuse", "wait", "fail"]


class Settings(gate.Settings):
    """Those of the gate, and of learning.

    least: wanted events that must be new before anything is done. holdout: the share of the new events, the newest, to judge by.
    warm: networks go on from those in service; False fits everything anew. epochs: the share of its own epochs that such a network trains;
    replay: older events it learns again for each new one.
    shown: the ranker also learns from slates and what came of them; join: how the two are joined; slates: so many, the newest, are read.
    keep: earlier bundles kept to go back to.
    """

    least: int = pydantic.Field(200, ge=1)
    holdout: float = pydantic.Field(0.2, gt=0, lt=1)
    warm: bool = True
    epochs: float = pydantic.Field(0.2, gt=0, le=1)
    replay: float = pydantic.Field(1.0, ge=0, allow_inf_nan=False)
    shown: bool = True
    join: joins.Settings = joins.Settings()
    slates: int = pydantic.Field(200_000, ge=1)
    keep: int = pydantic.Field(3, ge=1)


@dataclass(frozen=True)
class Learnt:
    """What came of it. action: promote, refuse, wait (too little is new) or fail. version: of the candidate, or of the bundle in service
    where there was none; against: of the bundle in service. bundle: the name of what is in service now. notes: what else to know.
    """

    action: Action
    reason: str
    version: str
    against: str | None
    bundle: str
    time: datetime
    measures: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def decision(self) -> Decision:
        """As the store keeps it."""
        return Decision(self.time, self.action, self.version, self.against, self.reason, self.measures)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        said = {name: getattr(self, name) for name in ("action", "reason", "version", "against", "bundle")}
        return {**said, "time": self.time.isoformat(), "measures": dict(self.measures), "notes": list(self.notes)}


def learn(
    folder: str | os.PathLike[str],
    store: EventStore,
    *,
    settings: Settings = Settings(),
    log: Log | None = None,
    changes: Sequence[str] = (),
    trust: Sequence[str] = (),
    quiet: bool = True,
) -> Learnt:
    """Learns once. folder: the first bundle of a shelf, see `palate.serve.shelf`.

    log: what the bundle was fitted on, for one that was made in Python; otherwise its recipe says. changes: to the recipe, as `--set` takes
    them (`rank.width=32`): so another funnel may be tried against the one in service. trust: modules of components outside `palate`.
    Raises PalateError of one line where it cannot be done at all; the store holds that decision too.
    """
    start, shelf = time.perf_counter(), Shelf(folder)
    with _alone(shelf):
        _clear(shelf)
        try:
            _catch_up(shelf, store)
            work = _Work(shelf, store, settings, log, tuple(changes), tuple(trust), quiet)
            learnt = work.run()
        except Exception as error:
            if not isinstance(error, KeyboardInterrupt):  # one that stops on purpose may be both
                with contextlib.suppress(PalateError):
                    version, seconds = shelf.version(shelf.current()), time.perf_counter() - start
                    store.decide(Decision(datetime.now(UTC), "fail", version, None, _one_line(error), {"seconds": seconds}))
            raise
        finally:
            _clear(shelf)
        store.decide(learnt.decision())
        return learnt


def _one_line(error: Exception) -> str:
    """What went wrong, for a log of decisions."""
    text = " ".join(str(error).split())
    return text if isinstance(error, PalateError) else f"{type(error).__name__}: {text}"[:500]


class _Work:
    """One run of `learn`, under the lock."""

    def __init__(
        self,
        shelf: Shelf,
        store: EventStore,
        settings: Settings,
        log: Log | None,
        changes: tuple[str, ...],
        trust: tuple[str, ...],
        quiet: bool,
    ) -> None:
        self.shelf, self.store, self.settings, self.changes, self.trust, self.quiet = shelf, store, settings, changes, trust, quiet
        self.start, self.now = time.perf_counter(), datetime.now(UTC)
        self.name = shelf.current()
        self.version = shelf.version(self.name)
        self.serving = Recommender.load(shelf.path(self.name), trust=trust)
        self.cursor = _cursor(self.serving, store, self.name)
        self.log = log
        self.rule = Rule(self.serving.data.get("positive_value"))

    def run(self) -> Learnt:
        settings = self.settings
        until = self.store.cursor()
        new = export.frame(self.store, self.cursor, until)
        wanted = new.filter(pl.col("kind").is_in(list(WANTED)))
        if wanted.height < settings.least:
            few = f"{wanted.height} wanted events are new, and {settings.least} are needed to learn"
            return self._say("wait", few, {"events": wanted.height})
        # The newest of what is wanted is held out, with all that was kept after it: cursors rise in the order of commits.
        cut = int(wanted["seq"][wanted.height - max(1, round(settings.holdout * wanted.height)) - 1])
        slates = export.slate_frame(self.store, max(0, self.store.slate_cursor() - settings.slates))
        seed = int(self.serving.data.get("seed", 0))
        people = gate.held_out(new.filter(pl.col("seq") > cut), slates, self.rule, settings, seed)
        measures: dict[str, float] = {"events": wanted.height, "held_out": int((wanted["seq"] > cut).sum()), "people": len(people)}
        if len(people) < settings.people:
            return self._say("wait", f"{len(people)} people can be judged by, and {settings.people} are needed", measures)
        before = export.frame(self.store, 0, cut)
        at = before["time"].max()
        assert isinstance(at, datetime)
        candidate, notes = self._fit(before, slates, at, cut, seed)
        measures["fit_seconds"] = time.perf_counter() - self.start
        draft = candidate.save(self.shelf.draft())
        version = version_of(draft)
        if version == self.version:
            shutil.rmtree(draft)
            return self._say("wait", "what was learnt is what is in service already", measures)
        # What is judged is what would be served: the bundle as it lies on the disk.
        loaded = Recommender.load(draft, trust=self.trust)
        sides = (gate.Bundle(loaded.funnel, cut, self.rule), gate.Bundle(self.serving.funnel, self.cursor, self.rule))
        verdict = gate.judge(*sides, people, before, at, settings, seed)
        measures |= verdict.measures
        if not verdict.passed:
            shutil.rmtree(draft)
            return self._say("refuse", verdict.reason, measures, version, notes)
        name = self.shelf.keep(draft)
        if self.shelf.current() != self.name:  # somebody rolled back or swapped meanwhile; that was not what it was judged against
            shutil.rmtree(self.shelf.path(name))
            return self._say("refuse", f"{self.shelf.current()} was put into service meanwhile; learn again", measures, version, notes)
        self.shelf.promote(name)
        for old in forget_old(self.shelf, settings.keep):
            shutil.rmtree(self.shelf.path(old))
        return self._say("promote", verdict.reason, measures, version, notes)

    def _fit(self, before: pl.DataFrame, slates: pl.DataFrame, at: datetime, cut: int, seed: int) -> tuple[Recommender, tuple[str, ...]]:
        """The candidate, fitted on all that is known up to the cut."""
        base = self._base()
        shown = Shown(slates, before, at, self.settings.join)
        gone = self.store.forgotten_among(base.users["user"].to_list())
        combined = combine(base, before, gone=gone, found=shown.joined.searches)
        notes = [f"{combined.unread:,} values of events' context are not of the log's types and were left out"] if combined.unread else []
        funnel = self.serving.funnel
        warm = Warm(funnel, funnel.history.latest, self.settings.epochs, self.settings.replay) if self.settings.warm else None
        given: dict[str, Any] = {"seed": seed, "quiet": self.quiet, "more": shown if self.settings.shown else None}
        candidate = self._fresh()
        if warm is not None:
            try:
                candidate.fit(combined.log, warm=warm, **given)
            except (SplitError, DataError) as error:
                # What is new may hold no example of a task, say; with all that is old there are some.
                notes.append(f"fitted anew, for what is new alone will not do: {error}")
                candidate, warm = self._fresh(), None
        if warm is None:
            candidate.fit(combined.log, **given)
        learnt = {"from": self.version, "checksum": combined.log.checksum, "warm": warm is not None}
        told = {"checksum": base.checksum, "store": {"id": self.store.id, "cursor": cut}, "learnt": learnt}
        candidate.data = {**candidate.data, **told}
        return candidate, tuple(notes)

    def _base(self) -> Log:
        """What the first bundle of the shelf was made of."""
        serving, log = self.serving, self.log
        if log is None:
            if not serving.recipe:
                raise BundleError(
                    f"{self.name}: was made in Python, without a recipe; give the log it was fitted on, as `learn(..., log=log)`"
                )
            recipe = recipes.Recipe.parse(serving.recipe, "")
            log = recipes.read_data(recipe)
        if log.checksum != serving.data.get("checksum"):
            raise BundleError(f"{self.name}: {log.name} is not what it was made of (the checksum differs); train again, then learn")
        return log

    def _fresh(self) -> Recommender:
        """A recommender of the same settings, or with the changes, not fitted."""
        serving = self.serving
        if self.changes:
            if not serving.recipe:
                raise ConfigError(f"--set {self.changes[0]}: {self.name} was made in Python, without a recipe to change")
            raw = copy.deepcopy(serving.recipe)
            for change in self.changes:
                recipes.apply_setting(raw, change)
            if raw.get("data") != serving.recipe.get("data"):
                raise ConfigError("--set data: another log is another bundle; use palate train")
            _trusted(raw, self.trust)
            recipe = recipes.parse(raw)
            retrievers, ranker, rerankers = recipes.components(recipe)
            made = Recommender(retrievers, ranker, rerankers, serving.funnel.features, **recipe.funnel.model_dump())
            made.recipe = recipes.as_plain(recipe)
            return made
        funnel: Funnel = serving.funnel
        made = Recommender(
            [_again(retriever, "retrieve") for retriever in funnel.retrievers],
            None if funnel.ranker is None else _again(funnel.ranker, "rank"),
            [_again(reranker, "rerank") for reranker in funnel.rerankers],
            funnel.features,
            **funnel.config.model_dump(),
        )
        made.recipe = serving.recipe
        return made

    def _say(
        self, action: Action, reason: str, measures: Mapping[str, float], version: str | None = None, notes: tuple[str, ...] = ()
    ) -> Learnt:
        measures = {**measures, "seconds": time.perf_counter() - self.start}
        against = None if version is None else self.version
        return Learnt(action, reason, version or self.version, against, self.shelf.current(), self.now, measures, notes)


def _cursor(serving: Recommender, store: EventStore, name: str) -> int:
    """How far the bundle has read the store."""
    told = serving.data.get("store")
    if not told:
        return 0
    if told["id"] != store.id:
        raise LearnError(f"{name}: has learnt from another event store than {store.where}; give that one, or train again")
    return int(told["cursor"])


def _again(component: config.Component, stage: str) -> Any:
    """A component of the same class and settings, not fitted. Its class was trusted when the bundle was loaded."""
    return config.build(config.import_path(type(component)), stage, component.config.model_dump(mode="json"))


def _trusted(raw: Mapping[str, Any], trust: Sequence[str]) -> None:
    """BundleError for a component from outside that nobody trusts: a recipe comes with the bundle, and naming a module runs it."""
    entries = [*raw.get("retrieve", ()), *([raw["rank"]] if raw.get("rank") else []), *raw.get("rerank", ())]
    for entry in entries:
        module, colon, _ = str(entry.get("use")).partition(":")
        if colon and module.partition(".")[0] != "palate" and module not in trust:
            raise BundleError(f"{entry['use']} is not part of Palate; pass trust=[{module!r}] if you trust that module")


def _catch_up(shelf: Shelf, store: EventStore) -> None:
    """Writes down a promotion whose run was killed between pointing to the bundle and saying so."""
    name = shelf.current()
    manifest = bundles.read_manifest(shelf.path(name))
    learnt = manifest.get("data", {}).get("learnt")
    version = shelf.version(name)
    if learnt and not any(one.version == version and one.action == "promote" for one in store.decisions(100_000)):
        store.decide(Decision(datetime.now(UTC), "promote", version, learnt["from"], "written down late: that run was stopped", {}))


def _clear(shelf: Shelf) -> None:
    """Removes what a killed run left: its draft, and what was about to become one."""
    draft = shelf.draft()
    for left in (draft, *shelf.root.glob(f".{_plain(draft.name)}.*")):
        shutil.rmtree(left, ignore_errors=True)


def _plain(name: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


@contextlib.contextmanager
def _alone(shelf: Shelf) -> Iterator[None]:
    """Holds the shelf's lock; LearnError where another run has it. The system gives it back if the process dies."""
    path = shelf.root / f".{shelf.name}.learn"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise LearnError(f"{path}: cannot be written ({error.strerror}); see who owns the folder") from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise LearnError(f"{shelf.name}: another `palate learn` is at work on it; wait for it to end") from None
        yield
    finally:
        os.close(descriptor)


def every(
    seconds: float,
    folder: Path,
    store: EventStore,
    *,
    stopped: threading.Event,
    report: Callable[[Learnt | PalateError], None],
    **given: Any,
) -> None:
    """Learns again and again, a run each so many seconds, until `stopped` is set; a run that is late is left out.

    report: called with a Learnt, or with a PalateError that says what ended a run. Whatever fails is written down by `learn`, and the next
    run goes on.
    """
    due = time.monotonic()
    while not stopped.is_set():
        try:
            report(learn(folder, store, **given))
        except Exception as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            report(error if isinstance(error, PalateError) else LearnError(_one_line(error)))
        now = time.monotonic()
        due += seconds * max(1, -(-(now - due) // seconds))
        stopped.wait(max(0.0, due - now))

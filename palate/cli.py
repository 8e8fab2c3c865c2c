"""The command line. Each command imports what it needs when it runs, so that `palate --help` is quick."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from palate.errors import PalateError

if TYPE_CHECKING:
    from palate.job import Job
    from palate.learn.job import Learnt
    from palate.recommender import Recommender
    from palate.types import Request, Slate

app = typer.Typer(
    name="palate",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="A recommender system: from an event log to a served slate of recommendations, and back.\n\nStart with: [bold]palate demo[/bold]",
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output, and nothing else there.")]
Bundle = Annotated[Path, typer.Argument(help="A bundle that `palate train` made.", metavar="DIR", show_default=False)]


def main() -> None:
    """The console script: errors a person can mend are one line, without a traceback."""
    # Before torch loads: threads that wait by spinning make a busy machine ten times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # And large tables in large pages: rows at random places are found a third quicker.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    try:
        app()
    except PalateError as error:
        _fail(str(error), 130 if isinstance(error, KeyboardInterrupt) else 1)
    except KeyboardInterrupt:
        _fail("stopped", 130)
    except BrokenPipeError:
        sys.exit(0)


def _fail(message: str, code: int = 1) -> NoReturn:
    print(f"palate: {message}", file=sys.stderr)
    sys.exit(code)


def _console(*, stderr: bool = False) -> Any:
    from rich.console import Console

    return Console(stderr=stderr, highlight=False)


def _print_json(value: Any) -> None:
    from palate.serve.bundle import plain

    print(json.dumps(plain(value), allow_nan=False, ensure_ascii=False))


@app.command(epilog="Example:  palate demo --out demo")
def demo(
    out: Annotated[Path, typer.Option(help="Where the bundle and its report go.")] = Path("demo"),
    json_: Json = False,
) -> None:
    """Train, evaluate and use a whole funnel on the real MovieLens log, in under a minute."""
    from palate.demo import run

    run(out, quiet=json_, print_json=_print_json if json_ else None)


@app.command(epilog="Examples:  palate train movielens-small --out bundle  |  palate train my.toml --out bundle --set rank.width=32")
def train(
    recipe: Annotated[str, typer.Argument(help="A TOML file, or the name of a shipped recipe (`palate recipe` lists them).")],
    out: Annotated[Path, typer.Option(help="The bundle to write.")] = Path("bundle"),
    set_: Annotated[list[str] | None, typer.Option("--set", help="Change one setting: rank.width=32, retrieve.ease.l2=200.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Take up the newest checkpoints of a run that was stopped.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan, the tables and the memory they take; train nothing.")] = False,
    json_: Json = False,
) -> None:
    """Train the funnel of a recipe, evaluate it, and save a bundle with its report."""
    from palate import job
    from palate import recipe as recipes

    parsed = recipes.load(recipe, set_ or [])
    if dry_run:
        from palate import plan

        made = plan.of(parsed)
        if json_:
            _print_json(made.to_json())
        else:
            made.show(_console())
        made.check()
        return
    if parsed.data.rows is not None:
        from palate import click_job

        clicks = click_job.train(parsed, out, quiet=json_, resume=resume)
        if json_:
            _print_json(clicks.to_json())
            return
        _console().print(clicks.evaluation.table())
        _console().print(f"{clicks.ranker.name}: {clicks.parameters:,} parameters, trained in {clicks.seconds:.1f} s")
        next_steps(f"palate evaluate {out} --json")
        return
    command = shlex.join(["palate", *sys.argv[1:]])
    done = job.train(parsed, out, quiet=json_, resume=resume, command=command)
    if json_:
        _print_json({"bundle": str(done.folder), **job.results(done.recommender, done.evaluation)})
        return
    show_job(done)
    user = done.log.users["user"][int(done.test.user_codes[0])]
    next_steps(f"palate recommend {out} --user {shlex.quote(str(user))}", f"palate evaluate {out} --json", f"open {done.report}")


@app.command(epilog="Example:  palate evaluate bundle --json")
def evaluate(
    bundle: Bundle,
    report: Annotated[Path | None, typer.Option(help="Also write an HTML report here.")] = None,
    json_: Json = False,
) -> None:
    """Every stage of a bundle on its held-out events, full ranking, beside popularity."""
    from palate import click_job, job

    if click_job.is_click_bundle(bundle):
        if report is not None:
            _fail("evaluate: --report draws the stages of a funnel, and this bundle holds one ranker; use --json")
        clicks, manifest = click_job.evaluate(bundle)
        if json_:
            _print_json({**clicks.to_json(), "data": manifest["data"], "versions": manifest["versions"]})
        else:
            _console().print(clicks.table())
        return
    recommender, test = job.reopen(bundle)
    evaluation = recommender.evaluate(test, quiet=json_)
    if report is not None:
        from palate.report import write_report

        facts = {"command": shlex.join(["palate", *sys.argv[1:]]), **recommender.data}
        importances = job.importances(recommender)
        curves = recommender.funnel.curves
        write_report(
            report,
            evaluation,
            title=f"Palate on {recommender.data['name']}",
            facts=facts,
            curves=curves,
            slates=[],
            importances=importances,
        )
    if json_:
        _print_json(job.results(recommender, evaluation))
    else:
        _console().print(evaluation.table(), evaluation.slices_table())


@app.command(
    epilog="Examples:  palate recommend bundle --user 42  |  palate recommend bundle --history 'Heat (1995)' --filter 'year >= 1990'"
)
def recommend(
    bundle: Bundle,
    user: Annotated[str | None, typer.Option(help="A user id of the log.")] = None,
    history: Annotated[list[str] | None, typer.Option(help="Item ids or titles, oldest first, commas between; may be repeated.")] = None,
    k: Annotated[int, typer.Option("--k", "-k", min=1, help="How many items.")] = 10,
    filter_: Annotated[list[str] | None, typer.Option("--filter", help="A rule on item columns, such as 'genres != \"Horror\"'.")] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="Item ids never to show; may be given again.")] = None,
    json_: Json = False,
) -> None:
    """Recommend for a known user, or for anyone who has a history. No training data is needed."""
    from palate.recommender import Recommender
    from palate.types import Request

    if user is None and not history:
        _fail("recommend: give --user ID or --history A,B")
    recommender = Recommender.load(bundle)
    request = Request(
        user=user,
        history=tuple(part for text in history or [] for part in split_history(text, recommender)),
        k=k,
        filters=tuple(filter_ or ()),
        exclude=tuple(exclude or ()),
    )
    if user is not None and recommender.funnel.history.user_code(user) < 0 and not history:
        _console(stderr=True).print(f"[yellow]user {user!r} is not in the log: this is what a stranger gets[/yellow]")
    slate = recommender.funnel.recommend([request])[0]
    if json_:
        rows = [{key: value for key, value in row.items() if value is not None} for row in recommender.table(slate).to_dicts()]
        _print_json({"user": user, "history": list(request.history), "items": rows})
    else:
        show_slate(recommender, f"User {user}" if user is not None else "Someone new", request, slate)


@app.command(
    epilog="Examples:  palate score bundle --out slates.parquet  |  palate score bundle --users users.csv --out slates.parquet --k 20  |  "
    "palate score bundle --users users.txt --out slates.parquet --store events.db"
)
def score(
    bundle: Bundle,
    out: Annotated[Path, typer.Option(help="The Parquet file to write: a row for each place of a slate.")],
    users: Annotated[
        Path | None, typer.Option(help="Whom for: .txt with an id a line, or a table with a column `user`; else all that the bundle knows.")
    ] = None,
    k: Annotated[int, typer.Option("--k", "-k", min=1, help="How many items each.")] = 10,
    filter_: Annotated[list[str] | None, typer.Option("--filter", help="A rule on item columns, such as 'genres != \"Horror\"'.")] = None,
    store: Annotated[str | None, typer.Option(help="An event store: what people did since the bundle learnt counts.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="People answered together.")] = 256,
    json_: Json = False,
) -> None:
    """Recommend for many people into a file, in memory that does not grow with their number."""
    from palate.serve.score import score as run

    done = run(bundle, out, users=users, k=k, batch=batch, filters=filter_ or (), store=store, quiet=json_)
    if json_:
        _print_json(done.to_json())
        return
    console = _console()
    rate = done.users / max(done.seconds, 1e-9)
    console.print(f"{done.rows:,} rows for {done.users:,} people in [bold]{out}[/bold], {done.seconds:.1f} s, {rate:,.0f} people/s")
    notes = {
        "the bundle has never seen: they got what a stranger gets (`known` is false)": done.strangers,
        "nothing was left to show to: they have no rows": done.empty,
        "the store was told to forget: left out": done.forgotten,
    }
    for what, count in notes.items():
        if count:
            console.print(f"[yellow]{count:,} whom {what}[/yellow]")


def split_history(text: str, recommender: Recommender) -> list[str]:
    """`A,B` to ids or titles. Titles may hold commas themselves: the longest piece that is a known id or title wins."""
    items = recommender.funnel.items
    known = set(recommender.funnel.item_ids) | (set(items["title"].drop_nulls()) if "title" in items.columns else set())
    pieces, found, start = text.split(","), [], 0
    while start < len(pieces):
        ends = [end for end in range(len(pieces), start, -1) if ",".join(pieces[start:end]).strip() in known]
        end = ends[0] if ends else start + 1
        found.append(",".join(pieces[start:end]).strip())
        start = end
    return [piece for piece in found if piece]


@app.command(
    epilog="Examples:  palate serve demo  |  palate serve demo --store postgresql://me@db/shop --keys keys.json --host 0.0.0.0  |  "
    "palate serve demo --config serve.toml"
)
def serve(
    bundle: Bundle,
    store: Annotated[
        str | None, typer.Option(help="Event store: a path or postgresql://... By default BUNDLE.events.db beside it.")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on; others than 127.0.0.1 need --keys.")] = None,
    port: Annotated[int | None, typer.Option(help="Port; 0 takes a free one.")] = None,
    keys: Annotated[Path | None, typer.Option(help="File of API keys; `palate key create` makes one.")] = None,
    config: Annotated[Path | None, typer.Option("--config", help="A TOML file with these and all other settings.")] = None,
    trust: Annotated[list[str] | None, typer.Option(help="Import components of this module; may be given again.")] = None,
) -> None:
    """Serve a bundle: recommendations and events over HTTP, and a page for people."""
    from palate.serve import run

    run.quiet_threads()
    from palate.serve.settings import Settings

    options = {"store": store, "host": host, "port": port, "keys": keys}
    settings = Settings.read(config, options)
    if "store" not in settings.model_fields_set:
        settings = settings.model_copy(update={"store": str(bundle.absolute().parent / f"{bundle.name.partition('@')[0]}.events.db")})

    def started(url: str) -> None:
        console = _console(stderr=True)
        console.print(f"[bold]{url}[/bold]  opens the page once {bundle} is loaded and this says ready; Ctrl-C stops it", soft_wrap=True)

    run.run(settings, bundle, trust=trust or (), started=started)


@app.command(
    epilog="Examples:  palate learn demo --store events.db  |  palate learn demo --every 6h  |  palate learn demo --log  |  "
    "palate learn demo --set learn.margin=0.1 --set rank.trees=200"
)
def learn(
    bundle: Bundle,
    store: Annotated[
        str | None, typer.Option(help="Event store: a path or postgresql://... By default BUNDLE.events.db beside it.")
    ] = None,
    every: Annotated[str | None, typer.Option(help="Learn again and again: 30m, 6h, 1d. SIGTERM ends it.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="How to learn (learn.margin=0.1), or another recipe to try (rank.trees=200).")
    ] = None,
    log: Annotated[bool, typer.Option("--log", help="Only show what was decided so far, and why.")] = False,
    trust: Annotated[list[str] | None, typer.Option(help="Import components of this module; may be given again.")] = None,
    json_: Json = False,
) -> None:
    """Learn from what happened since: a new bundle takes over if it is no worse than the one in service."""
    from palate.feedback.store import EventStore
    from palate.learn import command

    place = store or str(bundle.absolute().parent / f"{bundle.name.partition('@')[0]}.events.db")
    with EventStore.open(place, create=False) as opened:
        if log:
            decisions = opened.decisions()
            if json_:
                _print_json([{**one._asdict(), "time": one.time.isoformat()} for one in decisions])
            else:
                _console().print(command.table(decisions))
            return

        def report(learnt: Learnt | PalateError) -> None:
            if isinstance(learnt, PalateError):
                print(f"palate: {learnt}", file=sys.stderr)
            elif json_:
                _print_json(learnt.to_json())
                sys.stdout.flush()
            else:
                measured = command.measures(learnt)
                _console().print(*([measured] if measured else []), command.table([learnt.decision()]))
                for note in learnt.notes:
                    _console().print(f"note: {note}")

        command.run(bundle, opened, changes=set_ or (), again=every, trust=trust or (), quiet=json_, report=report)


@app.command(epilog="Examples:  palate validate events.csv --user uid --item sku --time ts  |  palate validate movielens-small")
def validate(
    file: Annotated[str, typer.Argument(help="A CSV, TSV, JSON lines, Parquet or Arrow file, or the name of a source.")],
    user: Annotated[str, typer.Option(help="Column of the user ids.")] = "user",
    item: Annotated[str, typer.Option(help="Column of the item ids.")] = "item",
    time: Annotated[str, typer.Option(help="Column of the times; an empty string if there is none (file order is the order).")] = "time",
    kind: Annotated[str | None, typer.Option(help="Column of the kind of event (click, purchase, ...).")] = None,
    value: Annotated[str | None, typer.Option(help="Column of a value (rating, dwell time, ...).")] = None,
    context: Annotated[list[str] | None, typer.Option(help="A context column; may be given again.")] = None,
    users: Annotated[str | None, typer.Option(help="A table of users.")] = None,
    items: Annotated[str | None, typer.Option(help="A table of items.")] = None,
    time_unit: Annotated[str, typer.Option(help="Unit of numeric times: s, ms or us.")] = "s",
    bad_rows: Annotated[Path | None, typer.Option(help="Set bad rows aside into this file, with reasons, and go on.")] = None,
    json_: Json = False,
) -> None:
    """Print what a log holds, or every problem with its file, row and column."""
    from palate.data.validate import render
    from palate.data.validate import validate as check

    report = check(
        file, user=user, item=item, time=time or None, kind=kind, value=value, context=tuple(context or ()), users=users, items=items,
        time_unit=time_unit, bad_rows=bad_rows or "refuse",
    )  # fmt: skip
    if json_:
        _print_json(report.to_json())
    else:
        _console().print(render(report))
    if report.problems and bad_rows is None:
        sys.exit(1)


@app.command(epilog="Example:  palate recipe your-own-csv > my.toml")
def recipe(
    name: Annotated[str | None, typer.Argument(help="The recipe to print; none lists their names.")] = None,
) -> None:
    """List the recipes that ship, or print one to start from."""
    from palate import recipe as recipes

    print(recipes.text_of(name) if name else "\n".join(recipes.shipped()))


@app.command(epilog="Example:  palate generate events.parquet --events 2000000")
def generate(
    out: Annotated[Path, typer.Argument(help="The file to write: .parquet or .csv.")],
    events: Annotated[int, typer.Option(min=1, help="How many events.")] = 1_000_000,
    users: Annotated[int, typer.Option(min=1, help="How many users.")] = 50_000,
    items: Annotated[int, typer.Option(min=1, help="How many items.")] = 20_000,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
) -> None:
    """Write a log of a planted world with known preferences, for tests of speed and memory."""
    from palate.data.sources.planted import write_events

    write_events(out, events=events, users=users, items=items, seed=seed)
    _console().print(f"{events:,} events in {out}")


@app.command(
    "generate-clicks",
    epilog="Examples:  palate generate-clicks clicks --rows 5000000  |  palate generate-clicks day_0.tsv.gz --rows 1000000  |  "
    "palate generate-clicks clicks --fields 8 --ids 20 --order triples",
)
def generate_clicks(
    out: Annotated[
        Path, typer.Argument(help="A folder for packed rows, as `palate prepare` writes; or a .tsv or .tsv.gz file in Criteo's format.")
    ],
    rows: Annotated[
        int, typer.Option(min=1, help="Rows to train on; a folder has a tenth as many for validation, and for test.")
    ] = 1_000_000,
    fields: Annotated[int, typer.Option(min=1, help="Categorical fields.")] = 26,
    ids: Annotated[int, typer.Option(min=2, help="Ids of each field; their frequencies follow Zipf's law.")] = 1000,
    dense: Annotated[int, typer.Option(min=0, help="Dense columns.")] = 13,
    order: Annotated[str, typer.Option(help="What labels depend on: linear, pairs or triples of fields.")] = "pairs",
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
) -> None:
    """Write a click log of known probabilities, and say the best logloss that any ranker can reach on it."""
    from palate.data.sources import clicks

    truth = clicks.write(out, rows, fields=(ids,) * fields, dense=dense, order=order, seed=seed)
    console = _console()
    for split, best in truth.items():
        console.print(
            f"{best['rows']:,} rows of {split} in {out}: rate {best['rate']:.4f}, best possible logloss {best['best_logloss']:.5f}"
        )


@app.command(
    epilog="Examples:  palate reproduce --list  |  palate reproduce frappe-x1 --models fm,deepfm --seeds 5  |  "
    "palate reproduce frappe-x1 --data DIR  |  palate reproduce gowalla --models ease,item_knn  |  palate reproduce gowalla --tune"
)
def reproduce(
    table: Annotated[str | None, typer.Argument(help="A published table; --list names them.", show_default=False)] = None,
    list_: Annotated[bool, typer.Option("--list", help="List the tables and their models.")] = False,
    models: Annotated[str | None, typer.Option(help="Only these models, commas between.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds: 0, 1, 2, ...")] = 1,
    data: Annotated[Path | None, typer.Option(help="Another data set in the same format instead of the published one.")] = None,
    out: Annotated[
        Path, typer.Option(help="Where each run's settings, environment and figures are kept; runs there are not repeated.")
    ] = Path("reproduced"),
    jobs: Annotated[int, typer.Option(min=1, help="Runs at the same time, each with its share of the processors.")] = 1,
    bf16: Annotated[bool, typer.Option("--bf16", help="Layers in bfloat16 autocast: quicker where the processor has it.")] = False,
    tune: Annotated[
        bool, typer.Option("--tune", help="Retrieval: choose settings first, on items held out of train; kept in the run's file.")
    ] = False,
    json_: Json = False,
) -> None:
    """Train the models of a published table by its protocol, and print the published figures beside ours."""
    from palate.reproduce import command

    if list_:
        command.show_tables(_console(), _print_json if json_ else None)
        return
    if table is None:
        _fail(f"reproduce: which table? There are {', '.join(command.names())}")
    keys = [key.strip() for key in models.split(",") if key.strip()] if models is not None else None
    done = command.reproduce(
        table, keys, seeds, data, out, jobs=jobs, bf16=bf16, tune=tune, quiet=json_, command=shlex.join(["palate", *sys.argv[1:]])
    )
    if json_:
        _print_json(done.to_json())
    else:
        done.show(_console())


@app.command(
    epilog="Examples:  palate prepare criteo --raw train.txt --out criteo --min-count 10  |  "
    "palate prepare criteo --raw day_* --out terabyte --buckets 1000000  |  palate prepare avazu --raw train.gz --out avazu  |  "
    "palate prepare csv --raw log.csv --out mine --label click --dense age,price --sparse ad,site"
)
def prepare(
    source: Annotated[str, typer.Argument(help="The format: criteo (Kaggle and Terabyte), avazu, or csv (any, with a header).")],
    files: Annotated[list[Path] | None, typer.Argument(help="More raw files: what a shell makes of --raw day_*.")] = None,
    raw: Annotated[list[Path] | None, typer.Option(help="A raw file, plain or gz; several: a day each, the last is held out.")] = None,
    out: Annotated[Path, typer.Option(help="The folder to write; the same command goes on where it was stopped.")] = Path("prepared"),
    dense: Annotated[str, typer.Option(help="Integers: log (ln(x + 1)), log-square (categories) or none; for csv: their columns.")] = "log",
    min_count: Annotated[int, typer.Option(help="Values that stand less often in their column's training rows share one id.")] = 1,
    buckets: Annotated[int | None, typer.Option(help="Hash each column into this many ids instead of counting.")] = None,
    max_ind_range: Annotated[int | None, typer.Option(help="Take raw values modulo this before counting, as DLRM does.")] = None,
    days: Annotated[int | None, typer.Option(help="Equal parts of a single file (criteo 7, avazu and csv 10).")] = None,
    max_bad: Annotated[float, typer.Option(help="The largest share of damaged lines that is put up with.")] = 0.001,
    label: Annotated[str | None, typer.Option(help="csv: the column that is 0 or 1.")] = None,
    sparse: Annotated[str | None, typer.Option(help="csv: the categorical columns, commas between.")] = None,
    separator: Annotated[str, typer.Option(help="csv: what stands between fields.")] = ",",
    json_: Json = False,
) -> None:
    """Turn a click log of any size into packed rows for training: streaming, bounded memory, restartable."""
    from palate.data import prepare as preparing
    from palate.data.sources import formats

    paths = [*(raw or []), *(files or [])]
    form, transform = formats.find(source, paths, label=label, dense=dense, sparse=sparse, separator=separator)
    options = preparing.Options(transform, min_count, buckets, max_ind_range, days)
    done = preparing.prepare(form, paths, out, options, max_bad=max_bad, quiet=json_)
    if json_:
        _print_json(done)
        return
    console = _console()
    if done["reused"]:
        console.print(f"[bold]{out}[/bold] is prepared already: the raw files and options are the same")
    console.print(", ".join(f"{name} {rows:,}" for name, rows in done["splits"].items()) + f" rows over {len(done['days'])} days")
    console.print(f"{len(done['dense'])} dense columns, {len(done['tables'])} tables of {done['table_rows']:,} rows in all")
    if done["bad_rows"]:
        console.print(f"[yellow]{done['bad_rows']:,} damaged lines set aside in {out / preparing.BAD_ROWS}[/yellow]")
    next_steps(f'palate train my.toml --out bundle   (its table data says: rows = "{out}")')


key_commands = typer.Typer(no_args_is_help=True, rich_markup_mode="rich", help="API keys of the service: make, list, revoke.")
app.add_typer(key_commands, name="key")
KeyFile = Annotated[Path, typer.Option("--keys", help="The key file; its owner alone may read it.")]


@key_commands.command("create", epilog="Example:  palate key create --keys keys.json --name shop --scope recommend --scope events")
def key_create(
    name: Annotated[str, typer.Option(help="Whose key it is.")],
    scope: Annotated[list[str], typer.Option(help="recommend, events or admin (which implies the others); may be given again.")],
    keys: KeyFile = Path("keys.json"),
    json_: Json = False,
) -> None:
    """Make a key and print it, this once: the file keeps only a hash of it."""
    from palate.serve import keys as serving

    key, text = serving.create(keys, name, scope)
    if json_:
        _print_json({"id": key.id, "name": key.name, "scopes": key.scopes, "made": key.made, "key": text})
        return
    _console(stderr=True).print(f"Key {key.id} with scope {', '.join(key.scopes)} in {keys}. It is shown this once:", markup=False)
    print(text)


@key_commands.command("list", epilog="Example:  palate key list --keys keys.json")
def key_list(keys: KeyFile = Path("keys.json"), json_: Json = False) -> None:
    """List the keys of a file: id, name, scopes, when each was made."""
    from palate.serve import keys as serving

    found = serving.entries(keys)
    if json_:
        _print_json([{"id": key.id, "name": key.name, "scopes": key.scopes, "made": key.made} for key in found])
        return
    from rich.table import Table
    from rich.text import Text

    table = Table("id", "name", "scopes", "made", box=None, pad_edge=False)
    for key in found:
        table.add_row(key.id, Text(key.name), ", ".join(key.scopes), key.made)
    _console().print(table)


@key_commands.command("revoke", epilog="Example:  palate key revoke 5f0c2a91 --keys keys.json")
def key_revoke(
    id_: Annotated[str, typer.Argument(metavar="ID", help="The key's id, as `palate key list` prints it.", show_default=False)],
    keys: KeyFile = Path("keys.json"),
) -> None:
    """Take a key out of the file; a running service refuses it within a second."""
    from palate.serve import keys as serving

    key = serving.revoke(keys, id_)
    _console().print(f"Key {key.id} ({key.name}) is revoked", markup=False)


@app.command(epilog="Example:  palate doctor")
def doctor(json_: Json = False) -> None:
    """Check this machine: versions that go together, bf16, memory, GPUs; and what to mend."""
    from palate import doctor as surgery

    found = surgery.checks()
    report = surgery.to_json(found)
    if json_:
        _print_json(report)
    else:
        from rich.table import Table

        table = Table(box=None, pad_edge=False)
        for heading in ("", "check", "found", "mend"):
            table.add_column(heading)
        marks = {"ok": "[green]✓[/green]", "note": "[yellow]•[/yellow]", "bad": "[red]✗[/red]"}
        for check in found:
            table.add_row(marks[check.status], check.name, check.found, check.mend)
        _console().print(table)
    sys.exit(0 if report["ok"] else 1)


def show_job(job: Job) -> None:
    """The table of results, as a person reads it."""
    console = _console()
    console.print()
    console.print(job.evaluation.table(), job.evaluation.slices_table())
    console.print(f"Bundle [bold]{job.folder}[/bold], report [bold]{job.report}[/bold]")


def next_steps(*commands: str) -> None:
    """What to type next: so that it works from here, also where the environment is not activated."""
    console = _console()
    console.print("\nNext:")
    for command in commands:
        first, _, rest = command.partition(" ")
        console.print(f"  [cyan]{program() if first == 'palate' else first} {rest}[/cyan]", soft_wrap=True)


def program() -> str:
    """How this program is called from here: `palate`, or the path by which it was."""
    called = Path(sys.argv[0])
    found = shutil.which("palate")
    same = found is not None and called.exists() and Path(found).resolve() == called.resolve()
    return "palate" if same or called.name != "palate" else shlex.quote(os.path.relpath(called))


def show_slate(recommender: Recommender, heading: str, request: Request, slate: Slate) -> None:
    """A slate: two lines an item, what it is and why it is there."""
    from rich.table import Table
    from rich.text import Text

    from palate.job import recent_titles

    console = _console()
    console.print()
    console.print(Text(heading, style="bold"))
    titles = recent_titles(recommender, request)
    if titles:
        console.print(Text(f"lately: {'; '.join(titles)}", style="dim"))
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 1), width=min(console.width, 100))
    table.add_column(justify="right", no_wrap=True, width=2)
    table.add_column(overflow="ellipsis", no_wrap=True, ratio=1)
    table.add_column(justify="right", no_wrap=True, width=6)
    for row in recommender.table(slate).to_dicts():
        chance = "" if row["probability"] is None else f"{row['probability']:.1%}"
        table.add_row(str(row["place"]), Text(str(row.get("title") or row["item"]), style="bold"), chance)
        genres = row.get("genres")
        about = [", ".join(genres)] if isinstance(genres, list) and genres else []
        told = [task.say(row["tasks"][task.name]) for task in recommender.funnel.tasks] if "tasks" in row else []
        table.add_row("", Text(" · ".join([*told, *about, row["reason"], f"from {row['source']}"]), style="dim"), "")
    console.print(table)


if __name__ == "__main__":
    main()

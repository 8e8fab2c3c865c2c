"""`palate learn`: what it prints, its schedule, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from palate.cli import app
from palate.errors import ConfigError
from palate.feedback.store import EventStore
from palate.learn import command
from palate.learn.job import Settings

SET = ("--set", "learn.people=10", "--set", "learn.least=50", "--set", "learn.margin=1")


def palate(*words: str) -> str:
    done = CliRunner(env={"COLUMNS": "100"}).invoke(app, list(words), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_learning_once_tells_what_was_decided_and_why(bundle: Path, store: EventStore) -> None:
    url = str(store.where)
    told = palate("learn", str(bundle), "--store", url, *SET)
    assert "promote" in told
    assert "in service" in told
    assert "interval of the difference" in " ".join(told.split())
    decided = palate("learn", str(bundle), "--store", url, "--log")
    assert "promote" in decided
    (plain,) = json.loads(palate("learn", str(bundle), "--store", url, "--log", "--json"))
    assert plain["action"] == "promote"
    assert plain["measures"]["people"] >= 10
    waited = json.loads(palate("learn", str(bundle), "--store", url, "--json", "--set", "learn.least=100000").splitlines()[-1])
    assert (waited["action"], waited["bundle"]) == ("wait", f"bundle@{plain['version']}")


def test_the_store_lies_beside_the_bundle_unless_told(bundle: Path, store: EventStore) -> None:
    with EventStore.open(bundle.parent / "bundle.events.db") as beside:
        assert beside.cursor() == 0
    assert "0 wanted events are new" in palate("learn", str(bundle), "--json", "--set", "learn.least=5")


@pytest.mark.parametrize("text", ["", "6", "h", "-1h", "0s", "6 hours", "1e3s", "6h 3m"])
def test_a_span_of_time_has_a_number_and_a_unit(text: str) -> None:
    with pytest.raises(ConfigError, match="write a number and a unit"):
        command.seconds(text)


def test_settings_of_learning_and_of_the_recipe_are_told_apart() -> None:
    settings, others = command.parted(["learn.join.window=3600", "rank.use=gbdt", "learn.metric=pages"])
    assert settings == Settings(metric="pages", join={"window": 3600})
    assert others == ("rank.use=gbdt",)
    with pytest.raises(ConfigError, match="did you mean `margin`"):
        command.parted(["learn.margn=1"])


def test_a_schedule_runs_until_sigterm(bundle: Path, store: EventStore) -> None:
    """A real process: two decisions are made, then it is told to end, and does, in good order."""
    words = ["learn", str(bundle), "--store", str(store.where), "--json", "--every", "1s", "--set", "learn.least=100000"]
    process = subprocess.Popen([sys.executable, "-m", "palate.cli", *words], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    told = [json.loads(process.stdout.readline())["action"] for _ in range(2)]
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(240) == 0
    process.stdout.close()
    assert told == ["wait", "wait"]
    assert [one.action for one in store.decisions()][:2] == ["wait", "wait"]


def test_sigterm_in_the_middle_of_a_run_leaves_no_trace_in_service(bundle: Path, store: EventStore) -> None:
    words = ["learn", str(bundle), "--store", str(store.where), "--every", "1h", *SET]
    process = subprocess.Popen([sys.executable, "-m", "palate.cli", *words], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    assert process.stderr is not None
    while "up to the cut" not in process.stderr.readline():
        assert process.poll() is None
    os.kill(process.pid, signal.SIGTERM)
    process.communicate(timeout=240)
    assert process.returncode == 0
    from palate.serve.shelf import Shelf

    shelf = Shelf(bundle)
    current = shelf.current()
    assert current == "bundle" or shelf.version(current) in {one.version for one in store.decisions()}

"""Off-policy estimates on Open Bandit: each policy's value from the other's log, beside what it really earned.

    PALATE_DATA=... python benchmarks/off_policy.py [--resamples 2000] [--seed 0] [--markdown]

Target `random` from the log of `bts`: the target's probabilities are 1 / items. Target `bts` from the log of `random`: `bts` looks at no
person, and what it showed at each place over the week is counted in its own log (its choices, never its clicks); it changed within the
week, so this is its mean policy. The truth is the mean click of the target's own log, and is a sample of 10,000 as well. The reward model
of DM and DR is the cross-fitted mean by place and item. Rows are taken as independent: the log has no user ids, and 0.1 % of its moments
occur twice.
Prints one JSON line, or with --markdown the tables of docs/results/off-policy.md.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from statistics import NormalDist
from typing import Any

import numpy as np

from palate.data.sources import obd
from palate.feedback.off_policy import Estimate, Logged, Predicted, Settings, SupportError, cell_means, direct, doubly_robust, ips, snips

CLIP = 50.0


def policy(log: obd.Impressions, kind: str) -> np.ndarray:
    """Probability of each item at each place, [places, items]."""
    if kind == "random":
        return np.full((obd.PLACES, log.n_items), 1 / log.n_items)
    shown = np.zeros((obd.PLACES, log.n_items))
    np.add.at(shown, (log.codes("position"), log.codes("item")), 1)
    return shown / shown.sum(axis=1, keepdims=True)


def evaluate(campaign: Any, target: Any, settings: Settings) -> dict[str, Any]:
    """Every estimator, and the truth."""
    own, log = obd.load(target, campaign), obd.load("bts" if target == "random" else "random", campaign)
    chances, items, places = policy(own, target)[log.codes("position")], log.codes("item"), log.codes("position")
    logged = Logged(log.column("click"), log.column("propensity"), chances[np.arange(len(log)), items])
    predicted = Predicted.of(cell_means(places, items, logged.rewards, log.n_items), chances, items)
    clicks = own.column("click")
    reach = NormalDist().inv_cdf(0.975) * clicks.std(ddof=1) / len(clicks) ** 0.5
    methods: dict[str, Callable[[Settings], Estimate]] = {
        "IPS": lambda how: ips(logged, how),
        "SNIPS": lambda how: snips(logged, how),
        "DM": lambda how: direct(logged, predicted, how),
        "DR": lambda how: doubly_robust(logged, predicted, how),
        "SNDR": lambda how: doubly_robust(logged, predicted, how, normalised=True),
    }
    rows: list[dict[str, Any]] = []
    for clip in (None, CLIP):
        for name, method in methods.items():
            row: dict[str, Any] = {"method": name, "clip": clip}
            try:
                for interval in ("normal", "bootstrap"):
                    told = method(settings.model_copy(update={"clip": clip, "interval": interval}))
                    row[interval] = [told.low, told.high, told.covers(float(clicks.mean()))]
                row |= {"value": told.value, "ess": told.ess, "largest": told.largest, "clipped": told.clipped}
            except SupportError as refusal:
                row["refused"] = str(refusal)
            rows.append(row)
    return {
        "campaign": campaign,
        "target": target,
        "truth": float(clicks.mean()),
        "truth_low": float(clicks.mean() - reach),
        "truth_high": float(clicks.mean() + reach),
        "logged": float(log.column("click").mean()),
        "checksums": [log.checksum, own.checksum],
        "rows": rows,
    }


def markdown(results: list[dict[str, Any]]) -> str:
    lines = []
    for result in results:
        other = "bts" if result["target"] == "random" else "random"
        lines += [
            f"### {result['campaign']}: what `{result['target']}` earns, from the log of `{other}`",
            "",
            f"Truth {result['truth']:.2%} [{result['truth_low']:.2%}, {result['truth_high']:.2%}]; "
            f"the logging policy earned {result['logged']:.2%}.",
            "",
            "| method | weights | estimate | 95 %, normal | covers | 95 %, bootstrap | covers | ESS |",
            "| --- | --- | ---: | --- | --- | --- | --- | ---: |",
        ]
        for row in result["rows"]:
            weights = "as they are" if row["clip"] is None else f"at most {row['clip']:g} ({row.get('clipped', 0):.2%} clipped)"
            if "refused" in row:
                lines.append(f"| {row['method']} | {weights} | refused | | | | | {row['refused'].split('size is ')[-1].split(' of')[0]} |")
                continue
            cells = [f"[{row[how][0]:.2%}, {row[how][1]:.2%}] | {'yes' if row[how][2] else 'no'}" for how in ("normal", "bootstrap")]
            lines.append(f"| {row['method']} | {weights} | {row['value']:.2%} | {' | '.join(cells)} | {row['ess']:,.0f} |")
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--resamples", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--markdown", action="store_true")
    given = parser.parse_args()
    settings = Settings(resamples=given.resamples, seed=given.seed)
    results = [evaluate(campaign, target, settings) for campaign in ("men", "women") for target in ("random", "bts")]
    print(markdown(results) if given.markdown else json.dumps({"seed": given.seed, "resamples": given.resamples, "results": results}))


if __name__ == "__main__":
    main()

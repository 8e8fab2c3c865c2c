"""The report: one HTML file that needs nothing else. No script, no network, no font to fetch; charts are SVG inside the page.

It opens with what was found in words and goes on from the whole (which stage does what) to the single case (sample slates), and ends
with what a reader needs to make the numbers again. All that comes from data is escaped. The page follows the reader's light or dark
theme: charts are drawn once, in placeholder colours that the style sheet maps to the theme's.
"""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from palate.evaluate import BASELINE, Evaluation

INK, SOFT, GRID = "#1c1e21", "#6b7079", "#e3e3df"
"""Placeholders for text, axes and grid lines; the style sheet gives them the theme's colours."""
FIXED = {BASELINE: "#8b8f99", "merged": "#6f86a3", "ranked": "#e09a3c", "funnel": "#d9433f", "training log": "#6f86a3"}
RETRIEVERS = ("#3f7fe0", "#159a83", "#9a63cf", "#b0882b", "#4fa3c7", "#c2649a", "#7a9a3a")
TAGS_SHOWN = 3
SIGNED = "datum.value == 0 ? '0' : format(datum.value, '+.3~f')"


def write_report(
    path: str | os.PathLike[str],
    evaluation: Evaluation,
    *,
    title: str,
    facts: Mapping[str, Any],
    curves: Mapping[str, Mapping[str, Sequence[float]]],
    slates: Sequence[Mapping[str, Any]],
    importances: Mapping[str, float] | None = None,
) -> Path:
    """Writes the report and returns its path.

    facts: what is needed to make the numbers again (`command`, `data`, `seed`, `checksum`, versions ...); `command` is shown as one.
    curves: component -> metric -> a value an epoch. slates: `heading`, `history` (titles, newest first) and `rows`, each with `title`
    and what else is known: `year`, `genres`, `source`, `reason`, `probability`. importances: feature -> weight, any scale.
    Cost: some 2 s, for the charts.
    """
    sections = [
        _header(title, evaluation, facts),
        _stages(evaluation),
        _losses(evaluation),
        _comparisons(evaluation),
        _slates(slates),
        _slices(evaluation),
        _exposure(evaluation),
        _ranker(evaluation, importances),
        _training(curves),
        _reproduce(facts, evaluation),
    ]
    page = PAGE.format(title=escape(title), style=STYLE, mapped=_mapped_colours(), body="\n".join(part for part in sections if part))
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(page, encoding="utf-8")
    return target


# -- sections -------------------------------------------------------------------------------------------------------------------


def _header(title: str, found: Evaluation, facts: Mapping[str, Any]) -> str:
    at, single = found.at, found.counts["targets"] == found.counts["queries"]
    funnel, popular = found.stages["funnel"], found.stages[BASELINE]
    best = str(found.attribution["best_retriever"])
    recall = f"recall@{at}"
    times = f"{funnel[recall] / popular[recall]:.1f} times popularity" if popular[recall] > 0 else "popularity finds none"
    tiles = [
        (f"{funnel[recall]:.1%}", "found in the first " + str(at), times),
        (f"{funnel[f'ndcg@{at}']:.4f}", f"nDCG@{at} of the funnel", f"{best} alone {found.stages[best][f'ndcg@{at}']:.4f}"),
        (f"{found.attribution['retrieval_recall']:.1%}", "among the candidates", f"{found.attribution['candidates']:,.0f} a query"),
        (f"{found.beyond['funnel']['coverage']:.1%}", "of the catalogue shown", f"popularity {found.beyond[BASELINE]['coverage']:.1%}"),
    ]
    boxes = "".join(f"<div class=tile><b>{escape(a)}</b><span>{escape(b)}</span><small>{escape(c)}</small></div>" for a, b, c in tiles)
    asked = "one held-out item each" if single else f"{found.counts['targets']:,} held-out items"
    scope = f"{found.counts['queries']:,} people, {asked}. All {found.counts['items']:,} items ranked, none sampled."
    split = f" Split: {facts['split']}." if facts.get("split") else ""
    lead = f"<p class=lead>{escape(found.headline())}</p>"
    return f"<header><h1>{escape(title)}</h1>{lead}<p class=scope>{escape(scope + split)}</p><div class=tiles>{boxes}</div></header>"


def _stages(found: Evaluation) -> str:
    at, single = found.at, found.counts["targets"] == found.counts["queries"]
    deep = [k for k in found.ks if k > at]
    columns = [f"ndcg@{at}", f"mrr@{at}"] + ([] if single else [f"map@{at}", f"hit_rate@{at}"])
    columns += [f"recall@{k}" for k in [at, *sorted({deep[len(deep) // 2], deep[-1]} if deep else set())]]
    table = _table(
        ["stage", *(_metric(name) for name in columns)],
        [[stage, *(values[name] for name in columns)] for stage, values in found.stages.items()],
        colours=_colours(found),
    )
    names = list(dict.fromkeys(name.partition("@")[0] for name in found.stages["funnel"] if name.partition("@")[2].isdigit()))
    every = [
        [f"{stage}, {_metric(name)}", *(values[f"{name}@{k}"] for k in found.ks)]
        for stage, values in found.stages.items()
        for name in names
    ]
    details = (
        f"<details><summary>Every metric at every K</summary>{_table(['', *(f'@{k}' for k in found.ks)], every, best=False)}</details>"
    )
    return _section(
        "Every stage beside popularity",
        "Each retriever alone, all of them merged, the ranker's order of the merged list, and the funnel after reranking. Bold is best.",
        f"{_scroll(table)}{details}",
    )


def _recall_by_k(found: Evaluation) -> dict[str, Any]:
    """Lines that end where the stage's list ends."""
    rows = [
        {"stage": stage, "K": k, "recall": values[f"recall@{k}"]}
        for stage, values in found.stages.items()
        for k in found.ks
        if k <= max(values["length"], found.at)
    ]
    return {
        "data": {"values": rows},
        "mark": {"type": "line", "point": {"size": 26, "filled": True}, "clip": False},
        "encoding": {
            "x": {
                "field": "K",
                "type": "quantitative",
                "scale": {"type": "log", "nice": False},
                "axis": {"values": list(found.ks), "title": "K, places shown", "grid": False},
            },
            "y": {
                "field": "recall",
                "type": "quantitative",
                "axis": {"format": ".0%", "title": "share of wanted items found", "tickCount": 6},
            },
            "color": _colour_scale(found, list(found.stages)),
            "strokeWidth": {"condition": {"test": "datum.stage === 'funnel'", "value": 3.2}, "value": 1.8},
            "strokeDash": {
                "condition": {"test": f"datum.stage === 'merged' || datum.stage === '{BASELINE}'", "value": [5, 4]},
                "value": [1, 0],
            },
        },
    }


def _losses(found: Evaluation) -> str:
    at = found.at
    shown, candidates = found.stages["funnel"][f"recall@{at}"], found.stages["merged"]["recall@all"]
    parts = [
        (shown, "funnel", f"shown in the first {at}"),
        (max(candidates - shown, 0.0), "ranked", "among the candidates, ranked lower"),
        (max(1.0 - max(candidates, shown), 0.0), BASELINE, "never retrieved"),
    ]
    bar = "".join(f'<i style="width:{share:.4%};background:{FIXED[colour]}"></i>' for share, colour, _ in parts)
    key = "".join(f'<li><i style="background:{FIXED[colour]}"></i><b>{share:.1%}</b> {escape(text)}</li>' for share, colour, text in parts)
    best, ndcg = str(found.attribution["best_retriever"]), f"ndcg@{at}"
    ladder: list[list[Any]] = [
        [f"{best}, the best retriever", found.attribution[f"best_{ndcg}"]],
        ["all merged, unranked", found.attribution[f"merged_{ndcg}"]],
    ]
    if "ranked" in found.stages:
        ladder.append(["ranked", found.attribution[f"ranked_{ndcg}"]])
    ladder.append(["funnel, reranked", found.attribution[f"funnel_{ndcg}"]])
    ladder.append(["a perfect ranker of these candidates", found.attribution[f"perfect_ranking_{ndcg}"]])
    return _section(
        "What retrieval lost, what ranking gained",
        "Of everything people wanted: what the funnel shows, what it has in hand but ranks too low, and what no retriever brought.",
        f"<div class=stack>{bar}</div><ul class=key>{key}</ul>",
        _duo(
            _figure("Recall by K", _svg(_recall_by_k(found), 580, 330), "A line ends where its stage's list ends."),
            _scroll(_table(["from stage to stage", f"nDCG@{at}"], ladder, best=False)),
        ),
    )


def _comparisons(found: Evaluation) -> str:
    rows = [
        {
            "pair": f"{row.stage} − {row.baseline}",
            "metric": _metric(row.metric),
            "difference": row.difference,
            "low": row.low,
            "high": row.high,
            "verdict": ("better" if row.low > 0 else "worse") if row.clear else "not clear",
        }
        for row in found.comparisons
    ]
    pairs = list(dict.fromkeys(str(row["pair"]) for row in rows))
    metrics = list(dict.fromkeys(str(row["metric"]) for row in rows))
    colour = {
        "field": "verdict",
        "type": "nominal",
        "scale": {"domain": ["better", "not clear", "worse"], "range": [RETRIEVERS[1], FIXED[BASELINE], FIXED["funnel"]]},
        "legend": None,
    }
    place = {"y": {"field": "pair", "type": "nominal", "sort": pairs, "axis": {"title": None, "labelLimit": 240, "grid": False}}}
    value = {"type": "quantitative", "axis": {"title": None, "labelExpr": SIGNED, "tickCount": 3, "labelOverlap": True}}
    layers = [
        {"mark": {"type": "rule", "color": SOFT, "strokeDash": [3, 3]}, "encoding": {"x": {"datum": 0, "type": "quantitative"}}},
        {
            "mark": {"type": "rule", "strokeWidth": 2.5},
            "encoding": {"x": {"field": "low", **value}, "x2": {"field": "high"}, **place, "color": colour},
        },
        {
            "mark": {"type": "point", "filled": True, "size": 70, "opacity": 1},
            "encoding": {"x": {"field": "difference", **value}, **place, "color": colour},
        },
    ]
    charts = "".join(
        _figure(
            metric,
            _svg({"data": {"values": [row for row in rows if row["metric"] == metric]}, "layer": layers}, 290, 34 * len(pairs) + 34),
        )
        for metric in metrics
    )
    return _section(
        "How sure that is",
        "Differences on the same people, with 95% bootstrap intervals. Green is better and red is worse, clear of zero; grey is not clear.",
        f"<div class=charts>{charts}</div>",
    )


def _slates(slates: Sequence[Mapping[str, Any]]) -> str:
    if not slates:
        return ""
    return _section("What people would see", "", "".join(_slate(slate) for slate in slates))


def _slate(slate: Mapping[str, Any]) -> str:
    history = [str(name) for name in slate.get("history") or ()]
    knows = f"<p class=history>Knowing that they chose {', '.join(f'<i>{escape(name)}</i>' for name in history)}</p>" if history else ""
    cards = "".join(_poster(row) for row in slate["rows"])
    return f"<article><h3>{escape(str(slate['heading']))}</h3>{knows}<div class=posters>{cards}</div></article>"


def _poster(row: Mapping[str, Any]) -> str:
    """A card for one item: the title set like a poster, in a colour that its first genre gives."""
    name = str(row.get("title") or row.get("item") or "")
    year = "" if row.get("year") is None else str(row["year"])
    dated = re.fullmatch(r"(.+?)\s*\((\d{4})\)\s*", name)
    if dated and year in ("", dated[2]):
        name, year = dated[1], dated[2]
    given = row.get("genres")
    genres = [str(genre) for genre in given] if isinstance(given, (list, tuple)) else [str(given)] if given else []
    hue = (zlib.crc32((genres[0] if genres else name).encode()) + zlib.crc32(" ".join(genres[1:]).encode()) % 60) % 360
    chips = "".join(f"<span>{escape(genre)}</span>" for genre in genres[:TAGS_SHOWN])
    chance = row.get("probability")
    sure = f"<b>{float(chance):.1%}</b> " if isinstance(chance, (int, float)) and chance == chance else ""
    source = f"<em>{escape(str(row['source']))}</em>" if row.get("source") else ""
    size = " long" if len(name) > 34 else ""
    face = f'<div class="face{size}" style="--hue:{hue}"><strong>{escape(name)}</strong><small>{escape(year)}</small></div>'
    reason = escape(str(row.get("reason") or ""))
    return f"<figure class=poster>{face}<div class=chips>{chips}</div><figcaption>{reason}</figcaption><p>{sure}{source}</p></figure>"


def _slices(found: Evaluation) -> str:
    recall = f"recall@{found.at}"
    blocks = []
    sides = (("By what is known of the person", "users", "queries", "people"), ("By what was wanted", "items", "targets", "wanted"))
    for heading, by, counted, noun in sides:
        groups = {name: part for name, part in found.slices[by].items() if part["stages"]}
        rows = [[stage, *(part["stages"][stage][recall] for part in groups.values())] for stage in found.stages]
        heads = [
            f"{name.replace(' (', chr(10) + '(', 1)}\n"
            + (f"{part['items']:,} items, " if "items" in part else "")
            + f"{part[counted]:,} {noun}"
            for name, part in groups.items()
        ]
        empty = [name for name, part in found.slices[by].items() if not part["stages"]]
        none = f"<p class=note>Empty: {escape(', '.join(empty))}.</p>" if empty else ""
        blocks.append(f"<div><h3>{escape(heading)}</h3>{_scroll(_table(['stage', *heads], rows, colours=_colours(found)))}{none}</div>")
    chance = found.counts[f"chance_recall@{found.at}"]
    return _section(
        "Warm and cold",
        f"Recall@{found.at} within each slice. A random order of the catalogue has {chance:.4f}.",
        f"<div class=pair>{''.join(blocks)}</div>",
    )


def _exposure(found: Evaluation) -> str:
    names = [
        name
        for name in ("coverage", "gini", "popularity", "novelty", "diversity")
        if found.beyond["funnel"][name] == found.beyond["funnel"][name]
    ]
    shown = {
        "coverage": "catalogue shown",
        "gini": "Gini of exposure",
        "popularity": "events an item",
        "novelty": "novelty, bits",
        "diversity": "diversity in a list",
    }
    table = _table(
        ["stage", *(shown[name] for name in names)],
        [[stage, *(values[name] for name in names)] for stage, values in found.beyond.items()],
        best=False,
        colours=_colours(found),
        digits={shown["popularity"]: 0, shown["novelty"]: 2},
    )
    return _section(
        "Who gets shown",
        f"Of the first {found.at} places. Every log is uneven; the question is whether the funnel makes it more so.",
        _scroll(table),
        _duo(_figure("Popularity bias", _svg(_concentration(found), 580, 330)), _half(found)),
    )


def _concentration(found: Evaluation) -> dict[str, Any]:
    """The Lorenz curve read from its upper end, with the number of items on a log scale: in a catalogue the end is what matters."""
    kept = list(dict.fromkeys(["training log", BASELINE, str(found.attribution["best_retriever"]), "funnel"]))
    tops = found.concentration["top items"]
    rows = [
        {"of": name, "items": top, "places": share}
        for name in kept
        for top, share in zip(tops, found.concentration[name], strict=True)
        if share == share
    ]
    ticks = [10**power for power in range(8) if 10**power <= tops[-1]]
    items_axis = {"title": "items, the most shown first", "values": ticks, "format": ",", "grid": False}
    return {
        "data": {"values": rows},
        "mark": {"type": "line", "strokeWidth": 2},
        "encoding": {
            "x": {"field": "items", "type": "quantitative", "scale": {"type": "log", "nice": False}, "axis": items_axis},
            "y": {"field": "places", "type": "quantitative", "axis": {"format": ".0%", "title": "share of all places", "tickCount": 5}},
            "color": _colour_scale(found, kept, "of"),
            "strokeDash": {
                "condition": {"test": f"datum.of === 'training log' || datum.of === '{BASELINE}'", "value": [5, 4]},
                "value": [1, 0],
            },
        },
    }


def _half(found: Evaluation) -> str:
    """In words, how many items take half of all places."""
    head = next(part["items"] for name, part in found.slices["items"].items() if name.startswith("head"))
    shares = {"of the training log's events": head}
    shares |= {
        f"of what {name} shows": found.beyond[stage]["half_share"] for stage, name in ((BASELINE, "popularity"), ("funnel", "the funnel"))
    }
    lines = "".join(f"<p><b>{_items(int(number))}</b> {text}</p>" for text, number in shares.items())
    return f"<h3>Half goes to</h3>{lines}<p class=note>of {found.counts['items']:,} items in the catalogue.</p>"


def _ranker(found: Evaluation, importances: Mapping[str, float] | None) -> str:
    parts = []
    if found.ranker:
        shown = {
            "auc": "AUC",
            "gauc": "gAUC, within a person",
            "logloss": "logloss",
            "normalised_entropy": "normalised entropy",
            "calibration_error": "calibration error",
            "calibration_ratio": "expected / observed",
            "base_rate": "base rate",
        }
        rows = [[name, found.ranker[key]] for key, name in shown.items()]
        rows_said = f"{found.ranker['candidates']:,} candidates, {found.ranker['positives']:,} of them wanted."
        note = f"{rows_said} Normalised entropy below 1 beats the base rate."
        parts.append(f"<div>{_scroll(_table(['on its candidates', ''], rows, best=False))}<p class=note>{note}</p></div>")
        parts.append(
            _figure("Calibration", _svg(_reliability(found.reliability), 300, 290), "Each point is a twentieth of the candidates.")
        )
    if importances:
        parts.append(f"<div><h3>What it leans on</h3>{_bars(importances)}</div>")
    if not parts:
        return ""
    return _section(
        "The ranker",
        "Can it tell wanted from unwanted among its candidates, and are its probabilities right?",
        f"<div class=pair>{''.join(parts)}</div>",
    )


def _reliability(diagram: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    rows = [{"predicted": p, "observed": o} for p, o in zip(diagram["predicted"], diagram["observed"], strict=True)]
    top: float = max([*diagram["predicted"], *diagram["observed"], 1e-6])
    smallest = min([value for value in diagram["predicted"] if value > 0], default=top)
    linear = max(smallest, top / 1000)
    scale = {"type": "symlog", "constant": linear, "domain": [0, top], "nice": False}
    powers = [10.0**power for power in range(-6, 1) if linear <= 10.0**power <= top]
    ticks = [0.0, *powers]
    axis = {"labelExpr": "format(datum.value * 100, '~g') + '%'", "values": ticks, "labelOverlap": True}
    place = {
        "x": {"field": "predicted", "type": "quantitative", "scale": scale, "axis": {**axis, "title": "predicted probability"}},
        "y": {"field": "observed", "type": "quantitative", "scale": scale, "axis": {**axis, "title": "observed share wanted"}},
    }
    diagonal = [{"predicted": top * (step / 60) ** 3, "observed": top * (step / 60) ** 3} for step in range(61)]
    return {
        "layer": [
            {
                "data": {"values": diagonal},
                "mark": {"type": "line", "color": SOFT, "strokeDash": [3, 3], "strokeWidth": 1},
                "encoding": place,
            },
            {
                "data": {"values": rows},
                "mark": {"type": "line", "color": FIXED["ranked"], "point": {"size": 50, "filled": True, "color": FIXED["ranked"]}},
                "encoding": place,
            },
        ]
    }


def _training(curves: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    charts = []
    for component, metrics in curves.items():
        for metric, values in metrics.items():
            rows = [{"epoch": epoch, "value": value} for epoch, value in enumerate(values, start=1) if value == value]
            if len(rows) < 2:
                continue
            every = -(-len(values) // 6)
            epochs = [epoch for epoch in range(1, len(values) + 1) if epoch == 1 or epoch % every == 0]
            spec = {
                "data": {"values": rows},
                "mark": {
                    "type": "line",
                    "color": RETRIEVERS[0],
                    "point": {"size": 22 if len(rows) <= 30 else 0, "filled": True, "color": RETRIEVERS[0]},
                },
                "encoding": {
                    "x": {
                        "field": "epoch",
                        "type": "quantitative",
                        "axis": {"title": "epoch (boosting: round)", "values": epochs, "format": "d", "grid": False},
                    },
                    "y": {"field": "value", "type": "quantitative", "scale": {"zero": False}, "axis": {"title": None, "tickCount": 4}},
                },
            }
            charts.append(_figure(f"{component}: {metric}", _svg(spec, 290, 180)))
    return _section("Training", "", f"<div class=charts>{''.join(charts)}</div>") if charts else ""


def _reproduce(facts: Mapping[str, Any], found: Evaluation) -> str:
    rest = {name: value for name, value in facts.items() if name != "command"}
    rest["evaluation"] = f"{found.seconds:.1f} s, {found.stage_seconds:.1f} s of it in the funnel"
    items = "".join(f"<div><dt>{escape(str(name))}</dt><dd>{escape(_fact(name, value))}</dd></div>" for name, value in rest.items())
    command = f"<pre>{escape(str(facts['command']))}</pre>" if facts.get("command") else ""
    dropped = int(found.counts["dropped_targets"])
    note = f"{dropped:,} held-out items were seen or disliked before, cannot be shown again and are not counted." if dropped else ""
    aside = f"<p class=note>{note}</p>" if note else ""
    return f"<footer><h2>Make it again</h2>{command}<dl>{items}</dl>{aside}</footer>"


# -- pieces ---------------------------------------------------------------------------------------------------------------------


def _section(heading: str, text: str, *parts: str) -> str:
    explained = f"<p class=text>{escape(text)}</p>" if text else ""
    return f"<section><h2>{escape(heading)}</h2>{explained}{''.join(parts)}</section>"


def _duo(wide: str, aside: str) -> str:
    return f"<div class=duo>{wide}<aside>{aside}</aside></div>"


def _figure(caption: str, svg: str, note: str = "") -> str:
    below = f"<small>{escape(note)}</small>" if note else ""
    return f"<figure class=chart><figcaption>{escape(caption)}</figcaption>{svg}{below}</figure>"


def _scroll(table: str) -> str:
    return f"<div class=scroll>{table}</div>"


def _table(
    header: Sequence[str],
    rows: Iterable[Sequence[Any]],
    *,
    best: bool = True,
    colours: Mapping[str, str] | None = None,
    digits: Mapping[str, int] | None = None,
) -> str:
    """A table of names and numbers; `best` sets the largest of each column in bold."""
    body = [list(row) for row in rows]
    top = [max((row[place] for row in body if row[place] == row[place]), default=None) for place in range(1, len(header))] if best else []
    lines = []
    for row in body:
        dot = f'<i style="background:{colours.get(str(row[0]), SOFT)}"></i>' if colours else ""
        cells = [f"<th scope=row>{dot}{escape(str(row[0]))}</th>"]
        for place, value in enumerate(row[1:]):
            mark = " class=best" if best and value == top[place] and value > 0 else ""
            cells.append(f"<td{mark}>{_number(value, (digits or {}).get(header[place + 1], 4))}</td>")
        lines.append(f"<tr>{''.join(cells)}</tr>")
    head = "".join(f"<th scope=col>{escape(name).replace(chr(10), '<br>')}</th>" for name in header)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def _bars(values: Mapping[str, float], shown: int = 15) -> str:
    ordered = sorted(values.items(), key=lambda pair: -pair[1])[:shown]
    top = max((value for _, value in ordered), default=0.0) or 1.0
    rows = "".join(
        f'<div><span>{escape(str(name))}</span><i style="width:{max(value, 0.0) / top:.1%}"></i></div>' for name, value in ordered
    )
    return f"<div class=bars>{rows}</div>"


def _items(number: int) -> str:
    return f"{number:,} item" + ("" if number == 1 else "s")


def _number(value: float, digits: int) -> str:
    return "–" if value != value else f"{value:,.{digits}f}"


def _metric(name: str) -> str:
    return name.replace("ndcg", "nDCG").replace("mrr", "MRR").replace("map", "MAP").replace("hit_rate", "HR")


def _fact(name: str, value: Any) -> str:
    plain_number = isinstance(value, int) and not isinstance(value, bool) and name not in ("seed", "year")
    return f"{value:,}" if plain_number else str(value)


def _colours(found: Evaluation) -> dict[str, str]:
    """Stage -> colour, the same in every table and chart."""
    retrievers = [stage for stage in found.stages if stage not in FIXED]
    return {**FIXED, **{stage: RETRIEVERS[place % len(RETRIEVERS)] for place, stage in enumerate(retrievers)}}


def _colour_scale(found: Evaluation, names: Sequence[str], field: str = "stage") -> dict[str, Any]:
    colours = _colours(found)
    return {
        "field": field,
        "type": "nominal",
        "sort": list(names),
        "scale": {"domain": list(names), "range": [colours[name] for name in names]},
        "legend": {"title": None, "orient": "bottom", "columns": 4, "symbolType": "stroke", "symbolStrokeWidth": 3},
    }


def _svg(spec: Mapping[str, Any], width: int, height: int) -> str:
    """A Vega-Lite chart as SVG, in placeholder colours, its ids its own."""
    import vl_convert  # slow to load, and needed here only

    text = {"labelColor": SOFT, "titleColor": SOFT, "labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal"}
    config = {
        "background": None,
        "font": "Arial, Helvetica, sans-serif",
        "view": {"stroke": None},
        "axis": {**text, "gridColor": GRID, "domainColor": GRID, "tickColor": GRID, "titlePadding": 8, "labelPadding": 5},
        "legend": {**text, "labelColor": INK, "labelLimit": 200, "columnPadding": 16, "rowPadding": 4},
    }
    full = {
        "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
        "width": width,
        "height": height,
        "autosize": {"type": "fit", "contains": "padding"},
        "padding": 4,
        **spec,
        "config": config,
    }
    svg = str(vl_convert.vegalite_to_svg(full, vl_version="5.21"))
    own = f"c{zlib.crc32(svg.encode()):08x}"
    svg = svg.replace("<svg ", f'<svg style="max-width:{round(1.2 * width)}px" ', 1)
    return re.sub(r'(id="|url\(#)', rf"\g<1>{own}", svg)


def _mapped_colours() -> str:
    """Style rules that give the placeholders of the charts the theme's colours; a rule outweighs an SVG attribute."""
    names = {INK: "--ink", SOFT: "--soft", GRID: "--line"}
    return "".join(f'svg [{kind}="{colour}"]{{{kind}:var({name})}}' for colour, name in names.items() for kind in ("fill", "stroke"))


PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title>
<style>{style}{mapped}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""

STYLE = """
:root{--paper:#faf9f6;--card:#fff;--ink:#1c1e21;--soft:#62676f;--line:#e3e3df;--accent:#d9433f}
@media(prefers-color-scheme:dark){:root{--paper:#141518;--card:#1c1e22;--ink:#ecebe8;--soft:#a0a5ad;--line:#33363c;--accent:#f0625d}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);
font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
main{max-width:1080px;margin:0 auto;padding:56px 28px 40px}
h1{font-size:40px;line-height:1.15;letter-spacing:-.02em;margin:0 0 14px}
h2{font-size:24px;line-height:1.25;letter-spacing:-.01em;margin:0 0 6px}
h3{font-size:16px;margin:0 0 8px}
section{margin-top:64px}
.lead{font-size:21px;line-height:1.5;max-width:46em;margin:0 0 10px}
.scope,.text,.note,.history{color:var(--soft);margin:0 0 18px;max-width:52em}
.note{font-size:14px;margin:10px 0 0}
.tiles{display:grid;grid-template-columns:repeat(4,1fr);gap:14px;margin-top:28px}
.tile{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:16px 18px;display:flex;flex-direction:column}
.tile b{font-size:30px;line-height:1.2;letter-spacing:-.02em;font-variant-numeric:tabular-nums}
.tile small{color:var(--soft);font-size:14px}
.scroll{overflow-x:auto;background:var(--card);border:1px solid var(--line);border-radius:12px;padding:6px 0}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums;font-size:15px}
th,td{padding:7px 18px;text-align:right;white-space:nowrap;font-weight:400}
th:first-child{text-align:left}
thead th{color:var(--soft);font-size:13px;vertical-align:bottom;line-height:1.35}
tbody tr{border-top:1px solid var(--line)}
tbody th i,.key i{display:inline-block;width:10px;height:10px;border-radius:50%;margin-right:10px}
.best{font-weight:700}
details{margin-top:14px}
summary{cursor:pointer;color:var(--soft);font-size:14px;margin-bottom:10px}
details table{background:var(--card);font-size:13px}
details th,details td{padding:3px 14px}
.chart{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:18px 20px;margin:18px 0 0}
.chart figcaption{font-weight:600;font-size:15px;margin-bottom:8px}
.chart svg{display:block;width:100%;height:auto;margin:0 auto}
.chart small{color:var(--soft)}
.charts,.pair{display:grid;gap:18px;align-items:start}
.charts{grid-template-columns:repeat(auto-fill,minmax(300px,1fr))}
.pair th,.pair td{padding:7px 14px}
.pair thead th{white-space:normal;max-width:11em}
.pair thead th+th{min-width:8.4em}
.pair{grid-template-columns:repeat(auto-fit,minmax(320px,1fr))}
.duo{display:grid;grid-template-columns:minmax(0,1.55fr) minmax(0,1fr);gap:18px;align-items:start;margin-top:18px}
.duo .chart{margin:0}
.duo .chart{overflow-x:auto}
.duo .chart svg{min-width:440px}
.duo aside p{margin:4px 0}
.duo td,.duo th{padding:9px 16px;white-space:normal}
.charts .chart,.pair .chart{margin:0}
.stack{display:flex;height:34px;border-radius:8px;overflow:hidden;gap:2px}
.key{list-style:none;display:flex;flex-wrap:wrap;gap:6px 28px;padding:0;margin:12px 0 22px}
article{margin:22px 0 40px}
.history{font-size:15px;margin-bottom:14px}
.posters{display:grid;grid-template-columns:repeat(4,1fr);gap:20px 16px}
.poster{margin:0;min-width:0}
.face{aspect-ratio:4/3;border-radius:10px;padding:16px;display:flex;flex-direction:column;justify-content:space-between;color:#fff;overflow:hidden;
background:linear-gradient(150deg,hsl(var(--hue) 42% 38%),hsl(calc(var(--hue) + 28) 48% 20%))}
.face strong{font:700 25px/1.12 Georgia,"Times New Roman",serif;overflow-wrap:anywhere}
.face.long strong{font-size:18px}
.face small{opacity:.85;font-size:14px;letter-spacing:.06em}
.chips{display:flex;flex-wrap:wrap;gap:4px;margin:9px 0 6px}
.chips span{font-size:12px;line-height:1;padding:4px 7px;border:1px solid var(--line);border-radius:99px;color:var(--soft)}
.poster figcaption{font-size:14px;line-height:1.4}
.poster p{margin:3px 0 0;font-size:13px;color:var(--soft)}
.poster em{font-style:normal}
.bars div{display:grid;grid-template-columns:minmax(0,11em) 1fr;gap:10px;align-items:center;font-size:13px;margin:3px 0}
.bars span{overflow:hidden;text-overflow:ellipsis;white-space:nowrap;text-align:right;color:var(--soft)}
.bars i{height:12px;border-radius:3px;background:#e09a3c;min-width:1px}
footer{margin-top:72px;padding-top:28px;border-top:1px solid var(--line);font-size:14px}
pre{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:14px 16px;overflow-x:auto;
font:14px/1.5 ui-monospace,Menlo,Consolas,monospace}
dl{display:grid;grid-template-columns:repeat(auto-fill,minmax(220px,1fr));gap:12px 24px;margin:18px 0 0}
dt{color:var(--soft);font-size:13px}
dd{margin:0;overflow-wrap:anywhere}
@media(max-width:720px){main{padding:32px 16px}h1{font-size:30px}.lead{font-size:18px}.tiles,.posters{grid-template-columns:repeat(2,1fr)}
.tile b{font-size:24px}section{margin-top:44px}th,td{padding:7px 12px}.chart{padding:14px 10px}.duo{grid-template-columns:minmax(0,1fr)}
.face strong{font-size:18px}.face.long strong{font-size:15px}.face{padding:12px}}
@media print{.scroll,.chart,.poster{break-inside:avoid}}
"""

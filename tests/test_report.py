"""The report: one file that stands alone, says what was found, and trusts nothing that comes from data."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from palate.evaluate import Comparison, Evaluation
from palate.report import write_report

EVIL = "<script>alert(1)</script>"
STAGES = ("popular", "ease", EVIL, "merged", "ranked", "funnel")
KS = (1, 5, 10, 20)


def stage_row(scale):
    row = {f"{name}@{k}": scale * k / 40 for name in ("ndcg", "recall", "mrr", "hit_rate", "map", "precision", "accuracy") for k in KS}
    return {**row, "recall@all": scale * 0.6, "length": 20.0}


@pytest.fixture(scope="module")
def evaluation():
    stages = {stage: stage_row(0.2 + 0.1 * place) for place, stage in enumerate(STAGES)}
    slice_rows = {stage: {"recall@10": 0.1, "ndcg@10": math.nan} for stage in STAGES}
    beyond = {"coverage": 0.1, "gini": 0.9, "half_share": 7, "novelty": 8.0, "popularity": 20.0, "diversity": math.nan}
    return Evaluation(
        stages=stages,
        ranker={
            **dict.fromkeys(("auc", "gauc", "logloss", "normalised_entropy", "calibration_error", "calibration_ratio", "base_rate"), 0.5),
            "candidates": 100,
            "positives": 3,
        },
        reliability={"predicted": [0.0, 0.01, 0.2], "observed": [0.0, 0.0, 0.3], "rows": [40, 40, 20]},
        slices={
            "users": {"cold (no events)": {"queries": 0, "stages": {}}, "warm (10 to 99 events)": {"queries": 9, "stages": slice_rows}},
            "items": {
                "cold (no events)": {"items": 4, "targets": 0, "stages": {}},
                "head": {"items": 3, "targets": 9, "stages": slice_rows},
            },
        },
        comparisons=[Comparison("funnel", base, "ndcg@10", 0.1, low, 0.2) for base, low in (("popular", 0.05), (EVIL, -0.1))],
        attribution={
            "best_retriever": EVIL,
            "retrieval_recall": 0.6,
            "retrieval_lost": 0.4,
            "candidates": 20.0,
            **{f"{name}_ndcg@10": 0.1 for name in ("best", "merged", "ranked", "funnel", "perfect_ranking")},
        },
        beyond=dict.fromkeys(STAGES, beyond),
        concentration={"top items": [1, 10, 100], **{name: [0.1, 0.5, 1.0] for name in ("training log", *STAGES)}},
        counts={"users": 9, "queries": 9, "targets": 9, "dropped_targets": 2, "dropped_users": 0, "items": 100, "chance_recall@10": 0.1},
        ks=KS,
        at=10,
        seconds=1.5,
        stage_seconds=1.0,
    )


SLATE = {
    "heading": f"User {EVIL}",
    "history": [EVIL, "Alien (1979)"],
    "rows": [
        {"title": f"{EVIL} (1999)", "genres": [EVIL], "source": EVIL, "reason": f"goes with {EVIL}", "probability": 0.125},
        {"title": "Heat", "year": 1995, "genres": None, "source": None, "reason": None, "probability": math.nan},
        {"item": "sku-7"},
    ],
}
FACTS = {"command": f"palate train {EVIL}", "split": "leave-last-out", "events": 100_004, "seed": 10_000, EVIL: EVIL}
CURVES = {EVIL: {"loss": [3.0, 2.0, math.nan, 1.5], "once": [1.0]}}


@pytest.fixture(scope="module")
def page(evaluation, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "new" / "report.html"
    given = write_report(path, evaluation, title=f"Palate on {EVIL}", facts=FACTS, curves=CURVES, slates=[SLATE], importances={EVIL: 2.0})
    assert given == path
    return path.read_text(encoding="utf-8")


class Reader(HTMLParser):
    """Tags in order, what stands outside of tags, and whether what is opened is closed."""

    VOID = ("meta", "link", "br", "img")

    def __init__(self, page):
        super().__init__()
        self.tags, self.text, self.links, self.open = [], [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href", "xlink:href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data):
        self.text.append(data)


def test_nothing_from_data_becomes_markup(page):
    reader = Reader(page)
    assert "script" not in reader.tags
    assert EVIL not in page
    shown = "".join(reader.text)
    assert shown.count("alert(1)") >= 12  # title, stages, slate, reason, history, facts ...: all shown, as text


def test_is_well_formed_and_stands_alone(page):
    reader = Reader(page)
    assert reader.open == []
    assert reader.links == []
    assert not re.search(r"url\((?!#)|@import", page)
    assert "default-src 'none'" in page


def test_says_what_was_found(page, evaluation):
    text = " ".join(" ".join(Reader(page).text).split())
    assert evaluation.headline() in text
    for heading in ("Every stage beside popularity", "What retrieval lost", "How sure that is", "What people would see", "Warm and cold"):
        assert heading in text
    for heading in ("Who gets shown", "The ranker", "Training", "Make it again"):
        assert heading in text
    assert "100,004" in text
    assert "10000" in text  # a seed is a name, not an amount
    assert "2 held-out items were seen or disliked before" in text


def test_has_its_charts(page):
    """Recall, one interval chart (one metric), concentration, calibration, one curve (the other has one point)."""
    assert Reader(page).tags.count("svg") == 5
    ids = re.findall(r'id="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert "NaN" not in page
    assert ">nan<" not in page


def test_charts_follow_the_theme(page):
    for placeholder in ("#1c1e21", "#6b7079", "#e3e3df"):
        assert f'[fill="{placeholder}"]' in page
        assert f'[stroke="{placeholder}"]' in page
        assert page.count(f'"{placeholder}"') > 2  # the charts use it
    assert "prefers-color-scheme:dark" in page


def test_posters(page):
    assert "<strong>Heat</strong><small>1995</small>" in page
    assert "<strong>sku-7</strong>" in page
    assert "<small>1999</small>" in page
    assert "<b>12.5%</b>" in page


def test_best_is_bold(page):
    table = page[page.index("<table>") : page.index("</table>")]
    bold = re.findall(r"<td class=best>([\d.]+)</td>", table)
    assert bold == ["0.1750"] * 3 + ["0.3500"]  # the funnel's: nDCG, MRR, recall @10, recall @20


def test_without_a_ranker_curves_or_slates(evaluation, tmp_path):
    plain = replace(
        evaluation,
        stages={name: row for name, row in evaluation.stages.items() if name != "ranked"},
        ranker={},
        reliability={},
        counts={**evaluation.counts, "targets": 30, "dropped_targets": 0},
    )
    path = write_report(str(tmp_path / "r.html"), plain, title="t", facts={}, curves={}, slates=[])
    text = " ".join(Reader(path.read_text(encoding="utf-8")).text)
    assert "The first 10 places show" in text
    for absent in ("The ranker", "Training", "What people would see", "seen or disliked before"):
        assert absent not in text

"""Evaluation of a funnel: a small world worked out by hand, laws that hold on any world, and the real log."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from dataclasses import replace
from math import log2

import numpy as np
import polars as pl
import pytest
from rich.console import Console

from palate.data.log import read
from palate.data.split import split
from palate.evaluate import evaluate
from palate.features.history import History
from palate.metrics import pointwise
from palate.retrieve.ease import EASE
from palate.retrieve.merge import merge
from palate.retrieve.popular import Popular
from palate.types import NOTHING, Candidates, DataError, SplitError

SECOND = 1_000_000


def log_of(rows, users, items, **settings):
    """A log from (user, item, time) rows."""
    events = pl.DataFrame(rows, schema=["user", "item", "time"], orient="row")
    return read(events, users=pl.DataFrame({"user": users}), items=items, **settings)


class Stages:
    """The face of a funnel that evaluation needs, with stages that a test can work out.

    Real retrievers; the ranker turns the merged list round and gives probabilities.
    """

    def __init__(self, log, retrievers, ranks=True):
        self.retrievers = [r if isinstance(r, Planned) else r.fit(log) for r in retrievers]
        self.ranker = "turns round" if ranks else None
        self.tasks = ()
        self.rerankers = ()
        self.history = History.of(log)
        self.items = log.items
        self.item_ids = log.items["item"].to_list()
        self.popularity = np.bincount(log.positives().item_codes, minlength=log.n_items).astype(np.float32)
        self.asked = []

    def stages(self, queries, k):
        self.asked.append(queries)
        lists = {r.name: r.retrieve(queries, 20) for r in self.retrievers}
        merged = merge(list(lists.values()), [20] * len(lists), 30)
        stages, last = {**lists, "merged": merged}, merged
        if self.ranker:
            lengths = merged.present.sum(axis=1)[:, None]
            place = np.arange(merged.items.shape[1])[None, :]
            order = np.where(place < lengths, lengths - 1 - place, place)
            ranked = merged.reorder(order, -place.astype(np.float32) * np.ones((len(merged), 1), dtype=np.float32))
            probability = np.where(ranked.present, 1.0 / (place + 2.0), np.nan).astype(np.float32)
            last = stages["ranked"] = replace(ranked, features={"ranker.probability": probability})
        stages["funnel"] = last.reorder(np.tile(np.arange(min(k, last.items.shape[1])), (len(last), 1)))
        return stages


class Planned:
    """A retriever whose lists are given, by user."""

    name = "planned"

    def __init__(self, lists):
        self.lists = lists

    def retrieve(self, queries, k):
        items = np.full((len(queries), 3), NOTHING, dtype=np.int32)
        for row, user in enumerate(queries.users):
            items[row, : len(self.lists[user])] = ["abcdefgh".index(item) for item in self.lists[user]]
        return Candidates.of(items, np.tile(np.array([3.0, 2.0, 1.0], dtype=np.float32), (len(items), 1)), self.name)


ITEMS = pl.DataFrame({"item": list("abcdefgh"), "genres": [["x"], ["x", "y"], ["y"], ["z"], ["x"], [], ["z"], None]})
USERS = ["0", "1", "2", "3", "4"]
TRAIN = [("0", "a", 1), ("1", "a", 2), ("2", "a", 3), ("2", "b", 4), ("2", "c", 5), ("4", "f", 6), ("0", "b", 10)]
# User 0's first test event is of the same second as b. User 1 wants a again, user 4 only what it has.
TEST = [("0", "c", 10), ("1", "b", 11), ("1", "d", 12), ("1", "a", 13), ("1", "b", 14), ("2", "e", 15), ("3", "a", 16), ("4", "f", 17)]
LISTS = {0: "dce", 1: "dbg", 2: "gh", 3: "bac"}


@pytest.fixture(scope="module")
def hand():
    train, test = log_of(TRAIN, USERS, ITEMS), log_of(TEST, USERS, ITEMS)
    funnel = Stages(train, [Planned(LISTS)])
    return funnel, evaluate(funnel, test, ks=(1, 2, 3))


def test_queries_are_what_was_known_at_the_first_test_event(hand):
    queries = hand[0].asked[0]
    assert queries.users.tolist() == [0, 1, 2, 3]
    assert queries.now.tolist() == [10 * SECOND, 11 * SECOND, 15 * SECOND, 16 * SECOND]
    assert [queries.history[row].tolist() for row in range(4)] == [[0, 1], [0], [0, 1, 2], []]
    assert sorted(queries.blocked[0].tolist()) == [0, 1]


def test_what_cannot_be_shown_again_is_dropped_and_counted(hand):
    counts = hand[1].counts
    expected = {"users": 5, "queries": 4, "targets": 5, "dropped_targets": 2, "dropped_users": 1, "items": 8}
    assert {name: counts[name] for name in expected} == expected
    assert counts["chance_recall@3"] == pytest.approx(np.mean([3 / 6, 3 / 7, 3 / 5, 3 / 8]))


def test_stages_by_hand(hand):
    planned, popular = hand[1].stages["planned"], hand[1].stages["popular"]
    assert list(hand[1].stages) == ["popular", "planned", "merged", "ranked", "funnel"]
    assert planned["recall@1"] == pytest.approx((0 + 1 / 2 + 0 + 0) / 4)
    assert planned["recall@3"] == planned["recall@all"] == pytest.approx(3 / 4)
    assert planned["ndcg@3"] == pytest.approx((1 / log2(3) + 1 + 0 + 1 / log2(3)) / 4)
    assert planned["mrr@3"] == pytest.approx((1 / 2 + 1 + 0 + 1 / 2) / 4)
    assert planned["map@3"] == pytest.approx((1 / 2 + 1 + 0 + 1 / 2) / 4)
    assert planned["precision@3"] == pytest.approx((1 + 2 + 0 + 1) / 3 / 4)
    assert planned["hit_rate@1"] == pytest.approx(1 / 4)
    assert planned["accuracy@1"] == pytest.approx(1 / 5)
    assert planned["length"] == pytest.approx(11 / 4)
    # without what they have: c f | b c f | f | a b c; user 0 finds c, user 1 half, user 3 a
    assert popular["recall@1"] == pytest.approx((1 + 1 / 2 + 0 + 1) / 4)
    assert popular["length"] == pytest.approx((2 + 3 + 1 + 3) / 4)
    # turned round: e c d | g b d | h g | c a b
    assert hand[1].stages["ranked"]["mrr@3"] == pytest.approx((1 / 2 + 1 / 2 + 0 + 1 / 2) / 4)
    assert hand[1].stages["funnel"] == hand[1].stages["ranked"]


def test_attribution_by_hand(hand):
    found = hand[1].attribution
    assert found["best_retriever"] == "planned"
    assert found["retrieval_lost"] == pytest.approx(1 / 4)
    assert found["perfect_ranking_ndcg@3"] == pytest.approx(3 / 4)
    ranked = (1 / log2(3) + (1 / log2(3) + 1 / 2) / (1 + 1 / log2(3)) + 0 + 1 / log2(3)) / 4
    assert found["ranking_gained"] == pytest.approx(ranked - (1 / log2(3) + 1 + 0 + 1 / log2(3)) / 4)
    assert found["reranking_gained"] == 0


def test_slices_by_hand(hand):
    users, items = hand[1].slices["users"], hand[1].slices["items"]
    assert [(name.split()[0], part["queries"]) for name, part in users.items()] == [("cold", 1), ("lukewarm", 3), ("warm", 0), ("hot", 0)]
    assert users["cold (no events)"]["stages"]["planned"] == {"recall@3": 1.0, "ndcg@3": pytest.approx(1 / log2(3))}
    assert users["hot (100 events or more)"]["stages"] == {}
    # 7 events: a 3, b 2, c and f 1; a alone holds less than half, a and b more
    assert [(name.split()[0], part["items"], part["targets"]) for name, part in items.items()] == [
        ("cold", 4, 2),
        ("tail", 2, 1),
        ("head", 2, 2),
    ]
    planned = {name.split()[0]: part["stages"]["planned"]["recall@3"] for name, part in items.items()}
    assert planned == {"cold": pytest.approx(1 / 2), "tail": 1.0, "head": 1.0}
    assert {part["stages"]["popular"]["recall@3"] for name, part in items.items() if name.startswith("cold")} == {0.0}


def test_ranker_metrics_are_those_of_its_candidates(hand):
    labels = [0, 1, 0, 0, 1, 1, 0, 0, 0, 1, 0]
    probabilities = [1 / 2, 1 / 3, 1 / 4] * 2 + [1 / 2, 1 / 3] + [1 / 2, 1 / 3, 1 / 4]
    queries = [0] * 3 + [1] * 3 + [2] * 2 + [3] * 3
    ranker = hand[1].ranker
    assert ranker["auc"] == pytest.approx(pointwise.auc(labels, probabilities))
    assert ranker["gauc"] == pytest.approx(pointwise.grouped_auc(labels, probabilities, queries).value)
    assert ranker["logloss"] == pytest.approx(pointwise.logloss(labels, probabilities))
    assert ranker["normalised_entropy"] == pytest.approx(pointwise.normalised_entropy(labels, probabilities))
    assert ranker["calibration_error"] == pytest.approx(pointwise.calibration_error(labels, probabilities), abs=1e-6)
    assert (ranker["candidates"], ranker["positives"]) == (11, 4)
    assert sum(hand[1].reliability["rows"]) == 11


def test_beyond_accuracy_by_hand(hand):
    planned = hand[1].beyond["planned"]
    assert planned["coverage"] == 7 / 8  # all but f
    # a [x], b [x, y], c [y], d [z], e [x], g [z]:  d c e | d b g | g h | b a c
    alike = [0, 1 / 3, 0, (1 / 2 + 1 / 2 + 0) / 3]
    assert planned["diversity"] == pytest.approx(1 - np.mean(alike))
    assert planned["popularity"] == pytest.approx(np.mean([1 / 3, 2 / 3, 0, 6 / 3]))


def test_comparisons_are_paired_differences(hand):
    row = hand[1].comparison("funnel", "planned", "mrr@3")
    assert row.difference == pytest.approx((0 - 1 / 2 + 0 + 0) / 4)
    assert row.low <= row.difference <= row.high
    assert hand[1].comparison("funnel", "popular", "ndcg@3") is not None
    assert hand[1].comparison("ranked", "merged", "recall@3").difference == 0
    assert hand[1].comparison("funnel", "planned", "ndcg@99") is None


def test_json_is_plain_and_has_no_nan(hand):
    text = json.dumps(hand[1].to_json(), allow_nan=False)
    back = json.loads(text)
    assert {"stages", "ranker", "slices", "comparisons", "attribution", "beyond", "counts", "seconds"} <= set(back)
    assert back["stages"]["funnel"]["ndcg@3"] == hand[1].stages["funnel"]["ndcg@3"]


def test_table_for_people(hand):
    text = str(hand[1])
    assert text.index("popular") < text.index("planned") < text.index("merged") < text.rindex("funnel")
    assert "nDCG@3" in text
    assert "The first 3 places show" in text
    assert "not clearly different from that of the best single retriever, planned" in " ".join(text.split())


@pytest.mark.parametrize("single", [False, True])
def test_tables_are_whole_in_80_columns(hand, single):
    """A funnel of long names, of a million people; no heading and no figure is cut, whatever is in the table."""
    found = hand[1]
    names = {"planned": "two_towers_with_features", "popular": "popular"}
    renamed = {
        part: {
            names.get(stage, stage): values | {f"recall@{k}": 0.1234 for k in (10, 100, 200)}
            for stage, values in getattr(found, part).items()
        }
        for part in ("stages", "beyond")
    }
    for values in renamed["stages"].values():
        values |= {f"{name}@10": 0.1234 for name in ("ndcg", "mrr", "hit_rate")}
    slices = {
        by: {
            name: {
                **part,
                "queries": 1_234_567,
                "targets": 1_234_567,
                "stages": {stage: {"recall@10": 0.1234} for stage in renamed["stages"]},
            }
            for name, part in groups.items()
        }
        for by, groups in found.slices.items()
    }
    found = replace(
        found,
        **renamed,
        slices=slices,
        attribution=found.attribution | {"best_retriever": "two_towers_with_features"},
        counts=found.counts | {"queries": 1_234_567, "targets": 1_234_567 if single else 2_345_678},
        ks=(1, 5, 10, 50, 100, 200),
        at=10,
        comparisons=(),
    )
    scores = ["nDCG", "MRR", "HR", *([] if single else ["R"]), "R", "R"]
    places = ["@10", "@10", "@10", *([] if single else ["@10"]), "@100", "@200"]
    text = printed(found.table())
    assert [line.split() for line in text[2:4]] == [[*scores, "cover-", "diver-"], ["stage", *places, "age", "sity"]]
    assert all(line.count("0.1234") == len(scores) for line in text if line.split()[:1] in (["popular"], ["merged"], ["funnel"]))
    text = printed(found.slices_table())
    assert [line.split() for line in text[2:4]] == [
        ["queries,", "two_towers_with_feat"],
        ["slice", "targets", "popular", "ures", "merged", "funnel"],
    ]
    assert sum(line.count("0.1234") for line in text) == 4 * sum(len(groups) for groups in found.slices.values())
    assert sum(line.count("1,234,567") for line in text) == sum(len(groups) for groups in found.slices.values())


def printed(table):
    """Its lines at 80 columns, none longer, nothing cut."""
    stream = io.StringIO()
    Console(file=stream, width=80).print(table)
    lines = stream.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert "…" not in stream.getvalue()
    return lines


@pytest.fixture(scope="module")
def world():
    """60 users who like one of three kinds of item; no popularity among the retrievers."""
    rng = np.random.default_rng(0)
    rows = []
    for user in range(60):
        liked = np.arange(user % 3, 45, 3)
        for place, item in enumerate(rng.permutation(liked)[: rng.integers(4, 12)]):
            rows.append((f"u{user}", f"i{item:02}", int(place * 1000 + user)))
    items = pl.DataFrame({"item": [f"i{item:02}" for item in range(45)]})
    log = log_of(rows, [f"u{user}" for user in range(60)], items)
    return split(log, "leave-last-out")


def measured(evaluation):
    return {name: value for name, value in evaluation.to_json().items() if not name.endswith("seconds")}


def test_the_size_of_a_batch_does_not_matter(world):
    train, test = world
    whole = evaluate(Stages(train, [EASE(l2=5)]), test)
    for batch in (1, 7):
        parts = evaluate(Stages(train, [EASE(l2=5)]), test, batch=batch)
        assert json.dumps(measured(parts)) == json.dumps(measured(whole))


def test_the_seed_moves_only_the_intervals(world):
    train, test = world
    one, two = (measured(evaluate(Stages(train, [EASE(l2=5)]), test, seed=seed)) for seed in (1, 2))
    assert one.pop("comparisons") != two.pop("comparisons")
    assert one == two


def test_popularity_is_measured_whether_or_not_the_funnel_has_it(world):
    train, test = world
    without = evaluate(Stages(train, [EASE(l2=5)]), test, ks=(1, 5, 10, 20))
    with_it = evaluate(Stages(train, [EASE(l2=5), Popular()]), test, ks=(1, 5, 10, 20))
    assert list(with_it.stages)[:2] == ["popular", "ease"]
    assert without.stages["popular"] == with_it.stages["popular"]
    assert without.beyond["popular"] == with_it.beyond["popular"]
    assert np.isnan(without.beyond["popular"]["diversity"])  # no list column, no diversity


def test_better_stages_measure_better(world):
    """EASE knows the three kinds; popularity does not."""
    train, test = world
    found = evaluate(Stages(train, [EASE(l2=5)], ranks=False), test)
    assert "ranked" not in found.stages
    assert not found.ranker
    row = found.comparison("funnel", "popular", "ndcg@10")
    assert row.low > 0
    assert "For " in found.headline()
    assert found.stages["funnel"]["accuracy@10"] == found.stages["funnel"]["hit_rate@10"] == found.stages["funnel"]["recall@10"]


def test_recall_matches_the_lists_themselves(world):
    """The same number from the stages' own lists, one user at a time."""
    train, test = world
    funnel = Stages(train, [EASE(l2=5), Popular()])
    found = evaluate(funnel, test, ks=(5,))
    queries = funnel.asked[0]
    lists = funnel.stages(queries, 5)
    wanted = dict(zip(test.user_codes.tolist(), test.item_codes.tolist(), strict=True))
    for stage, candidates in lists.items():
        hit = [wanted[int(user)] in row[:5] for user, row in zip(queries.users, candidates.items, strict=True)]
        assert found.stages[stage]["recall@5"] == pytest.approx(np.mean(hit))


def test_context_of_the_first_test_event_is_asked_with():
    rows = [("0", "a", 1, "phone"), ("1", "b", 2, "tv"), ("0", "b", 3, "tv"), ("0", "c", 4, "phone"), ("1", "a", 5, "phone")]
    events = pl.DataFrame(rows, schema=["user", "item", "time", "device"], orient="row")
    log = read(events, context=("device",), items=ITEMS)
    funnel = Stages(log.where(np.array([True, True, False, False, False])), [Planned(LISTS)])
    evaluate(funnel, log.where(np.array([False, False, True, True, True])), ks=(3,))
    assert funnel.asked[0].context["device"].cast(pl.String).to_list() == ["tv", "phone"]


def test_progress_is_shown_only_when_asked(world, capsys):
    train, test = world
    evaluate(Stages(train, [EASE(l2=5)]), test, quiet=False)
    assert capsys.readouterr().out == ""  # standard output is for results


def test_errors_say_what_to_mend(world):
    train, test = world
    funnel = Stages(train, [EASE(l2=5)])
    with pytest.raises(SplitError, match="no event of the test counts as wanted"):
        evaluate(funnel, replace(test, positive=("bought",)))
    with pytest.raises(SplitError, match="in training; evaluate on the held-out half"):
        evaluate(funnel, train)
    with pytest.raises(DataError, match="not those of the funnel"):
        evaluate(funnel, log_of(TEST, USERS, ITEMS))
    with pytest.raises(DataError, match="ks must be positive"):
        evaluate(funnel, test, ks=())


def test_needs_neither_torch_nor_altair():
    code = "import sys, palate.evaluate, palate.report; print({'torch', 'altair', 'vl_convert'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "set()"


def test_popularity_on_movielens():
    """Leave-last-out on MovieLens latest-small, all items ranked: popularity has HR@10 .043, as measured elsewhere."""
    train, test = split(read("movielens-small"), "leave-last-out")
    found = evaluate(Stages(train, [Popular(quota=200)], ranks=False), test, ks=(10, 20))
    assert found.counts["queries"] == 671
    assert found.stages["popular"]["hit_rate@10"] == pytest.approx(0.043, abs=0.001)

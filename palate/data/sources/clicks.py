"""A planted click log: labelled rows of categorical fields and dense columns whose true probability is known.

No model can do better, on average, than the true probability; so a test can ask how near a model comes, and say "it does not find
third-order interactions" instead of "its AUC is lower". The logit of a row with ids i_f (one a field) and dense columns x_j is

    linear    b + sum_f w_f[i_f] + sum_j u_j x_j
    pairs     ... + sum_{(f, g)} <a_f[i_f], a_g[i_g]>
    triples   ... + sum_{(f, g, h)} sum_k a_f[i_f, k] a_g[i_g, k] a_h[i_h, k]  +  sum_{(j, f)} x_j c_f[i_f]

and label ~ Bernoulli(sigmoid(logit)). Weights and factors have mean zero under the distribution of their ids, so that no part can be
had from parts of lower order: a model without interactions sees nothing of the pairs. Every pair and triple has factors a of its own,
and is scaled to a standard deviation that is set. A factorisation machine (Rendle 2010) of width K x the number of pairs expresses
`pairs`: each pair has K columns in which all other fields are zero.

A field of n has the ids 1 to n, for row 0 of a table stands for "nothing" and has no vector. They are skewed: id i has the probability
of a Pareto variable on [1, n + 1) rounded down,

    P(i) = (i^(1 - s) - (i + 1)^(1 - s)) / (1 - (n + 1)^(1 - s))        skew s;  s = 1: log((i + 1) / i) / log(n + 1)

which is Zipf's law in all but the first few ids, and is drawn without a table. Dense columns are standard normal.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from palate.data import shards
from palate.types import DataError, Floats, Inputs, Ints, SparseInput

Order = Literal["linear", "pairs", "triples"]
Doubles = npt.NDArray[np.float64]

CHUNK = 1 << 16  # rows a stream of random numbers: any row can be made without those before its chunk
SHARD = 1 << 20  # rows a shard on disk
SPLITS = {"train": 0, "valid": 1, "test": 2}


@dataclass(frozen=True)
class ClickWorld:
    """The truth. sizes: n of each field, [S]. skew: s. bias: b. weights: w, [n + 1] a field. dense: u, [F].

    groups: the fields of each pair and triple, with a factor table a [n + 1, K] for each. crossed: (dense column, field) -> c, [n + 1].
    """

    sizes: tuple[int, ...]
    skew: float
    bias: float
    weights: tuple[Floats, ...]
    dense: Floats
    groups: tuple[tuple[tuple[int, ...], tuple[Floats, ...]], ...]
    crossed: Mapping[tuple[int, int], Floats]
    seed: int

    @property
    def inputs(self) -> Inputs:
        """Dense columns I1 ..., fields C1 ... (Criteo's names), each with a table of its own, and the one task `label`."""
        names = [f"C{place + 1}" for place in range(len(self.sizes))]
        sparse = tuple(SparseInput(name, name, size + 1, "sum") for name, size in zip(names, self.sizes, strict=True))
        return Inputs(tuple(f"I{place + 1}" for place in range(len(self.dense))), sparse)

    def logits(self, dense: Floats, ids: Ints) -> Doubles:
        """True log-odds [R] of rows with these dense columns [R, F] and ids [R, S]."""
        total = self.bias + dense.astype(np.float64) @ self.dense
        for place, weight in enumerate(self.weights):
            total += weight[ids[:, place]]
        for places, factors in self.groups:
            product = factors[0][ids[:, places[0]]]
            for place, factor in zip(places[1:], factors[1:], strict=True):
                product = product * factor[ids[:, place]]
            total += product.sum(1)
        for (column, place), weight in self.crossed.items():
            total += dense[:, column] * weight[ids[:, place]]
        return total

    def draw(self, start: int, stop: int, stream: int = 0) -> PlantedClicks:
        """Rows start to stop of an endless table; the same whatever is drawn before. stream: another table of the same world."""
        found = [self._chunk(chunk, start, stop, stream) for chunk in range(start // CHUNK, max(start + 1, stop + CHUNK - 1) // CHUNK + 1)]
        dense, ids, labels, probabilities = (np.concatenate(parts) for parts in zip(*found, strict=True))
        return PlantedClicks(self, dense, ids, labels, probabilities)

    def _chunk(self, chunk: int, start: int, stop: int, stream: int) -> tuple[Floats, Ints, Floats, Floats]:
        first, last = (min(max(row - chunk * CHUNK, 0), CHUNK) for row in (start, stop))
        # A generator each: drawing rows one after another from it, a shorter chunk is the beginning of a longer one.
        for_dense, for_ids, for_labels = (np.random.default_rng([self.seed, 1, stream, chunk, kind]) for kind in range(3))
        dense = for_dense.standard_normal((last, len(self.dense)), dtype=np.float32)[first:]
        ids = skewed(for_ids.random((last, len(self.sizes)))[first:], np.array(self.sizes), self.skew)
        probabilities = 1.0 / (1.0 + np.exp(-self.logits(dense, ids)))
        labels = for_labels.random(last)[first:] < probabilities
        return dense, ids, labels.astype(np.float32), probabilities.astype(np.float32)


@dataclass(frozen=True)
class PlantedClicks:
    """Rows of a world. dense: [R, F]. ids: [R, S]. labels: 0 or 1, [R]. probabilities: the true ones, [R]."""

    world: ClickWorld
    dense: Floats
    ids: Ints
    labels: Floats
    probabilities: Floats

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, part: slice) -> PlantedClicks:
        return PlantedClicks(self.world, self.dense[part], self.ids[part], self.labels[part], self.probabilities[part])

    @property
    def inputs(self) -> Inputs:
        """What a network for these rows is built for."""
        return self.world.inputs

    def expected_logloss(self, said: npt.NDArray[Any]) -> float:
        """Logloss of probabilities [R], on average over the labels these rows could have had: it lacks the noise of the labels drawn.

        mean of -(p log q + (1 - p) log(1 - q)), which is least, and the entropy of p, where q = p.
        """
        p = self.probabilities.astype(np.float64)
        q = np.clip(np.asarray(said, dtype=np.float64).reshape(-1), 1e-7, 1 - 1e-7)
        return float(-np.mean(p * np.log(q) + (1 - p) * np.log1p(-q)))

    @property
    def best_logloss(self) -> float:
        """The least logloss anyone can expect on these rows: the mean entropy of the true probabilities, in nats."""
        return self.expected_logloss(self.probabilities)

    @property
    def best_auc(self) -> float:
        """The AUC to expect from the true probabilities: each row counts as a positive by p and as a negative by 1 - p, ties half."""
        p = np.sort(self.probabilities.astype(np.float64))
        below = np.cumsum(1 - p) - (1 - p) / 2
        return float(p @ below / (p.sum() * (1 - p).sum()))


def click_world(
    *,
    seed: int = 0,
    order: Order = "pairs",
    fields: Sequence[int] = (12,) * 8,
    dense: int = 2,
    rank: int = 2,
    skew: float = 1.05,
    rate: float = 0.3,
    linear: float = 0.6,
    interaction: float = 1.2,
    pairs: Sequence[tuple[int, int]] | None = None,
) -> ClickWorld:
    """Draws a world.

    fields: how many ids each field has. rank: K, numbers a factor. rate: the share of ones where all else is zero.
    linear, interaction: standard deviation of the logit's first-order part, and of the rest (shared equally by its parts).
    pairs: which fields interact; by default the 1st with the 2nd, the 3rd with the 4th, and so on.
    Triples are of the fields 1, 2, 3 and 4, 5, 6 and so on, and each dense column goes with the field of its number.
    Memory: 4 (1 + K) bytes an id. Errors: DataError where the settings contradict each other.
    """
    sizes = tuple(int(size) for size in fields)
    chosen = [(place, place + 1) for place in range(0, len(sizes) - 1, 2)] if pairs is None else list(pairs)
    _check(sizes, dense, rank, skew, rate, order, chosen)
    rng = np.random.default_rng([seed, 0])
    chances = [chance_of(size, skew) for size in sizes]

    def centred(place: int, width: int) -> Doubles:
        values = rng.standard_normal((sizes[place] + 1, width))
        return np.asarray(values - chances[place] @ values)

    first = linear / np.sqrt(len(sizes) + dense)
    weights = [_scaled(first, [chances[place]], [centred(place, 1)])[0][:, 0] for place in range(len(sizes))]
    signs = rng.choice([-1.0, 1.0], dense)
    deep = order == "triples"
    meeting: list[tuple[int, ...]] = [] if order == "linear" else [*chosen]
    meeting += [(place, place + 1, place + 2) for place in range(0, len(sizes) - 2, 3)] if deep else []
    crossings = [(column, column % len(sizes)) for column in range(dense)] if deep else []
    each = interaction / np.sqrt(max(len(meeting) + len(crossings), 1))
    groups = [(places, _scaled(each, [chances[p] for p in places], [centred(p, rank) for p in places])) for places in meeting]
    crossed = {(column, place): _scaled(each, [chances[place]], [centred(place, 1)])[0][:, 0] for column, place in crossings}
    return ClickWorld(
        sizes, skew, float(np.log(rate / (1 - rate))), tuple(weights), (first * signs).astype(np.float32), tuple(groups), crossed, seed
    )


def _scaled(deviation: float, chances: Sequence[Doubles], factors: Sequence[Doubles]) -> tuple[Floats, ...]:
    """The factors times one number, such that sum_k prod_f a_f[i_f, k] has this standard deviation.

    The fields are independent and their factors have mean zero, so its variance is sum_{k, l} prod_f E[a_f[i, k] a_f[i, l]].
    """
    moments = [values.T @ (chance[:, None] * values) for chance, values in zip(chances, factors, strict=True)]
    scale = (deviation / np.sqrt(np.prod(moments, axis=0).sum())) ** (1 / len(factors))
    return tuple((scale * values).astype(np.float32) for values in factors)


def planted_clicks(rows: int, *, seed: int = 0, **settings: Any) -> PlantedClicks:
    """That many rows of a world of this seed; settings as in `click_world`. Half a million to a million rows a second at 8 fields.

    >>> clicks = planted_clicks(20_000, order="linear")
    >>> clicks.ids.shape, 0.5 < clicks.best_auc < 0.8
    ((20000, 8), True)
    """
    return click_world(seed=seed, **settings).draw(0, rows)


def chance_of(size: int, skew: float) -> Doubles:
    """P(i) for i in [0, size], as at the top of this file; P(0) = 0."""
    edges = np.arange(1, size + 2, dtype=np.float64)
    below = np.log(edges) / np.log(size + 1) if skew == 1 else (1 - edges ** (1 - skew)) / (1 - (size + 1.0) ** (1 - skew))
    return np.diff(below, prepend=0.0)


def skewed(uniform: Doubles, sizes: npt.NDArray[Any], skew: float) -> Ints:
    """Ids [R, S], from 1, out of uniform numbers in [0, 1) [R, S]: the inverse of P's sum."""
    if skew == 1:
        values = np.exp(uniform * np.log(sizes + 1.0))
    else:
        values = (1 - uniform * (1 - (sizes + 1.0) ** (1 - skew))) ** (1 / (1 - skew))
    return np.minimum(values.astype(np.int32), sizes.astype(np.int32))


def _check(sizes: tuple[int, ...], dense: int, rank: int, skew: float, rate: float, order: str, pairs: Sequence[tuple[int, int]]) -> None:
    wrong = ""
    if not sizes or min(sizes) < 2:
        wrong = f"fields must be sizes of at least 2, got {sizes}"
    elif dense < 0 or rank < 1 or skew < 0 or not 0 < rate < 1:
        wrong = f"needs dense >= 0, rank >= 1, skew >= 0, 0 < rate < 1; got {dense}, {rank}, {skew}, {rate}"
    elif order not in ("linear", "pairs", "triples"):
        wrong = f"order {order!r}; it takes linear, pairs, triples"
    elif (order == "pairs" and not pairs) or (order == "triples" and len(sizes) < 3):
        wrong = f"order {order!r} needs at least {2 if order == 'pairs' else 3} fields, got {len(sizes)}"
    elif any(one == other or not 0 <= min(one, other) <= max(one, other) < len(sizes) for one, other in pairs):
        wrong = f"pairs {list(pairs)}: each must be two different fields of 0 to {len(sizes) - 1}"
    if wrong:
        raise DataError(f"planted clicks: {wrong}")


def chunks(world: ClickWorld, rows: int, size: int, stream: int = 0) -> Iterator[PlantedClicks]:
    """All rows, `size` at a time: memory does not grow with their number."""
    for start in range(0, rows, size):
        yield world.draw(start, min(start + size, rows), stream)


class Truth:
    """Sums what is known of rows as they are written: how many, the share of ones, the best possible logloss."""

    def __init__(self) -> None:
        self.rows, self.ones, self.entropy = 0, 0.0, 0.0

    def add(self, part: PlantedClicks) -> None:
        """Some more rows."""
        self.rows += len(part)
        self.ones += float(part.labels.sum())
        self.entropy += part.best_logloss * len(part) if len(part) else 0.0

    def said(self) -> dict[str, float]:
        """`{"rows": ..., "rate": ..., "best_logloss": ...}`."""
        return {"rows": self.rows, "rate": self.ones / max(self.rows, 1), "best_logloss": self.entropy / max(self.rows, 1)}


def write(out: Path, rows: int, **settings: Any) -> dict[str, dict[str, float]]:
    """Writes a folder of packed rows, with a tenth as many for `valid` and for `test`; where `out` ends in .tsv or .gz, Criteo's text.

    settings: as in `click_world`. Returns what is known of each split, see `Truth`.
    """
    world = click_world(**settings)
    if out.suffix in (".tsv", ".txt", ".gz"):
        if (len(world.dense), len(world.sizes)) != (13, 26):
            raise DataError(f"{out}: Criteo's format has 13 dense columns and 26 fields, not {len(world.dense)} and {len(world.sizes)}")
        return {"train": write_criteo(out, world, rows).said()}
    if out.suffix or out.is_file():
        raise DataError(f"{out}: expected a folder, or a file that ends in .tsv or .tsv.gz")
    held = max(rows // 10, 1)
    manifest = write_shards(out, world, {"train": rows, "valid": held, "test": held})
    return dict(manifest.about["truth"])


def write_shards(folder: Path, world: ClickWorld, rows: Mapping[str, int], *, shard: int = SHARD) -> shards.Manifest:
    """Writes packed rows (`palate.data.shards`), a stream a split: `{"train": 1_000_000, "test": 100_000}`.

    The manifest's `about["truth"]` holds what is known of each split, see `Truth`.
    """
    unknown = sorted(set(rows) - set(SPLITS))
    if unknown:
        raise DataError(f"planted clicks: no split {unknown[0]!r}; it takes {', '.join(SPLITS)}")
    splits, best = {}, {}
    for split, count in rows.items():
        written, truth = [], Truth()
        for number, part in enumerate(chunks(world, count, shard, SPLITS[split])):
            path = f"{split}/{number:05d}.safetensors"
            shards.write_shard(folder / path, part.dense, part.ids, part.labels.astype(np.uint8)[:, None])
            written.append(shards.Shard(path, len(part)))
            truth.add(part)
        splits[split] = tuple(written)
        best[split] = truth.said()
    about = {"source": "planted clicks", "seed": world.seed, "skew": world.skew, "truth": best}
    manifest = shards.Manifest(world.inputs, splits, about)
    shards.write_manifest(folder, manifest)
    return manifest


def write_criteo(path: Path, world: ClickWorld, rows: int, *, stream: int = 0) -> Truth:
    """Writes the rows as Criteo's text: label, dense columns as counts, ids as 8 hexadecimal digits, tabs between; gzip if it ends in .gz.

    A dense column x becomes the count floor(exp(1.5 + x)), so that its logarithm is near x again; ids are spread over 32 bits by a
    multiplication that can be undone, each field by its own.
    """
    import gzip

    half, truth = path.with_name(path.name + ".half"), Truth()
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(half, "wb", compresslevel=1) if path.suffix == ".gz" else half.open("wb") as file:
        for part in chunks(world, rows, CHUNK, stream):
            truth.add(part)
            counts = np.exp(1.5 + part.dense.astype(np.float64)).astype(np.int64)
            spread = part.ids.astype(np.uint64) * 2_654_435_761 + np.arange(len(world.sizes), dtype=np.uint64) * 40_503 & 0xFFFFFFFF
            line = "\t".join(["%d", *["%d"] * counts.shape[1], *["%08x"] * spread.shape[1]]) + "\n"
            columns = [part.labels.astype(np.int64).tolist(), *counts.T.tolist(), *spread.T.tolist()]
            file.write("".join([line % row for row in zip(*columns, strict=True)]).encode("ascii"))
    os.replace(half, path)
    return truth

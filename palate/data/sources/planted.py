"""A planted world: a log whose every preference is known, so that a test can ask whether a model found what is really there.

A user u has a taste theta_u over K topics (from country and age, and of their own), an item i a topic mix phi_i, a quality q_i and a
price. A logging policy shows slates; position p of a slate is looked at with probability 1 / sqrt(p), and then (the position-based
model, Craswell et al., "An experimental comparison of click position-bias models", 2008)

    P(click | looked at) = sigmoid(-1.6 + 1.5 theta_u . phi_i + 0.7 q_i - 0.5 s_u price_i + evening and phone effects)

A click may become a purchase, an item looked at and not clicked may be disliked. The policy knows half the truth: each place of a slate
is drawn for itself, with probability 0.2 uniformly, else a topic by a flattened taste and an item of the topic by popularity.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from palate.data.gate import Columns, build
from palate.types import DataError, Floats, Log, Longs

TOPICS = ("Comedy", "Drama", "Thriller", "Science", "Romance", "Nature", "History", "Music")
COUNTRIES = ("Austria", "Brazil", "Canada", "Denmark")
DEVICES = ("phone", "desktop")
SLOTS = 5
UNIFORM = 0.2
START = 1_700_000_000  # seconds: 14 November 2023
DAYS = 90
EVENING = 18  # the hour from which tastes shift
REQUESTS = 100_000  # requests a chunk
CONTEXT = ("device", "hour", "position")


@dataclass(frozen=True)
class World:
    """The truth behind a planted log. Codes of users and items are those of the log.

    tastes: [U, K]. mixes: [N, K]. quality, price (standardised): [N]. thrift: [U]. policy: [U, K], the policy's choice of topic.
    popularity: [N], the policy's choice within a topic. activity: [U], the share of requests.
    """

    users: pl.DataFrame
    items: pl.DataFrame
    tastes: Floats
    mixes: Floats
    topics: npt.NDArray[np.int8]
    quality: Floats
    price: Floats
    thrift: Floats
    policy: Floats
    popularity: Floats
    activity: Floats

    @property
    def columns(self) -> Columns:
        """How to declare the events of this world to `palate.read`."""
        return Columns(kind="kind", value="value", context=CONTEXT)

    def logits(self, users: npt.NDArray[Any], items: npt.NDArray[Any], evening: Any, phone: Any) -> Floats:
        """Log-odds that the user clicks the item once it is looked at; one for each (user, item) pair. Arguments broadcast."""
        affinity = np.einsum("...k,...k->...", self.tastes[users], self.mixes[items])
        odd = self.topics[items] % 2 * 2.0 - 1.0
        base = -1.6 + 1.5 * affinity + 0.7 * self.quality[items] - 0.5 * self.thrift[users] * self.price[items]
        return np.asarray(base + 0.4 * np.asarray(evening) * odd - 0.3 * np.asarray(phone) * self.price[items], dtype=np.float32)

    def click_probability(
        self, users: npt.NDArray[Any], items: npt.NDArray[Any], *, hour: int | None = None, device: str | None = None
    ) -> Floats:
        """True probability of a click on an item that is looked at, float32, one for each pair (users and items broadcast).

        Without hour or device: averaged over them as they occur. `click_probability(users[:, None], np.arange(n)[None, :])` is the matrix.
        """
        evenings = [(float(hour >= EVENING), 1.0)] if hour is not None else [(1.0, _evening_share()), (0.0, 1.0 - _evening_share())]
        phones = [(float(device == "phone"), 1.0)] if device is not None else [(1.0, 0.6), (0.0, 0.4)]
        total = sum(w * v * _sigmoid(self.logits(users, items, e, p)) for e, w in evenings for p, v in phones)
        return np.asarray(total, dtype=np.float32)

    def propensity(self, users: npt.NDArray[Any], items: npt.NDArray[Any]) -> Floats:
        """The probability with which the logging policy puts the item at any one place of a slate for this user."""
        chosen = self.policy[users, self.topics[items]] * self.popularity[items]
        return np.asarray(UNIFORM / self.items.height + (1 - UNIFORM) * chosen, dtype=np.float32)


def world(users: int = 500, items: int = 300, seed: int = 0) -> World:
    """A world of so many users and items. Cost: linear in both."""
    if users < 1 or items < 1:
        raise DataError(f"planted: at least one user and one item, got {users} and {items}")
    rng = np.random.default_rng([seed, 1])
    count = len(TOPICS)
    topics = rng.permutation(np.arange(items) % count).astype(np.int8)
    second = (topics + rng.integers(1, count, items)) % count
    mixed = rng.random(items) < 0.5
    mixes = np.zeros((items, count), dtype=np.float32)
    mixes[np.arange(items), topics] = np.where(mixed, 0.7, 1.0)
    mixes[np.arange(items)[mixed], second[mixed]] = 0.5
    cents = np.round(np.exp(rng.normal(2.5, 0.6, items)), 2)
    weights = (1.0 + rng.permutation(items)) ** -0.8
    within = np.bincount(topics, weights, minlength=count)

    countries, ages = rng.integers(0, len(COUNTRIES), users), rng.integers(16, 80, users)
    shared = rng.normal(0, 0.6, (len(COUNTRIES) + 3, count))
    tastes = shared[countries] + shared[len(COUNTRIES) + np.minimum((ages - 16) // 22, 2)] + rng.normal(0, 1.0, (users, count))
    tastes -= tastes.mean(1, keepdims=True)
    flat = np.exp(0.5 * tastes)
    # a topic that no item has cannot be chosen
    flat *= within > 0
    activity = rng.gamma(1.0, 1.0, users) + 0.1
    return World(
        users=pl.DataFrame(
            {"user": _names("u", users), "age": ages.astype(np.int64), "country": np.array(COUNTRIES, dtype=object)[countries].tolist()}
        ),
        items=pl.DataFrame(
            {
                "item": _names("i", items),
                "title": [f"{TOPICS[topic]} {number}" for number, topic in enumerate(topics)],
                "topic": [TOPICS[topic] for topic in topics],
                "genres": [
                    [TOPICS[first]] + ([TOPICS[other]] if two else []) for first, other, two in zip(topics, second, mixed, strict=True)
                ],
                "price": cents,
            }
        ),
        tastes=tastes.astype(np.float32),
        mixes=mixes,
        topics=topics,
        quality=rng.normal(0, 1, items).astype(np.float32),
        price=((np.log(cents) - 2.5) / 0.6).astype(np.float32),
        thrift=rng.uniform(0, 1, users).astype(np.float32),
        policy=(flat / flat.sum(1, keepdims=True)).astype(np.float32),
        popularity=(weights / within[topics]).astype(np.float32),
        activity=(activity / activity.sum()).astype(np.float32),
    )


def plant(users: int = 500, items: int = 300, events: int = 40_000, seed: int = 0) -> tuple[Log, World]:
    """A log of exactly `events` events, and the world it comes from. About four in five are impressions. Cost: 40,000 events take 0.1 s."""
    truth = world(users, items, seed)
    frame = pl.concat([chunk for _, chunk in _upto(truth, events, seed)])
    return build(frame, truth.columns, users=truth.users, items=truth.items, name="planted"), truth


def load(users: int = 500, items: int = 300, events: int = 40_000, seed: int = 0) -> Log:
    """The log of `plant` alone. Kinds: impression, click (value: seconds of dwell), purchase (value: price), dislike."""
    return plant(users, items, events, seed)[0]


def write_events(path: str | Path, *, events: int, users: int = 50_000, items: int = 20_000, seed: int = 0) -> World:
    """Writes a log of exactly `events` events (.parquet or .csv), a chunk at a time; declare it as `World.columns` does.

    Cost: linear; 20 million events take about 30 s on one core and less than 1 GiB.
    """
    path = Path(path)
    if path.suffix not in (".parquet", ".csv"):
        raise DataError(f"{path}: write .parquet or .csv")
    truth = world(users, items, seed)
    if path.suffix == ".csv":
        with path.open("wb") as file:
            for first, chunk in _upto(truth, events, seed):
                chunk.write_csv(file, include_header=first)
        return truth
    from pyarrow import parquet

    writer = None
    try:
        for _, chunk in _upto(truth, events, seed):
            table = chunk.to_arrow(compat_level=pl.CompatLevel.oldest())
            writer = writer or parquet.ParquetWriter(path, table.schema, compression="zstd")
            writer.write_table(table)
    finally:
        if writer is not None:
            writer.close()
    return truth


def _upto(truth: World, events: int, seed: int) -> Iterator[tuple[bool, pl.DataFrame]]:
    """(first?, chunk) in order of time, exactly `events` rows in all."""
    if events < 1:
        raise DataError(f"planted: at least one event, got {events}")
    # a little more than 5.5 events come of a request; what is too much is cut off the end
    requests = events // SLOTS + 1
    begin, left, number = START, events, 0
    span = DAYS * 86_400
    while left > 0:
        size = min(REQUESTS, requests)
        seconds = max(1, round(span * size / requests))
        chunk = _chunk(truth, np.random.default_rng([seed, 2, number]), size, begin, seconds)[:left]
        yield number == 0, chunk
        left -= chunk.height
        begin += seconds
        number += 1


def _chunk(truth: World, rng: np.random.Generator, requests: int, begin: int, seconds: int) -> pl.DataFrame:
    """All events of some requests, between `begin` and a little after `begin + seconds`, oldest first."""
    total, count = truth.items.height, len(TOPICS)
    asking = np.searchsorted(np.cumsum(truth.activity, dtype=np.float64), rng.random(requests) * 0.999999)
    asking = np.minimum(asking, truth.users.height - 1)
    moments = np.sort(rng.random(requests)) * seconds + begin
    devices = (rng.random(requests) >= 0.6).astype(np.int64)

    row = np.repeat(np.arange(requests), SLOTS)
    users = asking[row]
    cumulative = np.cumsum(truth.policy, axis=1)
    topic = np.minimum((rng.random((len(row), 1)) > cumulative[users]).sum(1), count - 1)
    order = np.argsort(truth.topics, kind="stable")
    # one rising line through all topics: place t + c is reached when the popularity within topic t adds up to c
    bounds = np.cumsum(truth.popularity[order], dtype=np.float64)
    drawn = order[np.minimum(np.searchsorted(bounds, _offsets(truth)[topic] + rng.random(len(row)) * 0.999999), total - 1)]
    items = np.where(rng.random(len(row)) < UNIFORM, rng.integers(0, total, len(row)), drawn)
    position = np.tile(np.arange(1, SLOTS + 1), requests)

    # an item that a slate already holds is not shown twice
    shown = _first_in_slate(row, items)
    row, users, items, position = row[shown], users[shown], items[shown], position[shown]
    when = moments[row].astype(np.int64)
    hour = when // 3600 % 24
    device = devices[row]
    looked = rng.random(len(row)) < position**-0.5
    logits = truth.logits(users, items, hour >= EVENING, device == 0)
    clicked = looked & (rng.random(len(row)) < _sigmoid(logits))
    bought = clicked & (rng.random(len(row)) < _sigmoid(-2.0 + 0.5 * logits - 0.5 * truth.thrift[users]))
    disliked = looked & ~clicked & (rng.random(len(row)) < _sigmoid(-3.5 - logits))
    dwell = np.exp(rng.normal(3.0, 0.6, len(row)) + 0.3 * logits)
    prices = truth.items["price"].to_numpy()

    happened = (
        ("impression", np.arange(len(row)), 0, np.full(len(row), np.nan)),
        ("click", np.flatnonzero(clicked), 2, dwell),
        ("dislike", np.flatnonzero(disliked), 5, np.full(len(row), np.nan)),
        ("purchase", np.flatnonzero(bought), 90, prices[items]),
    )
    which = np.concatenate([rows for _, rows, _, _ in happened])
    kinds = np.concatenate([np.full(len(rows), place, dtype=np.uint32) for place, (_, rows, _, _) in enumerate(happened)])
    later = np.concatenate([np.full(len(rows), delay, dtype=np.int64) for _, rows, delay, _ in happened])
    times = when[which] + later * (1 + (later > 0) * position[which])
    sort = np.argsort(times, kind="stable")
    which, times = which[sort], times[sort]
    values = np.concatenate([value[rows] for _, rows, _, value in happened])[sort]
    return pl.DataFrame(
        {
            "user": truth.users["user"].gather(users[which]),
            "item": truth.items["item"].gather(items[which]),
            "time": times,
            "kind": pl.Series([kind for kind, _, _, _ in happened]).gather(kinds[sort]),
            "value": pl.Series(values, dtype=pl.Float32).fill_nan(None).round(3),
            "device": pl.Series(DEVICES).gather(device[which]),
            "hour": hour[which],
            "position": position[which],
        }
    )


def _offsets(truth: World) -> npt.NDArray[np.float64]:
    """[K]: how much popularity lies before each topic; 1 for each topic that has items."""
    present = np.bincount(truth.topics, minlength=len(TOPICS)) > 0
    return np.cumsum(present) - present.astype(np.float64)


def _first_in_slate(row: Longs, items: Longs) -> npt.NDArray[np.bool_]:
    """Which places of the slates hold an item for the first time. Slates have `SLOTS` places each."""
    slates = items.reshape(-1, SLOTS)
    first = np.ones(slates.shape, dtype=np.bool_)
    for place in range(1, SLOTS):
        first[:, place] = (slates[:, :place] != slates[:, place : place + 1]).all(1)
    return first.reshape(-1)


def _evening_share() -> float:
    return (24 - EVENING) / 24


def _names(letter: str, count: int) -> list[str]:
    return [f"{letter}{number}" for number in range(count)]


def _sigmoid(x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return 1.0 / (1.0 + np.exp(-x))

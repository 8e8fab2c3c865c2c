"""The planted world: what is observed agrees with the truth it was drawn from."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from palate.data.log import read
from palate.data.sources import planted
from palate.data.sources.planted import load, plant, world, write_events
from palate.data.split import split
from palate.types import DataError, Log


def of_kind(log: Log, kind: str) -> Log:
    return log.where(pl.col("kind").cast(pl.String) == kind)


def test_what_it_holds() -> None:
    log, truth = plant()
    assert (len(log), log.n_users, log.n_items, log.name) == (40_000, 500, 300, "planted")
    assert log.context == ("device", "hour", "position")
    assert (log.positive, log.negative) == (("click", "purchase"), ("dislike",))
    assert log.items.columns == ["item", "title", "topic", "genres", "price"]
    assert log.users.columns == ["user", "age", "country"]
    assert_frame_equal(log.users, truth.users)
    assert_frame_equal(log.items, truth.items)
    assert of_kind(log, "click").events["value"].min() > 0  # type: ignore[operator]
    assert of_kind(log, "impression").events["value"].null_count() == len(of_kind(log, "impression"))
    assert_frame_equal(read("planted").events, log.events)


def test_it_is_reproducible() -> None:
    one, two, other = load(50, 40, 2000, seed=5), load(50, 40, 2000, seed=5), load(50, 40, 2000, seed=6)
    assert_frame_equal(one.events, two.events)
    assert one.checksum == two.checksum != other.checksum


def test_every_kind_stands_on_what_was_shown() -> None:
    """No click without an impression in the same slate, no purchase without a click, no slate that shows an item twice."""
    log = load(100, 60, 20_000)
    keys = pl.struct(pl.col("user", "item").to_physical(), pl.col("position"), pl.col("hour"), pl.col("device"))
    shown, clicked, bought, disliked = (
        set(of_kind(log, kind).events.select(keys).to_series().map_elements(repr, return_dtype=pl.String))
        for kind in ("impression", "click", "purchase", "dislike")
    )
    assert clicked <= shown
    assert bought <= clicked
    assert disliked <= shown
    slates = of_kind(log, "impression").events.group_by("user", "time").agg(pl.col("item").n_unique(), pl.len())
    assert (slates["len"] <= planted.SLOTS * 2).all()
    assert (slates.filter(pl.col("len") <= planted.SLOTS).select(pl.col("item") == pl.col("len")).to_series()).all()


def test_clicks_follow_the_true_probability() -> None:
    """Among impressions of like true probability, the share of clicks is that probability, within 4 standard errors."""
    log, truth = plant(400, 200, 150_000, seed=2)
    impressions = of_kind(log, "impression")
    place = impressions.events["position"].to_numpy()
    evening = impressions.events["hour"].to_numpy() >= planted.EVENING
    phone = (impressions.events["device"] == "phone").to_numpy()
    logits = truth.logits(impressions.user_codes, impressions.item_codes, evening, phone)
    expected = place**-0.5 / (1 + np.exp(-logits))
    clicks = of_kind(log, "click").events.select(pl.col("user", "item").to_physical(), "hour", "device", "position").unique()
    seen = impressions.events.select(pl.col("user", "item").to_physical(), "hour", "device", "position")
    clicked = seen.join(clicks.with_columns(one=1), on=seen.columns, how="left", maintain_order="left")["one"].is_not_null().to_numpy()
    # a later slate of the same hour may repeat a row that was clicked before; such rows are rare, and left out
    single = ~seen.is_duplicated().to_numpy()
    order = np.argsort(expected[single])
    for part in np.array_split(order, 10):
        p, got = expected[single][part], clicked[single][part]
        assert abs(got.mean() - p.mean()) < 4 * np.sqrt((p * (1 - p)).sum()) / len(part)


def test_marginals_by_hand() -> None:
    truth = world(30, 20, seed=1)
    users, items = np.arange(30)[:, None], np.arange(20)[None, :]
    matrix = truth.click_probability(users, items)
    assert matrix.shape == (30, 20)
    by_hand = np.zeros((30, 20))
    for hour in range(24):
        for device, share in (("phone", 0.6), ("desktop", 0.4)):
            by_hand += share / 24 * truth.click_probability(users, items, hour=hour, device=device)
    np.testing.assert_allclose(matrix, by_hand, rtol=1e-4)
    affinity = truth.tastes @ truth.mixes.T
    # liked topics are clicked more: within a user, taste explains much of the order
    assert np.mean([np.corrcoef(affinity[u], np.log(matrix[u] / (1 - matrix[u])))[0, 1] for u in range(30)]) > 0.6


def test_the_policy_shows_what_its_propensity_says() -> None:
    log, truth = plant(20, 15, 150_000, seed=3)
    impressions = of_kind(log, "impression")
    first = impressions.where((impressions.events["position"] == 1).to_numpy())
    propensity = truth.propensity(np.arange(20)[:, None], np.arange(15)[None, :])
    np.testing.assert_allclose(propensity.sum(1), 1, rtol=1e-5)
    counts = np.zeros((20, 15))
    np.add.at(counts, (first.user_codes, first.item_codes), 1)
    shown = counts.sum(1, keepdims=True)
    error = np.sqrt(propensity * (1 - propensity) * shown)
    assert (np.abs(counts - propensity * shown) < 5 * error + 1).all()


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_written_in_chunks(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planted, "REQUESTS", 500)
    path = tmp_path / f"events{suffix}"
    truth = write_events(path, events=12_345, users=80, items=50, seed=4)
    log = read(path, kind="kind", value="value", context=planted.CONTEXT, users=truth.users, items=truth.items)
    assert len(log) == 12_345
    expected, _ = plant(80, 50, 12_345, seed=4)
    assert_frame_equal(log.events, expected.events)
    train, test = split(log, "global-time")
    assert len(train) > len(test) > 500


def test_sizes_are_checked(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="at least one user and one item"):
        world(0, 5)
    with pytest.raises(DataError, match="at least one event"):
        plant(events=0)
    with pytest.raises(DataError, match=r"write .parquet or .csv"):
        write_events(tmp_path / "x.json", events=5)
    log = load(1, 1, 1)
    assert (len(log), log.n_users, log.n_items) == (1, 1, 1)

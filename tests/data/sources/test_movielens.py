"""MovieLens in every format it comes in: small files by hand, and the real ones where they are at hand."""

import os
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from palate.data.log import read
from palate.data.sources import movielens
from palate.data.sources.movielens import load
from palate.types import DataError, Log

DATA = os.environ.get("PALATE_DATA")
real = pytest.mark.skipif(not DATA, reason="PALATE_DATA is not set")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PALATE_DATA", str(tmp_path))
    monkeypatch.setenv("PALATE_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def nothing(folder: Path) -> Path:
    return folder


def put(folder: Path, **files: str) -> None:
    folder.mkdir()
    for name, text in files.items():
        (folder / name.replace("_", ".")).write_bytes(text.encode("latin-1"))


def assert_is_latest_small(log: Log) -> None:
    assert (len(log), log.n_users, log.n_items) == (100_004, 671, 9_066)
    assert log.items.columns == ["item", "title", "genres", "year"]
    assert log.items.row(0) == ("1", "Toy Story (1995)", ["Adventure", "Animation", "Children", "Comedy", "Fantasy"], 1995)
    assert log.positive == ("rating",)
    assert log.name == "movielens-small"


def test_latest_small_from_the_package(nothing: Path) -> None:
    log = load("small")
    assert_is_latest_small(log)
    assert log.checksum == movielens.PACKAGED
    again = read("movielens-small", positive_value=4, name="mine")
    assert_frame_equal(again.events, log.events)
    assert (again.positive_value, again.name) == (4, "mine")


def test_another_file_in_the_package_is_not_opened(nothing: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(movielens, "PACKAGED", "0" * 64)
    with pytest.raises(DataError, match="is not the known file"):
        load("small")


@real
def test_latest_small_from_its_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    log = load("small")
    assert_is_latest_small(log)
    assert load("small", unrated=True).n_items == 9_125
    monkeypatch.setenv("PALATE_DATA", str(tmp_path))
    monkeypatch.setenv("PALATE_CACHE", str(tmp_path))
    package = load("small")
    assert_frame_equal(package.events, log.events)
    assert package.items["item"].to_list() == log.items["item"].to_list()
    assert package.items["genres"].to_list() == log.items["genres"].to_list()


@real
def test_100k_from_its_files() -> None:
    log = load("100k")
    assert (len(log), log.n_users, log.n_items) == (100_000, 943, 1_682)
    assert log.users.row(0) == ("1", 24, "M", "technician", "85711")
    assert log.items.row(0) == ("1", "Toy Story (1995)", ["Animation", "Children's", "Comedy"], 1995)


@real
def test_1m_from_its_files() -> None:
    log = load("1m")
    assert (len(log), log.n_users, log.n_items) == (1_000_209, 6_040, 3_706)
    assert log.users.row(0) == ("1", 1, "F", "K-12 student", "48067")
    assert log.items["year"].null_count() == 0


def test_100k_by_hand(folder: Path) -> None:
    flags = "|".join
    zeros = ["0"] * 19
    put(
        folder / "ml-100k",
        u_data="1\t2\t5\t881250949\n2\t1\t3\t881250940\n",
        u_item=f"1|Café (1995)|01-Jan-1995||http://x|{flags(['0', '1', *zeros[2:-1], '1'])}\n"
        f"2|unknown||||{flags(['1', *zeros[1:]])}\n3|Unseen (1990)||||{flags(zeros)}\n",
        u_user="1|24|M|writer|01002\n2|30|F|other|9021x\n",
    )
    log = load("100k")
    assert log.events["user"].cast(pl.String).to_list() == ["2", "1"]
    assert log.events["value"].to_list() == [3.0, 5.0]
    assert log.items.rows() == [("1", "Café (1995)", ["Action", "Western"], 1995), ("2", "unknown", [], None)]
    assert log.users.rows() == [("1", 24, "M", "writer", "01002"), ("2", 30, "F", "other", "9021x")]
    assert load("100k", unrated=True).n_items == 3


MOVIES = "10::Heat (1995)::Action|Crime\n9::Amélie: the film (2001)::Comedy\n"
USERS = "1::F::1::10::48067\n2::M::56::16::70072\n"


def test_1m_by_hand(folder: Path) -> None:
    put(folder / "ml-1m", ratings_dat="1::10::5::978300760\n2::10::1::978300000\n1::9::4::978300760\n", movies_dat=MOVIES, users_dat=USERS)
    log = load("1m")
    assert log.events["item"].cast(pl.String).to_list() == ["10", "10", "9"]
    assert log.events["value"].to_list() == [1.0, 5.0, 4.0]
    assert log.items.rows() == [("9", "Amélie: the film (2001)", ["Comedy"], 2001), ("10", "Heat (1995)", ["Action", "Crime"], 1995)]
    assert log.users.rows() == [("1", 1, "F", "K-12 student", "48067"), ("2", 56, "M", "self-employed", "70072")]


def test_1m_with_the_order_only(folder: Path) -> None:
    put(folder / "ml-1m", sequences_txt="1 10 9\n2 9\n", movies_dat=MOVIES, users_dat=USERS)
    log = load("1m")
    assert log.events.select(pl.col("user", "item").cast(pl.String)).rows() == [("1", "10"), ("2", "9"), ("1", "9")]
    assert log.times.tolist() == [0, 0, 1_000_000]
    assert log.events["value"].null_count() == 3


def test_20m_by_hand(folder: Path) -> None:
    put(
        folder / "ml-20m",
        ratings_csv="userId,movieId,rating,timestamp\n1,3,3.5,1112486027\n1,29,5,1112484676\n",
        movies_csv='movieId,title,genres\n3,"American President, The (1995)",Comedy|Drama\n29,Show (2007-),(no genres listed)\n31,X,Y\n',
    )
    log = load("20m")
    assert log.items.rows() == [("3", "American President, The (1995)", ["Comedy", "Drama"], 1995), ("29", "Show (2007-)", [], 2007)]
    assert log.events["item"].cast(pl.String).to_list() == ["29", "3"]
    assert (log.events["kind"].cast(pl.String) == "rating").all()


def test_damaged_files_are_named(folder: Path) -> None:
    put(folder / "ml-1m", ratings_dat="1::10::5::978300760\n2::10::1\n", movies_dat=MOVIES, users_dat=USERS)
    with pytest.raises(DataError, match=r"^ratings.dat, line 2: 3 fields where 4 were expected"):
        load("1m")
    (folder / "ml-1m" / "ratings.dat").write_text("1::10::5::978300760\n2::10::x::5\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"^ratings.dat, row 2, column 'value': 'x' is not a number"):
        load("1m")
    with pytest.raises(DataError, match="movielens-25m: no such set; there are small, 100k, 1m, 20m"):
        load("25m")  # type: ignore[arg-type]

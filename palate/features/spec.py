"""A FeatureSet: every input of every network, declared once. Embedding tables and dense columns are built from it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

import polars as pl
import pydantic

from palate.config import Config, unknown_key
from palate.types import Compressed, ConfigError, Log

DAY = 86_400_000_000
SIDES = ("user", "item", "context", "history")
FEW = 32
LOOK = 1_000_000


class Source:
    """Where a feature reads: `user`, `user.age`, `item`, `item.genres`, `context.device`, `history`."""

    def __init__(self, text: str) -> None:
        self.side, _, self.column = text.partition(".")
        if self.side not in SIDES or (self.side == "context" and not self.column) or (self.side == "history" and self.column):
            raise ValueError(f"source {text!r}: expected user, item, history, or a column as in user.age, item.genres, context.device")


class QR(Config):
    """Quotient-remainder embeddings: a row for every `collisions` ids and one for each remainder, joined (Shi et al. 2019).

    operation: "mult", "add", or "concat" of two halves of the width. threshold: tables of up to so many rows stay whole.
    """

    kind: Literal["qr"] = "qr"
    collisions: int = pydantic.Field(4, ge=2)
    operation: Literal["mult", "add", "concat"] = "mult"
    threshold: int = pydantic.Field(200, ge=0)


class Bloom(Config):
    """Bloom embeddings: the sum of `hashes` rows of a table of `rows` (Serra and Karatzoglou 2017). Tables of no more rows stay whole."""

    kind: Literal["bloom"] = "bloom"
    rows: int = pydantic.Field(10_000, ge=1)
    hashes: int = pydantic.Field(2, ge=1, le=16)
    threshold: int = pydantic.Field(200, ge=0)


Embedding = Annotated[QR | Bloom, pydantic.Field(discriminator="kind")]


def compressed(embedding: QR | Bloom | None) -> Compressed | None:
    """The setting as networks read it."""
    return None if embedding is None else Compressed(**embedding.model_dump())


class Base(Config):
    """What all kinds share. name: unique in the set (default: the source)."""

    name: str = ""
    source: str

    @pydantic.model_validator(mode="before")
    @classmethod
    def _name_is_the_source(cls, given: Any) -> Any:
        if isinstance(given, dict) and not given.get("name"):
            default = cls.model_fields["source"].default
            return {**given, "name": given.get("source") or (default if isinstance(default, str) else "")}
        return given

    @pydantic.model_validator(mode="after")
    def _sources_can_be_read(self) -> Self:
        for source in self.sources:
            Source(source)
        return self

    @property
    def sources(self) -> tuple[str, ...]:
        """All that it reads."""
        return (self.source,)

    @property
    def side(self) -> Literal["user", "item", "pair"]:
        """Who has it: the query (user, context and history), the item, or only the two together."""
        sides = {"item" if Source(source).side == "item" else "user" for source in self.sources}
        return "pair" if len(sides) > 1 else "item" if sides == {"item"} else "user"


class Categorical(Base):
    """One value a row, out of a vocabulary of the values seen at least `min_count` times; or hashed into `buckets`.

    PAD (0) where the value is missing, OOV (1) where it is not in the vocabulary. Sources `user` and `item` are the ids, counted over
    the positive events; columns of users and items are counted once a user or item, context columns once an event.
    embedding: how networks keep a table of very many rows small, `{kind = "qr", collisions = 4}` or `{kind = "bloom", rows = 10000}`.
    """

    kind: Literal["categorical"] = "categorical"
    min_count: int = pydantic.Field(1, ge=1)
    buckets: int | None = pydantic.Field(None, ge=1)
    embedding: Embedding | None = None


class Bag(Base):
    """A list of values a row (genres, tags), each looked up and pooled by mean or sum. A missing list is an empty one."""

    kind: Literal["bag"] = "bag"
    min_count: int = pydantic.Field(1, ge=1)
    buckets: int | None = pydantic.Field(None, ge=1)
    pooling: Literal["mean", "sum"] = "mean"
    embedding: Embedding | None = None


class Sequence(Base):
    """The last `length` items of the history, oldest first, looked up in the table of item ids and pooled.

    The table, and how it is compressed, is that of the Categorical of source `item` where there is one.
    """

    kind: Literal["sequence"] = "sequence"
    source: str = "history"
    length: int = pydantic.Field(50, ge=1)
    pooling: Literal["mean", "sum"] = "mean"
    min_count: int = pydantic.Field(1, ge=1)
    embedding: Embedding | None = None


class Numeric(Base):
    """A number. `standardise`: (x - mean) / deviation; `log`: sign(x) ln(1 + |x|); `log_square`: categorical buckets floor(ln(x)^2).

    All but log_square give two dense columns: the value (0 where missing) and `<name>.has`. min_count is for log_square.
    """

    kind: Literal["numeric"] = "numeric"
    transform: Literal["none", "standardise", "log", "log_square"] = "standardise"
    min_count: int = pydantic.Field(1, ge=1)


class Vector(Base):
    """A list of floats of one length: so many dense columns `<name>.0`, `<name>.1`, ..., and `<name>.has`; zeros where missing."""

    kind: Literal["vector"] = "vector"


class Crossed(Base):
    """The conjunction of two or more single-valued sources, hashed into `buckets`. PAD where one of them is missing.

    Cheng et al.: Wide & Deep Learning for Recommender Systems (2016), section 3.1, the cross-product transformation.
    """

    kind: Literal["crossed"] = "crossed"
    source: str = ""
    of: tuple[str, ...] = pydantic.Field(min_length=2)
    buckets: int = pydantic.Field(10_000, ge=1)
    embedding: Embedding | None = None

    @pydantic.model_validator(mode="before")
    @classmethod
    def _name_is_the_sources(cls, given: Any) -> Any:
        if isinstance(given, dict) and not given.get("name") and isinstance(given.get("of"), list | tuple):
            return {**given, "name": " x ".join(str(source) for source in given["of"])}
        return given

    @pydantic.model_validator(mode="after")
    def _no_history(self) -> Self:
        if self.source or "history" in self.of:
            raise ValueError("a crossed feature takes single-valued sources, named in `of`")
        return self

    @property
    def sources(self) -> tuple[str, ...]:
        return self.of


class Counter(Base):
    """A number counted from the events strictly before `now`, or from the history of the query. Standardised; one dense column.

    item_count, user_count: ln(1 + positive events). item_recent_count: the same within the last `window` days.
    since_last, item_age: ln(1 + days) since the last event of the history, since the first event of the item (with `<name>.has`).
    affinity: for the values of the item in the list column `source`, the mean of the share of the history's items that have the value;
        `length` looks only at the last so many items.
    """

    kind: Literal["counter"] = "counter"
    source: str = ""
    of: Literal["item_count", "item_recent_count", "user_count", "since_last", "item_age", "affinity"]
    window: float = pydantic.Field(30.0, gt=0)
    length: int | None = pydantic.Field(None, ge=1)

    reads: ClassVar[dict[str, str]] = {
        "item_count": "item", "item_recent_count": "item", "user_count": "history", "since_last": "history", "item_age": "item"
    }  # fmt: skip

    @pydantic.model_validator(mode="before")
    @classmethod
    def _name_says_what(cls, given: Any) -> Any:
        if isinstance(given, dict) and not given.get("name"):
            of, source = str(given.get("of")), str(given.get("source") or "")
            last = f"last{given['length']}" if given.get("length") else ""
            return {**given, "name": ".".join(part for part in (of, source.partition(".")[2], last) if part)}
        return given

    @pydantic.model_validator(mode="after")
    def _affinity_needs_a_source(self) -> Self:
        if (self.of == "affinity") != bool(self.source):
            raise ValueError("`source`, a list column such as item.genres, belongs to `of` = affinity and to it alone")
        if self.of == "affinity" and not self.source.startswith("item."):
            raise ValueError("affinity needs a column of the items, such as item.genres")
        return self

    @property
    def sources(self) -> tuple[str, ...]:
        return (self.source or self.reads.get(self.of, "item"),)

    @property
    def side(self) -> Literal["user", "item", "pair"]:
        return "user" if self.of in ("user_count", "since_last") else "pair"


KINDS: dict[str, type[Base]] = {
    kind.model_fields["kind"].default: kind for kind in (Categorical, Bag, Sequence, Numeric, Vector, Crossed, Counter)
}
Feature = Annotated[Categorical | Bag | Sequence | Numeric | Vector | Crossed | Counter, pydantic.Field(discriminator="kind")]


class FeatureSet(Config):
    """Features in the order in which networks see them. Names are unique.

    >>> FeatureSet(features=(Categorical(source="item"), Sequence(length=20))).names
    ('item', 'history')
    """

    features: tuple[Feature, ...] = ()

    @pydantic.model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        for name in self.names:
            if self.names.count(name) > 1:
                raise ValueError(f"two features are named {name!r}; give one a `name` of its own")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(feature.name for feature in self.features)

    @classmethod
    def of(cls, tables: Iterable[Mapping[str, Any]], where: str = "features") -> FeatureSet:
        """From the `[[features]]` tables of a recipe; an error names `features.<place>.<key>` and the nearest key."""
        features = []
        for place, table in enumerate(tables):
            kind = str(table.get("kind", ""))
            if kind not in KINDS:
                raise ConfigError(f"{where}.{place}.kind: {kind!r} is none of {', '.join(KINDS)}")
            features.append(KINDS[kind].parse(table, f"{where}.{place}"))
        return cls.parse({"features": tuple(features)}, where)

    def override(self, *features: Base) -> FeatureSet:
        """The same set with these features: in the place of the feature of the same name, else at the end."""
        new = {feature.name: feature for feature in features}
        kept = tuple(new.pop(feature.name, feature) for feature in self.features)
        return FeatureSet.parse({"features": (*kept, *new.values())}, "features")

    def without(self, *names: str) -> FeatureSet:
        """The same set less these. ConfigError for a name that is not there."""
        for name in names:
            if name not in self.names:
                raise ConfigError(f"features.{name}: {unknown_key(name, self.names)}")
        return FeatureSet(features=tuple(feature for feature in self.features if feature.name not in names))

    def check(self, columns: Mapping[str, Iterable[str]]) -> None:
        """ConfigError where a feature reads a column that is not there. columns: those of "user", "item" and "context"."""
        known = [side for side in SIDES if side != "context"]
        known += [f"{side}.{column}" for side, names in columns.items() for column in names if column != side]
        for feature in self.features:
            for source in feature.sources:
                if source not in known:
                    raise ConfigError(f"features.{feature.name}: the log has no {source!r}: {unknown_key(source, known)}")

    @classmethod
    def derive(cls, log: Log, history: int = 50) -> FeatureSet:
        """What the columns of a log suggest: the ids, every column of users, items and context by its type, the history, and counters.

        Strings and flags are Categorical, but columns of nearly unique strings (titles, zip codes) are left out; whole numbers with
        few values are Categorical, other numbers Numeric; lists of strings or whole numbers are a Bag, of floats a Vector.
        history: how many items of it (0: none). Cost: a look at the user and item tables and at the last million events.
        """
        features: list[Base] = [Categorical(source="user"), Categorical(source="item")]
        events = log.events.select(log.context).tail(LOOK)
        for side, frame in (("user", log.users), ("item", log.items), ("context", events)):
            for column in frame.columns:
                feature = None if column == side else suggest(f"{side}.{column}", frame[column])
                if feature is not None:
                    features.append(feature)
        if history:
            features.append(Sequence(length=history))
        span = int(log.times[-1] - log.times[0]) / DAY if len(log) else 0.0
        # A month, but never so long that "recent" means "ever": a tenth of a short log.
        window = round(min(30.0, span / 10), 6) or 30.0
        features += [Counter(of="item_count"), Counter(of="item_recent_count", window=window), Counter(of="item_age")]
        features += [Counter(of="user_count"), Counter(of="since_last")]
        for bag in [feature for feature in features if isinstance(feature, Bag) and feature.source.startswith("item.")]:
            features += [Counter(of="affinity", source=bag.source), Counter(of="affinity", source=bag.source, length=5)]
        return cls.parse({"features": tuple(features)}, "features")


def suggest(source: str, values: pl.Series) -> Base | None:
    """The feature that suits a column, or None where no kind does."""
    dtype = values.dtype
    known = values.drop_nulls()
    if not len(known):
        return None
    if isinstance(dtype, pl.List | pl.Array):
        inner = dtype.inner
        if isinstance(inner, pl.DataType) and inner.is_float():
            lengths = known.list.len() if isinstance(dtype, pl.List) else pl.Series([0])
            return Vector(source=source) if lengths.n_unique() == 1 else None
        return Bag(source=source)
    distinct = known.n_unique()
    if dtype == pl.Boolean:
        return Categorical(source=source)
    if dtype in (pl.String, pl.Categorical, pl.Enum):
        unlike = distinct > FEW and distinct * 2 > len(known)
        return None if unlike or source.endswith(".title") else Categorical(source=source)
    if dtype.is_integer() and distinct <= FEW and distinct * 4 <= len(known):
        return Categorical(source=source)
    if dtype.is_numeric() or dtype.is_temporal():
        return Numeric(source=source)
    return None

"""What people did, and what they were shown: `Event` and `ShownSlate`, the two records that the event store keeps.

    {"id": "7f3a", "kind": "play", "user": "42", "item": "heat", "time": "2026-11-23T08:00:00Z", "value": 95.5}

An event names the recommendation it answers (`recommendation`, `position`), if any; that is how clicks and silence are joined with the
slate that was shown and with the probability it was shown with (Bottou et al., 2013, section 4.1: log what was shown, why, and its odds).

    kind        item   value                        besides
    impression  yes    -                            an item was on the screen
    click       yes    -
    play        yes    seconds played, 0 to a week
    purchase    yes    the amount, or nothing
    rating      yes    -1000 to 1000
    like        yes    -                            takes an earlier hide of the item back
    hide        yes    -                            reason, if one was given: never show it again
    search      no     -                            query
    survey      yes    1, 2, 3, 4 or 5
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal, NamedTuple, Self, get_args

import pydantic
from pydantic import Field

from palate.config import unknown_key
from palate.types import DataError, Slate

Kind = Literal["impression", "click", "play", "purchase", "rating", "like", "hide", "search", "survey"]
KINDS: tuple[Kind, ...] = get_args(Kind)
WANTED: tuple[Kind, ...] = ("click", "play", "purchase", "rating", "like")  # what a history is made of
NO_ITEM: tuple[Kind, ...] = ("search",)
MOST_EVENTS = 10_000  # in one batch
AHEAD = timedelta(hours=1)  # how far a sender's clock may run before ours
CONTEXT_KEYS, CONTEXT_BYTES = 32, 4096
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LAST = datetime(2200, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

# No control characters, as the gate of logs has it: what is stored here must be readable there.
_PLAIN = r"^[^\x00-\x1f\x7f]*[^\s\x00-\x1f\x7f][^\x00-\x1f\x7f]*$"
Id = Annotated[str, Field(max_length=256, pattern=_PLAIN)]
ShortId = Annotated[str, Field(max_length=128, pattern=_PLAIN)]
Name = Annotated[str, Field(max_length=64, pattern=_PLAIN)]
Text = Annotated[str, Field(max_length=512, pattern=r"^[^\x00]*$")]  # PostgreSQL's text holds no NUL
Finite = Annotated[float, Field(allow_inf_nan=False)]
Scalar = bool | int | float | str | None
_SURROGATES = re.compile("[\ud800-\udfff]")
_ISO = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d(:\d\d(\.\d{1,6})?)?([Zz]|[+-]\d\d:?\d\d)", re.ASCII)


def _moment(given: object) -> datetime:
    """An instant in UTC. Numbers are refused: whether seconds or milliseconds were meant would be a guess."""
    if isinstance(given, str):
        if not _ISO.fullmatch(given):
            raise ValueError('should be ISO 8601 with an offset, to the microsecond at most, such as "2026-11-23T08:00:00Z"')
        given = datetime.fromisoformat(given.upper())
    if not isinstance(given, datetime):
        raise ValueError('should be ISO 8601 text with an offset, such as "2026-11-23T08:00:00Z"')
    if given.tzinfo is None:
        raise ValueError("names no time zone; add Z or an offset")
    try:
        moment = given.astimezone(UTC)
    except OverflowError:
        moment = None
    if moment is None or not EPOCH <= moment < LAST:
        raise ValueError("should lie between 1970 and 2200")
    return moment


def _plain_value(given: object) -> Scalar:
    """A value of a context: what JSON and both databases keep exactly."""
    if given is None or isinstance(given, bool):
        return given
    if isinstance(given, int) and -(2**63) <= given < 2**63:
        return given
    if isinstance(given, float) and math.isfinite(given):
        return given
    if isinstance(given, str) and len(given) <= 512 and "\0" not in given and not _SURROGATES.search(given):
        return given
    raise ValueError("should be text of at most 512 characters, a finite number, true, false or null")


Time = Annotated[datetime, pydantic.BeforeValidator(_moment)]
ContextValue = Annotated[Scalar, pydantic.PlainValidator(_plain_value, json_schema_input_type=Scalar)]
Context = Annotated[dict[Name, ContextValue], Field(max_length=CONTEXT_KEYS)]


def micros(time: datetime) -> int:
    """Microseconds since 1970.

    >>> micros(datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC))
    1000000
    """
    return (time - EPOCH) // _MICROSECOND


def moment(microseconds: int) -> datetime:
    """The inverse of `micros`."""
    return EPOCH + timedelta(microseconds=microseconds)


class _Value(NamedTuple):
    """What `value` means for a kind."""

    meaning: str
    low: float
    high: float
    needed: bool = True


VALUES: Mapping[str, _Value] = {
    "play": _Value("the seconds played", 0, 7 * 86_400),
    "purchase": _Value("the amount", 0, 1e12, needed=False),
    "rating": _Value("the rating", -1000, 1000),
    "survey": _Value("the answer", 1, 5),
}


class _Record(pydantic.BaseModel):
    """Frozen and strict: unknown fields, text for numbers and the like are errors of one line."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, strict=True)

    @classmethod
    def parse(cls, given: object, where: str) -> Self:
        """From a mapping (parsed JSON); raises a DataError of one line that names `where` and the field, and says how to mend it.

        >>> Event.parse({"id": "1", "kind": "survey", "user": "u", "item": "i", "time": "2026-11-23T08:00Z", "value": 6}, "event")
        Traceback (most recent call last):
        ...
        palate.errors.DataError: event.value: of a survey is the answer, from 1 to 5, got 6.0
        """
        if not isinstance(given, Mapping):
            raise DataError(f"{where}: should be an object, got {_shown(given)}")
        try:
            return cls.model_validate(given)
        except pydantic.ValidationError as error:
            raise DataError(_one_line(cls, error, where)) from None


class Event(_Record):
    """Something one person did at one time. See the table above for what each kind takes.

    id: of the event, chosen by the sender and never used again: sending it twice is the same as once; the first stands.
    user, item: raw ids, at most 256 characters. time: UTC. position: place in the slate, from 0.
    recommendation: the id that came with the slate. placement: where on the page, such as "home". context: what else was known (device,
        country ...): at most 32 keys, 4096 bytes as JSON.
    """

    id: ShortId
    kind: Kind
    user: Id
    item: Id | None = None
    time: Time
    value: Finite | None = None
    recommendation: ShortId | None = None
    position: int | None = Field(None, ge=0, lt=10_000)
    placement: Name | None = None
    reason: Text | None = None
    query: Text | None = None
    context: Context = Field(default_factory=dict)

    @pydantic.model_validator(mode="after")
    def _fits_its_kind(self) -> Self:
        kind = self.kind
        if kind == "search":
            if not (self.query and self.query.strip()):
                raise ValueError("query: a search needs what was searched for; add query")
            if self.item is not None or self.position is not None:
                raise ValueError("item: a search is about no item; leave item and position out")
        else:
            if self.item is None:
                raise ValueError(f"item: {_a(kind)} is about an item; add item")
            if self.query is not None:
                raise ValueError(f"query: only a search has one, not {_a(kind)}; leave it out")
        if self.reason is not None and kind != "hide":
            raise ValueError(f"reason: only a hide has one, not {_a(kind)}; leave it out")
        rule = VALUES.get(kind)
        if rule is None:
            if self.value is not None:
                raise ValueError(f"value: {_a(kind)} has none; leave it out")
        elif self.value is None:
            if rule.needed:
                raise ValueError(f"value: {_a(kind)} needs {rule.meaning}; add value, {rule.low:g} to {rule.high:g}")
        elif not rule.low <= self.value <= rule.high:
            raise ValueError(f"value: of {_a(kind)} is {rule.meaning}, from {rule.low:g} to {rule.high:g}, got {self.value!r}")
        elif kind == "survey" and self.value % 1:
            raise ValueError(f"value: of a survey is 1, 2, 3, 4 or 5, got {self.value!r}")
        _bounded(self.context)
        return self

    @property
    def micros(self) -> int:
        """`time` in microseconds since 1970."""
        return micros(self.time)


class ShownItem(_Record):
    """One place of a slate: what stood there, why, and the probability with which the policy puts it there (1.0: nothing is random).

    probabilities: what was predicted for each task. source: the retriever that brought it. position: from 0.
    """

    item: Id
    position: int = Field(ge=0, lt=10_000)
    score: Finite
    source: Annotated[str, Field(max_length=64)] = ""
    propensity: float = Field(1.0, gt=0, le=1)
    reason: Text = ""
    probabilities: dict[Name, Finite] = Field(default_factory=dict, max_length=64)


class ShownSlate(_Record):
    """One answer of the service, as it was shown.

    recommendation: its id, which events name. user: None for somebody without an id. version: of the bundle. placement: as in events.
    experiment, arm: the A/B test that the request was part of. context: of the request, bounded as in events.
    """

    recommendation: ShortId
    user: Id | None = None
    time: Time
    version: ShortId
    placement: Name | None = None
    experiment: Name | None = None
    arm: Name | None = None
    context: Context = Field(default_factory=dict)
    items: tuple[ShownItem, ...] = Field(max_length=10_000)

    @pydantic.model_validator(mode="after")
    def _one_item_a_place(self) -> Self:
        if (self.experiment is None) != (self.arm is None):
            raise ValueError("arm: experiment and arm come together; give both or none")
        for what, given in (("position", [str(shown.position) for shown in self.items]), ("item", [shown.item for shown in self.items])):
            if len(set(given)) < len(given):
                twice = next(value for place, value in enumerate(given) if value in given[:place])
                raise ValueError(f"items: {what} {_shown(twice)} stands twice; show each once")
        _bounded(self.context)
        return self

    @classmethod
    def of(cls, slate: Slate, *, recommendation: str, time: datetime, version: str, **more: Any) -> Self:
        """From a funnel's Slate. more: user, placement, experiment, arm, context.

        >>> slate = Slate(("a",), (0.5,), ("ease",), ({"click": 0.1},), (0.9,), ("popular this week",))
        >>> ShownSlate.of(slate, recommendation="r1", time=datetime(2026, 11, 23, tzinfo=UTC), version="v1").items[0].propensity
        0.9
        """
        columns = zip(slate.items, slate.scores, slate.sources, slate.probabilities, slate.propensity, slate.reasons, strict=True)
        items = tuple(
            ShownItem(
                item=item,
                position=position,
                score=float(score),
                source=source,
                propensity=float(propensity),
                reason=reason,
                probabilities={task: float(probability) for task, probability in probabilities.items()},
            )
            for position, (item, score, source, probabilities, propensity, reason) in enumerate(columns)
        )
        return cls.parse({"recommendation": recommendation, "time": time, "version": version, "items": items, **more}, "slate")

    @property
    def micros(self) -> int:
        """`time` in microseconds since 1970."""
        return micros(self.time)


def parse_events(given: object, *, now: datetime | None = None, most: int = MOST_EVENTS) -> list[Event]:
    """One event or a list of at most `most`, from parsed JSON. All are good, or a DataError says what is wrong with the first that is not.

    now: the receiver's clock; an event more than an hour ahead of it is refused. Cost: about 10 microseconds an event.

    >>> parse_events([{"id": "1", "kind": "click", "user": "u", "time": "2026-11-23T08:00:00Z"}])
    Traceback (most recent call last):
    ...
    palate.errors.DataError: events[0].item: a click is about an item; add item
    """
    alone = isinstance(given, Mapping)
    if not alone and (isinstance(given, (str, bytes)) or not isinstance(given, Sequence)):
        raise DataError(f"events: should be an event or a list of events, got {_shown(given)}")
    batch: Sequence[Any] = [given] if alone else given  # type: ignore[assignment]
    if len(batch) > most:
        raise DataError(f"events: {len(batch)} in one batch are too many; send at most {most} at a time")
    events = [Event.parse(one, "event" if alone else f"events[{place}]") for place, one in enumerate(batch)]
    if now is not None:
        limit = now + AHEAD
        for place, event in enumerate(events):
            if event.time > limit:
                where = "event" if alone else f"events[{place}]"
                raise DataError(
                    f"{where}.time: {event.time.isoformat()} is more than an hour ahead of the clock here; set the sender's clock"
                )
    return events


def _bounded(context: Mapping[str, object]) -> None:
    if context:
        size = len(json.dumps(context, ensure_ascii=False).encode())
        if size > CONTEXT_BYTES:
            raise ValueError(f"context: {size} bytes as JSON; keep it to {CONTEXT_BYTES}")


def _a(kind: str) -> str:
    return f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"


def _shown(value: object) -> str:
    """A value for a message, cut short."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _one_line(cls: type[pydantic.BaseModel], error: pydantic.ValidationError, where: str) -> str:
    first = error.errors(include_url=False)[0]
    path, kind, message = [where], first["type"], first["msg"]
    for part in first["loc"]:
        if isinstance(part, int):
            path[-1] += f"[{part}]"
        else:
            path.append(_shown(part)[1:-1])
    if kind == "extra_forbidden":
        owner = ShownItem if "items" in first["loc"] else cls
        return f"{'.'.join(path)}: {unknown_key(str(first['loc'][-1]), owner.model_fields)}"
    if kind == "missing":
        return f"{'.'.join(path)}: is missing; add it"
    message = message.removeprefix("Value error, ")
    if kind == "value_error" and not first["loc"]:
        return f"{where}.{message}"
    if kind == "string_pattern_mismatch":
        given = first["input"]
        message = "is empty; fill it in" if isinstance(given, str) and not given.strip() else "holds control characters; remove them"
    return f"{'.'.join(path)}: {message[0].lower()}{message[1:]}, got {_shown(first['input'])}"

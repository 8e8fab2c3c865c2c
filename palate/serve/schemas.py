"""What the service takes and gives, as JSON: the OpenAPI is made from this file. What is too much is said here, or by the Settings."""

from __future__ import annotations

from typing import Annotated, Any

import pydantic
from pydantic import Field

from palate.feedback.events import Context, Id, Name

MOST = 10_000
"""No list of a request is longer, whatever the Settings allow."""
Ids = Annotated[list[Id], Field(max_length=MOST)]
Filter = Annotated[str, Field(min_length=1, max_length=500)]
Knob = bool | int | float | str | None | list[Any] | dict[str, Any]
Knobs = Annotated[dict[Name, Annotated[dict[Name, Knob], Field(max_length=32)] | None], Field(max_length=32)]


class Body(pydantic.BaseModel):
    """Strict: a field that is not known, or of another type, is an error."""

    model_config = pydantic.ConfigDict(extra="forbid", strict=True, frozen=True)


class Asker(Body):
    """For whom: a user id, or a history, or a context; more than one is welcome.

    user: an id; somebody the log never saw is told by what the event store and this request know.
    history: item ids or titles, oldest first. context: values of the context columns that the bundle learnt with.
    """

    user: Id | None = None
    history: Ids = Field(default_factory=list)
    context: Context = Field(default_factory=dict)


class Recommend(Asker):
    """k: how many items. filters: rules on item columns, such as `genres has "Comedy" and year >= 1990`. exclude: item ids never to show.
    placement: where on the page, for the record. seen: items of the history may come back. rerank: settings of the bundle's rerankers for
    this request, by their names; null leaves one out. stages: also what every stage made of it. record: false is a preview, of which
    nothing is kept.
    """

    k: int = Field(10, ge=1, le=MOST)
    filters: Annotated[list[Filter], Field(max_length=100)] = Field(default_factory=list)
    exclude: Ids = Field(default_factory=list)
    placement: Name | None = None
    seen: bool = False
    rerank: Knobs = Field(default_factory=dict)
    stages: bool = False
    record: bool = True


class Rank(Asker):
    """items: ids to put in order. Nothing is left out, not even what was seen."""

    items: Annotated[list[Id], Field(min_length=1, max_length=MOST)]


class Swap(Body):
    """bundle: one of the names that `GET /v1/bundles` gives."""

    bundle: Annotated[str, Field(min_length=1, max_length=256)]


class ListedItem(Body):
    """An item and what one stage thought of it."""

    item: str
    title: str
    score: float


class Stage(Body):
    """One stage's list, best first, at most 50 items: each retriever by name, `merged`, `ranked`, each reranker, `slate`."""

    name: str
    items: list[ListedItem]


class Remembered(Body):
    """An item of the history. kind: of the event, where it is known."""

    item: str
    title: str
    kind: str | None


class RankedItem(ListedItem):
    """An item in its place. score: what it was ordered by. probabilities: of each task. source: the retriever that ranked it best; sources:
    the rank, from 1, that each gave it, empty where none would have brought it.
    """

    position: int
    probabilities: dict[str, float]
    source: str
    sources: dict[str, int]


class RecommendedItem(RankedItem):
    """propensity: the probability with which the policy shows this item at this place."""

    propensity: float
    reason: str


class Recommendation(Body):
    """recommendation: its id, which events name. version: of the bundle. known: whether the bundle has learnt from this user.
    policy: `fallback` where a cheaper funnel answered; why says why, or what else was amiss. experiment, arm: the A/B test the user is in.
    history: what the answer rests on, newest first.
    """

    recommendation: str
    version: str
    user: str | None
    known: bool
    policy: str
    why: str | None
    experiment: str | None
    arm: str | None
    time: str
    took_ms: float
    items: list[RecommendedItem]
    history: list[Remembered]
    stages: list[Stage] | None


class SimilarItem(ListedItem):
    """An item that goes with the one asked about."""

    source: str
    sources: dict[str, int]
    reason: str


class Similar(Body):
    """What goes with an item, best first."""

    item: str
    title: str
    version: str
    items: list[SimilarItem]


class Ranking(Body):
    """The given items, best first."""

    version: str
    user: str | None
    why: str | None
    items: list[RankedItem]


class Kept(Body):
    """What became of the events: new and on the disk now; known already; of people who asked to be forgotten, and dropped."""

    new: int
    repeated: int
    forgotten: int


class Removed(Body):
    """How much was removed for good."""

    events: int
    slates: int


class Problem(Body):
    """What was wrong, in one line."""

    error: str

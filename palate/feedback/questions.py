"""What a request asks of one person, as SQL that is built once. Each question is answered from one index: see `palate.feedback.migrations`.

`after` is a cursor: events up to it stand in the history of a bundle that learnt from the store. A request reads only what came later, and
its cost does not grow with all that the person ever did.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, CompoundSelect, Double, Select, Text, bindparam, cast, func, literal_column, null, select, union_all

from palate.feedback import migrations as tables
from palate.feedback.migrations import IS_ACTION, IS_IMPRESSION

EVENT = tables.events.c

_PERSON = EVENT.user == bindparam("user")
_OF_KINDS = EVENT.kind.in_(bindparam("kinds", expanding=True))
_SINCE = EVENT.time >= bindparam("since")
_BEHIND = EVENT.seq > bindparam("after")

HISTORY = (
    select(EVENT.item)
    .where(_PERSON, IS_ACTION, _OF_KINDS, EVENT.item.is_not(None))
    .order_by(EVENT.time.desc(), EVENT.seq.desc())
    .limit(bindparam("limit"))
)
HISTORY_BEFORE = HISTORY.where(EVENT.time < bindparam("before"))
SEEN = select(EVENT.item).where(_PERSON, IS_ACTION, _OF_KINDS).distinct()
HIDDEN = select(EVENT.item, EVENT.kind).where(_PERSON, IS_ACTION, EVENT.kind.in_(("hide", "like"))).order_by(EVENT.time, EVENT.seq)
IMPRESSIONS = select(EVENT.item, func.count(), func.max(EVENT.time)).where(_PERSON, IS_IMPRESSION, _SINCE, _BEHIND).group_by(EVENT.item)
CLICKS = select(EVENT.item, func.count()).where(_PERSON, IS_ACTION, EVENT.kind == "click", _SINCE, _BEHIND).group_by(EVENT.item)
ACTIONS = (
    select(EVENT.item, EVENT.kind, EVENT.value, EVENT.time, EVENT.seq)
    .where(_PERSON, IS_ACTION, EVENT.kind != "search", _BEHIND)
    .order_by(EVENT.seq.desc())
    .limit(bindparam("limit"))
)

# The parts of one answer about a person, told apart by their first column. One statement sees the store at one moment.
AN_ACTION, AN_IMPRESSION, A_MARK = 0, 1, 2
_actions = ACTIONS.subquery()
_marks = tables.forgotten.alias()
_no_text, _no_double, _no_number = cast(null(), Text), cast(null(), Double), cast(null(), BigInteger)
_person: tuple[Select[Any], ...] = (
    select(literal_column(str(AN_ACTION)), *_actions.c),
    select(literal_column(str(A_MARK)), _no_text, _no_text, _no_double, _no_number, _no_number).where(_marks.c.who == bindparam("who")),
)
_shown: Select[Any] = select(literal_column(str(AN_IMPRESSION)), EVENT.item, _no_text, _no_double, func.max(EVENT.time), func.count())
PERSON: CompoundSelect[Any] = union_all(*_person)
PERSON_AND_IMPRESSIONS: CompoundSelect[Any] = union_all(
    *_person, _shown.where(_PERSON, IS_IMPRESSION, _SINCE, _BEHIND).group_by(EVENT.item)
)

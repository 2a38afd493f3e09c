"""From JSON bytes to events, one verdict each: what is good is kept, whatever stands beside it.

The common body, all of it valid, is decoded in one step. Only when that fails is it taken apart:

    {...}            one event, with the body's own members beside its own
    {"events": ...}  a body object            -> each element by itself
    [...]            an array                 -> each element by itself
    lines            NDJSON                   -> each line by itself

A body that is no JSON as a whole may still be NDJSON, whatever its content type says: it is when at
least one of its lines is a JSON object. No event is nested more than a few levels deep, so what
lies deeper than the parser will go is cut out (`_pruned`) and its event is refused by its type.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import msgspec
from msgspec import UNSET, Struct, UnsetType

from schemas.event import (
    BATCHES,
    DECODE_ERRORS,
    EVENTS,
    LONE_EVENTS,
    PROPERTIES,
    Event,
    LoneEvent,
    Refusal,
    Refused,
    refusal,
    settle,
)

from .answers import Rejected


@dataclass(slots=True)
class Bad:
    """An event that is refused, and its id if it has one that can be read."""

    refusal: Refusal
    id: str | None = None


@dataclass(slots=True)
class Posted:
    """A body's events in order, and what the body says beside them."""

    events: list[Event | Bad]
    key: str = ""
    sent_at: datetime | int | UnsetType = UNSET


class _Id(Struct):
    id: Any = None


class _Events(Struct):
    events: msgspec.Raw | UnsetType = UNSET


_ARRAYS: Final = msgspec.json.Decoder(list[Event])
_PARTS: Final = msgspec.json.Decoder(list[msgspec.Raw])
_IDS: Final = msgspec.json.Decoder(_Id)
_EVENTS_MEMBER: Final = msgspec.json.Decoder(_Events)
_ANY_OBJECT: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])

_ESCAPED_NUL: Final = b"\\u0000"
_DEEPEST: Final = 16
_MOST_TOKENS: Final = 100_000


def posted(body: bytes, ndjson: bool, most: int) -> Posted:
    """The events of a body, decoded and settled.

    Raises Rejected: 400 for what is no JSON at all or has no event in it, 413 for more than `most`.
    """
    first = body[:1]
    if first not in (b"{", b"["):
        body = body.removeprefix(b"\xef\xbb\xbf").strip(b" \t\r\n")
        first = body[:1]
        if not body:
            raise Rejected(400, "the body is empty")
    may_have_nul = _ESCAPED_NUL in body
    try:
        taken = _whole(body, first, most) if not ndjson else _lines(body, most)
    except RecursionError:
        taken = _deep(body, first, most)
    events = taken.events
    if not 0 < len(events) <= most:
        _count(len(events), most)
    for position, event in enumerate(events):
        if isinstance(event, Bad):
            continue
        try:
            settle(event, may_have_nul)
        except Refused as refused:
            known = None if event.id is UNSET else str(event.id)
            events[position] = Bad(refused.refusal, known)
    return taken


def pixel(fields: dict[str, bytes]) -> Posted:
    """The one event of a pixel's query. A property is a field `properties.NAME`; numbers are
    text there, as everything in a query is."""
    members: dict[str, Any] = {}
    properties: dict[str, str] = {}
    try:
        for name, value in fields.items():
            if name.startswith("properties."):
                properties[name.removeprefix("properties.")] = value.decode()
            else:
                members[name] = value.decode()
        if len(properties) > PROPERTIES:
            raise Refused("too_many", "properties", f"properties must have at most {PROPERTIES}")
        if properties:
            members["properties"] = properties
        event = msgspec.convert(members, LoneEvent, strict=False)
        taken = Posted([event], event.key, event.sent_at)
        event.key, event.sent_at = "", UNSET
        settle(event)
    except (*DECODE_ERRORS, Refused) as error:
        return Posted([Bad(refusal(error))])
    return taken


def _whole(body: bytes, first: bytes, most: int) -> Posted:
    try:
        if first == b"[":
            return _array(body, most)
        event = LONE_EVENTS.decode(body)
    except msgspec.ValidationError as error:
        return _object(body, error, most)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return _perhaps_lines(body, error, most)
    taken = Posted([event], event.key, event.sent_at)
    if event.key or event.sent_at is not UNSET:
        event.key, event.sent_at = "", UNSET
    return taken


def _array(body: bytes, most: int) -> Posted:
    try:
        return Posted([*_ARRAYS.decode(body)])
    except (msgspec.ValidationError, UnicodeDecodeError):
        return Posted(_each(_PARTS.decode(body), most))


def _object(body: bytes, error: msgspec.ValidationError, most: int) -> Posted:
    """A JSON object that is not one valid event: a body object, or one event that is refused."""
    try:
        events = _EVENTS_MEMBER.decode(body).events
    except msgspec.ValidationError:
        events = UNSET
    except (msgspec.DecodeError, UnicodeDecodeError) as worse:
        # The first mistake was found before the body's end: there are lines after it, or no JSON.
        return _perhaps_lines(body, worse, most)
    if events is UNSET:
        return Posted([_verdict(body, error)])
    try:
        batch = BATCHES.decode(body)
    except (msgspec.ValidationError, UnicodeDecodeError) as wrong:
        about = refusal(wrong)
        raise Rejected(400, f"{about.reason}: {about.detail}") from None
    return Posted(_each(batch.events, most), batch.key, batch.sent_at)


def _perhaps_lines(body: bytes, error: Exception, most: int) -> Posted:
    """What is no JSON as a whole: NDJSON if a line of it is an object, else malformed."""
    if b"\n" in body:
        taken = _lines(body, most)
        if any(isinstance(event, Event) or _is_object(event) for event in taken.events):
            return taken
    about = refusal(error)
    if about.code == "invalid_utf8":
        return Posted([Bad(about)])
    raise Rejected(400, f"{about.reason}: {about.detail}")


def _is_object(bad: Event | Bad) -> bool:
    return isinstance(bad, Bad) and bad.refusal.code not in ("malformed_json", "invalid_utf8")


def _lines(body: bytes, most: int) -> Posted:
    return Posted(_each([line for line in body.split(b"\n") if line and not line.isspace()], most))


def _deep(body: bytes, first: bytes, most: int) -> Posted:
    """Deeper than the parser goes: cut what is deep out, so that the others are kept."""
    if b"\n" in body:
        taken = _lines(body, most)
        if any(isinstance(event, Event) for event in taken.events):
            return taken
    try:
        return _whole(_pruned(body), first, most)
    except RecursionError as error:
        return Posted([Bad(refusal(error))])


def _each(parts: Sequence[bytes | msgspec.Raw], most: int) -> list[Event | Bad]:
    _count(len(parts), most)
    events: list[Event | Bad] = []
    for part in parts:
        try:
            events.append(EVENTS.decode(part))
        except DECODE_ERRORS as error:
            events.append(_verdict(part, error))
    return events


def _verdict(part: bytes | msgspec.Raw, error: BaseException) -> Bad:
    try:
        given = _IDS.decode(part).id
        known = str(UUID(given)) if isinstance(given, str) else None
    except (*DECODE_ERRORS, ValueError):
        known = None
    return Bad(refusal(error), known)


def _count(found: int, most: int) -> None:
    if found > most:
        raise Rejected(413, f"the body has {found} events, more than {most}")
    if not found:
        raise Rejected(400, "there is no event in the body")


_TOKENS: Final = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[{]+|[\]}]+', re.DOTALL)


def _pruned(body: bytes) -> bytes:
    """The JSON with every container below the deepest level replaced by an empty one.

    RecursionError when that is more work than any body of good events could make.
    """
    kept: list[bytes] = []
    depth, copied = 0, 0
    for count, token in enumerate(_TOKENS.finditer(body)):
        if count == _MOST_TOKENS:
            raise RecursionError
        first = token[0][0]
        if first == 0x22:
            continue
        start, end = token.span()
        if first in b"[{":
            if depth <= _DEEPEST < depth + end - start:
                kept.append(body[copied : start + _DEEPEST - depth + 1])
            depth += end - start
        else:
            if depth > _DEEPEST >= depth - (end - start):
                copied = start + depth - _DEEPEST - 1
            depth -= end - start
    if depth <= _DEEPEST:
        kept.append(body[copied:])
    return b"".join(kept)


def ids(events: Iterable[Event | Bad]) -> list[str | None]:
    return [e.id if isinstance(e, Bad) else str(e.id) for e in events]

"""Why a line of a Kafka record cannot be inserted.

ClickHouse refuses a whole insert for one bad line. `faults` looks through its lines and says which
they are, from their bytes alone: no clock, no server. Two laws hold, and a contract test asks the
real engine about both:

- what the landing table refuses, `fault` finds;
- what `fault` passes, the landing table takes as exactly one row, in the ClickHouse partition that
  `schemas.tables.clickhouse_partition` names.

Where a line stands must not decide what becomes of it. One that is not one object, which ClickHouse
takes in some places only, makes its batch suspect (`consumer.batch`), and is set aside always. One
that would land in a batch of good lines is not set aside because a neighbour is bad: so what
ClickHouse reads in one sensible way passes, also where the contract is narrower: a member that is
null is left out; a number, a truth value or a nested object where text is wanted is the text it was
written as; a whole number may stand in quotes; raw control characters may stand in a text.

It is stricter than ClickHouse where the row would not be what the line says, or where ClickHouse
would take the line in one place only:

- bytes that are not UTF-8, which no reader could be given back;
- several objects on a line (as many rows), an array of objects (at the start of an insert only), a
  line of white space or `[]` (no row), a comma or semicolon after the object, a comma before it
  (anywhere but at the start), a byte order mark (at the start);
- what is no JSON: vertical tabs and form feeds between members, unknown escapes, numbers such as +1
  or 01, a comma before a closing brace;
- whole numbers that ClickHouse wraps round at 64 or 8 bits; is_bot other than 0 and 1;
- `id` and `created_at` that are not written plainly: the consumer reads them too;
- a member's name in other letters (`Path`), which newer servers take for `path` and older refuse;
- amounts whose digits and exponent ClickHouse cannot be relied on to add up;
- lines over `LINE_BYTES`, and nesting deeper than `DEPTH`.

A line is what stands between two line feeds of a record and is not empty: a tombstone and an empty
record have none. Of an object that is written over several lines each line is a bad line.

Most lines are seen to be plain by `schemas.plain`, many at once; the others are looked at here, one
by one, at about ten times the cost.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from itertools import islice
from typing import Any, Final, Literal, NoReturn, get_args

import msgspec
from msgspec import Raw

from schemas.event import UINT32_MAX, Record
from schemas.plain import LINE_BYTES, doubtful
from schemas.tables import CREATED_AT_END, CREATED_AT_FIRST

__all__ = ["DEPTH", "LINE_BYTES", "REASONS", "UUID", "Fault", "Reason", "fault", "faults"]

DEPTH: Final = 64

_PART: Final = 256  # lines whose text stays in the processor's cache

_AMOUNT_LIMIT: Final = 10**14  # Decimal(18, 4)
_AMOUNT_DIGITS: Final = 18

Reason = Literal[
    "invalid_utf8",
    "malformed_json",
    "not_one_object",
    "too_large",
    "too_deep",
    "wrong_type",
    "unknown_member",
    "duplicate_member",
    "missing_member",
    "empty",
    "bad_id",
    "out_of_range",
    # ClickHouse refused the line, and nothing here explains it: `error` has its words.
    "refused",
]
REASONS: Final[tuple[Reason, ...]] = get_args(Reason)


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a line cannot be inserted: a reason out of `REASONS`, and a sentence for a person."""

    reason: Reason
    error: str


def faults(lines: Iterable[bytes]) -> list[tuple[int, Fault]]:
    """The bad ones among the lines, each with its index, in order. None of them may be empty."""
    found: list[tuple[int, Fault]] = []
    number, left = 0, iter(lines)
    while part := list(islice(left, _PART)):
        for index in doubtful(part):
            why = fault(part[index])
            if why is not None:
                found.append((number + index, why))
        number += len(part)
    return found


def fault(line: bytes) -> Fault | None:
    """Why this line cannot be inserted, or None. It has content and no line feed."""
    if len(line) > LINE_BYTES:
        return Fault("too_large", f"{len(line)} bytes; a line has at most {LINE_BYTES}")
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        return Fault("invalid_utf8", f"{error.reason} at byte {error.start}")
    try:
        return _check(line, _parsed(text))
    except _Bad as bad:
        return bad.fault


class _Bad(Exception):
    def __init__(self, reason: Reason, error: str) -> None:
        super().__init__(error)
        self.fault = Fault(reason, error)


class _Members(list[tuple[str, Any]]):
    """An object's members as they were written, doubles too."""


class _Number(str):
    """A number as it was written."""


def _no_constant(name: str) -> NoReturn:
    raise _Bad("malformed_json", f"{name} is no JSON")


_JSON: Final = json.JSONDecoder(
    object_pairs_hook=_Members,
    parse_int=_Number,
    parse_float=_Number,
    parse_constant=_no_constant,
    strict=False,
)
_BRACKETS: Final = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL)
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_KINDS: Final = {_Members: "an object", list: "an array", str: "text", bool: "true or false"}


def _parsed(text: str) -> _Members:
    if text.count("{") + text.count("[") > DEPTH and _depth(text) > DEPTH:
        raise _Bad("too_deep", f"nested more than {DEPTH} deep")
    try:
        parsed = _JSON.decode(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":
            why = f"the line goes on after its first value, at character {error.pos}"
            raise _Bad("not_one_object", why) from None
        raise _Bad("malformed_json", f"{error.msg} at character {error.pos}") from None
    if not isinstance(parsed, _Members):
        raise _Bad("not_one_object", f"{_kind(parsed)} where an object must be")
    if "\\u" in text and any(map(_SURROGATE.search, _texts(parsed))):
        raise _Bad("malformed_json", "an escape is half of a surrogate pair")
    return parsed


def _depth(text: str) -> int:
    depth = deepest = 0
    for found in _BRACKETS.findall(text):
        depth += 1 if found in "{[" else -1 if found in "]}" else 0
        deepest = max(deepest, depth)
    return deepest


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, _Members):
        for name, inner in value:
            yield name
            yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)
    elif isinstance(value, str):
        yield value


def _check(line: bytes, members: _Members) -> Fault | None:
    seen = set()
    for name, _ in members:
        if name not in _COLUMNS:
            return Fault("unknown_member", f"{_shown(name)} is not a member of an event")
        if name in seen:
            return Fault("duplicate_member", f"{name} is given twice")
        seen.add(name)
    for name, value in members:
        if value is None:
            if name in _REQUIRED:
                return Fault("missing_member", f"{name} is required, and null")
            continue
        why = _COLUMNS[name](name, value)
        if why is not None:
            return why
        if type(value) is str and _COLUMNS[name] is not _text and not _is_plain(line, name):
            return Fault("wrong_type", f"{name} must be written without escapes")
    missing = next((name for name in _REQUIRED if name not in seen), None)
    return None if missing is None else Fault("missing_member", f"{missing} is required")


def _is_plain(line: bytes, name: str) -> bool:
    """Whether this text is written without escapes: ClickHouse undoes none in a number or id."""
    if b"\\" not in line:
        return True
    try:
        return b"\\" not in bytes(_RAW.decode(line)[name])
    except msgspec.MsgspecError:  # raw control characters elsewhere: nobody can say
        return False


_RAW: Final = msgspec.json.Decoder(dict[str, Raw])


def _text(name: str, value: object) -> Fault | None:
    if value == "" and name in _REQUIRED:
        return Fault("empty", f"{name} must not be empty")
    return None


def _id(name: str, value: object) -> Fault | None:
    if type(value) is not str:
        return Fault("wrong_type", f"{name} must be text, not {_kind(value)}")
    if not UUID.fullmatch(value):
        return Fault("bad_id", f"{name} must be a UUID, not {_shown(value)}")
    if not value.strip("0-"):
        return Fault("bad_id", f"{name} must not be all zeros")
    return None


def _whole(least: int, most: int, *, loose: bool = True) -> Callable[[str, object], Fault | None]:
    """A whole number within these bounds. `loose`: in quotes, or as true or false, too."""

    def check(name: str, value: object) -> Fault | None:
        if loose and (isinstance(value, bool) or value == ""):
            return None
        if not (isinstance(value, _Number) or (loose and type(value) is str)):
            return Fault("wrong_type", f"{name} must be a whole number, not {_kind(value)}")
        if not _WHOLE.fullmatch(value):
            return Fault("wrong_type", f"{name} must be a whole number, not {_shown(value)}")
        # 20 digits hold every number that could be meant; int() of many more is slow
        if value[0] == "-" or len(value) > 20 or not least <= int(value) <= most:
            wanted = f"{name} must be from {least} to {most}"
            return Fault("out_of_range", f"{wanted}, not {_shown(value)}")
        return None

    return check


def _amount(name: str, value: object) -> Fault | None:
    if value == "":
        return None
    if not (isinstance(value, _Number) or type(value) is str):
        return Fault("wrong_type", f"{name} must be a decimal, not {_kind(value)}")
    written = _AMOUNT.fullmatch(value)
    if not written:
        return Fault("wrong_type", f"{name} must be a decimal, not {_shown(value)}")
    whole, fraction, exponent = written[1], written[2] or "", written[3]
    if exponent is None:
        fits = len(whole) <= 14
    else:
        fits = (
            len(whole + fraction) <= _AMOUNT_DIGITS
            and len(exponent) <= 3
            and int(exponent) < 14
            and abs(Decimal(value)) < _AMOUNT_LIMIT
        )
    if fits:
        return None
    return Fault("out_of_range", f"{name} must be a decimal below 10^14, not {_shown(value)}")


def _properties(name: str, value: object) -> Fault | None:
    if isinstance(value, _Members):
        return None
    return Fault("wrong_type", f"{name} must be an object, not {_kind(value)}")


def _kind(value: object) -> str:
    return "null" if value is None else _KINDS.get(type(value), "a number")


def _shown(value: str) -> str:
    return ascii(str(value) if len(value) <= 64 else value[:61] + "...")


UUID: Final = re.compile(r"[0-9A-Fa-f]{32}|[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")
_WHOLE: Final = re.compile(r"-?(?:0|[1-9][0-9]*)")
_AMOUNT: Final = re.compile(r"-?(0|[1-9][0-9]*)(?:\.([0-9]+))?(?:[eE]([+-]?[0-9]+))?")

_REQUIRED: Final = ("id", "project_id", "session_id", "name", "created_at")
_COLUMNS: Final[dict[str, Callable[[str, object], Fault | None]]] = {
    "id": _id,
    "created_at": _whole(CREATED_AT_FIRST, CREATED_AT_END - 1, loose=False),
    "received_at": _whole(0, CREATED_AT_END - 1),
    "duration": _whole(0, UINT32_MAX),
    "max_scroll": _whole(0, 100),
    "is_bot": _whole(0, 1),
    "value": _amount,
    "properties": _properties,
}
_COLUMNS.update({name: _text for name in Record.__struct_fields__ if name not in _COLUMNS})

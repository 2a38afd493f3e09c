"""Which lines of a Kafka record are certain to be good, many at once.

Nearly every line is written plainly: no member twice, numbers as numbers, an id with dashes. To
know that of a line of 500 bytes costs about 3 us. It is one half of `schemas.record`, which looks
at the others one by one and has the last word: this half may doubt any line, and passes no bad one.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final

import msgspec
import numpy as np
from msgspec import Meta, Raw, Struct
from msgspec.structs import astuple

from schemas.event import UINT32_MAX
from schemas.tables import CREATED_AT_END, CREATED_AT_FIRST

LINE_BYTES: Final = 1 << 20

_Present = Annotated[str, Meta(min_length=1)]
# Members that were not given are counted, line by line: texts are told apart four times as fast as
# a text is from UNSET. Who sends this very text is looked at more closely, no more.
_ABSENT: Final[Any] = "\0 not given"


class _Plain(Struct, kw_only=True, forbid_unknown_fields=True, gc=False):
    """A line as nearly every producer writes it."""

    id: Annotated[str, Meta(min_length=36, max_length=36)]
    project_id: _Present
    session_id: _Present
    name: _Present
    created_at: Annotated[int, Meta(ge=CREATED_AT_FIRST, lt=CREATED_AT_END)]
    received_at: Annotated[int, Meta(ge=0, lt=CREATED_AT_END)] = _ABSENT
    path: str = _ABSENT
    previous_path: str = _ABSENT
    duration: Annotated[int, Meta(ge=0, le=UINT32_MAX)] = _ABSENT
    referrer: str = _ABSENT
    referrer_name: str = _ABSENT
    referrer_kind: str = _ABSENT
    utm_source: str = _ABSENT
    utm_medium: str = _ABSENT
    utm_campaign: str = _ABSENT
    utm_term: str = _ABSENT
    utm_content: str = _ABSENT
    click_id_kind: str = _ABSENT
    country: str = _ABSENT
    city: str = _ABSENT
    device: str = _ABSENT
    browser: str = _ABSENT
    browser_version: str = _ABSENT
    os: str = _ABSENT
    os_version: str = _ABSENT
    max_scroll: Annotated[int, Meta(ge=0, le=100)] = _ABSENT
    value: Raw = _ABSENT
    properties: dict[str, str] = _ABSENT
    is_bot: Annotated[int, Meta(ge=0, le=1)] = _ABSENT


_MEMBERS: Final = len(_Plain.__struct_fields__)
_decode: Final = msgspec.json.Decoder(_Plain).decode
_is_plain_amount: Final = re.compile(rb"-?(?:0|[1-9][0-9]{0,13})(?:\.[0-9]+)?").fullmatch
_NO_ID: Final = "-" * 36
_HEX: Final = np.array([int(chr(c), 16) if chr(c) in "0123456789abcdefABCDEF" else 99
                        for c in range(256)], np.uint8)  # fmt: skip
_DASHES: Final = (8, 13, 18, 23)
_IS_UNUSUAL: Final = np.array([c <= ord(" ") or c == ord("-") for c in range(256)])  # behind a key
_Flags = np.ndarray[Any, np.dtype[np.bool_]]
_DIGITS: Final = tuple(at for at in range(36) if at not in _DASHES)


def doubtful(part: list[bytes]) -> list[int]:
    """Indexes of the lines that are not certain to be good.

    The decoder knows names, types and bounds, but not whether a member was given twice: then there
    are more keys in the text than members in the result. That, and what it reads otherwise than
    ClickHouse does, is looked for in the text of all lines at once.
    """
    odd, escaped, keys = _oddly_written(part)
    uncertain, ids = [], []
    for index, line in enumerate(part):
        try:
            event = _decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            uncertain.append(index)
            ids.append(_NO_ID)
            continue
        ids.append(event.id)
        members = _MEMBERS - astuple(event).count(_ABSENT)
        if event.properties is not _ABSENT:
            members += len(event.properties)
        if (
            members != keys[index]
            or (event.value is not _ABSENT and not _is_plain_amount(event.value))
            or (escaped[index] and not _has_plain_id(line, event))
        ):
            uncertain.append(index)
    odd |= _odd_ids(ids)
    odd[uncertain] = True
    return [int(index) for index in np.flatnonzero(odd)]


def _odd_ids(ids: list[str]) -> _Flags:
    """Which are no UUIDs with dashes, or are all zeros. Each has 36 characters."""
    written = np.frombuffer("".join(ids).encode("ascii", "replace"), np.uint8).reshape(-1, 36)
    digits = _HEX[written[:, _DIGITS]]
    no_digits = (digits > 15).any(axis=1) | (digits == 0).all(axis=1)
    return np.asarray(no_digits | (written[:, _DASHES] != ord("-")).any(axis=1))


def _has_plain_id(line: bytes, event: _Plain) -> bool:
    """Whether the id stands there as it is, in a line that holds escapes by number.

    Within a text each quote has a backslash before it, so only a property could be mistaken for it.
    """
    before, _, after = line.partition(b'"id"')
    return (
        (event.properties is _ABSENT or "id" not in event.properties)
        and not before.endswith(b"\\")
        and after.lstrip(b" :").startswith(b'"' + event.id.encode())
    )


def _oddly_written(part: list[bytes]) -> tuple[_Flags, list[bool], list[int]]:
    """Of each line: whether it holds what must be looked at, whether it holds escapes by number,
    and how many keys its text has.

    A key is a quote and a colon. White space between the two would hide one, so such a line is
    doubtful; a text that holds both only adds to the count. So are: a number that begins with
    minus and zero (no decoder tells -0 from 0; ClickHouse does), white space of an unusual kind
    before a value, and too much text.
    """
    written = b"\n".join(part) + b"\n\n\n"
    text = np.frombuffer(written, np.uint8)
    lengths = np.fromiter(map(len, part), np.int64, len(part))
    ends = np.cumsum(lengths + 1)
    odd, escaped = lengths > LINE_BYTES, np.zeros(len(part), np.bool_)
    colons = np.flatnonzero(text == ord(":"))
    before = text[colons - 1]
    keys = colons[before == ord('"')]
    hidden = before <= ord(" ")
    if hidden.any():
        odd[np.searchsorted(ends, colons[hidden], side="right")] = True
    unusual = keys[_IS_UNUSUAL[text[keys + 1]]]
    if unusual.size:
        after, next_after = text[unusual + 1], text[unusual + 2]
        minus = (after == ord("-")) & (next_after == ord("0"))
        space = (after == ord(" ")) & ((next_after <= ord(" ")) | (next_after == ord("-")))
        bad = unusual[minus | space | (after < ord(" "))]
        odd[np.searchsorted(ends, bad, side="right")] = True
    if b"\\" in written:  # one byte is sought many times as fast as two
        escapes = np.flatnonzero(text == ord("\\"))
        escapes = escapes[text[escapes + 1] == ord("u")]
        escaped[np.searchsorted(ends, escapes, side="right")] = True
    return odd, escaped.tolist(), np.diff(np.searchsorted(keys, ends), prepend=0).tolist()

"""The text of many records at once: joined, counted, and looked over without being read.

Everything here runs over every byte that is consumed, so it is made of few calls over much text;
what is said of a line is what can be seen so.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

MUCH = 1 << 17  # bytes from which a look is worth its calls
_FOLDS = 8

_Bytes = np.ndarray[Any, np.dtype[np.uint8]]
_Places = np.ndarray[Any, np.dtype[np.intp]]
_Flags = np.ndarray[Any, np.dtype[np.bool_]]


def _any_of(several: bytes) -> _Flags:
    flags = np.zeros(256, np.bool_)
    flags[list(several)] = True
    return flags


_LINE_FEED, _COMMA, _OPENS, _CLOSES, _QUOTE = (ord(each) for each in '\n,{}"')
_WHITE = b" \t\r"
_IS_WHITE = _any_of(_WHITE)
_PARTS_ROWS = _any_of(_WHITE + b",;\f\v")  # what ClickHouse skips between two objects
_IS_ODD_BEHIND_A_BRACE = _any_of(_WHITE + b";\f\v{")
_IS_ODD_BEHIND_A_COMMA = _any_of(_WHITE + b",;\f\v{\n")
_BEGINS_A_NAME = _any_of(b"abcdefghijklmnopqrstuvwxyz\\")
_PARTS_LINES = int.from_bytes(b'}\n{"', "little")
_CLOSES_ONE_LINE = re.compile(rb"[^}]*[}\]]*}")  # the last eight bytes


def _goes_on() -> _Flags:
    """By the two bytes behind a brace, the first the low one: no other object can begin there."""
    fine = np.zeros((256, 256), np.bool_)
    fine[:, ~_IS_ODD_BEHIND_A_BRACE] = True
    fine[_IS_ODD_BEHIND_A_COMMA, _COMMA] = False
    return fine.ravel()


_GOES_ON = _goes_on()
_MOST_SKIPPED = 8  # more white space than that is looked at as if it were wrong


class Joined(NamedTuple):
    """NDJSON of some records, its number of lines, and the bytes that each record has in it. One
    line feed between lines, no empty line; a tombstone is skipped. `objects`: as `one_object_each`
    says of the text; None where it is too short for a look by itself."""

    text: bytes
    rows: int
    sizes: Sequence[int]
    objects: bool | None = None


def join(values: Sequence[bytes | None]) -> Joined:
    """The text of these records.

    numpy looks at much of the text at once: counting line feeds with `bytes.count` and looking for
    two in a row with `in` cost 0.7 us an event, more than all the rest; so they cost a tenth.
    """
    try:
        text = b"\n".join(values)  # type: ignore[arg-type]
    except TypeError:  # a tombstone is rare: only then are the values looked at one by one
        return _cleaned(values)
    sizes: list[int] = list(map(len, values))  # type: ignore[arg-type]
    if not text:
        return Joined(b"", 0, sizes)
    looked = len(text) >= MUCH
    if looked and (rows := _tight_lines(text)):
        return Joined(text, rows, sizes, objects=True)
    if text[0] == _LINE_FEED or text[-1] == _LINE_FEED:
        return _cleaned(values)
    feeds = np.frombuffer(text, np.uint8) == _LINE_FEED
    if np.any(feeds[1:] & feeds[:-1]):
        return _cleaned(values)
    rows = int(np.count_nonzero(feeds)) + 1
    return Joined(text, rows, sizes, _one_object_each(text) if looked else None)


def _cleaned(values: Sequence[bytes | None]) -> Joined:
    kept = [[line for line in (value or b"").split(b"\n") if line] for value in values]
    texts = [b"\n".join(lines) for lines in kept]
    rows = sum(map(len, kept))
    return Joined(b"\n".join(text for text in texts if text), rows, list(map(len, texts)))


def is_utf8(text: bytes) -> bool:
    """Nearly free for ASCII; for other texts some 0.7 ms a megabyte."""
    ascii_only = (
        text.isascii() if len(text) < MUCH else np.frombuffer(text, np.int8).min(initial=0) >= 0
    )
    if ascii_only:
        return True
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def one_object_each(text: bytes) -> bool:
    """Whether each line is one object, if it can be read at all: ClickHouse either refuses it
    wherever it stands, or makes one row of it. May be False of good lines too, of such as hold
    "}, {" in a text.

    Each begins with a brace and a name, ends with a brace, and in none does another object begin
    behind a brace. A text that goes on over a line feed, which ClickHouse takes, cannot hide: the
    quote in front of the name would end it.
    """
    return _tight_lines(text) > 0 or _one_object_each(text)


def _tight_lines(text: bytes) -> int:
    """How many lines, if each is one object without white space around it, as encoders write them;
    else 0, which says nothing. Half the time of a look that allows more: of each brace the eight
    bytes that it begins are looked at as one number."""
    past = len(text) - 8
    if past < 0 or text[:2] != b'{"' or not _BEGINS_A_NAME[text[2]]:
        return 0
    if not _CLOSES_ONE_LINE.fullmatch(text, past):
        return 0
    braces, feeds = _braces_and_feeds(np.frombuffer(text, np.uint8))
    eight = np.ndarray(past, "<u8", text, 0, (1,))[braces[: np.searchsorted(braces, past)]]
    parting = (eight & 0xFFFFFFFF) == _PARTS_LINES
    begins = eight[parting]
    if (
        len(begins) == feeds
        and _BEGINS_A_NAME[(begins >> 32).astype(np.uint8)].all()
        and _GOES_ON[(eight[~parting] >> 8).astype(np.uint16)].all()
    ):
        return feeds + 1
    return 0


def _one_object_each(text: bytes) -> bool:
    written = text.rstrip(_WHITE)
    if not written.endswith(b"}"):
        return False
    seen = np.frombuffer(written, np.uint8)
    braces, feeds = _braces_and_feeds(seen)
    behind = _past(seen, braces + 1, _IS_WHITE)
    found = _at(seen, behind)
    ends = behind[found == _LINE_FEED]
    if len(ends) != feeds or _IS_ODD_BEHIND_A_BRACE[found].any():
        return False
    behind_commas = _past(seen, behind[found == _COMMA] + 1, _PARTS_ROWS)
    if _IS_ODD_BEHIND_A_COMMA[_at(seen, behind_commas)].any():
        return False
    begins = _past(seen, np.concatenate(([0], ends + 1)), _IS_WHITE)
    names = _past(seen, begins + 1, _IS_WHITE)
    return bool(
        (_at(seen, begins) == _OPENS).all()
        and (_at(seen, names) == _QUOTE).all()
        and _BEGINS_A_NAME[_at(seen, names + 1)].all()
    )


def _braces_and_feeds(seen: _Bytes) -> tuple[_Places, int]:
    """Where the closing braces are, and how many line feeds there are.

    The text is folded: its eighths are laid upon each other, and of the bytes that come to lie
    together only the greatest and the least are kept. With a sign a brace is nearly the greatest,
    and without one a line feed nearly the least, in any language; so only the few places that may
    hold one are unfolded again. A fold reads the text at the speed of a copy; a comparison writes
    as much as it reads, and numpy takes four times as long again to say where it held.
    """
    width = len(seen) // _FOLDS
    folds = seen[: width * _FOLDS].reshape(_FOLDS, width)
    kept = np.maximum.reduce(folds.view(np.int8), axis=0) >= _CLOSES
    kept |= np.minimum.reduce(folds, axis=0) <= _LINE_FEED
    columns = kept.nonzero()[0]
    unfolded, rest = folds.take(columns, axis=1), seen[width * _FOLDS :]
    fold, column = np.divmod((unfolded == _CLOSES).ravel().nonzero()[0], max(1, len(columns)))
    braces = fold * width + columns[column], width * _FOLDS + (rest == _CLOSES).nonzero()[0]
    feeds = np.count_nonzero(unfolded == _LINE_FEED) + np.count_nonzero(rest == _LINE_FEED)
    return np.concatenate(braces), int(feeds)


def _past(seen: _Bytes, places: _Places, skipped: _Flags) -> _Places:
    """From each place on, the next one that does not hold what is skipped."""
    for _ in range(_MOST_SKIPPED):
        held = skipped[_at(seen, places)]
        if not held.any():
            break
        places = places + held
    return places


def _at(seen: _Bytes, places: _Places) -> _Bytes:
    """What is at these places; past the end the last byte, which is a brace."""
    return seen.take(places, mode="clip")

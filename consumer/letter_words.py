"""How the dead-letter commands speak to a person: texts, tables, JSON, and how far they are."""

from __future__ import annotations

import base64
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime

from consumer.letter_index import Index, Listed

_PROGRESS_SECONDS = 1.0
_SHOWN_CHARACTERS = 60
_HEAD = ("SET ASIDE", "PARTITION", "OFFSET", "LINE", "REASON", "STATE", "RETURNS", "ERROR")


def table(index: Index) -> Iterator[str]:
    """A line for each chosen letter, under a head. They are gone through twice, for the widths."""
    widths = [len(name) for name in _HEAD]
    for row in _rows(index):
        widths = [max(width, len(cell)) for width, cell in zip(widths, row, strict=True)]
    for row in (_HEAD, *_rows(index)):
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield "  ".join(cells).rstrip()


def _rows(index: Index) -> Iterator[tuple[str, ...]]:
    for letter in index.chosen():
        at = letter.identity
        yield (
            moment(letter.at_ms), str(at.partition), str(at.offset), str(at.line),
            printable(letter.reason), _state(letter), str(index.returns(at)),
            printable(letter.error, _SHOWN_CHARACTERS),
        )  # fmt: skip


def _state(letter: Listed) -> str:
    if letter.marker is not None:
        return printable(letter.marker.done)
    return "in table" if letter.in_table else "open"


def as_json(letter: Listed, returns: int, error: str, value: bytes) -> dict[str, object]:
    """`error`: all of it."""
    marker = letter.marker
    made: dict[str, object] = {
        "topic": letter.topic,
        **letter.identity._asdict(),
        "reason": letter.reason,
        "error": error,
        "at": moment(letter.at_ms),
        "in_table": letter.in_table,
        "state": marker.done if marker else "open",
        "returns": returns,
        "copies": letter.copies,
    }
    if marker is not None:
        made["settled_at"] = moment(marker.at_ms)
        if marker.to is not None:
            made["replayed_to"] = marker.to._asdict()
    try:
        made["value"] = value.decode()
    except UnicodeDecodeError:
        made["value_base64"] = base64.b64encode(value).decode()
    return made


def moment(at_ms: int) -> str:
    try:
        return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="seconds")[:19] + "Z"
    except (ValueError, OverflowError, OSError):
        return str(at_ms)


def number(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def printable(text: str, most: int = 200) -> str:
    """The text without what moves a terminal's cursor or turns its direction; cut, and shown so."""
    safe = "".join(
        each if each.isprintable() else each.encode("unicode_escape", "backslashreplace").decode()
        for each in text
    )
    return safe if len(safe) <= most else safe[: most - 3] + "..."


def say(text: str) -> None:
    encoding = sys.stdout.encoding or "ascii"
    print(text.encode(encoding, "backslashreplace").decode(encoding))


def complain(text: str) -> None:
    print(f"penstock-consumer: {printable(text, 1000)}", file=sys.stderr)


class Progress:
    """A line on a terminal's standard error, once something takes longer than a moment."""

    def __init__(self, done: str) -> None:
        self._done = done
        self._next = time.monotonic() + _PROGRESS_SECONDS
        self._shown = False

    def __call__(self, count: int, of: int) -> None:
        if time.monotonic() < self._next or not sys.stderr.isatty():
            return
        self._next = time.monotonic() + _PROGRESS_SECONDS
        self._shown = True
        print(f"\r{self._done} {count} of {of}", end="", file=sys.stderr, flush=True)

    def end(self) -> None:
        if self._shown:
            print(file=sys.stderr)

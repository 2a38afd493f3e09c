"""`penstock-consumer dead-letters`: look at what was set aside, put it back, or give it up.

    list     what is there, and how often it came back
    replay   the events go to their partitions again, as they are; after a fix, that is
    drop     they are settled without being replayed

A letter is replayed or dropped once, whatever happens in the middle and however often it was
written. A replay takes the letters that were there when it began: one whose fix did not help comes
back as a new letter, counted, and waits for the next replay.

A letter that is marked as being in the table is not replayed: its row is there, and views lack it.

What letters hold is user data: it is printed without control characters, and never cut silently.
"""

from __future__ import annotations

import argparse
import base64
import json
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import Any

from consumer.config import ConsumerSettings
from consumer.dead_letters import Settled
from consumer.kafka_client import topic_identity
from consumer.letter_topic import Contents, LetterTopic, Stored, Unreadable
from consumer.ports import LogError
from consumer.settling import AT_ONCE, Failed, Settling
from schemas import settings as all_settings
from schemas.record import REASONS

DONE, FAILED, USAGE = 0, 1, 2

_PROGRESS_SECONDS = 1.0
_SHOWN_CHARACTERS = 60
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def add_parser(commands: Any) -> None:
    """Add `dead-letters` to what `ArgumentParser.add_subparsers` gave."""
    text = "list, replay or drop what could not be inserted"
    parser = commands.add_parser("dead-letters", help=text, description=text)
    inner = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    for name, text in (
        ("list", "show the letters that nothing was done with yet"),
        ("replay", "put letters' events back on the topic, each once"),
        ("drop", "settle letters without replaying them"),
    ):
        action = inner.add_parser(name, help=text, description=text)
        chosen = action.add_argument_group("which letters")
        chosen.add_argument(
            "--reason",
            action="append",
            choices=REASONS,
            metavar="REASON",
            help=f"only these (may be repeated): {', '.join(REASONS)}",
        )
        chosen.add_argument(
            "--partition",
            action="append",
            type=int,
            metavar="N",
            help="only those of this partition of the events (may be repeated)",
        )
        chosen.add_argument(
            "--since",
            type=_since,
            metavar="TIME",
            help="only those set aside since: 90m, 12h, 7d, or RFC 3339 with a zone",
        )
        chosen.add_argument("--limit", type=_count, metavar="N", help="only the first N of them")
        if name == "list":
            chosen.add_argument(
                "--all", action="store_true", help="also those that were replayed or dropped"
            )
            action.add_argument("--json", action="store_true", help="one JSON object a line")
        else:
            chosen.add_argument("--all", action="store_true", help="every open letter")
            action.add_argument("--yes", action="store_true", help="do not ask")
            action.add_argument("--dry-run", action="store_true", help="only say what it would do")
        all_settings.add_flags(action, "consumer")  # fmt: skip


def run(flags: argparse.Namespace, settings: ConsumerSettings) -> int:
    """Carry out `dead-letters`. Returns the exit code."""
    if flags.action == "drop" and not (
        flags.all or flags.reason or flags.partition or flags.since is not None
    ):
        _complain("drop needs --reason, --partition or --since, or --all for every open letter")
        return USAGE
    try:
        with LetterTopic(settings) as topic:
            if flags.action == "list":
                return _list(flags, topic)
            return _settle(flags, settings, topic)
    except (Unreadable, Failed, LogError) as error:
        _complain(str(error))
        return FAILED
    except KeyboardInterrupt:
        _complain("stopped; what was settled stays settled, and the rest is as it was")
        return FAILED
    except BrokenPipeError:  # `| head` has seen enough
        sys.stderr.close()
        return DONE


# --- list ----------------------------------------------------------------------------------------


def _list(flags: argparse.Namespace, topic: LetterTopic) -> int:
    contents = _read(topic)
    among = contents.letters.values() if flags.all else contents.open()
    letters = _chosen(flags, list(among))
    if flags.json:
        for letter in letters:
            _say(json.dumps(_as_json(letter, contents)))
        return DONE
    if letters:
        _print_table(letters, contents)
    _say(_summary(letters, contents))
    return DONE


def _print_table(letters: Sequence[Stored], contents: Contents) -> None:
    rows = [("SET ASIDE", "PARTITION", "OFFSET", "LINE", "REASON", "STATE", "RETURNS", "ERROR")]
    for letter in letters:
        at = letter.identity
        rows.append((
            _moment(letter.at_ms), str(at.partition), str(at.offset), str(at.line),
            printable(letter.reason), _state(letter, contents), str(contents.returns(at)),
            printable(letter.error, _SHOWN_CHARACTERS),
        ))  # fmt: skip
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        _say("  ".join(cells).rstrip())


def _state(letter: Stored, contents: Contents) -> str:
    marker = contents.markers.get(letter.identity)
    if marker is not None:
        return printable(marker.done)
    return "in table" if letter.in_table else "open"


def _summary(letters: Sequence[Stored], contents: Contents) -> str:
    came_back = sum(1 for letter in letters if contents.returns(letter.identity))
    said = [f"{_number(len(letters), 'letter')} of {len(contents.letters)}"]
    if came_back:
        said.append(f"{came_back} came back after a replay")
    if contents.strangers:
        said.append(f"{_number(contents.strangers, 'record')} in the topic are no letters of ours")
    return "; ".join(said)


def _as_json(letter: Stored, contents: Contents) -> dict[str, object]:
    identity, marker = letter.identity, contents.markers.get(letter.identity)
    made: dict[str, object] = {
        "topic": letter.topic,
        **identity._asdict(),
        "reason": letter.reason,
        "error": letter.error,
        "at": _moment(letter.at_ms),
        "in_table": letter.in_table,
        "state": marker.done if marker else "open",
        "returns": contents.returns(identity),
        "copies": contents.copies[identity],
    }
    if marker is not None:
        made["settled_at"] = _moment(marker.at_ms)
        if marker.to is not None:
            made["replayed_to"] = marker.to._asdict()
    try:
        made["value"] = letter.value.decode()
    except UnicodeDecodeError:
        made["value_base64"] = base64.b64encode(letter.value).decode()
    return made


# --- replay and drop -----------------------------------------------------------------------------


def _settle(flags: argparse.Namespace, settings: ConsumerSettings, topic: LetterTopic) -> int:
    done: Settled = "replayed" if flags.action == "replay" else "dropped"
    contents = _read(topic)
    letters = _chosen(flags, list(contents.open()))
    if done == "replayed":
        in_table = [letter for letter in letters if letter.in_table]
        letters = [letter for letter in letters if not letter.in_table]
        if in_table:
            _say(
                f"{_number(len(in_table), 'letter')} in the table already, and not in every view: "
                "not replayed. Rebuild the views, then drop"
            )
    if not letters:
        _say(f"nothing to {flags.action}")
        return DONE
    _say(_intended(done, letters, contents, settings.kafka_topic))
    if flags.dry_run:
        return DONE
    if not flags.yes and not _agreed(flags.action):
        return FAILED
    _, topic_id = topic_identity(settings)
    settling = Settling(settings, topic_id)
    settling.take_over()
    # Between the first look and now another run may have settled some of them.
    settled = _read(topic).markers
    left = [letter for letter in letters if letter.identity not in settled]
    if len(left) < len(letters):
        _say(f"{_number(len(letters) - len(left), 'letter')} settled by another run meanwhile")
    return _carry_out(settling, left, done)


def _carry_out(settling: Settling, letters: Sequence[Stored], done: Settled) -> int:
    count, refused, progress = 0, 0, _Progress(done, len(letters))
    try:
        for part in _parts(letters):
            outcome = settling.settle(part, done)
            count += outcome.done
            for identity, why in outcome.refused.items():
                refused += 1
                where = f"partition {identity.partition}, offset {identity.offset}"
                _complain(f"{where}, line {identity.line} stays: {why}")
            progress(count)
    finally:
        progress.end()
        _say(f"{_number(count, 'letter')} {done}")
    return FAILED if refused else DONE


def _intended(done: Settled, letters: Sequence[Stored], contents: Contents, topic: str) -> str:
    reasons = Counter(printable(letter.reason) for letter in letters)
    partitions = sorted({letter.identity.partition for letter in letters})
    what = f"put back on {topic}" if done == "replayed" else "given up"
    text = f"{_number(len(letters), 'letter')} will be {what}, partitions "
    text += ", ".join(map(str, partitions)) + ": "
    text += ", ".join(f"{reason} {count}" for reason, count in reasons.most_common())
    came_back = sum(1 for letter in letters if contents.returns(letter.identity))
    if came_back:
        text += f"; {came_back} of them came back after an earlier replay"
    return text


def _agreed(action: str) -> bool:
    print(f"{action} them? [y/N] ", end="", file=sys.stderr, flush=True)
    answer = sys.stdin.readline()
    if answer.strip().lower() in ("y", "yes"):
        return True
    _complain("nothing was done" if answer else "nothing was done: nobody to ask, and no --yes")
    return False


def _parts(letters: Sequence[Stored]) -> Iterator[list[Stored]]:
    left = iter(letters)
    while part := list(islice(left, AT_ONCE)):
        yield part


# --- what all of them do -------------------------------------------------------------------------


def _read(topic: LetterTopic) -> Contents:
    progress = _Progress("read", 0)
    try:
        return topic.read_on(progress)
    finally:
        progress.end()


def _chosen(flags: argparse.Namespace, letters: list[Stored]) -> list[Stored]:
    """Those that the filters let through, the oldest first."""
    found = [
        letter
        for letter in letters
        if (not flags.reason or letter.reason in flags.reason)
        and (not flags.partition or letter.identity.partition in flags.partition)
        and (flags.since is None or letter.at_ms >= flags.since)
    ]
    found.sort(key=lambda letter: (letter.at_ms, letter.identity))
    return found if flags.limit is None else found[: flags.limit]


def _since(text: str) -> int:
    """Epoch milliseconds of a time, or of so long ago."""
    if ago := re.fullmatch(r"(\d{1,9})([smhd])", text):
        return int((time.time() - int(ago[1]) * _UNITS[ago[2]]) * 1000)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise argparse.ArgumentTypeError("must be such as 90m, 12h, 7d or 2026-01-31T12:00:00Z")
    return int(moment.timestamp() * 1000)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError("must be a whole number from 1")
    return int(text)


def _moment(at_ms: int) -> str:
    try:
        return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="seconds")[:19] + "Z"
    except (ValueError, OverflowError, OSError):
        return str(at_ms)


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def printable(text: str, most: int = 200) -> str:
    """The text without what moves a terminal's cursor or turns its direction; cut, and shown so."""
    safe = "".join(
        each if each.isprintable() else each.encode("unicode_escape", "backslashreplace").decode()
        for each in text
    )
    return safe if len(safe) <= most else safe[: most - 3] + "..."


def _say(text: str) -> None:
    encoding = sys.stdout.encoding or "ascii"
    print(text.encode(encoding, "backslashreplace").decode(encoding))


def _complain(text: str) -> None:
    print(f"penstock-consumer: {printable(text, 1000)}", file=sys.stderr)


class _Progress:
    """A line on a terminal's standard error, once something takes longer than a moment."""

    def __init__(self, done: str, of: int) -> None:
        self._done, self._of = done, of
        self._next = time.monotonic() + _PROGRESS_SECONDS
        self._shown = False

    def __call__(self, count: int) -> None:
        if time.monotonic() < self._next or not sys.stderr.isatty():
            return
        self._next = time.monotonic() + _PROGRESS_SECONDS
        self._shown = True
        total = f" of {self._of}" if self._of else ""
        print(f"\r{self._done} {count}{total}", end="", file=sys.stderr, flush=True)

    def end(self) -> None:
        if self._shown:
            print(file=sys.stderr)

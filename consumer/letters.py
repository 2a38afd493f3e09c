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
import json
import re
import sqlite3
import sys
import time
from datetime import datetime
from typing import Any

from consumer import arguments
from consumer.config import ConsumerSettings
from consumer.kafka_client import topic_identity
from consumer.letter_index import Filter, Identity, Index
from consumer.letter_topic import LetterTopic, Unreadable
from consumer.letter_words import Progress, as_json, complain, number, printable, say, table
from consumer.ports import LogError
from consumer.settling import AT_ONCE, Failed, Settling
from schemas import settings as all_settings
from schemas.record import REASONS

DONE, FAILED, USAGE = 0, 1, 2

PAGE_BYTES = 16 << 20  # of letters in memory, and of one transaction, unless one is larger
_MOST_LETTERS = 1_000_000_000
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
            type=arguments.partition,
            metavar="N",
            help="only those of this partition of the events (may be repeated)",
        )
        chosen.add_argument(
            "--since",
            type=_since,
            metavar="TIME",
            help="only those set aside since: 90m, 12h, 7d, or RFC 3339 with a zone",
        )
        chosen.add_argument(
            "--limit",
            type=arguments.whole(1, _MOST_LETTERS),
            metavar="N",
            help="only the first N of them",
        )
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
        complain("drop needs --reason, --partition or --since, or --all for every open letter")
        return USAGE
    try:
        with LetterTopic(settings) as topic:
            if flags.action == "list":
                return _list(flags, topic)
            return _settle(flags, settings, topic)
    except (Unreadable, Failed, LogError) as error:
        complain(str(error))
        return FAILED
    except sqlite3.Error as error:
        complain(f"the folder of temporary files (TMPDIR) has no room for an index: {error}")
        return FAILED
    except KeyboardInterrupt:
        complain("stopped; what was settled stays settled, and the rest is as it was")
        return FAILED
    except BrokenPipeError:  # `| head` has seen enough
        if flags.action != "list":
            complain("stopped: nobody reads what it says; list shows what is left")
        sys.stderr.close()
        return DONE if flags.action == "list" else FAILED


# --- list ----------------------------------------------------------------------------------------


def _list(flags: argparse.Namespace, topic: LetterTopic) -> int:
    index = _read(topic)
    count = index.choose(_filter(flags, settled_too=flags.all))
    if flags.json:
        return _list_json(topic)
    if count:
        for line in table(index):
            say(line)
    said = [f"{number(count, 'letter')} of {index.letters}"]
    if came_back := index.came_back():
        said.append(f"{came_back} came back after a replay")
    if index.strangers:
        said.append(f"{number(index.strangers, 'record')} in the topic are no letters of ours")
    say("; ".join(said))
    return DONE


def _list_json(topic: LetterTopic) -> int:
    index, gone = topic.index, 0
    for page in index.pages(AT_ONCE, PAGE_BYTES):
        records = topic.read_again(page)
        for letter in page:
            record = records.get(letter.identity)
            if record is None:
                gone += 1
                continue
            made = as_json(letter, index.returns(letter.identity), record.error, record.value)
            say(json.dumps(made))
    if gone:
        complain(f"{number(gone, 'letter')} left the topic while it was read")
    return DONE


# --- replay and drop -----------------------------------------------------------------------------


def _settle(flags: argparse.Namespace, settings: ConsumerSettings, topic: LetterTopic) -> int:
    replays = flags.action == "replay"
    index = _read(topic)
    count = index.choose(_filter(flags))
    if replays and (in_table := index.leave_in_table()):
        say(_stays(in_table))
        count -= in_table
    if not count:
        say(f"nothing to {flags.action}")
        return DONE
    say(_intended(replays, count, index, settings.kafka_topic))
    most = settings.limits.bad_share * settings.limits.bad_window_rows
    if replays and count > most:
        say(
            f"where the fix does not help, more than {most:g} of them can stop a partition "
            "(PENSTOCK_BAD_SHARE): replay a few first (--limit), and see that they do not return"
        )
    sys.stdout.flush()  # into a pipe, too, before it asks
    if flags.dry_run:
        return DONE
    if not flags.yes and not _agreed(flags.action):
        return FAILED
    _, topic_id = topic_identity(settings)
    settling = Settling(settings, topic_id)
    settling.take_over()
    # Between the first look and now another run may have settled some of them.
    _read(topic)
    if settled := index.leave_settled():
        say(f"{number(settled, 'letter')} settled by another run meanwhile")
    if replays and (in_table := index.leave_in_table()):
        settled += in_table
        say(_stays(in_table))
    return _carry_out(settling, topic, replays, count - settled)


def _carry_out(settling: Settling, topic: LetterTopic, replays: bool, of: int) -> int:
    done = "replayed" if replays else "dropped"
    count, refused, progress = 0, 0, Progress(done)
    try:
        for page in topic.index.pages(AT_ONCE, PAGE_BYTES):
            values, why = None, dict[Identity, str]()
            if replays:
                values = {each: r.value for each, r in topic.read_again(page).items()}
                why = {
                    each.identity: "it is not in the topic of the dead letters any more"
                    for each in page
                    if each.identity not in values
                }
            outcome = settling.settle([each for each in page if each.identity not in why], values)
            count += outcome.done
            for identity, reason in (why | outcome.refused).items():
                refused += 1
                where = f"partition {identity.partition}, offset {identity.offset}"
                complain(f"{where}, line {identity.line} stays: {reason}")
            progress(count, of)
    finally:
        progress.end()
        say(f"{number(count, 'letter')} {done}")
    return FAILED if refused else DONE


def _stays(in_table: int) -> str:
    return (
        f"{number(in_table, 'letter')} in the table already, and not in every view: "
        "not replayed. Rebuild the views, then drop"
    )


def _intended(replays: bool, count: int, index: Index, topic: str) -> str:
    what = f"put back on {topic}" if replays else "given up"
    text = f"{number(count, 'letter')} will be {what}, partitions "
    text += ", ".join(map(str, index.partitions())) + ": "
    text += ", ".join(f"{printable(reason)} {of_it}" for reason, of_it in index.reasons())
    if came_back := index.came_back():
        text += f"; {came_back} of them came back after an earlier replay"
    return text


def _agreed(action: str) -> bool:
    print(f"{action} them? [y/N] ", end="", file=sys.stderr, flush=True)
    answer = sys.stdin.readline()
    if answer.strip().lower() in ("y", "yes"):
        return True
    complain("nothing was done" if answer else "nothing was done: nobody to ask, and no --yes")
    return False


# --- what all of them do -------------------------------------------------------------------------


def _read(topic: LetterTopic) -> Index:
    progress = Progress("read")
    try:
        return topic.read_on(progress)
    finally:
        progress.end()


def _filter(flags: argparse.Namespace, *, settled_too: bool = False) -> Filter:
    return Filter(
        reasons=flags.reason or (),
        partitions=flags.partition or (),
        since_ms=flags.since,
        settled_too=settled_too,
        limit=flags.limit,
    )


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

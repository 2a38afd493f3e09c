"""`penstock-consumer rewind`: read from another offset on, on purpose, each event still once.

Back: the batches from the target on are taken out of the table, the views of the ClickHouse
partitions that they touched are made again without them, and consumers read the range again.
Forward: what lies between is skipped, and recorded, so that the audit can tell it from a loss.

How it is done, and why it can die anywhere: consumer/rewinding.py.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import sys
from typing import Any

import urllib3
from clickhouse_connect.driver.exceptions import ClickHouseError

from consumer import arguments
from consumer.config import ConsumerSettings
from consumer.ports import LogError
from consumer.rewind_log import GroupLog
from consumer.rewind_plan import Refused
from consumer.rewind_words import intended
from consumer.rewinding import Begun, NotRecorded, Rewind, Target
from schemas import settings as all_settings
from schemas.connection import SchemaError, first_line

DONE, FAILED, USAGE = 0, 1, 2

_LEAST_TIME_MS = 10**12  # a smaller number is an offset


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """`rewind` among the subcommands (what `add_subparsers` returned)."""
    text = "read from another offset on: what landed after it is taken out and ingested again"
    parser: argparse.ArgumentParser = commands.add_parser(
        "rewind", help=text, description=f"{text}. Stop every consumer first"
    )
    parser.add_argument(
        "--to",
        required=True,
        type=target,
        metavar="OFFSET|TIME|earliest|latest",
        help="a record's offset; when it was appended (RFC 3339, or epoch milliseconds: 13 digits "
        "or more); the log's start; its end",
    )
    parser.add_argument(
        "--partition",
        action="append",
        type=arguments.partition,
        metavar="N",
        help="only this Kafka partition (may be repeated)",
    )
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument("--dry-run", action="store_true", help="only say what it would do")
    all_settings.add_flags(parser, "consumer")
    return parser


def target(text: str) -> Target:
    if text in ("earliest", "latest"):
        return text
    at = arguments.time_ms(text, or_else="no offset, and neither earliest nor latest")
    return at if text.isdecimal() and at < _LEAST_TIME_MS else (at,)


def run(flags: argparse.Namespace, settings: ConsumerSettings) -> int:
    """Carry out `rewind`. Returns the exit code."""
    # one sentence says what failed: the library's own lines would come between the command's
    logging.getLogger("consumer.librdkafka").setLevel(logging.CRITICAL)
    try:
        with GroupLog(settings) as log:
            return _rewind(flags, Rewind(settings, log, _tell))
    except Begun as begun:
        _complain(
            f"{begun}. The rewind was begun and is not finished: run it again; or start a "
            "consumer, which puts back what was taken out before it goes on"
        )
    except NotRecorded as why:
        _complain(
            f"{why}. The rewind is done, and what it skipped is not recorded: run it again before "
            "you start a consumer, or the audit will take it for a loss"
        )
    except BrokenPipeError:
        _complain("nothing was changed: nobody reads what it would do")
    except (Refused, LogError, SchemaError) as error:
        _complain(f"nothing was changed: {error}")
    except (ClickHouseError, urllib3.exceptions.HTTPError, OSError) as error:
        _complain(f"nothing was changed: ClickHouse: {first_line(error)}")
    except KeyboardInterrupt:
        _complain("stopped; nothing was changed")
    return FAILED


def _rewind(flags: argparse.Namespace, rewind: Rewind) -> int:
    members = rewind.log.told_members()
    if members and not flags.dry_run:
        raise Refused(rewind.has_members(members))
    if not flags.dry_run:
        rewind.finish()
    steps = rewind.decide(flags.to, flags.partition)
    for line in intended(steps):
        print(line)
    sys.stdout.flush()  # into a pipe, too, before it asks or waits
    steps = [step for step in steps if not step.idle]
    if not steps:
        print("nothing to do")
        return DONE
    rewind.check_possible(steps)
    if members is None:
        _tell(
            f"this broker does not say who is in the group {rewind.settings.kafka_group}: make "
            "sure that every consumer is stopped, or the rewind is refused in the end"
        )
    if flags.dry_run:
        if members:
            _tell(f"it would be refused now: {rewind.has_members(members)}")
        return DONE
    if not flags.yes:
        if not sys.stdin.isatty():
            _complain("nothing was changed: there is nobody to ask; say --yes")
            return USAGE
        if not _agreed():
            _complain("nothing was changed")
            return FAILED
    if not all(step.quiet for step in steps):
        rewind.wait()
        steps = rewind.decide_again(steps)
    rewind.carry_out(steps)
    with contextlib.suppress(OSError):  # it is done, whether anybody reads that or not
        print(f"done: start the consumers of {rewind.settings.kafka_group} again", flush=True)
    return DONE


def _agreed() -> bool:
    print("rewind? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _complain(text: str) -> None:
    print(f"penstock-consumer: {text}", file=sys.stderr)

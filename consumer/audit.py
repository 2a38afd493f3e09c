"""`penstock-consumer audit`: does the table have each event of the log once, and can it prove it?

The ledger and the rows' own stamps are laid side by side over the offsets of each Kafka partition.
What does not tile (`audit_tiles`) is a finding, and is explained by a recorded cause where there is
one (`audit_causes`). Exit code 1 if any is unexplained.

Read only, and safe beside running consumers: Kafka's commits are read first, and what lies past
them is in flight and not judged. A time range is one of landing: it is made into the offsets that
landed within it, and of the rows only the ClickHouse partitions that the ledger names there, and
those of the time range itself, are read.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
import urllib3
from clickhouse_connect.driver.exceptions import ClickHouseError

from consumer import arguments
from consumer.audit_causes import Causes
from consumer.audit_log import Log, said
from consumer.audit_report import Bar, Finding, Verdict, report
from consumer.audit_run import Part
from consumer.audit_tables import Listed, Scope, Tables, connected
from consumer.audit_tiles import Fault, Kind, Walk
from consumer.config import ConsumerSettings
from consumer.ports import LogError
from consumer.recovery import Commit, judge
from schemas import settings as all_settings
from schemas.connection import first_line
from schemas.tables import BATCHES, CREATED_AT_END, CREATED_AT_FIRST, clickhouse_partition

_DAY_MS = 86_400_000
_NO_END = 1 << 62


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """`audit` among the subcommands (what `add_subparsers` returned)."""
    text = "say what the table cannot prove: gaps, overlaps, doubles, what did not land whole"
    parser: argparse.ArgumentParser = commands.add_parser("audit", help=text, description=text)
    parser.add_argument(
        "--from",
        dest="since",
        type=arguments.time_ms,
        metavar="TIME",
        help="batches that landed from then on (RFC 3339, or epoch milliseconds)",
    )
    parser.add_argument(
        "--to",
        dest="until",
        type=arguments.time_ms,
        metavar="TIME",
        help="batches that landed before then",
    )
    parser.add_argument(
        "--partition", type=arguments.partition, metavar="N", help="only this Kafka partition"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    all_settings.add_flags(parser, "consumer")
    return parser


@dataclass(frozen=True, slots=True)
class Asked:
    """What to look at: batches that landed from `since_ms` to before `until_ms` (0 and 0: all), of
    one Kafka partition or of all."""

    since_ms: int = 0
    until_ms: int = 0
    partition: int | None = None

    @property
    def ranged(self) -> bool:
        return self.until_ms != 0

    def wants(self, partition: int) -> bool:
        return self.partition in (None, partition)


class NoPartition(Exception):
    """Neither the topic nor the ledger has the partition that was asked for."""


def run(flags: argparse.Namespace, settings: ConsumerSettings) -> int:
    """The command. Returns its exit code."""
    asked = Asked(partition=flags.partition)
    if flags.since is not None or flags.until is not None:
        until_ms = flags.until
        if until_ms is None:
            until_ms = max(flags.since, int(time.time() * 1000)) + _DAY_MS
        asked = Asked(flags.since or 0, until_ms, flags.partition)
        if asked.since_ms >= until_ms:
            print("penstock-consumer: --from must be before --to", file=sys.stderr)
            return 2
    bar = Bar(sys.stderr)
    try:
        try:
            verdicts = audit(settings, asked, bar)
        finally:
            bar.close()
        report(settings.kafka_topic, verdicts, as_json=flags.json)
    except KeyboardInterrupt:
        print("penstock-consumer: stopped", file=sys.stderr)
        return 1
    except NoPartition as error:
        print(f"penstock-consumer: {error}", file=sys.stderr)
        return 2
    except (LogError, ClickHouseError, urllib3.exceptions.HTTPError, OSError) as error:
        print(f"penstock-consumer: the audit was not done: {first_line(error)}", file=sys.stderr)
        return 1
    except orjson.JSONDecodeError:
        print("penstock-consumer: the audit was not done: an answer broke off", file=sys.stderr)
        return 1
    if asked.ranged and not any(verdict.batches for verdict in verdicts):
        print(
            "penstock-consumer: no batch landed in that time: what should have is not looked for "
            "there; without --from and --to all offsets are",
            file=sys.stderr,
        )
    return 1 if any(v.unexplained.total() for v in verdicts) else 0


def audit(settings: ConsumerSettings, asked: Asked, bar: Bar) -> list[Verdict]:
    """Raises NoPartition, LogError, the clients' errors, and orjson.JSONDecodeError for an answer
    cut short."""
    log = Log(settings)
    client = None
    try:
        commits = log.commits()  # first: what is below them has landed before the tables are read
        client = connected(settings)
        tables = Tables(client)
        return list(_verdicts(settings, log, commits, tables, asked, bar))
    finally:
        log.close()
        if client is not None:
            client.close()


def _verdicts(
    settings: ConsumerSettings,
    log: Log,
    commits: Mapping[int, Commit],
    tables: Tables,
    asked: Asked,
    bar: Bar,
) -> Iterator[Verdict]:
    listed = tables.listed(asked.since_ms, asked.until_ms)
    ours = [found for found in listed if found.topic == settings.kafka_topic]
    there = {*commits, *(found.partition for found in ours)}
    if asked.partition is not None and asked.partition not in there:
        raise NoPartition(
            f"{settings.kafka_topic} has no partition {asked.partition}, and the ledger none of it"
        )
    bar.begin(sum(f.parts for f in ours if asked.wants(f.partition)))
    causes = Causes(tables, log, looked=bar.looked, seen=_epochs(log, commits, ours))
    limits = settings.limits
    in_flight_ms = int((limits.insert_deadline_seconds + limits.insert_max_seconds) * 1000)
    seen = set()
    for topic_id, partition, parts in tables.parts(_scope(tables, log, listed, ours, asked)):
        if not topic_id:
            yield _without_batch(parts)
            continue
        seen.add((topic_id, partition))
        current = topic_id == log.topic_id
        commit = commits.get(partition) if current else None
        limit, words = said(commit, topic_id) if current else (None, "of an earlier topic")
        from_the_start = commit is not None and limit is not None and not asked.ranged
        walk = Walk(
            topic_id,
            partition,
            start=commit.low if commit is not None and from_the_start else None,
            limit=limit,
            quiet_ms=tables.now_ms - in_flight_ms if current else None,
        )
        yield _walked(walk, parts, causes, words, bar, commit, asked)
    for partition, commit in commits.items():
        if (log.topic_id, partition) not in seen and asked.wants(partition):
            limit, words = said(commit, log.topic_id)
            walk = Walk(log.topic_id, partition, commit.low, limit)
            yield _walked(walk, iter(()), causes, words, bar, commit, asked)


def _epochs(
    log: Log, commits: Mapping[int, Commit], ours: Sequence[Listed]
) -> dict[tuple[str, int], int]:
    """The latest epoch that is seen of each topic id and partition."""
    found = {(each.topic_id, each.partition): each.epoch for each in ours}
    for partition, commit in commits.items():
        note = judge(commit, log.topic_id).note
        if note is not None:
            whose = log.topic_id, partition
            found[whose] = max(note.epoch, found.get(whose, 0))
    return found


def _scope(
    tables: Tables, log: Log, listed: Sequence[Listed], ours: Sequence[Listed], asked: Asked
) -> Scope:
    topic_ids = {found.topic_id for found in ours}
    others = {found.topic_id for found in listed} - topic_ids
    ranges: list[tuple[str, int, int, int]] = []
    if asked.ranged:
        ranges = [
            (f.topic_id, f.partition, f.first, f.end)
            for f in ours
            if f.first < f.end and asked.wants(f.partition)
        ]
    elif asked.partition is not None:
        ranges = [(one, asked.partition, 0, _NO_END) for one in {*topic_ids, log.topic_id}]
    if asked.ranged and not ranges:
        ranges = [("", 0, 0, 0)]  # nothing landed then
    return Scope(
        topic_ids=sorted(topic_ids),
        other_topic_ids=sorted(others),
        ranges=ranges,
        partitions=_months(tables, ranges, asked) if asked.ranged else [],
        since_ms=asked.since_ms,
        until_ms=asked.until_ms,
    )


def _walked(
    walk: Walk,
    parts: Iterator[Part],
    causes: Causes,
    words: str,
    bar: Bar,
    commit: Commit | None,
    asked: Asked,
) -> Verdict:
    verdict = Verdict(walk.topic_id, walk.partition, words)
    for part in parts:
        bar.step()
        for fault in walk.take(part):
            verdict.add(Finding(fault, causes.explain(fault)))
    for fault in walk.finish():
        if not asked.ranged or fault.kind is not Kind.GAP:  # a range need not reach the commit
            verdict.add(Finding(fault, causes.explain(fault)))
    verdict.batches, verdict.rows, verdict.in_flight = walk.batches, walk.rows, walk.in_flight
    verdict.first, verdict.end = walk.first or 0, walk.reach or 0
    if not asked.ranged and walk.limit is not None and commit is not None:
        _outside_the_log(verdict, walk.limit, commit)
    return verdict


def _outside_the_log(verdict: Verdict, limit: int, commit: Commit) -> None:
    """What left the log before it was read is lost, and what the log has lost since is written anew
    under the same offsets, and never read. Nothing explains either."""
    if limit < commit.low:
        what = f"Kafka's commit is {limit}, and the log begins at {commit.low}: the rest is lost"
        kind, first, end = Kind.GAP, limit, commit.low
    elif limit > commit.high:
        what = (
            f"Kafka's commit is {limit}, and the log ends at {commit.high}: what comes there next "
            "would not be read"
        )
        kind, first, end = Kind.PAST_END, commit.high, limit
    else:
        return
    lost = (first, end, "", (), end - first, 0, what)
    verdict.add(Finding(Fault(kind, verdict.topic_id, verdict.partition or 0, *lost), None))


def _without_batch(parts: Iterator[Part]) -> Verdict:
    verdict = Verdict("", None, "")
    for part in parts:
        verdict.rows += part.stamped
        what = f"{part.stamped} rows came without a batch: by hand, or from another table"
        fault = Fault(
            Kind.NO_BATCH, "", 0, 0, 0, part.clickhouse_partition, (), part.stamped, 0, what
        )
        verdict.add(Finding(fault, None))
    return verdict


def _months(tables: Tables, ranges: Sequence[tuple[str, int, int, int]], asked: Asked) -> list[str]:
    """ClickHouse partitions that the ledger names in these ranges, and those of the time range."""
    named = {
        str(where)
        for (where,) in tables.rows(
            f"SELECT DISTINCT clickhouse_partition FROM {BATCHES} "  # noqa: S608 - our table
            "WHERE arrayExists(r -> r.1 = topic_id AND r.2 = partition AND first < r.4 "
            "AND end > r.3, {ranges:Array(Tuple(String, UInt32, UInt64, UInt64))})",
            ranges=ranges,
        )
    }
    at, until_ms = max(asked.since_ms, CREATED_AT_FIRST), min(asked.until_ms, CREATED_AT_END)
    while at < until_ms:
        named.add(clickhouse_partition(at))
        at += 27 * _DAY_MS  # no month is left out
    return sorted(named)

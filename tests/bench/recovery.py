"""What an owner does first, over a ledger of a million batches: read what is covered, and plan.

Beside it the same over an empty ledger: a new topic's. No Kafka: the commits are made up, and the
plan says whether they were taken for what they are.

    intent     ours, the newest batch is open, and landed: it is replayed
    open       ours, nothing is open: reading goes on
    foreign    not ours: every batch of the partition is looked at, in ledger and rows
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

from clickhouse_connect.driver.client import Client

from consumer.clickhouse import ClickHouseTable
from consumer.commands import CoverageRead
from consumer.config import consumer_settings
from consumer.ledger import ROWS_VERSION, Intent, Note, Open, Source, encode
from consumer.recovery import Commit, judge, plan
from consumer.runner import clock
from schemas.settings import load
from tests.bench.parts import Parts

Say = Callable[[str], None]

_PARTITIONS = 4
_ROWS = 100  # of a batch
_SOURCE = Source("cluster", "events", "topic-id", 0)
_LEDGER = (
    "INSERT INTO batches (topic_id, topic, partition, first, end, expected_rows, epoch, "
    "clickhouse_partition, rows, landed_at, rows_version, announced_at) "
    f"SELECT 'topic-id', 'events', number % {_PARTITIONS}, intDiv(number, {_PARTITIONS}) * {_ROWS} "
    f"AS begin, begin + {_ROWS}, {_ROWS}, 0, '202611', {_ROWS}, now64(3) - 60, {ROWS_VERSION}, "
    "now64(3) - 60 FROM numbers({batches:UInt64})"
)
_STAMPS = (  # one row of each batch of the partition: as much as says that it landed
    "INSERT INTO events (id, project_id, session_id, name, created_at, _topic_id, _partition, "
    "_first, _end, _epoch) SELECT generateUUIDv4(), 'bench', toString(number % 10000), 'view', "
    "toDateTime64('2026-11-15 00:00:00', 3, 'UTC') + number % 86400, 'topic-id', 0, "
    f"number * {_ROWS} AS begin, begin + {_ROWS}, 0 FROM numbers({{batches:UInt64}})"
)


def measure(parts: Parts, batches: int, say: Say) -> list[dict[str, object]]:
    """Of each commit: seconds for coverage and plan, with `batches` a partition and with none."""
    cases = ("intent", "open", "foreign")
    bare = _measured(parts, 0, dict.fromkeys(cases, 9), say)
    full = _measured(parts, batches, dict.fromkeys(cases, 9), say)
    return [
        {
            "case": case,
            "batches": batches,
            "lines_of_the_ledger": batches * _PARTITIONS,
            "empty_seconds": round(statistics.median(bare[case]), 3),
            "seconds": round(statistics.median(full[case]), 3),
            "seconds_worst": round(max(full[case]), 3),
        }
        for case in cases
    ]


def _measured(
    parts: Parts, batches: int, repeats: dict[str, int], say: Say
) -> dict[str, list[float]]:
    parts.fresh_database()
    values = load("consumer", None, {"PENSTOCK_CLICKHOUSE_URL": parts.clickhouse})
    table = ClickHouseTable(consumer_settings(values), clock)
    client = table.client()
    if batches:
        say(f"writing {batches * _PARTITIONS} lines of a ledger")
        _fill(client, batches)
    taken: dict[str, list[float]] = {}
    for case, times in repeats.items():
        taken[case] = [_once(table, case, batches * _ROWS) for _ in range(times)]
        say(f"{case} over {batches} batches: {statistics.median(taken[case]):.3f} s")
    parts.drop_database()
    return taken


def _fill(client: Client, batches: int) -> None:
    client.command(_LEDGER, parameters={"batches": batches * _PARTITIONS})
    # The views on `events` would write lines of the ledger of their own.
    for (view,) in client.query(
        "SELECT name FROM system.tables WHERE database = currentDatabase() "
        "AND engine = 'MaterializedView'"
    ).result_rows:
        client.command(f"DROP VIEW {view} SYNC")
    client.command(_STAMPS, parameters={"batches": batches})


def _once(table: ClickHouseTable, case: str, high: int) -> float:
    """Seconds from the commit to the plan."""
    commit = Commit(high, "not ours", 0, high)
    now_ms = int(time.time() * 1000)
    if case != "foreign":
        commit = _ours(case, high, now_ms)
    judgement = judge(commit, _SOURCE.topic_id)
    note = judgement.note
    since_ms = note.time_ms if isinstance(note, Intent) else None
    began = time.perf_counter()
    read = table.coverage(_SOURCE, judgement.start, since_ms, whole=note is None)
    if not isinstance(read, CoverageRead):
        raise RuntimeError(f"the table was not read: {read}")
    found = plan(judgement, commit, read.coverage, now_ms, waited=True)
    taken = time.perf_counter() - began
    wanted = "Mend" if case == "foreign" and high else "Begin"
    if type(found).__name__ != wanted:
        raise RuntimeError(f"{case}: the plan is {str(found)[:500]}")
    return taken


def _ours(case: str, high: int, now_ms: int) -> Commit:
    note: Note
    offset = max(0, high - _ROWS)
    if case == "open":
        offset, note = high, Open(0, ROWS_VERSION, _SOURCE.topic_id, now_ms)
    else:
        note = Intent(
            offset, offset + _ROWS, _ROWS, "0" * 16, 0, ROWS_VERSION, _SOURCE.topic_id,
            now_ms - 1000, now_ms - 1000,
        )  # fmt: skip
    return Commit(offset, encode(offset, note), 0, max(high, offset + _ROWS))

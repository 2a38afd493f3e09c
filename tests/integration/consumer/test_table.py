"""What the consumer reads back from the real tables: stamps after a doubt, coverage at a start."""

from __future__ import annotations

import time

import orjson
import pytest

from consumer.batch import Batch, Filling, Records
from consumer.clickhouse import ClickHouseTable
from consumer.commands import CoverageRead, Outcome, StampsRead
from consumer.config import consumer_settings
from consumer.ledger import Source, token
from consumer.runner import clock
from schemas.settings import load
from tests.fixtures.clickhouse import ClickHouse

_SOURCE = Source("cluster", "events", "topic-id", 3)
_JANUARY, _FEBRUARY = 1_767_225_600_000, 1_769_904_000_000  # 2026-01-01, 2026-02-01


@pytest.fixture
def table(clickhouse_with_schema: ClickHouse) -> ClickHouseTable:
    values = load("consumer", None, {"PENSTOCK_CLICKHOUSE_URL": clickhouse_with_schema.url})
    return ClickHouseTable(consumer_settings(values), clock)


def event(number: int, created_at: int, received_at: int) -> bytes:
    return orjson.dumps(
        {
            "id": f"00000000-0000-4000-8000-{number:012x}",
            "project_id": "p",
            "session_id": "s",
            "name": "screen_view",
            "created_at": created_at,
            "received_at": received_at,
        }
    )


def batch(first: int, *lines: bytes) -> Batch:
    filling = Filling(first)
    end = first + len(lines)
    filling.add(Records(range(first, end), lines, end, 0), 0.0)
    return filling.close()


def land(table: ClickHouseTable, made: Batch, epoch: int = 0) -> None:
    answer = table.insert(made, token(_SOURCE, made, epoch), clock() + 60, None)
    assert answer.outcome is Outcome.LANDED, answer.why


def test_a_batch_that_landed_has_its_stamp_in_each_clickhouse_partition(
    table: ClickHouseTable,
) -> None:
    made = batch(10, event(1, _JANUARY, _JANUARY), event(2, _FEBRUARY, _FEBRUARY))
    assert table.stamps(_SOURCE, made, 0) == StampsRead(frozenset({"202601", "202602"}))
    land(table, made)
    assert table.stamps(_SOURCE, made, 0) == StampsRead(frozenset())
    assert table.stamps(_SOURCE, made, 1) == StampsRead(frozenset()), "the ids are there"
    other = batch(10, event(3, _JANUARY, _JANUARY), event(2, _FEBRUARY, _FEBRUARY))
    assert table.stamps(_SOURCE, other, 1) == StampsRead(frozenset({"202601"}))


def test_a_batch_of_resends_that_collapsed_counts_as_landed(
    table: ClickHouseTable, clickhouse_with_schema: ClickHouse
) -> None:
    land(table, batch(0, event(1, _JANUARY, _JANUARY)))
    again = batch(1, event(1, _JANUARY, _JANUARY + 5_000))
    land(table, again)
    client = clickhouse_with_schema.client()
    client.command("OPTIMIZE TABLE events FINAL")
    assert client.query("SELECT _first FROM events").result_rows == [(0,)]
    assert table.stamps(_SOURCE, again, 0) == StampsRead(frozenset())


def test_an_insert_past_its_deadline_is_not_sent(
    table: ClickHouseTable, clickhouse_with_schema: ClickHouse
) -> None:
    made = batch(0, event(1, _JANUARY, _JANUARY))
    answer = table.insert(made, token(_SOURCE, made, 0), clock(), None)
    assert answer.outcome is Outcome.UNSENT
    assert clickhouse_with_schema.client().query("SELECT count() FROM events").result_rows == [(0,)]


@pytest.mark.parametrize("whole", [False, True])
def test_coverage_is_what_landed_past_the_offset(table: ClickHouseTable, whole: bool) -> None:
    before_ms = int(time.time() * 1000)
    land(table, batch(0, event(1, _JANUARY, _JANUARY)))
    land(table, batch(1, event(2, _JANUARY, _JANUARY), event(3, _FEBRUARY, _FEBRUARY)))
    land(table, batch(3, event(4, _FEBRUARY, _FEBRUARY)), epoch=2)
    read = table.coverage(_SOURCE, 1, None, whole=whole)
    assert isinstance(read, CoverageRead)
    found = read.coverage.batches
    assert [(c.first, c.end, c.epoch, c.expected_rows) for c in found] == [
        (1, 3, 0, 2),
        (3, 4, 2, 1),
    ]
    assert found[0].clickhouse_partitions == frozenset({"202601", "202602"})
    assert abs(found[0].landed_ms - before_ms) < 60_000
    assert read.coverage.entries_since == 4, "one a batch and ClickHouse partition, all partitions"
    other = Source("cluster", "events", "another-id", 3)
    elsewhere = table.coverage(other, 0, None, whole=whole)
    assert isinstance(elsewhere, CoverageRead)
    assert elsewhere.coverage.batches == ()


def test_a_refused_row_is_told_from_a_server_that_is_away(table: ClickHouseTable) -> None:
    made = batch(0, b'{"id": "not a uuid"}')
    assert table.insert(made, token(_SOURCE, made, 0), clock() + 60, None).outcome is (
        Outcome.REFUSED
    )
    values = load("consumer", None, {"PENSTOCK_CLICKHOUSE_URL": "http://127.0.0.1:1/penstock"})
    nobody = ClickHouseTable(consumer_settings(values), clock)
    answer = nobody.insert(made, token(_SOURCE, made, 0), clock() + 60, None)
    assert answer.outcome is Outcome.UNSENT

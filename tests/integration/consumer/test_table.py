"""What the consumer reads back from the real tables: stamps after a doubt, coverage at a start."""

from __future__ import annotations

import time

import orjson
import pytest

from consumer.batch import Batch
from consumer.clickhouse import ClickHouseTable
from consumer.commands import (
    CoverageRead,
    Isolated,
    Outcome,
    ReadFailed,
    Restored,
    Sifted,
    StampsRead,
)
from consumer.config import consumer_settings
from consumer.ledger import ROWS_VERSION, Source
from consumer.runner import clock
from schemas.settings import load
from tests.fixtures.batches import ANNOUNCED_MS, SOURCE, batch, name
from tests.fixtures.clickhouse import ClickHouse

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


def land(table: ClickHouseTable, made: Batch, epoch: int = 0) -> None:
    answer = table.insert(made, name(made, epoch), clock() + 60, None)
    assert answer.outcome is Outcome.LANDED, answer.why


def test_a_batch_that_landed_has_its_stamp_in_each_clickhouse_partition(
    table: ClickHouseTable,
) -> None:
    made = batch(10, event(1, _JANUARY, _JANUARY), event(2, _FEBRUARY, _FEBRUARY))
    assert table.stamps(SOURCE, made, 0, 0) == StampsRead(frozenset({"202601", "202602"}))
    land(table, made)
    assert table.stamps(SOURCE, made, 0, 0) == StampsRead(frozenset())
    assert table.stamps(SOURCE, made, 1, 0) == StampsRead(frozenset()), "the ids are there"
    other = batch(10, event(3, _JANUARY, _JANUARY), event(2, _FEBRUARY, _FEBRUARY))
    assert table.stamps(SOURCE, other, 1, 0) == StampsRead(frozenset({"202601"}))


def test_a_batch_of_resends_that_collapsed_counts_as_landed(
    table: ClickHouseTable, clickhouse_with_schema: ClickHouse
) -> None:
    land(table, batch(0, event(1, _JANUARY, _JANUARY)))
    again = batch(1, event(1, _JANUARY, _JANUARY + 5_000))
    land(table, again)
    client = clickhouse_with_schema.client()
    client.command("OPTIMIZE TABLE events FINAL")
    assert client.query("SELECT _first FROM events").result_rows == [(0,)]
    assert table.stamps(SOURCE, again, 0, 0) == StampsRead(frozenset())


def test_an_insert_past_its_deadline_is_not_sent(
    table: ClickHouseTable, clickhouse_with_schema: ClickHouse
) -> None:
    made = batch(0, event(1, _JANUARY, _JANUARY))
    answer = table.insert(made, name(made), clock(), None)
    assert answer.outcome is Outcome.UNSENT
    assert clickhouse_with_schema.client().query("SELECT count() FROM events").result_rows == [(0,)]


@pytest.mark.parametrize("whole", [False, True])
def test_coverage_is_what_landed_past_the_offset(table: ClickHouseTable, whole: bool) -> None:
    before_ms = int(time.time() * 1000)
    land(table, batch(0, event(1, _JANUARY, _JANUARY)))
    land(table, batch(1, event(2, _JANUARY, _JANUARY), event(3, _FEBRUARY, _FEBRUARY)))
    land(table, batch(3, event(4, _FEBRUARY, _FEBRUARY)), epoch=2)
    read = table.coverage(SOURCE, 1, None, whole=whole)
    assert isinstance(read, CoverageRead)
    found = read.coverage.batches
    assert [(c.first, c.end, c.epoch, c.expected_rows) for c in found] == [
        (1, 3, 0, 2),
        (3, 4, 2, 1),
    ]
    months = frozenset({"202601", "202602"})
    assert found[0].listed == months
    assert found[0].stamped == (months if whole else frozenset())
    assert found[0].complete == whole
    assert (found[0].version, found[0].announced_ms) == (ROWS_VERSION, ANNOUNCED_MS)
    assert abs(found[0].landed_ms - before_ms) < 60_000
    assert read.coverage.entries_since == 4, "one a batch and ClickHouse partition, all partitions"
    other = Source("cluster", "events", "another-id", 3)
    elsewhere = table.coverage(other, 0, None, whole=whole)
    assert isinstance(elsewhere, CoverageRead)
    assert elsewhere.coverage.batches == ()


def test_a_refused_row_is_told_from_a_server_that_is_away(table: ClickHouseTable) -> None:
    made = batch(0, b'{"id": "not a uuid"}')
    refused = table.insert(made, name(made), clock() + 60, None)
    assert (refused.outcome, refused.untouched) == (Outcome.REFUSED, True)
    early = batch(0, event(1, -1, 1))  # a rule of the landing table
    refused = table.insert(early, name(early), clock() + 60, None)
    assert (refused.outcome, refused.untouched) == (Outcome.REFUSED, True)
    values = load("consumer", None, {"PENSTOCK_CLICKHOUSE_URL": "http://127.0.0.1:1/penstock"})
    nobody = ClickHouseTable(consumer_settings(values), clock)
    answer = nobody.insert(made, name(made), clock() + 60, None)
    assert answer.outcome is Outcome.UNSENT


def test_what_is_missing_is_told_by_clickhouse_partition_or_by_id(table: ClickHouseTable) -> None:
    made = batch(0, event(1, _JANUARY, 1), event(2, _FEBRUARY, 1), event(3, _FEBRUARY, 1))
    months = frozenset({"202601", "202602"})
    land(table, batch(0, event(2, _FEBRUARY, 1)))

    by_partition = table.sift(made, frozenset({"202602"}), by_ids=False)
    assert isinstance(by_partition, Sifted)
    assert by_partition.missing is not None
    assert list(by_partition.missing.origins()) == [(0, 0, event(1, _JANUARY, 1))]
    assert (by_partition.missing.first, by_partition.missing.end) == (0, 3)
    assert by_partition.partitions == months
    assert table.sift(made, months, by_ids=False) == Sifted(None, months)

    by_id = table.sift(made, months, by_ids=True)
    assert isinstance(by_id, Sifted)
    assert by_id.missing is not None
    assert [offset for offset, _, _ in by_id.missing.origins()] == [0, 2]


def test_bad_lines_are_found_and_what_is_in_the_table_is_said(table: ClickHouseTable) -> None:
    made = batch(5, event(1, _JANUARY, 1), b'{"id": 5}', b"{", b"\xff", event(2, _JANUARY, 1))
    refused = table.insert(made, name(made), clock() + 60, None)
    assert refused.outcome is Outcome.REFUSED
    found = table.isolate(SOURCE, made, refused.why, 0)
    assert isinstance(found, Isolated)
    assert [(letter.offset, letter.line, letter.in_table) for letter in found.letters] == [
        (6, 0, False), (7, 0, False), (8, 0, False),
    ]  # fmt: skip
    rest = made.without(found.letters)
    answer = table.insert(rest, name(made), clock() + 60, None)
    assert (answer.outcome, answer.rows) == (Outcome.LANDED, 2)
    assert table.stamps(SOURCE, rest, 0, 0) == StampsRead(frozenset())

    # Nothing is at fault by itself: the row that ClickHouse named, and where it is by now.
    good = batch(20, event(7, _JANUARY, 1), event(8, _JANUARY, 1))
    land(table, good)
    for epoch, in_table in ((0, True), (1, False), (None, False)):
        named = table.isolate(SOURCE, good, "too bad: (at row 2)", epoch)
        assert isinstance(named, Isolated)
        assert [(each.offset, each.reason, each.in_table) for each in named.letters] == [
            (21, "refused", in_table)
        ]
    assert table.isolate(SOURCE, good, "a view throws", 0) == Isolated(())


@pytest.mark.parametrize("named", ["", " AS e"])
def test_rows_that_a_view_cannot_take_are_found_in_the_table(
    table: ClickHouseTable, clickhouse_with_schema: ClickHouse, named: str
) -> None:
    """The table has landed when a view throws: the rows are looked for there, by SELECT alone."""
    client = clickhouse_with_schema.client()
    client.command("CREATE TABLE strict (id UUID, z UInt8) ENGINE = MergeTree ORDER BY id "
                   "SETTINGS non_replicated_deduplication_window = 100000")  # fmt: skip
    client.command(
        "CREATE MATERIALIZED VIEW strict_mv TO strict AS SELECT id, "
        f"throwIf(received_at = fromUnixTimestamp64Milli(666), 'no') AS z FROM events{named}"
    )
    received = [666 if n in (3, 17, 18) else 1 for n in range(40)]
    made = batch(0, *(event(n, (_JANUARY, _FEBRUARY)[n % 2], received[n]) for n in range(40)))
    refused = table.insert(made, name(made), clock() + 60, None)
    assert (refused.outcome, refused.untouched) == (Outcome.REFUSED, False)
    found = table.isolate(SOURCE, made, refused.why, 0)
    assert isinstance(found, Isolated)
    assert [(each.offset, each.reason, each.in_table) for each in found.letters] == [
        (3, "refused", True), (17, "refused", True), (18, "refused", True),
    ]  # fmt: skip
    rest = made.without(found.letters)
    assert table.insert(rest, name(made), clock() + 60, None).outcome is Outcome.LANDED
    for what, count in (("events", 40), ("strict", 37)):
        assert client.query(f"SELECT count() FROM {what}").result_rows == [(count,)]


def test_lines_before_the_one_that_was_not_read_are_not_looked_at(table: ClickHouseTable) -> None:
    """ClickHouse has read them: one that is bad by our rules alone lands. A constraint is checked
    when all is read, so after its refusal all are looked at."""
    wraps = event(0, _JANUARY, 1)[:-1] + b',"duration":18446744073709551617}'
    scrolls = event(1, _JANUARY, 1)[:-1] + b',"max_scroll":101}'
    worded, unknown = (event(n, _JANUARY, 1)[:-1] + b"," for n in (3, 5))
    body = batch(
        0, wraps, scrolls, event(2, _JANUARY, 1), worded + b'"duration":"long"}',
        event(4, _JANUARY, 1), unknown + b'"x":1}',
    )  # fmt: skip
    named = name(body)
    set_aside = []
    while (answer := table.insert(body, named, clock() + 60, None)).outcome is Outcome.REFUSED:
        found = table.isolate(SOURCE, body, answer.why, None)
        assert isinstance(found, Isolated)
        set_aside.append([letter.offset for letter in found.letters])
        body = body.without(found.letters)
    assert (answer.outcome, set_aside) == (Outcome.LANDED, [[3, 5], [0, 1]])
    assert answer.rows == 2


def test_where_a_view_threw_a_line_that_the_table_took_is_no_letter(
    table: ClickHouseTable, clickhouse_with_schema: ClickHouse
) -> None:
    """A number that ClickHouse wraps round, and a time that nobody here can place: bad by our
    rules, and rows all the same."""
    client = clickhouse_with_schema.client()
    client.command("CREATE TABLE strict (id UUID, z UInt8) ENGINE = MergeTree ORDER BY id "
                   "SETTINGS non_replicated_deduplication_window = 100000")  # fmt: skip
    client.command(
        "CREATE MATERIALIZED VIEW strict_mv TO strict AS SELECT id, "
        "throwIf(received_at = fromUnixTimestamp64Milli(666), 'no') AS z FROM events"
    )
    quoted = event(3, _JANUARY, 1).replace(b"%d" % _JANUARY, b'"%d"' % _JANUARY)
    wraps = event(1, _JANUARY, 1)[:-1] + b',"duration":18446744073709551617}'
    made = batch(0, wraps, event(2, _JANUARY, 666), quoted)
    refused = table.insert(made, name(made), clock() + 60, None)
    assert (refused.outcome, refused.untouched) == (Outcome.REFUSED, False)
    found = table.isolate(SOURCE, made, refused.why, 0)
    assert isinstance(found, Isolated)
    assert [(each.offset, each.in_table) for each in found.letters] == [(1, True)]
    assert client.query("SELECT count() FROM events").result_rows == [(3,)]


def test_where_the_view_of_the_landing_table_threw_the_lines_are_looked_through(
    table: ClickHouseTable, clickhouse_with_schema: ClickHouse
) -> None:
    """Nothing of it has landed. And a row that only speaks of a view is a row that was not read."""
    client = clickhouse_with_schema.client()
    made = batch(0, event(1, _JANUARY, 1), event(2, _JANUARY, 1)[:-1] + b',"is_bot":2}')
    client.command("ALTER TABLE events ADD CONSTRAINT c CHECK is_bot < 2")
    refused = table.insert(made, name(made), clock() + 60, None)
    assert "while pushing to view" in (refused.why or "")
    spoken_of = f"while pushing to view {clickhouse_with_schema.database}.sessions_mv"
    for why in (refused.why, f"Cannot read '{spoken_of}': (at row 1): While executing"):
        found = table.isolate(SOURCE, made, why, 0)
        assert isinstance(found, Isolated)
        assert [(each.offset, each.reason, each.in_table) for each in found.letters] == [
            (1, "out_of_range", False)
        ]


def test_restoring_brings_sums_and_ledger_up_to_the_table(
    table: ClickHouseTable, clickhouse_with_schema: ClickHouse
) -> None:
    client = clickhouse_with_schema.client()
    made = batch(0, event(1, _JANUARY, 1), event(2, _FEBRUARY, 1))
    land(table, made)
    for short in ("sessions", "sessions_daily", "pages_daily", "batches"):
        client.command(f"TRUNCATE TABLE {short}")
    months = frozenset({"202601", "202602"})
    asked_ms = int(time.time() * 1000)
    assert table.restore(SOURCE, 0, 2, months, asked_ms) == Restored()
    sums = "SELECT sum(events) FROM sessions_daily"
    assert client.query(sums).result_rows == [(2,)]
    assert client.query("SELECT count() FROM sessions").result_rows == [(2,)]
    read = table.coverage(SOURCE, 0, None, whole=True)
    assert isinstance(read, CoverageRead)
    assert [(c.first, c.end, c.listed) for c in read.coverage.batches] == [(0, 2, months)]
    told = table.stamps(SOURCE, made, 0, int(time.time() * 1000) - 60_000)
    assert told == StampsRead(frozenset(), months)

    # What was asked for before a rebuild began is served by it; what is asked for now is not.
    def rebuilds() -> int:
        return int(client.query("SELECT count() FROM rebuilds FINAL").result_rows[0][0])

    before = rebuilds()
    assert table.restore(SOURCE, 0, 2, months, asked_ms - 60_000) == Restored()
    assert rebuilds() == before
    assert table.restore(SOURCE, 0, 2, months, int(time.time() * 1000)) == Restored()
    assert rebuilds() == before + 2


def test_sums_that_are_left_in_doubt_are_counted_and_told(
    clickhouse_with_schema: ClickHouse, caplog: pytest.LogCaptureFixture
) -> None:
    """A mend of events that may have expired comes to its end all the same."""
    values = load("consumer", None, {"PENSTOCK_CLICKHOUSE_URL": clickhouse_with_schema.url})
    doubted: list[int] = []
    table = ClickHouseTable(consumer_settings(values), clock, lambda: doubted.append(1))
    client = clickhouse_with_schema.client()
    client.command("SYSTEM STOP TTL MERGES events")
    client.command("ALTER TABLE events MODIFY TTL toDateTime(created_at) + INTERVAL 1 DAY",
                   settings={"materialize_ttl_after_modify": 0})  # fmt: skip
    land(table, batch(0, event(1, _JANUARY, 1), event(2, _FEBRUARY, 1)))
    client.command("TRUNCATE TABLE batches")
    months = frozenset({"202601", "202602"})
    assert table.restore(SOURCE, 0, 2, months, int(time.time() * 1000)) == Restored()
    assert client.query("SELECT count() FROM batches").result_rows == [(2,)], "all else is done"
    assert client.query("SELECT sum(events) FROM sessions_daily").result_rows == [(2,)]
    assert doubted == [1], "once a mend"
    told = [record.getMessage() for record in caplog.records]
    assert told == ["sums may be wrong and are left as they are"] * 2


def test_what_cannot_be_rebuilt_is_left_in_the_last_try_and_not_before(
    clickhouse_with_schema: ClickHouse, caplog: pytest.LogCaptureFixture
) -> None:
    """A partition does not wait for ever for sums: the other month's are made right each time."""
    values = load("consumer", None, {"PENSTOCK_CLICKHOUSE_URL": clickhouse_with_schema.url})
    doubted: list[int] = []
    table = ClickHouseTable(consumer_settings(values), clock, lambda: doubted.append(1))
    client = clickhouse_with_schema.client()
    land(table, batch(0, event(1, _JANUARY, 1), event(2, _FEBRUARY, 1)))
    client.command("TRUNCATE TABLE sessions_daily")
    client.command("DROP VIEW pages_daily_mv")
    months, asked_ms = frozenset({"202601", "202602"}), int(time.time() * 1000)
    failed = table.restore(SOURCE, 0, 2, months, asked_ms)
    assert isinstance(failed, ReadFailed)
    assert failed.spent
    assert "pages_daily_mv is missing" in failed.why
    assert doubted == []
    assert table.restore(SOURCE, 0, 2, months, asked_ms, last=True) == Restored()
    told = [record.getMessage() for record in caplog.records]
    assert told == ["sums may be wrong and are left as they are"] * 2
    assert doubted == [1]
    away = ClickHouseTable(
        consumer_settings(
            load("consumer", None, {"PENSTOCK_CLICKHOUSE_URL": "http://127.0.0.1:9/x"})
        ),
        clock,
    )
    unheard = away.restore(SOURCE, 0, 2, months, asked_ms, last=True)
    assert isinstance(unheard, ReadFailed)
    assert not unheard.spent, "the server was not there"


def test_views_of_others_may_lack_rows_after_a_doubt_and_that_is_told(
    clickhouse_with_schema: ClickHouse, caplog: pytest.LogCaptureFixture
) -> None:
    values = load("consumer", None, {"PENSTOCK_CLICKHOUSE_URL": clickhouse_with_schema.url})
    table = ClickHouseTable(consumer_settings(values), clock)
    client = clickhouse_with_schema.client()
    client.command(
        "CREATE TABLE mine (id UUID) ENGINE = MergeTree ORDER BY id "
        "SETTINGS non_replicated_deduplication_window = 4"
    )
    client.command("CREATE MATERIALIZED VIEW mine_mv TO mine AS SELECT id FROM events")
    land(table, batch(0, event(1, _JANUARY, 1)))
    read = table.coverage(SOURCE, 0, None, whole=True)
    assert isinstance(read, CoverageRead)
    assert read.coverage.window_entries == 4, "a replay must find its token there as well"
    months = frozenset({"202601"})
    assert table.restore(SOURCE, 0, 1, months, int(time.time() * 1000)) == Restored()
    (told,) = caplog.records
    assert "views that are not of the layout may lack rows of [0, 1)" in str(vars(told))


def test_a_line_whose_id_is_none_is_in_no_table(table: ClickHouseTable) -> None:
    """Such ids must not make the question itself fail: it would be asked for ever."""
    bad = [
        b'{"id":"%s","created_at":%d}' % (n, _JANUARY) for n in (b"", b"5", b"x" * 36, b"\\u0027")
    ]
    made = batch(0, event(1, _JANUARY, 1), *bad)
    found = table.isolate(SOURCE, made, "refused", 0)
    assert isinstance(found, Isolated)
    assert [(each.offset, each.in_table) for each in found.letters] == [
        (offset, False) for offset in (1, 2, 3, 4)
    ]
    assert table.stamps(SOURCE, made, 0, 0) == StampsRead(frozenset({"202601"}))
    sifted = table.sift(made, frozenset(), by_ids=True)
    assert isinstance(sifted, Sifted)
    assert sifted.missing is not None
    assert sifted.missing.rows == 5


def test_more_lines_than_one_question_holds(table: ClickHouseTable) -> None:
    made = batch(0, *(event(n, _JANUARY, 1) for n in range(5_000)))
    land(table, batch(0, *(event(n, _JANUARY, 1) for n in range(0, 5_000, 2))))
    sifted = table.sift(made, frozenset(), by_ids=True)
    assert isinstance(sifted, Sifted)
    assert sifted.missing is not None
    assert [offset for offset, _, _ in sifted.missing.origins()] == list(range(1, 5_000, 2))


def test_events_of_hundreds_of_months_land_as_one_batch(
    table: ClickHouseTable, clickhouse_with_schema: ClickHouse
) -> None:
    month = 31 * 24 * 3600 * 1000
    made = batch(0, *(event(n, 1_430_000_000_000 + n * month, 1) for n in range(300)))
    land(table, made)
    land(table, made)
    client = clickhouse_with_schema.client()
    assert client.query("SELECT count() FROM events").result_rows == [(300,)]
    assert client.query("SELECT sum(events) FROM sessions_daily").result_rows == [(300,)]

"""What every insert rests on, on the real engine: one block, its token, its time, its errors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pytest
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError

from consumer.batch import Batch
from consumer.by_number import row_of
from consumer.clickhouse import ClickHouseTable
from consumer.commands import CoverageRead, Isolated, Outcome
from consumer.config import consumer_settings
from consumer.runner import clock
from schemas.settings import load
from schemas.tables import HOLD
from tests.fixtures.batches import SOURCE, batch, name
from tests.fixtures.clickhouse import ClickHouse
from tests.integration.consumer.test_table import event, land

JANUARY, FEBRUARY = 1_767_225_600_000, 1_769_904_000_000
MONTH_MS = 31 * 24 * 3_600_000

# What a user's profile, or a server's own defaults, could say instead. Each of these cuts blocks.
ANOTHER_PROFILE = {
    "max_insert_block_size": "10000",
    "max_block_size": "10000",
    "min_insert_block_size_rows": "0",
    "min_insert_block_size_bytes": "0",
    "input_format_parallel_parsing": "1",
    "max_insert_threads": "4",
    "insert_deduplicate": "0",
    "deduplicate_blocks_in_dependent_materialized_views": "0",
}


@pytest.fixture
def client(clickhouse_with_schema: ClickHouse) -> Client:
    return clickhouse_with_schema.client()


def table_of(server: ClickHouse, **more: str) -> ClickHouseTable:
    given = {f"PENSTOCK_{setting}": value for setting, value in more.items()}
    values = load("consumer", None, {"PENSTOCK_CLICKHOUSE_URL": server.url, **given})
    return ClickHouseTable(consumer_settings(values), clock)


@pytest.fixture
def table(clickhouse_with_schema: ClickHouse) -> ClickHouseTable:
    return table_of(clickhouse_with_schema)


def rows(client: Client, sql: str) -> list[tuple[object, ...]]:
    return [tuple(row) for row in client.query(sql).result_rows]


def lines(count: int) -> Iterator[bytes]:
    for n in range(count):
        yield event(n, (JANUARY, FEBRUARY)[n % 2] + n, 1)


def test_a_batch_is_one_block_whatever_the_profile_says(
    table: ClickHouseTable, client: Client
) -> None:
    """One part a ClickHouse partition, and a replay changes nothing: not in the table, not in the
    views, not when the server would cut it otherwise by itself."""
    client.command("SYSTEM STOP MERGES events")
    for setting, value in ANOTHER_PROFILE.items():
        table.client().set_client_setting(setting, value)
    made = batch(0, *lines(60_000))
    for _ in range(2):
        land(table, made)
        parts = "SELECT _partition_id, uniqExact(_part), count() FROM events GROUP BY 1 ORDER BY 1"
        assert rows(client, parts) == [("202601", 1, 30_000), ("202602", 1, 30_000)]
        assert rows(client, "SELECT sum(events) FROM sessions_daily") == [(60_000,)]
        assert rows(client, "SELECT count(), sum(rows) FROM batches") == [(2, 60_000)]


def test_an_insert_past_its_time_is_stopped_by_the_server(
    clickhouse_with_schema: ClickHouse, client: Client
) -> None:
    client.command("CREATE TABLE slow (n UInt64) ENGINE = Null")
    client.command(
        "CREATE MATERIALIZED VIEW slow_mv TO slow AS SELECT sleepEachRow(0.5) AS n FROM events"
    )
    table = table_of(clickhouse_with_schema, INSERT_MAX_SECONDS="1")
    made = batch(0, *lines(6))
    answer = table.insert(made, name(made), clock() + 60, None)
    assert answer.outcome is Outcome.FAILED
    assert "159" in answer.why


def test_more_months_than_the_default_allows_land_in_one_insert(
    table: ClickHouseTable, client: Client
) -> None:
    """More than 100 ClickHouse partitions in a block are error 252 by default, and for ever."""
    many = batch(0, *(event(n, JANUARY - n * MONTH_MS, 1) for n in range(101)))
    land(table, many)
    assert rows(client, "SELECT uniqExact(_partition_id), count() FROM events") == [(101, 101)]


def test_too_many_parts_pass(table: ClickHouseTable, client: Client) -> None:
    """Also error 252: what heals by itself once parts are merged."""
    client.command("SYSTEM STOP MERGES events")
    client.command(
        "ALTER TABLE events MODIFY SETTING parts_to_throw_insert = 3, parts_to_delay_insert = 3"
    )
    for first in range(10):
        made = batch(first, event(first, JANUARY, 1))
        answer = table.insert(made, name(made), clock() + 60, None)
        if answer.outcome is not Outcome.LANDED:
            break
    assert "252" in answer.why
    assert answer.outcome is Outcome.FAILED


@pytest.mark.parametrize(
    ("code", "words", "outcome"),
    [
        # our own inserts may have any number of partitions
        (252, "Too many partitions for single INSERT block (more than 100).", Outcome.REFUSED),
        (395, "no: while evaluating: while pushing to view penstock.x_mv.", Outcome.REFUSED),
        (9_999, "Cannot read it: (at row 1)", Outcome.REFUSED),
        (243, "Cannot reserve 1.00 MiB, not enough space.", Outcome.FAILED),
        (243, "Cannot reserve: while pushing to view penstock.x_mv.", Outcome.FAILED),
        (75, "Cannot write to file: No space left on device.", Outcome.FAILED),
        (9_999, "Something that no line is to blame for.", Outcome.FAILED),
    ],
)
def test_only_what_speaks_of_the_lines_has_them_looked_at(
    table: ClickHouseTable,
    monkeypatch: pytest.MonkeyPatch,
    code: int,
    words: str,
    outcome: Outcome,
) -> None:
    """In the server's words. A disk that is full is no fault of any line."""

    def refused(*_: object, insert_block: Iterable[bytes], **__: object) -> None:
        list(insert_block)
        error = DatabaseError(f"Code: {code}. DB::Exception: {words}")
        error.code = code
        raise error

    monkeypatch.setattr(table.client(), "raw_insert", refused)
    made = batch(0, event(1, JANUARY, 1))
    assert table.insert(made, name(made), clock() + 60, None).outcome is outcome


def test_a_table_that_is_gone_is_no_fault_of_the_lines(
    table: ClickHouseTable, client: Client
) -> None:
    table.client()
    client.command("DROP TABLE sessions")
    made = batch(0, event(1, JANUARY, 1))
    answer = table.insert(made, name(made), clock() + 60, None)
    assert (answer.outcome, "60" in (answer.why or "")) == (Outcome.FAILED, True), answer


def test_a_hold_passes(table: ClickHouseTable, client: Client) -> None:
    client.command(f"ALTER TABLE events ADD CONSTRAINT {HOLD}_1_a CHECK 0")
    made = batch(0, event(1, JANUARY, 1))
    answer = table.insert(made, name(made), clock() + 60, None)
    assert "469" in answer.why
    assert answer.outcome is Outcome.FAILED


@pytest.mark.parametrize("whole", [False, True])
def test_a_line_of_the_ledger_that_was_written_twice_counts_once(
    table: ClickHouseTable, client: Client, whole: bool
) -> None:
    land(table, batch(0, *lines(4)))
    client.command(
        "INSERT INTO batches SELECT * FROM batches WHERE clickhouse_partition = '202601'"
    )
    assert rows(client, "SELECT sum(rows) FROM batches") == [(6,)]
    read = table.coverage(SOURCE, 0, None, whole=whole)
    assert isinstance(read, CoverageRead)
    (found,) = read.coverage.batches
    assert (found.listed_rows, found.expected_rows) == (4, 4)
    assert found.complete == whole


def test_what_lands_unlisted_is_covered_by_its_stamps(
    table: ClickHouseTable, client: Client
) -> None:
    land(table, batch(0, *lines(4)))
    client.command("TRUNCATE TABLE batches")
    read = table.coverage(SOURCE, 0, None, whole=True)
    assert isinstance(read, CoverageRead)
    (found,) = read.coverage.batches
    assert (found.first, found.end, found.listed) == (0, 4, frozenset())
    assert found.stamped == frozenset({"202601", "202602"})


def test_after_a_restart_a_token_is_trusted_only_where_the_log_is_mended(
    table: ClickHouseTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that was started after the first attempt may have lost what its log still names."""
    made: Batch = batch(0, event(1, JANUARY, 1))
    before_its_start = 1
    answer = table.insert(made, name(made), clock() + 60, before_its_start)
    assert answer.outcome is Outcome.LANDED, "the front says that it mends its log"
    monkeypatch.setattr(table, "_mends_log", lambda: False)
    answer = table.insert(made, name(made), clock() + 60, before_its_start)
    assert answer.outcome is Outcome.RESTARTED
    since = 1 << 52
    assert table.insert(made, name(made), clock() + 60, since).outcome is Outcome.LANDED


def test_a_setting_that_the_server_no_longer_knows_is_left_out_from_then_on(
    table: ClickHouseTable,
) -> None:
    """It was replaced by an older one."""
    table.client()
    table._pinned["of_a_later_version"] = 1
    made = batch(0, event(1, JANUARY, 1))
    answer = table.insert(made, name(made), clock() + 60, None)
    assert answer.outcome is Outcome.FAILED
    assert "115" in answer.why
    land(table, made)


# --- an error quotes what it was given ----------------------------------------------------------


def with_member(line: bytes, member: str, value: str) -> bytes:
    return line[:-1] + f',"{member}":"{value}"}}'.encode()


def test_a_view_that_quotes_a_long_text_has_been_given_rows_of_the_table(
    table: ClickHouseTable, client: Client
) -> None:
    """Its name stands behind all that it quotes."""
    client.command("CREATE TABLE numbers (n UInt32) ENGINE = Null")
    client.command(
        "CREATE MATERIALIZED VIEW numbers_mv TO numbers AS "
        "SELECT toUInt32(referrer) AS n FROM events WHERE referrer != ''"
    )
    made = batch(
        0,
        event(1, JANUARY, 1),
        with_member(event(2, JANUARY, 1), "referrer", "9 (at row 1)" + "x" * 100_000),
    )
    refused = table.insert(made, name(made), clock() + 60, None)
    assert (refused.outcome, refused.untouched) == (Outcome.REFUSED, False)
    found = table.isolate(SOURCE, made, refused.why, 0)
    assert isinstance(found, Isolated)
    assert [(letter.offset, letter.in_table) for letter in found.letters] == [(1, True)]
    assert len(found.letters[0].error) <= 1000


@pytest.mark.parametrize("behind", ["", "x" * 20_000, "\\u2028", "\\n"])
def test_a_member_that_is_named_like_a_views_error_is_a_bad_line(
    table: ClickHouseTable, clickhouse_with_schema: ClickHouse, behind: str
) -> None:
    member = f"(at row 1) while pushing to view {clickhouse_with_schema.database}.sessions_mv "
    made = batch(0, event(1, JANUARY, 1), with_member(event(2, JANUARY, 1), member + behind, "v"))
    refused = table.insert(made, name(made), clock() + 60, None)
    assert refused.outcome is Outcome.REFUSED
    found = table.isolate(SOURCE, made, refused.why, 0)
    assert isinstance(found, Isolated)
    assert [letter.offset for letter in found.letters] == [1]


def test_a_row_that_speaks_of_the_hold_is_refused_all_the_same(
    table: ClickHouseTable, client: Client
) -> None:
    client.command("ALTER TABLE events ADD CONSTRAINT short CHECK length(referrer) < 9")
    made = batch(0, with_member(event(1, JANUARY, 1), "referrer", f"Constraint `{HOLD}_1_a`"))
    assert table.insert(made, name(made), clock() + 60, None).outcome is Outcome.REFUSED


def test_an_error_that_quotes_half_a_letter_names_its_row(table: ClickHouseTable) -> None:
    """The server cuts what it quotes by bytes: one of two lengths cuts a letter of two."""
    for text in ("\u00fc" * 400, "x" + "\u00fc" * 400):
        good, bad = event(1, JANUARY, 1), event(2, JANUARY, 1)
        made = batch(0, good, with_member(bad, "duration", text))
        refused = table.insert(made, name(made), clock() + 60, None)
        assert refused.outcome is Outcome.REFUSED
        assert row_of(refused.why) == 1

"""The facts about ClickHouse that exactly-once delivery stands on, asked of a live server.

Each test makes small tables of its own in a fresh database: a Null landing table of plain types, a
view that stamps rows with their batch from the insert's own token, the table, and two chained
views. They are no copy of the project's layout, so they tell of the server alone.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable

import pytest
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError

from tests.fixtures.clickhouse import ClickHouse

WINDOW = "SETTINGS non_replicated_deduplication_window = 1000"
TOKEN = "getSetting('insert_deduplication_token')"
ROW_BYTES = 500
CAP_ROWS = 1 << 20
CAP_BYTES = 1 << 30

# What every insert pins, so that it is one block; those that the server does not know are left out.
PINNED = {
    "async_insert": "0",
    "insert_deduplicate": "1",
    "deduplicate_blocks_in_dependent_materialized_views": "1",
    "max_insert_threads": "1",
    "parallel_view_processing": "0",
    "input_format_parallel_parsing": "0",
    "max_insert_block_size": str(CAP_ROWS),
    "min_insert_block_size_rows": str(CAP_ROWS),
    "min_insert_block_size_bytes": str(CAP_BYTES),
    "max_insert_block_size_bytes": "0",
    "input_format_max_block_size_bytes": "0",
    "materialized_views_ignore_errors": "0",
    "input_format_allow_errors_num": "0",
    "input_format_allow_errors_ratio": "0",
    "input_format_skip_unknown_fields": "0",
}

Row = dict[str, object]


class Tables:
    """`landing` -> `events` -> `daily` -> `monthly`, and inserts into the first of them."""

    def __init__(self, client: Client) -> None:
        self.client = client
        names = ", ".join(f"'{name}'" for name in PINNED)
        known = client.query(f"SELECT name FROM system.settings WHERE name IN ({names})")
        self._known = {str(row[0]) for row in known.result_rows}

    def make(self, daily: str = "count() AS c") -> None:
        stamped = f"SELECT n, day, payload, {TOKEN} AS stamp FROM landing"
        for statement in (
            "CREATE TABLE landing (n UInt64, day Date, payload String) ENGINE = Null",
            "CREATE TABLE events (n UInt64, day Date, payload String, stamp String)"
            f" ENGINE = MergeTree PARTITION BY toYYYYMM(day) ORDER BY n {WINDOW}",
            "CREATE TABLE daily (day Date, c UInt64, n UInt64) ENGINE = SummingMergeTree"
            f" PARTITION BY toYYYYMM(day) ORDER BY day {WINDOW}",
            "CREATE TABLE monthly (month UInt32, c UInt64, n UInt64) ENGINE = SummingMergeTree"
            f" PARTITION BY month ORDER BY month {WINDOW}",
            f"CREATE MATERIALIZED VIEW landing_mv TO events AS {stamped}",
            f"CREATE MATERIALIZED VIEW daily_mv TO daily AS SELECT day, {daily}, sum(n) AS n"
            " FROM events GROUP BY day",
            "CREATE MATERIALIZED VIEW monthly_mv TO monthly AS SELECT toYYYYMM(day) AS month,"
            " sum(c) AS c, sum(n) AS n FROM daily GROUP BY month",
        ):
            self.client.command(statement)

    def insert(self, rows: Iterable[Row], token: str, **settings: str) -> None:
        body = "".join(json.dumps(row) + "\n" for row in rows).encode()
        pinned = {name: value for name, value in PINNED.items() if name in self._known}
        self.client.raw_insert(
            "landing",
            None,
            (piece for piece in (body[: len(body) // 2], body[len(body) // 2 :])),
            settings={**pinned, "insert_deduplication_token": token, **settings},
            fmt="JSONEachRow",
        )

    def ask(self, statement: str) -> list[tuple[object, ...]]:
        return [tuple(row) for row in self.client.query(statement).result_rows]

    def counts(self) -> dict[str, int]:
        """Rows of the table, and what each view counted."""
        figures = {"events": "count()", "daily": "sum(c)", "monthly": "sum(c)"}
        return {
            table: int(str(self.ask(f"SELECT {figure} FROM {table}")[0][0]))
            for table, figure in figures.items()
        }


@pytest.fixture
def tables(clickhouse: ClickHouse) -> Tables:
    return Tables(clickhouse.client())


def row(n: int, day: str = "2026-11-01") -> Row:
    return {"n": n, "day": day, "payload": f"{n:08d}" * 4}


def two_months(count: int) -> list[Row]:
    return [row(n, "2026-10-31" if n % 2 else "2026-11-01") for n in range(count)]


def whole(count: int) -> dict[str, int]:
    return {"events": count, "daily": count, "monthly": count}


@pytest.mark.parametrize("count", [1, 50_000, 200_000])
def test_one_insert_is_one_block(tables: Tables, count: int) -> None:
    """One part and one deduplication entry: the same token in other pieces changes nothing."""
    tables.make()
    tables.client.command("SYSTEM STOP MERGES events")
    padding = "x" * (ROW_BYTES - 60)
    rows = [{"n": n, "day": "2026-11-01", "payload": padding} for n in range(count)]
    tables.insert(rows, "one")
    assert tables.ask("SELECT count(), uniqExact(_part), uniqExact(stamp) FROM events") == [
        (count, 1, 1)
    ]
    tables.insert(rows, "one")
    assert tables.counts() == whole(count)


def test_without_the_pinned_settings_an_insert_is_several_blocks(tables: Tables) -> None:
    """What the pins are for: small blocks that are not joined become parts of their own."""
    tables.make()
    tables.client.command("SYSTEM STOP MERGES events")
    tables.insert(
        [row(n) for n in range(50_000)],
        "one",
        max_insert_block_size="10000",
        max_block_size="10000",  # what the embedded engine's client side reads by
        min_insert_block_size_rows="0",
        min_insert_block_size_bytes="0",
    )
    assert tables.ask("SELECT count(), uniqExact(_part) FROM events") == [(50_000, 5)]


def test_a_token_is_deduplicated_through_landing_table_and_chained_views(tables: Tables) -> None:
    tables.make()
    for _ in range(3):
        tables.insert(two_months(1000), "same")
    assert tables.counts() == whole(1000)
    tables.insert(two_months(1000), "other")
    assert tables.counts() == whole(2000), "the same rows under another token are other rows"


def test_without_a_window_on_its_target_a_view_counts_twice(tables: Tables) -> None:
    tables.make()
    tables.client.command(
        "ALTER TABLE daily MODIFY SETTING non_replicated_deduplication_window = 0"
    )
    for _ in range(2):
        tables.insert(two_months(10), "same")
    counts = tables.counts()
    assert counts["events"] == 10
    assert counts["daily"] == 20


def test_rows_are_stamped_from_the_inserts_own_token(tables: Tables) -> None:
    tables.make()
    token = "cluster:3f6c:7:100-110:10:9a0b:0:events"
    tables.insert(two_months(10), token)
    tables.insert([row(99)], "")
    assert tables.ask("SELECT stamp, count() FROM events GROUP BY stamp ORDER BY stamp") == [
        ("", 1),
        (token, 10),
    ]


def test_the_same_token_with_other_rows_drops_them(tables: Tables) -> None:
    """So a replay must be exactly its range, and what landed is counted, not believed."""
    tables.make()
    tables.insert([row(1), row(2)], "same")
    tables.insert([row(3), row(4), row(5)], "same")
    assert tables.counts() == whole(2)
    assert tables.ask("SELECT n FROM events ORDER BY n") == [(1,), (2,)]


def test_the_same_token_fills_the_clickhouse_partition_that_is_missing(tables: Tables) -> None:
    """A batch can land in part. Its token is taken per ClickHouse partition."""
    tables.make()
    rows = two_months(10)
    tables.insert([each for each in rows if each["day"] == "2026-10-31"], "same")
    assert tables.counts() == whole(5)
    tables.insert(rows, "same")
    assert tables.counts() == whole(10)


def test_a_throwing_view_leaves_the_table_landed_and_the_replay_mends_it(tables: Tables) -> None:
    """The table lands before its views. The poison row filtered, the same token fills the views
    and does not double the table."""
    tables.make(daily="count() + 0 * max(throwIf(payload = repeat('00000007', 4))) AS c")
    rows = two_months(10)
    with pytest.raises(DatabaseError, match="395"):
        tables.insert(rows, "same")
    counts = tables.counts()
    assert counts["events"] > 0, "table before views"
    assert counts["daily"] < 10
    tables.insert([each for each in rows if each["n"] != 7], "same")
    counts = tables.counts()
    # The poison row stays in the table where its ClickHouse partition had landed with it.
    assert counts["events"] in (9, 10)
    assert counts["daily"] == counts["monthly"] == 9


def test_a_view_with_another_query_does_not_know_the_tokens_of_before(tables: Tables) -> None:
    """So a view must not be changed while a batch is open: its replay would count twice there."""
    tables.make()
    tables.insert(two_months(10), "same")
    columns = "SELECT day, count() + 0 AS c, sum(n) AS n FROM events GROUP BY day"
    tables.client.command(f"ALTER TABLE daily_mv MODIFY QUERY {columns}")
    tables.insert(two_months(10), "same")
    counts = tables.counts()
    assert counts["events"] == 10
    assert counts["daily"] == 20
    tables.insert(two_months(10), "same")
    assert tables.counts() == counts, "it knows them from then on"


def test_a_row_that_cannot_be_read_lands_nothing(tables: Tables) -> None:
    tables.make()
    bad: Row = {"n": -1, "day": "never", "payload": []}
    with pytest.raises(DatabaseError):
        tables.insert([*two_months(10), bad], "same")
    assert tables.counts() == whole(0)
    tables.insert(two_months(10), "same")
    assert tables.counts() == whole(10)


def test_an_unknown_member_is_an_error(tables: Tables) -> None:
    tables.make()
    with pytest.raises(DatabaseError, match="117"):
        tables.insert([{**row(1), "nobody_knows": 1}], "same")
    assert tables.counts() == whole(0)


def test_more_than_100_clickhouse_partitions_are_error_252_and_land_nothing(
    tables: Tables,
) -> None:
    tables.make()
    many = [row(n, f"{1980 + n // 12}-{n % 12 + 1:02d}-01") for n in range(101)]
    with pytest.raises(DatabaseError, match="252") as refused:
        tables.insert(many, "same")
    assert "oo many partitions" in str(refused.value)
    assert tables.counts() == whole(0)
    tables.insert(many[:100], "same")
    assert tables.counts() == whole(100)


def test_drop_partition_frees_its_tokens_and_delete_does_not(tables: Tables) -> None:
    tables.make()
    tables.insert(two_months(10), "same")
    tables.client.command("ALTER TABLE events DELETE WHERE n = 1", settings={"mutations_sync": "2"})
    tables.insert(two_months(10), "same")
    assert tables.counts()["events"] == 9
    tables.client.command("ALTER TABLE events DROP PARTITION 202611")
    tables.insert(two_months(10), "same")
    assert tables.ask("SELECT n FROM events ORDER BY n") == [(n,) for n in range(10) if n != 1]


def test_an_insert_past_its_time_is_stopped(tables: Tables) -> None:
    tables.make()
    tables.client.command(
        "CREATE MATERIALIZED VIEW slow_mv TO daily AS"
        " SELECT day, toUInt64(sleepEachRow(0.5)) AS c, n FROM events"
    )
    with pytest.raises(DatabaseError, match="159"):
        tables.insert([row(n) for n in range(6)], "same", max_execution_time="1")


def test_a_setting_that_the_server_does_not_know_is_error_115(tables: Tables) -> None:
    tables.make()
    with pytest.raises(DatabaseError, match="115"):
        tables.insert([row(1)], "same", **{f"no_setting_{uuid.uuid4().hex[:6]}": "1"})
    assert tables.counts() == whole(0)

"""The layout on a real engine: what lands where, what lands once, and what does not land at all."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError, DatabaseError
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.__main__ import main
from schemas.apply import apply, refuse_changed
from schemas.check import differences
from schemas.connection import SchemaError
from schemas.layout import Migration, read
from schemas.tables import (
    CREATED_AT_END,
    CREATED_AT_FIRST,
    DEDUPLICATED,
    LANDING,
    MIGRATIONS,
    clickhouse_partition,
)
from tests.fixtures.clickhouse import ClickHouse
from tests.integration.schemas.landing import insert, token

OCTOBER = 1_793_491_199_000  # 2026-10-31T23:59:59Z
NOVEMBER = OCTOBER + 1_000
RECEIVED = NOVEMBER + 3_600_000


def _event(**given: Any) -> dict[str, Any]:
    event = {
        "id": str(uuid.uuid4()),
        "project_id": "demo",
        "session_id": "s1",
        "name": "screen_view",
        "created_at": NOVEMBER,
        "received_at": RECEIVED,
        "path": "/",
    }
    return {name: value for name, value in {**event, **given}.items() if value is not None}


def _rows(client: Client, sql: str) -> Sequence[Sequence[Any]]:
    rows: Sequence[Sequence[Any]] = client.query(sql).result_rows
    return rows


def _one(client: Client, sql: str) -> Any:
    return _rows(client, sql)[0][0]


def _answers(client: Client) -> Mapping[str, Any]:
    """What a reader of each table sees."""
    return {
        "events": _one(client, "SELECT count() FROM events"),
        "batches": _rows(
            client,
            "SELECT topic_id, topic, partition, first, end, expected_rows, epoch, "
            "clickhouse_partition, rows FROM batches ORDER BY ALL",
        ),
        "sessions": _rows(
            client,
            "SELECT session_id, min(started_at), max(ended_at), mapSort(maxMap(s.counted)), "
            "max(s.max_scroll), argMinMerge(entry_path), argMaxMerge(exit_path), "
            "argMinMerge(origin), argMinMerge(visitor) FROM sessions AS s "
            "GROUP BY session_id ORDER BY session_id",
        ),
        "sessions_daily": _rows(
            client,
            "SELECT date, uniqMerge(sessions), sum(events), sum(page_views), sum(engaged_seconds) "
            "FROM sessions_daily GROUP BY date ORDER BY date",
        ),
        "pages_daily": _rows(
            client,
            "SELECT date, path, sum(views), sum(timed_views), sum(time_spent), "
            "uniqMerge(sessions), uniqMerge(timed_sessions) "
            "FROM pages_daily GROUP BY date, path ORDER BY date, path",
        ),
    }


# --- apply ---------------------------------------------------------------------------------------


def test_apply_makes_the_database_and_is_repeatable(clickhouse: ClickHouse) -> None:
    clickhouse.drop_database()
    client = clickhouse.client("default")
    names = tuple(migration.name for migration in read())
    assert apply(client, clickhouse.database) == names
    assert apply(client, clickhouse.database) == ()
    assert differences(client, clickhouse.database) == []
    recorded = _rows(
        client, f"SELECT file, checksum FROM {clickhouse.database}.{MIGRATIONS} ORDER BY file"
    )
    assert [tuple(row) for row in recorded] == [(m.name, m.checksum) for m in read()]


def test_an_apply_that_died_before_it_recorded_is_done_again(clickhouse: ClickHouse) -> None:
    client = clickhouse.client()
    for migration in read()[:3]:
        client.command(migration.statement(clickhouse.database))
    assert len(apply(client, clickhouse.database)) == len(read())
    assert differences(client) == []


def test_two_at_once(clickhouse: ClickHouse) -> None:
    clients = [clickhouse.client() for _ in range(4)]
    errors: list[BaseException] = []
    together = threading.Barrier(len(clients))

    def run(client: Client) -> None:
        together.wait(30)
        try:
            apply(client, clickhouse.database)
        except (ClickHouseError, SchemaError) as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(client,)) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert errors == []
    assert differences(clients[0]) == []
    files = _rows(clients[0], f"SELECT file FROM {MIGRATIONS} FINAL ORDER BY file")
    assert [row[0] for row in files] == [migration.name for migration in read()]


def test_a_file_changed_after_it_was_applied_is_refused(clickhouse: ClickHouse) -> None:
    client = clickhouse.client()
    apply(client, clickhouse.database)
    client.command(
        f"INSERT INTO {MIGRATIONS} SELECT layout, file, 'old', penstock, now64(3, 'UTC') + 1 "
        f"FROM {MIGRATIONS} WHERE file = '0002_events.sql'"
    )
    with pytest.raises(SchemaError, match=r"0002_events\.sql was applied with another content"):
        apply(client, clickhouse.database)
    refuse_changed([Migration("0099_later.sql", "CREATE ...")], {})  # one not applied is not


def test_the_command(clickhouse: ClickHouse, capsys: pytest.CaptureFixture[str]) -> None:
    environ = {"PENSTOCK_CLICKHOUSE_URL": clickhouse.url}
    assert main(["apply", "--dry-run"], environ) == 0
    printed = capsys.readouterr().out
    assert f"CREATE TABLE IF NOT EXISTS {clickhouse.database}.events_landing" in printed
    assert _rows(clickhouse.client(), "SHOW TABLES") == []
    assert main(["check"], environ) == 1
    assert f"{clickhouse.database}.events is missing\n    CREATE TABLE" in capsys.readouterr().out
    assert main(["apply"], environ) == 0
    assert capsys.readouterr().out.splitlines()[0] == "applied 0001_events_landing.sql"
    assert main(["apply"], environ) == 0
    assert capsys.readouterr().out == "nothing to apply\n"
    assert main(["check"], environ) == 0


# --- check ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (
            "ALTER TABLE {db}.sessions RESET SETTING non_replicated_deduplication_window",
            "{db}.sessions has non_replicated_deduplication_window = 0, less than 100000",
        ),
        (
            "ALTER TABLE {db}.events MODIFY SETTING non_replicated_deduplication_window = 99999",
            "{db}.events has non_replicated_deduplication_window = 99999, less than 100000",
        ),
        ("DROP TABLE {db}.pages_daily_mv", "{db}.pages_daily_mv is missing"),
        ("DROP TABLE {db}.events_landing", "{db}.events_landing is missing"),
        ("ALTER TABLE {db}.events DROP COLUMN value", "{db}.events has no column value"),
        (
            "ALTER TABLE {db}.batches MODIFY COLUMN rows UInt32",
            "{db}.batches has the column rows as UInt32, not UInt64",
        ),
        (
            "ALTER TABLE {db}.sessions_daily_mv MODIFY QUERY SELECT project_id, "
            "toDate(created_at) AS date, count() AS events FROM {db}.events GROUP BY ALL",
            "{db}.sessions_daily_mv has another query",
        ),
        (
            "DROP TABLE {db}.batches_mv; CREATE MATERIALIZED VIEW {db}.batches_mv "
            "TO {db}.sessions_daily AS SELECT count() AS events FROM {db}.events",
            "{db}.batches_mv writes to {db}.sessions_daily, not to {db}.batches",
        ),
        (
            "DROP TABLE {db}.events_landing; "
            "CREATE TABLE {db}.events_landing (id UUID) ENGINE = Null",
            "{db}.events_landing has no column project_id",
        ),
        (
            "DROP TABLE {db}.pages_daily; CREATE TABLE {db}.pages_daily (path String) "
            "ENGINE = MergeTree ORDER BY path",
            "{db}.pages_daily has the engine MergeTree, not AggregatingMergeTree",
        ),
        (
            "DROP TABLE {db}.batches; CREATE TABLE {db}.batches (topic_id String) "
            "ENGINE = MergeTree ORDER BY topic_id",
            "{db}.batches has the primary key (topic_id), not (topic_id, partition, first, end, "
            "epoch, clickhouse_partition); the sorting key (topic_id), not (topic_id, partition, "
            "first, end, epoch, clickhouse_partition)",
        ),
        (
            "CREATE TABLE {db}.mine (n UInt64) ENGINE = MergeTree ORDER BY n; CREATE MATERIALIZED "
            "VIEW {db}.mine_mv TO {db}.mine AS SELECT count() AS n FROM {db}.events",
            "{db}.mine has non_replicated_deduplication_window = 0, less than 100000: "
            "{db}.mine_mv writes to it, and a replayed batch would count twice there",
        ),
    ],
)
def test_a_difference_is_named_and_its_statement_mends_it(
    clickhouse: ClickHouse, damage: str, what: str
) -> None:
    client = clickhouse.client()
    apply(client, clickhouse.database)
    for statement in damage.split("; "):
        client.command(statement.format(db=clickhouse.database))
    found = differences(client)
    assert what.format(db=clickhouse.database) in [difference.what for difference in found]
    for difference in found:
        for statement in difference.mend.split("; "):
            client.command(statement)
    assert differences(client) == []


def test_more_than_expected_is_no_difference(clickhouse: ClickHouse) -> None:
    client = clickhouse.client()
    apply(client, clickhouse.database)
    for statement in (
        "ALTER TABLE events ADD COLUMN more String",
        "ALTER TABLE events MODIFY TTL toDateTime(created_at) + INTERVAL 90 DAY",
        "ALTER TABLE sessions MODIFY SETTING non_replicated_deduplication_window = 200000",
        "CREATE MATERIALIZED VIEW mine ENGINE = MergeTree ORDER BY n "
        "SETTINGS non_replicated_deduplication_window = 100000 AS SELECT count() AS n FROM events",
    ):
        client.command(statement)
    assert differences(client) == []


# --- landing -------------------------------------------------------------------------------------


def test_a_row_is_converted_and_stamped(clickhouse_with_schema: ClickHouse) -> None:
    client = clickhouse_with_schema.client()
    event = _event(
        created_at=NOVEMBER + 7,
        previous_path="/é",
        duration=12,
        value="1234.5678",
        max_scroll=100,
        properties={"plan": "pro"},
        is_bot=1,
        country="DE",
        utm_term="t",
    )
    insert(client, [event], token(100, 150, 1, epoch=2, partition=3))
    columns = (
        "toString(id), project_id, session_id, name, toUnixTimestamp64Milli(created_at), "
        "toUnixTimestamp64Milli(received_at), path, previous_path, duration, toString(value), "
        "max_scroll, properties, is_bot, country, utm_term, city, "
        "_topic_id, _partition, _first, _end, _epoch"
    )
    assert [tuple(row) for row in _rows(client, f"SELECT {columns} FROM events")] == [
        (
            event["id"],
            "demo",
            "s1",
            "screen_view",
            NOVEMBER + 7,
            RECEIVED,
            "/",
            "/é",
            12,
            "1234.5678",
            100,
            {"plan": "pro"},
            1,
            "DE",
            "t",
            "",
            "topic-id",
            3,
            100,
            150,
            2,
        )
    ]


@pytest.mark.parametrize("by_hand", ["", "mine", "a:b", ":::::::", "a:b:c:d-e:f:g:h:i"])
def test_a_token_of_another_form_lands_without_a_range(
    clickhouse_with_schema: ClickHouse, by_hand: str
) -> None:
    client = clickhouse_with_schema.client()
    insert(client, [_event()], by_hand)
    stamps = _rows(client, "SELECT _partition, _first, _end, _epoch FROM events")
    assert [tuple(row) for row in stamps] == [(0, 0, 0, 0)]


def test_rows_without_a_token_have_no_ledger_row(clickhouse_with_schema: ClickHouse) -> None:
    client = clickhouse_with_schema.client()
    insert(client, [_event()])
    answers = _answers(client)
    assert answers["events"] == 1
    assert list(answers["batches"]) == []
    assert len(answers["sessions"]) == 1


def test_a_ledger_row_for_each_clickhouse_partition(clickhouse_with_schema: ClickHouse) -> None:
    client = clickhouse_with_schema.client()
    events = [_event(created_at=OCTOBER), _event(), _event(created_at=NOVEMBER + 1)]
    insert(client, events, token(10, 13, 3))
    assert [tuple(row) for row in _answers(client)["batches"]] == [
        ("topic-id", "events", 0, 10, 13, 3, 0, "202610", 1),
        ("topic-id", "events", 0, 10, 13, 3, 0, "202611", 2),
    ]


def test_a_replay_changes_neither_table_nor_views(clickhouse_with_schema: ClickHouse) -> None:
    client = clickhouse_with_schema.client()
    events = [
        _event(created_at=OCTOBER + n, session_id=f"s{n % 7}", previous_path="/", duration=n)
        for n in range(2_000)
    ]
    insert(client, events, token(0, 2_000, 2_000))
    before = _answers(client)
    assert before["events"] == 2_000
    insert(client, events, token(0, 2_000, 2_000))
    assert _answers(client) == before
    insert(client, events, token(0, 2_000, 2_000, epoch=1))  # the facts can tell it apart
    assert _answers(client)["events"] == 4_000


BAD: Sequence[Mapping[str, Any]] = [
    {"id": None},
    {"id": "00000000-0000-0000-0000-000000000000"},
    {"id": "not a uuid"},
    {"project_id": ""},
    {"session_id": None},
    {"name": ""},
    {"created_at": None},
    {"created_at": CREATED_AT_FIRST - 1},
    {"created_at": CREATED_AT_END},
    {"created_at": "2026-11-22T10:00:00Z"},
    {"duration": -1},
    {"duration": 1.5},
    {"duration": 1 << 32},
    {"max_scroll": 101},
    {"max_scroll": 256},
    {"surprise": 1},
]


@pytest.mark.parametrize("bad", BAD, ids=str)
def test_one_row_that_breaks_a_rule_lands_nothing(
    clickhouse_with_schema: ClickHouse, bad: Mapping[str, Any]
) -> None:
    client = clickhouse_with_schema.client()
    events = [_event(), _event(**bad), _event(created_at=OCTOBER)]
    with pytest.raises(DatabaseError):
        insert(client, events, token(0, 3, 3))
    landed = _answers(client)
    assert landed["events"] == 0
    assert all(list(landed[name]) == [] for name in DEDUPLICATED if name != "events")
    del events[1]
    insert(client, events, token(0, 3, 3))  # and leaves nothing behind in the deduplication log
    assert _answers(client)["events"] == 2


def test_every_column_of_the_landing_table_reaches_events(
    clickhouse_with_schema: ClickHouse,
) -> None:
    client = clickhouse_with_schema.client()
    landing, events = (
        [
            row[0]
            for row in _rows(
                client,
                "SELECT name FROM system.columns WHERE database = currentDatabase() "
                f"AND table = '{table}'",
            )
        ]
        for table in (LANDING, "events")
    )
    assert set(events) - set(landing) == {
        "_topic_id",
        "_partition",
        "_first",
        "_end",
        "_epoch",
        "_version",
    }
    assert set(landing) <= set(events)


# --- resends -------------------------------------------------------------------------------------


def test_of_an_event_sent_twice_the_copy_received_first_stays(
    clickhouse_with_schema: ClickHouse,
) -> None:
    client = clickhouse_with_schema.client()
    first = _event(country="DE", duration=5, previous_path="/", max_scroll=40)
    again = {**first, "received_at": RECEIVED + 60_000, "country": "US", "city": "Reno"}
    other = _event(created_at=NOVEMBER + 9, received_at=RECEIVED + 1, country="DE", path="/last")
    insert(client, [first, other], token(0, 2, 2))
    sessions = _answers(client)["sessions"]
    for copies in range(1, 3):
        insert(client, [again], token(copies + 1, copies + 2, 1))
        assert _answers(client)["sessions"] == sessions
    rows = _rows(client, "SELECT toString(id), country, city FROM events FINAL ORDER BY created_at")
    assert [tuple(row) for row in rows] == [(first["id"], "DE", ""), (other["id"], "DE", "")]


def test_a_copy_that_lands_before_the_one_received_first(
    clickhouse_with_schema: ClickHouse,
) -> None:
    client = clickhouse_with_schema.client()
    first = _event(country="DE")
    again = {**first, "received_at": RECEIVED + 60_000, "country": "US"}
    insert(client, [again], token(0, 1, 1))
    insert(client, [first], token(1, 2, 1))
    assert [row[0] for row in _rows(client, "SELECT country FROM events FINAL")] == ["DE"]
    ((visitor,),) = _rows(client, "SELECT argMinMerge(visitor) FROM sessions")
    assert visitor.split("\x1f")[0] == "DE"


def test_two_copies_in_one_batch(clickhouse_with_schema: ClickHouse) -> None:
    client = clickhouse_with_schema.client()
    event = _event(duration=5, previous_path="/")
    insert(client, [event, event], token(0, 2, 2))
    assert _one(client, "SELECT count() FROM events FINAL") == 1
    assert list(_one(client, "SELECT mapValues(maxMap(counted)) FROM sessions")) == [11]


# --- the partition key, in Python ----------------------------------------------------------------


_TURNS_MS = [
    int(datetime(year, month, 1, tzinfo=UTC).timestamp() * 1000)
    for year in range(2016, 2100)
    for month in range(1, 13)
]
_NEAR_A_TURN = st.builds(
    int.__add__, st.sampled_from(_TURNS_MS), st.integers(-7_200_000, 7_200_000)
)


@pytest.mark.clickhouse
def test_python_knows_the_clickhouse_partition(clickhouse_with_schema: ClickHouse) -> None:
    client = clickhouse_with_schema.client()

    @settings(max_examples=20, deadline=None, database=None)
    @given(
        st.lists(
            st.integers(CREATED_AT_FIRST, CREATED_AT_END - 1) | _NEAR_A_TURN,
            min_size=1,
            max_size=200,
        )
    )
    def holds(times: list[int]) -> None:
        answer = client.query(
            "SELECT arrayMap(t -> toString(toYYYYMM(fromUnixTimestamp64Milli(t, 'UTC'))), "
            "{times:Array(Int64)})",
            parameters={"times": times},
        ).result_rows[0][0]
        assert [clickhouse_partition(t) for t in times] == list(answer)

    holds()


def test_the_partition_id_on_disk(clickhouse_with_schema: ClickHouse) -> None:
    client = clickhouse_with_schema.client()
    times = [OCTOBER + 999, NOVEMBER, CREATED_AT_FIRST, CREATED_AT_END - 1]
    insert(client, [_event(created_at=t) for t in times])
    rows = _rows(client, "SELECT toUnixTimestamp64Milli(created_at), _partition_id FROM events")
    assert {row[0]: row[1] for row in rows} == {t: clickhouse_partition(t) for t in times}

"""Which rows a view throws on, whatever it reads; and that a server in trouble blames none."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import urlsplit

import pytest

from consumer.batch import Batch
from consumer.clickhouse import ClickHouseTable
from consumer.commands import Isolated, Outcome, ReadFailed, Sifted, StampsRead
from consumer.config import consumer_settings
from consumer.runner import clock
from schemas.settings import load
from tests.chaos.proxy import Link, ProxyThread
from tests.fixtures.batches import SOURCE, batch, name
from tests.fixtures.clickhouse import ClickHouse
from tests.fixtures.lines import CASES, with_member

_THROWS = "throwIf(project_id = 'bad', 'no') AS z"


def table_at(url: str) -> ClickHouseTable:
    values = load("consumer", None, {"PENSTOCK_CLICKHOUSE_URL": url})
    return ClickHouseTable(consumer_settings(values), clock)


class Behind:
    """A consumer's table with one more view behind it, made by `view`."""

    def __init__(self, clickhouse: ClickHouse) -> None:
        self.url = clickhouse.url
        self.table = table_at(clickhouse.url)
        self.client = clickhouse.client()
        self.client.command("CREATE TABLE strict (n UInt64, z UInt8) ENGINE = MergeTree ORDER BY n "
                            "SETTINGS non_replicated_deduplication_window = 1000")  # fmt: skip

    def view(self, select: str) -> None:
        self.client.command(f"CREATE MATERIALIZED VIEW strict_mv TO strict AS {select}")

    def refused(self, *lines: bytes) -> tuple[Batch, str]:
        made = batch(0, *lines)
        answer = self.table.insert(made, name(made), clock() + 60, None)
        assert answer.outcome is Outcome.REFUSED, answer
        assert answer.why is not None
        return made, answer.why

    def bad(self, *lines: bytes) -> list[int]:
        found = self.table.isolate(SOURCE, *self.refused(*lines), 0)
        assert isinstance(found, Isolated), found
        assert all(each.in_table and each.reason == "refused" for each in found.letters)
        return [each.offset for each in found.letters]


@pytest.fixture
def behind(clickhouse_with_schema: ClickHouse) -> Behind:
    return Behind(clickhouse_with_schema)


def event(number: int, project: str = "good") -> bytes:
    line = with_member("id", f'"{number:032x}"')  # without dashes, as some write it
    return line.replace(b'"shop"', b'"%s"' % project.encode())


@pytest.mark.parametrize(
    "select",
    [
        f"SELECT 1 AS n, {_THROWS} FROM events",
        f"SELECT 1 AS n, {_THROWS} FROM events AS e",
        f"SELECT 1 AS n, {_THROWS} FROM events WHERE id IN (SELECT id FROM events)",
        f"WITH e AS (SELECT * FROM events) SELECT 1 AS n, {_THROWS} FROM e",
        f"SELECT 1 AS n, {_THROWS.replace('pro', 'a.pro')} FROM events AS a "
        "INNER JOIN events AS b ON a.id = b.id",
        f"SELECT count() AS n, {_THROWS} FROM events GROUP BY project_id",
        f"SELECT 1 AS n, {_THROWS} FROM sessions",
        f"SELECT uniqMerge(sessions) AS n, {_THROWS} FROM sessions_daily GROUP BY project_id",
    ],
)
def test_whatever_a_view_reads_its_bad_rows_are_found(behind: Behind, select: str) -> None:
    behind.view(select)
    lines = [event(n, "bad" if n in (3, 7, 8, 39) else "good") for n in range(1, 40)]
    assert behind.bad(*lines) == [2, 6, 7, 38]


def test_each_line_that_passes_is_found_behind_a_view(behind: Behind) -> None:
    """However oddly it is written: it has an id and a time, so it can be told from the others."""
    behind.view("SELECT 1 AS n, throwIf(1, 'no') AS z FROM events")
    lines = [case.line for case in CASES.values() if case.reason is None]
    assert behind.bad(*lines) == list(range(len(lines)))


@pytest.mark.parametrize(
    "line", [event(1), with_member("path", '"a\tb"'), with_member("path", '"a\0b"')]
)
def test_a_line_that_is_written_oddly_is_missing_until_it_landed_and_stays_erased(
    behind: Behind, line: bytes
) -> None:
    made = batch(0, line)
    month, nowhere = frozenset({"202601"}), frozenset[str]()
    assert behind.table.stamps(SOURCE, made, 0, 0) == StampsRead(month)
    behind.view("SELECT 1 AS n, throwIf(1, 'no') AS z FROM events")  # which leaves it in the table
    behind.refused(line)
    assert behind.table.stamps(SOURCE, made, 0, 0) == StampsRead(nowhere)
    assert behind.table.sift(made, nowhere, by_ids=True) == Sifted(None, month)
    behind.client.command("ALTER TABLE events DELETE WHERE session_id = 's-1'",
                          settings={"mutations_sync": 1})  # fmt: skip
    assert behind.table.sift(made, nowhere, by_ids=False) == Sifted(None, month)


@pytest.mark.parametrize("trouble", ["away", "out of memory"])
def test_a_server_in_trouble_blames_no_row(
    behind: Behind,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    trouble: str,
) -> None:
    behind.view(f"SELECT 1 AS n, {_THROWS} FROM events")
    made, why = behind.refused(*(event(n, "bad" if n == 5 else "good") for n in range(1, 40)))
    url = urlsplit(behind.url)
    assert url.port is not None
    proxies = ProxyThread()
    request.addfinalizer(proxies.close)
    link = Link("clickhouse", proxies, url.port)
    table = table_at(f"http://127.0.0.1:{link.port}{url.path}")
    client: Any = table.client()
    raw_query, asked = client.raw_query, []

    def troubled(query: str, **more: Any) -> Any:
        asked.append(query)
        if len(asked) == 4 and trouble == "out of memory":
            more["settings"] = {"max_memory_usage": 1}
        link.refuse(len(asked) == 4 and trouble == "away")
        proxies.call(asyncio.sleep(0))  # it refuses from here on
        return raw_query(query, **more)

    monkeypatch.setattr(client, "raw_query", troubled)
    first = table.isolate(SOURCE, made, why, 0)
    assert isinstance(first, ReadFailed), first
    link.refuse(False)
    found = table.isolate(SOURCE, made, why, 0)
    assert isinstance(found, Isolated)
    assert [each.offset for each in found.letters] == [4]


@pytest.mark.parametrize("search_seconds", [0.0, 1e9])
def test_a_search_that_takes_too_long_goes_on_with_the_next_insert(
    behind: Behind, monkeypatch: pytest.MonkeyPatch, search_seconds: float
) -> None:
    monkeypatch.setattr("consumer.thrown._SECONDS", search_seconds)
    behind.view(f"SELECT 1 AS n, {_THROWS} FROM events")
    found = behind.bad(*(event(n, "bad" if n > 30 else "good") for n in range(1, 40)))
    assert found == (list(range(30, 39)) if search_seconds else [30])

"""Lines that ClickHouse refuses by their number alone: the first refusal leads to all of them."""

from __future__ import annotations

import pytest

from consumer.clickhouse import ClickHouseTable
from consumer.commands import Isolated, Outcome
from consumer.runner import clock
from tests.fixtures.clickhouse import ClickHouse
from tests.integration.consumer.test_inserts import JANUARY, rows, table_of
from tests.integration.consumer.test_table import _SOURCE, batch, event, name

_BAD = (0, 17, 18, 2_500, 4_999)


@pytest.fixture
def server(clickhouse_with_schema: ClickHouse) -> ClickHouse:
    """Someone made a column of the landing table narrower than its events."""
    clickhouse_with_schema.client().command(
        "ALTER TABLE events_landing MODIFY COLUMN country Enum8('' = 0, 'it''s', 'DE')"
    )
    return clickhouse_with_schema


@pytest.fixture
def table(server: ClickHouse) -> ClickHouseTable:
    return table_of(server)


def of(number: int, country: bytes) -> bytes:
    return event(number, JANUARY + number, 1).removesuffix(b"}") + b',"country":"%s"}' % country


def test_all_lines_that_cannot_be_read_are_found_and_none_is_inserted(
    table: ClickHouseTable, server: ClickHouse
) -> None:
    made = batch(0, *(of(n, b"FR" if n in _BAD else b"it's") for n in range(5_000)))
    refused = table.insert(made, name(made), clock() + 60, None)
    assert (refused.outcome, refused.untouched) == (Outcome.REFUSED, True)
    found = table.isolate(_SOURCE, made, refused.why, None)
    assert isinstance(found, Isolated)
    assert [letter.offset for letter in found.letters] == list(_BAD)
    assert {letter.reason for letter in found.letters} == {"refused"}
    assert all("'FR'" in letter.error for letter in found.letters)
    assert rows(server.client(), "SELECT count() FROM events") == [(0,)]
    rest = made.without(found.letters)
    answer = table.insert(rest, name(made), clock() + 60, None)
    assert (answer.outcome, answer.rows) == (Outcome.LANDED, 5_000 - len(_BAD))


def test_a_map_that_cannot_be_read_leaves_nothing_in_doubt(table: ClickHouseTable) -> None:
    """Its error has a code of its own."""
    made = batch(0, of(1, b"DE").removesuffix(b"}") + b',"properties":{"plan"')
    refused = table.insert(made, name(made), clock() + 60, None)
    assert (refused.outcome, refused.untouched) == (Outcome.REFUSED, True)

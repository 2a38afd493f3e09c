"""CREATE statements in the server's one-line form."""

from __future__ import annotations

import pytest

from schemas import definition

EVENTS = (
    "CREATE TABLE penstock.events (`id` UUID, `at` DateTime64(3, 'UTC') DEFAULT now64(3), "
    "`a` Map(String, Array(UInt8)) CODEC(ZSTD(1)), INDEX i a TYPE bloom_filter GRANULARITY 1, "
    "CONSTRAINT sane CHECK (at >= '2015-01-01') AND (a != '),\\'')) "
    "ENGINE = ReplacingMergeTree(at) PARTITION BY toYYYYMM(at) PRIMARY KEY (id, toDate(at)) "
    "ORDER BY (id, toDate(at), a) TTL toDateTime(at) + toIntervalDay(90) "
    "SETTINGS non_replicated_deduplication_window = 100000, index_granularity = 8192"
)


def test_a_table() -> None:
    table = definition.table(EVENTS)
    assert table.columns == {
        "id": "UUID",
        "at": "DateTime64(3, 'UTC')",
        "a": "Map(String, Array(UInt8))",
    }
    assert table.constraints == {"sane": "(at >= '2015-01-01') AND (a != '),\\'')"}
    assert (table.engine, table.arguments, table.replicated) == ("ReplacingMergeTree", "at", False)
    assert table.key("PARTITION BY") == "toYYYYMM(at)"
    assert table.key("PRIMARY KEY") == "id, toDate(at)"
    assert table.key("ORDER BY") == "id, toDate(at), a"
    assert table.settings["non_replicated_deduplication_window"] == "100000"


def test_a_replicated_table_without_its_place() -> None:
    table = definition.table(
        "CREATE TABLE d.t (`n` UInt64) ENGINE = ReplicatedReplacingMergeTree("
        "'/clickhouse/tables/{uuid}/{shard}', '{replica}', n) ORDER BY n"
    )
    assert (table.engine, table.arguments, table.replicated) == ("ReplacingMergeTree", "n", True)


def test_keys_that_are_not_given() -> None:
    table = definition.table("CREATE TABLE d.t (`n` UInt64) ENGINE = MergeTree ORDER BY n")
    assert table.key("PRIMARY KEY") == "n"
    assert table.key("PARTITION BY") == ""
    empty = definition.table("CREATE TABLE d.t (`n` UInt64) ENGINE = MergeTree ORDER BY tuple()")
    assert empty.key("ORDER BY") == ""


def test_the_null_engine_in_quotes() -> None:
    assert definition.table("CREATE TABLE d.t (`n` UInt64) ENGINE = `Null`").engine == "Null"


def test_a_view_with_and_without_the_servers_columns() -> None:
    query = "SELECT toString(n) AS t FROM d.a"
    with_columns = f"CREATE MATERIALIZED VIEW d.v TO d.t (`t` String, `AS` String) AS {query}"
    without = f"CREATE MATERIALIZED VIEW IF NOT EXISTS d.v TO d.t AS {query}"
    assert definition.view(with_columns) == definition.view(without)
    assert definition.view(without) == definition.View("d.t", query)


def test_a_view_that_keeps_its_rows_itself() -> None:
    view = definition.view(
        "CREATE MATERIALIZED VIEW d.v (`n` UInt64) ENGINE = MergeTree ORDER BY n AS SELECT 1 AS n"
    )
    assert view == definition.View(None, "SELECT 1 AS n")


@pytest.mark.parametrize(
    "statement", ["CREATE VIEW d.v AS SELECT 1", "CREATE DICTIONARY d.x (`n` UInt64)", ""]
)
def test_what_is_neither(statement: str) -> None:
    with pytest.raises(ValueError, match="not a"):
        definition.table(statement)
    with pytest.raises(ValueError, match="not a"):
        definition.view(statement)


def test_splitting_leaves_brackets_and_quotes_whole() -> None:
    assert definition.split("a, f(b, c), 'd, \\', e', `g,h`, [1, 2],") == [
        "a",
        "f(b, c)",
        "'d, \\', e'",
        "`g,h`",
        "[1, 2]",
    ]

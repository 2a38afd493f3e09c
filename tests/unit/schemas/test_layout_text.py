"""The layout's files keep to the form from which the replicated form is derived."""

from __future__ import annotations

import re

import pytest

from schemas.layout import LAYOUTS, Migration, literal, qualified, quoted, read, replicated
from schemas.tables import (
    BATCHES,
    DEDUPLICATED,
    EVENTS,
    LANDING,
    PAGES_DAILY,
    REBUILDS,
    REWINDS,
    SESSIONS,
    SESSIONS_DAILY,
)

MIGRATIONS = read("hybrid")
TABLES = {LANDING, EVENTS, BATCHES, SESSIONS, SESSIONS_DAILY, PAGES_DAILY}


def _named(name: str) -> Migration:
    return next(m for m in MIGRATIONS if m.creates == name)


def test_every_table_and_its_view_is_made_tables_first() -> None:
    made = [m.creates for m in MIGRATIONS]
    assert set(made) == TABLES | {f"{name}_mv" for name in TABLES - {EVENTS}} | {REBUILDS, REWINDS}
    for m in MIGRATIONS:
        target = re.search(r"^CREATE MATERIALIZED VIEW \S+ \S+ \S+ \S+ TO (\S+) AS", m.sql, re.M)
        if target:
            source = re.search(r"^FROM (\w+)", m.sql, re.M)
            assert source is not None, m.name
            assert made.index(target[1]) < made.index(m.creates)
            assert made.index(source[1]) < made.index(m.creates)


def test_files_are_numbered_without_a_hole() -> None:
    assert [int(m.name[:4]) for m in MIGRATIONS] == list(range(1, len(MIGRATIONS) + 1))


@pytest.mark.parametrize("migration", MIGRATIONS, ids=lambda m: m.name)
def test_a_file_is_one_repeatable_statement(migration: Migration) -> None:
    plain = qualified(migration.sql, "penstock")
    assert ";" not in plain
    assert len(re.findall(r"\bCREATE\b", plain)) == 1
    assert " IF NOT EXISTS penstock." in plain
    assert not re.search(r"'[^'\n]*--", migration.sql), "a text would be cut like a comment"


def test_every_reference_is_qualified() -> None:
    for migration in MIGRATIONS:
        for word, name in re.findall(r"\b(FROM|TO)\s+(\S+)", migration.statement("penstock")):
            assert name.startswith("penstock."), (migration.name, word, name)


def test_every_deduplicated_table_has_its_window() -> None:
    for name in DEDUPLICATED:
        assert re.search(r"\bnon_replicated_deduplication_window = 100000\b", _named(name).sql)


@pytest.mark.parametrize("name", DEDUPLICATED)
def test_the_replicated_form(name: str) -> None:
    statement = _named(name).statement("penstock", cluster="main")
    assert f"CREATE TABLE IF NOT EXISTS penstock.{name} ON CLUSTER 'main'\n" in statement
    assert "ENGINE = Replicated" in statement
    assert "('/clickhouse/tables/{uuid}/{shard}', '{replica}'" in statement
    assert "replicated_deduplication_window = 100000" in statement
    assert "replicated_deduplication_window_seconds = 604800" in statement
    assert "non_replicated" not in statement


def test_the_replicated_form_keeps_the_engines_argument() -> None:
    assert (
        "ENGINE = ReplicatedReplacingMergeTree("
        "'/clickhouse/tables/{uuid}/{shard}', '{replica}', _version)"
    ) in _named(EVENTS).statement("penstock", cluster="main")


def test_the_replicated_form_of_what_keeps_no_rows() -> None:
    landing = _named(LANDING).statement("penstock", cluster="main")
    assert "penstock.events_landing ON CLUSTER 'main'" in landing
    assert landing.endswith("ENGINE = Null")
    view = _named("events_landing_mv").statement("penstock", cluster="main")
    assert "penstock.events_landing_mv ON CLUSTER 'main' TO penstock.events AS" in view


def test_one_server_has_nothing_of_the_replicated_form() -> None:
    for migration in MIGRATIONS:
        statement = migration.statement("penstock")
        assert "Replicated" not in statement
        assert "ON CLUSTER" not in statement


def test_names_that_need_quotes() -> None:
    assert quoted("penstock") == "penstock"
    assert quoted("my-db") == "`my-db`"
    assert quoted("a`b") == "`a\\`b`"
    assert literal("it's") == "'it\\'s'"
    assert " `my-db`.events" in _named(EVENTS).statement("my-db")


def test_a_clusters_name_cannot_leave_its_quotes() -> None:
    sql = replicated("CREATE TABLE IF NOT EXISTS d.t\nENGINE = MergeTree", "a' OR '")
    assert "ON CLUSTER 'a\\' OR \\''" in sql


def test_an_unknown_layout() -> None:
    assert LAYOUTS == ("hybrid",)
    with pytest.raises(ValueError, match="no layout 'other'"):
        read("other")


def test_a_checksum_is_of_the_statement_alone() -> None:
    same = ("SELECT 1\n  AS n;\n", "-- why\nSELECT 1 AS n  -- one\n", "SELECT 1 AS n")
    assert len({Migration("1.sql", sql).checksum for sql in same}) == 1
    assert Migration("1.sql", "SELECT 2 AS n").checksum != Migration("1.sql", same[0]).checksum

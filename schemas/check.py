"""Compare a live database with the layout, and say what mends each difference. Reads only.

What is expected comes from the layout's own SQL (`schemas.definition` says how the two are brought
to one form). Compared are the things that the guarantees or the queries rest on: that each table
and view is there, engine and keys, columns and their types, the landing table's checks, a view's
target and query, and the deduplication windows: of each of our tables, and of the target of *any*
view that hangs on them, ours or not, because a replayed batch is written to it again.

What is more than expected is nobody's fault: further columns, constraints, indexes, a TTL, a larger
window.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError

from schemas import definition
from schemas.definition import Table
from schemas.layout import Migration, quoted, read
from schemas.tables import DEDUPLICATED, DEDUPLICATION_WINDOW, DEDUPLICATION_WINDOW_SECONDS

Name = tuple[str, str]  # database, table

_CLAUSES = {
    "PARTITION BY": "partition key",
    "PRIMARY KEY": "primary key",
    "ORDER BY": "sorting key",
}
# A block that comes twice changes nothing in these: they keep nothing, or one row a key.
_HARMLESS = frozenset({"Null", "Set", "Join", "EmbeddedRocksDB"})
_REFRESHED = re.compile(r"CREATE MATERIALIZED VIEW \S+ REFRESH ").match


@dataclass(frozen=True)
class Difference:
    """One thing that is not as the layout has it: what, and the statement that mends it."""

    what: str
    mend: str


def differences(
    client: Client, database: str | None = None, layout: str = "hybrid"
) -> list[Difference]:
    """Every difference, in the layout's order; empty when the server is as expected.

    `database` is by default the client's. Raises the client's errors when it cannot be read.
    """
    name = database or client.database or "default"
    live = _live(client, name)
    defaults = _default_settings(client)
    found: list[Difference] = []
    for migration in read(layout):
        statement = _formatted(client, migration.statement(name))
        full = f"{quoted(name)}.{migration.creates}"
        actual = live.get(migration.creates)
        if actual is None:
            found.append(Difference(f"{full} is missing", statement))
        elif statement.startswith("CREATE MATERIALIZED VIEW"):
            found.extend(_view_differences(full, statement, actual))
        else:
            found.extend(_table_differences(full, migration, statement, actual, defaults))
    for view, target, statement in other_targets(client, name, layout):
        found.extend(_target_differences(view, target, statement, defaults))
    return found


def _live(client: Client, database: str) -> Mapping[str, str]:
    """CREATE statements by name."""
    rows = client.query(
        "SELECT name, create_table_query FROM system.tables WHERE database = {database:String}",
        parameters={"database": database},
    ).result_rows
    return {str(name): str(statement) for name, statement in rows}


def _formatted(client: Client, statement: str) -> str:
    rows = client.query(
        "SELECT formatQuerySingleLine({statement:String})", parameters={"statement": statement}
    ).result_rows
    return str(rows[0][0])


def _default_settings(client: Client) -> Mapping[str, str]:
    """The windows of a table that does not set its own. Empty when we may not read them."""
    found: dict[str, str] = {}
    for source in ("merge_tree_settings", "replicated_merge_tree_settings"):
        prefix = "replicated_" if source.startswith("replicated") else "non_replicated_"
        try:
            rows = client.query(
                f"SELECT name, value FROM system.{source} "  # noqa: S608 - one of two names
                "WHERE name LIKE '%replicated_deduplication_window%'"
            ).result_rows
        except DatabaseError:
            continue
        found.update((str(n), str(v)) for n, v in rows if str(n).startswith(prefix))
    return found


def _view_differences(full: str, statement: str, actual: str) -> Iterator[Difference]:
    anew = f"DROP VIEW {full}; {statement}"
    expected = definition.view(statement)
    try:
        live = definition.view(actual)
    except ValueError:
        yield Difference(f"{full} is not a materialized view", anew.replace("VIEW", "TABLE", 1))
        return
    if live.target != expected.target:
        what = f"{full} writes to {live.target or 'itself'}, not to {expected.target}"
        yield Difference(what, anew)
    elif live.query != expected.query:
        what = f"{full} has another query"
        yield Difference(what, f"ALTER TABLE {full} MODIFY QUERY {expected.query}")


def _table_differences(
    full: str, migration: Migration, statement: str, actual: str, defaults: Mapping[str, str]
) -> Iterator[Difference]:
    expected = definition.table(statement)
    # what cannot be altered in place: the rows stay where they are, under another name
    anew = f"RENAME TABLE {full} TO {full}_before; {statement}"
    try:
        live = definition.table(actual)
    except ValueError:
        yield Difference(f"{full} is not a table", anew)
        return
    if (live.engine, live.arguments) != (expected.engine, expected.arguments):
        what = f"{full} has the engine {_engine(live)}, not {_engine(expected)}"
        yield Difference(what, anew)
        return
    if expected.engine == "Null":  # it cannot be altered, and keeps no rows that could be lost
        replaced = statement.replace("CREATE TABLE IF NOT EXISTS", "CREATE OR REPLACE TABLE", 1)
        for difference in (
            *_column_differences(full, expected, live),
            *_rules(full, expected, live),
        ):
            yield Difference(difference.what, replaced)
        return
    keys = [
        f"the {word} ({live.key(clause)}), not ({expected.key(clause)})"
        for clause, word in _CLAUSES.items()
        if expected.key(clause) != live.key(clause)
    ]
    if keys:
        yield Difference(f"{full} has {'; '.join(keys)}", anew)
        return
    yield from _column_differences(full, expected, live)
    yield from _rules(full, expected, live)
    if migration.creates in DEDUPLICATED:
        yield from _window_differences(full, live, defaults)


def _rules(full: str, expected: Table, live: Table) -> Iterator[Difference]:
    for name, rule in expected.constraints.items():
        mend = f"ALTER TABLE {full} ADD CONSTRAINT {name} CHECK {rule}"
        found = live.constraints.get(name)
        if found is None:
            yield Difference(f"{full} does not check {name} ({rule})", mend)
        elif found != rule:
            what = f"{full} checks {name} as {found}, not {rule}"
            yield Difference(what, f"ALTER TABLE {full} DROP CONSTRAINT {name}; {mend}")


def _column_differences(full: str, expected: Table, live: Table) -> Iterator[Difference]:
    before = ""
    for name, kind in expected.columns.items():
        place = f" AFTER {quoted(before)}" if before else " FIRST"
        found = live.columns.get(name)
        if found is None:
            what = f"{full} has no column {name}"
            yield Difference(what, f"ALTER TABLE {full} ADD COLUMN {quoted(name)} {kind}{place}")
        elif found != kind:
            what = f"{full} has the column {name} as {found}, not {kind}"
            yield Difference(what, f"ALTER TABLE {full} MODIFY COLUMN {quoted(name)} {kind}")
        before = name


def _window_differences(
    full: str, live: Table, defaults: Mapping[str, str], because: str = ""
) -> Iterator[Difference]:
    wanted = {"non_replicated_deduplication_window": DEDUPLICATION_WINDOW}
    if live.replicated:
        wanted = {
            "replicated_deduplication_window": DEDUPLICATION_WINDOW,
            "replicated_deduplication_window_seconds": DEDUPLICATION_WINDOW_SECONDS,
        }
    for name, least in wanted.items():
        value = int(live.settings.get(name, defaults.get(name, "0")).strip("'"))
        if value < least:
            what = f"{full} has {name} = {value}, less than {least}{because}"
            yield Difference(what, f"ALTER TABLE {full} MODIFY SETTING {name} = {least}")


def other_targets(
    client: Client, database: str, layout: str = "hybrid"
) -> Iterator[tuple[Name, Name, str]]:
    """The targets of views that the layout does not know: on our tables, on their targets, and so
    on down the chain, since a block goes all the way. (View, target, the target's statement)."""
    seen = {(database, migration.creates) for migration in read(layout)}
    tables = set(seen)
    while tables:
        views = _views_on(client, tables) - seen
        seen |= views
        tables = set()
        for view in sorted(views):
            found = _target(client, *view)
            if found is None:
                continue
            target, statement = found
            yield view, target, statement
            tables.add(target)
        tables -= seen
        seen |= tables


def _views_on(client: Client, tables: set[Name]) -> set[Name]:
    rows = client.query(
        "SELECT DISTINCT v.1, v.2 FROM system.tables ARRAY JOIN "
        "arrayZip(dependencies_database, dependencies_table) AS v "
        "WHERE (database, name) IN {tables:Array(Tuple(String, String))}",
        parameters={"tables": sorted(tables)},
    ).result_rows
    return {(str(database), str(name)) for database, name in rows}


def _target(client: Client, database: str, name: str) -> tuple[Name, str] | None:
    """The table that an insert's blocks are written to by a view, with its statement."""
    found = _statement(client, database, name)
    # one that is refreshed reads its source when it likes, and gets no blocks
    if not found or not found[0].startswith("CREATE MATERIALIZED VIEW") or _REFRESHED(found[0]):
        return None
    into = definition.view(found[0]).target
    if into is None:
        target = (database, f".inner_id.{found[1]}")
    else:
        into_database, _, into_name = into.rpartition(".")
        target = (into_database.strip("`"), into_name.strip("`"))
    statement = _statement(client, *target)
    return (target, statement[0]) if statement else None


def _statement(client: Client, database: str, name: str) -> tuple[str, str] | None:
    """(CREATE statement, UUID), or None where there is no such table."""
    rows = client.query(
        "SELECT create_table_query, toString(uuid) FROM system.tables "
        "WHERE database = {database:String} AND name = {name:String}",
        parameters={"database": database, "name": name},
    ).result_rows
    return (str(rows[0][0]), str(rows[0][1])) if rows else None


def _target_differences(
    view: tuple[str, str], target: tuple[str, str], statement: str, defaults: Mapping[str, str]
) -> Iterator[Difference]:
    by, full = (f"{quoted(database)}.{quoted(name)}" for database, name in (view, target))
    because = f": {by} writes to it, and a replayed batch would count twice there"
    try:
        table = definition.table(statement)
    except ValueError:
        return
    if table.engine.endswith("MergeTree"):
        yield from _window_differences(full, table, defaults, because)
    elif table.engine not in _HARMLESS:
        yield Difference(
            f"{full} has the engine {table.engine}, which keeps no deduplication log{because}",
            f"DROP VIEW {by}, or let it write to a MergeTree table with "
            f"non_replicated_deduplication_window = {DEDUPLICATION_WINDOW}",
        )


def _engine(table: Table) -> str:
    prefix = "Replicated" if table.replicated else ""
    return (
        f"{prefix}{table.engine}({table.arguments})" if table.arguments else prefix + table.engine
    )

"""Bring a database to the layout, and write down what was applied.

Each file is one idempotent statement (`CREATE ... IF NOT EXISTS`). It is run, then recorded in
`schema_migrations` with its checksum. What follows from that order:

- killed between the two: the next run does both again, and the first is a no-op;
- two at once: both create, one of them as a no-op; both record, and the records are one row (the
  table replaces by layout and file);
- a file that was changed after it was applied is refused before anything is run: the server still
  has what the old text made, and no statement would be run for the new one. A change is a new file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from clickhouse_connect.driver.client import Client

from schemas.connection import SchemaError
from schemas.layout import Migration, literal, qualified, quoted, read, replicated
from schemas.tables import MIGRATIONS
from schemas.version import penstock_version

_MIGRATIONS_SQL = f"""
CREATE TABLE IF NOT EXISTS {MIGRATIONS}
(
    layout     String,
    file       String,
    checksum   String,
    penstock   String,
    applied_at DateTime64(3, 'UTC')
)
ENGINE = ReplacingMergeTree(applied_at)
ORDER BY (layout, file)
"""
_INSERT_SETTINGS = {"async_insert": 0}


@dataclass(frozen=True)
class Step:
    """One statement of an application; `file` is None for those that only prepare."""

    statement: str
    migration: Migration | None = None


def steps(database: str, layout: str, cluster: str | None) -> tuple[Step, ...]:
    """Every statement that makes the layout on an empty server, in order. Pure."""
    on = f" ON CLUSTER {literal(cluster)}" if cluster is not None else ""
    migrations_sql = qualified(_MIGRATIONS_SQL, database)
    return (
        Step(f"CREATE DATABASE IF NOT EXISTS {quoted(database)}{on}"),
        Step(migrations_sql if cluster is None else replicated(migrations_sql, cluster)),
        *(Step(m.statement(database, cluster), m) for m in read(layout)),
    )


def apply(
    client: Client, database: str, *, layout: str = "hybrid", cluster: str | None = None
) -> tuple[str, ...]:
    """Apply what is missing; returns the names of the files that were applied now.

    Raises SchemaError for a file that was changed after it was applied, and the client's errors.
    """
    recorded = _recorded(client, database, layout)
    refuse_changed(read(layout), recorded)
    applied: list[str] = []
    for step in steps(database, layout, cluster):
        if step.migration is None:
            if not recorded:
                client.command(step.statement)
        elif step.migration.name not in recorded:
            client.command(step.statement)
            _record(client, database, layout, step.migration)
            applied.append(step.migration.name)
    return tuple(applied)


def pending(client: Client, database: str, layout: str = "hybrid") -> tuple[Migration, ...]:
    """The files that `apply` would run, in order. Raises SchemaError as it does."""
    recorded = _recorded(client, database, layout)
    refuse_changed(read(layout), recorded)
    return tuple(m for m in read(layout) if m.name not in recorded)


def refuse_changed(migrations: Sequence[Migration], recorded: dict[str, str]) -> None:
    for migration in migrations:
        if recorded.get(migration.name, migration.checksum) != migration.checksum:
            raise SchemaError(
                f"{migration.name} was applied with another content: put the old text back, "
                "and the change into a new file"
            )


def _recorded(client: Client, database: str, layout: str) -> dict[str, str]:
    """Checksum by file, of what was applied before."""
    known = client.query(
        "SELECT count() FROM system.tables "
        "WHERE database = {database:String} AND name = {name:String}",
        parameters={"database": database, "name": MIGRATIONS},
    ).result_rows[0][0]
    if not known:
        return {}
    rows = client.query(
        f"SELECT file, argMax(checksum, applied_at) FROM {quoted(database)}.{MIGRATIONS} "  # noqa: S608
        "WHERE layout = {layout:String} GROUP BY file",
        parameters={"layout": layout},
    ).result_rows
    return {str(file): str(checksum) for file, checksum in rows}


def _record(client: Client, database: str, layout: str, migration: Migration) -> None:
    client.command(
        f"INSERT INTO {quoted(database)}.{MIGRATIONS} "
        "(layout, file, checksum, penstock, applied_at) SELECT {layout:String}, {file:String}, "
        "{checksum:String}, {penstock:String}, now64(3, 'UTC')",
        parameters={
            "layout": layout,
            "file": migration.name,
            "checksum": migration.checksum,
            "penstock": penstock_version(),
        },
        settings=_INSERT_SETTINGS,
    )

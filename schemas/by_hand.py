"""What a person can run where a rebuild is refused: views made again while nothing is inserted.

On replicated tables a partition is not replaced (schemas/rebuild.py says why). With every consumer
stopped none has to be: rows are deleted and counted again, table by table, which leaves the
deduplication logs as they are. Between the two statements of a table its sums are missing. Days
whose events may have expired are left out, as `rebuild` leaves them.
"""

from __future__ import annotations

from collections.abc import Iterable

from clickhouse_connect.driver.client import Client

from schemas.expiry import expiry
from schemas.hold import Database
from schemas.layout import literal
from schemas.recount import view_query
from schemas.tables import EVENTS, REBUILDABLE, SUMMED

_WITHIN_SECONDS = 86_400.0  # in which they may be run


def statements(
    client: Client,
    database: str,
    partition: str,
    tables: Iterable[str] = SUMMED,
    *,
    expired: bool = False,
) -> tuple[str, ...]:
    """In the order in which they are to be run. `expired`: also the days that may have lost events.
    Raises SchemaError when a view is not as the layout has it."""
    server = Database(client, database)
    ending = () if expired else expiry(server, partition, _WITHIN_SECONDS).days
    days = ", ".join(map(literal, ending))
    made = []
    for table in (name for name in REBUILDABLE if name in set(tables)):
        its, theirs = f"toYYYYMM(date) = {partition}", f"toYYYYMM(created_at) = {partition}"
        if days:
            its += f" AND date NOT IN ({days})"
            theirs += f" AND toDate(created_at) NOT IN ({days})"
        source = f"(SELECT * FROM {server.table(EVENTS)} FINAL WHERE {theirs})"  # noqa: S608
        columns, query = view_query(server, table, source)
        made += [
            f"ALTER TABLE {server.table(table)} DELETE WHERE {its} SETTINGS mutations_sync = 2",
            f"INSERT INTO {server.table(table)} ({columns}) "
            f"SETTINGS async_insert = 0, insert_deduplicate = 0 {query}",
        ]
    return tuple(made)

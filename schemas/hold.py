"""A hold: for a moment no row can reach `events`, and what was on its way has arrived.

It is a constraint on `events`, false until a moment of the server's clock and true from then on:

    ALTER TABLE events ADD CONSTRAINT held_for_a_rebuild_<until>_<id>
        CHECK toUnixTimestamp64Milli(now64(3)) >= <until>

- **Refused at once, wholly, by name.** Each insert that begins now, through the landing table or
  straight into `events`, is refused with code 469 and the constraint's name, before a row is
  written. (It stands on `events` because a Null table takes no new constraints.)
- **It ends by itself.** Whoever placed it may die: from `until` on it is true, and refuses nothing.
  It costs a comparison a block until the next rebuild drops it.
- **Each rebuild has its own**, so that none releases another's.
- **What began before goes on.** An insert takes the table's description as it starts, and is then
  in `system.processes` already. So an insert that the constraint does not bind, and that has not
  ended, is in the list that is read after the ALTER. When all of those have left it, everything
  that was under way has arrived, in the table and behind every view, or has failed.

What does not come as an insert of this server is not seen: a Kafka or Buffer table's own flush, and
an insert on another replica.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from clickhouse_connect.driver.client import Client

from schemas.layout import literal, quoted
from schemas.tables import BATCHES, EVENTS, HOLD, REBUILDABLE, REBUILDS

SCRATCH = "rebuild"
_NAME = re.compile(rf"\bCONSTRAINT ({HOLD}_(\d+)_\w+) ")


@dataclass(frozen=True)
class Database:
    """One database, and the two ways to talk to it. A statement that writes is never sent again."""

    client: Client
    name: str

    def table(self, name: str) -> str:
        return f"{quoted(self.name)}.{quoted(name)}"

    def do(self, statement: str, **settings: object) -> None:
        """Run a statement; settings that the server does not know are left out."""
        known = {k: v for k, v in settings.items() if k in self.client.server_settings}
        self.client.command(statement, settings=known)

    def ask(self, query: str, **parameters: object) -> Sequence[Sequence[Any]]:
        rows: Sequence[Sequence[Any]] = self.client.query(query, parameters=parameters).result_rows
        return rows

    def now_ms(self) -> int:
        """The server's clock, epoch milliseconds."""
        return int(self.ask("SELECT toUnixTimestamp64Milli(now64(3))")[0][0])


def name(key: str, until_ms: int) -> str:
    """The constraint's name. `key`: the rebuild's own, letters and digits."""
    return f"{HOLD}_{until_ms}_{key}"


def place(database: Database, constraint: str, until_ms: int) -> None:
    """`until_ms`: when it ends, by the server's clock."""
    database.do(
        f"ALTER TABLE {database.table(EVENTS)} ADD CONSTRAINT {constraint} "
        f"CHECK toUnixTimestamp64Milli(now64(3)) >= {until_ms}"
    )


def release(database: Database, constraint: str) -> None:
    database.do(f"ALTER TABLE {database.table(EVENTS)} DROP CONSTRAINT IF EXISTS {constraint}")


def drop_expired(database: Database) -> tuple[str, ...]:
    """Drop what rebuilds that died have left on `events`; returns the names."""
    rows = database.ask(
        "SELECT create_table_query, toUnixTimestamp64Milli(now64(3)) FROM system.tables "
        "WHERE database = {database:String} AND name = {name:String}",
        database=database.name,
        name=EVENTS,
    )
    expired = tuple(
        constraint
        for statement, now_ms in rows
        for constraint, until_ms in _NAME.findall(statement)
        if int(until_ms) <= now_ms
    )
    for constraint in expired:
        release(database, constraint)
    return expired


def see_inserts_end(
    database: Database, go_on: Callable[[], bool], pause: Callable[[], None]
) -> str:
    """Wait until every insert that runs now has ended, while `go_on()`.

    Returns "" when they have, else the beginning of one that has not. Looked at are inserts that
    name this database, or one whose views write into it, or that run in one of those. Those of
    rebuilds into their own scratch tables, and into the tables of the views, bring nothing to it.
    """
    ends = (f"{SCRATCH}_", *(f"{name} " for name in (BATCHES, REBUILDS, *REBUILDABLE)))
    feeding = [
        row[0]
        for row in database.ask(
            "SELECT DISTINCT database FROM system.tables WHERE database = {name:String} "
            "OR (engine = 'MaterializedView' AND position(create_table_query, {into:String}) > 0)",
            name=database.name,
            into=f" TO {quoted(database.name)}.",
        )
    ]
    running = {
        query_id: text
        for query_id, text, current in database.ask(
            "SELECT query_id, query, current_database FROM system.processes "
            "WHERE query_kind IN ('Insert', 'AsyncInsertFlush')"
        )
        if not text.startswith(tuple(f"INSERT INTO {quoted(database.name)}.{end}" for end in ends))
        and (current in feeding or any(each in text for each in feeding))
    }
    while running:
        if not go_on():
            return " ".join(str(next(iter(running.values()))).split())[:100]
        pause()
        listed = ", ".join(literal(query_id) for query_id in running)
        left = database.ask(
            f"SELECT query_id FROM system.processes WHERE query_id IN ({listed})"  # noqa: S608
        )
        running = {query_id: running[query_id] for (query_id,) in left if query_id in running}
    return ""

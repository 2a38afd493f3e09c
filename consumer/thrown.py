"""Rows that a view behind `events` throws on.

They are in the table when it throws, so its SELECT is tried on them there, on ever fewer: nothing
is inserted for it. ClickHouse names the views down to the one that threw. One that reads another
view's target is given what that view makes of the rows; one that reads its source in several places
sees the same rows in each, as it does in an insert.

No error says which row it was. So each bad row takes as many tries as a batch can be halved (17 of
50 000), and where there are many the search ends in time: those that are left the next insert
leads to.
"""

from __future__ import annotations

import re
import time
from collections import defaultdict

from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError

from consumer.batch import Batch
from consumer.by_number import not_quoted
from consumer.errors import PASSING
from consumer.ledger import Source
from consumer.placing import STAMPED, placed, stamp, times
from schemas.connection import first_line
from schemas.record import Fault
from schemas.tables import EVENTS

_VIEW = re.compile(r"while pushing to view `?(\w+)`?\.`?(\w+)`?")
_ROWS = "{rows}"
# As texts: their order is known on both sides, and a list of ids would cost more than the view.
_BETWEEN_IDS = "toString(id) BETWEEN {first_id:String} AND {last_id:String}"
_SECONDS = 10.0  # of a search: what is not found by then, the next insert leads to
_TOLD = 1_000  # characters of what the server said, in a letter


def view_of(client: Client, refusal: str) -> str | None:
    """The SELECT of the view that threw, over _ROWS instead of `events`. None where no view behind
    `events` did."""
    select = None
    for database, name in reversed(_VIEW.findall(not_quoted(refusal))):  # the one that threw last
        rows = client.query(
            "SELECT database, name, database = currentDatabase() AND name = {events:String}, "
            "(SELECT as_select FROM system.tables WHERE (database, name) = "
            "({database:String}, {name:String})) FROM system.tables WHERE "
            "has(arrayZip(dependencies_database, dependencies_table), "
            "({database:String}, {name:String}))",
            parameters={"database": database, "name": name, "events": EVENTS},
        ).result_rows
        if len(rows) != 1:
            return None
        source_database, source, of_events, its_select = rows[0]
        if of_events:
            select = f"(SELECT * FROM {_ROWS})"
        if select is not None:
            select = f"({_reading(str(its_select), source_database, source, select)})"
    return select


def _reading(select: str, database: str, source: str, rows: str) -> str:
    """The same SELECT of these rows, wherever it reads its source."""
    named = re.compile(
        rf"(?P<before>\b(?:FROM|JOIN)\s+|,\s*)`?{re.escape(database)}`?\.`?{re.escape(source)}`?"
        r"(?![\w.`])(?P<alias>\s+AS\s)?"
    )
    return named.sub(
        lambda found: f"{found['before']}{rows}{found['alias'] or f' AS `{source}`'}", select
    )


def thrown_out(
    client: Client, view: str, source: Source, batch: Batch, epoch: int
) -> dict[int, Fault]:
    """Which lines of the batch the view (as `view_of` gives it) cannot take, and why. Raises what
    the client raises where the server says nothing of them."""
    lines = {index: line for index, line in enumerate(placed(batch)) if line is not None}
    bearers: defaultdict[str, list[int]] = defaultdict(list)
    for index, line in lines.items():
        bearers[line.id].append(index)
    ids = sorted(bearers)
    ours = {**stamp(source, batch, epoch), **times(lines.values())}

    def refusal(first: int, end: int) -> str:
        between = {"first_id": ids[first], "last_id": ids[end - 1]}
        return _refusal(client, view, {**ours, **between})

    until = time.monotonic() + _SECONDS
    found: dict[int, Fault] = {}
    good = 0
    while good < len(ids) and (not found or time.monotonic() < until):
        bad = len(ids)
        why = refusal(good, bad)
        if not why:
            break
        while bad - good > 1:  # the first bad one is in [good, bad)
            middle = (good + bad) // 2
            said = refusal(good, middle)
            good, bad, why = (good, middle, said) if said else (middle, bad, why)
        found |= dict.fromkeys(bearers[ids[good]], Fault("refused", why))
        good = bad
    return found


def _refusal(client: Client, view: str, parameters: dict[str, object]) -> str:
    """Why the view cannot take these rows; empty where it can."""
    try:
        client.raw_query(
            view.replace(_ROWS, f"{EVENTS} WHERE {STAMPED} AND {_BETWEEN_IDS}"),
            parameters=parameters,
            fmt="Null",
        )
    except DatabaseError as error:
        if error.code is None or error.code in PASSING:
            raise
        return first_line(error)[:_TOLD]
    return ""

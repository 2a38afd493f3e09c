"""Rows that a view on `events` throws on.

They are in the table when it throws, so its SELECT is tried on them there, on ever fewer: nothing
is inserted for it.
"""

from __future__ import annotations

import re

from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError

from consumer.batch import Batch
from consumer.by_number import not_quoted
from consumer.ledger import Source
from consumer.placing import STAMPED, Placed, among, parts, placed, stamp, times
from schemas.record import Fault
from schemas.tables import EVENTS

_VIEW = re.compile(r"while pushing to view `?(\w+)`?\.`?(\w+)`?")
_LOOKS = 2_000  # tries of a view, in a search for the rows that it cannot take


def view_of(client: Client, refusal: str) -> str | None:
    """The SELECT of the view on `events` that threw, over `{rows}` instead of `events`."""
    for database, name in _VIEW.findall(not_quoted(refusal)):
        rows = client.query(
            "SELECT as_select FROM system.tables "
            "WHERE database = {database:String} AND name = {name:String}",
            parameters={"database": database, "name": name},
        ).result_rows
        of_events = re.compile(rf"\bFROM `?{database}`?\.`?{EVENTS}`?(?= AS | *$|\s)")
        select = rows[0][0] if rows else ""
        if len(of_events.findall(select)) == 1:
            source = of_events.search(select)
            assert source is not None
            before, after = select[: source.start()], select[source.end() :]
            alias = "" if after.lstrip().startswith("AS ") else f" AS {EVENTS}"
            return f"{before}FROM {{rows}}{alias}{after}"
    return None


def thrown_out(
    client: Client, view: str, source: Source, batch: Batch, epoch: int
) -> dict[int, Fault]:
    """Which lines of the batch the view (as `view_of` gives it) cannot take, and why."""
    lines = {i: line for i, line in enumerate(placed(batch)) if line is not None}
    found: dict[int, Fault] = {}
    looks = 0
    suspects = parts(list(lines))
    while suspects and looks < _LOOKS:
        some = suspects.pop()
        looks += 1
        why = _refusal(client, view, source, batch, epoch, [lines[i] for i in some])
        if not why:
            continue
        if len(some) == 1:
            found[some[0]] = Fault("refused", why)
        else:
            half = len(some) // 2
            suspects += [some[half:], some[:half]]
    return found


def _refusal(
    client: Client, view: str, source: Source, batch: Batch, epoch: int, lines: list[Placed]
) -> str:
    """Why the view cannot take these rows; empty where it can."""
    rows = f"(SELECT * FROM {EVENTS} WHERE {STAMPED} AND {among(lines)})"
    try:
        client.raw_query(
            view.replace("{rows}", rows),
            parameters={**stamp(source, batch, epoch), **times(lines)},
            fmt="Null",
        )
    except DatabaseError as error:
        return (str(error).strip() or "refused").splitlines()[0][:1000]
    return ""

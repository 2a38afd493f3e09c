"""Lines that ClickHouse refuses by their number, and that nothing here explains.

A refusal names one row, the first that could not be read, and says nothing of those after it. To
learn of them by inserting again would take as many inserts as there are bad lines, and past the
insert's deadline it would begin anew. So the lines that follow are read by the server once more and
thrown away: `null()` is a table function that takes rows of any columns and keeps none. Given those
of the landing table, it reads them as an insert does.

A constraint's refusal names its row too, but `null()` has no constraints: of such lines each insert
finds one.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence

from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError

from schemas.connection import told
from schemas.tables import LANDING

_AT_ONCE = 2_000  # lines at first: twice as many after good ones, near a bad line's distance else
_LEAST_AT_ONCE = 200
_TOLD = 1_000  # characters of what the server said, in a letter
_SECONDS = 10.0  # what is not found by then, the next insert names

# A number in a text that is quoted must not be taken for the server's own: a constraint's stands
# before what it quotes, a row's after.
_CONSTRAINT = re.compile(r"[^:]*code: 469,.*? is violated at row (\d+)\.", re.DOTALL)
_AT_ROW = re.compile(r"\(at row (\d+)\)")


def row_of(refusal: str) -> int | None:
    """The index of the row that a refusal names."""
    if (broken := _CONSTRAINT.match(refusal)) is not None:
        return int(broken[1]) - 1
    named = _AT_ROW.findall(refusal)
    return int(named[-1]) - 1 if named else None


def read_before(refusal: str) -> int:
    """How many lines, from the first on, the server had read when it came to one that it could not.
    None, where something else than reading failed: a constraint is checked when all is read, and
    names the first row of those that break this one."""
    return 0 if _CONSTRAINT.match(refusal) else row_of(refusal) or 0


def not_quoted(refusal: str) -> str:
    """What a refusal says behind the text of the row that it quotes."""
    return _AT_ROW.split(refusal)[-1]


def unreadable(
    client: Client, settings: Mapping[str, int], lines: Sequence[bytes], refusal: str
) -> dict[int, str]:
    """The line that was named, and those after it that the server cannot read either; each with
    what it said. `settings`: those of an insert. Each line has to be one object."""
    named = row_of(refusal)
    if named is None or not 0 <= named < len(lines):
        return {}
    found = {named: refusal[:_TOLD]}
    if _CONSTRAINT.match(refusal):
        return found
    nowhere = _nowhere(client)
    until = time.monotonic() + _SECONDS
    at, size = named + 1, _AT_ONCE
    while at < len(lines) and time.monotonic() < until:
        some = lines[at : at + size]
        try:
            client.raw_insert(
                nowhere, insert_block=b"\n".join(some), fmt="JSONEachRow", settings=dict(settings)
            )
        except DatabaseError as error:
            row = row_of(str(error))
            if row is None or not 0 <= row < len(some):
                break  # no right to do this, perhaps
            found[at + row] = told(error)[:_TOLD]
            at += row + 1
            size = max(_LEAST_AT_ONCE, 2 * row)
        else:
            at += size
            size *= 2
    return found


def _nowhere(client: Client) -> str:
    """What takes the rows of the landing table, and keeps none."""
    columns = client.query(
        "SELECT name, type FROM system.columns WHERE database = currentDatabase() "
        "AND table = {table:String} AND default_kind NOT IN ('MATERIALIZED', 'ALIAS') "
        "ORDER BY position",
        parameters={"table": LANDING},
    ).result_rows
    structure = ", ".join(f"`{name}` {kind}" for name, kind in columns)
    quoted = structure.replace("\\", "\\\\").replace("'", "\\'")
    return f"FUNCTION null('{quoted}')"

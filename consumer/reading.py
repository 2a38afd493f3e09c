"""What it takes to have the server read lines without inserting them, as an insert would."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from clickhouse_connect.driver.client import Client

from schemas.tables import LANDING

# A statement is short enough for the embedded front (1 MiB), also where each byte is escaped.
_BYTES_AT_ONCE = 1 << 18

ERRORS_ALLOWED = {
    "input_format_allow_errors_num": 1 << 40,
    "input_format_allow_errors_ratio": 1.0,
}

# Behind each line where errors are allowed. Some types are read by a fixed count of bytes, past the
# end of a line that is too short (a UUID's 36): what is left of it after the error must not be the
# next line's.
GAP = " " * 64


def structure(client: Client) -> str:
    """The columns that an insert into the landing table fills, as a table function takes them."""
    columns = client.query(
        "SELECT name, type FROM system.columns WHERE database = currentDatabase() "
        "AND table = {table:String} AND default_kind NOT IN ('MATERIALIZED', 'ALIAS') "
        "ORDER BY position",
        parameters={"table": LANDING},
    ).result_rows
    return ", ".join(f"`{name}` {kind}" for name, kind in columns)


def parts(lines: Sequence[bytes | str], most: int | None = None) -> Iterator[range]:
    """The lines in parts that fit into a statement's text. `most`: lines of a part."""
    first, size = 0, 0
    for index, line in enumerate(lines):
        if index > first and (size + len(line) > _BYTES_AT_ONCE or index - first == most):
            yield range(first, index)
            first, size = index, 0
        size += len(line)
    if lines:
        yield range(first, len(lines))

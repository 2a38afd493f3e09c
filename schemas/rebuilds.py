"""The record of rebuilds: what can have been replaced since when, and what was cut off.

A row a hold, written before anything is replaced, and again when all is done (the table keeps the
later one). The times are the server's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from clickhouse_connect.driver.client import Client

from schemas.hold import Database
from schemas.layout import literal
from schemas.tables import REBUILDS

_STILL_RUNS_SECONDS = 60.0
_PARTLY = " in part"


def write(
    server: Database,
    key: str,
    partition: str,
    tables: Sequence[str],
    *,
    began_ms: int,
    until_ms: int,
    finished: bool,
    partly: bool = False,
) -> None:
    """`key` names the rebuild, `until_ms` the end of this hold of it. `partly`: it keeps the sums
    of some days, and so proves nothing of them: its tables have other names here."""
    values = (
        literal(key),
        literal(partition),
        f"[{', '.join(literal(table + _PARTLY * partly) for table in tables)}]",
        f"fromUnixTimestamp64Milli({began_ms}, 'UTC')",
        f"fromUnixTimestamp64Milli({until_ms}, 'UTC')",
        "now64(3, 'UTC')" if finished else "toDateTime64(0, 3, 'UTC')",
    )
    server.do(
        f"INSERT INTO {server.table(REBUILDS)} "
        "(id, clickhouse_partition, tables, began_at, hold_until, finished_at) "
        f"SELECT {', '.join(values)}",
        async_insert=0,
        insert_deduplicate=0,
    )


def rebuilt_since(
    client: Client, database: str, partitions: Iterable[str], since_ms: int
) -> frozenset[str]:
    """Those of the ClickHouse partitions that a rebuild can have replaced at or after `since_ms`
    (epoch milliseconds of the server's clock), also one that was cut off, or has yet to."""
    server = Database(client, database)
    rows = server.ask(
        f"SELECT DISTINCT clickhouse_partition FROM {server.table(REBUILDS)} "  # noqa: S608
        "WHERE clickhouse_partition IN {partitions:Array(String)} "
        "AND toUnixTimestamp64Milli(hold_until) >= {since:Int64}",
        partitions=sorted(set(partitions)),
        since=since_ms,
    )
    return frozenset(row[0] for row in rows)


def others_since(server: Database, key: str, partition: str, since_ms: int) -> bool:
    """Whether a rebuild other than `key` can have replaced this ClickHouse partition at or after
    `since_ms`, or has yet to."""
    rows = server.ask(
        f"SELECT count() FROM {server.table(REBUILDS)} FINAL "  # noqa: S608
        "WHERE clickhouse_partition = {partition:String} AND id != {key:String} "
        "AND toUnixTimestamp64Milli(if(toUnixTimestamp(finished_at) > 0, finished_at, hold_until)) "
        ">= {since:Int64}",
        partition=partition,
        key=key,
        since=since_ms,
    )
    return bool(rows[0][0])


def counted_after(
    client: Client, database: str, partitions: Iterable[str], tables: Sequence[str], since_ms: int
) -> frozenset[str]:
    """Those of the ClickHouse partitions of which a rebuild of all these tables began at or after
    `since_ms` (epoch milliseconds of the server's clock) and finished: what was in `events` by then
    is counted. One that kept the sums of some days is none of them."""
    server = Database(client, database)
    rows = server.ask(
        f"SELECT DISTINCT clickhouse_partition FROM {server.table(REBUILDS)} FINAL "  # noqa: S608
        "WHERE clickhouse_partition IN {partitions:Array(String)} "
        "AND hasAll(tables, {tables:Array(String)}) AND toUnixTimestamp(finished_at) > 0 "
        "AND toUnixTimestamp64Milli(began_at) >= {since:Int64}",
        partitions=sorted(set(partitions)),
        tables=list(tables),
        since=since_ms,
    )
    return frozenset(row[0] for row in rows)


def cut_off(
    client: Client, database: str, quiet_seconds: float = _STILL_RUNS_SECONDS
) -> Mapping[str, tuple[str, ...]]:
    """By ClickHouse partition, the tables whose last rebuild held and did not finish, and has been
    quiet since. They can be wrong: the server may have been killed within the replacement. One that
    kept the sums of some days may have kept wrong ones, and mends nothing that others left."""
    server = Database(client, database)
    rows = server.ask(
        "SELECT clickhouse_partition, groupArray(name) FROM ("  # noqa: S608
        "SELECT clickhouse_partition, name, maxIf(hold_until, finished_at = 0) AS begun, "
        "maxIf(hold_until, finished_at > 0) AS done FROM (SELECT clickhouse_partition, "
        f"arrayJoin(tables) AS each, replaceOne(each, '{_PARTLY}', '') AS name, hold_until, "
        "toUnixTimestamp(finished_at) AS finished_at "
        f"FROM {server.table(REBUILDS)} FINAL WHERE id NOT IN (SELECT id "
        f"FROM {server.table(REBUILDS)} FINAL WHERE toUnixTimestamp(finished_at) > 0 "
        f"AND arrayExists(t -> endsWith(t, '{_PARTLY}'), tables))) "
        "GROUP BY clickhouse_partition, name "
        "HAVING begun > done AND toUnixTimestamp64Milli(begun) < "
        f"toUnixTimestamp64Milli(now64(3)) - {int(quiet_seconds * 1000)} "
        "ORDER BY clickhouse_partition, name) GROUP BY clickhouse_partition"
    )
    return {partition: tuple(sorted(tables)) for partition, tables in rows}

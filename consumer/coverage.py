"""What the table covers of one Kafka partition: the ledger's lines, and the stamps in the rows.

Behind a commit of our own that is a batch or two. Behind one that is not ours it is all that the
log still has, which can be millions: then runs of batches that need nothing are **folded** into one
each by the server, or a reset of a busy site's offsets could not be planned in the time that a
group gives its members. A batch may be folded where

- the ledger has every row of it and the rows have a stamp for every line of that (it is complete),
- no other batch reaches into its range (else offsets would be said to be covered that are not),
- it begins where the one before it ends, under the same version of the rows' rules,

and only where all are too old to be replayed, as a replay needs its own range: `recovery.plan` then
mends, and of complete batches it takes nothing but ends, epochs and ClickHouse partitions.
"""

from __future__ import annotations

from clickhouse_connect.driver.client import Client

from consumer.ledger import Source
from consumer.recovery import Covered
from schemas.connection import SchemaError
from schemas.tables import BATCHES, EVENTS

_IN_LEDGER = (
    "topic_id = {topic_id:String} AND partition = {partition:UInt32} AND end > {offset:UInt64}"
)

# One line a ClickHouse partition of a batch, of the ledger or of the rows. A line that was written
# twice counts once; one that was restored from the rows knows no more than they, and has 0 for what
# its batch announced.
_LINES = f"""
SELECT first, end, epoch, clickhouse_partition AS part, 1 AS in_ledger, min(landed_at) AS at,
    max(rows) AS most_rows, max(expected_rows) AS expected, max(rows_version) AS version,
    max(announced_at) AS announced
FROM {BATCHES}
WHERE {_IN_LEDGER}
GROUP BY first, end, epoch, part"""  # noqa: S608

# The ledger is written by a view, and can lack, or have alone, what a crash cut off.
_STAMPS = f"""
UNION ALL
SELECT _first, _end, _epoch, _partition_id AS part, 0, toDateTime64(0, 3, 'UTC'), 0, 0, 0,
    toDateTime64(0, 3, 'UTC')
FROM {EVENTS}
WHERE _topic_id = {{topic_id:String}} AND _partition = {{partition:UInt32}}
    AND _end > {{offset:UInt64}}
GROUP BY _first, _end, _epoch, part"""  # noqa: S608

_BATCHES = """
SELECT first, end, epoch,
    groupUniqArrayIf(part, in_ledger) AS listed, groupUniqArrayIf(part, NOT in_ledger) AS stamped,
    toUnixTimestamp64Milli(minIf(at, in_ledger)) AS landed_ms, sum(most_rows) AS listed_rows,
    max(expected) AS expected_rows, max(version) AS rows_version,
    toUnixTimestamp64Milli(max(announced)) AS announced_ms
FROM ({lines}) GROUP BY first, end, epoch"""

_FOLDED = """
SELECT min(first), max(end), max(epoch), groupUniqArrayArray(listed),
    groupUniqArrayArray(stamped), min(landed_ms), sum(listed_rows), sum(expected_rows),
    max(rows_version), max(announced_ms)
FROM (
    SELECT *, sum(begins) OVER (ORDER BY first, end, epoch) AS run
    FROM (
        SELECT *, NOT (quiet AND lagInFrame(quiet, 1, false) OVER one_by_one
            AND lagInFrame(end, 1, 0) OVER one_by_one = first
            AND lagInFrame(rows_version, 1, 0) OVER one_by_one = rows_version) AS begins
        FROM (
            SELECT *, notEmpty(listed) AND listed_rows = expected_rows
                AND hasAll(stamped, listed) AND first >= max(end) OVER before
                AND end <= leadInFrame(first, 1, end) OVER after AS quiet
            FROM ({batches})
            WINDOW before AS (ORDER BY first, end, epoch
                    ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING),
                after AS (ORDER BY first, end, epoch
                    ROWS BETWEEN CURRENT ROW AND 1 FOLLOWING)
        )
        WINDOW one_by_one AS (ORDER BY first, end, epoch
            ROWS BETWEEN 1 PRECEDING AND CURRENT ROW)
    )
)
GROUP BY run"""


def covered(
    client: Client,
    source: Source,
    offset: int,
    *,
    whole: bool,
    clock_ahead_ms: int,
    foldable_from: int,
) -> tuple[Covered, ...]:
    """Every batch that ends past `offset`, in order. `whole`: with the stamps in the rows.

    `clock_ahead_ms`: of the server's clock. `foldable_from`: how many lines of the ledger make
    everything too old to be replayed. Raises ClickHouseError, and SchemaError while rows are being
    deleted."""
    at = {"topic_id": source.topic_id, "partition": source.partition, "offset": offset}
    lines = _LINES
    if whole:
        _refuse_deletions(client)
        lines += _STAMPS
    asked = _BATCHES.format(lines=lines)
    if whole and _many(client, at, foldable_from):
        asked = _FOLDED.format(batches=asked)
    found = []
    for first, end, epoch, listed, stamped, landed_ms, rows, *announced in client.query(
        asked, parameters=at
    ).result_rows:
        known = bool(listed)
        found.append(
            Covered(
                first=first,
                end=end,
                epoch=epoch,
                stamped=frozenset(stamped),
                listed=frozenset(listed),
                landed_ms=landed_ms - clock_ahead_ms if known else 0,
                listed_rows=rows,
                expected_rows=announced[0] or None,
                version=announced[1] or None,
                announced_ms=announced[2] or None,
            )
        )
    return tuple(sorted(found, key=lambda c: (c.first, c.end, c.epoch)))


def _many(client: Client, at: dict[str, object], foldable_from: int) -> bool:
    lines = client.query(
        f"SELECT count() FROM {BATCHES} WHERE {_IN_LEDGER}",  # noqa: S608
        parameters=at,
    ).result_rows[0][0]
    return bool(lines >= foldable_from)


def _refuse_deletions(client: Client) -> None:
    """Rows that a rewind is still taking out are seen until the server has done with it, also when
    whoever began it is gone: they are not there."""
    unfinished = client.query(
        "SELECT count() FROM system.mutations WHERE database = currentDatabase() "
        "AND table = {table:String} AND NOT is_done AND NOT is_killed "
        "AND position(command, '_topic_id') > 0",
        parameters={"table": EVENTS},
    ).result_rows[0][0]
    if unfinished:
        raise SchemaError(f"the server is still deleting batches from {EVENTS}, for a rewind")

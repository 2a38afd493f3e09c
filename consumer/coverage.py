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

Finding the runs costs the server seconds over a million batches. Where a crash or a reset was is in
few places, and the rest is told faster: the offsets are cut into **stretches**, and of each one
row says whether all of its batches may be folded. Only the others are looked at batch by batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from clickhouse_connect.driver.client import Client

from consumer.ledger import Source
from consumer.recovery import Covered
from schemas.connection import SchemaError
from schemas.tables import BATCHES, EVENTS

_IN_LEDGER = (
    "topic_id = {topic_id:String} AND partition = {partition:UInt32} AND end > {offset:UInt64}"
)
_IN_ROWS = (
    "_topic_id = {topic_id:String} AND _partition = {partition:UInt32} AND _end > {offset:UInt64}"
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
WHERE {_IN_ROWS}
GROUP BY _first, _end, _epoch, part"""  # noqa: S608

_BATCHES = """
SELECT first, end, epoch,
    groupUniqArrayIf(part, in_ledger) AS listed, groupUniqArrayIf(part, NOT in_ledger) AS stamped,
    toUnixTimestamp64Milli(minIf(at, in_ledger)) AS landed_ms, sum(most_rows) AS listed_rows,
    max(expected) AS expected_rows, max(version) AS rows_version,
    toUnixTimestamp64Milli(max(announced)) AS announced_ms
FROM ({lines}) {only} GROUP BY first, end, epoch"""

_LEFT_OPEN = "WHERE intDiv(first, {width:UInt64}) IN {left_open:Array(UInt64)}"

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

_LEDGER = f"""
SELECT count(), groupUniqArray(clickhouse_partition), max(first) - min(first),
    toUnixTimestamp64Milli(min(landed_at)), toUnixTimestamp64Milli(max(announced_at))
FROM {BATCHES}
WHERE {_IN_LEDGER}"""  # noqa: S608

_STRETCHES = 256  # or one more: so few that a statement can name those that are left open

# A ClickHouse partition is a bit, as sets of them cost too much: those of the ledger from bit 1 on,
# and bit 0 is any that no line of it names.
_BITS = 63

# The key is `first` alone, as all that names a batch takes a quarter longer. Batches that begin
# alike reach into one another, and leave their stretch open.
#
# So does a line that was written twice: it is a line more, but not a bit more.
#
# Where each begins elsewhere, they follow one another if and only if all ends but the last are all
# beginnings but the first: then, at every offset, one more has begun than has ended.
_FOLDED_STRETCHES = f"""
SELECT intDiv(first, {{width:UInt64}}) AS stretch, min(first), max(last_end), max(last_epoch),
    groupBitOr(listed), sum(listed_rows), max(rows_version),
    min(first_end = last_end AND first_epoch = last_epoch AND listed = stamped
            AND NOT bitTest(listed, 0) AND bitCount(listed) = listed_lines
            AND listed_rows = announced_rows)
        AND min(rows_version) = max(rows_version)
        AND arrayPopFront(arraySort(groupArray(first)))
            = arrayPopBack(arraySort(groupArray(last_end))) AS foldable
FROM (
    SELECT first, min(end) AS first_end, max(end) AS last_end, min(epoch) AS first_epoch,
        max(epoch) AS last_epoch, groupBitOr(line) AS listed, groupBitOr(stamp) AS stamped,
        sum(in_ledger) AS listed_lines, sum(rows) AS listed_rows,
        max(expected_rows) AS announced_rows, max(version) AS rows_version
    FROM (
        SELECT first, end, epoch,
            bitShiftLeft(toUInt64(1), indexOf({{parts:Array(String)}}, clickhouse_partition))
                AS line,
            toUInt64(0) AS stamp, 1 AS in_ledger, rows, expected_rows, rows_version AS version
        FROM {BATCHES}
        WHERE {_IN_LEDGER}
        UNION ALL
        SELECT _first, _end, _epoch, 0,
            bitShiftLeft(toUInt64(1), indexOf({{parts:Array(String)}}, _partition_id)), 0, 0, 0, 0
        FROM {EVENTS}
        WHERE {_IN_ROWS}
    )
    GROUP BY first
)
GROUP BY stretch
ORDER BY stretch"""  # noqa: S608


@dataclass(frozen=True, slots=True)
class _Ledger:
    """All lines past the offset. `span`: between the first beginning and the last."""

    lines: int
    parts: Sequence[str]
    span: int
    landed_ms: int
    announced_ms: int

    @property
    def width(self) -> int:
        """Of a stretch, in offsets."""
        return self.span // _STRETCHES + 1


@dataclass(frozen=True, slots=True)
class _Stretch:
    """The batches that begin in a stretch of offsets, from `first` to `end`. `parts`: as bits.
    `foldable`: as far as they know of themselves."""

    number: int
    first: int
    end: int
    epoch: int
    parts: int
    rows: int
    version: int
    foldable: bool


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
    at: dict[str, object] = {
        "topic_id": source.topic_id,
        "partition": source.partition,
        "offset": offset,
    }
    if not whole:
        return _in_order(_read(client, _BATCHES.format(lines=_LINES, only=""), at, clock_ahead_ms))
    _refuse_deletions(client)
    batches, only = _BATCHES, ""
    folded: list[Covered] = []
    ledger = _Ledger(*client.query(_LEDGER, parameters=at).result_rows[0])
    if ledger.lines >= foldable_from:
        batches = _FOLDED.format(batches=_BATCHES)
        folded, left_open = _by_stretch(client, at, ledger, clock_ahead_ms)
        if not left_open:
            return tuple(folded)
        if folded:
            at |= {"width": ledger.width, "left_open": left_open}
            only = _LEFT_OPEN
    asked = batches.format(lines=_LINES + _STAMPS, only=only)
    return _in_order([*folded, *_read(client, asked, at, clock_ahead_ms)])


def _in_order(batches: Iterable[Covered]) -> tuple[Covered, ...]:
    return tuple(sorted(batches, key=lambda c: (c.first, c.end, c.epoch)))


def _read(
    client: Client, asked: str, at: dict[str, object], clock_ahead_ms: int
) -> Iterator[Covered]:
    for first, end, epoch, listed, stamped, landed_ms, rows, *announced in client.query(
        asked, parameters=at
    ).result_rows:
        known = bool(listed)
        yield Covered(
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


def _by_stretch(
    client: Client, at: dict[str, object], ledger: _Ledger, clock_ahead_ms: int
) -> tuple[list[Covered], list[int]]:
    """What can be folded at a glance, and the numbers of the stretches that are left open. Nothing,
    where most are: then all is looked at.

    When what is folded landed and was announced is said of the ledger as a whole: the oldest of all
    is what is asked of the one, and of the other that it is too old."""
    if len(ledger.parts) > _BITS:
        return [], [0]
    asked = {**at, "width": ledger.width, "parts": ledger.parts}
    stretches = [
        _Stretch(*row) for row in client.query(_FOLDED_STRETCHES, parameters=asked).result_rows
    ]
    folded: list[_Stretch] = []
    left_open: list[int] = []
    reached = 0
    following = [s.first for s in stretches[1:]]
    for s, next_first in zip_longest(stretches, following):
        # as it is of the batches: none reaches into the range of another
        if s.foldable and reached <= s.first and (next_first is None or s.end <= next_first):
            folded.append(s)
        else:
            left_open.append(s.number)
        reached = max(reached, s.end)
    if len(left_open) > len(folded):
        return [], left_open
    return [
        Covered(
            first=s.first,
            end=s.end,
            epoch=s.epoch,
            stamped=parts,
            listed=parts,
            landed_ms=ledger.landed_ms - clock_ahead_ms,
            listed_rows=s.rows,
            expected_rows=s.rows,
            version=s.version or None,
            announced_ms=ledger.announced_ms or None,
        )
        for s in folded
        for parts in [frozenset(p for bit, p in enumerate(ledger.parts, 1) if s.parts >> bit & 1)]
    ], left_open


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

"""What hangs on the rows of `events`, put right from them; and a range of batches taken out.

The stamps in `events` say which batches are there. `restore` makes the rest agree with them for a
range of offsets, after a doubt:

1. the ledger rows (`batches`) that are missing are written, with the rows that are there. How many
   a batch announced is not known where all its rows in the ledger are missing: 0 says so. What is
   there may be a part of it, and must not be taken for the whole;
2. the range's events are written to `sessions` once more, which is idempotent by id;
3. the sums of the given ClickHouse partitions are rebuilt (schemas/rebuild.py), but for days whose
   events may have expired.

What cannot be rebuilt however often it is tried, because the tables are replicated or the events
are gone, stays as it is, and is told (`Doubt`), and so are views that are not the layout's: a
restore comes to an end. Each step can be done twice, so all of it can be run again after a crash
anywhere. The inserts go straight into their tables, without a token: no other view fires on them,
nothing is stamped, and nothing enters a deduplication log.

A range is taken out in an order that a crash cannot hide:

    touched = remove(...)     ledger completed; rows deleted from `events`, and seen to be gone
    rebuild(each of touched, REBUILDABLE)
    forget(...)               ledger rows deleted

Until `forget` the ledger names every ClickHouse partition of the range: run from the beginning
again, `remove` returns the same ones. The tokens of removed batches stay taken in the deduplication
logs, so the range has to come back under another epoch. While it is taken out nobody may insert
into it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from clickhouse_connect.driver.client import Client

from schemas.check import other_targets
from schemas.connection import SchemaError
from schemas.hold import Database
from schemas.layout import literal
from schemas.rebuild import Rebuilt, Refused, rebuild, uptime_clock
from schemas.rebuilds import cut_off
from schemas.recount import Course, view_query
from schemas.tables import BATCHES, EVENTS, SESSIONS, SUMMED

_LARGEST = (1 << 63) - 1
_PAUSE_SECONDS = 0.05
_ROWS_AN_INSERT = 10_000
_LEDGER = (
    "topic_id, topic, partition, first, end, expected_rows, epoch, clickhouse_partition, rows, "
    "landed_at"
)
_QUIETLY = {
    "async_insert": 0,
    "insert_deduplicate": 0,
    "insert_deduplication_token": "",
    "max_partitions_per_insert_block": 0,
}


@dataclass(frozen=True)
class Doubt:
    """Sums of `tables` in a ClickHouse partition that may be wrong and cannot be restored: why, and
    what a person can do."""

    partition: str
    tables: tuple[str, ...]
    why: str
    mend: str


@dataclass(frozen=True)
class Restored:
    """`ledger_rows` that were missing and are written; `events` that were added to `sessions` once
    more; the ClickHouse partitions whose sums were made again; the sums that may be wrong, and
    were left so."""

    ledger_rows: int
    events: int
    rebuilt: tuple[Rebuilt, ...]
    doubts: tuple[Doubt, ...] = ()


@dataclass(frozen=True, slots=True)
class Span:
    """The batches of a Kafka partition in [first, end), or from `first` on where `end` is None."""

    topic_id: str
    partition: int
    first: int
    end: int | None = None

    def __str__(self) -> str:
        return f"[{self.first}, {self.end or '...'})"

    @property
    def last(self) -> int:
        return _LARGEST if self.end is None else self.end

    @property
    def overlapping(self) -> str:
        """Of `events`: rows of batches that share an offset with it."""
        return f"{self._stamped} AND _first < {self.last:d} AND _end > {self.first:d}"

    @property
    def within(self) -> str:
        """Of `events`: rows of batches that lie in it."""
        return f"{self._stamped} AND _first >= {self.first:d} AND _end <= {self.last:d}"

    @property
    def ledger_overlapping(self) -> str:
        return f"{self._listed} AND first < {self.last:d} AND end > {self.first:d}"

    @property
    def ledger_within(self) -> str:
        return f"{self._listed} AND first >= {self.first:d} AND end <= {self.last:d}"

    @property
    def _stamped(self) -> str:
        return f"_topic_id = {literal(self.topic_id)} AND _partition = {self.partition:d}"

    @property
    def _listed(self) -> str:
        return f"topic_id = {literal(self.topic_id)} AND partition = {self.partition:d}"


def restore(
    client: Client,
    database: str,
    span: Span,
    partitions: Iterable[str],
    *,
    seconds: float,
    topic: str = "",
    counted: Collection[str] = (),
    last: bool = False,
) -> Restored:
    """Make ledger, sessions and sums agree with `events`, for the batches that share an offset with
    the span, and for the sums of ClickHouse `partitions`, within `seconds` each, but those that
    others have just `counted` again.

    `topic`: the name for ledger rows where no other row of the topic has it. `last`: what cannot be
    rebuilt is a doubt, whatever the reason. Raises as `rebuild`, but for what is `Refused`, and
    only after all that can be rebuilt was.
    """
    server = Database(client, database)
    written = _complete_ledger(server, span, topic)
    events = _add_sessions(server, span.overlapping)
    rebuilt: list[Rebuilt] = []
    wanted = sorted(set(partitions))
    doubts = list(_in_other_views(server, span, wanted))
    failed: SchemaError | None = None
    for each in wanted:
        if each in counted:
            continue
        try:
            done = rebuild(client, database, each, seconds=seconds, whole_days=True)
        except SchemaError as error:
            if last or isinstance(error, Refused):
                doubts.append(Doubt(each, SUMMED, str(error), _by_hand(each)))
            else:
                failed = failed or error
            continue
        if done.holds:
            rebuilt.append(done)
        if done.kept:
            doubts += _in_kept_days(server, span, each, done.kept)
    if failed is not None:
        raise failed
    return Restored(written, events, tuple(rebuilt), tuple(doubts))


def remove(
    client: Client,
    database: str,
    span: Span,
    *,
    seconds: float,
    fence: Callable[[], None] = lambda: None,
    sleep: Callable[[float], None] = time.sleep,
) -> frozenset[str]:
    """Delete from `events` the rows of the batches that lie in the span.

    Returns the ClickHouse partitions that they touched, of which every view has to be rebuilt, and
    then `forget` called. `fence` is called just before the deletion, and prevents it by raising.
    Raises SchemaError, and deletes nothing, when a batch lies in the span only in part: which of
    its rows belong to which offset cannot be told.
    """
    server = Database(client, database)
    _refuse_cut(server, span)
    _complete_ledger(server, span, "")
    touched = server.ask(
        f"SELECT DISTINCT clickhouse_partition FROM {server.table(BATCHES)} "  # noqa: S608
        f"WHERE {span.ledger_within}"
    )
    _delete(server, EVENTS, span.within, _course(seconds, sleep), fence)
    return frozenset(row[0] for row in touched)


def forget(
    client: Client,
    database: str,
    span: Span,
    *,
    seconds: float,
    fence: Callable[[], None] = lambda: None,
) -> None:
    """Delete the ledger rows of the batches that lie in the span: the last step of taking them out.
    `fence` as for `remove`. Raises SchemaError when `events` still has rows of them."""
    server = Database(client, database)
    if _count(server, EVENTS, span.within):
        raise SchemaError(f"{server.table(EVENTS)} still has rows of {span}")
    _delete(server, BATCHES, span.ledger_within, _course(seconds, time.sleep), fence)


def _by_hand(partition: str) -> str:
    return (
        "stop every consumer with SIGTERM, and see that it ended by itself; then run what "
        f"penstock-schemas rebuild --partition {partition} --by-hand prints"
    )


def _in_other_views(server: Database, span: Span, partitions: Sequence[str]) -> Iterator[Doubt]:
    """Views that are not of a layout fire on what is inserted, and on nothing else: of a batch that
    landed before its views, or in part, they may lack rows, and which nobody can tell."""
    if not partitions:
        return
    names = tuple(".".join(view) for view, _, _ in other_targets(server.client, server.name))
    if names:
        yield Doubt(
            ", ".join(partitions),
            names,
            f"views that are not of the layout may lack rows of {span}",
            "make the tables that they write to again from events",
        )


def _in_kept_days(
    server: Database, span: Span, partition: str, kept: Sequence[str]
) -> Iterator[Doubt]:
    """Of days that were not counted again: whether batches of the span have rows there, or had, or
    a rebuild that was cut off may have left them wrong."""
    days = ", ".join(map(literal, kept))
    ((there, here),) = server.ask(
        f"SELECT count(), countIf(toDate(created_at) IN ({days})) "  # noqa: S608
        f"FROM {server.table(EVENTS)} "
        f"WHERE {span.overlapping} AND _partition_id = {literal(partition)}"
    )
    ((listed,),) = server.ask(
        "SELECT sum(most) FROM (SELECT max(rows) AS most "  # noqa: S608
        f"FROM {server.table(BATCHES)} WHERE {span.ledger_overlapping} "
        f"AND clickhouse_partition = {literal(partition)} GROUP BY first, end, epoch)"
    )
    if here or listed > there or partition in cut_off(server.client, server.name):
        yield Doubt(
            partition,
            SUMMED,
            f"the sums of {kept[0]} to {kept[-1]} stay as they were, since events of these days "
            f"may have expired, and rows of {span} lie there or did, or a rebuild was cut off",
            f"penstock-schemas rebuild --partition {partition} --expired would count what is left "
            "of these events; nothing can count those that are gone",
        )


def _course(seconds: float, sleep: Callable[[float], None]) -> Course:
    return Course(uptime_clock() + seconds, uptime_clock, sleep, lambda _: None)


def _count(server: Database, table: str, condition: str) -> int:
    query = f"SELECT count() FROM {server.table(table)} WHERE {condition}"  # noqa: S608
    return int(server.ask(query)[0][0])


def _complete_ledger(server: Database, span: Span, topic: str) -> int:
    """Write the ledger rows that stamped batches lack; how many. A batch without any gets 0 as its
    `expected_rows`: not known. Taken for whole, what a later crash leaves of it would stay so."""
    stamped = server.ask(
        "SELECT _first, _end, _epoch, _partition_id, count() "  # noqa: S608
        f"FROM {server.table(EVENTS)} WHERE {span.overlapping} GROUP BY ALL ORDER BY ALL"
    )
    known: set[tuple[int, int, int, str]] = set()
    expected: dict[tuple[int, int, int], int] = {}
    for start, stop, epoch, month, rows, its_topic in server.ask(
        "SELECT first, end, epoch, clickhouse_partition, expected_rows, topic "  # noqa: S608
        f"FROM {server.table(BATCHES)} WHERE {span.ledger_overlapping}"
    ):
        known.add((start, stop, epoch, month))
        expected[start, stop, epoch] = max(rows, expected.get((start, stop, epoch), 0))
        topic = its_topic or topic
    topic = topic or _topic(server, span.topic_id)
    missing = [
        f"({literal(span.topic_id)}, {literal(topic)}, {span.partition:d}, {start}, {stop}, "
        f"{expected.get((start, stop, epoch), 0)}, {epoch}, "
        f"{literal(month)}, {rows}, now64(3, 'UTC'))"
        for start, stop, epoch, month, rows in stamped
        if (start, stop, epoch, month) not in known
    ]
    for at in range(0, len(missing), _ROWS_AN_INSERT):
        rows = ", ".join(missing[at : at + _ROWS_AN_INSERT])
        server.do(f"INSERT INTO {server.table(BATCHES)} ({_LEDGER}) VALUES {rows}", **_QUIETLY)  # noqa: S608
    return len(missing)


def _topic(server: Database, topic_id: str) -> str:
    rows = server.ask(
        f"SELECT any(topic) FROM {server.table(BATCHES)} "  # noqa: S608
        f"WHERE topic_id = {literal(topic_id)} AND topic != ''"
    )
    return str(rows[0][0])


def _add_sessions(server: Database, condition: str) -> int:
    """Write what these events say to `sessions` once more; how many there are."""
    events = _count(server, EVENTS, condition)
    if events:
        source = f"(SELECT * FROM {server.table(EVENTS)} WHERE {condition})"  # noqa: S608
        columns, query = view_query(server, SESSIONS, source)
        server.do(f"INSERT INTO {server.table(SESSIONS)} ({columns}) {query}", **_QUIETLY)
    return events


def _refuse_cut(server: Database, span: Span) -> None:
    cut = server.ask(
        "SELECT DISTINCT _first, _end "  # noqa: S608
        f"FROM {server.table(EVENTS)} WHERE {span.overlapping} "
        f"AND (_first < {span.first:d} OR _end > {span.last:d}) ORDER BY _first LIMIT 1"
    )
    if cut:
        raise SchemaError(
            f"the batch [{cut[0][0]}, {cut[0][1]}) lies in the range only in part: begin and end "
            "the range where a batch does"
        )


def _delete(
    server: Database, table: str, condition: str, course: Course, fence: Callable[[], None]
) -> None:
    """Delete the rows, and see that none is left. The server goes on with it by itself, so the wait
    is for its list of mutations, not for one long answer."""
    if not _count(server, table, condition):
        return
    fence()
    server.do(f"ALTER TABLE {server.table(table)} DELETE WHERE {condition}", mutations_sync=0)
    while unfinished := server.ask(
        "SELECT latest_fail_reason FROM system.mutations WHERE database = {database:String} "
        "AND table = {table:String} AND NOT is_done AND NOT is_killed",
        database=server.name,
        table=table,
    ):
        course.check()
        for (reason,) in unfinished:
            if reason:
                raise SchemaError(f"{server.table(table)} cannot delete: {reason.splitlines()[0]}")
        course.sleep(_PAUSE_SECONDS)
    left = _count(server, table, condition)
    if left:
        raise SchemaError(f"{server.table(table)} still has {left} of the rows that were deleted")

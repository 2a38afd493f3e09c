"""The searched world's ClickHouse: what has landed, the deduplication log, and inserts that run.

It is the simulator's model as a value: an insert lands stage by stage (each ClickHouse partition of
the table, then the ledger, then the view), each skipped where the log knows its token, and can stop
after any of them. A row is known by its record's offset: the logs here have one row a record.

Offsets are the table's: those of a topic that was made again begin behind the first one's, so that
rows of the two are told apart.

The view counts, as a summed table does: it says how often it has each row. It may have one twice
for a while: a rebuild takes rows from the table whose own insert adds them once more. Until the
batch is committed the core has to see to that.
"""

from __future__ import annotations

from typing import NamedTuple

from consumer.batch import Batch
from consumer.recovery import Coverage, Covered
from tests.exhaustive.cores import LATE_MS, NOW_MS, TOPIC, base, moved_ms
from tests.exhaustive.scope import WINDOW_ENTRIES, Scope, record_of

Token = tuple[int, int, int, str, int, int]  # first, end, epoch, digest, version, epoch ms


class Violation(AssertionError):
    """The protocol broke a promise."""


class Insert(NamedTuple):
    """An insert as it is sent. `rows`: offsets of each ClickHouse partition, as bits. `announced`:
    how many rows its token names. `faults`: which kinds of bad lines it has."""

    token: Token
    rows: tuple[tuple[str, int], ...]
    announced: int
    faults: str = ""

    @property
    def stages(self) -> tuple[str, ...]:
        return (*(part for part, _ in self.rows), "ledger", "view")


class Running(NamedTuple):
    insert: Insert
    landed: int  # stages
    began_at: float


class Stamped(NamedTuple):
    """What landed of an insert in one ClickHouse partition of the table."""

    first: int
    end: int
    epoch: int
    part: str
    rows: int  # offsets as bits


class Line(NamedTuple):
    """A line of the ledger: so many rows of an insert in one ClickHouse partition."""

    first: int
    end: int
    epoch: int
    part: str
    at: int
    rows: int
    expected: int | None  # these three as its insert's token has them
    version: int | None
    announced_ms: int | None


class Server(NamedTuple):
    """`known`: the deduplication log, (token, stage, at). `others`: when a part of the window was
    filled by other partitions' batches. `rebuilt`: when the view of a ClickHouse partition was, at
    last. Times are epoch ms. `crashed`: at least once. `hold`: the ClickHouse partition that
    another is about to rebuild. `strict`: the view throws on what is bad for it."""

    up: bool = True
    started_ms: int = 0
    crashed: bool = False
    table: tuple[Stamped, ...] = ()
    ledger: tuple[Line, ...] = ()
    view: tuple[tuple[str, int], ...] = ()  # rows, once for each time that they are counted
    known: tuple[tuple[Token, str, int], ...] = ()
    others: tuple[int, ...] = ()
    rebuilt: tuple[tuple[str, int], ...] = ()
    orphans: tuple[Running, ...] = ()  # running, and nobody waits for their answer
    hold: str = ""
    strict: bool = True


class Row(NamedTuple):
    offset: int
    part: str  # "" where the table does not take it
    fault: str


def row(line: bytes, version: int) -> Row:
    """What the rules of `version` make of a line: they differ in the ClickHouse partition."""
    offset, part, fault = record_of(line).split("/")
    return Row(int(offset), part if version == 1 or not part else part + "2", fault)


def insert_of(batch: Batch, token: str, version: int, fresh: int) -> Insert:
    _, topic_id, _, ends, count, digest, epoch, _, rules, ms = token.split(":")
    first, end = (int(offset) + base(topic_id) for offset in ends.split("-"))
    at = moved_ms(int(ms), 0, 10**9, fresh)
    rows = [row(line, version) for line in batch.lines()]
    parts: dict[str, int] = {}
    for r in rows:
        if r.part:
            parts[r.part] = parts.get(r.part, 0) | 1 << r.offset
    faults = "".join(sorted({r.fault for r in rows}))
    named = (first, end, int(epoch), digest, int(rules), at)
    return Insert(named, tuple(sorted(parts.items())), int(count), faults)


def offsets_of(rows: int) -> list[int]:
    return [offset for offset in range(rows.bit_length()) if rows & 1 << offset]


def in_table(server: Server) -> int:
    """Offsets that have landed in the table, as bits."""
    found = 0
    for entry in server.table:
        found |= entry.rows
    return found


def in_ledger(server: Server) -> int:
    """Offsets whose rows are in the table, with a line of the ledger for them."""
    lines = {line[:4] for line in server.ledger}
    found = 0
    for entry in server.table:
        if entry[:4] in lines:
            found |= entry.rows
    return found


def in_view(server: Server) -> int:
    """Offsets whose rows are counted once."""
    offsets = [offset for _, offset in server.view]
    return sum(1 << offset for offset in set(offsets) if offsets.count(offset) == 1)


def step(server: Server, running: Running, scope: Scope) -> Server:
    """The next stage of a running insert lands, or is skipped. Raises Violation at a double."""
    insert = running.insert
    stage = insert.stages[running.landed]
    if _knows(server, insert.token, stage, scope):
        return server
    known = tuple(e for e in server.known if e[:2] != (insert.token, stage))
    server = server._replace(known=tuple(sorted((*known, (insert.token, stage, NOW_MS)))))
    first, end, epoch, _, version, ms = insert.token
    if stage == "ledger":
        stamped = {entry[:4]: entry.rows for entry in server.table}
        for part, rows in insert.rows:
            for line in server.ledger:
                if line.part == part and stamped.get(line[:4], 0) & rows:
                    named = f"[{first}, {end}) epoch {epoch} {part}"
                    if line[:4] != (first, end, epoch, part):
                        raise Violation(f"double in the ledger: {named}")
        lines = [
            Line(first, end, epoch, part, NOW_MS, rows.bit_count(), insert.announced, version, ms)
            for part, rows in insert.rows
            if all(line[:4] != (first, end, epoch, part) for line in server.ledger)
        ]
        return server._replace(ledger=tuple(sorted((*server.ledger, *lines))))
    if stage == "view":
        rebuilt = {part for part, _ in server.rebuilt}
        counted = {offset for _, offset in server.view}
        added = [(part, o) for part, rows in insert.rows for o in offsets_of(rows)]
        # What a mend inserts is in the view twice where the table had lost it: it restores that.
        mended = epoch > 0 or server.crashed
        if not mended and any(o in counted and part not in rebuilt for part, o in added):
            raise Violation(f"double in the view: [{first}, {end}) epoch {epoch}")
        return server._replace(view=tuple(sorted((*server.view, *added))))
    rows = dict(insert.rows)[stage]
    if any(not first <= offset < end for offset in offsets_of(rows)):
        raise Violation(f"rows of another topic: {offsets_of(rows)} in [{first}, {end})")
    if in_table(server) & rows:
        raise Violation(f"double in the table: [{first}, {end}) epoch {epoch} {stage}")
    entry = Stamped(first, end, epoch, stage, rows)
    return server._replace(table=tuple(sorted((*server.table, entry))))


def throws(server: Server, running: Running, scope: Scope) -> bool:
    """Whether its next stage does: the view's, where the log does not skip it."""
    insert = running.insert
    return (
        server.strict
        and "v" in insert.faults
        and insert.stages[running.landed] == "view"
        and not _knows(server, insert.token, "view", scope)
    )


def stamped(server: Server, first: int, end: int, epoch: int) -> int:
    """The rows with this stamp, as bits."""
    return sum(e.rows for e in server.table if e[:3] == (first, end, epoch))


def _knows(server: Server, token: Token, stage: str, scope: Scope) -> bool:
    for other, other_stage, at in server.known:
        if other == token and other_stage == stage:
            seconds = scope.window_seconds
            if seconds is not None and (NOW_MS - at) / 1000 > seconds:
                return False
            return entries_since(server, at, scope) <= WINDOW_ENTRIES
    return False


def crash(server: Server, running: list[Running], scope: Scope, *, lies: bool) -> Server:
    """Everything that runs stops. `lies`: what was about to land in the table is in the log."""
    known = {e[:2]: e for e in server.known}
    if lies:
        for r in running:
            stage = r.insert.stages[r.landed]
            if stage not in ("ledger", "view"):
                known.setdefault((r.insert.token, stage), (r.insert.token, stage, NOW_MS))
    return server._replace(
        up=False,
        orphans=(),
        crashed=not scope.mends_log,
        known=tuple(sorted(known.values())),
    )


def start(server: Server, scope: Scope) -> Server:
    """When it started matters only where its log can lie since."""
    return server._replace(up=True, started_ms=0 if scope.mends_log else LATE_MS)


def restore(server: Server, first: int, end: int, partitions: frozenset[str]) -> Server:
    """What a restore leaves, at the moment at which it replaces: nothing runs then. Of a batch that
    has no line of its own it knows nothing that its token said."""
    lines = {line[:4] for line in server.ledger}
    tokens = {line[:3]: line[6:] for line in server.ledger}
    added = []
    for e in server.table:
        if e.first < end and first < e.end and e[:4] not in lines:
            unknown = (None, None, None)
            line = Line(*e[:4], NOW_MS, e.rows.bit_count(), *tokens.get(e[:3], unknown))
            added.append(line)
    server = server._replace(ledger=tuple(sorted((*server.ledger, *added))))
    for part in sorted(partitions):
        server = rebuild(server, part)
    return server


def rebuild(server: Server, part: str) -> Server:
    """A ClickHouse partition of the view is made what the table has."""
    kept = [row for row in server.view if row[0] != part]
    has = [(part, o) for e in server.table if e.part == part for o in offsets_of(e.rows)]
    rebuilt = {**dict(server.rebuilt), part: LATE_MS}
    return server._replace(
        view=tuple(sorted([*kept, *has])), rebuilt=tuple(sorted(rebuilt.items()))
    )


def without_the_first_topic(server: Server) -> Server:
    if not any(entry.first < TOPIC for entry in server.table):
        return server
    return server._replace(
        table=tuple(entry for entry in server.table if entry.first >= TOPIC),
        ledger=tuple(line for line in server.ledger if line.first >= TOPIC),
        view=tuple(row for row in server.view if row[1] >= TOPIC),
        known=tuple(entry for entry in server.known if entry[0][0] >= TOPIC),
    )


def coverage(
    server: Server, topic: int, offset: int, since_ms: int | None, scope: Scope, *, whole: bool
) -> Coverage:
    least = TOPIC * topic
    offset, most = offset + least, least + TOPIC
    listed: dict[tuple[int, int, int], list[Line]] = {}
    for line in server.ledger:
        if offset < line.end <= most:
            listed.setdefault(line[:3], []).append(line)
    found: dict[tuple[int, int, int], set[str]] = {}
    for entry in server.table if whole else ():
        if offset < entry.end <= most:
            found.setdefault(entry[:3], set()).add(entry.part)
    batches = tuple(
        Covered(
            first=stamp[0] - least,
            end=stamp[1] - least,
            epoch=stamp[2],
            stamped=frozenset(found.get(stamp, ())),
            listed=frozenset(line.part for line in listed.get(stamp, ())),
            landed_ms=min((line.at for line in listed.get(stamp, ())), default=0),
            listed_rows=sum(line.rows for line in listed.get(stamp, ())),
            expected_rows=listed[stamp][0].expected if stamp in listed else None,
            version=listed[stamp][0].version if stamp in listed else None,
            announced_ms=listed[stamp][0].announced_ms if stamp in listed else None,
        )
        for stamp in sorted(listed.keys() | found.keys())
    )
    if since_ms is None:
        since_ms = min((c.landed_ms for c in batches), default=10**15)
    return Coverage(
        batches,
        entries_since(server, since_ms, scope),
        WINDOW_ENTRIES,
        scope.window_seconds,
        server.started_ms,
        scope.mends_log,
    )


def entries_since(server: Server, since_ms: int, scope: Scope) -> int:
    """Of other partitions: those of this one are too few to count."""
    return sum(scope.window_part_entries for at in server.others if at >= since_ms)


def missing(server: Server, insert: Insert) -> frozenset[str]:
    """ClickHouse partitions of a batch that have no row of it, and lack an id of it."""
    stamp = insert.token[:3]
    landed = {entry.part for entry in server.table if entry[:3] == stamp}
    there = in_table(server)
    return frozenset(part for part, rows in insert.rows if part not in landed and rows & ~there)


def rebuilt_since(server: Server, insert: Insert, since_ms: int) -> frozenset[str]:
    parts = {part for part, _ in insert.rows}
    return frozenset(part for part, at in server.rebuilt if part in parts and at >= since_ms)

"""The searched world's ClickHouse: what has landed, the deduplication log, and inserts that run.

It is the simulator's model as a value: an insert lands stage by stage (each ClickHouse partition of
the table, then the ledger, then the view), each skipped where the log knows its token, and can stop
after any of them. A row is known by its record's offset: the logs here have one row a record.
"""

from __future__ import annotations

from typing import NamedTuple

from consumer.recovery import Coverage, Covered
from tests.exhaustive.cores import NOW_MS
from tests.exhaustive.scope import WINDOW_ENTRIES, Scope
from tests.simulation.clickhouse_model import Violation, row

Token = tuple[int, int, int, str]  # first, end, epoch, digest


class Insert(NamedTuple):
    """An insert as it is sent. `rows`: offsets of each ClickHouse partition, as bits."""

    token: Token
    rows: tuple[tuple[str, int], ...]

    @property
    def stages(self) -> tuple[str, ...]:
        return (*(part for part, _ in self.rows), "ledger", "view")


class Running(NamedTuple):
    insert: Insert
    landed: int  # stages
    began_at: float


class Server(NamedTuple):
    """`table`: (stamp, partition, offsets as bits). `ledger`: (stamp, partition, landed at).
    `known`: the deduplication log, (token, stage, at). `others`: when a part of the window
    was filled by other partitions' batches. Times are epoch ms. `crashed`: at least once.
    """

    up: bool = True
    started_ms: int = 0
    crashed: bool = False
    table: tuple[tuple[int, int, int, str, int], ...] = ()
    ledger: tuple[tuple[int, int, int, str, int], ...] = ()
    view: int = 0
    known: tuple[tuple[Token, str, int], ...] = ()
    others: tuple[int, ...] = ()
    orphans: tuple[Running, ...] = ()  # running, and nobody waits for their answer


def insert_of(lines: list[bytes], token: str, version: int) -> Insert:
    parts: dict[str, int] = {}
    for line in lines:
        r = row(line, version)
        parts[r.clickhouse_partition] = parts.get(r.clickhouse_partition, 0) | 1 << r.offset
    _, _, _, ends, _, digest, epoch, _ = token.split(":")
    first, end = ends.split("-")
    return Insert((int(first), int(end), int(epoch), digest), tuple(sorted(parts.items())))


def in_table(server: Server) -> int:
    """Offsets that have landed in the table, as bits."""
    found = 0
    for entry in server.table:
        found |= entry[4]
    return found


def step(server: Server, running: Running, scope: Scope) -> Server:
    """The next stage of a running insert lands, or is skipped. Raises Violation at a double."""
    insert = running.insert
    stage = insert.stages[running.landed]
    if _knows(server, insert.token, stage, scope):
        return server
    known = tuple(e for e in server.known if e[:2] != (insert.token, stage))
    server = server._replace(known=tuple(sorted((*known, (insert.token, stage, NOW_MS)))))
    first, end, epoch, _ = insert.token
    if stage == "ledger":
        for part, _ in insert.rows:
            for other in server.ledger:
                if other[3] == part and other[0] < end and first < other[1]:
                    raise Violation(f"double in the ledger: [{first}, {end}) epoch {epoch} {part}")
        added = ((first, end, epoch, part, NOW_MS) for part, _ in insert.rows)
        return server._replace(ledger=tuple(sorted((*server.ledger, *added))))
    if stage == "view":
        rows = sum(mask for _, mask in insert.rows)
        if server.view & rows:
            raise Violation(f"double in the view: [{first}, {end}) epoch {epoch}")
        return server._replace(view=server.view | rows)
    rows = dict(insert.rows)[stage]
    if in_table(server) & rows:
        raise Violation(f"double in the table: [{first}, {end}) epoch {epoch} {stage}")
    return server._replace(table=tuple(sorted((*server.table, (first, end, epoch, stage, rows)))))


def _knows(server: Server, token: Token, stage: str, scope: Scope) -> bool:
    for other, other_stage, at in server.known:
        if other == token and other_stage == stage:
            seconds = scope.window_seconds
            if seconds is not None and (NOW_MS - at) / 1000 > seconds:
                return False
            return entries_since(server, at, scope) <= WINDOW_ENTRIES
    return False


def crash(server: Server, running: list[Running], *, lies: bool) -> Server:
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
        crashed=True,
        known=tuple(sorted(known.values())),
    )


def coverage(
    server: Server, offset: int, since_ms: int | None, scope: Scope, *, whole: bool
) -> Coverage:
    found: dict[tuple[int, int, int], tuple[set[str], int]] = {}
    for first, end, epoch, part, at in server.ledger:
        if end > offset:
            parts, landed_ms = found.get((first, end, epoch), (set(), at))
            found[first, end, epoch] = (parts | {part}, min(landed_ms, at))
    if whole:
        for first, end, epoch, part, _ in server.table:
            if end > offset:
                parts, landed_ms = found.get((first, end, epoch), (set(), 0))
                found[first, end, epoch] = (parts | {part}, landed_ms)
    batches = tuple(
        Covered(*stamp, frozenset(parts), landed_ms)
        for stamp, (parts, landed_ms) in sorted(found.items())
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
    """ClickHouse partitions of a batch that have no row of it."""
    stamp = insert.token[:3]
    landed = {part for *other, part, _ in server.table if tuple(other) == stamp}
    return frozenset(part for part, _ in insert.rows if part not in landed)

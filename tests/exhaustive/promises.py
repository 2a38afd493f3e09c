"""What is promised, looked at where it could be broken. (Doubles: where rows land, in `server`.)"""

from __future__ import annotations

from consumer.ledger import Intent
from tests.exhaustive import server as model
from tests.exhaustive.cores import NOW, NOW_MS, decoded
from tests.exhaustive.scope import DEADLINE_SECONDS, WINDOW_ENTRIES, Scope
from tests.exhaustive.server import Insert, Server
from tests.exhaustive.state import Consumer, World
from tests.simulation.clickhouse_model import Violation


class Promises:
    """Raise `Violation`."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self._due = [
            sum(1 << o for o, part in enumerate(scope.log[:end]) if part != ".")
            for end in range(scope.end + 1)
        ]

    def commit(self, server: Server, offset: int) -> None:
        """A commit never passes what landed."""
        due = self._due[offset]
        for where, landed in (
            ("table", model.in_table(server)),
            ("ledger", self._in_ledger(server)),
            ("view", server.view),
        ):
            if due & ~landed:
                lost = [o for o in range(offset) if due & ~landed & 1 << o]
                raise Violation(f"commit {offset} passes {lost}, not in the {where}")

    def insert(self, c: Consumer, insert: Insert, deadline: float) -> None:
        """No insert without an own prepare, answered in this assignment, and in its time."""
        first, end, epoch, digest = insert.token
        p = c.prepared
        if p is None or not p.answered or p[:4] != (first, end, epoch, digest):
            raise Violation(f"an insert of [{first}, {end}) without an own answered prepare")
        if deadline > p.sent_at + DEADLINE_SECONDS or deadline <= NOW:
            raise Violation(
                f"an insert of [{first}, {end}) with deadline {deadline - NOW:+}, "
                f"prepared at {p.sent_at - NOW:+}"
            )

    def halt(self, world: World, why: str) -> None:
        """A partition stops only where this version says that it would."""
        server, scope = world.server, self._scope
        if "was acknowledged, but" in why or why.startswith("restarted"):
            if scope.mends_log or not server.crashed:
                raise Violation(f"halted although the server's log cannot lie: {why}")
            return
        if world.reset or world.trimmed:
            return
        note = None if world.offset is None else decoded(world.offset, world.metadata)
        if isinstance(note, Intent):
            seconds = scope.window_seconds
            if (
                (len(scope.versions) > 1 and "version" in why)
                or model.entries_since(server, note.time_ms, scope) > WINDOW_ENTRIES // 2
                or (seconds is not None and (NOW_MS - note.time_ms) / 1000 > seconds / 2)
                or (not scope.mends_log and server.started_ms >= note.time_ms)
            ):
                return
        raise Violation(f"halted without a cause: {why}")

    def landed_to(self, server: Server) -> int:
        """The first offset that has not landed everywhere."""
        landed = server.view & self._in_ledger(server)
        end = 0
        while end < self._scope.end and not self._due[end + 1] & ~landed:
            end += 1
        return end

    def _in_ledger(self, server: Server) -> int:
        found = 0
        for first, end, _, part, _ in server.ledger:
            for offset in range(first, end):
                if self._scope.log[offset] == part[0]:
                    found |= 1 << offset
        return found

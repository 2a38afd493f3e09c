"""What is promised, looked at where it could be broken. (Doubles: where rows land, in `server`.)"""

from __future__ import annotations

from tests.exhaustive import server as model
from tests.exhaustive.cores import NOW, decoded
from tests.exhaustive.scope import DEADLINE_SECONDS, Scope
from tests.exhaustive.server import Insert, Server, Violation
from tests.exhaustive.state import Consumer, World


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
            ("ledger", model.in_ledger(server)),
            ("view once", model.in_view(server)),
        ):
            if due & ~landed:
                lost = model.offsets_of(due & ~landed)
                raise Violation(f"commit {offset} passes {lost}, not in the {where}")

    def insert(self, c: Consumer, insert: Insert, deadline: float) -> None:
        """No insert without an own prepare, answered in this assignment, and in its time."""
        first, end, epoch, digest = insert.token[:4]
        p = c.prepared
        announced = p is not None and (
            p[:4] == (first, end, epoch, digest)
            # a mend's mark names the whole of it, and its insert is a piece
            or (p.digest == "" and p.first <= first and end <= p.end and p.epoch == epoch)
        )
        if p is None or not p.answered or not announced:
            raise Violation(f"an insert of [{first}, {end}) without an own answered prepare")
        if deadline > p.sent_at + DEADLINE_SECONDS or deadline <= NOW:
            raise Violation(
                f"an insert of [{first}, {end}) with deadline {deadline - NOW:+}, "
                f"prepared at {p.sent_at - NOW:+}"
            )

    def landed_view(self, world: World) -> None:
        """What is committed stays once in the view, whatever still lands."""
        if world.offset is not None and decoded(world.offset, world.metadata) is not None:
            due = self._due[world.offset]
            doubled = due & ~model.in_view(world.server)
            if doubled:
                raise Violation(f"committed, and not once in the view: {model.offsets_of(doubled)}")

    def halt(self, why: str) -> None:
        """No partition stops: what goes wrong here is all of a kind that is mended."""
        raise Violation(f"halted: {why}")

    def landed_to(self, server: Server) -> int:
        """The first offset that has not landed everywhere."""
        landed = model.in_ledger(server) & model.in_view(server)
        end = 0
        while end < self._scope.end and not self._due[end + 1] & ~landed:
            end += 1
        return end

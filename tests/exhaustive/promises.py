"""What is promised, looked at where it could be broken. (Doubles: where rows land, in `server`.)

A good row has to be once in the table, in the ledger and in the view. One that the table cannot
take has to be among the letters, and never lands. One that only the view cannot take is either: a
letter without a row, or a row that stands once in the view in the end. What a consumer holds in
memory is looked at in each state of its core (`memory`).
"""

from __future__ import annotations

from consumer.batch import Letter
from tests.exhaustive import server as model
from tests.exhaustive.cores import NOW, TOPIC, TOPIC_IDS, decoded
from tests.exhaustive.scope import BAD, DEADLINE_SECONDS, GOOD, VIEW, Scope
from tests.exhaustive.server import Insert, Server, Violation
from tests.exhaustive.state import Consumer, World


class _Due:
    """The rows of a log before one of its offsets, as bits of the table's offsets."""

    def __init__(self, topic: int, log: str) -> None:
        self.good, self.bad, self.view = (
            sum(1 << topic * TOPIC + n for n, kind in enumerate(log) if kind in kinds)
            for kinds in (GOOD, BAD, VIEW)
        )


class Promises:
    """Raise `Violation`."""

    def __init__(self, scope: Scope) -> None:
        self._due = [
            [_Due(topic, log[:end]) for end in range(len(log) + 1)]
            for topic, log in enumerate(scope.logs)
        ]
        self._good = sum(due[-1].good for due in self._due)

    def _unfinished(self, world: World, offset: int) -> tuple[int, str]:
        """What before an offset has not come to its end, as bits, and where it is not."""
        due = self._due[world.topic][offset]
        table = model.in_table(world.server)
        if due.bad & table:
            raise Violation(f"{model.offsets_of(due.bad & table)} is bad, and in the table")
        landed = due.good | (due.view & table)
        for where, missing in (
            ("table", due.good & ~table),
            ("dead letters", due.bad & ~world.letters),
            ("table or the dead letters", due.view & ~(table | world.letters)),
            ("ledger", landed & ~model.in_ledger(world.server)),
            ("view once", landed & ~model.in_view(world.server)),
        ):
            if missing:
                return missing, where
        return 0, ""

    def commit(self, world: World, offset: int, metadata: str) -> None:
        """A commit never passes what landed. (One of another topic means nothing.)"""
        if decoded(offset, metadata).topic_id == TOPIC_IDS[world.topic]:
            missing, where = self._unfinished(world, offset)
            if missing:
                lost = model.offsets_of(missing)
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
        if "u" in insert.faults:
            raise Violation(f"an insert of [{first}, {end}) of text that is not UTF-8")

    def landed_view(self, world: World) -> None:
        """What is committed stays once in the view, whatever still lands."""
        note = None if world.offset is None else decoded(world.offset, world.metadata)
        if world.offset is not None and note is not None and self.current(world, note.topic_id):
            due = self._due[world.topic][world.offset]
            landed = due.good | (due.view & model.in_table(world.server))
            doubled = landed & ~model.in_view(world.server)
            if doubled:
                raise Violation(f"committed, and not once in the view: {model.offsets_of(doubled)}")

    def letter(self, server: Server, letter: Letter) -> None:
        """Nothing good is set aside, and a letter says whether its row is in the table."""
        offset = model.row(letter.value, 1).offset
        there = bool(model.in_table(server) & 1 << offset)
        if self._good & 1 << offset:
            raise Violation(f"{offset} is good, and was set aside")
        if letter.in_table is not there:
            raise Violation(f"the letter of {offset} says in_table {letter.in_table}: {there}")

    def halt(self, why: str) -> None:
        """No partition stops: what goes wrong here is all of a kind that is mended."""
        raise Violation(f"halted: {why}")

    def current(self, world: World, topic_id: str) -> bool:
        return topic_id == TOPIC_IDS[world.topic]

    def landed_to(self, world: World) -> int:
        """The first offset that has not come to its end."""
        end = 0
        while end < world.high and not self._unfinished(world, end + 1)[0]:
            end += 1
        return end

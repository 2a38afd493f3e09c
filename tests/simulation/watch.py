"""What must hold at every step of a run, and the schedule that a failure is told with.

Doubles in the table are found where rows land (`clickhouse_model`). Here: a commit never passes
what is not once in the table and once in the view; nothing is inserted without an own answered
prepare, within its deadline and under its first time; no partition stops for good.

What a consumer holds in memory stays bounded, in the words of `memory`.

In the view a record may stand twice for a while where that is announced: under a mend's mark, or
when its ClickHouse partition was rebuilt since its batch was announced. No commit passes it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from consumer.assignment import Assignment
from consumer.commands import Answer, CommitAnswered, SendInsert
from consumer.flight import Now
from consumer.ledger import Intent, Mark, Note, Open, decode
from consumer.partition import Partition
from tests.simulation.clickhouse_model import ClickHouse, Record, Row, Stamp, Violation, row
from tests.simulation.faults import DEADLINE_SECONDS, Profile
from tests.simulation.kafka_model import Kafka, Request
from tests.simulation.memory import Memory


@dataclass
class _Prepares:
    """The commits of one assignment: when they were last sent, and which were answered."""

    sent: dict[str, tuple[int, float]] = field(default_factory=dict)
    answered: list[tuple[Intent | Mark, float]] = field(default_factory=list)


class Watch:
    def __init__(self, profile: Profile, kafka: Kafka, clickhouse: ClickHouse) -> None:
        self._profile = profile
        self._kafka = kafka
        self._clickhouse = clickhouse
        self.schedule: list[str] = []
        self.reports: Counter[str] = Counter()
        self._assignments: dict[int, tuple[Partition, _Prepares]] = {}
        self._begun: dict[Stamp, int] = {}
        self._announced_to: dict[tuple[str, int], int] = {}  # by topic id and partition
        self.buffer_bytes = profile.buffer_bytes
        self.excused: set[Record] = set()  # they left the log before they had landed
        self._look_at_logs()
        kafka.on_applied = self._applied
        kafka.on_recreated = self._look_at_logs
        clickhouse.may_double = self._may_double

    def _look_at_logs(self) -> None:
        self._rows = [
            sorted(
                (offset, line)
                for offset, value in log
                for line in (value or b"").split(b"\n")
                if line
            )
            for log in self._kafka.logs
        ]

    def note(self, what: str) -> None:
        self.schedule.append(what)

    def assigned(self, partition: Partition) -> None:
        self._assignments[id(partition)] = (partition, _Prepares())

    def commit_sent(self, partition: Partition, offset: int, metadata: str, now: Now) -> None:
        note = decode(offset, metadata)
        self.note(f"      sends commit {offset} {_short(note)}")
        if note is None:
            raise Violation(f"a commit without metadata of ours: {offset} {metadata!r}")
        self._assignments[id(partition)][1].sent[metadata] = (offset, now.seconds)

    def answered(self, partition: Partition, event: CommitAnswered) -> None:
        prepares = self._assignments[id(partition)][1]
        known = prepares.sent.get(event.metadata)
        if known is None or event.answer is not Answer.APPLIED:
            return
        note = decode(known[0], event.metadata)
        if isinstance(note, Intent | Mark):
            prepares.answered.append((note, known[1]))

    def insert_commanded(self, partition: Partition, command: SendInsert, now: Now) -> None:
        batch = command.batch
        self.note(f"      inserts [{batch.first}, {batch.end}) {command.token.split(':')[5:7]}")
        count, digest, epoch = command.token.split(":")[4:7]
        note, sent_at = self._announced(partition, batch.first, batch.end)
        told = (note.count, note.digest) if isinstance(note, Intent) else (int(count), digest)
        if (*told, note.epoch) != (int(count), digest, int(epoch)):
            raise Violation(f"[{batch.first}, {batch.end}) is not the text that was announced")
        if command.deadline > sent_at + DEADLINE_SECONDS:
            raise Violation(f"deadline {command.deadline} of a prepare sent at {sent_at}")
        if now.seconds >= command.deadline:
            raise Violation(f"insert commanded at {now.seconds}, past {command.deadline}")

    def insert_begun(self, partition: Partition, stamp: Stamp) -> None:
        _, first, end, _ = stamp
        note, _ = self._announced(partition, first, end)
        time_ms = self._begun.setdefault(stamp, note.time_ms)
        resets = self._kafka.resets[partition.source.partition]
        if note.time_ms > time_ms and not resets and isinstance(note, Intent):
            raise Violation(f"{stamp} was first announced at {time_ms}, now {note.time_ms}")

    def _announced(self, partition: Partition, first: int, end: int) -> tuple[Intent | Mark, float]:
        known = self._assignments[id(partition)][1].answered
        note = known[-1][0] if known else None
        exact = isinstance(note, Intent) and (note.first, note.end) == (first, end)
        within = isinstance(note, Mark) and note.first <= first and end <= note.end
        if not exact and not within:
            raise Violation(f"an insert of [{first}, {end}) without an own answered prepare")
        return known[-1]

    def _may_double(self, r: Row, stamp: Stamp) -> bool:
        number = r.partition % 100
        offset, metadata = self._kafka.commits[number]
        note = None if offset is None else decode(offset, metadata)
        rebuilt = self._clickhouse.rebuilt.get(r.clickhouse_partition, -1.0) * 1000
        announced = self._begun.get(stamp)
        return isinstance(note, Mark) or (announced is not None and rebuilt >= announced)

    def _applied(self, request: Request) -> None:
        note = decode(request.offset, request.metadata)
        if note is None or note.topic_id != self._kafka.topic_id:
            return  # of the topic before: its offset means nothing
        if isinstance(note, Intent | Mark):
            known = self._announced_to.get((note.topic_id, request.partition), 0)
            self._announced_to[note.topic_id, request.partition] = max(known, note.end)
        for offset, line in self._rows[request.partition]:
            if offset >= request.offset:
                break
            why = self._unfinished(row(line))
            if why:
                raise Violation(f"commit {request.offset} passes {line.decode()}, {why}")

    def _unfinished(self, r: Row) -> str:
        """What is wrong with a record that must have come to its end; empty if nothing is."""
        table, record = self._clickhouse, r.record
        # Once offsets were reset nobody knows of its batch: its views cannot be asked for either.
        forgotten = record not in table.landed or self._kafka.resets[r.partition % 100]
        if record in self.excused and forgotten:
            return ""
        if r.fault == "bad" and record in table.landed:
            return "which is bad, and in the table"
        if r.fault and record not in table.landed:
            told = record in self._kafka.letters
            return "" if told else "which is bad, and not among the dead letters"
        if record not in table.landed:
            return "not in the table"
        times = table.view[record]
        return "" if times == 1 else f"{times} times in the view"

    # --- memory ------------------------------------------------------------------------------

    def begins_to_read(self, memory: Memory, partition: Partition) -> None:
        source = partition.source
        known = self._announced_to.get((source.topic_id, source.partition), 0)
        memory.begins_to_read(partition, known)

    def holds(
        self, memory: Memory, assignment: Assignment, fetched: Collection[int],
        positions: Mapping[int, int],
    ) -> None:  # fmt: skip
        """After a round: what a consumer holds, and what it will fetch next, and from where."""
        total, full, wrong = memory.full(assignment)
        if wrong:
            raise Violation(wrong)
        if not full:
            return
        self.reports["memory full"] += 1
        for number in fetched:
            partition = assignment.get(number)
            assert partition is not None
            wrong = memory.wrongly_fetched(partition, positions[number], total)
            if wrong:
                raise Violation(f"partition {number} {wrong}")

    # --- the end -----------------------------------------------------------------------------

    def reported(self, partition: Partition, what: str, why: str) -> None:
        self.reports[what] += 1
        self.note(f"      reports {what}: {why}")
        if what == "halted" and partition.source.topic_id == self._kafka.topic_id:
            raise Violation(f"partition {partition.source.partition} halted: {why}")

    def trimmed(self, number: int, low: int) -> None:
        """What leaves the log before it is whole cannot be asked for any more."""
        for offset, line in self._rows[number]:
            r = row(line)
            if offset < low and (self._unfinished(r) or self._unlisted(r)):
                self.excused.add(r.record)

    def landed(self, number: int) -> bool:
        """Everything of this partition is where it should be, and Kafka's commit says so."""
        offset, metadata = self._kafka.commits[number]
        note = None if offset is None else decode(offset, metadata)
        if not isinstance(note, Open) or note.topic_id != self._kafka.topic_id:
            return False
        if offset is None or offset < self._kafka.ends[number]:
            return False
        for _, line in self._rows[number]:
            why = self._unfinished(row(line))
            if why:
                raise Violation(f"lost: {line.decode()} is committed, {why}")
        self._listed(number)
        return True

    def landed_to(self, number: int) -> int:
        """The first offset that has not landed whole, or the log's visible end."""
        for offset, line in self._rows[number]:
            r = row(line)
            if self._unfinished(r) or self._unlisted(r):
                return offset
        return self._kafka.high(number)

    def _unlisted(self, r: Row) -> bool:
        """The table has it, and the ledger not its batch: its insert, or a mend, is not over."""
        table = self._clickhouse
        stamp = table.table.get(r)
        return stamp is not None and (stamp, r.clickhouse_partition) not in table.ledger

    def _listed(self, number: int) -> None:
        """The ledger has a line for what the table is stamped with."""
        table = self._clickhouse
        for r, stamp in table.table.items():
            ours = r.partition == self._kafka.key(number) and r.record not in self.excused
            if ours and self._unlisted(r):
                raise Violation(f"the ledger has no line for {r} of {stamp}")


def _short(note: Note | None) -> str:
    if isinstance(note, Intent):
        return f"intent to {note.end} epoch {note.epoch} at {note.time_ms}"
    if isinstance(note, Mark):
        return f"mend to {note.end} epoch {note.epoch}"
    return "open" if note is not None else "foreign"

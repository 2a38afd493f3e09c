"""What must hold at every step of a run, and the schedule that a failure is told with.

Doubles are found where rows land (`clickhouse_model`). Here: a commit never passes what landed;
nothing is inserted without an own answered prepare, within its deadline and under its first time;
a partition stops only where this version says that it would.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from consumer.commands import Answer, CommitAnswered, SendInsert
from consumer.ledger import Intent, Open, decode
from consumer.partition import Now, Partition
from tests.simulation.clickhouse_model import ClickHouse, Stamp, Violation, row
from tests.simulation.faults import DEADLINE_SECONDS, Profile
from tests.simulation.kafka_model import TOPIC_ID, Kafka, Request


@dataclass
class _Prepares:
    """The commits of one assignment: when they were last sent, and which were answered."""

    sent: dict[str, tuple[int, float]] = field(default_factory=dict)
    answered: list[tuple[Intent, float]] = field(default_factory=list)


class Watch:
    def __init__(self, profile: Profile, kafka: Kafka, clickhouse: ClickHouse) -> None:
        self._profile = profile
        self._kafka = kafka
        self._clickhouse = clickhouse
        self.schedule: list[str] = []
        self.halts: Counter[str] = Counter()
        self.reports: Counter[str] = Counter()
        self._assignments: dict[int, tuple[Partition, _Prepares]] = {}
        self._begun: dict[Stamp, int] = {}
        self._rows = [
            sorted(
                (offset, line)
                for offset, value in log
                for line in (value or b"").split(b"\n")
                if line
            )
            for log in kafka.logs
        ]
        kafka.on_applied = self._applied

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
        if isinstance(note, Intent):
            prepares.answered.append((note, known[1]))

    def insert_commanded(self, partition: Partition, command: SendInsert, now: Now) -> None:
        batch = command.batch
        self.note(f"      inserts [{batch.first}, {batch.end}) {command.token.split(':')[5:7]}")
        intent, sent_at = self._announced(partition, batch.first, batch.end)
        if not intent.matches(batch):
            raise Violation(f"[{batch.first}, {batch.end}) is not the text that was announced")
        if command.deadline > sent_at + DEADLINE_SECONDS:
            raise Violation(f"deadline {command.deadline} of a prepare sent at {sent_at}")
        if now.seconds >= command.deadline:
            raise Violation(f"insert commanded at {now.seconds}, past {command.deadline}")

    def insert_begun(self, partition: Partition, stamp: Stamp) -> None:
        number, first, end, _ = stamp
        intent, _ = self._announced(partition, first, end)
        time_ms = self._begun.setdefault(stamp, intent.time_ms)
        if intent.time_ms > time_ms and not self._kafka.resets[number]:
            raise Violation(f"{stamp} was first announced at {time_ms}, now {intent.time_ms}")

    def _announced(self, partition: Partition, first: int, end: int) -> tuple[Intent, float]:
        known = self._assignments[id(partition)][1].answered
        if not known or (known[-1][0].first, known[-1][0].end) != (first, end):
            raise Violation(f"an insert of [{first}, {end}) without an own answered prepare")
        return known[-1]

    def _applied(self, request: Request) -> None:
        for offset, line in self._rows[request.partition]:
            if offset >= request.offset:
                break
            r = row(line)
            record = (r.partition, r.offset, r.line)
            where = (
                "table"
                if record not in self._clickhouse.landed
                else "view"
                if record not in self._clickhouse.view
                else None
            )
            if where:
                raise Violation(f"commit {request.offset} passes {record}, not in the {where}")

    # --- the end -----------------------------------------------------------------------------

    def reported(self, partition: Partition, what: str, why: str, now: Now) -> None:
        self.reports[what] += 1
        self.note(f"      reports {what}: {why}")
        if what == "halted":
            self.halts[self._cause(partition.source.partition, why, now)] += 1

    def _cause(self, number: int, why: str, now: Now) -> str:
        """Why a partition may stop in this version. Raises Violation where nothing excuses it."""
        table, profile = self._clickhouse, self._profile
        if "was acknowledged, but" in why or why.startswith("restarted"):
            if profile.mends_log or not table.crashes:
                raise Violation(f"halted although the server's log cannot lie: {why}")
            return "the server's log can lie"
        if self._kafka.resets[number]:
            return "offsets were reset"
        offset, metadata = self._kafka.commits[number]
        note = None if offset is None else decode(offset, metadata)
        if isinstance(note, Intent):
            if len(profile.versions) > 1 and "version" in why:
                return "another version"
            if table.entries_since(note.time_ms) > profile.window_entries // 2:
                return "old by entries"
            age = now.seconds - note.time_ms / 1000
            if profile.window_seconds is not None and age > profile.window_seconds / 2:
                return "old by time"
            if not profile.mends_log and table.started_at * 1000 >= note.time_ms:
                return "old by a restart"
        raise Violation(f"partition {number} halted without a cause: {why}")

    def landed(self, number: int) -> bool:
        """Everything of this partition is where it should be, and Kafka's commit says so."""
        offset, metadata = self._kafka.commits[number]
        note = None if offset is None else decode(offset, metadata)
        if not isinstance(note, Open) or note.topic_id != TOPIC_ID:
            return False
        if offset is None or offset < self._kafka.ends[number]:
            return False
        for _, line in self._rows[number]:
            r = row(line)
            record = (r.partition, r.offset, r.line)
            if record not in self._clickhouse.landed or record not in self._clickhouse.view:
                raise Violation(f"lost: {record} is committed and not in table and view")
        self._tiles(number)
        return True

    def landed_to(self, number: int) -> int:
        """The first offset that has not landed whole, or the log's visible end."""
        for offset, line in self._rows[number]:
            r = row(line)
            if (r.partition, r.offset, r.line) not in self._clickhouse.view:
                return offset
        return self._kafka.high(number)

    def _tiles(self, number: int) -> None:
        """The ledger's ranges follow one another; between them are only offsets without rows."""
        ranges = sorted({(s[1], s[2]) for s, _ in self._clickhouse.ledger if s[0] == number})
        for offset, _ in self._rows[number]:
            if sum(1 for first, end in ranges if first <= offset < end) != 1:
                raise Violation(f"offset {offset} is not in one range of the ledger: {ranges}")


def _short(note: Intent | Open | None) -> str:
    if isinstance(note, Intent):
        return f"intent to {note.end} epoch {note.epoch} at {note.time_ms}"
    return "open" if note is not None else "foreign"

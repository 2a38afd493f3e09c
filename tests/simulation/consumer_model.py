"""One consumer's process: the real core, driven the way the runner drives it.

A poll round takes what the group and the commits brought, then records, then answers of the pool,
then the time; commands are carried out at its end, except that the insert after an answered prepare
is sent at once. The inserts and reads of the pool are jobs that run whenever the world says so,
also after their partition was given up.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass

from consumer import partition as partition_module
from consumer import recovery as recovery_module
from consumer.assignment import Assignment, Commands, Shares
from consumer.batch import Letter, Records
from consumer.commands import (
    Answer,
    CommitAnswered,
    CommitRead,
    CoverageRead,
    Event,
    Fetch,
    InsertAnswered,
    Isolate,
    Isolated,
    LettersWritten,
    Outcome,
    ReadCommit,
    ReadCoverage,
    ReadFailed,
    ReadStamps,
    ReadTopic,
    Rejoin,
    Report,
    Restore,
    Restored,
    SendCommit,
    SendInsert,
    Sift,
    Sifted,
    StampsRead,
    TopicRead,
    WriteLetters,
)
from consumer.flight import Limits, Now, Phase
from consumer.ledger import Source
from consumer.partition import Partition
from consumer.retry import Backoff
from tests.simulation.clickhouse_model import ClickHouse, Insert, Restoring, row
from tests.simulation.faults import COMMIT_TIMEOUT_SECONDS, DEADLINE_SECONDS, MAX_SECONDS
from tests.simulation.kafka_model import TOPIC_IDS, Kafka, OutOfRange, Request, key
from tests.simulation.memory import Memory
from tests.simulation.watch import Watch

LIMITS = Limits(
    batch_rows=3,
    batch_bytes=100,
    insert_deadline_seconds=DEADLINE_SECONDS,
    insert_max_seconds=MAX_SECONDS,
    commit_timeout_seconds=COMMIT_TIMEOUT_SECONDS,
    bad_share=1.0,
    retry=Backoff(0.1, 5.0),
    refusal=Backoff(1.0, 20.0),
)
TOPIC_SECONDS = 5.0


@dataclass(eq=False)
class Job:
    """Work of the pool. `insert` is set while an insert runs on the server."""

    partition: Partition
    command: (
        SendInsert | ReadCoverage | ReadStamps | ReadTopic | Sift | Isolate | WriteLetters | Restore
    )
    looked: bool = False
    insert: Insert | None = None
    restoring: Restoring | None = None


class Consumer:
    """`version` is that of its rows' rules."""

    def __init__(
        self, number: int, version: int, kafka: Kafka, clickhouse: ClickHouse, watch: Watch
    ) -> None:
        self.number = number
        self.version = version
        self._kafka = kafka
        self._clickhouse = clickhouse
        self._watch = watch
        self.alive = False
        self.stopping = False
        self.member = 0
        self.topic_id = ""
        self._topic_asked_at = 0.0
        self.inbox: deque[tuple[str, int, CommitAnswered | None]] = deque()
        self.jobs: list[Job] = []
        self._shares = Shares(watch.buffer_bytes, batch_age_seconds=0.5, inserts_per_second=4.0)
        self.assignment = Assignment(self._shares)
        self.memory = Memory(watch.buffer_bytes)
        self._answers: deque[tuple[Partition, Event]] = deque()
        self._pending: Commands = []
        self._positions: dict[int, int] = {}
        self._fetched: frozenset[int] = frozenset()
        self.rejoin_why: str | None = None

    # --- membership --------------------------------------------------------------------------

    def start(self) -> None:
        self.alive = True
        self.stopping = False
        self._join()
        self.inbox.clear()
        self._forget()

    def _join(self) -> None:
        self.member = self._kafka.join()
        self.topic_id = self._kafka.topic_id

    def crash(self) -> None:
        """The process is gone. What it sent lives on, and so does its membership for a while."""
        self.alive = False
        for job in self.jobs:
            job.insert = None
        self.jobs.clear()
        self._forget()

    def leave(self, *, heard: bool) -> None:
        """`heard`: the group was told; else it finds out by the session timeout."""
        if heard:
            self.flush()
            self._kafka.remove(self.member)
        self.inbox.clear()
        self._forget()

    def rejoin(self, *, heard: bool) -> None:
        self.leave(heard=heard)
        self._join()

    def _forget(self) -> None:
        self.rejoin_why = None
        self.assignment = Assignment(self._shares)
        self.memory = Memory(self._watch.buffer_bytes)
        self._answers.clear()
        self._pending.clear()
        self._positions.clear()
        self._fetched = frozenset()

    def flush(self) -> None:
        """Everything sent on this connection arrives: what a request behind it will find."""
        wire = self._kafka.wires[self.member]
        while wire:
            self.arrive(wire.popleft())

    def arrive(self, request: Request) -> None:
        applied = self._kafka.arrive(request)
        self.answered(request, Answer.APPLIED if applied else Answer.FENCED)

    def answered(self, request: Request, answer: Answer) -> None:
        if self.alive and request.member == self.member:
            event = CommitAnswered(request.metadata, answer, "modelled")
            self.inbox.append(("answered", request.partition, event))

    # --- the poll loop -----------------------------------------------------------------------

    def poll(self, now: Now, rng: random.Random) -> None:
        rows_version(self.version)
        if self.member and now.seconds - self._topic_asked_at > TOPIC_SECONDS:
            self._topic_asked_at = now.seconds
            if self.topic_id != self._kafka.topic_id:
                self.rejoin_why = "the topic was made again"
        for _ in range(rng.randint(0, len(self.inbox)) if rng.random() < 0.3 else 9):
            if self.inbox and self.alive:
                self._hear(*self.inbox.popleft(), now)
        if not self.alive:
            return
        commands, self._pending = self._pending, []
        if not self.stopping:
            for number in sorted(self._fetched):
                commands += self._fetch(number, now, rng)
        while self._answers:
            commands += self.assignment.on(*self._answers.popleft(), now)
        commands += self.assignment.tick(now)
        self._carry_out(commands, now)
        self._fetched = frozenset() if self.stopping else self.assignment.fetched()
        self._watch.holds(self.memory, self.assignment, self._fetched, self._positions)

    def _fetch(self, number: int, now: Now, rng: random.Random) -> Commands:
        position = self._positions.get(number)
        if position is None:
            return []
        try:
            offsets, values = self._kafka.fetch(number, position, rng.randint(1, 4))
        except OutOfRange:
            self.rejoin_why = "out of range"
            return []
        self.memory.fetched(number, values)
        behind = offsets[-1] + 1 if offsets else position
        following = self._kafka.following(number, behind)
        if following == position:
            return []
        # Where nothing but markers follows, the position may be told past them, or not.
        told = rng.choice((behind, following))
        self._positions[number] = told
        return self.assignment.records(number, Records(offsets, values, told, now.ms), now)

    def _hear(self, what: str, number: int, event: CommitAnswered | None, now: Now) -> None:
        match what:
            case "assigned":
                source = Source("cluster", "events", self.topic_id, number)
                partition = Partition(source, LIMITS, now)
                self.assignment.add(partition)
                self.flush()
                self._watch.assigned(partition)
                commit = self._kafka.read(number)
                self._pending += [(partition, c) for c in partition.begin(commit, now)]
            case "revoke":
                self._give_up(number)
            case "lost":
                self._forget()
                self._join()
            case _:
                found = self.assignment.get(number)
                if found is None or event is None:
                    return
                self._watch.answered(found, event)
                for command in found.on(event, now):
                    if isinstance(command, SendInsert):
                        self._carry_out([(found, command)], now)
                    else:
                        self._pending.append((found, command))

    def _give_up(self, number: int) -> None:
        """The revoke rule: an unanswered commit is seen answered, or the member is gone first."""
        partition = self.assignment.get(number)
        sent = partition.outstanding if partition is not None else None
        if sent is not None:
            self.flush()
            if self._kafka.commits[number] != sent:
                self._watch.note(f"c{self.number} ends at once: a revoke, and a commit unknown")
                self.crash()
                return
        self.assignment.drop(number)
        self._positions.pop(number, None)
        if self._kafka.owners[number] == self.member:
            self._kafka.free(number)

    def _carry_out(self, commands: Commands, now: Now) -> None:
        for partition, command in commands:
            if partition not in self.assignment:
                continue
            number = partition.source.partition
            match command:
                case SendCommit(offset, metadata):
                    self._watch.commit_sent(partition, offset, metadata, now)
                    request = Request(self.member, number, offset, metadata)
                    self._kafka.wires[self.member].append(request)
                case SendInsert():
                    self._watch.insert_commanded(partition, command, now)
                    self.jobs.append(Job(partition, command))
                case (
                    ReadCoverage()
                    | ReadStamps()
                    | ReadTopic()
                    | Sift()
                    | Isolate()
                    | WriteLetters()
                    | Restore()
                ):
                    self.jobs.append(Job(partition, command))
                case Fetch(offset):
                    self._positions[number] = offset
                    self._watch.begins_to_read(self.memory, partition)
                case ReadCommit():
                    self.flush()
                    self._answers.append((partition, CommitRead(self._kafka.read(number))))
                case Rejoin(why):
                    self.rejoin_why = why
                case Report(what, why, _):
                    self._watch.reported(partition, what, why)

    # --- the pool ----------------------------------------------------------------------------

    def run_job(self, job: Job, now: Now, *, fails: bool = False) -> None:
        """A job's next step: a read is answered; an insert looks at the server, then is sent."""
        table, command = self._clickhouse, job.command
        number = _key(job.partition)
        asked_to_fail, fails = fails, fails or not table.up
        match command:
            case ReadCoverage(offset, since_ms, whole):
                coverage = table.coverage(number, offset, since_ms, whole)
                self.done(job, _read(CoverageRead(coverage), fails))
            case ReadStamps(batch, epoch, since_ms):
                stamp = (number, batch.first, batch.end, epoch)
                missing = table.missing(batch, stamp, self.version)
                rebuilt = table.rebuilt_since(batch, since_ms, self.version)
                self.done(job, _read(StampsRead(missing, rebuilt), fails))
            case ReadTopic(asked):
                self.done(job, TopicRead(self._kafka.topic_id, asked))
            case Sift():
                self.done(job, _read(self._sift(command), fails))
            case Isolate():
                self.done(job, _read(Isolated(self._isolate(command, number)), fails))
            case WriteLetters(letters):
                # Of what is not acknowledged, some is there.
                acknowledged = not asked_to_fail
                some = len(letters) if acknowledged else int(now.chance * (len(letters) + 1))
                self._kafka.write_letters(number, letters[:some])
                self.done(job, _read(LettersWritten(), asked_to_fail))
            case Restore():
                self._restore(job, command, number, now, fails=fails)
            case SendInsert():
                self._run_insert(job, command, now)

    def _sift(self, command: Sift) -> Sifted:
        wanted, parts = [], set()
        for line in command.batch.lines():
            r = row(line, self.version)
            if r.fault == "bad":
                wanted.append(True)
                continue
            parts.add(r.clickhouse_partition)
            there = (
                r.record in self._clickhouse.landed
                if command.by_ids
                else r.clickhouse_partition in command.landed
            )
            wanted.append(not there)
        return Sifted(command.batch.only(wanted) if any(wanted) else None, frozenset(parts))

    def _isolate(self, command: Isolate, number: int) -> tuple[Letter, ...]:
        """What no insert can take; or else, after a refusal, the rows of it in the table that the
        view cannot."""
        batch, table = command.batch, self._clickhouse
        stamp = (number, batch.first, batch.end, command.landed_epoch)
        lines = [(*origin, row(origin[2], self.version)) for origin in batch.origins()]
        letters = [
            Letter(offset, line, text, "bad", "modelled")
            for offset, line, text, r in lines
            if r.fault == "bad"
        ]
        if letters or not command.refusal:
            return tuple(letters)
        return tuple(
            Letter(offset, line, text, "view", "modelled", True, r.clickhouse_partition)
            for offset, line, text, r in lines
            if table.refuses((r,)) and table.table.get(r) == stamp
        )

    def _restore(self, job: Job, command: Restore, number: int, now: Now, *, fails: bool) -> None:
        if fails:
            self.done(job, ReadFailed("modelled"))
            return
        if job.restoring is None:
            stamp = (number, command.first, command.end, 0)
            job.restoring = Restoring(stamp, command.partitions)
        if self._clickhouse.restore(job.restoring, now.seconds):
            self._watch.note(f"restores {command}")
            self.done(job, Restored())

    def _run_insert(self, job: Job, command: SendInsert, now: Now) -> None:
        table = self._clickhouse
        if not table.up:
            self.done(job, InsertAnswered(Outcome.UNSENT, "down"))
            return
        if not job.looked:
            job.looked = True
            since = command.first_attempt_ms
            if since is not None and not table.keeps_log and table.started_at * 1000 >= since:
                self.done(job, InsertAnswered(Outcome.RESTARTED, "restarted"))
            return
        if now.seconds >= command.deadline:
            self.done(job, InsertAnswered(Outcome.UNSENT, "its deadline has passed"))
            return
        batch = command.batch
        epoch = int(command.token.split(":")[6])
        stamp = (_key(job.partition), batch.first, batch.end, epoch)
        rows = tuple(row(line, self.version) for line in batch.lines())
        if any(r.fault == "bad" for r in rows):
            self.done(job, InsertAnswered(Outcome.REFUSED, "a bad line", untouched=True))
            return
        self._watch.insert_begun(job.partition, stamp)
        job.insert = table.begin(command.token, stamp, rows, now.seconds)
        if job.insert is None:
            self.done(job, InsertAnswered(Outcome.FAILED, "too many parts, or held"))

    def done(self, job: Job, answer: Event) -> None:
        job.insert = None
        self.jobs.remove(job)
        if self.alive:
            self._answers.append((job.partition, answer))

    def stop(self) -> None:
        self.stopping = True
        self.assignment.stop()

    @property
    def at_rest(self) -> bool:
        return self.assignment.at_rest

    def halted(self) -> list[Partition]:
        return [p for p in self.assignment if p.phase is Phase.HALTED]


def ended(insert: Insert) -> InsertAnswered:
    """How an insert that has come to its end is answered."""
    if insert.stages:
        return InsertAnswered(Outcome.REFUSED, "the view throws")
    return InsertAnswered(Outcome.LANDED)


def rows_version(version: int) -> None:
    """The version is a constant of a build: here several builds share one process."""
    for module in (partition_module, recovery_module):
        vars(module)["ROWS_VERSION"] = version


def _key(partition: Partition) -> int:
    source = partition.source
    return key(TOPIC_IDS.index(source.topic_id), source.partition)


def _read(answer: Event, fails: bool) -> Event:
    return ReadFailed("modelled") if fails else answer

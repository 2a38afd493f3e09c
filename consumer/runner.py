"""The poll loop: carries out what the core commands, and brings back what came of it.

One thread owns the log (fetching, commits, the group's callbacks) and the core. A pool of threads
inserts and reads tables; its answers come back through a queue. The loop goes round

    fetch records  ->  the core takes them, answers and time  ->  carry out its commands

and never blocks longer than a fetch: while ClickHouse is away it keeps its place in the group.
Nothing here decides; what must be true is in `partition`, `assignment` and `recovery`.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from queue import Empty, SimpleQueue
from weakref import WeakKeyDictionary

from consumer.assignment import Assignment, Commands
from consumer.commands import (
    Answer,
    CommitAnswered,
    CommitRead,
    Event,
    Fetch,
    InsertAnswered,
    Isolate,
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
    SendCommit,
    SendInsert,
    Sift,
    WriteLetters,
)
from consumer.config import ConsumerSettings
from consumer.facts import Facts
from consumer.flight import Now, Phase
from consumer.metrics import Metrics
from consumer.partition import Partition
from consumer.ports import DeadLetters, Listener, Log, LogError, Table
from consumer.recovery import Commit
from consumer.retry import Backoff
from consumer.topic_watch import TopicWatch
from schemas.logs import fact

log = logging.getLogger("consumer")

_WHOLE_TRIES = 3  # of a restore, each for RESTORE_SECONDS a month
_BUSY_SECONDS, _IDLE_SECONDS = 0.02, 0.1
_REJOIN = Backoff(0.5, 30.0)


def clock() -> float:
    """Seconds on a clock that runs through suspend: deadlines must pass while we are asleep."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(slots=True)
class _Asked:
    """A restore that is not done yet. `at_ms`: when it was first asked for, epoch milliseconds.
    `spent`: how often it was tried for as long as it may."""

    command: Restore
    at_ms: int
    spent: int = 0


class Runner:
    """One consumer. `run` returns when it was stopped; `stop` may be called from a signal handler.

    `abort` ends the process at once: the last resort of a member that must not give up a partition.
    """

    def __init__(
        self,
        settings: ConsumerSettings,
        log_port: Log,
        table: Table,
        dead_letters: DeadLetters,
        metrics: Metrics,
        abort: Callable[[str], None],
    ) -> None:
        self._settings = settings
        self._log = log_port
        self._table = table
        self._dead_letters = dead_letters
        self._metrics = metrics
        self._abort = abort
        self._assignment = Assignment(settings.shares)
        self._answers: SimpleQueue[tuple[Partition, Event]] = SimpleQueue()
        self._pending: Commands = []
        self._pool = ThreadPoolExecutor(settings.insert_threads, thread_name_prefix="insert")
        self._readers = ThreadPoolExecutor(2, thread_name_prefix="read")
        self._restorer = ThreadPoolExecutor(1, thread_name_prefix="restore")
        self._committed = ThreadPoolExecutor(1, thread_name_prefix="commits")
        self._topic = TopicWatch(
            log_port.topic_id, lambda partition, event: self._answers.put((partition, event))
        )
        self._random = random.Random()  # noqa: S311 - spreads retries, keeps no secret
        self._stop_at: float | None = None
        self._stopping = False
        self._member = False
        self._leaving = False
        self._rejoin_why: str | None = None
        self._came_round_at = clock()
        self._sent_at: dict[int, float] = {}
        self._fresh: set[Partition] = set()  # taken over, and nothing new was inserted yet
        self._restores: WeakKeyDictionary[Partition, _Asked] = WeakKeyDictionary()
        self._facts = Facts(metrics, log_port.lag)
        metrics.add_live(lambda: clock() - self._came_round_at, self._facts.lags)

    # --- for signals and health ----------------------------------------------------------------

    def stop(self) -> None:
        self._stopping = True

    @property
    def stopping(self) -> bool:
        return self._stopping

    @property
    def came_round_seconds(self) -> float:
        """Since the poll loop last came round."""
        return clock() - self._came_round_at

    def heartbeat(self) -> None:
        """Say that the thread of the poll loop is alive, before the loop has begun."""
        self._came_round_at = clock()

    def readiness(self) -> tuple[bool, dict[str, object]]:
        phases: dict[str, int] = {}
        for partition in list(self._assignment):
            phases[partition.phase.value] = phases.get(partition.phase.value, 0) + 1
        planned = self._assignment.planned
        ready = self._member and planned and not self._stopping
        body: dict[str, object] = {"ready": ready, "partitions": phases}
        if not ready:
            body["reason"] = (
                "stopping"
                if self._stopping
                else "not a member of the group yet"
                if not self._member
                else "partitions are being planned"
            )
        return ready, body

    # --- the loop ------------------------------------------------------------------------------

    def run(self) -> None:
        """Until stopped: join, consume, and join again after whatever made the member leave."""
        failures = 0
        try:
            while not self._stopping:
                self._came_round_at = clock()
                try:
                    self._log.join(
                        Listener(self._assigned, self._revoked, self._lost, self._answered)
                    )
                    self._rejoin_why = None
                    self._topic.begin()
                    self._consume()
                    failures = 0 if self._rejoin_why is None else failures + 1
                    why = self._rejoin_why
                except LogError as error:
                    failures += 1
                    why = str(error)
                self._leave()
                if why is not None and not self._stopping:
                    self._metrics.rebalances.labels("rejoined").inc()
                    fact(log, logging.WARNING, "joining the group again", why=why)
                    self._pause(_REJOIN.seconds(failures, self._random.random()))
        finally:
            self._leave()
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._readers.shutdown(wait=False, cancel_futures=True)
            self._restorer.shutdown(wait=False, cancel_futures=True)
            self._committed.shutdown(wait=False, cancel_futures=True)
            self._topic.close()

    def _consume(self) -> None:
        while self._rejoin_why is None:
            busy = any(partition.phase is not Phase.READING for partition in self._assignment)
            fetched = self._log.fetch(_BUSY_SECONDS if busy else _IDLE_SECONDS)
            now = self._now()
            self._came_round_at = now.seconds
            commands, self._pending = self._pending, []
            for number, records in fetched.items():
                partition = self._assignment.get(number)
                if partition is None:
                    continue
                events, size_bytes = partition.read_so_far
                commands += self._assignment.records(number, records, now)
                self._facts.read(
                    partition.read_so_far[0] - events, partition.read_so_far[1] - size_bytes
                )
            while (answer := self._next_answer()) is not None:
                commands += self._assignment.on(*answer, now)
            commands += self._assignment.tick(now)
            commands += self._first_batches(now)
            self._carry_out(commands)
            if self._stopping and self._done_stopping(now):
                return
            wanted = frozenset[int]() if self._stopping else self._assignment.fetched()
            self._log.fetch_only(wanted)
            self._facts.look_around(now, self._assignment, wanted)
            if self._log.made_again(self._topic.seen):
                self._rejoin_why = "the topic was deleted and made again"

    def _first_batches(self, now: Now) -> Commands:
        """What waited for its new owner is old enough: a partition's first batch is closed where
        the log ends now, and does not wait for the age that is a batch's else."""
        commands: Commands = []
        for partition in list(self._fresh):
            position = partition.position
            if partition not in self._assignment:
                self._fresh.discard(partition)
            elif (
                partition.filling
                and position is not None
                and self._log.lag(partition.source.partition, position) == 0
                and (closed := partition.tick(now, 0))
            ):
                self._fresh.discard(partition)
                commands += [(partition, command) for command in closed]
        return commands

    def _done_stopping(self, now: Now) -> bool:
        """Whether the insert that ran when we were told to stop has been seen to its end."""
        if self._stop_at is None:
            self._stop_at = now.seconds + self._settings.stop_seconds
            self._assignment.stop()
            fact(log, logging.INFO, "stopping: the running inserts are seen to their end")
        return self._assignment.at_rest or now.seconds >= self._stop_at

    def _leave(self) -> None:
        self._leaving = True
        self._log.leave()
        self._leaving = False
        self._member = False
        for partition in list(self._assignment):
            self._assignment.drop(partition.source.partition)
        self._pending.clear()

    def _pause(self, seconds: float) -> None:
        until = clock() + seconds
        while not self._stopping and clock() < until:
            time.sleep(min(0.1, seconds))
            self._came_round_at = clock()

    def _next_answer(self) -> tuple[Partition, Event] | None:
        try:
            return self._answers.get_nowait()
        except Empty:
            return None

    def _now(self) -> Now:
        return Now(clock(), int(time.time() * 1000), self._random.random())

    # --- what the log calls --------------------------------------------------------------------

    def _assigned(self, commits: Mapping[int, Commit | LogError]) -> None:
        now = self._now()
        self._member = True
        self._metrics.rebalances.labels("assigned").inc()
        for number, commit in commits.items():
            partition = Partition(self._log.source(number), self._settings.limits, now)
            self._assignment.add(partition)
            self._fresh.add(partition)
            begun = (
                partition.on(ReadFailed(str(commit)), now)  # it is read again, by and by
                if isinstance(commit, LogError)
                else partition.begin(commit, now)
            )
            self._pending += [(partition, command) for command in begun]
        if commits:
            fact(log, logging.INFO, "partitions assigned", partitions=sorted(commits))

    def _revoked(self, numbers: Iterable[int]) -> None:
        """Forget what is given up. An unanswered commit is seen answered first: applied after our
        successor's, it would replace what that one announced."""
        self._metrics.rebalances.labels("revoked").inc()
        for number in numbers:
            partition = self._assignment.get(number)
            sent = partition.outstanding if partition is not None else None
            if sent is not None and not self._leaving and not self._seen(number, *sent):
                self._abort(
                    f"partition {number} is revoked while a commit is unanswered: only leaving "
                    "at once keeps the partition from its next owner until that is settled"
                )
            self._assignment.drop(number)
        fact(log, logging.INFO, "partitions revoked", partitions=sorted(numbers))

    def _lost(self, numbers: Iterable[int]) -> None:
        self._metrics.rebalances.labels("lost").inc()
        for number in numbers:
            self._assignment.drop(number)
        fact(log, logging.WARNING, "partitions lost", partitions=sorted(numbers))

    def _seen(self, number: int, offset: int, metadata: str) -> bool:
        """Whether Kafka shows the commit in time. Asked behind it, on the same connection."""
        until = clock() + self._settings.limits.commit_timeout_seconds
        while clock() < until:
            try:
                commit = self._log.committed(number)
            except LogError:
                continue
            if (commit.offset, commit.metadata) == (offset, metadata):
                return True
            time.sleep(0.05)
        return False

    def _answered(self, number: int, event: CommitAnswered) -> None:
        partition = self._assignment.get(number)
        if partition is None:
            return
        if event.answer is not Answer.APPLIED:
            self._metrics.commit_errors.labels(event.answer.value).inc()
        sent_at = self._sent_at.pop(number, None)
        if sent_at is not None:
            self._metrics.commit_duration.observe(clock() - sent_at)
        for command in partition.on(event, self._now()):
            if isinstance(command, SendInsert):
                self._send_insert(partition, command)  # does not wait for the fetch to return
            else:
                self._pending.append((partition, command))

    # --- commands ------------------------------------------------------------------------------

    def _carry_out(self, commands: Commands) -> None:
        for partition, command in commands:
            if partition not in self._assignment:
                continue
            number = partition.source.partition
            match command:
                case SendCommit(offset, metadata):
                    self._sent_at[number] = clock()
                    self._log.commit(number, offset, metadata)
                case SendInsert():
                    self._send_insert(partition, command)
                case Fetch(offset):
                    self._log.read_from(number, offset)
                case ReadCommit():
                    self._ask(partition, partial(self._read_commit, number),
                              pool=self._committed, of_clickhouse=False)  # fmt: skip
                case ReadCoverage(offset, since_ms, whole):
                    coverage = partial(self._table.coverage, partition.source, offset, since_ms)
                    self._ask(partition, partial(coverage, whole=whole))
                case ReadStamps(batch, epoch, since_ms):
                    stamps = partial(self._table.stamps, partition.source, batch, epoch, since_ms)
                    self._ask(partition, stamps)
                case ReadTopic(asked):
                    self._topic.ask(partition, asked)
                case Sift(batch, landed, by_ids):
                    self._ask(partition, partial(self._table.sift, batch, landed, by_ids=by_ids))
                case Isolate(batch, refusal, epoch):
                    isolate = partial(self._table.isolate, partition.source, batch, refusal, epoch)
                    self._ask(partition, isolate)
                case WriteLetters():
                    self._ask(
                        partition,
                        partial(self._write_letters, partition, command),
                        of_clickhouse=False,
                    )
                case Restore():
                    restore = self._restores.get(partition)
                    if restore is None or restore.command != command:
                        restore = _Asked(command, int(time.time() * 1000))
                        self._restores[partition] = restore
                    again = partial(self._restore, partition, restore)
                    self._ask(partition, again, pool=self._restorer)
                case Rejoin(why):
                    self._rejoin_why = f"partition {number}: {why}"
                case Report():
                    self._facts.report(partition, command)

    def _read_commit(self, number: int) -> Event:
        try:
            return CommitRead(self._log.read_commit(number))
        except LogError as error:
            return ReadFailed(str(error))

    def _restore(self, partition: Partition, asked: _Asked) -> Event:
        """Tried again, it is the same restore: what others counted since it was first asked for is
        not counted again. After some tries that were whole ones, what cannot be done is left."""
        restore, last = asked.command, asked.spent >= _WHOLE_TRIES
        answer = self._table.restore(
            partition.source, restore.first, restore.end, restore.partitions, asked.at_ms, last=last
        )
        if isinstance(answer, ReadFailed):
            asked.spent += answer.spent
        else:
            self._restores.pop(partition, None)
        return answer

    def _write_letters(self, partition: Partition, command: WriteLetters) -> Event:
        why = self._dead_letters.write(partition.source, command.letters)
        return LettersWritten() if why is None else ReadFailed(why)

    def _ask(
        self,
        partition: Partition,
        read: Callable[[], Event],
        *,
        pool: ThreadPoolExecutor | None = None,
        of_clickhouse: bool = True,
    ) -> None:
        def job() -> None:
            answer = _never_raising(read)
            if of_clickhouse:
                self._facts.heard(not isinstance(answer, ReadFailed), getattr(answer, "why", ""))
            self._answers.put((partition, answer))

        (pool or self._readers).submit(job)

    def _send_insert(self, partition: Partition, command: SendInsert) -> None:
        if command.first_attempt_ms is None:  # else a replay: what follows it has waited as well
            self._fresh.discard(partition)

        def job() -> None:
            began = clock()
            try:
                answer = self._table.insert(
                    command.batch, command.token, command.deadline, command.first_attempt_ms
                )
            except Exception as error:  # the batch may have landed: it is checked like any failure
                log.exception("an insert raised")
                answer = InsertAnswered(Outcome.FAILED, f"{type(error).__name__}: {error}")
            self._metrics.insert_duration.observe(clock() - began)
            if answer.outcome is not Outcome.LANDED:
                self._metrics.insert_errors.labels(answer.outcome.value).inc()
            self._facts.heard(answer.heard, answer.why)
            self._answers.put((partition, answer))

        self._pool.submit(job)


def _never_raising(read: Callable[[], Event]) -> Event:
    try:
        return read()
    except Exception as error:  # an unforeseen answer must not leave a partition waiting for ever
        log.exception("a read raised")
        return ReadFailed(f"{type(error).__name__}: {error}")

"""The life of one assigned partition: events in, commands out. No I/O, no clock, no threads.

One batch and one commit are in flight. A batch `[first, end)` goes through

    close      by rows, bytes or age
    prepare    commit(first, intent), answered          PREPARING
    insert     one block under the batch's token        INSERTING    (BACKING_OFF between attempts)
    check      after an unclean attempt or a replay     CHECKING
    commit     commit(end, open), or with the next      COMMITTING   (or PREPARING of the next)
               batch's intent: one commit for both

and an assignment begins with

    read Kafka's commit and the table, make a plan      PLANNING
    let every older insert end, where it says so        WAITING
    replay what may have landed, then read on           READING

The rules that keep it exact, each where it is enforced:

- nothing is sent to ClickHouse without a prepare of our own, answered since this assignment
  (`_answered`), also for a replay;
- the deadline counts from the *send* of the prepare (`_send_commit`) and is looked at before every
  send (`_insert`), once more by whoever sends it (`SendInsert.deadline`); past it, plan again;
- a replay keeps its range, its digest and its original time (`_launch`);
- a commit whose outcome is unknown means leaving the group (`Rejoin`), never a guess;
- after an attempt that was not cleanly answered, and a replay is one, an answer is believed only
  when the stamps agree (`_check`).

Rows read while a batch is in flight fill the next one. On revocation the owner drops this object:
whatever it had read is read again by the next owner. Only an unanswered commit (`outstanding`) must
be seen answered before the partition is given up.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import Enum

from consumer.batch import Batch, Filling, Records
from consumer.commands import (
    Answer,
    Command,
    CommitAnswered,
    CommitRead,
    CoverageRead,
    Event,
    Fetch,
    InsertAnswered,
    Outcome,
    ReadCommit,
    ReadCoverage,
    ReadFailed,
    ReadStamps,
    Rejoin,
    Report,
    SendCommit,
    SendInsert,
    StampsRead,
)
from consumer.ledger import ROWS_VERSION, Intent, Open, Source, encode, token
from consumer.recovery import Commit, Coverage, Halt, Replay, Wait, judge, plan
from consumer.retry import Backoff


class Phase(Enum):
    PLANNING = "planning"
    WAITING = "waiting"
    READING = "reading"
    PREPARING = "preparing"
    INSERTING = "inserting"
    BACKING_OFF = "backing off"
    CHECKING = "checking"
    COMMITTING = "committing"
    HALTED = "halted"
    LEAVING = "leaving"


@dataclass(frozen=True, slots=True)
class Limits:
    """What closes a batch, and the deadlines. Seconds and bytes."""

    batch_rows: int
    batch_bytes: int
    insert_deadline_seconds: float
    insert_max_seconds: float
    commit_timeout_seconds: float
    retry: Backoff = field(default_factory=Backoff)
    refusal: Backoff = field(default_factory=lambda: Backoff(1.0, 60.0))


@dataclass(frozen=True, slots=True)
class Now:
    """`seconds`: a clock that runs through suspend. `ms`: epoch milliseconds. `chance`: [0, 1)."""

    seconds: float
    ms: int
    chance: float = 0.0


@dataclass(slots=True)
class _Flight:
    """The batch in flight: its intent, and what has been tried. `batch` None: only a commit."""

    batch: Batch | None
    intent: Intent | None
    replayed: bool = False
    deadline: float = 0.0
    attempts: int = 0
    first_attempt_ms: int | None = None
    unclean: bool = False


@dataclass(slots=True)
class _Sent:
    """The commit in flight. `first_at`: when it was first sent, tries included."""

    offset: int
    metadata: str
    first_at: float
    answered: bool = False


class Partition:
    """One assigned partition. Every method takes the time and returns commands in their order."""

    READY = 2  # closed batches that may wait for the one in flight

    def __init__(self, source: Source, limits: Limits, now: Now) -> None:
        self.source = source
        self.phase = Phase.PLANNING
        self.halted_why = ""
        self._limits = limits
        # Until then an insert of an earlier owner, or an abandoned one of ours, may be running.
        self._quiet_at = now.seconds + limits.insert_deadline_seconds + limits.insert_max_seconds
        self._commit: Commit | None = None
        self._planned_at = now.seconds
        self._epoch = 0
        self._replays: deque[Replay] = deque()
        self._filling: Filling | None = None
        self._ready: deque[tuple[Batch, Replay | None]] = deque()
        self._flight: _Flight | None = None
        self._sent: _Sent | None = None
        self._again_at: float | None = None  # when the phase's step is to be tried again
        self._failures = 0
        self._stopping = False
        self.read_so_far = (0, 0)  # events and bytes taken since the assignment began

    # --- what others may know ----------------------------------------------------------------

    @property
    def outstanding(self) -> tuple[int, str] | None:
        """The unanswered commit (offset, metadata), which must not outlive our ownership."""
        if self._sent is None or self._sent.answered:
            return None
        return self._sent.offset, self._sent.metadata

    @property
    def buffered_bytes(self) -> int:
        size = sum(batch.size_bytes for batch, _ in self._ready)
        if self._filling is not None:
            size += self._filling.size_bytes
        if self._flight is not None and self._flight.batch is not None:
            size += self._flight.batch.size_bytes
        return size

    @property
    def position(self) -> int | None:
        """The offset after the last record read, None while there is no plan."""
        return None if self._filling is None else self._filling.position

    @property
    def landed_to(self) -> int | None:
        """The first offset not known to have landed, None while there is no plan."""
        if self._filling is None:
            return None
        if self._flight is not None and self._flight.batch is not None:
            return self._flight.batch.first
        return self._ready[0][0].first if self._ready else self._filling.first

    @property
    def filling(self) -> bool:
        """Events wait here for their batch to be closed."""
        return self._filling is not None and not self._filling.empty

    @property
    def replaying(self) -> bool:
        """A replay's range is still being read, and nothing can be sent before it is whole: it
        must not be paused."""
        return bool(self._replays) and not self._ready

    @property
    def wants_records(self) -> bool:
        return self._filling is not None and len(self._ready) < self.READY

    @property
    def drained(self) -> bool:
        """No closed batch waits: reading may go on after it was held."""
        return self._filling is not None and not self._ready

    @property
    def planned(self) -> bool:
        return self.phase not in (Phase.PLANNING, Phase.WAITING)

    @property
    def oldest_append_ms(self) -> int:
        """Append time of the oldest record held and not committed, epoch ms, 0 for none."""
        held = [batch.oldest_append_ms for batch, _ in self._ready]
        if self._flight is not None and self._flight.batch is not None:
            held.append(self._flight.batch.oldest_append_ms)
        if self._filling is not None:
            held.append(self._filling.oldest_append_ms)
        return min((ms for ms in held if ms), default=0)

    @property
    def at_rest(self) -> bool:
        """On a stop: nothing is running that should be seen to its end."""
        return self.phase not in (Phase.INSERTING, Phase.CHECKING, Phase.COMMITTING)

    # --- the life ----------------------------------------------------------------------------

    def begin(self, commit: Commit, now: Now) -> list[Command]:
        """Plan from Kafka's commit: at assignment, and again past a deadline."""
        self._commit = commit
        self._again_at = None
        self.phase = Phase.PLANNING
        return self._read_coverage()

    def on(self, event: Event, now: Now) -> list[Command]:
        """An answer. One that no step waits for any more is dropped."""
        if self.phase in (Phase.HALTED, Phase.LEAVING):
            if isinstance(event, CommitAnswered):
                sent = self._settle(event)
                if sent is not None and not sent.answered:
                    return self._rejoin(event.why)
            return []
        match event:
            case CommitRead(commit) if self.phase is Phase.PLANNING:
                return self.begin(commit, now)
            case CoverageRead(coverage) if self.phase is Phase.PLANNING:
                return self._plan(coverage, now)
            case CommitAnswered():
                return self._answered(event, now)
            case InsertAnswered() if self.phase is Phase.INSERTING:
                return self._inserted(event, now)
            case StampsRead(missing) if self.phase is Phase.CHECKING:
                return self._checked(missing, now)
            case ReadFailed() if self.phase in (Phase.PLANNING, Phase.CHECKING):
                self._failures += 1
                self._again_at = now.seconds + self._limits.retry.seconds(
                    self._failures, now.chance
                )
        return []

    def records(self, records: Records, now: Now) -> list[Command]:
        """Records in log order. What lies before the position is left over from an older fetch."""
        if self._filling is None or records.position <= self._filling.position:
            return []
        rest: Records | None = records
        if records.offsets and records.offsets[0] < self._filling.position:
            _, rest = records.split(self._filling.position)
        while rest is not None and self._replays:
            replay = self._replays[0]
            part, rest = rest.split(replay.end)
            self._take(self._filling, part, now)
            if self._filling.position >= replay.end:
                self._replays.popleft()
                why = self._close(replay)
                if why:
                    return self._halt(why)
        if rest is not None:
            self._take(self._filling, rest, now)
            full = (
                self._filling.rows >= self._limits.batch_rows
                or self._filling.size_bytes >= self._limits.batch_bytes
            )
            if full:
                self._close(None)
        return self._launch(now)

    def tick(self, now: Now, age_seconds: float) -> list[Command]:
        """Time passes. `age_seconds`: how old a batch may grow before it is closed."""
        sent = self._sent
        if sent is not None and not sent.answered:
            if now.seconds - sent.first_at >= self._limits.commit_timeout_seconds:
                return self._rejoin("a commit was not answered in time")
        elif self._again_at is not None and now.seconds >= self._again_at:
            self._again_at = None
            return self._again(now)
        if self.phase is Phase.WAITING and now.seconds >= self._quiet_at:
            self.phase = Phase.PLANNING
            return [ReadCommit()]  # and then the table: neither is believed from before the wait
        if (
            self.phase is Phase.READING
            and self._filling is not None
            and not self._filling.empty
            and not self._ready
            and not self._replays
            and now.seconds - self._filling.began_at >= age_seconds
        ):
            self._close(None)
            return self._launch(now)
        return []

    def stop(self) -> None:
        """Begin nothing new. The insert that runs is seen to its end (`at_rest`)."""
        self._stopping = True

    # --- planning ----------------------------------------------------------------------------

    def _read_coverage(self) -> list[Command]:
        assert self._commit is not None
        judgement = judge(self._commit, self.source.topic_id)
        note = judgement.note
        since = note.time_ms if isinstance(note, Intent) else None
        return [ReadCoverage(judgement.start, since, whole=note is None)]

    def _plan(self, coverage: Coverage, now: Now) -> list[Command]:
        assert self._commit is not None
        self._failures, self._again_at = 0, None
        judgement = judge(self._commit, self.source.topic_id)
        waited = now.seconds >= self._quiet_at
        found = plan(judgement, self._commit, coverage, now.ms, waited=waited)
        if isinstance(found, Wait):
            self.phase = Phase.WAITING
            return [Report("waiting", found.why)]
        if isinstance(found, Halt):
            return self._halt(found.why)
        self.phase = Phase.READING
        self._planned_at = now.seconds
        self._epoch = found.epoch
        self._replays = deque(found.replays)
        first = found.replays[0].first if found.replays else found.offset
        self._filling = Filling(first)
        commands: list[Command] = [Fetch(first)]
        if judgement.note is None and not found.replays:
            # Makes the partition ours: from here on nobody has to wait or guess.
            commands += self._commit_open(found.offset, now)
        return commands

    def _again_from_commit(self) -> list[Command]:
        """Past a deadline: forget what is in flight and buffered, and plan from Kafka's commit."""
        self._forget()
        self._sent = None
        self.phase = Phase.PLANNING
        return [Report("planned again"), ReadCommit()]

    # --- a batch's way -----------------------------------------------------------------------

    def _take(self, filling: Filling, records: Records, now: Now) -> None:
        rows, size_bytes = filling.rows, filling.size_bytes
        filling.add(records, now.seconds)
        self.read_so_far = (
            self.read_so_far[0] + filling.rows - rows,
            self.read_so_far[1] + filling.size_bytes - size_bytes,
        )

    def _close(self, replay: Replay | None) -> str | None:
        """Close what fills. For a replay: what is wrong with the text that was read, or None."""
        assert self._filling is not None
        batch = self._filling.close()
        self._filling = Filling(batch.end)
        if replay is not None and (
            batch.end != replay.end
            or replay.count not in (None, batch.rows)
            or replay.digest not in (None, batch.digest)
        ):
            return (
                f"[{replay.first}, {replay.end}) reads as {batch.rows} rows of digest "
                f"{batch.digest}, not as announced ({replay.count}, {replay.digest}): "
                "the range needs to be reconciled"
            )
        self._ready.append((batch, replay))
        return None

    def _launch(self, now: Now) -> list[Command]:
        """Prepare the next closed batch, if nothing is in flight."""
        if self.phase is not Phase.READING or self._stopping or not self._ready:
            return []
        batch, replay = self._ready[0]
        if replay is not None and now.seconds - self._planned_at > (
            self._limits.insert_deadline_seconds
        ):
            return self._again_from_commit()  # what the plan knew of the windows is stale
        self._ready.popleft()
        if batch.rows == 0:
            return self._commit_open(batch.end, now)
        return self._prepare(batch, replay, now)

    def _prepare(self, batch: Batch, replay: Replay | None, now: Now) -> list[Command]:
        intent = Intent(
            first=batch.first,
            end=batch.end,
            count=batch.rows,
            digest=batch.digest,
            epoch=self._epoch if replay is None else replay.epoch,
            version=ROWS_VERSION,
            topic_id=self.source.topic_id,
            time_ms=now.ms if replay is None else replay.time_ms,
            sent_ms=now.ms,
        )
        self._flight = _Flight(batch, intent)
        if replay is not None:
            # It was tried before, by whoever announced it: an "ok" is not believed by itself.
            self._flight.replayed = self._flight.unclean = True
            self._flight.first_attempt_ms = replay.time_ms
        self.phase = Phase.PREPARING
        return self._send_commit(batch.first, encode(batch.first, intent), now)

    def _commit_open(self, offset: int, now: Now) -> list[Command]:
        note = Open(self._epoch, ROWS_VERSION, self.source.topic_id, now.ms)
        self._flight = _Flight(None, None)
        self.phase = Phase.COMMITTING
        return self._send_commit(offset, encode(offset, note), now)

    def _send_commit(self, offset: int, metadata: str, now: Now) -> list[Command]:
        again = self._sent is not None and self._sent.metadata == metadata
        first_at = self._sent.first_at if again and self._sent is not None else now.seconds
        self._sent = _Sent(offset, metadata, first_at)
        assert self._flight is not None
        self._flight.deadline = now.seconds + self._limits.insert_deadline_seconds
        return [SendCommit(offset, metadata)]

    def _answered(self, event: CommitAnswered, now: Now) -> list[Command]:
        sent = self._settle(event)
        if sent is None:
            return []
        if event.answer in (Answer.FENCED, Answer.LOST):
            return self._rejoin(event.why)
        if event.answer is Answer.TRY_AGAIN:
            if now.seconds - sent.first_at >= self._limits.commit_timeout_seconds:
                return self._rejoin(event.why)
            self._failures += 1
            self._again_at = now.seconds + self._limits.retry.seconds(self._failures, now.chance)
            return []
        self._failures = 0
        self._sent = None
        if self.phase is Phase.PREPARING:
            return [] if self._stopping else self._insert(now)
        self._flight = None
        self.phase = Phase.READING
        return self._launch(now)

    def _settle(self, event: CommitAnswered) -> _Sent | None:
        """The commit that this answers; None for a stale answer. One that is lost stays
        `outstanding`: until we have left the group it can be applied, also after a revocation."""
        sent = self._sent
        if sent is None or sent.answered or sent.metadata != event.metadata:
            return None
        sent.answered = event.answer is not Answer.LOST
        return sent

    def _insert(self, now: Now) -> list[Command]:
        flight = self._flight
        assert flight is not None
        assert flight.batch is not None
        assert flight.intent is not None
        if now.seconds >= flight.deadline:
            if flight.first_attempt_ms is None and not flight.replayed:
                # Nothing was ever sent under this intent: announce the same range anew.
                return self._prepare(flight.batch, None, now)
            return self._again_from_commit()
        self.phase = Phase.INSERTING
        flight.attempts += 1
        # An insert sent at the deadline may run for so long, even if we forget it.
        self._quiet_at = max(self._quiet_at, flight.deadline + self._limits.insert_max_seconds)
        first_attempt_ms = flight.first_attempt_ms
        if first_attempt_ms is None:
            flight.first_attempt_ms = now.ms
        return [
            SendInsert(
                flight.batch,
                token(self.source, flight.batch, flight.intent.epoch),
                flight.deadline,
                first_attempt_ms,
            )
        ]

    def _inserted(self, event: InsertAnswered, now: Now) -> list[Command]:
        flight = self._flight
        assert flight is not None
        assert flight.batch is not None
        if event.outcome is Outcome.LANDED:
            return self._check() if flight.unclean else self._landed(now)
        if event.outcome is Outcome.RESTARTED:
            return self._halt(f"{event.why}: [{flight.batch.first}, {flight.batch.end}) needs to "
                              "be reconciled")  # fmt: skip
        if event.outcome is not Outcome.UNSENT:
            flight.unclean = True
        elif not flight.unclean:
            flight.first_attempt_ms = None  # the server has never seen it
        self.phase = Phase.BACKING_OFF
        backoff = self._limits.refusal if event.outcome is Outcome.REFUSED else self._limits.retry
        self._again_at = now.seconds + backoff.seconds(flight.attempts, now.chance)
        return [Report(event.outcome.value, event.why, flight.batch)]

    def _check(self) -> list[Command]:
        flight = self._flight
        assert flight is not None
        assert flight.batch is not None
        assert flight.intent is not None
        self.phase = Phase.CHECKING
        return [ReadStamps(flight.batch, flight.intent.epoch)]

    def _checked(self, missing: frozenset[str], now: Now) -> list[Command]:
        flight = self._flight
        assert flight is not None
        assert flight.batch is not None
        self._failures, self._again_at = 0, None
        if missing:
            return self._halt(
                f"[{flight.batch.first}, {flight.batch.end}) was acknowledged, but ClickHouse "
                f"partitions {', '.join(sorted(missing))} have no row of it: it needs to be "
                "reconciled"
            )
        return self._landed(now)

    def _landed(self, now: Now) -> list[Command]:
        flight = self._flight
        assert flight is not None
        assert flight.batch is not None
        report = Report("replayed" if flight.replayed else "inserted", batch=flight.batch)
        end = flight.batch.end
        following = self._ready[0] if self._ready else None
        if (
            following is not None
            and not self._stopping
            and following[0].first == end
            and following[0].rows
            and following[1] is None
        ):
            # The end of this batch and the intent of the next are the same offset: one commit.
            self._ready.popleft()
            return [report, *self._prepare(following[0], None, now)]
        return [report, *self._commit_open(end, now)]

    def _again(self, now: Now) -> list[Command]:
        """The phase's step once more, after its backoff."""
        match self.phase:
            case Phase.PLANNING:
                return [ReadCommit()]
            case Phase.CHECKING:
                return self._check()
            case Phase.BACKING_OFF:
                return [] if self._stopping else self._insert(now)
        # PREPARING or COMMITTING: the same commit, which was refused
        assert self._sent is not None
        return self._send_commit(self._sent.offset, self._sent.metadata, now)

    # --- ends --------------------------------------------------------------------------------

    def _halt(self, why: str) -> list[Command]:
        self.phase = Phase.HALTED
        self.halted_why = why
        self._forget()
        return [Report("halted", why)]

    def _rejoin(self, why: str) -> list[Command]:
        self.phase = Phase.LEAVING
        self._forget()
        return [Rejoin(why)]

    def _forget(self) -> None:
        """Rows are read again by whoever owns the partition next; the unanswered commit stays."""
        self._filling = None
        self._ready.clear()
        self._replays.clear()
        self._flight = None
        self._again_at = None

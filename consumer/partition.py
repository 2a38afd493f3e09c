"""The life of one assigned partition: events in, commands out. No I/O, no clock, no threads.

One batch and one commit are in flight. A batch `[first, end)` goes through

    close      by rows, bytes or age
    prepare    commit(first, intent), answered          PREPARING
    insert     one block under the batch's token        INSERTING    (BACKING_OFF between attempts)
    check      after an unclean attempt or a replay     CHECKING
    commit     commit(end, open), or with the next      COMMITTING   (or PREPARING of the next)
               batch's intent: one commit for both

a batch that is refused for its content goes, on its way,

    isolate    find the lines that cannot be inserted   ISOLATING
    set aside  dead letters, acknowledged by Kafka      SETTING_ASIDE
    insert     the other lines, under the same token    INSERTING

and an assignment begins with

    read Kafka's commit and the table, make a plan      PLANNING
    let every older insert end, where it says so        WAITING
    replay what may have landed, then read on           READING

or, where the token cannot settle it, with a mend, piece by piece, before reading goes on:

    read a piece again                                  READING
    leave what is missing of it                         SIFTING
    prepare (the mend's mark), insert, check            as a batch, under a new epoch
    at the end bring the views up to the table          RESTORING

The rules that keep it exact, each where it is enforced:

- nothing is sent to ClickHouse without a prepare of our own, answered since this assignment, and
  without having heard the topic's id since the batch was read (`_go`), also for a replay, a mend;
- the deadline counts from the first *send* of the prepare (`_send_commit`) and is looked at before
  every send (`_insert`), once more by whoever sends it (`SendInsert.deadline`); past it, plan anew;
- a replay keeps its range, its digest and its original time (`_launch`, `_prepare`);
- a bad row never changes the range or the token (`_set_aside`); where a view threw on it, what was
  tried before is over before the views are restored;
- a commit whose outcome is unknown means leaving the group (`Rejoin`), never a guess;
- after an attempt that was not cleanly answered, and a replay is one, an answer is believed only
  when the stamps agree (`_check`); where they do not, the range is in doubt (`_doubted`);
- a mend is planned only from what was read after the wait (`_read_commit`), is announced by a mark
  at its first offset until its end, and is never replayed.

Rows read while a batch is in flight fill the next one. On revocation the owner drops this object:
whatever it had read is read again by the next owner. Only an unanswered commit (`outstanding`) must
be seen answered before the partition is given up.
"""

from __future__ import annotations

from collections import deque

from consumer.batch import Batch, Filling, Letter, Records
from consumer.commands import (
    Answer,
    Command,
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
from consumer.flight import Flight, Limits, Now, Phase, Sent
from consumer.ledger import ROWS_VERSION, Intent, Mark, Open, Source, encode, token
from consumer.mending import Mending
from consumer.recovery import Commit, Coverage, Halt, Mend, Replay, Segment, Wait, judge, plan
from consumer.retry import Backoff
from consumer.share import BadShare

# Phases that wait for something that was asked for, and may be asked for again.
_ASKING = frozenset(
    {
        Phase.PLANNING,
        Phase.CHECKING,
        Phase.ISOLATING,
        Phase.SETTING_ASIDE,
        Phase.SIFTING,
        Phase.RESTORING,
    }
)


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
        self._text: tuple[Batch, Replay] | None = None  # of a replay, while it is planned again
        self._flight: Flight | None = None
        self._sent: Sent | None = None
        self._again_at: float | None = None  # when the phase's step is to be tried again
        self._failures = 0
        self._stopping = False
        self._waited = False  # commit and table were read after every older insert was over
        self._reached = 0  # an offset that the table was seen to have, past the log's end
        self._doubt = ""
        self._mending: Mending | None = None
        self._sifting: Sift | None = None
        self._writing: WriteLetters | None = None
        self._share = BadShare(limits.bad_share, limits.bad_window_rows)
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
        if self._text is not None:
            size += self._text[0].size_bytes
        if self._sifting is not None:
            size += self._sifting.batch.size_bytes
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
        if self._mending is not None:
            return self._mending.mend.first
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
        """The range of a replay or of a mend's piece is still being read, and nothing can be sent
        before it is whole: it must not be paused."""
        piece = self._segment is not None and self._filling is not None
        return piece or (bool(self._replays) and not self._ready)

    @property
    def _segment(self) -> Segment | None:
        """The segment of a mend that is read now, instead of what follows the last batch."""
        return None if self._mending is None else self._mending.segment

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
        """Plan from Kafka's commit, which was read at the assignment."""
        return self._look_at(commit)

    def on(self, event: Event, now: Now) -> list[Command]:
        """An answer. One that no step waits for any more is dropped."""
        if self.phase in (Phase.HALTED, Phase.LEAVING):
            if isinstance(event, CommitAnswered):
                sent = self._settle(event)
                if sent is not None and not sent.answered:
                    return self._rejoin(event.why)
            return []
        match event, self.phase:
            case CommitAnswered(), _:
                return self._answered(event, now)
            case TopicRead(topic_id, asked), _:
                return self._identified(topic_id, asked, now)
            case CommitRead(commit), Phase.PLANNING:
                return self._look_at(commit)
            case CoverageRead(coverage), Phase.PLANNING:
                return self._plan(coverage, now)
            case InsertAnswered(), Phase.INSERTING:
                return self._inserted(event, now)
            case StampsRead(), Phase.CHECKING:
                return self._checked(event, now)
            case Isolated(letters), Phase.ISOLATING:
                return self._isolated(letters, now)
            case LettersWritten(), Phase.SETTING_ASIDE:
                return self._set_aside(now)
            case Sifted(), Phase.SIFTING:
                return self._sifted(event, now)
            case Restored(), Phase.RESTORING:
                return self._mended(now)
            case ReadFailed(why), phase if phase in _ASKING:
                self._failures += 1
                self._again_at = now.seconds + self._limits.retry.seconds(
                    self._failures, now.chance
                )
                return [Report("put off", f"{phase.value}: {why}")]
        return []

    def records(self, records: Records, now: Now) -> list[Command]:
        """Records in log order. What lies before the position is left over from an older fetch."""
        if self._filling is None or records.position <= self._filling.position:
            return []
        rest: Records | None = records
        if records.offsets and records.offsets[0] < self._filling.position:
            _, rest = records.split(self._filling.position)
        if self._segment is not None and rest is not None:
            return self._piece(self._segment, self._filling, rest, now)
        while rest is not None and self._replays:
            replay = self._replays[0]
            part, rest = rest.split(replay.end)
            self._take(self._filling, part, now)
            if self._filling.position >= replay.end:
                self._replays.popleft()
                self._close(replay)
        if rest is not None:
            self._take(self._filling, rest, now)
            if self._full(self._filling):
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
        elif (
            self.phase is Phase.PREPARING
            and sent is None
            and self._flight is not None
            and now.seconds >= self._flight.deadline
        ):
            return self._insert(now)  # the topic's id was not heard in time
        if self.phase is Phase.WAITING and now.seconds >= self._quiet_at:
            return self._read_commit(now)
        if (
            self.phase is Phase.READING
            and self._segment is None
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

    def _read_commit(self, now: Now) -> list[Command]:
        """And then the table. After the wait neither is believed from before it."""
        self.phase = Phase.PLANNING
        self._again_at = None
        self._waited = now.seconds >= self._quiet_at
        return [ReadCommit()]

    def _look_at(self, commit: Commit) -> list[Command]:
        self._commit = commit
        self._again_at = None
        self.phase = Phase.PLANNING
        judgement = judge(commit, self.source.topic_id)
        note = judgement.note
        since = note.time_ms if isinstance(note, Intent) else None
        return [ReadCoverage(judgement.start, since, whole=note is None or self._waited)]

    def _plan(self, coverage: Coverage, now: Now) -> list[Command]:
        assert self._commit is not None
        self._failures, self._again_at = 0, None
        judgement = judge(self._commit, self.source.topic_id)
        text, self._text = self._text, None
        found = plan(
            judgement, self._commit, coverage, now.ms, waited=self._waited, doubt=self._doubt
        )
        match found:
            case Wait(why):
                self.phase = Phase.WAITING
                return [Report("waiting", why)]
            case Halt(why, reached):
                if reached <= self._reached:
                    return self._halt(why)
                # The log's end was read before the table was, and another may own this by now.
                self._reached, self._text = reached, text
                return self._read_commit(now)
            case Mend():
                self._planned_at = now.seconds
                return [*_told_lost(found.lost), *self._mend(found, now)]
        self.phase = Phase.READING
        self._planned_at = now.seconds
        self._epoch = found.epoch
        self._doubt = ""
        self._replays = deque(found.replays)
        first = found.replays[0].first if found.replays else found.offset
        if text is not None and self._replays and self._replays[0] == text[1]:
            self._replays.popleft()  # its text was read before, and is the same plan's
            self._ready.append(text)
            first = text[0].end
        self._filling = Filling(first)
        commands: list[Command] = [*_told_lost(found.lost), Fetch(first)]
        if (judgement.note is None or found.lost) and not found.replays:
            # Makes the partition ours: from here on nobody has to wait or guess.
            commands += self._commit_open(found.offset, now)
        return [*commands, *self._launch(now)]

    def _again_from_commit(self, now: Now) -> list[Command]:
        """Past a deadline: forget what is in flight and buffered, and plan from Kafka's commit."""
        self._forget()
        self._sent = None
        return [Report("planned again"), *self._read_commit(now)]

    def _doubted(self, why: str, now: Now) -> list[Command]:
        """The token cannot settle what is open: mend it, once every older insert is over."""
        self._forget()
        self._doubt = why
        if now.seconds >= self._quiet_at:
            return [Report("in doubt", why), *self._read_commit(now)]
        self.phase = Phase.WAITING
        return [Report("in doubt", why), Report("waiting", why)]

    # --- a mend ------------------------------------------------------------------------------

    def _mend(self, mend: Mend, now: Now) -> list[Command]:
        self._mending = Mending(mend)
        report = Report("mending", f"[{mend.first}, {mend.end}): {mend.why}")
        return [report, *self._next_piece(now)]

    def _next_piece(self, now: Now) -> list[Command]:
        assert self._mending is not None
        self._flight = None
        self.phase = Phase.READING
        if self._stopping:
            return []
        if self._segment is None:
            return self._restore(now)
        self._filling = Filling(self._mending.position)
        return [Fetch(self._mending.position)]

    def _piece(
        self, segment: Segment, filling: Filling, records: Records, now: Now
    ) -> list[Command]:
        """Read on in a segment; a piece of it is whole at its end, or, where nothing of it landed,
        at a batch's size. What was fetched past that is fetched again."""
        if self._stopping:
            return []
        assert self._mending is not None
        part, _ = records.split(segment.end)
        self._take(filling, part, now)
        cut = not segment.landed and self._full(filling)
        if filling.position < segment.end and not cut:
            return []
        batch = filling.close()
        self._filling = None
        self._mending.read_to(batch.end)
        if not batch.rows:
            return self._next_piece(now)
        if not segment.touched:
            return self._prepare_piece(batch, batch.rows, now)
        self._sifting = Sift(batch, segment.landed, self._mending.mend.by_ids)
        self.phase = Phase.SIFTING
        return [self._sifting]

    def _sifted(self, event: Sifted, now: Now) -> list[Command]:
        assert self._mending is not None
        assert self._sifting is not None
        read_rows = self._sifting.batch.rows
        self._failures, self._again_at, self._sifting = 0, None, None
        self._mending.touched |= event.partitions
        if event.missing is None:
            return self._next_piece(now)
        return self._prepare_piece(event.missing, read_rows, now)

    def _prepare_piece(self, batch: Batch, read_rows: int, now: Now) -> list[Command]:
        mark = self._mending_mark(now)
        return self._announce(Flight(batch, mark, body=batch, read_rows=read_rows), now)

    def _mending_mark(self, now: Now) -> Mark:
        assert self._mending is not None
        mend = self._mending.mend
        return self._mark(mend.first, mend.end, mend.epoch, now)

    def _mark(self, first: int, end: int, epoch: int, now: Now) -> Mark:
        return Mark(
            first=first,
            end=end,
            epoch=epoch,
            version=ROWS_VERSION,
            topic_id=self.source.topic_id,
            time_ms=now.ms,
            sent_ms=now.ms,
        )

    def _restore(self, now: Now) -> list[Command]:
        """Announced as well: whoever finds the mark restores again."""
        assert self._mending is not None
        if not self._mending.touched:
            return self._mended(now)
        return self._announce(Flight(None, self._mending_mark(now)), now)

    def _mended(self, now: Now) -> list[Command]:
        assert self._mending is not None
        mend = self._mending.mend
        self._failures, self._again_at = 0, None
        self._mending, self._doubt = None, ""
        self._epoch = max(self._epoch, mend.epoch)
        commands = [
            Report("mended", f"[{mend.first}, {mend.end})"),
            *self._commit_open(mend.end, now),
        ]
        if self._filling is None:
            self._filling = Filling(mend.end)
            commands.append(Fetch(mend.end))
        return commands

    # --- a batch's way -----------------------------------------------------------------------

    def _take(self, filling: Filling, records: Records, now: Now) -> None:
        rows, size_bytes = filling.rows, filling.size_bytes
        filling.add(records, now.seconds)
        self.read_so_far = (
            self.read_so_far[0] + filling.rows - rows,
            self.read_so_far[1] + filling.size_bytes - size_bytes,
        )

    def _full(self, filling: Filling) -> bool:
        return (
            filling.rows >= self._limits.batch_rows
            or filling.size_bytes >= self._limits.batch_bytes
        )

    def _close(self, replay: Replay | None) -> None:
        assert self._filling is not None
        batch = self._filling.close()
        self._filling = Filling(batch.end)
        self._ready.append((batch, replay))

    def _launch(self, now: Now) -> list[Command]:
        """Prepare the next closed batch, if nothing is in flight."""
        if self.phase is not Phase.READING or self._stopping or not self._ready:
            return []
        batch, replay = self._ready[0]
        if replay is not None:
            if now.seconds - self._planned_at > self._limits.insert_deadline_seconds:
                # What the plan knew of the windows is stale. The text is not: reading it again
                # would take as long, and so for ever.
                commands = self._again_from_commit(now)
                self._text = batch, replay
                return commands
            why = _mismatch(batch, replay)
            if why:
                return self._doubted(why, now)
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
        flight = Flight(batch, intent, body=batch, read_rows=batch.rows)
        if replay is not None:
            # It was tried before, by whoever announced it: an "ok" is not believed by itself.
            flight.replayed = flight.unclean = True
            flight.first_attempt_ms = replay.time_ms
        return self._announce(flight, now)

    def _announce(self, flight: Flight, now: Now) -> list[Command]:
        """Prepare. Meanwhile the topic's id is asked for: records that were read before the answer
        are its own, and not those of a topic that was made again under its name."""
        assert flight.note is not None
        self._flight = flight
        self.phase = Phase.PREPARING
        metadata = encode(flight.note.first, flight.note)
        commands = self._send_commit(flight.note.first, metadata, now)
        return [*commands, ReadTopic(metadata)]

    def _commit_open(self, offset: int, now: Now) -> list[Command]:
        note = Open(self._epoch, ROWS_VERSION, self.source.topic_id, now.ms)
        self._flight = Flight(None, None)
        self.phase = Phase.COMMITTING
        return self._send_commit(offset, encode(offset, note), now)

    def _send_commit(self, offset: int, metadata: str, now: Now) -> list[Command]:
        again = self._sent is not None and self._sent.metadata == metadata
        first_at = self._sent.first_at if again and self._sent is not None else now.seconds
        self._sent = Sent(offset, metadata, first_at)
        assert self._flight is not None
        # From the first send on, as the token of a replay or of a mark ages while Kafka refuses.
        self._flight.deadline = first_at + self._limits.insert_deadline_seconds
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
            return self._go(now)
        self._flight = None
        self.phase = Phase.READING
        return self._launch(now)

    def _identified(self, topic_id: str, asked: str, now: Now) -> list[Command]:
        flight = self._flight
        if flight is None or flight.note is None or asked != encode(flight.note.first, flight.note):
            return []
        if topic_id != self.source.topic_id:
            return self._rejoin("the topic was deleted and made again")
        flight.identified = True
        return self._go(now)

    def _go(self, now: Now) -> list[Command]:
        """Write, once the prepare is answered and the topic is known to be the same."""
        flight = self._flight
        assert flight is not None
        if self.phase is not Phase.PREPARING or self._sent is not None or not flight.identified:
            return []
        if self._stopping:
            return []
        if flight.batch is not None:
            return self._insert(now)
        assert self._mending is not None
        self.phase = Phase.RESTORING
        return [self._restoring(self._mending)]

    def _restoring(self, mending: Mending) -> Restore:
        mend = mending.mend
        return Restore(mend.first, mend.end, frozenset(mending.touched))

    def _settle(self, event: CommitAnswered) -> Sent | None:
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
        if self._stopping:
            return []
        if now.seconds >= flight.deadline:
            return self._past_the_deadline(flight, now)
        assert flight.batch is not None
        assert flight.body is not None
        if flight.body.suspect and not flight.looked_through:
            return self._isolate("", now)
        if not flight.body.rows:  # every line was set aside
            return self._landed(now)
        self.phase = Phase.INSERTING
        flight.attempts += 1
        # An insert sent at the deadline may run for so long, even if we forget it.
        self._quiet_at = max(self._quiet_at, flight.deadline + self._limits.insert_max_seconds)
        first_attempt_ms = flight.first_attempt_ms
        if first_attempt_ms is None:
            flight.first_attempt_ms = now.ms
        return [
            SendInsert(
                flight.body,
                token(self.source, flight.batch, flight.named),
                flight.deadline,
                first_attempt_ms,
            )
        ]

    def _past_the_deadline(self, flight: Flight, now: Now) -> list[Command]:
        if flight.first_attempt_ms is None and not flight.replayed:
            # Nothing was ever sent under this intent: announce the same range anew.
            if flight.batch is None:
                return self._restore(now)
            if self._mending is not None:
                return self._prepare_piece(flight.batch, flight.read_rows, now)
            return self._prepare(flight.batch, None, now)
        return self._again_from_commit(now)

    def _inserted(self, event: InsertAnswered, now: Now) -> list[Command]:
        flight = self._flight
        assert flight is not None
        assert flight.batch is not None
        assert flight.body is not None
        if event.outcome is Outcome.LANDED:
            if event.rows is not None and event.rows != flight.body.rows:
                why = f"{flight.body.rows} lines were sent, ClickHouse read {event.rows} rows"
                flight.unclean = True
                return [Report("uneven", why, flight.batch), *self._check()]
            return self._check() if flight.unclean else self._landed(now)
        if event.outcome is Outcome.RESTARTED:
            return self._doubted(event.why, now)
        flight.unheard |= event.outcome is Outcome.FAILED
        if event.outcome is not Outcome.UNSENT and not event.untouched:
            flight.unclean = True
        elif not flight.unclean:
            flight.first_attempt_ms = None  # the server has nothing of it
        report = Report(event.outcome.value, event.why, flight.batch)
        if event.outcome is Outcome.REFUSED:
            return [report, *self._isolate(event.why or "refused", now)]
        return [report, *self._back_off(self._limits.retry, now)]

    def _back_off(self, backoff: Backoff, now: Now) -> list[Command]:
        assert self._flight is not None
        self.phase = Phase.BACKING_OFF
        self._again_at = now.seconds + backoff.seconds(self._flight.attempts, now.chance)
        return []

    # --- bad rows ----------------------------------------------------------------------------

    def _isolate(self, refusal: str, now: Now) -> list[Command]:
        """Find what cannot be inserted. After a refusal it may be in the table all the same: a view
        can throw when its source has landed."""
        flight = self._flight
        assert flight is not None
        assert flight.body is not None
        self.phase = Phase.ISOLATING
        flight.refusal = refusal
        return [Isolate(flight.body, refusal, flight.named.epoch if flight.unclean else None)]

    def _isolated(self, letters: tuple[Letter, ...], now: Now) -> list[Command]:
        flight = self._flight
        assert flight is not None
        assert flight.batch is not None
        self._failures, self._again_at = 0, None
        flight.looked_through = True
        known = {(letter.offset, letter.line) for letter in flight.letters}
        new = tuple(letter for letter in letters if (letter.offset, letter.line) not in known)
        if not new:
            if not flight.refusal:
                return self._insert(now)
            why = f"no line of it was found to be at fault: {flight.refusal}"
            return [Report("unexplained", why, flight.batch),
                    *self._back_off(self._limits.refusal, now)]  # fmt: skip
        too_many = self._share.exceeded(flight.read_rows, len(flight.letters) + len(new))
        if too_many:
            return self._halt(
                f"{too_many}: {new[0].error}. Nothing of [{flight.batch.first}, "
                f"{flight.batch.end}) was set aside. Mend what makes or takes these events and "
                "start the consumer again, or raise PENSTOCK_BAD_SHARE"
            )
        flight.letters += new
        self.phase = Phase.SETTING_ASIDE
        self._writing = WriteLetters(new)
        return [self._writing]

    def _set_aside(self, now: Now) -> list[Command]:
        """The letters are safe: go on with the rest of the same range, under the same token."""
        flight = self._flight
        assert flight is not None
        assert flight.batch is not None
        assert self._writing is not None
        self._failures, self._again_at = 0, None
        told = [
            Report("set aside", letter.reason, flight.batch) for letter in self._writing.letters
        ]
        self._writing = None
        flight.body = flight.batch.without(flight.letters)
        thrown = any(each.in_table for each in flight.letters)
        if not thrown or self._stopping:
            return [*told, *self._insert(now)]
        if flight.replayed or flight.unheard:
            # Its token may never land in the view: an older attempt of it could, after the restore.
            self._share.add(flight.read_rows, len(flight.letters))
            why = f"a view threw on [{flight.batch.first}, {flight.batch.end}), tried before"
            return [*told, *self._doubted(why, now)]
        if isinstance(flight.note, Intent):
            if now.seconds >= flight.deadline:  # the mark's own would hide how old the token is
                return [*told, *self._past_the_deadline(flight, now)]
            return [*told, *self._mark_before_the_rest(flight, flight.note, now)]
        return [*told, *self._insert(now)]

    def _mark_before_the_rest(self, flight: Flight, intent: Intent, now: Now) -> list[Command]:
        """Rows are in the table and in no view. Once the rest is in under their token, the views
        would drop a replay: whoever comes after us must restore instead, and finds a mark."""
        flight.intent = intent
        flight.note = self._mark(intent.first, intent.end, intent.epoch, now)
        return self._announce(flight, now)

    # --- what landed -------------------------------------------------------------------------

    def _check(self) -> list[Command]:
        flight = self._flight
        assert flight is not None
        assert flight.body is not None
        self.phase = Phase.CHECKING
        return [ReadStamps(flight.body, flight.named.epoch, flight.named.time_ms)]

    def _checked(self, event: StampsRead, now: Now) -> list[Command]:
        flight = self._flight
        assert flight is not None
        assert flight.batch is not None
        self._failures, self._again_at = 0, None
        named = f"[{flight.batch.first}, {flight.batch.end})"
        if event.missing:
            return self._doubted(
                f"{named} was acknowledged, but ClickHouse partitions "
                f"{', '.join(sorted(event.missing))} have no row of it",
                now,
            )
        flight.rebuilt = event.rebuilt
        return self._landed(now)

    def _landed(self, now: Now) -> list[Command]:
        flight = self._flight
        assert flight is not None
        assert flight.batch is not None
        assert flight.body is not None
        self._share.add(flight.read_rows, len(flight.letters))
        report = Report("replayed" if flight.replayed else "inserted", batch=flight.body)
        self._owe_a_restore(flight)
        if self._mending is not None:
            return [report, *self._next_piece(now)]
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

    def _owe_a_restore(self, flight: Flight) -> None:
        """Before its end is committed, a batch has its views brought up to the table once more
        where sums were rebuilt while it was open, and where a view threw on a row that is in the
        table: the views of ours can take it."""
        assert flight.batch is not None
        thrown_out = {each.clickhouse_partition for each in flight.letters if each.in_table}
        rebuild = flight.rebuilt | thrown_out
        if not rebuild:
            return
        if self._mending is None:
            first, end = flight.batch.first, flight.batch.end
            why = f"views may differ from the table in [{first}, {end})"
            owed = Mend(first, end, flight.named.epoch, (), rebuild, by_ids=False, why=why)
            self._mending = Mending(owed)
        self._mending.touched |= rebuild

    def _again(self, now: Now) -> list[Command]:
        """The phase's step once more, after its backoff."""
        flight = self._flight
        match self.phase:
            case Phase.PLANNING:
                return self._read_commit(now)
            case Phase.CHECKING:
                return self._check()
            case Phase.BACKING_OFF:
                return self._insert(now)
            case Phase.ISOLATING:
                assert flight is not None
                return self._isolate(flight.refusal, now)
            case Phase.SETTING_ASIDE:
                assert self._writing is not None
                return [self._writing]
            case Phase.SIFTING:
                assert self._sifting is not None
                return [self._sifting]
            case Phase.RESTORING:
                assert self._mending is not None
                return [self._restoring(self._mending)]
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
        self._text = None
        self._replays.clear()
        self._flight = None
        self._mending = self._sifting = self._writing = None
        self._again_at = None


def _mismatch(batch: Batch, replay: Replay) -> str:
    """What is wrong with the text that was read for a replay; empty where it is the same."""
    if (
        batch.end == replay.end
        and replay.count in (None, batch.rows)
        and replay.digest in (None, batch.digest)
    ):
        return ""
    return (
        f"[{replay.first}, {replay.end}) reads as {batch.rows} rows of digest {batch.digest}, "
        f"not as announced ({replay.count}, {replay.digest})"
    )


def _told_lost(lost: tuple[int, int] | None) -> list[Command]:
    if lost is None:
        return []
    return [Report("lost", f"[{lost[0]}, {lost[1]}) left the log before it was read")]

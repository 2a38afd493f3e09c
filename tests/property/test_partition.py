"""Whatever happens in whatever order: the rules of a partition hold, and it never falls over.

A state machine answers what the partition asked for, in any order and with any outcome, and also
tells it what no step waits for. What it asks is carried out by nobody here: that everything lands
exactly once is for the simulator to show. Here no event may make it break a rule by itself.
"""

from __future__ import annotations

from typing import TypeVar

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from consumer.batch import Letter, Records
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
from consumer.flight import Now, Phase
from consumer.ledger import Intent, Mark, Note, Open, decode
from consumer.partition import Partition
from consumer.recovery import Commit
from tests.unit.consumer.owner import (
    LIMITS,
    SOURCE,
    TOPIC_ID,
    committed,
    coverage,
    covered,
    intent,
    line,
    mark,
    ms,
    nothing_open,
)

COMMITS = st.sampled_from(
    [
        nothing_open(0),
        nothing_open(5, epoch=2),
        committed(Open(1, 1, TOPIC_ID, ms(900)), 3, low=5),
        committed(intent(0, 4, at=990)),
        committed(intent(2, 3, at=500, epoch=1)),
        committed(intent(0, 4, at=990, version=2)),
        committed(intent(0, 4, at=990), low=2),
        committed(mark(0, 12, at=990)),
        committed(mark(2, 9, at=990, epoch=3), low=4),
        Commit(None, None, 0, 0),
        Commit(7, None, 0, 100),
        Commit(7, None, 0, 9),
    ]
)
COVERAGES = st.sampled_from(
    [
        coverage(),
        coverage(keeps=True),
        coverage(covered(0, 4, at=995)),
        coverage(covered(0, 4, at=995), keeps=True),
        coverage(covered(0, 2, at=995), covered(2, 4, epoch=1, at=996), keeps=True),
        coverage(covered(0, 6, at=995), covered(3, 11, epoch=5, at=996)),
        coverage(covered(2, 4, at=995)),
        coverage(entries=600),
        coverage(seconds=100),
        coverage(started=2000),
    ]
)
PARTS = st.frozensets(st.sampled_from(["202601", "202602"]))
OUTCOMES = st.sampled_from(
    [*(InsertAnswered(outcome, "") for outcome in Outcome), *[InsertAnswered(Outcome.LANDED)] * 4]
)
# What each phase waits for, besides the answers to commits and about the topic.
AWAITED: dict[Phase, tuple[type[Event], ...]] = {
    Phase.PLANNING: (CommitRead, CoverageRead, ReadFailed),
    Phase.INSERTING: (InsertAnswered,),
    Phase.ISOLATING: (Isolated, ReadFailed),
    Phase.SETTING_ASIDE: (LettersWritten, ReadFailed),
    Phase.CHECKING: (StampsRead, ReadFailed),
    Phase.SIFTING: (Sifted, ReadFailed),
    Phase.RESTORING: (Restored, ReadFailed),
}
UNASKED: list[Event] = [
    CommitRead(nothing_open(0)),
    CoverageRead(coverage()),
    InsertAnswered(Outcome.LANDED),
    StampsRead(frozenset({"202601"})),
    Sifted(None, frozenset()),
    Isolated((Letter(0, 0, b"", "type", ""),)),
    LettersWritten(),
    Restored(),
    ReadFailed("away"),
    TopicRead("another", "asked by nobody"),
    CommitAnswered("sent by nobody", Answer.LOST),
]
ASKED = (
    ReadCommit, ReadCoverage, ReadStamps, SendInsert, Sift, Isolate, WriteLetters, Restore,
)  # fmt: skip
C = TypeVar("C", bound=Command)


class PartitionMachine(RuleBasedStateMachine):
    """A partition, and what its commands must keep to."""

    def __init__(self) -> None:
        super().__init__()
        self.at = 1000.0
        self.partition = Partition(SOURCE, LIMITS, self.now)
        self.position = 0
        self.stopped = False
        self.commit: SendCommit | None = None  # the last one, and when it was sent
        self.sent_at = 0.0
        self.unanswered: str | None = None
        self.refused = False  # the last commit was, and may be sent again as it is
        self.before: list[str] = []  # metadata of commits that were answered
        self.prepared: Intent | Mark | None = None
        self.questions: list[str] = []
        self.identified: str | None = None
        self.job: Command | None = None  # what it asked for, and has no answer to
        self.letters: set[tuple[int, int]] = set()  # of this prepare, acknowledged
        self.tokens: dict[str, str] = {}  # by the metadata that announced them
        self.texts: dict[tuple[int, int, int, int], str] = {}
        self.landed_to: int | None = None  # what is known to be whole, or lost
        self.mended = False
        self.touched = frozenset[str]()  # what must be restored at the mend's end
        self.outcome: Outcome | None = None  # of this prepare's last attempt

    @property
    def now(self) -> Now:
        return Now(self.at, ms(self.at), 0.5)

    @property
    def note(self) -> Note | None:
        return None if self.commit is None else decode(self.commit.offset, self.commit.metadata)

    # --- what it does ------------------------------------------------------------------------

    def carry_out(self, commands: list[Command]) -> None:
        for command in commands:
            match command:
                case SendCommit():
                    self.on_commit(command)
                case SendInsert():
                    self.on_insert(command)
                case ReadTopic(asked):
                    assert self.commit is not None
                    assert asked == self.commit.metadata
                    self.questions.append(asked)
                case Fetch(offset):
                    self.position = offset
                    if self.commit is None or not isinstance(self.note, Mark):
                        self.landed_to = offset if self.landed_to is None else self.landed_to
                case Report("inserted" | "replayed", _, batch) if batch is not None:
                    assert self.outcome is Outcome.LANDED or not batch.rows
                    if not isinstance(self.note, Mark):
                        assert self.landed_to == batch.first
                        self.landed_to = batch.end
                case Report("mended"):
                    assert not self.touched, "views are left as they were"
                    self.mended = True
                case Report("planned again" | "in doubt"):
                    self.touched = frozenset()
                    self.landed_to = None
                    self.mended = False
            if isinstance(command, ASKED):
                assert self.job is None, f"{command} while {self.job} is under way"
                self.job = command

    def on_commit(self, command: SendCommit) -> None:
        assert self.unanswered is None, "two commits in flight"
        assert self.partition.outstanding == (command.offset, command.metadata)
        note = decode(command.offset, command.metadata)
        assert note is not None, "a commit without metadata of ours"
        again, self.refused = self.refused and command == self.commit, False
        assert again or not (self.stopped and isinstance(note, Intent | Mark))
        mending = self.partition._mending is not None
        assert not (mending and isinstance(note, Intent)), "a mend is announced by its mark alone"
        if isinstance(note, Open):
            self.passes(command.offset)
        elif isinstance(note, Intent) and self.landed_to is not None:
            assert command.offset == self.landed_to, "batches do not tile the log"
        self.commit, self.sent_at, self.unanswered = command, self.at, command.metadata
        self.prepared = self.outcome = None
        self.mended = False
        if not again:
            self.identified, self.letters = None, set()

    def passes(self, offset: int) -> None:
        """Nothing is passed but what landed, what has no rows, and what was mended."""
        if self.landed_to is not None and not self.mended:
            assert offset >= self.landed_to
            assert all(n % 5 == 0 for n in range(self.landed_to, offset)), "passes rows"
        self.landed_to = offset

    def on_insert(self, command: SendInsert) -> None:
        assert self.commit is not None
        note, batch = self.prepared, command.batch
        assert note is not None, "an insert without an own applied prepare"
        assert self.identified == self.commit.metadata, "an insert of a topic that was not asked"
        assert not self.stopped
        assert self.at < command.deadline == self.sent_at + LIMITS.insert_deadline_seconds
        cluster, topic_id, number, span, count, digest, epoch, topic, version, time_ms = (
            command.token.split(":")
        )
        assert (cluster, topic_id, number, topic) == ("cluster-1", TOPIC_ID, "3", "events")
        assert span == f"{batch.first}-{batch.end}"
        assert (int(epoch), int(version), int(time_ms)) == (note.epoch, 1, note.time_ms)
        if isinstance(note, Intent):
            assert (batch.first, batch.end) == (note.first, note.end)
            assert (int(count), digest) == (note.count, note.digest)
        else:
            assert note.first <= batch.first < batch.end <= note.end
        assert self.tokens.setdefault(self.commit.metadata, command.token) == command.token
        told = self.texts.setdefault((batch.first, batch.end, note.epoch, note.time_ms), digest)
        assert told == digest, "another text under the same stamp"
        assert 0 < batch.rows == int(count) - len(self.letters), "a row neither sent nor set aside"
        assert not self.letters & {(offset, number) for offset, number, _ in batch.origins()}

    def on(self, event: Event) -> None:
        self.carry_out(self.partition.on(event, self.now))

    def done(self, event: Event) -> None:
        """The answer to what it asked for."""
        self.job = None
        self.on(event)

    def asked(self, kind: type[C]) -> C:
        assert isinstance(self.job, kind)
        return self.job

    # --- what happens to it ------------------------------------------------------------------

    @initialize(commit=COMMITS)
    def begin(self, commit: Commit) -> None:
        self.carry_out(self.partition.begin(commit, self.now))

    @precondition(lambda self: isinstance(self.job, ReadCommit))
    @rule(commit=COMMITS)
    def commit_is_read(self, commit: Commit) -> None:
        self.landed_to = None
        self.done(CommitRead(commit))

    @precondition(lambda self: isinstance(self.job, ReadCoverage))
    @rule(data=st.data())
    def coverage_is_read(self, data: st.DataObject) -> None:
        self.landed_to = None
        self.done(CoverageRead(data.draw(COVERAGES)))

    @precondition(lambda self: self.unanswered is not None)
    @rule(answer=st.sampled_from([*Answer, *[Answer.APPLIED] * 6]))
    def commit_is_answered(self, answer: Answer) -> None:
        assert self.unanswered is not None
        metadata, note = self.unanswered, self.note
        if answer is not Answer.LOST:
            self.unanswered = None
            self.before.append(metadata)
        self.refused = answer is Answer.TRY_AGAIN
        if answer is Answer.APPLIED and isinstance(note, Intent | Mark):
            self.prepared = note
        self.on(CommitAnswered(metadata, answer))
        if answer in (Answer.LOST, Answer.FENCED):
            assert self.partition.phase is Phase.LEAVING

    @precondition(lambda self: self.questions)
    @rule(data=st.data(), same=st.sampled_from([True] * 9 + [False]))
    def topic_is_told(self, data: st.DataObject, same: bool) -> None:
        asked = data.draw(st.sampled_from(self.questions[-2:]))
        if same and self.commit is not None and asked == self.commit.metadata:
            self.identified = asked
        self.on(TopicRead(TOPIC_ID if same else "made again", asked))

    @precondition(lambda self: self.partition.wants_records)
    @rule(count=st.integers(0, 6))
    def records_come(self, count: int) -> None:
        end = self.position + count
        values = [line(n) if n % 5 else None for n in range(self.position, end)]
        records = Records(range(self.position, end), values, end, 0)
        self.position = end
        self.carry_out(self.partition.records(records, self.now))

    @rule(seconds=st.sampled_from([0.0, 0.5, 2.0, 2.0, 9.0, 31.0, 51.0]))
    def time_passes(self, seconds: float) -> None:
        self.at += seconds
        self.carry_out(self.partition.tick(self.now, 2.0))

    @precondition(lambda self: isinstance(self.job, SendInsert))
    @rule(answer=OUTCOMES)
    def insert_is_answered(self, answer: InsertAnswered) -> None:
        self.outcome = answer.outcome
        self.done(answer)

    @precondition(lambda self: isinstance(self.job, ReadStamps))
    @rule(missing=PARTS, rebuilt=PARTS, whole=st.booleans())
    def stamps_are_read(
        self, missing: frozenset[str], rebuilt: frozenset[str], whole: bool
    ) -> None:
        missing = frozenset() if whole else missing
        self.touched |= frozenset() if missing else rebuilt
        self.done(StampsRead(missing, rebuilt))

    @precondition(lambda self: isinstance(self.job, Sift))
    @rule(data=st.data(), parts=PARTS)
    def what_is_missing_is_told(self, data: st.DataObject, parts: frozenset[str]) -> None:
        batch = self.asked(Sift).batch
        wanted = data.draw(st.lists(st.booleans(), min_size=batch.rows, max_size=batch.rows))
        self.touched |= parts
        self.done(Sifted(batch.only(wanted) if any(wanted) else None, parts))

    @precondition(lambda self: isinstance(self.job, Isolate))
    @rule(data=st.data())
    def bad_lines_are_told(self, data: st.DataObject) -> None:
        origins = list(self.asked(Isolate).batch.origins())
        bad = data.draw(st.sets(st.sampled_from(range(len(origins))), max_size=3))
        letters = (Letter(*origins[n], "type", "") for n in sorted(bad))
        self.done(Isolated(tuple(letters)))

    @precondition(lambda self: isinstance(self.job, WriteLetters))
    @rule()
    def letters_are_written(self) -> None:
        letters = {(letter.offset, letter.line) for letter in self.asked(WriteLetters).letters}
        assert not letters & self.letters, "a letter twice of one prepare"
        self.letters |= letters
        self.done(LettersWritten())

    @precondition(lambda self: isinstance(self.job, Restore))
    @rule()
    def views_are_restored(self) -> None:
        assert isinstance(self.prepared, Mark)
        asked = self.asked(Restore)
        assert (asked.first, asked.end) == (self.prepared.first, self.prepared.end)
        assert asked.partitions >= self.touched
        assert asked.partitions
        self.touched = frozenset()
        self.done(Restored())

    @precondition(lambda self: self.job is not None and not isinstance(self.job, SendInsert))
    @rule()
    def what_it_asked_for_fails(self) -> None:
        self.done(ReadFailed("away"))

    @rule(steps=st.integers(1, 12), count=st.integers(1, 5), bad=st.booleans())
    def all_goes_well_for_a_while(self, steps: int, count: int, *, bad: bool) -> None:
        """But for a bad line."""
        for _ in range(steps):
            if bad and isinstance(self.job, SendInsert):
                bad = False
                self.insert_is_answered(InsertAnswered(Outcome.REFUSED))
            elif not self.goes_well() and self.partition.wants_records:
                self.records_come(count)

    def goes_well(self) -> bool:
        """One thing that is under way comes to a good end. Whether there was one."""
        question = self.questions[-1] if self.questions else None
        match self.job:
            case _ if self.unanswered is not None and self.partition.phase is not Phase.LEAVING:
                self.commit_is_answered(Answer.APPLIED)
            case _ if self.commit is not None and question == self.commit.metadata:
                self.questions.clear()
                self.identified = question
                self.on(TopicRead(TOPIC_ID, question))
            case ReadCommit() if self.commit is not None:
                self.commit_is_read(Commit(self.commit.offset, self.commit.metadata, 0, 1000))
            case ReadCoverage():
                self.landed_to = None
                self.done(CoverageRead(coverage(keeps=True)))
            case SendInsert():
                self.insert_is_answered(InsertAnswered(Outcome.LANDED))
            case ReadStamps():
                self.done(StampsRead(frozenset()))
            case Sift(batch):
                self.touched |= {"202601"}
                self.done(Sifted(batch, frozenset({"202601"})))
            case Isolate(batch):
                self.done(Isolated((Letter(*next(batch.origins()), "type", ""),)))
            case WriteLetters():
                self.letters_are_written()
            case Restore():
                self.views_are_restored()
            case _:
                return False
        return True

    @rule()
    def it_is_told_to_stop(self) -> None:
        if self.at > 1040:  # so that most runs have some life before it
            self.partition.stop()
            self.stopped = True

    @rule(event=st.sampled_from(UNASKED))
    def it_hears_what_it_does_not_wait_for(self, event: Event) -> None:
        phase = self.partition.phase
        if not isinstance(event, AWAITED.get(phase, ())):
            assert self.partition.on(event, self.now) == []
            assert self.partition.phase is phase

    @precondition(lambda self: self.before)
    @rule(data=st.data(), answer=st.sampled_from(Answer))
    def a_commit_is_answered_twice(self, data: st.DataObject, answer: Answer) -> None:
        phase = self.partition.phase
        metadata = data.draw(st.sampled_from(self.before))
        if metadata == self.unanswered:
            return  # sent again, word for word: its own answer is still to come
        assert self.partition.on(CommitAnswered(metadata, answer), self.now) == []
        assert self.partition.phase is phase

    # --- what holds always -------------------------------------------------------------------

    @invariant()
    def what_is_held_is_known(self) -> None:
        part = self.partition
        assert part.buffered_bytes >= 0
        if part.phase in (Phase.HALTED, Phase.LEAVING):
            assert (part.buffered_bytes, part.position, part.wants_records) == (0, None, False)
        if part.landed_to is not None and part.position is not None:
            assert part.landed_to <= part.position
        if part.phase in (Phase.READING, Phase.PLANNING, Phase.WAITING):
            assert part.outstanding is None
        assert (part.phase is Phase.HALTED) == bool(part.halted_why)

    @invariant()
    def it_waits_for_something(self) -> None:
        """In each phase something is under way that will end it, or time will."""
        part = self.partition
        if isinstance(self.job, SendInsert):
            assert part.phase in (Phase.INSERTING, Phase.LEAVING)
        elif self.job is None and part.phase in AWAITED:
            assert part._again_at is not None or self.stopped
        if part.phase in (Phase.PREPARING, Phase.COMMITTING):
            waits = part.outstanding is not None or part._again_at is not None
            asks = part.phase is Phase.PREPARING and self.identified is None
            assert waits or asks or self.stopped


TestPartitionMachine = PartitionMachine.TestCase


@given(st.lists(st.integers(1, 7), min_size=1, max_size=8), st.integers(0, 3))
def test_without_a_fault_every_record_is_announced_inserted_and_committed_once(
    fetches: list[int], epoch: int
) -> None:
    """The batches tile the log: each begins where the one before ended."""
    machine = PartitionMachine()
    machine.begin(nothing_open(0, epoch=epoch))
    machine.done(CoverageRead(coverage()))
    for count in fetches:
        machine.records_come(count)
        machine.time_passes(2.0)
        for _ in range(8):
            machine.goes_well()
    for _ in range(80):
        machine.time_passes(1.0)
        machine.goes_well()

    tiles = sorted(key[:2] for key in machine.texts)
    assert {key[2] for key in machine.texts} <= {epoch}
    assert len(machine.texts) == len(machine.tokens)
    covered_by = [n for first, end in tiles for n in range(first, end)]
    assert len(covered_by) == len(set(covered_by))
    assert {n for n in range(sum(fetches)) if n % 5} <= set(covered_by)
    assert machine.commit is not None
    assert machine.commit.offset == sum(fetches)
    assert machine.note == Open(epoch, 1, TOPIC_ID, machine.note.time_ms if machine.note else 0)

"""One owner of one partition, for scripted tests: a clock, the core, and the answers it waits for.

Its methods bring an event and return the commands that came of it. Times are seconds of the
protocol's clock; `ms` is the same moment as epoch milliseconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from consumer.batch import Batch, Filling, Records
from consumer.commands import (
    Answer,
    Command,
    CommitAnswered,
    CoverageRead,
    Event,
    Fetch,
    InsertAnswered,
    Outcome,
    ReadTopic,
    SendCommit,
    SendInsert,
    StampsRead,
    TopicRead,
)
from consumer.flight import Limits, Now
from consumer.ledger import Intent, Mark, Note, Open, Source, decode, encode
from consumer.partition import Partition
from consumer.recovery import Commit, Coverage, Covered
from consumer.retry import Backoff

TOPIC_ID = "AAAAAAAAAAAAAAAAAAAAAQ"
SOURCE = Source("cluster-1", "events", TOPIC_ID, 3)
LIMITS = Limits(
    batch_rows=4,
    batch_bytes=1000,
    insert_deadline_seconds=30,
    insert_max_seconds=20,
    commit_timeout_seconds=10,
    retry=Backoff(1.0, 8.0),
    refusal=Backoff(2.0, 16.0),
)
QUIET_SECONDS = 30 + 20  # from an assignment until every older insert is over

T = TypeVar("T", bound=Command)


def ms(seconds: float) -> int:
    return 1_700_000_000_000 + int(seconds * 1000)


def line(offset: int) -> bytes:
    return b'{"n":%d}' % offset


def records(first: int, end: int) -> Records:
    """One line a record, without holes."""
    return Records(range(first, end), [line(n) for n in range(first, end)], end, ms(first))


def batch(first: int, end: int) -> Batch:
    filling = Filling(first)
    filling.add(records(first, end), 0)
    return filling.close()


def intent(first: int, end: int, at: float = 0.0, epoch: int = 0, version: int = 1) -> Intent:
    text = batch(first, end)
    return Intent(first, end, text.rows, text.digest, epoch, version, TOPIC_ID, ms(at))


def mark(first: int, end: int, at: float = 0.0, epoch: int = 1, version: int = 1) -> Mark:
    return Mark(first, end, epoch, version, TOPIC_ID, ms(at))


def committed(note: Note, offset: int | None = None, low: int = 0, high: int = 100) -> Commit:
    """Kafka's commit as a member of ours made it."""
    if offset is None:
        assert not isinstance(note, Open)
        offset = note.first
    return Commit(offset, encode(offset, note), low, high)


def nothing_open(offset: int, at: float = 0.0, epoch: int = 0) -> Commit:
    return committed(Open(epoch, 1, TOPIC_ID, ms(at)), offset)


def coverage(
    *batches: Covered,
    entries: int = 0,
    window: int = 1000,
    seconds: float | None = None,
    started: float = -1_000_000.0,
    keeps: bool = False,
) -> Coverage:
    return Coverage(batches, entries, window, seconds, ms(started), keeps)


def covered(first: int, end: int, epoch: int = 0, at: float = 0.0) -> Covered:
    """A batch of one line a record that is whole, in one ClickHouse partition."""
    part, rows = frozenset({"202601"}), end - first
    return Covered(first, end, epoch, part, part, ms(at) + 500, rows, rows, 1, ms(at))


def only(commands: Sequence[Command], kind: type[T]) -> T:
    """The one command of this kind."""
    found = [command for command in commands if isinstance(command, kind)]
    assert len(found) == 1, commands
    return found[0]


def kinds(commands: Sequence[Command]) -> list[str]:
    return [type(command).__name__ for command in commands]


class Owner:
    """Assigned at `at`. What it was last told to commit and to insert is remembered.

    That the topic is the same it tells the partition by itself, as soon as it is asked, and the
    question is not among the commands; unless `silent`.
    """

    def __init__(self, at: float = 1000.0, limits: Limits = LIMITS, silent: bool = False) -> None:
        self.at = at
        self.silent = silent
        self.partition = Partition(SOURCE, limits, self.now)
        self.commit = SendCommit(-1, "")
        self.insert: SendInsert | None = None

    @property
    def now(self) -> Now:
        return Now(self.at, ms(self.at))

    def _seen(self, commands: list[Command]) -> list[Command]:
        told: list[Command] = []
        for command in commands:
            if isinstance(command, SendCommit):
                self.commit = command
            elif isinstance(command, SendInsert):
                self.insert = command
            if isinstance(command, ReadTopic) and not self.silent:
                told += self.on(TopicRead(TOPIC_ID, command.asked))
            else:
                told.append(command)
        return told

    # --- what happens to it --------------------------------------------------------------------

    def begin(self, commit: Commit) -> list[Command]:
        return self._seen(self.partition.begin(commit, self.now))

    def on(self, event: Event) -> list[Command]:
        return self._seen(self.partition.on(event, self.now))

    def read(self, first: int, end: int) -> list[Command]:
        return self._seen(self.partition.records(records(first, end), self.now))

    def take(self, given: Records) -> list[Command]:
        return self._seen(self.partition.records(given, self.now))

    def tick(self, age_seconds: float = 2.0) -> list[Command]:
        return self._seen(self.partition.tick(self.now, age_seconds))

    def after(self, seconds: float, age_seconds: float = 2.0) -> list[Command]:
        """Time passes, and the owner looks at its clock."""
        self.at += seconds
        return self.tick(age_seconds)

    def answered(
        self, answer: Answer = Answer.APPLIED, metadata: str | None = None
    ) -> list[Command]:
        return self.on(CommitAnswered(metadata or self.commit.metadata, answer, "said so"))

    def inserted(self, outcome: Outcome = Outcome.LANDED, rows: int | None = None) -> list[Command]:
        return self.on(InsertAnswered(outcome, "said so", rows=rows))

    def stamped(self, *missing: str, rebuilt: Sequence[str] = ()) -> list[Command]:
        return self.on(StampsRead(frozenset(missing), frozenset(rebuilt)))

    def covers(self, *batches: Covered) -> list[Command]:
        return self.on(CoverageRead(coverage(*batches)))

    @property
    def note(self) -> Note | None:
        """What its last commit says."""
        return decode(self.commit.offset, self.commit.metadata)

    # --- where it has got to -------------------------------------------------------------------

    @classmethod
    def reading(cls, offset: int = 0, at: float = 1000.0, limits: Limits = LIMITS) -> Owner:
        """Planned from "nothing open" at `offset`, and reading on there."""
        owner = cls(at, limits)
        owner.begin(nothing_open(offset))
        assert owner.covers() == [Fetch(offset)]
        return owner

    @classmethod
    def preparing(cls, at: float = 1000.0) -> Owner:
        """With the prepare of [0, 4) on its way."""
        owner = cls.reading(at=at)
        owner.read(0, 4)
        return owner

    @classmethod
    def inserting(cls, at: float = 1000.0) -> Owner:
        """With the insert of [0, 4) on its way."""
        owner = cls.preparing(at)
        owner.answered()
        return owner

    @classmethod
    def replaying(cls, note: Intent, at: float = 1000.0) -> Owner:
        """With the plan to replay an intent, and its range not yet read."""
        owner = cls(at)
        owner.begin(committed(note))
        assert owner.covers() == [Fetch(note.first)]
        return owner

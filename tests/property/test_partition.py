"""Whatever happens in whatever order: the rules of a partition hold, and it never falls over.

Events come at random, also such that no step waits for: answers twice, of others, too late. That
everything lands exactly once is for the simulator to show; here no event may do harm by itself.
"""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from consumer.batch import Records
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
    ReadFailed,
    SendCommit,
    SendInsert,
    StampsRead,
)
from consumer.ledger import Intent, Open, decode
from consumer.partition import Now, Partition, Phase
from consumer.recovery import Commit, Coverage
from tests.unit.consumer.owner import (
    LIMITS,
    SOURCE,
    committed,
    coverage,
    covered,
    intent,
    line,
    ms,
    nothing_open,
)

COMMITS = st.sampled_from(
    [
        nothing_open(0),
        nothing_open(5, epoch=2),
        committed(intent(0, 4, at=990)),
        committed(intent(2, 3, at=500, epoch=1)),
        committed(intent(0, 4, at=990, version=2)),
        Commit(None, None, 0, 0),
        Commit(7, None, 0, 100),
    ]
)
COVERAGES = st.sampled_from(
    [
        coverage(),
        coverage(covered(0, 4, at=995)),
        coverage(covered(0, 2, at=995), covered(2, 4, epoch=1, at=996)),
        coverage(covered(2, 4, at=995)),
        coverage(entries=600),
        coverage(seconds=100),
        coverage(started=2000),
    ]
)

EVENTS = st.one_of(
    COMMITS.map(CommitRead),
    COVERAGES.map(CoverageRead),
    st.sampled_from([InsertAnswered(outcome, "") for outcome in Outcome]),
    st.sampled_from([StampsRead(frozenset()), StampsRead(frozenset({"202601"}))]),
    st.just(ReadFailed("away")),
)
ACTIONS = st.one_of(
    EVENTS,
    st.tuples(st.just("answer"), st.sampled_from(Answer)),
    st.tuples(st.just("stale answer"), st.sampled_from(Answer)),
    st.tuples(st.just("records"), st.integers(0, 6)),
    st.tuples(st.just("time"), st.sampled_from([0.0, 0.5, 2.0, 9.0, 31.0, 51.0])),
    st.tuples(st.just("stop"), st.just(0)),
)


class Watched:
    """A partition, and what its commands must keep to."""

    def __init__(self) -> None:
        self.at = 1000.0
        self.partition = Partition(SOURCE, LIMITS, self.now)
        self.position = 0
        self.sent: tuple[SendCommit, float] | None = None
        self.before: SendCommit | None = None
        self.prepared: tuple[Intent, float] | None = None
        self.stopped = False

    @property
    def now(self) -> Now:
        return Now(self.at, ms(self.at), 0.5)

    def carry_out(self, commands: list[Command]) -> None:
        for command in commands:
            match command:
                case SendCommit(offset, metadata):
                    note = decode(offset, metadata)
                    assert note is not None, "a commit without metadata of ours"
                    assert self.partition.outstanding == (offset, metadata)
                    again = self.sent is not None and self.sent[0] == command
                    if self.sent is not None and not again:
                        self.before = self.sent[0]
                    assert again or not (self.stopped and isinstance(note, Intent))
                    self.sent = (command, self.at)
                    self.prepared = None
                case SendInsert(batch, _, deadline, _):
                    assert self.prepared is not None, "an insert without an own applied prepare"
                    announced, sent_at = self.prepared
                    assert announced.matches(batch)
                    assert deadline == sent_at + LIMITS.insert_deadline_seconds
                    assert self.at < deadline
                    assert batch.rows > 0
                    assert not self.stopped
                case Fetch(offset):
                    self.position = offset

    def answer(self, answer: Answer) -> None:
        outstanding = self.partition.outstanding
        if outstanding is None or self.sent is None:
            return
        offset, metadata = outstanding
        note = decode(offset, metadata)
        if answer is Answer.APPLIED and isinstance(note, Intent):
            self.prepared = (note, self.sent[1])
        self.on(CommitAnswered(metadata, answer))

    def on(self, event: Event) -> None:
        self.carry_out(self.partition.on(event, self.now))

    def act(self, action: Event | tuple[str, object]) -> None:
        match action:
            case ("answer", Answer() as answer):
                self.answer(answer)
            case ("stale answer", Answer() as answer):
                if self.before is not None:
                    self.on(CommitAnswered(self.before.metadata, answer))
            case ("records", int(count)):
                end = self.position + count
                values = [line(n) if n % 5 else None for n in range(self.position, end)]
                records = Records(range(self.position, end), values, end, 0)
                self.position = end
                self.carry_out(self.partition.records(records, self.now))
            case ("time", float(seconds)):
                self.at += seconds
                self.carry_out(self.partition.tick(self.now, 2.0))
            case ("stop", _):
                self.partition.stop()
                self.stopped = True
            case _:
                assert not isinstance(action, tuple)
                self.on(action)

    def check(self) -> None:
        part = self.partition
        assert part.buffered_bytes >= 0
        if part.phase in (Phase.HALTED, Phase.LEAVING):
            assert (part.buffered_bytes, part.position, part.wants_records) == (0, None, False)
        if part.landed_to is not None and part.position is not None:
            assert part.landed_to <= part.position
        if part.phase is Phase.READING:
            assert part.outstanding is None


@given(COMMITS, st.none() | COVERAGES, st.lists(ACTIONS, max_size=40))
@example(nothing_open(0), coverage(), [("records", 6), ("answer", Answer.LOST), ("time", 31.0)])
@example(committed(intent(0, 4, at=990)), coverage(), [("records", 3), ("time", 31.0)])
@example(nothing_open(0), None, [ReadFailed("away"), CoverageRead(coverage()), ("time", 2.0)])
def test_no_order_of_events_breaks_a_rule(
    commit: Commit, table: Coverage | None, actions: list[Event | tuple[str, object]]
) -> None:
    watched = Watched()
    watched.carry_out(watched.partition.begin(commit, watched.now))
    if table is not None:
        watched.on(CoverageRead(table))
    for action in actions:
        watched.act(action)
        watched.check()


@given(st.lists(st.integers(1, 7), min_size=1, max_size=8), st.integers(0, 3))
def test_without_a_fault_every_record_is_announced_inserted_and_committed_once(
    fetches: list[int], epoch: int
) -> None:
    """The batches tile the log: each begins where the one before ended."""
    watched = Watched()
    watched.carry_out(watched.partition.begin(nothing_open(0, epoch=epoch), watched.now))
    watched.on(CoverageRead(coverage()))
    tiles: list[tuple[int, int]] = []
    for count in fetches:
        watched.act(("records", count))
        for _ in range(4):
            watched.act(("time", 2.0))
            watched.answer(Answer.APPLIED)
            if watched.partition.phase is Phase.INSERTING and watched.prepared is not None:
                note = watched.prepared[0]
                tiles.append((note.first, note.end))
                assert note.epoch == epoch
                watched.on(InsertAnswered(Outcome.LANDED))
    for _ in range(20):
        watched.act(("time", 2.0))
        watched.answer(Answer.APPLIED)
        if watched.partition.phase is Phase.INSERTING and watched.prepared is not None:
            tiles.append((watched.prepared[0].first, watched.prepared[0].end))
            watched.on(InsertAnswered(Outcome.LANDED))

    with_rows = {n for n in range(sum(fetches)) if n % 5}
    assert tiles == sorted(tiles)
    covered_by = [n for first, end in tiles for n in range(first, end)]
    assert len(covered_by) == len(set(covered_by))
    assert with_rows <= set(covered_by)
    assert watched.sent is not None
    assert watched.sent[0].offset == sum(fetches)
    last = decode(watched.sent[0].offset, watched.sent[0].metadata)
    assert isinstance(last, Open)
    assert last.epoch == epoch

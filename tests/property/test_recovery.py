"""A plan, carried out, leaves every offset landed once, whatever was cut off before it.

The state machine is a table, its index, a log and a commit, on which owners come and go. Batches
land in part, marks and intents stay behind, offsets are reset, the log is trimmed, and a mend is
carried out whole or cut off in the middle. Each plan is held against the table offset by offset:
what its segments leave out must be whole, and what they call landed must be there.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from consumer.ledger import ROWS_VERSION, Intent, Mark, Note, Open, encode
from consumer.recovery import (
    Begin,
    Commit,
    Coverage,
    Covered,
    Halt,
    Mend,
    Plan,
    Replay,
    Wait,
    judge,
    plan,
)
from tests.unit.consumer.owner import TOPIC_ID, coverage

HIGH = 60
PARTS = ("a", "b", "c")
Stamp = tuple[int, int, int]  # first, end, epoch


def part_of(offset: int) -> str:
    """The ClickHouse partition of an offset's row."""
    return PARTS[offset * offset % 7 % 3]


@dataclass
class Batch:
    """What is stamped alike: the ClickHouse partitions that have it, and the ledger's lines."""

    rows: frozenset[int]  # what its insert announced
    stamped: set[str]
    listed: set[str]
    announced_ms: int

    def of(self, part: str) -> set[int]:
        return {n for n in self.rows if part_of(n) == part}


class RecoveryMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.ms = 1_000_000
        self.low = 0
        self.offset: int | None = None
        self.metadata: str | None = None
        self.earlier: list[tuple[int, str]] = []
        self.late = False  # the commit is an earlier owner's
        self.committed_to = 0
        self.table: dict[Stamp, Batch] = {}
        self.excused: set[int] = set()  # they left the log before they had landed
        self.passed = 0  # all before it must have landed, or be excused

    # --- Kafka and ClickHouse ----------------------------------------------------------------

    def commit_of(self) -> Commit:
        return Commit(self.offset, self.metadata, self.low, HIGH)

    def commits(self, offset: int, note: Note) -> None:
        self.offset, self.metadata = offset, encode(offset, note)
        self.earlier.append((offset, self.metadata))
        self.late = False
        if isinstance(note, Open):
            self.passed = max(self.passed, offset)
            self.committed_to = max(self.committed_to, offset)

    def coverage(self, start: int, *, whole: bool, old: bool) -> Coverage:
        batches = [
            Covered(
                first=first,
                end=end,
                epoch=epoch,
                stamped=frozenset(b.stamped) if whole else frozenset(),
                listed=frozenset(b.listed),
                landed_ms=b.announced_ms,
                listed_rows=sum(len(b.of(part)) for part in b.listed),
                expected_rows=len(b.rows) if b.listed else None,
                version=ROWS_VERSION if b.listed else None,
                announced_ms=b.announced_ms if b.listed else None,
            )
            for (first, end, epoch), b in sorted(self.table.items())
            if end > start and (b.listed or (whole and b.stamped))
        ]
        return coverage(*batches, entries=600 if old else 0, keeps=True)

    def lands(self, stamp: Stamp, rows: set[int], parts: set[str], listed: set[str]) -> None:
        has = {part_of(n) for n in rows} & (parts | listed)
        if not has:
            return
        batch = self.table.setdefault(stamp, Batch(frozenset(rows), set(), set(), self.ms))
        batch.stamped |= {part for part in parts if batch.of(part)}
        batch.listed |= {part for part in listed if batch.of(part)}

    def landed(self) -> Counter[int]:
        return Counter(
            n for batch in self.table.values() for part in batch.stamped for n in batch.of(part)
        )

    # --- what goes on ------------------------------------------------------------------------

    def planned(self, *, waited: bool, old: bool = False) -> Plan:
        commit = self.commit_of()
        judgement = judge(commit, TOPIC_ID)
        table = self.coverage(judgement.start, whole=waited or judgement.note is None, old=old)
        return plan(judgement, commit, table, self.ms, waited=waited)

    @precondition(lambda self: self.low < HIGH - 12)
    @rule(
        sizes=st.lists(st.integers(1, 5), min_size=1, max_size=4),
        parts=st.sets(st.sampled_from(PARTS)),
        listed=st.sets(st.sampled_from(PARTS)),
        finished=st.booleans(),
        old=st.booleans(),
        pieces=st.integers(0, 9),
    )
    def an_owner_comes(
        self,
        sizes: list[int],
        parts: set[str],
        listed: set[str],
        *,
        finished: bool,
        old: bool,
        pieces: int,
    ) -> None:
        """It carries out its plan, inserts some batches, and is gone within the last of them."""
        self.ms += 1000
        found = self.planned(waited=False, old=old)
        if isinstance(found, Wait):
            found = self.planned(waited=True, old=old)
        assert not isinstance(found, Wait | Halt)
        if isinstance(found, Mend):
            self.check_mend(found)
            if not self.mends(found, pieces, parts, listed):
                return
            position, epoch = found.end, found.epoch
        else:
            self.begins(found)
            position, epoch = found.offset, found.epoch
        for number, size in enumerate(sizes):
            end = position + size
            if end > HIGH:
                break
            rows = set(range(position, end))
            intent = Intent(
                position, end, size, "0" * 16, epoch, ROWS_VERSION, TOPIC_ID, self.ms, self.ms
            )
            self.commits(position, intent)
            if number == len(sizes) - 1 and not finished:
                self.lands((position, end, epoch), rows, parts, listed)
                return
            self.lands((position, end, epoch), rows, set(PARTS), set(PARTS))
            self.commits(end, Open(epoch, ROWS_VERSION, TOPIC_ID, self.ms))
            position = end

    def begins(self, found: Begin) -> None:
        self.lose(found.lost)
        for replay in found.replays:
            self.check_replay(replay)
            rows = set(range(replay.first, replay.end))
            stamp = (replay.first, replay.end, replay.epoch)
            self.lands(stamp, rows, set(PARTS), set(PARTS))
        self.commits(found.offset, Open(found.epoch, ROWS_VERSION, TOPIC_ID, self.ms))

    def lose(self, lost: tuple[int, int] | None) -> None:
        if lost is not None:
            assert lost[1] <= self.low, "what is still in the log is told as lost"
            self.excused |= set(range(*lost)) - set(self.landed())

    def check_replay(self, replay: Replay) -> None:
        batch = self.table.get((replay.first, replay.end, replay.epoch))
        assert batch is None or batch.announced_ms == replay.time_ms, "another token"
        assert replay.first >= self.low

    def check_mend(self, mend: Mend) -> None:
        """Offset by offset: its segments and what is whole tile [first, end) exactly."""
        epochs = [epoch for (_, end, epoch) in self.table if end > mend.first]
        assert mend.epoch > max(epochs, default=0), "an epoch that was seen before"
        in_segment = Counter(n for s in mend.segments for n in range(s.first, s.end))
        assert set(in_segment.values()) <= {1}, "segments overlap"
        assert [s.first for s in mend.segments] == sorted(s.first for s in mend.segments)
        assert all(max(mend.first, self.low) <= s.first < s.end <= mend.end for s in mend.segments)
        there = self.landed()
        for n in range(mend.first, mend.end):
            covering = [b for (first, end, _), b in self.table.items() if first <= n < end]
            if n >= self.low and n not in in_segment:
                assert there[n] == 1, f"{n} is neither read again nor there"
            for batch in covering:
                assert batch.stamped <= mend.rebuild, "what landed is not restored"
        for segment in mend.segments:
            for n in range(segment.first, segment.end):
                is_there = part_of(n) in segment.landed
                assert is_there == (there[n] == 1), f"{n}: {segment}"
                attempted = any(
                    first <= n < end and (b.stamped or b.listed)
                    for (first, end, _), b in self.table.items()
                )
                assert segment.touched or not attempted
        gone = set(range(mend.first, min(self.low, mend.end))) - set(there)
        if gone:
            assert mend.lost is not None
            assert gone <= set(range(*mend.lost)), "a loss that is not told"

    def mends(self, mend: Mend, pieces: int, parts: set[str], listed: set[str]) -> bool:
        """So many pieces of it whole, then one in part. Whether it came to its end."""
        mark = Mark(mend.first, mend.end, mend.epoch, ROWS_VERSION, TOPIC_ID, self.ms, self.ms)
        if mend.segments or mend.rebuild:
            self.commits(mend.first, mark)
        for segment in mend.segments:
            at = segment.first
            while at < segment.end:
                end = segment.end if segment.landed else min(segment.end, at + 3)
                rows = {n for n in range(at, end) if part_of(n) not in segment.landed}
                stamp = (at, end, mend.epoch)
                if not pieces:
                    if rows:
                        self.lands(stamp, rows, parts, listed)
                    return False
                pieces -= 1
                if rows:
                    self.lands(stamp, rows, set(PARTS), set(PARTS))
                at = end
        self.lose(mend.lost)
        for (first, end, _), batch in self.table.items():
            if first < mend.end and mend.first < end:
                batch.listed |= batch.stamped
        self.commits(mend.end, Open(mend.epoch, ROWS_VERSION, TOPIC_ID, self.ms))
        return True

    @rule(kind=st.integers(0, 2), offset=st.integers(0, HIGH))
    def offsets_are_reset(self, kind: int, offset: int) -> None:
        if kind == 0:
            self.offset = self.metadata = None
        else:
            self.offset = max(self.low, offset)
            self.metadata = None if kind == 1 else "another tool was here"
        self.passed = 0
        self.excused |= set(range(self.low)) - set(self.landed())

    @precondition(
        lambda self: self.earlier and all(b.stamped <= b.listed for b in self.table.values())
    )
    @rule(data=st.data())
    def a_commit_of_an_earlier_owner_arrives_late(self, data: st.DataObject) -> None:
        """It replaces its successor's. A partition is not given up while that can be; the index
        shows it all the same, where it has what landed past it."""
        self.offset, self.metadata = data.draw(st.sampled_from(self.earlier[-4:]))
        self.late = True

    @rule(by=st.integers(0, 6))
    def the_log_is_trimmed(self, by: int) -> None:
        """What nobody has read yet may be gone with it."""
        self.low = min(HIGH, self.low + by)
        if (
            self.offset is None
            or self.metadata is None
            or not self.metadata.startswith("penstock1")
        ):
            # Nobody knows any more how far reading had come.
            self.excused |= set(range(self.low)) - set(self.landed())

    @rule(part=st.sampled_from(PARTS), data=st.data())
    def the_ledger_lacks_a_line(self, part: str, data: st.DataObject) -> None:
        """Of what is open: a view can fail when its source has landed. What is listed and no longer
        in the table keeps its line: nothing takes one out again."""
        open_now = [
            stamp
            for stamp, batch in self.table.items()
            if stamp[1] > self.committed_to and part in batch.stamped
        ]
        if open_now and not self.late:
            self.table[data.draw(st.sampled_from(sorted(open_now)))].listed.discard(part)

    # --- what holds always -------------------------------------------------------------------

    @invariant()
    def nothing_landed_twice(self) -> None:
        assert not [n for n, times in self.landed().items() if times > 1]

    @invariant()
    def what_was_passed_has_landed(self) -> None:
        there = self.landed()
        missing = [n for n in range(self.passed) if not there[n] and n not in self.excused]
        assert not missing, f"lost: {missing}"


TestRecoveryMachine = RecoveryMachine.TestCase
TestRecoveryMachine.settings = settings(stateful_step_count=20)

BATCHES = st.lists(
    st.tuples(
        st.integers(0, 20), st.integers(1, 8), st.frozensets(st.sampled_from(PARTS)),
        st.integers(0, 9), st.booleans(),
    ),
    max_size=6,
)  # fmt: skip


@given(BATCHES, st.integers(0, 15), st.integers(1, 15), st.integers(0, 25))
def test_over_any_stamps_segments_and_what_is_whole_tile_the_range(
    drawn: list[tuple[int, int, frozenset[str], int, bool]], first: int, length: int, low: int
) -> None:
    """Also over overlaps that no run of ours leaves behind."""
    batches = tuple(
        Covered(at, at + size, epoch, parts, parts, 0, size, size if whole else size + 1, 1, 0)
        for at, size, parts, epoch, whole in sorted(drawn, key=lambda d: d[:2])
        if at + size > first
    )
    mark = Mark(first, first + length, 2, ROWS_VERSION, TOPIC_ID, 0)
    commit = Commit(first, encode(first, mark), low, HIGH)
    found = plan(judge(commit, TOPIC_ID), commit, coverage(*batches), 0, waited=True)
    assert isinstance(found, Mend)
    assert found.epoch == max(2, *(c.epoch for c in batches), 2) + 1
    assert (found.first, found.end) == (
        first, max(first + length, low, *(c.end for c in batches), 0)
    )  # fmt: skip
    for n in range(found.first, found.end):
        covering = [c for c in batches if c.first <= n < c.end]
        segments = [s for s in found.segments if s.first <= n < s.end]
        whole = len(covering) == 1 and covering[0].complete
        assert len(segments) == (0 if whole or n < low else 1)
        for segment in segments:
            assert segment.landed == frozenset[str]().union(*(c.stamped for c in covering))
        told = found.lost is not None and found.lost[0] <= n < found.lost[1]
        assert told or whole or n >= low

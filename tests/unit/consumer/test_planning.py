"""What a new owner does before it reads on: read, wait where it must, replay what was announced."""

from __future__ import annotations

from dataclasses import replace

import pytest

from consumer.batch import Records
from consumer.commands import (
    Answer,
    CommitAnswered,
    CommitRead,
    CoverageRead,
    Fetch,
    InsertAnswered,
    Outcome,
    ReadCommit,
    ReadCoverage,
    ReadFailed,
    ReadStamps,
    Report,
    SendCommit,
    SendInsert,
    StampsRead,
)
from consumer.flight import Phase
from consumer.ledger import Open
from consumer.recovery import Commit, Covered
from tests.unit.consumer.owner import (
    QUIET_SECONDS,
    TOPIC_ID,
    Owner,
    batch,
    committed,
    coverage,
    covered,
    intent,
    kinds,
    line,
    ms,
    nothing_open,
    only,
)

FOREIGN = Commit(50, None, 2, 100)
NEW_TOPIC = Commit(None, None, 0, 0)


# --- what is asked first ----------------------------------------------------------------------


def test_an_open_note_asks_what_landed_past_it() -> None:
    assert Owner().begin(nothing_open(10)) == [ReadCoverage(10, None, whole=False)]


def test_an_intent_asks_what_landed_since_it_was_announced() -> None:
    assert Owner().begin(committed(intent(10, 14, at=990))) == [
        ReadCoverage(10, ms(990), whole=False)
    ]


def test_a_foreign_commit_asks_the_rows_themselves_from_the_logs_start() -> None:
    assert Owner().begin(FOREIGN) == [ReadCoverage(2, None, whole=True)]


def test_nothing_is_known_before_the_plan() -> None:
    owner = Owner()
    owner.begin(nothing_open(10))
    part = owner.partition
    assert (part.phase, part.planned, part.wants_records, part.drained) == (
        Phase.PLANNING, False, False, False
    )  # fmt: skip
    assert (part.position, part.landed_to, part.buffered_bytes) == (None, None, 0)


def test_records_before_the_plan_are_not_taken() -> None:
    owner = Owner()
    owner.begin(nothing_open(10))
    assert owner.read(10, 20) == []
    assert owner.partition.buffered_bytes == 0


def test_a_failed_read_is_tried_again_from_the_commit_after_a_wait() -> None:
    owner = Owner()
    owner.begin(nothing_open(10))
    assert owner.on(ReadFailed("away")) == [Report("put off", "planning: away")]
    assert owner.after(0.9) == []
    assert owner.after(0.1) == [ReadCommit()]
    assert kinds(owner.on(ReadFailed("away"))) == ["Report"]
    assert owner.after(1.9) == []
    assert owner.after(0.1) == [ReadCommit()]
    assert owner.on(CommitRead(nothing_open(12))) == [ReadCoverage(12, None, whole=False)]
    assert owner.covers() == [Fetch(12)]


# --- plans ------------------------------------------------------------------------------------


def test_an_open_note_reads_on_at_its_offset() -> None:
    owner = Owner.reading(10)
    part = owner.partition
    assert (part.phase, part.planned, part.position, part.landed_to) == (
        Phase.READING, True, 10, 10
    )  # fmt: skip
    assert (part.wants_records, part.drained, part.replaying) == (True, True, False)


def test_the_epoch_of_the_note_goes_on() -> None:
    owner = Owner()
    owner.begin(nothing_open(0, epoch=4))
    owner.covers()
    owner.read(0, 4)
    assert owner.note == intent(0, 4, at=owner.at, epoch=4)


def test_a_new_topic_starts_at_once_and_its_first_commit_makes_it_ours() -> None:
    owner = Owner()
    owner.begin(NEW_TOPIC)
    assert kinds(owner.covers()) == ["Fetch", "SendCommit"]
    assert owner.commit.offset == 0
    assert owner.note == Open(0, 1, TOPIC_ID, ms(owner.at))
    owner.answered()
    assert owner.partition.phase is Phase.READING


def test_records_wait_for_the_answer_to_that_first_commit() -> None:
    owner = Owner()
    owner.begin(NEW_TOPIC)
    owner.covers()
    assert owner.read(0, 4) == []
    assert kinds(owner.answered()) == ["SendCommit"]
    assert owner.note == intent(0, 4, at=owner.at)


# --- the wait ---------------------------------------------------------------------------------


def test_a_foreign_commit_waits_until_every_older_insert_is_over_and_then_reads_the_table() -> None:
    """Deadline + max_execution_time from the assignment, and only then the table."""
    owner = Owner()
    owner.begin(FOREIGN)
    assert only(owner.covers(), Report).what == "waiting"
    assert owner.partition.phase is Phase.WAITING
    assert not owner.partition.planned
    assert owner.after(QUIET_SECONDS - 0.1) == []
    assert owner.after(0.1) == [ReadCommit()]
    assert owner.on(CommitRead(FOREIGN)) == [ReadCoverage(2, None, whole=True)]
    assert owner.covers()[0] == Fetch(2)


def test_after_the_wait_the_commit_is_read_again_too() -> None:
    """The log may have been trimmed meanwhile: what landed of it can no more be read as it was."""
    owner = Owner()
    owner.begin(FOREIGN)
    owner.covers()
    owner.after(QUIET_SECONDS)
    assert owner.on(CommitRead(Commit(50, None, 9, 100))) == [ReadCoverage(9, None, whole=True)]


def test_what_was_asked_before_the_wait_was_over_is_not_believed_after_it() -> None:
    """The table may have been looked at long before the answer came."""
    owner = Owner()
    owner.begin(FOREIGN)
    owner.at += QUIET_SECONDS
    assert only(owner.covers(), Report).what == "waiting"
    assert owner.tick() == [ReadCommit()]
    owner.on(CommitRead(FOREIGN))
    assert owner.covers()[0] == Fetch(2)


def test_an_answer_that_nobody_waits_for_does_not_end_the_wait() -> None:
    owner = Owner()
    owner.begin(FOREIGN)
    owner.covers()
    assert owner.on(CoverageRead(coverage())) == []
    assert owner.on(CommitRead(nothing_open(10))) == []
    assert owner.partition.phase is Phase.WAITING


def after_the_wait(commit: Commit, *landed: Covered) -> Owner:
    """Planned from a foreign commit over what landed."""
    owner = Owner()
    owner.begin(commit)
    owner.covers(*landed)
    owner.after(QUIET_SECONDS)
    owner.on(CommitRead(commit))
    owner.covers(*landed)
    return owner


def test_what_landed_before_a_foreign_commit_is_replayed_batch_by_batch() -> None:
    landed = (covered(0, 3, at=1000), covered(3, 6, epoch=2, at=1001))
    owner = after_the_wait(Commit(50, None, 0, 100), *landed)
    assert owner.partition.position == 0
    assert kinds(owner.read(0, 8)) == ["SendCommit"]
    assert owner.note == intent(0, 3, at=1000)
    assert kinds(owner.answered()) == ["SendInsert"]
    assert kinds(owner.inserted()) == ["ReadStamps"]
    # The next is a replay too, with a time of its own: it is not announced along with this end.
    assert kinds(owner.stamped()) == ["Report", "SendCommit"]
    assert isinstance(owner.note, Open)
    owner.answered()
    assert owner.note == intent(3, 6, at=1001, epoch=2)
    owner.answered()
    owner.inserted()
    owner.stamped()
    owner.answered()
    assert owner.partition.phase is Phase.READING
    assert owner.partition.landed_to == 6
    # What follows goes on under the largest epoch that was found.
    owner.after(5)
    assert owner.note == intent(6, 8, at=owner.at, epoch=2)


def test_an_old_intent_waits_and_then_asks_the_rows_themselves_and_is_mended() -> None:
    owner = Owner()
    owner.begin(committed(intent(0, 4, at=900)))
    old = CoverageRead(coverage(seconds=100))
    assert only(owner.on(old), Report).what == "waiting"
    assert owner.after(QUIET_SECONDS - 0.1) == []
    assert owner.after(0.1) == [ReadCommit()]
    # After the wait the ledger, which is only their index, is not enough.
    asked = owner.on(CommitRead(committed(intent(0, 4, at=900))))
    assert asked == [ReadCoverage(0, ms(900), whole=True)]
    report, fetch = owner.on(old)
    assert isinstance(report, Report)
    assert report.what == "mending"
    assert fetch == Fetch(0)


def test_after_the_wait_a_commit_that_became_ours_is_read_from() -> None:
    """A late commit of the owner before may have replaced what was found first."""
    owner = Owner()
    owner.begin(FOREIGN)
    owner.covers()
    owner.after(QUIET_SECONDS)
    assert owner.on(CommitRead(nothing_open(12))) == [ReadCoverage(12, None, whole=True)]
    assert owner.covers() == [Fetch(12)]


# --- halted -----------------------------------------------------------------------------------


def halted() -> Owner:
    """The table has more than the log: it was cut."""
    owner = Owner()
    cut = committed(Open(0, 1, TOPIC_ID, ms(0)), 10, high=15)
    owner.begin(cut)
    assert owner.covers(covered(10, 20)) == [ReadCommit()]
    owner.on(CommitRead(cut))
    owner.covers(covered(10, 20))
    assert owner.partition.phase is Phase.HALTED
    return owner


def test_a_log_that_grew_before_the_table_was_read_was_not_cut() -> None:
    """An ex-owner that does not know it yet sees what its successor inserts."""
    owner = Owner()
    note = Open(0, 1, TOPIC_ID, ms(0))
    owner.begin(committed(note, 10, high=15))
    assert owner.covers(covered(10, 20)) == [ReadCommit()]
    owner.on(CommitRead(committed(note, 10, high=20)))
    assert owner.covers(covered(10, 20), covered(20, 25)) == [ReadCommit()]
    owner.on(CommitRead(nothing_open(25)))
    assert owner.covers() == [Fetch(25)]


def test_a_halted_partition_says_why_and_does_nothing_more() -> None:
    owner = halted()
    assert "ends at 15, before 20" in owner.partition.halted_why
    assert owner.partition.planned
    assert owner.partition.at_rest
    assert not owner.partition.wants_records
    for event in (
        CommitRead(nothing_open(10)),
        CoverageRead(coverage()),
        InsertAnswered(Outcome.LANDED),
        StampsRead(frozenset()),
        ReadFailed("away"),
        CommitAnswered("stale", Answer.LOST),
    ):
        assert owner.on(event) == []
    assert owner.read(10, 20) == []
    assert owner.after(1_000_000) == []
    assert owner.partition.phase is Phase.HALTED


# --- replays ----------------------------------------------------------------------------------


def test_a_replay_reads_exactly_its_range_and_keeps_digest_epoch_and_time() -> None:
    note = intent(0, 6, at=990, epoch=2)  # six rows: more than would close a batch here
    owner = Owner.replaying(note)
    assert owner.partition.replaying
    assert owner.read(0, 5) == []
    assert kinds(owner.read(5, 9)) == ["SendCommit"]
    assert owner.commit.offset == 0
    assert owner.note == note
    assert not owner.partition.replaying


def test_a_replay_is_not_sent_without_an_own_answered_prepare() -> None:
    """Reading offsets is not fenced: someone who is no longer the owner may read an intent."""
    owner = Owner.replaying(intent(0, 4, at=990))
    assert kinds(owner.read(0, 4)) == ["SendCommit"]
    assert owner.insert is None
    assert kinds(owner.answered(Answer.FENCED)) == ["Rejoin"]
    assert owner.insert is None


def test_a_replay_is_sent_under_its_old_token() -> None:
    note = intent(0, 4, at=990, epoch=2)
    owner = Owner.replaying(note)
    owner.read(0, 4)
    command = only(owner.answered(), SendInsert)
    assert command.token == (f"cluster-1:{TOPIC_ID}:3:0-4:4:{note.digest}:2:events:1:{ms(990)}")


def test_a_replay_was_tried_before_so_the_server_must_not_have_been_restarted_since() -> None:
    owner = Owner.replaying(intent(0, 4, at=990))
    owner.read(0, 4)
    assert only(owner.answered(), SendInsert).first_attempt_ms == ms(990)


def test_a_replays_ok_is_believed_only_when_the_stamps_agree() -> None:
    owner = Owner.replaying(intent(0, 4, at=990, epoch=2))
    owner.read(0, 4)
    owner.answered()
    command = only(owner.inserted(), ReadStamps)
    assert (command.batch.first, command.batch.end, command.epoch) == (0, 4, 2)
    commands = owner.stamped()
    assert only(commands, Report).what == "replayed"
    assert only(commands, SendCommit).offset == 4


def test_a_replay_ends_where_the_position_reaches_its_end_also_in_markers() -> None:
    note = intent(0, 4, at=990)
    owner = Owner.replaying(replace(note, end=6))
    owner.take(Records(range(4), [line(n) for n in range(4)], 4, 0))
    assert owner.partition.replaying
    assert kinds(owner.take(Records([], [], 6, 0))) == ["SendCommit"]
    assert owner.note == replace(note, end=6)


def test_a_covered_range_without_records_is_passed_by_a_commit_alone() -> None:
    unlisted = replace(covered(0, 3, at=1000), expected_rows=None)
    owner = after_the_wait(Commit(50, None, 0, 100), unlisted)
    assert kinds(owner.take(Records([0], [None], 3, 0))) == ["SendCommit"]
    assert (owner.commit.offset, type(owner.note)) == (3, Open)


def test_a_replay_that_took_too_long_to_read_is_planned_again() -> None:
    """What the plan knew of the windows is stale."""
    owner = Owner.replaying(intent(0, 4, at=990))
    owner.at += 30.0
    assert kinds(owner.read(0, 3)) == []
    owner.at += 0.1
    commands = owner.read(3, 4)
    assert kinds(commands) == ["Report", "ReadCommit"]
    assert only(commands, Report).what == "planned again"
    assert owner.partition.phase is Phase.PLANNING
    assert owner.on(CommitRead(committed(intent(0, 4, at=990)))) == [
        ReadCoverage(0, ms(990), whole=False)
    ]


def slowly_read() -> Owner:
    """A replay of [0, 4) whose text took longer to read than its plan is believed."""
    note = intent(0, 4, at=990)
    owner = Owner.replaying(note)
    owner.at += 30.1
    owner.read(0, 4)
    owner.on(CommitRead(committed(note)))
    return owner


def test_the_text_of_a_replay_is_not_read_again_for_a_new_plan() -> None:
    """It would take as long again, and so for ever."""
    owner = slowly_read()
    assert owner.partition.buffered_bytes == batch(0, 4).size_bytes
    commands = owner.covers()
    assert [c for c in commands if isinstance(c, Fetch)] == [Fetch(4)]
    assert kinds(commands) == ["Fetch", "SendCommit"]
    assert owner.note == intent(0, 4, at=990)
    owner.answered()
    assert only(owner.inserted(), ReadStamps).batch == batch(0, 4)


def test_where_the_new_plan_is_another_the_text_is_let_go() -> None:
    owner = slowly_read()
    owner.partition.on(CoverageRead(coverage(entries=1_000_000)), owner.now)
    assert owner.partition.phase is Phase.WAITING
    assert owner.partition.buffered_bytes == 0
    owner.after(QUIET_SECONDS)
    owner.on(CommitRead(committed(intent(0, 4, at=990))))
    assert only(owner.covers(), Fetch) == Fetch(0)


def test_many_replays_do_not_read_on_while_one_is_ready() -> None:
    """Memory is bounded: only a range that nothing can be sent of before it is whole must be."""
    landed = (covered(n, n + 2, at=1000 + n) for n in range(0, 20, 2))
    owner = after_the_wait(Commit(50, None, 0, 100), *landed)
    owner.read(0, 3)
    assert owner.partition.replaying
    owner.read(3, 5)
    assert not owner.partition.replaying
    owner.read(5, 7)
    assert not owner.partition.wants_records


@pytest.mark.parametrize("at", [0.0, 5.0])
def test_the_epoch_after_a_replay_is_that_of_its_intent(at: float) -> None:
    owner = Owner.replaying(intent(0, 4, at=990 + at, epoch=2))
    owner.read(0, 8)
    owner.answered()
    owner.inserted()
    owner.stamped()
    assert owner.note == intent(4, 8, at=owner.at, epoch=2)

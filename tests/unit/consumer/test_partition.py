"""The steps of a batch: close, prepare, insert, commit; and what may go wrong at each."""

from __future__ import annotations

import pytest

from consumer.batch import Records
from consumer.commands import (
    Answer,
    CommitRead,
    CoverageRead,
    Fetch,
    InsertAnswered,
    Outcome,
    ReadFailed,
    ReadStamps,
    Rejoin,
    Report,
    SendCommit,
    SendInsert,
    StampsRead,
)
from consumer.flight import Limits, Phase
from consumer.ledger import Open, encode
from tests.unit.consumer.owner import (
    LIMITS,
    TOPIC_ID,
    Owner,
    batch,
    committed,
    coverage,
    intent,
    kinds,
    line,
    ms,
    only,
    records,
)

# --- close ------------------------------------------------------------------------------------


def test_a_batch_is_closed_by_rows() -> None:
    owner = Owner.reading()
    assert owner.read(0, 3) == []
    assert kinds(owner.read(3, 5)) == ["SendCommit"]
    assert owner.note == intent(0, 5, at=1000)


def test_a_batch_is_closed_by_bytes() -> None:
    owner = Owner.reading()
    assert owner.take(Records([0], [b"x" * 999], 1, 0)) == []
    assert kinds(owner.take(Records([1], [b"y"], 2, 0))) == ["SendCommit"]


def test_a_batch_is_closed_by_age() -> None:
    owner = Owner.reading()
    owner.read(0, 1)
    owner.at += 1
    owner.read(1, 2)
    assert owner.after(0.9) == []
    assert kinds(owner.after(0.1)) == ["SendCommit"]
    assert owner.note == intent(0, 2, at=owner.at)


def test_the_age_may_be_stretched() -> None:
    owner = Owner.reading()
    owner.read(0, 1)
    assert owner.after(49.9, age_seconds=50) == []
    assert kinds(owner.after(0.1, age_seconds=50)) == ["SendCommit"]


def test_nothing_read_is_never_closed() -> None:
    assert Owner.reading().after(1000) == []


def test_what_was_fetched_before_the_position_is_dropped() -> None:
    owner = Owner.reading(10)
    assert owner.read(5, 10) == []
    assert owner.partition.position == 10
    assert owner.read(8, 12) == []
    assert (owner.partition.position, owner.partition.read_so_far[0]) == (12, 2)
    owner.after(3)
    assert owner.note == intent(10, 12, at=owner.at)


def test_what_is_read_is_counted() -> None:
    owner = Owner.reading()
    owner.read(0, 3)
    assert owner.partition.read_so_far == (3, len(batch(0, 3).chunks[0]))
    owner.read(3, 6)
    assert owner.partition.read_so_far[0] == 6


def test_records_without_rows_are_passed_by_a_commit_alone() -> None:
    """No block is sent for nothing: a range without rows has no ledger row either."""
    owner = Owner.reading()
    assert owner.take(Records(range(2), [None, b"\n"], 2, 0)) == []
    assert kinds(owner.after(2)) == ["SendCommit"]
    assert (owner.commit.offset, owner.note) == (2, Open(0, 1, TOPIC_ID, ms(owner.at)))
    assert owner.answered() == []
    assert owner.partition.phase is Phase.READING


# --- prepare ----------------------------------------------------------------------------------


def test_a_prepare_announces_the_range_at_its_first_offset() -> None:
    owner = Owner.reading(7)
    owner.read(7, 11)
    assert owner.commit.offset == 7
    assert owner.note == intent(7, 11, at=1000)
    assert owner.partition.outstanding == (7, owner.commit.metadata)


def test_no_insert_without_an_own_prepare_that_was_applied() -> None:
    owner = Owner.preparing()
    assert owner.insert is None
    assert owner.after(1) == []
    assert owner.insert is None
    assert kinds(owner.answered()) == ["SendInsert"]


@pytest.mark.parametrize("answer", [Answer.LOST, Answer.FENCED])
def test_a_commit_that_is_lost_or_fenced_means_leaving_the_group(answer: Answer) -> None:
    owner = Owner.preparing()
    assert owner.answered(answer) == [Rejoin("said so")]
    assert owner.partition.phase is Phase.LEAVING
    assert owner.insert is None
    assert (owner.partition.position, owner.partition.buffered_bytes) == (None, 0)


def test_an_unanswered_commit_is_unknown_after_its_time_and_means_leaving_the_group() -> None:
    owner = Owner.preparing()
    assert owner.after(9.9) == []
    assert kinds(owner.after(0.1)) == ["Rejoin"]
    assert owner.partition.phase is Phase.LEAVING


def test_leaving_nothing_more_is_done_but_leaving() -> None:
    owner = Owner.preparing()
    owner.answered(Answer.LOST)
    assert owner.answered() == []
    assert owner.on(CommitRead(committed(intent(0, 4)))) == []
    assert owner.read(0, 9) == []
    assert set(kinds(owner.after(100))) <= {"Rejoin"}
    assert owner.insert is None


def test_an_answer_is_matched_by_its_metadata() -> None:
    """A commit of the batch before carries the same offset as the next prepare."""
    owner = Owner.preparing()
    assert owner.answered(metadata="another") == []
    assert owner.partition.outstanding is not None
    assert kinds(owner.answered()) == ["SendInsert"]


def test_a_second_answer_is_stale() -> None:
    owner = Owner.inserting()
    assert owner.answered() == []
    assert owner.answered(Answer.LOST) == []
    assert owner.partition.phase is Phase.INSERTING


def test_an_answer_while_nothing_was_committed_is_stale() -> None:
    owner = Owner.reading()
    assert owner.answered(Answer.LOST, metadata="another") == []
    assert owner.partition.phase is Phase.READING


def test_a_refused_commit_is_sent_again_unchanged_after_a_wait() -> None:
    owner = Owner.preparing()
    first = owner.commit
    assert owner.answered(Answer.TRY_AGAIN) == []
    assert owner.partition.outstanding is None
    assert owner.after(0.9) == []
    assert owner.after(0.1) == [first]
    assert owner.partition.outstanding == (first.offset, first.metadata)
    assert kinds(owner.answered()) == ["SendInsert"]


def test_a_commit_that_is_refused_for_too_long_means_leaving_the_group() -> None:
    """Sent at 0, refused at once; again at 1, 3, 7: past ten seconds it is given up."""
    owner = Owner.preparing()
    for wait in (1, 2, 4):
        owner.answered(Answer.TRY_AGAIN)
        assert kinds(owner.after(wait)) == ["SendCommit"]
    owner.at += 2.9
    assert owner.answered(Answer.TRY_AGAIN) == []
    owner = Owner.preparing()
    owner.at += 10
    assert kinds(owner.answered(Answer.TRY_AGAIN)) == ["Rejoin"]


def test_the_bound_counts_from_the_first_send_also_when_no_answer_comes() -> None:
    owner = Owner.preparing()
    owner.at += 6
    owner.answered(Answer.TRY_AGAIN)
    assert kinds(owner.after(1)) == ["SendCommit"]
    assert owner.after(2.9) == []
    assert kinds(owner.after(0.1)) == ["Rejoin"]


# --- what must not outlive the ownership ------------------------------------------------------


def test_an_unanswered_commit_is_outstanding_until_it_is_answered() -> None:
    owner = Owner.reading()
    assert owner.partition.outstanding is None
    owner.read(0, 4)
    assert owner.partition.outstanding == (owner.commit.offset, owner.commit.metadata)
    owner.answered()
    assert owner.partition.outstanding is None


def test_a_lost_commit_stays_outstanding_because_it_can_still_be_applied() -> None:
    owner = Owner.preparing()
    owner.answered(Answer.LOST)
    assert owner.partition.outstanding == (owner.commit.offset, owner.commit.metadata)


def test_a_commit_that_was_never_answered_stays_outstanding() -> None:
    owner = Owner.preparing()
    owner.after(10)
    assert owner.partition.outstanding is not None


def test_a_fenced_commit_is_not_outstanding() -> None:
    owner = Owner.preparing()
    owner.answered(Answer.FENCED)
    assert owner.partition.outstanding is None


def test_leaving_it_still_sees_its_commit_answered() -> None:
    """Until it has left, the answer decides whether the partition may be given up."""
    owner = Owner.preparing()
    assert kinds(owner.after(10)) == ["Rejoin"]
    assert owner.answered() == []
    assert owner.partition.outstanding is None
    assert owner.after(100) == []


def test_leaving_a_commit_that_is_lost_as_well_is_one_more_reason() -> None:
    owner = Owner.preparing()
    owner.after(10)
    assert owner.answered(Answer.LOST) == [Rejoin("said so")]
    assert owner.partition.outstanding is not None


def test_a_replays_prepare_differs_from_the_commit_that_it_repeats() -> None:
    """Else a commit on its way would be taken for the one that is there, and given up."""
    note = intent(0, 4, at=990)
    owner = Owner.replaying(note)
    owner.read(0, 4)
    assert owner.note == note
    assert owner.commit.metadata != committed(note).metadata
    before = owner.commit.metadata
    owner = Owner.replaying(note, at=1000.001)
    owner.read(0, 4)
    assert owner.commit.metadata != before


# --- insert -----------------------------------------------------------------------------------


def test_an_insert_has_its_batch_its_token_and_its_deadline() -> None:
    owner = Owner.preparing()
    command = only(owner.answered(), SendInsert)
    digest = batch(0, 4).digest
    assert command.token == f"cluster-1:{TOPIC_ID}:3:0-4:4:{digest}:0:events:1:{ms(1000)}"
    assert b"".join(command.batch.body()) == b"\n".join(line(n) for n in range(4))
    assert command.first_attempt_ms is None


def test_the_deadline_counts_from_the_send_of_the_prepare() -> None:
    owner = Owner.preparing(at=1000)
    owner.at += 9
    assert only(owner.answered(), SendInsert).deadline == 1000 + 30


def test_of_a_prepare_that_was_sent_again_the_deadline_counts_from_the_first_send() -> None:
    owner = Owner.preparing(at=1000)
    owner.answered(Answer.TRY_AGAIN)
    owner.after(1)
    assert only(owner.answered(), SendInsert).deadline == 1000 + 30


def test_an_answer_taken_past_the_deadline_announces_the_same_range_anew() -> None:
    """Nothing was sent under it. The owner may have slept before it took the answer."""
    owner = Owner.preparing(at=1000)
    owner.at += 30
    assert kinds(owner.answered()) == ["SendCommit"]
    assert owner.insert is None
    assert owner.note == intent(0, 4, at=1030)
    assert only(owner.answered(), SendInsert).deadline == 1030 + 30


def test_a_retry_after_no_clean_answer_says_when_the_first_attempt_was() -> None:
    owner = Owner.inserting(at=1000)
    owner.at += 1
    report = only(owner.inserted(Outcome.FAILED), Report)
    assert (report.what, report.why) == ("failed", "said so")
    assert owner.partition.phase is Phase.BACKING_OFF
    assert owner.after(0.9) == []
    again = only(owner.after(0.1), SendInsert)
    assert again.first_attempt_ms == ms(1000)
    assert again.deadline == 1000 + 30


def test_waits_between_attempts_grow() -> None:
    owner = Owner.inserting()
    for wait in (1, 2, 4, 8):
        owner.inserted(Outcome.FAILED)
        assert owner.after(wait - 0.1) == []
        assert kinds(owner.after(0.1)) == ["SendInsert"]


def test_what_was_not_sent_is_a_first_attempt_again() -> None:
    owner = Owner.inserting()
    owner.inserted(Outcome.UNSENT)
    assert only(owner.after(1), SendInsert).first_attempt_ms is None


def test_what_was_not_sent_after_an_attempt_that_was_is_not() -> None:
    owner = Owner.inserting(at=1000)
    owner.inserted(Outcome.FAILED)
    owner.after(1)
    owner.inserted(Outcome.UNSENT)
    assert only(owner.after(2), SendInsert).first_attempt_ms == ms(1000)
    assert kinds(owner.inserted()) == ["ReadStamps"]


def test_before_every_send_the_deadline_is_looked_at_and_past_it_all_is_planned_again() -> None:
    owner = Owner.inserting(at=1000)
    owner.read(4, 6)
    owner.at = 1029.5
    owner.inserted(Outcome.FAILED)
    commands = owner.after(1)
    assert kinds(commands) == ["Report", "ReadCommit"]
    assert only(commands, Report).what == "planned again"
    part = owner.partition
    assert (part.phase, part.position, part.buffered_bytes) == (Phase.PLANNING, None, 0)


def test_planned_again_what_was_tried_is_replayed_with_its_original_time() -> None:
    owner = Owner.inserting(at=1000)
    announced = intent(0, 4, at=1000)
    owner.at = 1029.5
    owner.inserted(Outcome.FAILED)
    owner.after(1)
    owner.on(CommitRead(committed(announced)))
    assert owner.covers() == [Fetch(0)]
    owner.read(0, 9)
    assert owner.note == announced
    assert only(owner.answered(), SendInsert).deadline == owner.at + 30


def test_past_the_deadline_what_was_never_sent_is_announced_anew() -> None:
    owner = Owner.inserting(at=1000)
    owner.at = 1029.5
    owner.inserted(Outcome.UNSENT)
    assert owner.after(1) == [SendCommit(0, owner.commit.metadata)]
    assert owner.note == intent(0, 4, at=1030.5)


def test_an_own_insert_that_was_given_up_makes_the_wait_longer() -> None:
    """Sent at its deadline it may run for max_execution_time: the wait must outlast that."""
    owner = Owner.reading(at=1000)
    owner.at = 2000
    owner.read(0, 4)
    owner.at = 2005
    owner.answered()
    owner.at = 2029.5
    owner.inserted(Outcome.FAILED)
    owner.after(1)
    owner.on(CommitRead(committed(intent(0, 4, at=2000))))
    old = CoverageRead(coverage(seconds=10))
    assert only(owner.on(old), Report).what == "waiting"
    owner.at = 2000 + 30 + 20 - 0.1
    assert owner.tick() == []
    assert kinds(owner.after(0.1)) == ["ReadCommit"]


def test_a_stale_answer_to_an_insert_is_ignored() -> None:
    owner = Owner.reading()
    assert owner.on(InsertAnswered(Outcome.LANDED)) == []
    assert owner.on(StampsRead(frozenset({"202601"}))) == []
    assert owner.on(ReadFailed("away")) == []
    assert owner.partition.phase is Phase.READING


# --- check ------------------------------------------------------------------------------------


def unclean() -> Owner:
    """A second attempt is on its way, after one without a clean answer."""
    owner = Owner.inserting()
    owner.inserted(Outcome.FAILED)
    owner.after(1)
    return owner


def test_a_clean_first_answer_is_believed() -> None:
    owner = Owner.inserting()
    assert kinds(owner.inserted()) == ["Report", "SendCommit"]


def test_after_an_unclean_attempt_the_stamps_are_read_before_the_commit() -> None:
    owner = unclean()
    before = owner.commit
    assert owner.inserted() == [ReadStamps(batch(0, 4), 0, ms(1000))]
    assert owner.partition.phase is Phase.CHECKING
    assert owner.commit == before
    assert kinds(owner.stamped()) == ["Report", "SendCommit"]
    assert owner.commit.offset == 4


def test_more_rows_than_lines_are_checked_and_told() -> None:
    """Several objects on a line: each of them landed, and the count of lines was not theirs."""
    owner = Owner.inserting()
    commands = owner.inserted(rows=5)
    assert commands == [
        Report("uneven", "4 lines were sent, ClickHouse read 5 rows", batch(0, 4)),
        ReadStamps(batch(0, 4), 0, ms(1000)),
    ]
    assert kinds(owner.stamped()) == ["Report", "SendCommit"]


def test_as_many_rows_as_lines_are_believed() -> None:
    assert kinds(Owner.inserting().inserted(rows=4)) == ["Report", "SendCommit"]


def test_stamps_that_cannot_be_read_are_asked_for_again() -> None:
    owner = unclean()
    owner.inserted()
    assert owner.on(ReadFailed("away")) == [Report("put off", "checking: away")]
    assert owner.after(0.9) == []
    assert owner.after(0.1) == [ReadStamps(batch(0, 4), 0, ms(1000))]
    assert kinds(owner.stamped()) == ["Report", "SendCommit"]


# --- commit -----------------------------------------------------------------------------------


def test_the_end_is_committed_with_nothing_open_and_waited_for() -> None:
    owner = Owner.inserting(at=1000)
    owner.at += 2
    commands = owner.inserted()
    assert only(commands, Report) == Report("inserted", "", batch(0, 4))
    end = SendCommit(4, encode(4, Open(0, 1, TOPIC_ID, ms(1002))))
    assert only(commands, SendCommit) == end
    assert owner.partition.phase is Phase.COMMITTING
    assert owner.read(4, 8) == []  # one commit in flight
    assert owner.commit == end
    assert kinds(owner.answered()) == ["SendCommit"]
    assert owner.note == intent(4, 8, at=1002)


def test_with_the_next_batch_ready_its_intent_and_this_end_are_one_commit() -> None:
    owner = Owner.inserting(at=1000)
    owner.read(4, 8)
    owner.at += 2
    assert kinds(owner.inserted()) == ["Report", "SendCommit"]
    assert owner.commit.offset == 4
    assert owner.note == intent(4, 8, at=1002)
    command = only(owner.answered(), SendInsert)
    assert (command.batch.first, command.batch.end) == (4, 8)
    assert command.deadline == 1002 + 30


def test_a_next_batch_without_rows_has_no_intent() -> None:
    limits = Limits(4, 1, 30, 20, 10)
    owner = Owner.reading(limits=limits)
    owner.take(Records([0], [line(0)], 1, 0))
    owner.answered()
    owner.partition.records(Records([1], [None], 2, 0), owner.now)
    owner.partition._close(None)
    owner.inserted()
    assert isinstance(owner.note, Open)
    assert owner.commit.offset == 1
    owner.answered()
    assert isinstance(owner.note, Open)
    assert owner.commit.offset == 2


def test_every_commit_has_metadata_of_ours() -> None:
    owner = Owner.reading()
    for first in range(0, 40, 4):
        owner.read(first, first + 4)
        assert owner.note is not None
        owner.answered()
        owner.inserted()
        assert owner.note is not None
        owner.answered()
    assert owner.commit.offset == 40


def test_an_end_commit_that_is_refused_is_sent_again() -> None:
    owner = Owner.inserting()
    owner.inserted()
    end = owner.commit
    owner.answered(Answer.TRY_AGAIN)
    assert owner.after(1) == [end]


def test_an_end_commit_of_unknown_outcome_means_leaving_the_group() -> None:
    owner = Owner.inserting()
    owner.inserted()
    assert kinds(owner.after(10)) == ["Rejoin"]


# --- stop -------------------------------------------------------------------------------------


def test_on_a_stop_the_running_insert_is_seen_to_its_end_and_nothing_new_is_prepared() -> None:
    owner = Owner.inserting()
    owner.read(4, 8)
    owner.partition.stop()
    assert not owner.partition.at_rest
    assert kinds(owner.inserted()) == ["Report", "SendCommit"]
    assert (owner.commit.offset, type(owner.note)) == (4, Open)
    assert not owner.partition.at_rest
    assert owner.answered() == []
    assert owner.partition.at_rest
    assert owner.read(8, 20) == []
    assert owner.after(100) == []


def test_on_a_stop_a_doubtful_insert_is_checked_and_committed() -> None:
    owner = unclean()
    owner.partition.stop()
    owner.inserted()
    assert not owner.partition.at_rest
    assert kinds(owner.stamped()) == ["Report", "SendCommit"]


def test_on_a_stop_a_failed_insert_is_not_tried_again() -> None:
    owner = Owner.inserting()
    owner.partition.stop()
    owner.inserted(Outcome.FAILED)
    assert owner.partition.at_rest
    assert owner.after(5) == []


def test_on_a_stop_an_answered_prepare_is_not_followed_by_its_insert() -> None:
    owner = Owner.preparing()
    owner.partition.stop()
    assert owner.partition.at_rest
    assert owner.answered() == []
    assert owner.insert is None


def test_on_a_stop_what_was_only_read_is_at_rest() -> None:
    owner = Owner.reading()
    owner.read(0, 2)
    owner.partition.stop()
    assert owner.partition.at_rest
    assert owner.after(100) == []


# --- what others may know ---------------------------------------------------------------------


def test_buffered_bytes_are_all_that_is_held() -> None:
    owner = Owner.inserting()
    one = len(line(0))
    assert owner.partition.buffered_bytes == 4 * one + 3
    owner.read(4, 8)
    assert owner.partition.buffered_bytes == 2 * (4 * one + 3)
    owner.read(8, 9)
    assert owner.partition.buffered_bytes == 2 * (4 * one + 3) + one
    owner.inserted()
    owner.answered()
    assert owner.partition.buffered_bytes == (4 * one + 3) + one


def test_reading_pauses_with_two_batches_ready_and_is_drained_when_none_is() -> None:
    owner = Owner.inserting()
    owner.read(4, 8)
    assert owner.partition.wants_records
    owner.read(8, 12)
    assert not owner.partition.wants_records
    assert not owner.partition.drained
    owner.inserted()
    assert owner.partition.wants_records
    assert not owner.partition.drained
    owner.answered()
    owner.inserted()
    assert owner.partition.drained


def test_landed_to_is_the_first_offset_not_known_to_have_landed() -> None:
    owner = Owner.reading()
    owner.read(0, 2)
    assert owner.partition.landed_to == 0
    owner.read(2, 4)
    assert owner.partition.landed_to == 0
    owner.answered()
    owner.read(4, 8)
    assert owner.partition.landed_to == 0
    owner.inserted()
    assert owner.partition.landed_to == 4
    owner.answered()
    owner.inserted()
    assert owner.partition.landed_to == 8


def test_landed_to_is_that_of_a_ready_batch_while_only_a_commit_is_in_flight() -> None:
    owner = Owner.inserting()
    owner.inserted()
    owner.read(4, 8)
    owner.read(8, 9)
    assert owner.partition.landed_to == 4


def test_the_oldest_record_held_is_known_by_its_append_time() -> None:
    owner = Owner.reading(1)
    assert owner.partition.oldest_append_ms == 0
    owner.read(1, 5)
    assert owner.partition.oldest_append_ms == ms(1)
    owner.answered()
    owner.read(5, 9)
    owner.read(9, 10)
    assert owner.partition.oldest_append_ms == ms(1)
    owner.inserted()
    assert owner.partition.oldest_append_ms == ms(5)
    owner.answered()
    owner.inserted()
    owner.answered()
    assert owner.partition.oldest_append_ms == ms(9)


def test_nothing_is_held_and_nothing_is_old_after_leaving() -> None:
    owner = Owner.preparing()
    owner.read(4, 9)
    owner.answered(Answer.LOST)
    assert owner.partition.oldest_append_ms == 0


def test_filling_says_whether_events_wait_for_their_batch_to_be_closed() -> None:
    owner = Owner.reading()
    assert not owner.partition.filling
    owner.read(0, 1)
    assert owner.partition.filling
    owner.read(1, 4)
    assert not owner.partition.filling


def test_limits_have_waits_of_their_own_for_failures_and_refusals() -> None:
    limits = Limits(1, 1, 1, 1, 1)
    assert limits.retry.seconds(1, 0) == 0.1
    assert limits.refusal.seconds(1, 0) == 1.0
    assert LIMITS.batch_rows == 4
    assert records(0, 1).position == 1

"""A mend: piece by piece under its mark and a new epoch, and the views before the commit."""

from __future__ import annotations

from dataclasses import replace

import pytest

from consumer.batch import Records
from consumer.commands import (
    Answer,
    Command,
    CommitRead,
    CoverageRead,
    Fetch,
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
    SendInsert,
    Sift,
    Sifted,
    TopicRead,
)
from consumer.flight import Phase
from consumer.ledger import Mark, Note, Open, encode
from consumer.mending import Mending
from consumer.recovery import Commit, Covered, Mend, Segment
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
    mark,
    ms,
    only,
)

NONE = frozenset[str]()
JANUARY, FEBRUARY = frozenset({"202601"}), frozenset({"202602"})
HALF = replace(covered(0, 8), listed_rows=4)
COMPACTED = Records([0, 1, 3], [line(0), line(1), line(3)], 4, 0)  # 2 is gone


def mending(
    note: Note, *landed: Covered, keeps: bool = True, low: int = 0, silent: bool = False
) -> tuple[Owner, list[Command]]:
    """An owner that has waited and read what landed; and what it does then."""
    owner = Owner(silent=silent)
    commit = committed(note, 0 if isinstance(note, Open) else None, low=low)
    owner.begin(commit)
    owner.on(CoverageRead(coverage(*landed, keeps=keeps)))
    owner.after(QUIET_SECONDS)
    owner.on(CommitRead(commit))
    return owner, owner.on(CoverageRead(coverage(*landed, keeps=keeps)))


def sifting() -> Owner:
    """[0, 8) of which January landed: read again, and not yet sifted."""
    owner, _ = mending(mark(0, 8), HALF)
    owner.read(0, 8)
    assert owner.partition.phase is Phase.SIFTING
    return owner


def restoring() -> Owner:
    """[0, 4) is whole, and its views are being restored."""
    owner, _ = mending(mark(0, 4), covered(0, 4))
    owner.answered()
    assert owner.partition.phase is Phase.RESTORING
    return owner


# --- the mend's beginning -----------------------------------------------------------------------


def test_a_mark_is_never_replayed_but_waited_for_and_mended_again_under_a_newer_epoch() -> None:
    owner = Owner()
    assert owner.begin(committed(mark(0, 8, epoch=4))) == [ReadCoverage(0, None, whole=False)]
    assert owner.covers() == [Report("waiting", "a mend of [0, 8) was begun")]
    assert owner.after(QUIET_SECONDS - 0.1) == []
    assert owner.after(0.1) == [ReadCommit()]
    asked = owner.on(CommitRead(committed(mark(0, 8, epoch=4))))
    assert asked == [ReadCoverage(0, None, whole=True)]
    assert owner.covers() == [
        Report("mending", "[0, 8): a mend of [0, 8) was begun"),
        Fetch(0),
    ]
    owner.read(0, 8)
    owner.on(Sifted(batch(0, 8), JANUARY))
    assert isinstance(owner.note, Mark)
    assert owner.note.epoch == 5


def test_while_a_mend_reads_its_partition_must_not_be_paused() -> None:
    owner, _ = mending(mark(0, 8))
    part = owner.partition
    assert (part.phase, part.planned, part.replaying, part.wants_records) == (
        Phase.READING, True, True, True
    )  # fmt: skip
    assert (part.position, part.landed_to, part.outstanding) == (0, 0, None)


def test_what_left_the_log_is_told_once() -> None:
    _, commands = mending(mark(0, 8), low=3)
    assert commands[0] == Report("lost", "[0, 3) left the log before it was read")
    assert commands[2] == Fetch(3)


def test_reading_on_past_what_was_lost_makes_the_partition_ours_again() -> None:
    """Else every owner after this one would find, and tell, the same loss."""
    owner = Owner()
    owner.begin(committed(Open(3, 1, TOPIC_ID, ms(0)), 10, low=20))
    lost, fetch, commit = owner.covers()
    assert lost == Report("lost", "[10, 20) left the log before it was read")
    assert fetch == Fetch(20)
    assert commit == owner.commit
    assert (owner.commit.offset, owner.note) == (20, Open(3, 1, TOPIC_ID, ms(1000)))


# --- pieces -------------------------------------------------------------------------------------


def test_a_long_gap_is_mended_in_pieces_each_announced_by_the_mark() -> None:
    owner, _ = mending(mark(0, 12))
    assert owner.read(0, 3) == []
    assert kinds(owner.read(3, 5)) == ["SendCommit"]
    assert (owner.commit.offset, owner.note) == (0, mark(0, 12, at=owner.at, epoch=2))
    assert owner.insert is None
    command = only(owner.answered(), SendInsert)
    digest = batch(0, 5).digest
    assert command.token == f"cluster-1:{TOPIC_ID}:3:0-5:5:{digest}:2:events:1:{ms(owner.at)}"
    assert command.first_attempt_ms is None
    report, fetch = owner.inserted()
    assert isinstance(report, Report)
    assert (report.what, report.batch, fetch) == ("inserted", command.batch, Fetch(5))
    owner.at += 1
    assert kinds(owner.read(5, 30)) == ["SendCommit"]
    assert (owner.commit.offset, owner.note) == (0, mark(0, 12, at=owner.at, epoch=2))
    assert only(owner.answered(), SendInsert).batch == batch(5, 12)


def test_a_mend_of_what_was_never_tried_ends_without_a_restore() -> None:
    owner, _ = mending(mark(0, 4))
    owner.read(0, 9)
    assert only(owner.answered(), SendInsert).batch == batch(0, 4)
    commands = owner.inserted()
    assert kinds(commands) == ["Report", "Report", "SendCommit", "Fetch"]
    assert commands[1] == Report("mended", "[0, 4)")
    assert commands[3] == Fetch(4)
    assert (owner.commit.offset, owner.note) == (4, Open(2, 1, TOPIC_ID, ms(owner.at)))


def test_after_a_mend_its_epoch_goes_on() -> None:
    owner, _ = mending(mark(0, 4))
    owner.read(0, 4)
    owner.answered()
    owner.inserted()
    owner.answered()
    owner.read(4, 8)
    assert owner.note == intent(4, 8, at=owner.at, epoch=2)


def test_a_piece_is_closed_by_bytes_too() -> None:
    owner, _ = mending(mark(0, 8))
    assert kinds(owner.take(Records([0], [b"x" * 1000], 1, 0))) == ["SendCommit"]


def test_a_piece_is_not_closed_by_age() -> None:
    """Its end is in the log already: it only has to be read."""
    owner, _ = mending(mark(0, 8))
    owner.read(0, 2)
    assert owner.after(1000) == []


def test_a_range_without_rows_is_passed_without_an_insert() -> None:
    owner, _ = mending(mark(0, 8), covered(2, 6))
    assert owner.take(Records(range(2), [None, b"\n"], 2, 0)) == [Fetch(6)]
    commands = owner.take(Records([], [], 8, 0))
    assert kinds(commands) == ["SendCommit"]  # the mark, for the restore of what is whole
    assert owner.commit.offset == 0


def test_a_mend_with_nothing_in_it_commits_its_end() -> None:
    owner, commands = mending(mark(0, 4), low=9)
    assert kinds(commands) == ["Report", "Report", "Report", "SendCommit", "Fetch"]
    assert commands[-1] == Fetch(9)
    assert owner.commit.offset == 9


def test_a_segment_of_which_something_landed_is_read_whole_and_sifted() -> None:
    """Its stamp has to cover all of it: another piece's stamp would say that less is missing."""
    owner, _ = mending(mark(0, 8), HALF)
    assert owner.read(0, 6) == []
    assert owner.partition.replaying
    asked = only(owner.read(6, 9), Sift)
    assert (asked.landed, asked.by_ids) == (JANUARY, False)
    assert list(asked.batch.lines()) == [line(n) for n in range(8)]
    part = owner.partition
    assert (part.phase, part.position, part.landed_to, part.wants_records) == (
        Phase.SIFTING, None, 0, False
    )  # fmt: skip
    assert owner.read(8, 12) == []


def test_what_is_missing_of_it_is_inserted_under_the_new_epoch() -> None:
    owner = sifting()
    missing = batch(0, 8).only([False] * 4 + [True] * 4)
    assert kinds(owner.on(Sifted(missing, JANUARY | FEBRUARY))) == ["SendCommit"]
    assert owner.note == mark(0, 8, at=owner.at, epoch=2)
    command = only(owner.answered(), SendInsert)
    assert command.batch == missing
    digest = missing.digest
    assert command.token == f"cluster-1:{TOPIC_ID}:3:0-8:4:{digest}:2:events:1:{ms(owner.at)}"
    assert owner.inserted()[0] == Report("inserted", "", missing)


def test_the_views_of_what_was_missing_and_of_what_was_there_are_restored_then() -> None:
    owner = sifting()
    owner.on(Sifted(batch(0, 8).only([True] + [False] * 7), FEBRUARY))
    owner.answered()
    assert kinds(owner.inserted()) == ["Report", "SendCommit"]
    assert owner.note == mark(0, 8, at=owner.at, epoch=2)
    assert owner.answered() == [Restore(0, 8, JANUARY | FEBRUARY)]
    assert owner.commit.offset == 0
    assert kinds(owner.on(Restored())) == ["Report", "SendCommit", "Fetch"]
    assert owner.commit.offset == 8
    assert owner.commit.metadata == encode(8, Open(2, 1, TOPIC_ID, ms(owner.at)))


def test_where_nothing_is_missing_only_the_views_are_restored() -> None:
    owner = sifting()
    assert kinds(owner.on(Sifted(None, FEBRUARY))) == ["SendCommit"]
    assert owner.answered() == [Restore(0, 8, JANUARY | FEBRUARY)]
    assert owner.insert is None


def test_other_rules_let_the_ids_decide() -> None:
    owner, _ = mending(mark(0, 8, version=2), HALF)
    assert owner.read(0, 8) == [Sift(batch(0, 8), JANUARY, by_ids=True)]


def test_where_views_may_have_what_the_table_lost_a_gap_is_sifted_too() -> None:
    """So that the views of its ClickHouse partitions are restored."""
    owner, _ = mending(mark(0, 8), keeps=False)
    assert owner.read(0, 4) == [Sift(batch(0, 4), NONE, by_ids=False)]


def test_sifting_that_fails_is_tried_again() -> None:
    owner = sifting()
    assert owner.on(ReadFailed("away")) == [Report("put off", "sifting: away")]
    assert owner.after(0.9) == []
    assert owner.after(0.1) == [Sift(batch(0, 8), JANUARY, by_ids=False)]


# --- marks and their deadlines ------------------------------------------------------------------


def test_a_mark_that_is_answered_past_the_deadline_is_sent_anew() -> None:
    owner, _ = mending(mark(0, 4))
    owner.read(0, 4)
    owner.at += 30
    assert kinds(owner.answered()) == ["SendCommit"]
    assert owner.note == mark(0, 4, at=owner.at, epoch=2)
    assert only(owner.answered(), SendInsert).deadline == owner.at + 30


def test_a_restore_has_no_deadline_but_waits_for_the_answer_to_its_mark() -> None:
    """It is no insert: done twice, or late, it brings the views to what the table has then."""
    owner, _ = mending(mark(0, 4), covered(0, 4))
    assert owner.partition.phase is Phase.PREPARING
    assert kinds(owner.answered()) == ["Restore"]


def test_a_restores_mark_whose_topic_was_not_heard_in_time_is_sent_anew() -> None:
    owner, _ = mending(mark(0, 4), covered(0, 4), silent=True)
    assert owner.answered() == []
    assert owner.after(29.9) == []
    assert kinds(owner.after(0.1)) == ["SendCommit", "ReadTopic"]
    assert owner.note == mark(0, 4, at=owner.at, epoch=2)


def test_a_piece_that_failed_until_its_deadline_is_found_by_its_mark_and_mended_anew() -> None:
    owner, _ = mending(mark(0, 4))
    owner.read(0, 4)
    announced = owner.note
    assert isinstance(announced, Mark)
    owner.answered()
    owner.at += 29.5
    owner.inserted(Outcome.FAILED)
    assert kinds(owner.after(1)) == ["Report", "ReadCommit"]
    owner.on(CommitRead(committed(announced)))
    # Not even now is it replayed. And the one that was abandoned must have ended first.
    assert only(owner.covers(), Report).what == "waiting"
    owner.at = 1000 + QUIET_SECONDS + 30 + 20 - 0.1
    assert owner.tick() == []
    assert kinds(owner.after(0.1)) == ["ReadCommit"]
    owner.on(CommitRead(committed(announced)))
    owner.covers(replace(covered(0, 4, epoch=2), listed_rows=1))
    assert owner.read(0, 4) == [Sift(batch(0, 4), JANUARY, by_ids=False)]


def test_a_mend_whose_commit_is_lost_leaves_the_group() -> None:
    owner, _ = mending(mark(0, 4))
    owner.read(0, 4)
    assert owner.answered(Answer.LOST) == [Rejoin("said so")]
    assert owner.insert is None


def test_an_unclean_piece_is_checked_under_the_mends_epoch() -> None:
    owner, _ = mending(mark(0, 4))
    owner.read(0, 4)
    announced_ms = ms(owner.at)
    owner.answered()
    owner.inserted(Outcome.FAILED)
    owner.after(1)
    assert owner.inserted() == [ReadStamps(batch(0, 4), 2, announced_ms)]
    assert kinds(owner.stamped()) == ["Report", "Report", "SendCommit", "Fetch"]


def test_tables_rebuilt_beside_an_unclean_piece_are_rebuilt_once_more_at_the_end() -> None:
    owner, _ = mending(mark(0, 4))
    owner.read(0, 4)
    owner.answered()
    owner.inserted(Outcome.FAILED)
    owner.after(1)
    owner.inserted()
    assert kinds(owner.stamped(rebuilt=["202602"])) == ["Report", "SendCommit"]
    assert owner.answered() == [Restore(0, 4, FEBRUARY)]


# --- the restore --------------------------------------------------------------------------------


def test_a_restore_that_fails_is_tried_again_and_nothing_is_committed_meanwhile() -> None:
    owner = restoring()
    before = owner.commit
    assert owner.on(ReadFailed("held")) == [Report("put off", "restoring: held")]
    assert owner.after(1) == [Restore(0, 4, JANUARY)]
    assert owner.commit == before
    assert kinds(owner.on(Restored())) == ["Report", "SendCommit", "Fetch"]


def test_a_late_restore_is_nobodys() -> None:
    owner = Owner.reading()
    assert owner.on(Restored()) == []
    assert owner.on(Sifted(None, JANUARY)) == []


# --- stop ---------------------------------------------------------------------------------------


def test_on_a_stop_a_mend_goes_no_further_than_its_piece() -> None:
    owner, _ = mending(mark(0, 8))
    owner.read(0, 4)
    owner.answered()
    owner.partition.stop()
    assert not owner.partition.at_rest
    assert owner.inserted() == [Report("inserted", "", batch(0, 4))]
    assert owner.partition.at_rest
    assert owner.after(100) == []


def test_on_a_stop_a_piece_that_is_still_read_is_not_announced() -> None:
    owner, _ = mending(mark(0, 8))
    owner.partition.stop()
    assert owner.read(0, 4) == []
    assert owner.partition.at_rest


def test_on_a_stop_no_restore_is_begun() -> None:
    owner, _ = mending(mark(0, 4), covered(0, 4))
    owner.partition.stop()
    assert owner.answered() == []
    assert owner.partition.at_rest


# --- doubts -------------------------------------------------------------------------------------


def doubted(commands: list[Command], word: str) -> None:
    """In doubt, and waiting for every older insert to end."""
    assert [c.what for c in commands if isinstance(c, Report)][-2:] == ["in doubt", "waiting"]
    assert word in only(commands[-1:], Report).why


def mended_with(owner: Owner, note: Note, word: str, table: Covered) -> None:
    """The doubt outlasts the reading of commit and table: a young intent is mended for it."""
    commit = committed(note)
    assert owner.on(CommitRead(commit)) == [ReadCoverage(0, ms(990), whole=True)]
    report, fetch = owner.covers(table)
    assert isinstance(report, Report)
    assert report.what == "mending"
    assert word in report.why
    assert fetch == Fetch(0)


@pytest.mark.parametrize(
    "found",
    [
        Records(range(4), [line(0), line(1), line(2), b'{"n":99}'], 4, 0),
        COMPACTED,
        Records([0, 1, 2, 3], [line(0), line(1), line(2), line(3) + b"\n" + line(3)], 4, 0),
        Records([], [], 4, 0),
    ],
    ids=["another text", "compacted", "a line more", "nothing at all"],
)
def test_a_replay_that_reads_as_other_text_is_mended_after_the_wait(found: Records) -> None:
    note = intent(0, 4, at=990)
    owner = Owner.replaying(note)
    doubted(owner.take(found), "not as announced")
    assert owner.insert is None
    assert owner.partition.phase is Phase.WAITING
    assert owner.after(QUIET_SECONDS) == [ReadCommit()]
    mended_with(owner, note, "not as announced", replace(covered(0, 4), listed_rows=1))


def test_once_every_older_insert_is_over_a_doubt_needs_no_wait() -> None:
    owner = Owner()
    owner.begin(committed(intent(0, 4, at=990)))
    owner.at += QUIET_SECONDS - 25
    owner.covers()
    owner.at += 25
    commands = owner.take(Records([0, 1, 3], [line(0), line(1), line(3)], 4, 0))
    assert kinds(commands) == ["Report", "ReadCommit"]
    assert only(commands, Report).what == "in doubt"


def test_a_replay_of_a_stamped_batch_whose_count_differs_is_in_doubt() -> None:
    """After a foreign commit the ledger says how many rows it announced, and no digest."""
    owner = Owner()
    commit = Commit(9, None, 0, 100)
    landed = replace(covered(0, 4, at=1000), expected_rows=5, listed_rows=5)
    owner.begin(commit)
    owner.covers(landed)
    owner.after(QUIET_SECONDS)
    owner.on(CommitRead(commit))
    owner.covers(landed)
    commands = owner.read(0, 4)
    assert "reads as 4 rows" in only(commands, Report).why
    owner.on(CommitRead(commit))
    report = only(owner.covers(landed), Report)
    assert report.what == "mending"
    assert "reads as 4 rows" in report.why


def test_a_server_that_cannot_vouch_for_the_token_leaves_a_doubt() -> None:
    owner = Owner.inserting()
    owner.inserted(Outcome.FAILED)
    owner.after(1)
    before = owner.commit
    doubted(owner.inserted(Outcome.RESTARTED), "said so")
    assert owner.commit == before


def test_what_was_acknowledged_and_is_not_there_leaves_a_doubt_and_no_commit() -> None:
    """The deduplication log can name parts that a killed server never had."""
    owner = Owner.replaying(intent(0, 4, at=990))
    owner.read(0, 4)
    owner.answered()
    owner.inserted()
    before = owner.commit
    doubted(owner.stamped("202602", "202601"), "202601, 202602")
    assert owner.commit == before
    assert owner.partition.buffered_bytes == 0
    # The insert that was acknowledged was sent under a deadline of its own.
    owner.at = 1000 + 30 + 20
    assert owner.tick() == [ReadCommit()]
    mended_with(owner, intent(0, 4, at=990), "202601, 202602", HALF)


def test_a_doubt_is_settled_by_its_mend() -> None:
    owner = Owner.replaying(intent(0, 4, at=990))
    owner.take(Records([], [], 4, 0))
    owner.after(QUIET_SECONDS)
    owner.on(CommitRead(committed(intent(0, 4, at=990))))
    owner.covers()
    owner.take(Records([], [], 4, 0))
    owner.answered()
    owner.read(4, 8)
    owner.answered()
    owner.at += 29.5
    owner.inserted(Outcome.FAILED)
    owner.after(1)
    young = intent(4, 8, at=owner.at, epoch=1)
    owner.on(CommitRead(committed(young)))
    assert owner.covers() == [Fetch(4)]


def test_a_doubt_is_settled_by_a_commit_that_leaves_nothing_open() -> None:
    """A later owner of another member has settled it before we were asked again."""
    owner = Owner.replaying(intent(0, 4, at=990))
    owner.take(Records([], [], 4, 0))
    owner.after(QUIET_SECONDS)
    owner.on(CommitRead(Commit(None, None, 4, 4)))
    assert owner.covers()[0] == Fetch(4)


# --- tables that were rebuilt meanwhile ---------------------------------------------------------


def rebuilt_beside() -> Owner:
    """An unclean batch landed; a table of one of its ClickHouse partitions was rebuilt since."""
    owner = Owner.inserting()
    owner.read(4, 8)
    owner.inserted(Outcome.FAILED)
    owner.after(1)
    assert only(owner.inserted(), ReadStamps).since_ms == ms(1000)
    return owner


def test_a_table_that_was_rebuilt_since_the_announcement_is_rebuilt_again_before_the_commit() -> (
    None
):
    """It may have counted the rows in `events` before the view did."""
    owner = rebuilt_beside()
    commands = owner.stamped(rebuilt=["202601"])
    assert kinds(commands) == ["Report", "SendCommit"]
    assert (owner.commit.offset, owner.note) == (0, mark(0, 4, at=owner.at, epoch=0))
    assert owner.partition.landed_to == 0
    assert owner.answered() == [Restore(0, 4, JANUARY)]
    assert owner.commit.offset == 0
    assert kinds(owner.on(Restored())) == ["Report", "SendCommit"]
    assert (owner.commit.offset, owner.note) == (4, Open(0, 1, TOPIC_ID, ms(owner.at)))


def test_what_was_read_meanwhile_goes_on_afterwards() -> None:
    owner = rebuilt_beside()
    owner.stamped(rebuilt=["202601"])
    assert owner.read(8, 10) == []
    owner.answered()
    owner.on(Restored())
    assert kinds(owner.answered()) == ["SendCommit"]
    assert owner.note == intent(4, 8, at=owner.at)
    assert owner.partition.position == 10


# --- the topic's id -----------------------------------------------------------------------------


def asked() -> tuple[Owner, ReadTopic]:
    """A prepare of [0, 4), with the question that goes with it."""
    owner = Owner.reading()
    owner.silent = True
    return owner, only(owner.read(0, 4), ReadTopic)


def test_with_each_prepare_the_topics_id_is_asked_for() -> None:
    owner, question = asked()
    assert question == ReadTopic(owner.commit.metadata)


def test_the_insert_waits_for_both_whichever_comes_first() -> None:
    owner, question = asked()
    assert owner.answered() == []
    assert owner.insert is None
    assert kinds(owner.on(TopicRead(TOPIC_ID, question.asked))) == ["SendInsert"]
    owner, question = asked()
    assert owner.on(TopicRead(TOPIC_ID, question.asked)) == []
    assert owner.insert is None
    assert kinds(owner.answered()) == ["SendInsert"]


def test_a_topic_that_was_made_again_means_leaving_the_group_before_any_insert() -> None:
    """Also when it has grown past the old position, and its records read like those before."""
    owner, question = asked()
    owner.answered()
    assert owner.on(TopicRead("of-the-topic-made-again", question.asked)) == [
        Rejoin("the topic was deleted and made again")
    ]
    assert owner.insert is None
    assert owner.partition.phase is Phase.LEAVING


def test_an_answer_to_an_earlier_question_says_nothing_of_these_records() -> None:
    owner, _ = asked()
    owner.answered()
    assert owner.on(TopicRead(TOPIC_ID, "asked for the batch before")) == []
    assert owner.insert is None
    assert Owner.reading().on(TopicRead(TOPIC_ID, "asked long ago")) == []


def test_a_second_answer_does_not_insert_twice() -> None:
    owner, question = asked()
    owner.answered()
    owner.on(TopicRead(TOPIC_ID, question.asked))
    assert owner.on(TopicRead(TOPIC_ID, question.asked)) == []


def test_while_only_a_commit_is_in_flight_no_question_is_open() -> None:
    owner, question = asked()
    owner.answered()
    owner.on(TopicRead(TOPIC_ID, question.asked))
    owner.inserted()
    assert owner.on(TopicRead("another", question.asked)) == []
    assert owner.partition.phase is Phase.COMMITTING


def test_an_id_that_is_not_heard_by_the_deadline_is_asked_for_with_a_new_prepare() -> None:
    owner, _ = asked()
    owner.answered()
    assert owner.after(29.9) == []
    assert kinds(owner.after(0.1)) == ["SendCommit", "ReadTopic"]
    assert owner.note == intent(0, 4, at=1030)


def test_on_a_stop_the_topics_id_no_longer_starts_an_insert() -> None:
    owner, question = asked()
    owner.answered()
    owner.partition.stop()
    assert owner.on(TopicRead(TOPIC_ID, question.asked)) == []
    assert owner.insert is None


# --- how far a mend has come --------------------------------------------------------------------


def test_segments_are_passed_in_their_order() -> None:
    segments = (Segment(2, 5, NONE, False), Segment(9, 12, JANUARY, True))
    way = Mending(Mend(0, 14, 3, segments, JANUARY, False, "why"))
    assert (way.segment, way.position, way.touched) == (segments[0], 2, {"202601"})
    way.read_to(4)
    assert (way.segment, way.position) == (segments[0], 4)
    way.read_to(5)
    assert (way.segment, way.position) == (segments[1], 9)
    way.read_to(12)
    assert way.segment is None


def test_a_mend_without_segments_has_none_to_read() -> None:
    way = Mending(Mend(0, 14, 3, (), NONE, False, "why"))
    assert (way.segment, way.position) == (None, 14)

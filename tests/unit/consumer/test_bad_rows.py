"""One bad event never stops or drops the others: letters first, then the rest of the same range."""

from __future__ import annotations

from dataclasses import replace

import pytest

from consumer.batch import Batch, Filling, Letter, Records
from consumer.commands import (
    Answer,
    Command,
    CommitRead,
    Fetch,
    InsertAnswered,
    Isolate,
    Isolated,
    LettersWritten,
    Outcome,
    ReadCommit,
    ReadFailed,
    ReadStamps,
    Report,
    Restore,
    Restored,
    SendCommit,
    SendInsert,
    Sift,
    Sifted,
    WriteLetters,
)
from consumer.flight import Phase
from consumer.ledger import Open, decode
from tests.unit.consumer.owner import (
    LIMITS,
    QUIET_SECONDS,
    TOPIC_ID,
    Owner,
    batch,
    committed,
    covered,
    intent,
    kinds,
    line,
    mark,
    ms,
    only,
)

NOT_UTF8 = b'{"n":"\xff"}'


def letter(offset: int, line_number: int = 0, *, in_table: bool = False) -> Letter:
    return Letter(offset, line_number, line(offset), "type", f"line {offset}", in_table)


def refused() -> Owner:
    """[0, 4) was refused for its content, and its bad lines are looked for."""
    owner = Owner.inserting()
    owner.inserted(Outcome.REFUSED)
    assert owner.partition.phase is Phase.ISOLATING
    return owner


def suspicious(last: bytes = NOT_UTF8) -> Records:
    return Records(range(4), [line(0), line(1), line(2), last], 4, ms(0))


def suspect() -> tuple[Owner, Batch]:
    """A batch with a line that ClickHouse would take, prepared and identified, not sent."""
    owner = Owner.reading()
    owner.take(suspicious())
    filling = Filling(0)
    filling.add(suspicious(), 0)
    return owner, filling.close()


# --- after a refusal ----------------------------------------------------------------------------


def test_a_refused_batch_is_reported_and_looked_through_by_what_clickhouse_said() -> None:
    """A view can throw when its source has landed: so the stamp is told under which it would be."""
    owner = Owner.inserting()
    assert owner.inserted(Outcome.REFUSED) == [
        Report("refused", "said so", batch(0, 4)),
        Isolate(batch(0, 4), "said so", landed_epoch=0),
    ]


def test_a_refusal_before_anything_was_written_is_a_clean_attempt() -> None:
    """Nothing of it can be in the table, and the answer to the rest is believed at once."""
    owner = Owner.inserting()
    refusal = InsertAnswered(Outcome.REFUSED, "cannot parse", heard=True, untouched=True)
    assert only(owner.on(refusal), Isolate) == Isolate(batch(0, 4), "cannot parse", None)
    owner.on(Isolated((letter(2),)))
    rest = only(owner.on(LettersWritten()), SendInsert)
    assert rest.first_attempt_ms is None
    assert ReadStamps not in [type(command) for command in owner.inserted()]


def test_a_refused_batch_that_was_tried_uncleanly_before_stays_in_doubt() -> None:
    owner = Owner.inserting()
    owner.inserted(Outcome.FAILED)
    owner.after(5)
    refusal = InsertAnswered(Outcome.REFUSED, "cannot parse", heard=True, untouched=True)
    assert only(owner.on(refusal), Isolate).landed_epoch == 0


def test_letters_are_acknowledged_before_the_rest_is_sent() -> None:
    owner = refused()
    before = owner.insert
    assert owner.on(Isolated((letter(1), letter(2, in_table=True)))) == [
        WriteLetters((letter(1), letter(2, in_table=True)))
    ]
    assert owner.partition.phase is Phase.SETTING_ASIDE
    assert owner.insert is before
    assert owner.after(20) == []
    assert owner.insert is before


def test_the_rest_goes_under_the_same_token_and_the_range_does_not_change() -> None:
    owner = refused()
    assert owner.insert is not None
    token = owner.insert.token
    owner.on(Isolated((letter(1),)))
    commands = owner.on(LettersWritten())
    assert commands[0] == Report("set aside", "type", batch(0, 4))
    sent = only(commands, SendInsert)
    assert sent.token == token
    assert (sent.batch.first, sent.batch.end, sent.batch.rows) == (0, 4, 3)
    assert list(sent.batch.lines()) == [line(0), line(2), line(3)]
    assert (sent.deadline, sent.first_attempt_ms) == (1000 + 30, ms(1000))


def test_the_rest_is_believed_only_when_its_stamps_agree() -> None:
    """Of the lines that were sent: a letter's ClickHouse partition may well have no row."""
    owner = refused()
    owner.on(Isolated((letter(1),)))
    owner.on(LettersWritten())
    asked = only(owner.inserted(rows=3), ReadStamps)
    assert list(asked.batch.lines()) == [line(0), line(2), line(3)]
    assert (asked.epoch, asked.since_ms) == (0, ms(1000))
    assert kinds(owner.stamped()) == ["Report", "SendCommit"]
    assert (owner.commit.offset, type(owner.note)) == (4, Open)


def test_each_letter_is_told_by_its_reason() -> None:
    owner = refused()
    owner.on(Isolated((letter(1), replace(letter(3), reason="not JSON"))))
    told = [c.why for c in owner.on(LettersWritten()) if isinstance(c, Report)]
    assert told == ["type", "not JSON"]


def test_a_second_refusal_may_find_more_and_writes_only_those() -> None:
    owner = refused()
    owner.on(Isolated((letter(1),)))
    owner.on(LettersWritten())
    commands = owner.inserted(Outcome.REFUSED)
    looked = only(commands, Isolate)
    assert (looked.refusal, looked.landed_epoch) == ("said so", 0)
    assert [offset for offset, _, _ in looked.batch.origins()] == [0, 2, 3], "what was refused"
    assert owner.on(Isolated((letter(1), letter(3)))) == [WriteLetters((letter(3),))]
    sent = only(owner.on(LettersWritten()), SendInsert)
    assert list(sent.batch.lines()) == [line(0), line(2)]


def test_where_a_view_threw_the_rest_follows_a_mark_and_the_views_are_restored() -> None:
    """Once the rest is in under their token the views would drop a replay: whoever comes after must
    find that there is something to restore."""
    owner = refused()
    first, announced_ms = owner.insert, ms(owner.at)
    assert first is not None
    owner.after(5)
    thrown = replace(letter(1, in_table=True), clickhouse_partition="202601")
    owner.on(Isolated((thrown,)))
    marking = only(owner.on(LettersWritten()), SendCommit)
    assert owner.note == mark(0, 4, at=owner.at, epoch=0)
    sent = only(owner.answered(), SendInsert)
    assert marking.offset == 0
    assert sent.token == first.token
    assert list(sent.batch.lines()) == [line(0), line(2), line(3)]
    owner.after(1)
    checked = only(owner.inserted(), ReadStamps)
    assert (checked.epoch, checked.since_ms) == (0, announced_ms), "since the intent, not the mark"
    owner.stamped()
    assert owner.note == mark(0, 4, at=owner.at, epoch=0)
    assert only(owner.answered(), Restore) == Restore(0, 4, frozenset({"202601"}))
    assert isinstance(decode(4, only(owner.on(Restored()), SendCommit).metadata), Open)


def thrown_on() -> Letter:
    return replace(letter(1, in_table=True), clickhouse_partition="202601")


def test_where_a_view_threw_and_its_deadline_has_passed_there_is_no_mark() -> None:
    """The mark has a deadline of its own, and the token may have left the window meanwhile."""
    owner = refused()
    owner.on(Isolated((thrown_on(),)))
    owner.at += LIMITS.insert_deadline_seconds
    commands = owner.on(LettersWritten())
    assert kinds(commands) == ["Report", "Report", "ReadCommit"]
    assert owner.partition.phase is Phase.PLANNING


def test_a_mark_that_kafka_refuses_until_its_deadline_has_passed_is_not_believed() -> None:
    owner = refused()
    owner.on(Isolated((thrown_on(),)))
    owner.on(LettersWritten())
    owner.answered(Answer.TRY_AGAIN)
    assert kinds(owner.after(LIMITS.insert_deadline_seconds)) == ["SendCommit"]
    assert kinds(owner.answered()) == ["Report", "ReadCommit"]
    assert owner.partition.phase is Phase.PLANNING


def test_where_a_view_throws_on_the_rest_too_there_is_one_mark() -> None:
    owner = refused()
    owner.on(Isolated((thrown_on(),)))
    owner.on(LettersWritten())
    owner.answered()
    marked = owner.commit
    owner.inserted(Outcome.REFUSED)
    owner.on(Isolated((thrown_on(), replace(thrown_on(), offset=2))))
    rest = only(owner.on(LettersWritten()), SendInsert).batch
    assert list(rest.lines()) == [line(0), line(3)]
    assert owner.commit == marked


def doubted(commands: list[Command]) -> None:
    said = [command.what for command in commands if isinstance(command, Report)]
    assert said == ["set aside", "in doubt", "waiting"]
    assert len(commands) == len(said)


def test_where_a_view_threw_on_a_replay_older_attempts_are_over_before_the_views_are_restored() -> (
    None
):
    """Set aside, the row's token may never land in the view: an earlier owner's insert would bring
    it, after the restore has counted it."""
    owner = Owner.replaying(intent(0, 4, at=999))
    owner.read(0, 4)
    owner.answered()
    owner.inserted(Outcome.REFUSED)
    owner.on(Isolated((thrown_on(),)))
    doubted(owner.on(LettersWritten()))
    assert owner.after(QUIET_SECONDS - 1) == []
    assert owner.after(1) == [ReadCommit()]


def test_where_a_view_threw_after_an_attempt_of_which_the_end_is_not_known() -> None:
    owner = Owner.inserting()
    owner.inserted(Outcome.FAILED)
    owner.after(1)
    owner.inserted(Outcome.REFUSED)
    owner.on(Isolated((thrown_on(),)))
    doubted(owner.on(LettersWritten()))


def test_a_second_line_of_the_same_record_is_another_letter() -> None:
    owner = Owner.reading()
    owner.take(Records([0], [b"a\nb\nc\nd"], 1, ms(0)))
    owner.answered()
    owner.inserted(Outcome.REFUSED)
    owner.on(Isolated((letter(0, 1),)))
    assert list(only(owner.on(LettersWritten()), SendInsert).batch.lines()) == [b"a", b"c", b"d"]
    owner.inserted(Outcome.REFUSED)
    assert owner.on(Isolated((letter(0, 1), letter(0, 2)))) == [WriteLetters((letter(0, 2),))]
    assert list(only(owner.on(LettersWritten()), SendInsert).batch.lines()) == [b"a", b"d"]


def test_where_no_line_is_at_fault_it_is_told_and_tried_again_with_growing_waits() -> None:
    """A schema that an operator has to mend, perhaps: nothing may be dropped for it."""
    owner = refused()
    assert owner.on(Isolated(())) == [
        Report("unexplained", "no line of it was found to be at fault: said so", batch(0, 4))
    ]
    assert owner.partition.phase is Phase.BACKING_OFF
    assert owner.after(1.9) == []
    assert list(only(owner.after(0.1), SendInsert).batch.lines()) == list(batch(0, 4).lines())
    owner.inserted(Outcome.REFUSED)
    owner.on(Isolated(()))
    assert owner.after(3.9) == []
    assert kinds(owner.after(0.1)) == ["SendInsert"]


def test_what_was_set_aside_already_does_not_explain_a_second_refusal() -> None:
    owner = refused()
    owner.on(Isolated((letter(1),)))
    owner.on(LettersWritten())
    owner.inserted(Outcome.REFUSED)
    assert only(owner.on(Isolated((letter(1),))), Report).what == "unexplained"
    assert owner.after(3.9) == []
    assert only(owner.after(0.1), SendInsert).batch.rows == 3


def test_where_every_line_is_bad_nothing_is_sent_and_the_range_is_passed() -> None:
    owner = refused()
    before = owner.insert
    owner.on(Isolated(tuple(letter(n) for n in range(4))))
    commands = owner.on(LettersWritten())
    assert kinds(commands) == ["Report"] * 4 + ["Report", "SendCommit"]
    assert owner.insert is before
    assert (owner.commit.offset, type(owner.note)) == (4, Open)


@pytest.mark.parametrize("seconds", [0.1, 31.0])
def test_looking_that_fails_is_tried_again(seconds: float) -> None:
    owner = refused()
    assert owner.on(ReadFailed("away")) == [Report("put off", "isolating: away")]
    assert owner.after(0.9) == []
    assert owner.after(seconds) == [Isolate(batch(0, 4), "said so", 0)]


def test_a_dead_letter_topic_that_refuses_makes_the_batch_wait_and_nothing_is_dropped() -> None:
    owner = refused()
    owner.on(Isolated((letter(1),)))
    before = owner.insert
    for wait in (1, 2, 4, 8, 8):
        assert only(owner.on(ReadFailed("no such topic")), Report).what == "put off"
        assert owner.after(wait - 0.1) == []
        assert owner.after(0.1) == [WriteLetters((letter(1),))]
    assert owner.insert is before
    assert owner.commit.offset == 0


def test_letters_that_took_past_the_deadline_lead_back_to_the_commit() -> None:
    """Where the intent is young it is replayed, refused, and its letters are written once more:
    the same letters, by topic, partition, offset and line."""
    owner = refused()
    owner.on(Isolated((letter(1),)))
    owner.at += 30
    commands = owner.on(LettersWritten())
    assert kinds(commands) == ["Report", "Report", "ReadCommit"]
    note = intent(0, 4, at=1000)
    owner.on(CommitRead(committed(note)))
    assert owner.covers() == [Fetch(0)]
    owner.read(0, 4)
    assert owner.note == note
    assert only(owner.answered(), SendInsert).batch == batch(0, 4)
    owner.inserted(Outcome.REFUSED)
    assert owner.on(Isolated((letter(1),))) == [WriteLetters((letter(1),))]


def test_late_answers_to_a_search_are_nobodys() -> None:
    owner = Owner.reading()
    assert owner.on(Isolated((letter(1),))) == []
    assert owner.on(LettersWritten()) == []


# --- before any attempt -------------------------------------------------------------------------


def test_a_suspect_batch_is_looked_through_before_it_is_sent() -> None:
    """ClickHouse would take what is not UTF-8."""
    owner, text = suspect()
    assert owner.answered() == [Isolate(text, "", landed_epoch=None)]
    assert owner.insert is None


def test_where_nothing_is_found_in_a_suspect_batch_it_is_sent_as_it_is() -> None:
    owner, text = suspect()
    owner.answered()
    sent = only(owner.on(Isolated(())), SendInsert)
    assert sent.batch == text
    assert sent.first_attempt_ms is None
    assert kinds(owner.inserted()) == ["Report", "SendCommit"]  # a clean first answer


def test_what_is_found_in_it_is_set_aside_before_the_first_attempt() -> None:
    owner, text = suspect()
    owner.answered()
    bad = Letter(3, 0, NOT_UTF8, "not UTF-8", "byte 6")
    assert owner.on(Isolated((bad,))) == [WriteLetters((bad,))]
    sent = only(owner.on(LettersWritten()), SendInsert)
    assert list(sent.batch.lines()) == [line(0), line(1), line(2)]
    assert sent.token == f"cluster-1:{TOPIC_ID}:3:0-4:4:{text.digest}:0:events:1:{ms(1000)}"
    assert sent.first_attempt_ms is None


def test_after_an_unclean_attempt_a_refusal_of_a_suspect_batch_is_looked_through_again() -> None:
    owner, text = suspect()
    owner.answered()
    owner.on(Isolated(()))
    assert only(owner.inserted(Outcome.REFUSED), Isolate) == Isolate(text, "said so", 0)


def test_letters_before_the_first_attempt_that_took_too_long_announce_the_range_anew() -> None:
    owner, text = suspect()
    owner.answered()
    owner.on(Isolated((Letter(3, 0, NOT_UTF8, "not UTF-8", "byte 6"),)))
    owner.at += 30
    assert kinds(owner.on(LettersWritten())) == ["Report", "SendCommit"]
    assert owner.note == replace(intent(0, 4, at=owner.at), digest=text.digest)
    assert kinds(owner.answered()) == ["Isolate"]


def test_a_replay_of_a_suspect_batch_is_looked_through_for_what_may_have_landed() -> None:
    """The owner before may have sent it."""
    _, text = suspect()
    note = replace(intent(0, 4, at=990, epoch=2), digest=text.digest)
    owner = Owner.replaying(note)
    owner.take(suspicious())
    assert owner.answered() == [Isolate(text, "", landed_epoch=2)]


# --- in a mend ----------------------------------------------------------------------------------


def test_a_bad_line_among_what_is_missing_is_set_aside_within_its_piece() -> None:
    owner = Owner()
    half = replace(covered(0, 4), listed_rows=2)
    owner.begin(committed(mark(0, 4)))
    owner.covers(half)
    owner.after(QUIET_SECONDS)
    owner.on(CommitRead(committed(mark(0, 4))))
    owner.covers(half)
    assert kinds(owner.read(0, 4)) == [Sift.__name__]
    missing = batch(0, 4).only([False, True, False, True])
    owner.on(Sifted(missing, frozenset({"202602"})))
    token = only(owner.answered(), SendInsert).token
    assert only(owner.inserted(Outcome.REFUSED), Isolate) == Isolate(missing, "said so", 2)
    owner.on(Isolated((letter(3),)))
    sent = only(owner.on(LettersWritten()), SendInsert)
    assert (sent.token, list(sent.batch.lines())) == (token, [line(1)])


def test_in_a_mend_the_share_is_one_of_all_lines_that_were_read() -> None:
    """What is missing of batches that landed is often their bad lines alone."""
    owner = Owner(limits=FEW)
    landed = [replace(covered(n, n + 8), expected_rows=8, listed_rows=5) for n in (0, 8, 16)]
    owner.begin(committed(mark(0, 24)))
    owner.covers(*landed)
    owner.after(QUIET_SECONDS)
    owner.on(CommitRead(committed(mark(0, 24))))
    owner.covers(*landed)
    for first in (0, 8, 16):
        assert kinds(owner.read(first, first + 8)) == [Sift.__name__]
        assert owner.partition.buffered_bytes == batch(first, first + 8).size_bytes
        missing = batch(first, first + 8).only([n in (3, 4, 5) for n in range(8)])
        owner.on(Sifted(missing, frozenset({"202601"})))
        owner.answered()
        owner.inserted(Outcome.REFUSED)
        bad = tuple(letter(first + n) for n in (3, 4, 5))
        assert kinds(owner.on(Isolated(bad))) == ["WriteLetters"], first
        owner.on(LettersWritten())
    assert owner.partition.phase is not Phase.HALTED


# --- too many -----------------------------------------------------------------------------------

FEW = replace(LIMITS, bad_share=0.5, bad_window_rows=8)


def test_more_than_the_share_of_a_full_window_stops_the_partition_before_any_letter() -> None:
    owner = Owner.reading(limits=FEW)
    owner.read(0, 8)
    owner.answered()
    owner.inserted(Outcome.REFUSED)
    report = only(owner.on(Isolated(tuple(letter(n) for n in range(5)))), Report)
    assert report.what == "halted"
    assert "5 of the last 8 events cannot be inserted, more than 50%: line 0" in report.why
    assert "PENSTOCK_BAD_SHARE" in report.why
    assert owner.partition.phase is Phase.HALTED
    assert owner.partition.halted_why == report.why
    assert owner.on(LettersWritten()) == []
    assert owner.after(1000) == []
    assert owner.commit.offset == 0


def test_just_the_share_is_set_aside() -> None:
    owner = Owner.reading(limits=FEW)
    owner.read(0, 8)
    owner.answered()
    owner.inserted(Outcome.REFUSED)
    assert kinds(owner.on(Isolated(tuple(letter(n) for n in range(4))))) == ["WriteLetters"]


def three_more_are_too_many(owner: Owner) -> None:
    """Two of [0, 4) have been set aside."""
    owner.read(4, 8)
    owner.answered()
    owner.inserted(Outcome.REFUSED)
    report = only(owner.on(Isolated((letter(4), letter(5), letter(6)))), Report)
    assert "5 of the last 8" in report.why


def test_the_batches_before_count_with_their_letters() -> None:
    owner = Owner.reading(limits=FEW)
    owner.read(0, 4)
    owner.answered()
    owner.inserted(Outcome.REFUSED)
    owner.on(Isolated((letter(0), letter(1))))  # 2 of 4: no full window yet
    owner.on(LettersWritten())
    owner.inserted()
    owner.stamped()
    owner.answered()
    three_more_are_too_many(owner)


def test_letters_of_a_batch_in_doubt_count_too() -> None:
    owner = Owner.reading(limits=FEW)
    owner.read(0, 4)
    owner.answered()
    owner.inserted(Outcome.FAILED)
    owner.after(1)
    owner.inserted(Outcome.REFUSED)
    owner.on(Isolated((thrown_on(), replace(thrown_on(), offset=2))))
    owner.on(LettersWritten())
    note = owner.note
    assert note is not None
    owner.after(100)
    owner.on(CommitRead(committed(note)))
    owner.covers(covered(0, 4))
    owner.answered()
    owner.on(Restored())
    owner.answered()
    three_more_are_too_many(owner)


def test_letters_of_a_first_refusal_count_with_those_of_the_second() -> None:
    owner = Owner.reading(limits=FEW)
    owner.read(0, 8)
    owner.answered()
    owner.inserted(Outcome.REFUSED)
    owner.on(Isolated(tuple(letter(n) for n in range(3))))
    owner.on(LettersWritten())
    owner.inserted(Outcome.REFUSED)
    report = only(owner.on(Isolated(tuple(letter(n) for n in range(5)))), Report)
    assert "5 of the last 8" in report.why


# --- stop ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("found", [(), (letter(1),)], ids=["nothing", "a letter"])
def test_on_a_stop_no_insert_follows_a_search(found: tuple[Letter, ...]) -> None:
    """It is at rest: the owner may be gone before the insert would be answered."""
    owner, _ = suspect()
    owner.answered()
    owner.partition.stop()
    assert owner.partition.at_rest
    commands = owner.on(Isolated(found))
    if commands:
        assert kinds(commands) == ["WriteLetters"]
        commands = owner.on(LettersWritten())
    assert not [c for c in commands if isinstance(c, SendInsert | SendCommit)]
    assert owner.partition.at_rest

"""The plan of an assignment, from Kafka's commit, the stamps in the table, and the clocks."""

from __future__ import annotations

from dataclasses import replace

import pytest

from consumer.ledger import Intent, Open, encode
from consumer.recovery import (
    Begin,
    Commit,
    Coverage,
    Covered,
    Halt,
    Judgement,
    Mend,
    Plan,
    Replay,
    Wait,
    judge,
    plan,
)
from tests.unit.consumer.owner import (
    TOPIC_ID,
    committed,
    coverage,
    covered,
    intent,
    mark,
    ms,
    nothing_open,
)

NOW = 1000.0
YOUNG = intent(10, 20, at=NOW - 5)


def planned(commit: Commit, table: Coverage, *, waited: bool = False, now: float = NOW) -> Plan:
    return plan(judge(commit, TOPIC_ID), commit, table, ms(now), waited=waited)


def replay(note: Intent) -> Replay:
    return Replay(note.first, note.end, note.epoch, note.time_ms, note.count, note.digest)


# --- how far a commit can be trusted ----------------------------------------------------------


def test_an_open_note_of_ours_says_where_reading_goes_on() -> None:
    note = Open(0, 1, TOPIC_ID, ms(0))
    assert judge(committed(note, 10), TOPIC_ID) == Judgement(note, 10)


def test_an_intent_of_ours_says_the_range_that_may_have_landed() -> None:
    assert judge(committed(YOUNG), TOPIC_ID) == Judgement(YOUNG, 10)


@pytest.mark.parametrize(
    "commit",
    [
        Commit(None, None, 5, 100),
        Commit(50, None, 5, 100),
        Commit(50, "", 5, 100),
        Commit(50, "another tool", 5, 100),
        Commit(11, encode(10, YOUNG), 5, 100),
        Commit(10, encode(10, replace(YOUNG, topic_id="of-the-topic-before")), 5, 100),
    ],
    ids=["none", "no metadata", "empty", "not ours", "moved", "another topic id"],
)
def test_a_foreign_commits_offset_means_nothing(commit: Commit) -> None:
    assert judge(commit, TOPIC_ID) == Judgement(None, 5)


# --- own metadata -----------------------------------------------------------------------------


def test_nothing_open_goes_on_at_once_under_its_epoch() -> None:
    assert planned(nothing_open(10, epoch=3), coverage()) == Begin(10, 3)


def test_nothing_open_but_landed_past_it_is_mended() -> None:
    waits_then_mends(nothing_open(10), coverage(covered(10, 20)), "nothing is open", "[10, 20)")


def test_nothing_open_before_the_logs_start_goes_on_there_and_tells_what_is_lost() -> None:
    """Nobody can read before it: the whole member would leave and join for ever."""
    note = Open(3, 1, TOPIC_ID, ms(0))
    assert planned(committed(note, 10, low=11), coverage()) == Begin(11, 3, lost=(10, 11))
    assert planned(committed(note, 10, low=10), coverage()) == Begin(10, 3)


def test_what_became_doubtful_while_nothing_was_open_is_mended() -> None:
    found = plan(
        judge(nothing_open(10), TOPIC_ID),
        nothing_open(10),
        coverage(),
        ms(NOW),
        waited=True,
        doubt="a replay of a batch before this commit reads as other text",
    )
    assert isinstance(found, Mend)
    assert (found.first, found.end, found.segments) == (10, 10, ())


def test_a_young_intent_is_replayed_exactly_without_a_wait() -> None:
    """Its range, digest, epoch and original time: a normal handover never waits."""
    note = intent(10, 20, at=NOW - 5, epoch=2)
    assert planned(committed(note), coverage()) == Begin(20, 2, (replay(note),))


def test_a_young_intent_that_landed_in_part_or_whole_is_replayed_too() -> None:
    assert planned(committed(YOUNG), coverage(covered(10, 20))) == Begin(20, 0, (replay(YOUNG),))


def waits_then_mends(commit: Commit, table: Coverage, *words: str) -> None:
    """What its token cannot settle: first the wait, always, and only then a mend."""
    first = planned(commit, table)
    assert isinstance(first, Wait)
    then = planned(commit, table, waited=True)
    assert isinstance(then, Mend)
    for word in words:
        assert word in first.why
        assert word in then.why


@pytest.mark.parametrize(
    "landed",
    [
        covered(10, 15),
        covered(10, 25),
        covered(20, 30),
        covered(5, 12),
        covered(10, 20, epoch=1),
    ],
    ids=["shorter", "longer", "past it", "across its start", "another epoch"],
)
def test_an_intent_that_clashes_with_the_coverage(landed: Covered) -> None:
    waits_then_mends(committed(YOUNG), coverage(landed), "clashes")


def test_a_clash_names_a_few_batches_and_counts_the_rest() -> None:
    found = planned(
        committed(YOUNG), coverage(*(covered(n, n + 1) for n in range(20, 25))), waited=True
    )
    assert isinstance(found, Mend)
    assert "[22, 23) epoch 0 and 2 more" in found.why


def test_an_intent_of_another_version_of_the_rows_rules() -> None:
    waits_then_mends(committed(intent(10, 20, at=NOW - 5, version=2)), coverage(), "version 2")


def test_an_intent_whose_records_are_gone_from_the_log() -> None:
    waits_then_mends(committed(YOUNG, low=11), coverage(), "log's start 11")


def test_an_intent_at_the_logs_start_is_replayed() -> None:
    assert isinstance(planned(committed(YOUNG, low=10), coverage()), Begin)


def test_old_by_entries_is_past_half_of_the_window() -> None:
    assert isinstance(planned(committed(YOUNG), coverage(entries=500, window=1000)), Begin)
    waits_then_mends(committed(YOUNG), coverage(entries=501, window=1000), "501", "1000")


def test_a_window_of_nothing_makes_every_insert_old() -> None:
    assert isinstance(planned(committed(YOUNG), coverage(entries=1, window=0)), Wait)


def test_old_by_seconds_is_past_half_of_the_window() -> None:
    note = intent(10, 20, at=NOW - 1800)
    assert isinstance(planned(committed(note), coverage(seconds=3600)), Begin)
    waits_then_mends(committed(intent(10, 20, at=NOW - 1801)), coverage(seconds=3600), "1801 s")


def test_without_a_window_by_time_no_age_is_too_old() -> None:
    note = intent(10, 20, at=NOW - 10_000_000)
    assert isinstance(planned(committed(note), coverage(started=NOW - 20_000_000)), Begin)


def test_old_by_a_restart_since() -> None:
    """The deduplication log is written before the part, and can name parts that never appeared."""
    waits_then_mends(committed(YOUNG), coverage(started=NOW - 5), "restarted")
    assert isinstance(planned(committed(YOUNG), coverage(started=NOW - 5.001)), Begin)


def test_a_restart_is_harmless_where_the_log_is_kept_or_mended() -> None:
    assert isinstance(planned(committed(YOUNG), coverage(started=NOW, keeps=True)), Begin)


# --- foreign commits --------------------------------------------------------------------------


def foreign(low: int = 0, high: int = 100) -> Commit:
    return Commit(50, None, low, high)


def test_a_new_topic_starts_at_once() -> None:
    """An empty log over an empty table has no older inserts."""
    assert planned(Commit(None, None, 0, 0), coverage()) == Begin(0, 0)
    assert planned(Commit(None, None, 7, 7), coverage()) == Begin(7, 0)


def test_a_foreign_commit_waits_before_the_table_is_believed() -> None:
    assert isinstance(planned(foreign(), coverage()), Wait)


def test_a_foreign_commit_waits_also_where_the_log_is_empty_and_the_table_is_not() -> None:
    """All of it has left the log since it was read: what is past its start may yet be landing."""
    assert isinstance(planned(foreign(low=4, high=5), coverage(covered(0, 5))), Wait)


def test_after_the_wait_reading_begins_at_the_logs_start() -> None:
    assert planned(foreign(low=7), coverage(), waited=True) == Begin(7, 0)


def test_what_landed_is_replayed_under_its_own_tokens_for_the_views_sake() -> None:
    table = coverage(covered(7, 10, at=NOW - 9), covered(10, 20, epoch=2, at=NOW - 5))
    assert planned(foreign(low=7), table, waited=True) == Begin(
        20, 2, (Replay(7, 10, 0, ms(NOW - 9), 3), Replay(10, 20, 2, ms(NOW - 5), 10))
    )


def test_what_landed_and_left_the_log_is_not_looked_at() -> None:
    table = coverage(covered(0, 7, at=NOW - 9), covered(7, 10, at=NOW - 5))
    assert planned(foreign(low=7), table, waited=True) == Begin(
        10, 0, (Replay(7, 10, 0, ms(NOW - 5), 3),)
    )
    assert planned(foreign(low=10), table, waited=True) == Begin(10, 0)


@pytest.mark.parametrize(
    ("table", "word"),
    [
        (coverage(covered(8, 10, at=NOW)), "does not follow 7"),
        (coverage(covered(6, 10, at=NOW)), "does not follow 7"),
        (coverage(covered(7, 10, at=NOW), covered(11, 12, at=NOW)), "does not follow 10"),
        (coverage(covered(7, 10, at=NOW), covered(9, 12, at=NOW)), "does not follow 10"),
        (coverage(covered(7, 10, at=NOW - 1801), seconds=3600), "1801 s old"),
        (coverage(covered(7, 10, at=NOW), entries=501), "501 inserts"),
        (coverage(covered(7, 10, at=NOW - 9), started=NOW - 9), "restarted"),
        (coverage(replace(covered(7, 10, at=NOW), version=2)), "of other rules"),
        (coverage(replace(covered(7, 10, at=NOW), announced_ms=None)), "not known"),
    ],
    ids=["gap at the start", "across the start", "gap", "overlap", "old by time",
         "old by entries", "old by a restart", "of another version", "time unknown"],
)  # fmt: skip
def test_what_its_tokens_cannot_settle_is_mended(table: Coverage, word: str) -> None:
    assert isinstance(planned(foreign(low=7), table), Wait)
    found = planned(foreign(low=7), table, waited=True)
    assert isinstance(found, Mend)
    assert word in found.why


# --- a log that was cut -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("commit", "table", "known"),
    [
        (committed(Open(0, 1, TOPIC_ID, ms(0)), 10, high=9), coverage(), 10),
        (committed(YOUNG, high=19), coverage(), 20),
        (committed(mark(10, 20), high=19), coverage(), 20),
        (committed(Open(0, 1, TOPIC_ID, ms(0)), 10, high=29), coverage(covered(10, 30)), 30),
        (foreign(high=100), coverage(covered(90, 101)), 101),
    ],
    ids=["the commit", "an intent", "a mark", "the table", "the table over a foreign commit"],
)
def test_a_log_that_ends_before_what_was_reached_once_stops_the_partition(
    commit: Commit, table: Coverage, known: int
) -> None:
    """Other records will come under the offsets that are committed or landed: nothing can tell
    them from those that were there."""
    for waited in (False, True):
        found = planned(commit, table, waited=waited)
        assert isinstance(found, Halt)
        assert f"ends at {commit.high}, before {known}" in found.why
        assert "rewind" in found.why


def test_a_log_that_ends_just_there_was_not_cut() -> None:
    assert planned(nothing_open(100), coverage()) == Begin(100, 0)
    assert isinstance(planned(committed(YOUNG, high=20), coverage()), Begin)

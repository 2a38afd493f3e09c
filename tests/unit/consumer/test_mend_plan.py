"""What a mend reads again: interval arithmetic over the stamps of the table and its index."""

from __future__ import annotations

from dataclasses import replace

import pytest

from consumer.ledger import Mark, Open
from consumer.recovery import Commit, Coverage, Covered, Mend, Segment, judge, plan
from tests.unit.consumer.owner import TOPIC_ID, committed, coverage, covered, intent, mark, ms

NOW = 1000.0
NONE = frozenset[str]()
JANUARY, FEBRUARY = frozenset({"202601"}), frozenset({"202602"})
BOTH = JANUARY | FEBRUARY


def mend(commit: Commit, table: Coverage) -> Mend:
    found = plan(judge(commit, TOPIC_ID), commit, table, ms(NOW), waited=True)
    assert isinstance(found, Mend)
    return found


def of(*batches: Covered, first: int = 0, end: int = 20, low: int = 0, keeps: bool = True) -> Mend:
    """The mend of a range that was being mended, over what landed."""
    return mend(committed(mark(first, end), low=low), coverage(*batches, keeps=keeps))


def batch(
    first: int, end: int, stamped: frozenset[str], listed: frozenset[str], listed_rows: int
) -> Covered:
    return replace(covered(first, end), stamped=stamped, listed=listed, listed_rows=listed_rows)


# --- which segments ---------------------------------------------------------------------------


def test_where_nothing_landed_all_of_it_is_read_again() -> None:
    found = of()
    assert (found.first, found.end) == (0, 20)
    assert found.segments == (Segment(0, 20, NONE, touched=False),)
    assert (found.rebuild, found.lost, found.by_ids) == (NONE, None, False)


def test_a_server_that_may_have_lost_what_its_views_kept_touched_everything() -> None:
    """Killed between table and views it can have either: the views are restored in any case."""
    assert of(keeps=False).segments == (Segment(0, 20, NONE, touched=True),)


def test_a_whole_batch_is_not_read_again_and_its_views_are_rebuilt() -> None:
    found = of(covered(0, 10))
    assert found.segments == (Segment(10, 20, NONE, touched=False),)
    assert found.rebuild == JANUARY


def test_where_all_is_whole_only_the_views_are_mended() -> None:
    found = of(covered(0, 10), covered(10, 20))
    assert (found.segments, found.rebuild) == ((), JANUARY)


def test_gaps_between_whole_batches_are_read_again() -> None:
    assert of(covered(2, 5), covered(9, 15)).segments == (
        Segment(0, 2, NONE, touched=False),
        Segment(5, 9, NONE, touched=False),
        Segment(15, 20, NONE, touched=False),
    )


def test_of_a_batch_that_landed_in_part_what_landed_is_told() -> None:
    """One of its two ClickHouse partitions, and its line in the ledger."""
    found = of(batch(0, 10, JANUARY, JANUARY, 4))
    assert found.segments[0] == Segment(0, 10, JANUARY, touched=True)
    assert found.rebuild == JANUARY


def test_a_batch_that_the_ledger_lacks_is_read_again() -> None:
    """Whether its stamped ClickHouse partitions are all of them, nobody has written down."""
    found = of(replace(batch(0, 10, JANUARY, NONE, 0), expected_rows=None, version=None))
    assert found.segments[0] == Segment(0, 10, JANUARY, touched=True)


def test_a_batch_that_the_ledger_has_in_part_is_read_again() -> None:
    found = of(batch(0, 10, BOTH, JANUARY, 4))
    assert found.segments[0] == Segment(0, 10, BOTH, touched=True)
    assert found.rebuild == BOTH


def test_a_line_of_the_ledger_without_a_row_is_not_believed() -> None:
    """The ledger is a view: it can have what a crash took from the table."""
    found = of(batch(0, 10, JANUARY, BOTH, 10))
    assert found.segments[0] == Segment(0, 10, JANUARY, touched=True)
    assert found.rebuild == BOTH


def test_a_batch_of_which_some_rows_were_set_aside_is_not_whole() -> None:
    """It announced ten and has nine: the tenth is a dead letter, or was lost. The range is read
    again, and whatever it is comes to light."""
    assert of(batch(0, 10, JANUARY, JANUARY, 9)).segments[0].first == 0


def test_overlapping_batches_are_cut_at_each_others_boundaries() -> None:
    one = batch(0, 10, JANUARY, JANUARY, 10)
    two = replace(batch(5, 15, FEBRUARY, FEBRUARY, 10), epoch=1)
    found = of(one, two)
    assert found.segments == (
        Segment(5, 10, BOTH, touched=True),
        Segment(15, 20, NONE, touched=False),
    )


def test_three_attempts_of_one_range_count_together() -> None:
    parts = [frozenset({name}) for name in ("a", "b", "c")]
    attempts = [replace(batch(0, 20, p, p, 5), epoch=n) for n, p in enumerate(parts)]
    assert of(*attempts).segments == (Segment(0, 20, frozenset("abc"), touched=True),)


def test_a_long_batch_that_covers_shorter_ones_counts_in_each_of_their_segments() -> None:
    long = batch(0, 20, JANUARY, JANUARY, 5)
    short = replace(batch(5, 10, FEBRUARY, FEBRUARY, 5), epoch=1)
    assert of(long, short).segments == (
        Segment(0, 5, JANUARY, touched=True),
        Segment(5, 10, BOTH, touched=True),
        Segment(10, 20, JANUARY, touched=True),
    )


def test_a_batch_that_began_before_counts_from_where_the_mend_begins() -> None:
    found = of(batch(4, 12, JANUARY, JANUARY, 3), first=10, end=20)
    assert found.segments == (
        Segment(10, 12, JANUARY, touched=True),
        Segment(12, 20, NONE, touched=False),
    )


def test_what_landed_past_the_mark_is_mended_too() -> None:
    """By an owner before, whose commit was replaced: it would be inserted again otherwise."""
    found = of(batch(15, 30, JANUARY, JANUARY, 3), end=20)
    assert (found.first, found.end) == (0, 30)
    assert found.segments == (
        Segment(0, 15, NONE, touched=False),
        Segment(15, 30, JANUARY, touched=True),
    )


# --- under which epoch ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("commit", "batches", "epoch"),
    [
        (committed(mark(0, 20, epoch=4)), (), 5),
        (committed(mark(0, 20, epoch=4)), (covered(0, 10, epoch=7), covered(10, 20, epoch=2)), 8),
        (committed(intent(0, 20, at=NOW, epoch=3, version=2)), (), 4),
        (committed(Open(6, 1, TOPIC_ID, ms(0)), 0), (covered(0, 5, epoch=1),), 7),
        (Commit(9, None, 0, 100), (covered(5, 9, epoch=2, at=NOW),), 3),
    ],
    ids=["the mark's", "a batch's", "an intent's", "the last commit's", "after a foreign commit"],
)
def test_a_mend_has_an_epoch_above_all_that_were_seen(
    commit: Commit, batches: tuple[Covered, ...], epoch: int
) -> None:
    assert mend(commit, coverage(*batches)).epoch == epoch


# --- what decides: ClickHouse partitions or ids -------------------------------------------------


def test_under_the_same_rules_the_clickhouse_partitions_decide() -> None:
    assert not of(covered(0, 10)).by_ids
    assert not mend(committed(intent(0, 20, at=0)), coverage(seconds=10)).by_ids


@pytest.mark.parametrize(
    ("note", "batches"),
    [
        (intent(0, 20, version=2), ()),
        (mark(0, 20, version=2), ()),
        (mark(0, 20), (replace(covered(0, 10), version=2),)),
        (mark(0, 20), (replace(covered(0, 10), version=None),)),
    ],
    ids=["an intent of another version", "a mark of one", "a batch of one", "a batch of unknown"],
)
def test_where_other_rules_may_have_placed_the_rows_the_ids_decide(
    note: Mark, batches: tuple[Covered, ...]
) -> None:
    """They may have fallen into other ClickHouse partitions than they would now."""
    assert mend(committed(note), coverage(*batches)).by_ids


# --- a log that has left ------------------------------------------------------------------------


def test_of_a_range_that_left_the_log_in_part_the_rest_is_read_and_the_loss_is_told() -> None:
    found = of(low=7)
    assert (found.first, found.end, found.lost) == (0, 20, (0, 7))
    assert found.segments == (Segment(7, 20, NONE, touched=False),)


def test_what_is_whole_is_not_lost_when_it_leaves_the_log() -> None:
    found = of(covered(0, 10), low=7)
    assert (found.lost, found.segments) == (None, (Segment(10, 20, NONE, touched=False),))


def test_what_landed_in_part_and_left_the_log_is_lost() -> None:
    found = of(batch(0, 5, JANUARY, JANUARY, 2), batch(5, 10, JANUARY, JANUARY, 2), low=7)
    assert found.lost == (0, 7)
    assert found.segments[0] == Segment(7, 10, JANUARY, touched=True)
    assert found.rebuild == JANUARY


def test_all_of_it_may_have_left_the_log() -> None:
    found = of(low=25)
    assert (found.end, found.lost, found.segments) == (25, (0, 25), ())


def test_after_a_foreign_commit_the_mend_begins_at_the_logs_start() -> None:
    found = mend(Commit(50, None, 7, 100), coverage(covered(5, 12, at=NOW), covered(14, 16)))
    assert (found.first, found.end, found.lost) == (7, 16, None)
    assert found.segments == (Segment(12, 14, NONE, touched=True),)


def test_what_ended_before_the_mend_begins_is_not_counted() -> None:
    assert of(covered(0, 10), first=10).segments == (Segment(10, 20, NONE, touched=False),)

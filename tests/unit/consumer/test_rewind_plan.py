"""The step that a rewind takes for each partition: boundaries, what is removed, what is refused."""

from __future__ import annotations

import argparse

import pytest

from consumer.ledger import ROWS_VERSION, Intent, Mark, Note, Open, encode
from consumer.recovery import Commit, Covered
from consumer.rewind import target
from consumer.rewind_plan import Refused, Step, Wanted, decide
from consumer.rewind_words import intended

_ID = "topic-id"


def commit(offset: int, note: Note | None = None, low: int = 0, high: int = 100) -> Commit:
    said = Open(3, ROWS_VERSION, _ID, 1) if note is None else note
    return Commit(offset, encode(offset, said), low, high)


def foreign(low: int = 0, high: int = 100, offset: int | None = None) -> Commit:
    return Commit(offset, None, low, high)


def intent(first: int, end: int, epoch: int = 3) -> Intent:
    return Intent(first, end, 1, "0" * 16, epoch, ROWS_VERSION, _ID, 1, 1)


def mark(first: int, end: int, epoch: int = 3) -> Mark:
    return Mark(first, end, epoch, ROWS_VERSION, _ID, 1, 1)


def batch(first: int, end: int, epoch: int = 0, month: str = "202611") -> Covered:
    months = frozenset({month})
    return Covered(first, end, epoch, months, months, 1, listed_rows=end - first)


def step(at: Commit, to: int, *batches: Covered, exact: bool = True) -> Step:
    def read(offset: int) -> list[Covered]:
        return [b for b in batches if b.end > offset]

    return decide(0, at, _ID, Wanted(to, exact), read)


TILES = tuple(batch(first, first + 10) for first in range(0, 90, 10))


def test_back_to_a_boundary_removes_what_follows() -> None:
    found = step(commit(90), 70, *TILES)
    assert (found.target, found.end, found.removed) == (70, 90, TILES[7:])
    assert (found.epoch, found.commit, found.rows) == (4, 90, 20)
    assert not found.moved
    assert not found.quiet
    assert found.skipped is None


def test_the_epoch_is_past_those_of_stamps_and_commit() -> None:
    assert step(commit(90), 80, batch(80, 90, epoch=7)).epoch == 8
    assert step(commit(80, intent(80, 90, epoch=9)), 80).epoch == 10


def test_into_a_batch_goes_back_to_its_beginning_over_every_overlap() -> None:
    found = step(commit(90), 75, *TILES)
    assert found.target == 70
    assert "75 lies inside the batch [70, 80)" in found.moved
    found = step(commit(90), 75, *TILES, batch(65, 72, epoch=1))
    assert found.target == 60
    assert found.removed[0].first == 60


@pytest.mark.parametrize("note", [intent(80, 95), mark(80, 95)])
def test_what_is_open_is_one_with_what_may_have_landed_of_it(note: Note) -> None:
    inside = step(commit(80, note), 85, *TILES[:8], batch(80, 95))
    assert (inside.target, inside.end) == (80, 95)
    before = step(commit(80, note), 70, *TILES[:8])
    assert (before.target, before.end) == (70, 95), "the mark covers what may still be unseen"
    with pytest.raises(Refused, match=r"\[80, 95\) is open.*start a consumer once"):
        step(commit(80, note), 95)


def test_forward_skips_and_takes_nothing_out() -> None:
    found = step(commit(90), 100, *TILES)
    assert (found.skipped, found.removed, found.target) == ((90, 100), (), 100)
    assert found.quiet
    assert list(intended([found])) == [
        "partition 0: from 90, to 100: the records of [90, 100) are SKIPPED",
        "if Kafka forgets the group's commits (offsets.retention.minutes), what was skipped is "
        "read after all",
    ]


def test_forward_over_what_landed_past_the_commit_is_refused() -> None:
    with pytest.raises(Refused, match=r"\[50, 90\) has landed.*rewind to 50 or before"):
        step(commit(50), 90, *TILES[5:])
    with pytest.raises(Refused, match=r"\[0, 90\) has landed"):
        step(foreign(), 90, *TILES)
    with pytest.raises(Refused, match="has landed"):
        step(foreign(offset=40), 40, *TILES)


def test_without_a_commit_reading_begins_elsewhere() -> None:
    found = step(foreign(), 60)
    assert (found.commit, found.target, found.skipped) == (None, 60, (0, 60))
    assert not found.quiet, "somebody's insert may be under way"
    assert step(foreign(high=0), 0).quiet


def test_what_left_the_log_is_lost_and_not_skipped() -> None:
    found = step(commit(10, low=30), 50)
    assert (found.lost, found.skipped) == ((10, 30), (30, 50))
    found = step(commit(10, low=30), 30)
    assert (found.lost, found.skipped) == ((10, 30), None)
    assert any("stays lost" in text for text in intended([found]))


@pytest.mark.parametrize("to", [19, 101])
def test_beyond_the_ends_of_the_log_is_refused_and_names_them(to: int) -> None:
    with pytest.raises(Refused, match=rf"{to} is not in the log, which has \[20, 100\)"):
        step(commit(90, low=20), to, *TILES)


def test_a_batch_whose_beginning_left_the_log_stays() -> None:
    at = commit(90, low=25)
    with pytest.raises(Refused, match="choose 30"):
        step(at, 27, *TILES)
    found = step(at, 25, *TILES, exact=False)
    assert (found.target, found.removed) == (30, TILES[3:])
    assert "stays as it is" in found.moved
    with pytest.raises(Refused, match="past the log's end"):
        step(commit(90, low=85, high=88), 86, *TILES, exact=False)


def test_rows_past_the_end_of_a_log_that_was_cut_are_told() -> None:
    found = step(commit(90, high=75), 70, *TILES)
    assert found.gone == 20
    assert any("do NOT come back" in text for text in intended([found]))


def test_the_same_place_with_nothing_after_it_is_nothing_to_do() -> None:
    assert step(commit(90), 90, *TILES).idle
    assert not step(commit(80), 80, *TILES).idle, "something landed past the commit"
    assert not step(commit(90, intent(90, 95)), 90, *TILES).idle
    assert not step(foreign(), 0).idle


def test_what_is_said_sums_up_what_is_removed() -> None:
    other = batch(80, 90, month="202612")
    lines = list(intended([step(commit(90), 70, *TILES[:8], other)]))
    assert lines == [
        "partition 0: from 90, to 70: 2 batches of [70, 90), 20 rows in 2 ClickHouse partitions, "
        "are removed, and ingested again",
        "removed in all: 20 rows; rebuilt: the views of 2 ClickHouse partitions, 202611, "
        "202612. Rows that were erased from them come back with the log's records",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0),
        ("999999999999", 999_999_999_999),
        ("1763856000000", (1_763_856_000_000,)),
        ("2025-11-23T00:00:00Z", (1_763_856_000_000,)),
        ("2025-11-23T01:00:00+01:00", (1_763_856_000_000,)),
        ("earliest", "earliest"),
        ("latest", "latest"),
    ],
)
def test_a_target(text: str, expected: object) -> None:
    assert target(text) == expected


@pytest.mark.parametrize("text", ["", "-1", "first", "1.5", "2025-13-01"])
def test_no_target(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="earliest nor latest"):
        target(text)


@pytest.mark.parametrize(
    "text",
    ["9" * 20, "9" * 5000, "253402300800000", "1969-12-31T23:59:59.999Z", "9999-12-31T23:00-02:00"],
)
def test_a_time_of_which_kafka_cannot_be_asked(text: str) -> None:
    """-1 and -2 are no times there but the log's end and its start."""
    with pytest.raises(argparse.ArgumentTypeError, match="no time from 1970 to 9999"):
        target(text)

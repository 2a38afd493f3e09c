"""Which records of rewinds are believed, and what a cut-off rewind leaves to be recorded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from consumer.ledger import Mark, Note, Open, encode
from consumer.recovery import Commit
from consumer.rewind_plan import Step
from consumer.rewind_record import READ_AGAIN, REMOVED, SKIPPED, TO_SKIP, Record, Row, believed
from tests.unit.consumer.test_rewind_plan import batch

_ID, _NOW_MS = "topic-id", 5_000
_PASSED_OVER = Row(10, 30, 2, TO_SKIP, 1_000)


@pytest.mark.parametrize(
    ("written", "so"),
    [
        ([(10, 30, TO_SKIP)], []),
        ([(10, 30, TO_SKIP), (10, 30, SKIPPED)], [(10, 30, SKIPPED)]),
        ([(10, 30, SKIPPED), (20, 40, READ_AGAIN)], [(10, 20, SKIPPED)]),
        ([(10, 30, SKIPPED), (5, 40, READ_AGAIN)], []),
        ([(10, 30, SKIPPED), (30, 40, READ_AGAIN)], [(10, 30, SKIPPED)]),
        ([(0, 40, READ_AGAIN), (10, 30, SKIPPED)], [(10, 30, SKIPPED)]),
        ([(10, 30, REMOVED), (0, 40, READ_AGAIN)], [(10, 30, REMOVED)]),
        ([(20, 30, SKIPPED), (0, 10, SKIPPED)], [(0, 10, SKIPPED), (20, 30, SKIPPED)]),
    ],
)
def test_what_is_believed(
    written: Sequence[tuple[int, int, str]], so: Sequence[tuple[int, int, str]]
) -> None:
    rows = [Row(first, end, 1, what) for first, end, what in written]
    assert [(row.first, row.end, row.what) for row in believed(rows, 1)] == so


_SKIP, _AGAIN = Row(10, 30, 1, SKIPPED), Row(20, 40, 2, READ_AGAIN)


@pytest.mark.parametrize(
    ("written", "seen", "end"),
    [
        ([], 1, 30),  # killed before its mark
        ([], 2, 20),
        ([], 5, 20),
        ([Row(20, 40, 2, REMOVED)], 1, 20),
        ([Row(60, 70, 2, SKIPPED)], -1, 20),
        ([Row(50, 60, 2, READ_AGAIN), Row(50, 60, 2, REMOVED)], 2, 30),  # run again, from 50 on
        ([Row(25, 40, 2, READ_AGAIN)], 2, 25),
        ([Row(50, 60, 3, READ_AGAIN)], 2, 20),
        ([Row(50, 60, 3, READ_AGAIN), Row(50, 60, 3, REMOVED)], 1, 30),
    ],
)
def test_what_was_to_be_read_again_counts_once_its_epoch_is_seen(
    written: Sequence[Row], seen: int, end: int
) -> None:
    assert believed([_SKIP, _AGAIN, *written], seen)[0] == _SKIP._replace(end=end)


class FakeDatabase:
    """The rows of `rewinds` that are there; what is written is kept as text."""

    name = "penstock"

    def __init__(self, rows: Mapping[int, Sequence[Row]]) -> None:
        self._rows = rows
        self.written: list[str] = []

    def ask(self, query: str, **_: Any) -> list[list[object]]:
        assert "rewinds" in query
        return [[partition, *row] for partition, rows in self._rows.items() for row in rows]

    def do(self, statement: str, **_: Any) -> None:
        self.written.append(statement.partition(" VALUES ")[2])

    def now_ms(self) -> int:
        return _NOW_MS

    def table(self, name: str) -> str:
        return name


def recorded(rows: Mapping[int, Sequence[Row]]) -> tuple[Record, list[str]]:
    database = FakeDatabase(rows)
    return Record(database, _ID, "events"), database.written  # type: ignore[arg-type]


def said(offset: int, note: Note) -> Commit:
    return Commit(offset, encode(offset, note), 0, 100)


def opened(epoch: int = 2, time_ms: int = 1_000, topic_id: str = _ID) -> Open:
    return Open(epoch, 1, topic_id, time_ms)


def test_a_rewind_that_was_cut_off_after_its_commit_is_finished() -> None:
    record, written = recorded({0: [_PASSED_OVER]})
    assert record.finish({0: said(30, opened())}) == [(0, 10, 30)]
    assert written == [
        "('topic-id', 'events', 0, 10, 30, 2, 'skipped', fromUnixTimestamp64Milli(5000, 'UTC'))"
    ]


@pytest.mark.parametrize(
    "commit",
    [
        said(20, opened()),
        said(30, opened(epoch=3)),
        said(30, opened(time_ms=1_001)),
        said(30, opened(topic_id="another")),
        said(30, Mark(30, 40, 2, 1, _ID, 1_000, 1_000)),
        Commit(30, None, 0, 100),
    ],
    ids=["not there", "another epoch", "a consumer's", "another topic", "a mark", "foreign"],
)
def test_a_commit_that_is_not_that_rewinds_own_says_nothing(commit: Commit) -> None:
    record, written = recorded({0: [_PASSED_OVER], 1: [_PASSED_OVER]})
    assert (record.finish({0: commit}), written) == ([], [])


def test_what_is_recorded_already_is_not_recorded_again() -> None:
    record, written = recorded({0: [_PASSED_OVER, _PASSED_OVER._replace(what=SKIPPED)]})
    assert (record.finish({0: said(30, opened())}), written) == ([], [])


def test_what_was_skipped_before_is_so_again_where_nothing_was_done() -> None:
    """Members that came in between refused it."""
    before = [Row(10, 30, 2, SKIPPED, 1_000), Row(40, 60, 3, SKIPPED, 2_000)]
    record, written = recorded({0: before})
    step = Step(0, 90, 50, 90, 4, removed=(batch(50, 90),))
    assert record.intend([step]) == _NOW_MS
    record.not_begun()
    assert [each.split(", from")[0] for each in written] == [
        "('topic-id', 'events', 0, 50, 90, 4, 'read again'",
        "('topic-id', 'events', 0, 40, 60, 3, 'skipped'",
    ]

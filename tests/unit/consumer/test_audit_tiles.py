"""How faults are told from what is right, on parts that are written down by hand."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence

import pytest

from consumer.audit_report import Bar, Finding, Verdict
from consumer.audit_run import Part
from consumer.audit_tables import joined
from consumer.audit_tiles import Fault, Kind, Walk

OCTOBER, NOVEMBER = "202610", "202611"


def part(
    first: int,
    end: int,
    where: str = OCTOBER,
    *,
    epoch: int = 0,
    expected: int | None = None,
    rows: int | None = None,
    times: int = 1,
    stamped: int | None = None,
    landed_ms: int = 0,
) -> Part:
    """A part that is whole unless something else is said: as many rows as offsets."""
    rows = end - first if rows is None else rows
    expected = end - first if expected is None else expected
    stamped = rows if stamped is None else stamped
    return Part(first, end, epoch, where, expected, rows, times, landed_ms, stamped)


def faults(
    parts: Iterable[Part],
    start: int | None = None,
    limit: int | None = None,
    quiet_ms: int | None = None,
) -> list[Fault]:
    walk = Walk("id", 3, start, limit, quiet_ms)
    found = [fault for one in parts for fault in walk.take(one)]
    return [*found, *walk.finish()]


def short(found: Sequence[Fault]) -> list[tuple[Kind, int, int]]:
    return [(fault.kind, fault.first, fault.end) for fault in found]


def test_tiles_are_no_fault() -> None:
    parts = [part(0, 10), part(10, 20), part(20, 30)]
    assert faults(parts, start=0, limit=30) == []
    walk = Walk("id", 3, 0, 30)
    for one in parts:
        assert list(walk.take(one)) == []
    assert list(walk.finish()) == []
    assert (walk.batches, walk.rows, walk.first, walk.reach, walk.in_flight) == (3, 30, 0, 30, 0)


def test_a_batch_over_two_clickhouse_partitions_is_one() -> None:
    parts = [
        part(0, 10, OCTOBER, expected=10, rows=4),
        part(0, 10, NOVEMBER, expected=10, rows=6),
    ]
    walk = Walk("id", 3, 0, 10)
    assert [f for one in parts for f in walk.take(one)] == []
    assert list(walk.finish()) == []
    assert (walk.batches, walk.rows) == (1, 10)


def test_a_batch_of_which_nobody_knows_how_much_it_announced() -> None:
    """Its lines were written from its rows. What landed over it later is what it lacked."""
    unknown = part(0, 10, OCTOBER, expected=0, rows=4)
    assert short(faults([unknown])) == [(Kind.UNKNOWN, 0, 10)]
    assert short(faults([unknown, part(10, 20)])) == [(Kind.UNKNOWN, 0, 10)]
    assert short(faults([unknown], limit=5)) == [], "it is in flight"
    rest = part(0, 10, NOVEMBER, epoch=1, expected=6, rows=6)
    assert faults([unknown, rest]) == []
    pieces = [part(0, 4, NOVEMBER, epoch=2), unknown, part(4, 12, NOVEMBER, epoch=1)]
    assert faults(pieces) == []
    for one in (
        [unknown, rest._replace(expected_rows=0)],  # that is not known either
        [unknown, rest._replace(first=1)],
        [rest._replace(end=9), unknown],
        [part(0, 4, NOVEMBER, epoch=1), unknown, part(5, 10, NOVEMBER, epoch=1)],
    ):
        assert (Kind.UNKNOWN, 0, 10) in short(faults(one))
    earlier = part(0, 10, OCTOBER, expected=6, rows=6)
    later = part(0, 10, NOVEMBER, epoch=1, expected=0, rows=4)
    assert short(faults([earlier, later])) == [(Kind.UNKNOWN, 0, 10)]
    # one part of it knows
    assert faults([unknown, part(0, 10, NOVEMBER, expected=10, rows=6)]) == []
    assert short(faults([unknown, part(0, 10, NOVEMBER, expected=11, rows=6)])) == [
        (Kind.SHORT, 0, 10)
    ]


@pytest.mark.parametrize(
    ("start", "limit", "expected"),
    [
        (None, None, [(10, 20)]),
        (0, None, [(0, 5), (10, 20)]),
        (0, 40, [(0, 5), (10, 20), (30, 40)]),
        (7, 30, [(10, 20)]),  # what was trimmed has landed before
        (None, 20, [(10, 20)]),
        (None, 15, [(10, 15)]),
    ],
)
def test_gaps(start: int | None, limit: int | None, expected: list[tuple[int, int]]) -> None:
    found = faults([part(5, 10), part(20, 30)], start, limit)
    assert [(f.first, f.end) for f in found] == expected
    assert all(f.kind is Kind.GAP and f.rows == f.end - f.first for f in found)


def test_nothing_landed_up_to_the_commit() -> None:
    assert short(faults([], start=5, limit=30)) == [(Kind.GAP, 5, 30)]
    assert faults([], start=30, limit=30) == []
    assert faults([]) == []


def test_missing_rows_that_came_under_other_epochs_and_ranges() -> None:
    """A batch that landed in one ClickHouse partition, mended in two pieces in the other."""
    parts = [
        part(0, 4, NOVEMBER, epoch=1, expected=2, rows=2),
        part(0, 10, OCTOBER, expected=10, rows=6),
        part(4, 10, NOVEMBER, epoch=1, expected=2, rows=2),
    ]
    assert faults(parts) == []
    assert short(faults(parts[:2])) == [(Kind.SHORT, 0, 10)]
    assert faults(parts[:2])[0].rows == 2


def test_an_overlap_is_one_only_within_a_clickhouse_partition() -> None:
    there = [part(0, 10, OCTOBER, expected=16, rows=10), part(4, 10, NOVEMBER, epoch=1)]
    assert not [f for f in faults(there) if f.kind is Kind.OVERLAP]
    (found,) = faults([part(0, 10, landed_ms=5), part(4, 12, epoch=1, landed_ms=9)])
    assert (found.kind, found.first, found.end) == (Kind.OVERLAP, 4, 10)
    assert (found.clickhouse_partition, found.epochs, found.landed_ms) == (OCTOBER, (0, 1), 9)


def test_a_whole_range_again_is_one_finding() -> None:
    parts = sorted(
        [part(n, n + 10) for n in range(0, 1000, 10)]
        + [part(n, n + 10, epoch=1) for n in range(5, 990, 10)]
    )
    (found,) = faults(parts)
    assert (found.kind, found.first, found.end) == (Kind.OVERLAP, 5, 995)
    assert "pairs of parts" in found.what


def test_rows_that_are_under_another_epoch_are_not_missing() -> None:
    gone = part(0, 10, stamped=0)
    found = faults([gone, part(0, 10, epoch=1)])
    assert short(found) == [(Kind.OVERLAP, 0, 10)]
    assert short(faults([gone])) == [(Kind.NO_ROWS, 0, 10)]
    found = faults([gone, part(0, 5, epoch=1)])
    assert (Kind.NO_ROWS, 0, 10) in short(found), "half of it is not all of it"


def test_rows_that_the_ledger_does_not_list() -> None:
    unlisted = part(10, 20, times=0, rows=0, expected=0, stamped=10)
    assert short(faults([part(0, 10), unlisted])) == [(Kind.NO_LEDGER, 10, 20)]


def test_doubles() -> None:
    (found,) = faults([part(0, 10, times=3)])
    assert (found.kind, found.rows) == (Kind.DOUBLE, 20)
    (found,) = faults([part(0, 10, stamped=20)])
    assert (found.kind, found.rows) == (Kind.DOUBLE, 10)


def test_fewer_stamps_than_rows_is_no_fault() -> None:
    """Rows collapse, expire and are erased: one of them is enough."""
    assert faults([part(0, 10, stamped=1)]) == []


def test_long_and_short() -> None:
    assert short(faults([part(0, 10, expected=9)])) == [(Kind.LONG, 0, 10)]
    assert short(faults([part(0, 10, expected=11)])) == [(Kind.SHORT, 0, 10)]


def test_a_range_that_landed_whole_twice_in_different_clickhouse_partitions_is_long() -> None:
    """It overlaps nowhere. What a mend inserts only fills up what was announced."""
    again = [part(0, 10), part(0, 10, NOVEMBER, epoch=1, landed_ms=7), part(10, 20)]
    (found,) = faults(again)
    assert (found.kind, found.first, found.end, found.epochs) == (Kind.LONG, 0, 10, (0, 1))
    assert (found.rows, found.landed_ms) == (10, 7)
    both = [*again[:2], part(0, 12, "202609", epoch=2), *(
        part(10, 20, where, epoch=epoch) for epoch, where in ((0, OCTOBER), (1, NOVEMBER))
    )]  # fmt: skip
    (found,) = faults(both)
    assert (found.kind, found.first, found.end, found.rows) == (Kind.LONG, 0, 20, 20)
    mend = part(0, 10, NOVEMBER, epoch=1, expected=4, rows=4)
    assert faults([part(0, 10, rows=6), mend]) == []
    assert short(faults([part(0, 10, rows=6), mend._replace(rows=5, stamped=5)])) == [
        (Kind.LONG, 0, 10)
    ]


def test_ranges_that_overlap_in_part_are_not_long() -> None:
    assert faults([part(0, 10), part(0, 12, NOVEMBER, epoch=1)]) == []


@pytest.mark.parametrize("unknown", [{"expected": 0}, {"times": 0, "expected": 0}])
def test_what_nobody_announced_is_not_long(unknown: dict[str, int]) -> None:
    found = faults([part(0, 10), part(0, 10, NOVEMBER, epoch=1, **unknown)])
    assert Kind.LONG not in {fault.kind for fault in found}


def test_what_is_past_the_commit_is_in_flight() -> None:
    flying = part(10, 20, expected=10, rows=3, stamped=0)
    assert faults([part(0, 10), flying], start=0, limit=10) == []
    assert short(faults([part(0, 10), flying], start=0, limit=20)) == [
        (Kind.SHORT, 10, 20),
        (Kind.NO_ROWS, 10, 20),
    ]


def test_without_a_commit_what_landed_just_now_is_in_flight() -> None:
    parts = [part(0, 10, landed_ms=1), part(10, 20, expected=10, rows=3, landed_ms=100)]
    assert faults(parts, quiet_ms=99) == []
    assert short(faults(parts, quiet_ms=100)) == [(Kind.SHORT, 10, 20)]


def test_memory_does_not_grow_with_the_ledger() -> None:
    walk = Walk("id", 3, 0, None)
    for first in range(0, 100_000, 10):
        assert list(walk.take(part(first, first + 10))) == []
        assert len(walk._recent) == 1


def test_two_streams_are_joined_in_their_order() -> None:
    ledger = [["a", 0, 0, 10, 0, OCTOBER, 10, 10, 1, 77], ["b", 0, 0, 10, 0, OCTOBER, 5, 5, 2, 78]]
    stamps = [["", 0, 0, 0, 0, NOVEMBER, 4], ["a", 0, 0, 10, 0, OCTOBER, 9],
              ["a", 0, 10, 20, 0, OCTOBER, 8]]  # fmt: skip
    assert list(joined(ledger, stamps)) == [
        ("", 0, Part(0, 0, 0, NOVEMBER, 0, 0, 0, 0, 4)),
        ("a", 0, Part(0, 10, 0, OCTOBER, 10, 10, 1, 77, 9)),
        ("a", 0, Part(10, 20, 0, OCTOBER, 0, 0, 0, 0, 8)),
        ("b", 0, Part(0, 10, 0, OCTOBER, 5, 5, 2, 78, 0)),
    ]


def test_a_verdict_shows_a_bounded_number_and_counts_all() -> None:
    verdict = Verdict("id", 0, "")
    for number in range(1000):
        fault = Fault(Kind.GAP, "id", 0, number, number + 1, "", (), 1, 0, "")
        verdict.add(Finding(fault, "a cause" if number % 2 else None))
    assert verdict.findings == {"gap": 1000}
    assert verdict.unexplained == {"gap": 500}
    assert len(verdict.shown) <= 400
    assert verdict.text == "UNEXPLAINED: 500 x gap"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_bar_on_a_terminal_and_nothing_elsewhere() -> None:
    for out, shown in ((Terminal(), True), (io.StringIO(), False)):
        bar = Bar(out)
        bar.begin(1024)
        for _ in range(1024):
            bar.step()
        bar.close()
        assert ("0% of 1,024" in out.getvalue()) is shown
        assert ("25% of 1,024" in out.getvalue()) is shown
        assert bool(out.getvalue()) is shown
        assert not out.getvalue().rpartition("\r")[2], "the line is cleared at the end"

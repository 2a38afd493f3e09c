"""Which letters count for a fault, and what of it they explain."""

from __future__ import annotations

import pytest

from consumer.audit_letters import Letter, Letters, Places
from consumer.audit_tiles import Fault, Kind
from consumer.rewind_record import READ_AGAIN, REMOVED, Row

_AT_MS = 1_000


def fault(first: int = 0, end: int = 10, epochs: tuple[int, ...] = (1,)) -> Fault:
    return Fault(Kind.SHORT, "id", 3, first, end, "", epochs, 5, 0, "")


def letter(offset: int, line: int = 0, *, in_table: bool = False, at_ms: int = _AT_MS) -> Letter:
    return Letter("id", 3, offset, line, in_table, at_ms)


def test_each_place_in_the_range_counts_once() -> None:
    letters = Letters(
        [
            *(letter(n) for n in (10, 9, 0, 9, 12)),
            letter(9, 1),
            letter(4)._replace(partition=2),
            letter(4)._replace(topic_id="another"),
        ]
    )
    assert letters.within(fault(), []).aside == {(0, 0), (9, 0), (9, 1)}
    assert letters.within(fault(2, 9), []).aside == set()
    assert Letters([]).within(fault(), []).aside == set()


def test_a_line_that_is_in_the_table_was_not_set_aside() -> None:
    found = Letters([letter(4), letter(4, in_table=True), letter(5)]).within(fault(), [])
    assert found == Places(frozenset({(5, 0)}), frozenset({(4, 0)}))


@pytest.mark.parametrize(
    ("what", "at_ms", "epochs", "left"),
    [
        (REMOVED, _AT_MS + 1, (1,), {7}),
        (REMOVED, _AT_MS + 1, (0, 1), {7}),  # its lines in the ledger are still there
        (REMOVED, _AT_MS, (1,), {4, 7}),  # the letter is a newer one
        (READ_AGAIN, _AT_MS + 1, (1,), {7}),
        (READ_AGAIN, _AT_MS + 1, (), {7}),
        (READ_AGAIN, _AT_MS + 1, (0,), {4, 7}),  # it was not taken out
    ],
)
@pytest.mark.parametrize("in_table", [False, True])
def test_a_letter_of_a_line_that_was_read_again_since_says_nothing(
    what: str, at_ms: int, epochs: tuple[int, ...], left: set[int], in_table: bool
) -> None:
    letters = Letters([letter(4, in_table=in_table), letter(7, in_table=in_table)])
    found = letters.within(fault(epochs=epochs), [Row(2, 7, 1, what, at_ms)])
    assert {offset for offset, _ in found.in_table | found.aside} == left

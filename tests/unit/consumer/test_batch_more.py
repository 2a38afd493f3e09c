"""Lines as people write them, with spaces, and records that stand side by side."""

from __future__ import annotations

import pytest

from consumer.batch import Batch, Filling, Records
from consumer.ndjson import join

SPACED = [b'{"name": "a b"}\n{"name":\t"c"}', b'{"name": "d"}', b'{"name": "e f g"}']


def filled(*values: bytes | None) -> Batch:
    filling = Filling(5)
    filling.add(Records(range(5, 5 + len(values)), values, 5 + len(values), 7), 0.0)
    return filling.close()


def test_only_line_feeds_part_lines() -> None:
    made = filled(*SPACED)
    assert list(made.lines()) == b"\n".join(SPACED).split(b"\n")
    assert made.rows == 4


def test_a_tombstone_changes_no_other_line() -> None:
    text, rows, sizes, _ = join([SPACED[0], None, b"\n" + SPACED[1] + b"\n", SPACED[2]])
    assert text == b"\n".join(SPACED)
    assert rows == 4
    assert list(sizes) == [len(SPACED[0]), 0, len(SPACED[1]), len(SPACED[2])]


def test_every_line_with_spaces_leads_back_to_its_record() -> None:
    one, two = SPACED[0].split(b"\n")
    assert list(filled(*SPACED).origins()) == [
        (5, 0, one),
        (5, 1, two),
        (6, 0, SPACED[1]),
        (7, 0, SPACED[2]),
    ]


def test_a_choice_of_lines_is_of_all_of_them() -> None:
    with pytest.raises(ValueError, match="zip"):
        filled(*SPACED).only([True, False])


def test_both_sides_of_a_split_keep_the_append_time() -> None:
    records = Records(range(4), [b"a", b"b", b"c", b"d"], 4, 77)
    before, rest = records.split(2)
    assert rest is not None
    assert (before.append_ms, rest.append_ms) == (77, 77)

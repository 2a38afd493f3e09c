"""A batch is the NDJSON of a range of offsets, and a function of the log alone."""

from __future__ import annotations

import pytest
import xxhash

from consumer.batch import Filling, Records, join


def filled(*fetches: Records, first: int = 0) -> Filling:
    filling = Filling(first)
    for at, records in enumerate(fetches):
        filling.add(records, float(at))
    return filling


def test_values_are_joined_by_one_line_feed() -> None:
    assert join([b"a", b"b", b"c"]) == (b"a\nb\nc", 3, [1, 1, 1])


def test_a_pack_of_several_lines_counts_as_so_many_rows() -> None:
    assert join([b"a\nb", b"c"]) == (b"a\nb\nc", 3, [3, 1])


@pytest.mark.parametrize(
    "values",
    [
        [b"a", None, b"b"],  # a tombstone
        [None, b"a", b"b", None],
        [b"a", b"", b"b"],  # an empty record
        [b"", b"a", b"b"],
        [b"a", b"b", b""],
        [b"a\n", b"b\n"],  # a line feed at the end, as other producers write it
        [b"\na", b"\nb"],
        [b"a\n\n\nb"],  # blank lines within a pack
        [b"a", b"\n", b"b"],
    ],
)
def test_tombstones_and_blank_lines_are_skipped(values: list[bytes | None]) -> None:
    text, rows, sizes = join(values)
    assert (text, rows) == (b"a\nb", 2)
    assert [size for size in sizes if size] in ([1, 1], [3])


@pytest.mark.parametrize("values", [[], [None], [b""], [b"\n"], [None, b"\n\n", b""]])
def test_without_a_line_there_is_no_text(values: list[bytes | None]) -> None:
    assert join(values) == (b"", 0, [0] * len(values))


def test_a_batch_is_its_range_its_rows_and_the_digest_of_its_text() -> None:
    batch = filled(
        Records(range(5, 7), [b"a", b"b"], 7, 1700), Records([8], [b"c"], 9, 1800), first=5
    ).close()

    assert (batch.first, batch.end, batch.rows, batch.size_bytes) == (5, 9, 3, 4)
    assert b"".join(batch.body()) == b"a\nb\nc"
    assert batch.digest == xxhash.xxh3_64(b"a\nb\nc").hexdigest()
    assert list(batch.lines()) == [b"a", b"b", b"c"]
    assert batch.oldest_append_ms == 1700


def test_records_without_content_move_the_position_only() -> None:
    filling = filled(Records(range(2), [None, b"\n"], 2, 1700))

    assert not filling.empty
    batch = filling.close()
    assert (batch.first, batch.end, batch.rows, batch.chunks) == (0, 2, 0, ())


def test_position_goes_past_markers_that_follow_the_last_record() -> None:
    assert filled(Records([0], [b"a"], 4, 1700)).close().end == 4


def test_nothing_read_is_empty() -> None:
    filling = Filling(7)
    assert filling.empty
    assert (filling.position, filling.oldest_append_ms) == (7, 0)


def test_age_counts_from_the_first_record() -> None:
    filling = Filling(0)
    filling.add(Records([0], [b"a"], 1, 1), 10.0)
    filling.add(Records([1], [b"b"], 2, 2), 20.0)
    assert filling.began_at == 10.0


def test_an_unknown_append_time_gives_way_to_a_known_one() -> None:
    assert filled(Records([0], [b"a"], 1, 0), Records([1], [b"b"], 2, 9)).oldest_append_ms == 9


def test_split_before_the_end_leaves_nothing() -> None:
    records = Records(range(3), [b"a", b"b", b"c"], 3, 5)
    assert records.split(3) == (records, None)


def test_split_within_gives_both_parts() -> None:
    before, rest = Records([0, 1, 4], [b"a", b"b", b"c"], 6, 5).split(4)
    assert (list(before.offsets), list(before.values), before.position) == ([0, 1], [b"a", b"b"], 4)
    assert rest is not None
    assert (list(rest.offsets), list(rest.values), rest.position) == ([4], [b"c"], 6)


def test_split_in_a_hole_ends_there() -> None:
    """A range may end where there is no record: behind a transaction's marker."""
    before, rest = Records([0, 5], [b"a", b"b"], 6, 5).split(3)
    assert (list(before.offsets), before.position) == ([0], 3)
    assert rest is not None
    assert list(rest.offsets) == [5]


def test_split_behind_the_last_record_leaves_the_markers() -> None:
    _, rest = Records([0], [b"a"], 4, 5).split(2)
    assert rest is not None
    assert (list(rest.offsets), rest.position) == ([], 4)

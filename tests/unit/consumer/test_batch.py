"""A batch is the NDJSON of a range of offsets, and a function of the log alone."""

from __future__ import annotations

import pytest
import xxhash

from consumer.batch import Batch, Filling, Letter, Records
from consumer.ndjson import join


def filled(*fetches: Records, first: int = 0) -> Filling:
    filling = Filling(first)
    for at, records in enumerate(fetches):
        filling.add(records, float(at))
    return filling


def test_values_are_joined_by_one_line_feed() -> None:
    assert join([b"a", b"b", b"c"])[:3] == (b"a\nb\nc", 3, [1, 1, 1])


def test_a_pack_of_several_lines_counts_as_so_many_rows() -> None:
    assert join([b"a\nb", b"c"])[:3] == (b"a\nb\nc", 3, [3, 1])


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
    text, rows, sizes = join(values)[:3]
    assert (text, rows) == (b"a\nb", 2)
    assert [size for size in sizes if size] in ([1, 1], [3])


@pytest.mark.parametrize("values", [[], [None], [b""], [b"\n"], [None, b"\n\n", b""]])
def test_without_a_line_there_is_no_text(values: list[bytes | None]) -> None:
    assert join(values)[:3] == (b"", 0, [0] * len(values))


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


# --- back to the records ------------------------------------------------------------------------


def packed() -> Filling:
    """Packs, a tombstone, blank lines and a hole, over two fetches."""
    return filled(
        Records([5, 6, 7], [b"a\nb", None, b"\n\nc\n"], 8, 1), Records([9], [b"d"], 11, 2), first=5
    )


def test_every_line_leads_back_to_its_record() -> None:
    """`line` counts the lines of the record that have content, from 0."""
    assert list(packed().close().origins()) == [
        (5, 0, b"a"), (5, 1, b"b"), (7, 0, b"c"), (9, 0, b"d")
    ]  # fmt: skip


def test_some_of_the_lines_are_a_batch_of_the_same_range() -> None:
    some = packed().close().only([True, False, False, True])
    assert (some.first, some.end, some.rows, some.size_bytes) == (5, 11, 2, 2)
    assert b"".join(some.body()) == b"a\nd"
    assert some.digest == xxhash.xxh3_64(b"a\nd").hexdigest()
    assert some.oldest_append_ms == 1
    assert list(some.origins()) == [(5, 0, b"a"), (9, 0, b"d")]


def test_of_some_of_the_lines_some_may_be_taken_again() -> None:
    some = packed().close().only([True, False, True, True]).only([False, True, True])
    assert list(some.origins()) == [(7, 0, b"c"), (9, 0, b"d")]


def test_none_of_the_lines_is_a_batch_without_text() -> None:
    none = packed().close().only([False] * 4)
    assert (none.first, none.end, none.rows, none.chunks) == (5, 11, 0, ())
    assert list(none.lines()) == []
    assert list(none.origins()) == []


def test_without_its_letters_a_batch_has_the_other_lines() -> None:
    letters = [Letter(5, 1, b"b", "type", ""), Letter(7, 0, b"c", "type", "")]
    rest = packed().close().without(letters)
    assert list(rest.origins()) == [(5, 0, b"a"), (9, 0, b"d")]
    assert packed().close().without([]).rows == 4


def sized(size: int) -> bytes:
    """One object of so many bytes."""
    return b'{"a":"%s"}' % (b"x" * (size - 8))


@pytest.mark.parametrize(
    ("values", "suspect"),
    [
        ([sized(9), sized(9)], False),
        (['{"a":"ü"}'.encode(), sized(9)], False),
        ([sized(9), b'{"a":"\xff"}'], True),
        ([b'{"a":"\xc3', b'\xbc"}'], True),
        ([sized(1 << 20)], False),
        ([sized((1 << 20) + 1)], True),
        ([sized(1 << 19) + b"\n", sized((1 << 19) + 2) + b"\n"], False),
        ([None, b'{"a":"\xff"}\n'], True),
    ],
    ids=["ASCII", "UTF-8", "not UTF-8", "UTF-8 only across two records", "as large as Kafka takes",
         "larger", "large together", "beside a tombstone"],
)  # fmt: skip
def test_what_clickhouse_would_take_and_should_not_makes_a_batch_suspect(
    values: list[bytes | None], suspect: bool
) -> None:
    batch = filled(Records(range(len(values)), values, len(values), 1)).close()
    assert batch.suspect is suspect
    later = Records([len(values)], [sized(9)], len(values) + 1, 1)
    assert filled(Records(range(len(values)), values, len(values), 1), later).close().suspect is (
        suspect
    )


def test_a_suspect_batch_is_looked_through_in_any_part_of_it() -> None:
    batch = filled(Records(range(2), [b"\xff", b"a"], 2, 1)).close()
    assert batch.only([False, True]).suspect


# --- what a line is -----------------------------------------------------------------------------

OBJECT = b'{"a":{"b":"c"},"d":[1]}'


def stands(line: bytes, before: int, behind: int) -> Batch:
    """The line among so many good ones, each a record."""
    values = [*[OBJECT] * before, line, *[OBJECT] * behind]
    return filled(Records(range(len(values)), values, len(values), 1)).close()


PLACES = pytest.mark.parametrize(("before", "behind"), [(0, 0), (0, 1), (2, 0), (2, 3)])


@PLACES
@pytest.mark.parametrize(
    "line",
    [
        OBJECT,
        b'{"a": {"b": "c"}, "d": [1]}',
        b'{ "a" : { "b" : "c" } , "d" : [ 1 ] }',
        b"\t {\t" + OBJECT[1:],
        OBJECT + b"\r",  # each line of a producer that ends lines so
        OBJECT + b" \t \r",
        b'{"a":"} , x","b":"} ]"}',
        b'{"a":"},]","b":[{"c":{}}]}',
        b'{"\\u0061":1}',
    ],
)
def test_one_object_in_a_line_is_not_looked_at(line: bytes, before: int, behind: int) -> None:
    assert not stands(line, before, behind).suspect


@PLACES
@pytest.mark.parametrize(
    "line",
    [
        b"," + OBJECT,
        b", " + OBJECT,
        b"\xef\xbb\xbf" + OBJECT,
        b"\x0c" + OBJECT,
        b"[" + OBJECT + b"]",
        b"[" + OBJECT,
        OBJECT + b"]",
        OBJECT + b",",
        OBJECT + b", ",
        OBJECT + b" ,\r",
        OBJECT + b";",
        OBJECT + b"\x0c",
        OBJECT + b"\x0b",
        OBJECT + b" // x",
        b" \t\r",
        b"\r",
        b"17",
        b"{}",
        b"}",
        OBJECT + OBJECT,
        OBJECT + b" " + OBJECT,
        OBJECT + b"," + OBJECT,
        OBJECT + b", " + OBJECT,
        OBJECT + b" ;, " + OBJECT,
        OBJECT + b";" + OBJECT,
        OBJECT + b"\x0c" + OBJECT,
        OBJECT + b"\r \t" + OBJECT,
        OBJECT + b" " * 99 + OBJECT,
        OBJECT + b"," * 99 + OBJECT,
        b'{"a":[{"b":1},{"c":2}]}',  # good, and not worth more than a look
        b" " * 99 + OBJECT,
    ],
)
def test_a_line_that_may_not_be_one_object_is_looked_at_wherever_it_stands(
    line: bytes, before: int, behind: int
) -> None:
    assert stands(line, before, behind).suspect


@PLACES
@pytest.mark.parametrize(
    "value",
    [
        b'{\n"a":1\n}',
        b'{"a":1,\n"b":{"c":2}}',
        b'{"a":{"b":1}\n,"c":2}',
        b'{"a":"x}\n{"}',  # a text that goes on over a line feed, as ClickHouse allows
        b'{"a":"x}\n{","b":2}',
        b'{"a":"x}\n{" ,"b":2}',
        b'{"a":"x}\n{\\",","b":2}',
    ],
)
def test_one_object_over_several_lines_is_looked_at(value: bytes, before: int, behind: int) -> None:
    assert stands(value, before, behind).suspect


@pytest.mark.parametrize("at", [0, 1, 2999, 3000, 5998, 5999])
def test_no_line_of_many_is_passed_over(at: int) -> None:
    """More text than is looked at together, in fetches of different sizes."""
    values: list[bytes | None] = [sized(200)] * 6000
    sizes = [1, 500, 2499, 3000]

    def fetched() -> Filling:
        fetches, start = [], 0
        for size in sizes:
            end = start + size
            fetches.append(Records(range(start, end), values[start:end], end, 1))
            start = end
        return filled(*fetches)

    assert not fetched().close().suspect
    values[at] = sized(200) + sized(200)
    assert fetched().close().suspect


@pytest.mark.parametrize("cut", [1 << 16, 1 << 17])
def test_line_feeds_that_stand_side_by_side_are_found_wherever_a_text_is_cut(cut: int) -> None:
    """In a text of more than is looked at together."""
    for size in range(cut - 3, cut + 3):
        values = [sized(size) + b"\n", sized(9)]
        assert join(values)[:3] == (sized(size) + b"\n" + sized(9), 2, [size, 9])
        assert join([sized(size), sized(9)]).rows == 2

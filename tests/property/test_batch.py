"""Count, digest and text of a range are functions of the log alone, however it was fetched."""

from __future__ import annotations

from itertools import pairwise
from unittest.mock import patch

import numpy as np
import xxhash
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from consumer import ndjson
from consumer.batch import Batch, Filling, Letter, Records
from consumer.ndjson import join, one_object_each

LINES = st.sampled_from([b"a", b"bb", b'{"n":1}', b"", b"\n", b"\r", "\u00fc".encode()])
VALUES = st.one_of(st.none(), st.lists(LINES, max_size=4).map(b"\n".join))
Log = list[tuple[int, bytes | None]]


@st.composite
def logs(draw: st.DrawFn) -> Log:
    """Records with holes between their offsets, from an offset that is not always 0."""
    values = draw(st.lists(VALUES, max_size=12))
    gaps = draw(st.lists(st.integers(1, 3), min_size=len(values), max_size=len(values)))
    offset, log = draw(st.integers(0, 5)), []
    for value, gap in zip(values, gaps, strict=True):
        log.append((offset, value))
        offset += gap
    return log


def lines_of(log: Log) -> list[bytes]:
    """The rows of a log, said once more and plainly."""
    return [line for _, value in log if value for line in value.split(b"\n") if line]


def fetched(log: Log, end: int, cuts: list[int]) -> list[Records]:
    """The log in fetches that end at these indices; the last one ends at `end`."""
    bounds = sorted({0, len(log), *(cut % (len(log) + 1) for cut in cuts)})
    fetches = []
    for start, stop in pairwise(bounds):
        part = log[start:stop]
        position = end if stop == len(log) else part[-1][0] + 1
        fetches.append(Records([o for o, _ in part], [v for _, v in part], position, 1))
    return fetches or [Records([], [], end, 0)]


def filled(first: int, fetches: list[Records]) -> Batch:
    filling = Filling(first)
    for records in fetches:
        filling.add(records, 0.0)
    return filling.close()


CUTS = st.lists(st.integers(0, 20), max_size=6)


@given(logs(), CUTS, CUTS)
@example([(0, b"a"), (1, b""), (2, b"b")], [1], [2])
@example([(0, b"a\n"), (1, b"\nb")], [1], [])
@example([(0, None), (1, b"\n"), (2, b"a")], [1, 2], [])
def test_a_batch_does_not_depend_on_its_fetches(
    log: Log, some: list[int], other: list[int]
) -> None:
    end = log[-1][0] + 2 if log else 9
    one, two = filled(0, fetched(log, end, some)), filled(0, fetched(log, end, other))

    assert (one.first, one.end, one.rows, one.digest) == (two.first, two.end, two.rows, two.digest)
    assert b"".join(one.body()) == b"".join(two.body())


@given(logs(), CUTS)
def test_a_batch_is_the_lines_of_its_log(log: Log, cuts: list[int]) -> None:
    end = log[-1][0] + 1 if log else 9
    batch = filled(0, fetched(log, end, cuts))

    assert b"".join(batch.body()) == b"\n".join(lines_of(log))
    assert list(batch.lines()) == lines_of(log)
    assert batch.rows == len(lines_of(log))


@given(logs(), CUTS, st.data())
def test_some_of_the_lines_are_those_and_keep_their_places(
    log: Log, cuts: list[int], data: st.DataObject
) -> None:
    """Also what is left after lines were taken out twice."""
    batch = filled(0, fetched(log, log[-1][0] + 1 if log else 9, cuts))
    left = list(batch.origins())
    for _ in range(2):
        wanted = data.draw(st.lists(st.booleans(), min_size=len(left), max_size=len(left)))
        out = [Letter(*each, "", "") for each, keep in zip(left, wanted, strict=True) if not keep]
        left = [each for each, keep in zip(left, wanted, strict=True) if keep]
        same, batch = batch.without(out), batch.only(wanted)
        text = b"\n".join([line for _, _, line in left])
        assert same == batch
        assert list(batch.origins()) == left
        assert (batch.rows, b"".join(batch.body())) == (len(left), text)
        assert list(batch.lines()) == [line for _, _, line in left]
        assert batch.digest == xxhash.xxh3_64_hexdigest(text)


@given(st.lists(VALUES, max_size=8))
def test_joined_values_have_no_empty_line(values: list[bytes | None]) -> None:
    text, rows, sizes = join(values)[:3]
    lines = text.split(b"\n") if text else []
    assert b"" not in lines
    assert lines == lines_of(list(enumerate(values)))
    assert rows == len(lines)
    own = [lines_of([(0, value)]) for value in values]
    assert list(sizes) == [len(b"\n".join(each)) for each in own]


PIECES = st.sampled_from(
    [b'{"a":1}', b'{"a":{}}', b'}\n{"a', b'},"b":', b":1}", b'{"', *map(bytes, zip(b'{}",;] \nx'))]
)


@settings(max_examples=1000)
@given(st.lists(PIECES, min_size=1, max_size=12))
@example([b'{"a":1}', b'{"a":1}'])
@example([b'{"a":{}}', b"\n", b'{"a":1}'])
def test_lines_without_white_space_are_seen_as_those_with_it(pieces: list[bytes]) -> None:
    """They are looked over in a way of their own, which has to find the same."""
    text = b"".join(pieces)
    with patch.object(ndjson, "MUCH", 0):
        at_once = join([text])
    assert at_once[:3] == join([text])[:3]
    text = at_once.text
    assume(text and b" " * 7 not in text)
    assert one_object_each(text) == one_object_each(b" " + text)
    assert at_once.objects in (None, one_object_each(text))


@given(st.text("}\n~\x00xé", max_size=90).map(str.encode), st.sampled_from([1, 3, 8]))
def test_braces_and_feeds_are_found_wherever_they_stand(text: bytes, folds: int) -> None:
    with patch.object(ndjson, "_FOLDS", folds):
        braces, feeds = ndjson._braces_and_feeds(np.frombuffer(text, np.uint8))
    assert braces.tolist() == [at for at, byte in enumerate(text) if byte == ord("}")]
    assert feeds == text.count(b"\n")


@given(logs(), st.integers(0, 40), CUTS)
def test_a_split_keeps_every_record_on_its_side(log: Log, end: int, cuts: list[int]) -> None:
    position = log[-1][0] + 2 if log else 3
    for records in fetched(log, position, cuts):
        before, rest = records.split(end)
        assert before.position == min(end, records.position)
        assert all(offset < end for offset in before.offsets)
        assert [*before.offsets, *(rest.offsets if rest else [])] == list(records.offsets)
        assert [*before.values, *(rest.values if rest else [])] == list(records.values)
        assert (rest is None) == (records.position <= end)
        if rest is not None:
            assert rest.position == records.position
            assert all(offset >= end for offset in rest.offsets)

"""What the dead-letter commands make of records, of filters and of texts, without Kafka."""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer import letter_words, letters
from consumer.batch import Letter
from consumer.config import consumer_settings
from consumer.dead_letters import dead_letter_topic, letter_headers, marker_headers
from consumer.ledger import Source
from consumer.letter_index import Filter, Identity, Index, Listed, Marker, Position, Stored
from consumer.letter_topic import read_record
from schemas.settings import load

_SOURCE = Source("cluster", "events", "topic-id", 3)
_LETTER = Letter(17, 2, b"\xff", "invalid_utf8", "at byte 0")
_IDENTITY = Identity("topic-id", 3, 17, 2)


def stored(
    offset: int, line: int = 0, *, in_table: bool = False, at_ms: int = 1_000, value: bytes = b"{}"
) -> Stored:
    identity = Identity("topic-id", 3, offset, line)
    return Stored(identity, "events", "empty", "", at_ms, in_table, (0, offset), value)


def replayed(offset: int, to: int) -> Marker:
    return Marker(
        Identity("topic-id", 3, offset, 0), "replayed", 2_000, Position("topic-id", 3, to)
    )


_indexes: list[Index] = []


@pytest.fixture(autouse=True)
def _close() -> Iterator[None]:
    yield
    while _indexes:
        _indexes.pop().close()


def index_of(*records: Stored | Marker | None) -> Index:
    made = Index()
    _indexes.append(made)
    for record in records:
        made.add(record)
    return made


def chosen(index: Index, among: Filter = Filter()) -> list[Listed]:  # noqa: B008 - it is frozen
    count = index.choose(among)
    found = list(index.chosen())
    assert len(found) == count
    return found


# --- records -------------------------------------------------------------------------------------


def test_the_dead_letter_topic_is_named_after_the_topic() -> None:
    assert dead_letter_topic("events") == "events.dead"


@pytest.mark.parametrize("in_table", [False, True])
def test_a_letter_is_read_as_it_was_written(in_table: bool) -> None:
    letter = Letter(17, 2, b"\xff", "invalid_utf8", "at byte 0", in_table)
    found = read_record(b"\xff", dict(letter_headers(_SOURCE, letter, 5_000)), (1, 7))
    assert found == Stored(
        _IDENTITY, "events", "invalid_utf8", "at byte 0", 5_000, in_table, (1, 7), b"\xff"
    )


def test_a_marker_is_read_as_it_was_written() -> None:
    headers = dict(marker_headers(_SOURCE, 17, 2, "dropped", 6_000))
    assert read_record(None, headers) == Marker(_IDENTITY, "dropped", 6_000)
    headers = dict(marker_headers(_SOURCE, 17, 2, "replayed", 6_000, ("new-id", 3, 99)))
    assert read_record(None, headers) == Marker(
        _IDENTITY, "replayed", 6_000, Position("new-id", 3, 99)
    )


@pytest.mark.parametrize("name", ["partition", "offset", "line", "at"])
@pytest.mark.parametrize("damage", [None, b"", b"x", b"\xff", b"1.5", b"-1", b"9" * 19])
def test_a_record_without_its_headers_is_no_letter(name: str, damage: bytes | None) -> None:
    headers = dict(letter_headers(_SOURCE, _LETTER, 5_000)) | {f"penstock.{name}": damage}
    assert read_record(b"{}", headers) is None
    del headers[f"penstock.{name}"]
    assert read_record(b"{}", headers) is None


def test_a_record_without_a_value_settles_only_if_it_says_so() -> None:
    assert read_record(None, dict(letter_headers(_SOURCE, _LETTER, 5_000))) is None
    assert read_record(None, {}) is None


# --- what follows from them ----------------------------------------------------------------------


def test_a_letter_written_again_is_the_same_letter() -> None:
    found = chosen(index_of(stored(1), stored(1), stored(1, line=1)))
    assert [(each.identity.line, each.copies) for each in found] == [(0, 2), (1, 1)]


def test_a_marker_settles_every_copy_before_and_after_it() -> None:
    index = index_of(replayed(1, to=5), stored(1), stored(2), replayed(2, to=6), stored(2))
    assert chosen(index) == []
    assert [each.marker for each in chosen(index, Filter(settled_too=True))] == [
        replayed(1, to=5),
        replayed(2, to=6),
    ]


def test_of_two_markers_the_first_counts() -> None:
    dropped = Marker(Identity("topic-id", 3, 1, 0), "dropped", 9_000)
    index = index_of(stored(1), replayed(1, to=5), dropped)
    assert [each.marker for each in chosen(index, Filter(settled_too=True))] == [replayed(1, to=5)]


def test_a_letter_that_is_in_the_table_by_any_copy_is_in_the_table() -> None:
    for copies in ((False, True), (True, False)):
        index = index_of(*(stored(1, in_table=in_table) for in_table in copies))
        assert [each.in_table for each in chosen(index)] == [True]
        assert index.leave_in_table() == 1
        assert list(index.chosen()) == []


def test_a_letter_where_a_replay_put_an_event_has_returned() -> None:
    index = index_of(stored(1), replayed(1, to=5), stored(5), replayed(5, to=9), stored(9))
    assert [index.returns(stored(at).identity) for at in (1, 5, 9, 10)] == [0, 1, 2, 0]
    other_topic = Identity("another-id", 3, 5, 0)
    assert index.returns(other_topic) == 0
    assert index.choose(Filter(settled_too=True)) == 3
    assert index.came_back() == 2


def test_forged_markers_that_go_in_a_circle_end() -> None:
    index = index_of(replayed(1, to=2), replayed(2, to=1), replayed(3, to=3), stored(1), stored(3))
    assert index.returns(stored(1).identity) == 1
    assert index.returns(stored(3).identity) == 0
    assert index.choose(Filter(settled_too=True)) == 2
    assert index.came_back() == 1


def test_records_of_others_are_counted() -> None:
    assert index_of(None, stored(1), None).strangers == 2


def test_the_oldest_letters_come_first_and_a_limit_takes_those() -> None:
    index = index_of(
        stored(1, at_ms=30), stored(2, at_ms=10), stored(3, at_ms=20), stored(4, at_ms=10)
    )
    assert [each.identity.offset for each in chosen(index)] == [2, 4, 3, 1]
    assert [each.identity.offset for each in chosen(index, Filter(limit=3))] == [2, 4, 3]
    assert [each.identity.offset for each in chosen(index, Filter(since_ms=20))] == [3, 1]
    assert len(chosen(index, Filter(limit=1 << 70))) == 4
    assert chosen(index, Filter(partitions=[1 << 70])) == []


def test_what_was_chosen_stays_chosen_but_for_what_was_settled_since() -> None:
    index = index_of(stored(1), stored(2))
    assert index.choose(Filter()) == 2
    index.add(stored(3))
    index.add(replayed(1, to=3))
    assert [each.identity.offset for each in index.chosen()] == [1, 2]
    assert index.leave_settled() == 1
    assert [each.identity.offset for each in index.chosen()] == [2]


def test_a_page_has_no_more_letters_and_bytes_than_it_may_but_one_at_least() -> None:
    sizes = [10, 10, 10, 10, 70, 10, 50, 50]
    index = index_of(*(stored(at, value=b"x" * size) for at, size in enumerate(sizes)))
    index.choose(Filter())
    pages = [[each.size for each in page] for page in index.pages(3, 60)]
    assert pages == [[10, 10, 10], [10], [70], [10, 50], [50]]


def test_a_long_topic_is_not_held_in_memory() -> None:
    def size() -> int:
        return int(re.search(r"VmRSS:\s+(\d+)", Path("/proc/self/status").read_text())[1])  # type: ignore[index]

    index, rest = index_of(stored(0)), "x" * 900
    before = size()
    for offset in range(50_000):
        index.add(replace(stored(offset, value=b"x" * 2_000), error=rest, reason=rest))
    index.choose(Filter())
    assert sum(1 for _ in index.chosen()) == 50_000
    assert (size() - before) / 1024 < 24, "megabytes; of more than a hundred"


# --- flags ---------------------------------------------------------------------------------------


def parse(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    letters.add_parser(parser.add_subparsers())
    return parser.parse_args(["dead-letters", *arguments])


def test_since_is_a_time_or_so_long_ago() -> None:
    assert parse("list", "--since", "2026-01-31T12:00:00Z").since == 1_769_860_800_000
    assert parse("list", "--since", "2026-01-31T13:00:00+01:00").since == 1_769_860_800_000
    for text, seconds in (("90m", 5_400), ("12h", 43_200), ("7d", 604_800), ("30s", 30)):
        ago = time.time() - parse("list", "--since", text).since / 1000
        assert abs(ago - seconds) < 10


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("send",),
        ("list", "--since", "yesterday"),
        ("list", "--since", "2026-01-31T12:00:00"),
        ("list", "--limit", "0"),
        ("list", "--limit", "-1"),
        ("list", "--limit", "x"),
        ("list", "--limit", "9" * 20),
        ("list", "--reason", "because"),
        ("list", "--partition", "x"),
        ("list", "--partition", "-1"),
        ("list", "--partition", "9" * 20),
        ("list", "--yes"),
        ("replay", "--json"),
    ],
)
def test_flags_that_mean_nothing_are_wrong_usage(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(*arguments)
    assert ended.value.code == 2
    assert capsys.readouterr().err


def test_drop_without_a_filter_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    settings = consumer_settings(load("consumer", None, {}))
    assert letters.run(parse("drop", "--yes", "--limit", "5"), settings) == 2
    assert "drop needs --reason" in capsys.readouterr().err


# --- texts ---------------------------------------------------------------------------------------


@given(st.text())
def test_what_is_printed_moves_no_cursor(text: str) -> None:
    shown = letter_words.printable(text, most=50)
    assert shown.isprintable()
    assert len(shown) <= 50
    assert letter_words.printable(shown, most=50) == shown


def test_what_can_be_printed_is_left_as_it_is_and_a_cut_is_seen() -> None:
    assert letter_words.printable("Zürich 東京") == "Zürich 東京"
    assert letter_words.printable("\x1b[31m\u202e\n\ud800") == "\\x1b[31m\\u202e\\n\\ud800"
    assert letter_words.printable("x" * 300) == "x" * 197 + "..."


def test_a_terminal_that_knows_ascii_only_is_no_trouble(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("out") / "out"
    with path.open("w", encoding="ascii") as out:
        monkeypatch.setattr(sys, "stdout", out)
        letter_words.say("Zürich")
    assert path.read_text() == "Z\\xfcrich\n"

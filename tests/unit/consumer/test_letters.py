"""What the dead-letter commands make of records, of filters and of texts, without Kafka."""

from __future__ import annotations

import argparse
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer import letters
from consumer.batch import Letter
from consumer.config import consumer_settings
from consumer.dead_letters import dead_letter_topic, letter_headers, marker_headers
from consumer.ledger import Source
from consumer.letter_topic import Contents, Identity, Marker, Position, Stored, read_record
from schemas.settings import load

_SOURCE = Source("cluster", "events", "topic-id", 3)
_LETTER = Letter(17, 2, b"\xff", "invalid_utf8", "at byte 0")
_IDENTITY = Identity("topic-id", 3, 17, 2)


def stored(offset: int, line: int = 0, *, in_table: bool = False) -> Stored:
    identity = Identity("topic-id", 3, offset, line)
    return Stored(identity, "events", "empty", "", 1_000, in_table, b"{}", 0)


def replayed(offset: int, to: int) -> Marker:
    return Marker(
        Identity("topic-id", 3, offset, 0), "replayed", 2_000, Position("topic-id", 3, to)
    )


def contents(*records: Stored | Marker | None) -> Contents:
    made = Contents()
    for record in records:
        made.add(record)
    return made


# --- records -------------------------------------------------------------------------------------


def test_the_dead_letter_topic_is_named_after_the_topic() -> None:
    assert dead_letter_topic("events") == "events.dead"


@pytest.mark.parametrize("in_table", [False, True])
def test_a_letter_is_read_as_it_was_written(in_table: bool) -> None:
    letter = Letter(17, 2, b"\xff", "invalid_utf8", "at byte 0", in_table)
    found = read_record(b"\xff", dict(letter_headers(_SOURCE, letter, 5_000)), 1)
    assert found == Stored(
        _IDENTITY, "events", "invalid_utf8", "at byte 0", 5_000, in_table, b"\xff", 1
    )


def test_a_marker_is_read_as_it_was_written() -> None:
    headers = dict(marker_headers(_SOURCE, 17, 2, "dropped", 6_000))
    assert read_record(None, headers, 0) == Marker(_IDENTITY, "dropped", 6_000)
    headers = dict(marker_headers(_SOURCE, 17, 2, "replayed", 6_000, ("new-id", 3, 99)))
    assert read_record(None, headers, 0) == Marker(
        _IDENTITY, "replayed", 6_000, Position("new-id", 3, 99)
    )


@pytest.mark.parametrize("name", ["partition", "offset", "line", "at"])
@pytest.mark.parametrize("damage", [None, b"", b"x", b"\xff", b"1.5"])
def test_a_record_without_its_headers_is_no_letter(name: str, damage: bytes | None) -> None:
    headers = dict(letter_headers(_SOURCE, _LETTER, 5_000)) | {f"penstock.{name}": damage}
    assert read_record(b"{}", headers, 0) is None
    del headers[f"penstock.{name}"]
    assert read_record(b"{}", headers, 0) is None


def test_a_record_without_a_value_settles_only_if_it_says_so() -> None:
    assert read_record(None, dict(letter_headers(_SOURCE, _LETTER, 5_000)), 0) is None
    assert read_record(None, {}, 0) is None


# --- what follows from them ----------------------------------------------------------------------


def test_a_letter_written_again_is_the_same_letter() -> None:
    made = contents(stored(1), stored(1), stored(1, line=1))
    assert [each.identity.line for each in made.open()] == [0, 1]
    assert made.copies[stored(1).identity] == 2


def test_a_marker_settles_every_copy_before_and_after_it() -> None:
    made = contents(replayed(1, to=5), stored(1), stored(2), replayed(2, to=6), stored(2))
    assert list(made.open()) == []


def test_a_letter_that_is_in_the_table_by_any_copy_is_in_the_table() -> None:
    for copies in ((False, True), (True, False)):
        made = contents(*(stored(1, in_table=in_table) for in_table in copies))
        assert [each.in_table for each in made.open()] == [True]


def test_a_letter_where_a_replay_put_an_event_has_returned() -> None:
    made = contents(stored(1), replayed(1, to=5), stored(5), replayed(5, to=9), stored(9))
    assert [made.returns(stored(at).identity) for at in (1, 5, 9, 10)] == [0, 1, 2, 0]
    other_topic = Identity("another-id", 3, 5, 0)
    assert made.returns(other_topic) == 0


def test_forged_markers_that_go_in_a_circle_end() -> None:
    made = contents(replayed(1, to=2), replayed(2, to=1), replayed(3, to=3))
    assert made.returns(stored(1).identity) == 1
    assert made.returns(stored(3).identity) == 0


def test_records_of_others_are_counted() -> None:
    assert contents(None, stored(1), None).strangers == 2


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
        ("list", "--reason", "because"),
        ("list", "--partition", "x"),
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
    shown = letters.printable(text, most=50)
    assert shown.isprintable()
    assert len(shown) <= 50
    assert letters.printable(shown, most=50) == shown


def test_what_can_be_printed_is_left_as_it_is_and_a_cut_is_seen() -> None:
    assert letters.printable("Zürich 東京") == "Zürich 東京"
    assert letters.printable("\x1b[31m\u202e\n\ud800") == "\\x1b[31m\\u202e\\n\\ud800"
    assert letters.printable("x" * 300) == "x" * 197 + "..."


def test_a_terminal_that_knows_ascii_only_is_no_trouble(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("out") / "out"
    with path.open("w", encoding="ascii") as out:
        monkeypatch.setattr(sys, "stdout", out)
        letters._say("Zürich")
    assert path.read_text() == "Z\\xfcrich\n"

"""Bad lines are found by their bytes, one by one and many at once alike."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from schemas.event import Record
from schemas.plain import _Plain
from schemas.record import LINE_BYTES, REASONS, Fault, fault, faults
from tests.fixtures.lines import CASES, Case, good, with_member, with_text


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_each_kind_of_line(case: Case) -> None:
    why = fault(case.line)
    assert (why and why.reason) == case.reason
    assert faults([good(), case.line, good()]) == ([] if why is None else [(1, why)])


def test_every_reason_but_that_of_clickhouse_is_one_of_the_cases() -> None:
    assert {case.reason for case in CASES.values()} - {None} == {*REASONS} - {"refused"}


def test_a_line_may_have_every_member_that_the_shim_writes() -> None:
    every = {
        name: {"id": "a" * 32, "created_at": 1_767_225_600_000, "properties": {}}.get(name, 0)
        for name in Record.__struct_fields__
    }
    assert fault(json.dumps(every).encode()) is None


def test_both_halves_know_the_same_members() -> None:
    assert {*_Plain.__struct_fields__} == {*Record.__struct_fields__}


@pytest.mark.parametrize(
    ("line", "reason", "error"),
    [
        (
            with_member("duration", "1.5"),
            "wrong_type",
            "duration must be a whole number, not '1.5'",
        ),
        (
            with_member("max_scroll", "101"),
            "out_of_range",
            "max_scroll must be from 0 to 100, not '101'",
        ),
        (with_text('"pfad": 1'), "unknown_member", "'pfad' is not a member of an event"),
        (b'{"id": "x"', "malformed_json", "Expecting ',' delimiter at character 10"),
        (with_member("id", "[]"), "wrong_type", "id must be text, not an array"),
        (b"x" * (LINE_BYTES + 1), "too_large", "1048577 bytes; a line has at most 1048576"),
    ],
)
def test_an_error_says_what_is_wrong(line: bytes, reason: str, error: str) -> None:
    assert fault(line) == Fault(reason, error)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["\x1b[2J", "\\n", "\\ud800", "\u202e", "\x00"])
def test_an_error_holds_no_control_characters_of_the_line(text: str) -> None:
    for line in (with_member("id", f'"{text}"'), with_text(f'"{text}": 1')):
        why = fault(line)
        assert why is not None
        assert why.error.isascii()
        assert why.error.isprintable()


def test_an_error_quotes_little() -> None:
    for line in (with_member("id", f'"{"x" * 5000}"'), with_text(f'"{"x" * 5000}": 1')):
        why = fault(line)
        assert why is not None
        assert len(why.error) < 200


def test_the_lines_of_an_object_over_several_lines_are_all_bad() -> None:
    lines = json.dumps(json.loads(good()), indent=2).encode().split(b"\n")
    assert [index for index, _ in faults(lines)] == list(range(len(lines)))


def test_bad_lines_are_found_where_they_are_among_many() -> None:
    bad = {index: with_member("duration", "-1") for index in (0, 255, 256, 777, 9_999)}
    lines = [bad.get(index, good()) for index in range(10_000)]
    found = faults(iter(lines))
    assert [index for index, _ in found] == [*bad]
    assert {why.reason for _, why in found} == {"out_of_range"}


# Pieces that a line may be made of. Their order and number are made up.
_PIECES = st.sampled_from(
    [
        *'{}[]:,"\\ \t\r-0179.eEx\x00é',
        *"\ud83d",
        "\\u0031",
        "\\ud800",
        '"id"',
        '"a":',
        "null",
        "true",
    ]
    + [f'"{name}":' for name in ("name", "path", "duration", "value", "properties", "is_bot")]
    + ['"": ""', '"value": -0', '"max_scroll":-0', '"name" :"x"', '"path":":"', '"os":"\\":"']
)


@given(st.lists(_PIECES, max_size=6), st.booleans())
@example([', "path" :"x", "path":"x"'], False)
@example([',"os":"x","os" :"x"'], True)
def test_many_at_once_are_judged_as_one_by_one(pieces: list[str], compact: bool) -> None:
    """The quick way may only pass what the exact way passes."""
    line = good().replace(b": ", b":") if compact else good()
    added = "".join(pieces).encode("utf-8", "surrogatepass")
    for made in (line[:-1] + added + b"}", line[:-1] + b", " + added + b"}", added or b"0"):
        why = fault(made)
        assert faults([made]) == ([] if why is None else [(0, why)])

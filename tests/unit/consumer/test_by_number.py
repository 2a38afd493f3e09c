"""The row that a refusal names, also where a line that it quotes names another."""

from __future__ import annotations

import pytest

from consumer.by_number import member_of, read_before, row_of

_SAID = (
    "Received ClickHouse exception, code: {code}, server response: Code: {code}. DB::Exception: "
)


@pytest.mark.parametrize(
    ("code", "text", "row"),
    [
        (
            691,
            "Unknown element 'Z' for enum: (while reading the value of key country): (at row 7)",
            6,
        ),
        (27, "Cannot parse input: expected '\"' before: 'long (at row 3)': (at row 251)", 250),
        (27, "before: 'code: 469, is violated at row 3.': (at row 9)", 8),
        (469, "Constraint `mine` for table p.l (uuid) is violated at row 4. Expression: (x)", 3),
        (469, "Constraint `m` for table t is violated at row 4. Values: x = '(at row 9)'", 3),
        (252, "Too many parts", None),
        (469, "Constraint of another wording", None),
    ],
)
def test_the_row_that_a_refusal_names(code: int, text: str, row: int | None) -> None:
    assert row_of(_SAID.format(code=code) + text) == row


@pytest.mark.parametrize(
    ("code", "text", "lines"),
    [
        (27, "Cannot parse input: expected '\"' before: 'long (at row 3)': (at row 251)", 250),
        (27, "Cannot parse input: (at row 1)", 0),
        (469, "Constraint `m` for table t is violated at row 4. Values: x = '(at row 9)'", 0),
        (252, "Too many parts", 0),
    ],
)
def test_how_many_lines_were_read_before_a_refusal(code: int, text: str, lines: int) -> None:
    assert read_before(_SAID.format(code=code) + text) == lines


@pytest.mark.parametrize(
    ("text", "member"),
    [
        ("Unknown element 'Z' for enum: (while reading the value of key country): (at row 7)\n: ",
         "country"),
        ("Cannot parse uuid x (while reading the value of key city): (at row 3)\n\": "
         "(while reading the value of key path): (at row 9)", "path"),
        ("Unknown field found while parsing JSONEachRow format: city: (at row 2)\n: (in", "city"),
        ("Cannot parse input: expected ',' before: '(while reading the value of key city)': "
         "(at row 2)", None),
        ("Too many parts", None),
    ],
)  # fmt: skip
def test_the_member_that_a_refusal_names(text: str, member: str | None) -> None:
    assert member_of(_SAID.format(code=27) + text) == member

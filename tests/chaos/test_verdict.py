"""The verdict over a run allows what the plan explains, and nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

import pytest

from tests.chaos.verdict import Letter, letter_problems, lost_and_doubled, thrown_problems
from tests.fixtures.lines import ID, with_member
from tests.fixtures.tables import Topic

_THREW = "Code: 395. DB::Exception: a view throws: while executing 'FUNCTION throwIf(...)'"
_HELD = [ID + "a", ID + "b", f"{ID[:-1]}7f"]
_BAD = {(0, 5, 1): b"not json"}
_TOPIC = Topic("t", {0: [(5, [{"id": each} for each in _HELD])]}, {0: 6}, _BAD)


def _thrown(
    identity: str, error: str = _THREW, *, offset: int = 5, marks: Collection[str] = ("a", "7f")
) -> list[str]:
    line = with_member("id", f'"{identity}"')
    letter = Letter((0, offset, 0), line, error, in_table=True)
    return thrown_problems(_TOPIC, [letter], marks)


def test_an_event_that_a_view_of_the_plan_throws_on_is_set_aside_by_right() -> None:
    for identity in (ID + "a", f"{ID[:-1]}7f", (ID + "a").replace("-", "").upper()):
        assert _thrown(identity) == []


@pytest.mark.parametrize(
    ("problems", "why"),
    [
        (_thrown(ID + "b"), "which no view throws on"),
        (_thrown(ID + "a", marks=("7f",)), "which no view throws on"),
        (_thrown(ID + "a", marks=()), "which no view throws on"),
        (_thrown(ID + "a", "Code: 241. DB::Exception: Memory limit exceeded"), "another reason"),
        (_thrown(ID + "a", "Unknown column in SELECT throwIf(x, 'a view throws')"), "another"),
        (_thrown(ID + "1a"), "no event of its record"),
        (_thrown(ID + "a", offset=4), "no event of its record"),
        (
            thrown_problems(_TOPIC, [Letter((0, 5, 1), b"not json", _THREW, True)], ["a"]),
            "no event",
        ),
    ],
)
def test_any_other_letter_of_an_event_in_the_table_is_told(problems: list[str], why: str) -> None:
    assert len(problems) == 1
    assert why in problems[0]


def test_the_other_letters_are_the_bad_lines_once_or_more() -> None:
    letter = Letter((0, 5, 1), b"not json")
    assert letter_problems(_TOPIC, [letter, letter]) == []
    assert "is missing" in letter_problems(_TOPIC, [])[0]
    assert "has other bytes" in letter_problems(_TOPIC, [Letter((0, 5, 1), b"not")])[0]
    assert "was no bad line" in letter_problems(_TOPIC, [letter, Letter((0, 5, 0), b"x")])[0]


def test_a_row_is_doubled_when_no_copy_in_the_topic_explains_it() -> None:
    sent = Counter(a=1, b=2, c=1)
    assert lost_and_doubled(sent, Counter(a=1, b=2, c=1)) == (0, 0)
    assert lost_and_doubled(sent, Counter(a=1, b=1, c=1)) == (0, 0), "merged, or a resend folded"
    assert lost_and_doubled(sent, Counter(a=3, b=3)) == (1, 3)
    assert lost_and_doubled(sent, Counter(a=1, b=2, c=1, d=1)) == (0, 1), "nobody sent it"

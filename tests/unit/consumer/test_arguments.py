"""Times as a person gives them to a command."""

import argparse

import pytest

from consumer import arguments


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1767225600000", 1_767_225_600_000),
        ("2026-01-01", 1_767_225_600_000),
        ("2026-01-01T00:00:00Z", 1_767_225_600_000),
        ("2026-01-01T02:00:00+02:00", 1_767_225_600_000),
    ],
)
def test_a_time(text: str, expected: int) -> None:
    assert arguments.time_ms(text) == expected


def test_no_time_is_refused_with_what_would_be_one() -> None:
    with pytest.raises(argparse.ArgumentTypeError) as refused:
        arguments.time_ms("yesterday")
    assert str(refused.value) == (
        "'yesterday' is neither a time such as 2026-11-23T10:00:00Z nor epoch milliseconds"
    )

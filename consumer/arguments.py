"""What a person gives a command: numbers and times, held within what servers can be asked for.

Each raises ArgumentTypeError, which argparse prints as wrong usage.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from datetime import UTC, datetime

_TIMES_END = 253_402_300_800_000  # the year 10000


def whole(low: int, high: int) -> Callable[[str], int]:
    """A whole number from `low` to `high`."""

    def number(text: str) -> int:
        # the length first: Python reads no number of thousands of digits
        if not text.isdecimal() or len(text) > 19 or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(
                f"must be a whole number from {low} to {high}, not {shown(text)}"
            )
        return int(text)

    return number


partition = whole(0, (1 << 31) - 1)  # as Kafka numbers them


def time_ms(text: str, or_else: str = "") -> int:
    """RFC 3339 (UTC where it names no zone) or epoch milliseconds, as epoch milliseconds. Before
    1970 Kafka takes some for the log's end, and its start. `or_else`: what else it is not."""
    if text.isdecimal():
        at_ms = int(text) if len(text) <= 19 else _TIMES_END
    else:
        try:
            at = datetime.fromisoformat(text)
        except ValueError:
            raise argparse.ArgumentTypeError(
                f"{shown(text)} is neither a time such as 2026-11-23T10:00:00Z nor epoch "
                f"milliseconds{or_else and f', {or_else}'}"
            ) from None
        at = at if at.tzinfo else at.replace(tzinfo=UTC)
        at_ms = int(at.timestamp() * 1000)
    if not 0 <= at_ms < _TIMES_END:
        raise argparse.ArgumentTypeError(
            f"{shown(text)} is no time from 1970 to 9999 (as epoch milliseconds: 0 to "
            f"{_TIMES_END - 1})"
        )
    return at_ms


def shown(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:57]}...")

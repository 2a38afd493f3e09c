"""Waits are doubled, capped, and spread."""

from __future__ import annotations

import pytest

from consumer.retry import Backoff


@pytest.mark.parametrize(
    ("attempt", "seconds"), [(1, 0.5), (2, 1.0), (3, 2.0), (4, 4.0), (5, 5.0), (10**6, 5.0)]
)
def test_a_wait_is_doubled_up_to_the_most(attempt: int, seconds: float) -> None:
    assert Backoff(0.5, 5.0).seconds(attempt, 0.0) == seconds


def test_chance_shortens_a_wait_by_up_to_half() -> None:
    assert Backoff(2.0, 60.0).seconds(1, 0.5) == 1.5
    assert 1.0 < Backoff(2.0, 60.0).seconds(1, 0.999) < 1.01

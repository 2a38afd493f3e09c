"""What a plan says to the person who reads it."""

from __future__ import annotations

import pytest

from consumer.recovery import Mend, Wait, judge, plan
from tests.unit.consumer.owner import TOPIC_ID, committed, coverage, covered, intent, ms

NOW = 1000.0


@pytest.mark.parametrize(
    ("count", "named"),
    [
        (1, "[20, 21) epoch 0"),
        (3, "[20, 21) epoch 0, [21, 22) epoch 0, [22, 23) epoch 0"),
        (4, "[20, 21) epoch 0, [21, 22) epoch 0, [22, 23) epoch 0 and 1 more"),
    ],
)
def test_three_batches_are_named_and_the_others_counted(count: int, named: str) -> None:
    commit = committed(intent(10, 20, at=NOW - 5))
    table = coverage(*(covered(n, n + 1) for n in range(20, 20 + count)))
    found = plan(judge(commit, TOPIC_ID), commit, table, ms(NOW), waited=True)
    assert isinstance(found, Mend)
    assert found.why == f"intent [10, 20) clashes with {named} in the table"


def test_a_wait_says_what_it_is_for() -> None:
    commit = committed(intent(10, 20, at=NOW - 5))
    found = plan(judge(commit, "another"), commit, coverage(), ms(NOW), waited=False)
    assert found == Wait("the commit is not ours, and an older insert could still be running")

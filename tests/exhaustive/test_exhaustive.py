"""The small scopes hold; and a search finds what is wrong when a rule of the core is switched off.

The full run, `python -m tests.exhaustive`, takes minutes. The rules that are switched off here are
those of the simulator's test: there a random run has to come across the schedule, here the shortest
one is found.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import pytest

from tests.exhaustive.scope import Scope
from tests.exhaustive.scopes import QUICK
from tests.exhaustive.search import Found, Search
from tests.simulation import test_rules as rules

Patch = Callable[[pytest.MonkeyPatch], None]


@pytest.mark.parametrize("scope", QUICK, ids=[scope.name for scope in QUICK])
def test_no_order_of_events_breaks_a_promise(scope: Scope) -> None:
    found = Search(scope).run()
    assert not found.wrong, _printed(found)
    assert found.complete
    assert found.states > 1000


def _scope(*faults: str, together: int | None = None, **kind: object) -> Scope:
    scope: dict[str, object] = {"log": "ab", **kind}
    if together is None:
        together = len(faults)
    return Scope("a rule is off", faults=faults, together=together, **scope)  # type: ignore[arg-type]


_UNPREPARED = "without an own answered prepare"
_DOUBLE = "double in the table"
_LOST = r"commit \d passes .* not in the table"
_LIES = {"mends_log": False}
_TIME = {"window_seconds": 600.0}

# The rule, the smallest scope that shows it, what is then broken, and the schedule's length.
RULES: list[tuple[Patch, Scope, str, int]] = [
    (rules.insert_before_the_answer, _scope(), _UNPREPARED, 3),
    (rules.replay_without_a_prepare, _scope("crash"), _UNPREPARED, 8),
    (rules.cut_anew_instead_of_a_replay, _scope("crash"), _DOUBLE, 14),
    (
        rules.replay_under_a_new_time,
        _scope("window", together=3, log="a", consumers=1, window_part=0.4),
        _DOUBLE,
        18,
    ),
    (rules.no_deadline, _scope("pause"), "with deadline", 6),
    (rules.deadline_from_the_answer, _scope("pause"), "with deadline", 8),
    (rules.no_wait, _scope("reset"), _DOUBLE, 15),
    (rules.offset_outside_the_checksum, _scope("reset"), _LOST, 6),
    (rules.forget_the_unanswered_commit, _scope("rebalance", together=2), _DOUBLE, 17),
    (
        rules.an_unknown_commit_counts_as_answered,
        _scope("rebalance", "commit unknown"),
        "does not come to an end",
        0,
    ),
    (rules.guess_an_unknown_commit, _scope("rebalance", "commit unknown"), "without a cause", 20),
    (
        rules.believe_an_unclean_answer,
        _scope("insert unanswered", "restart", **_LIES),
        _LOST,
        15,
    ),
    (rules.believe_a_replay, _scope("crash", "restart", **_LIES), _LOST, 16),
    (rules.take_a_failure_for_landed, _scope("insert throws"), _LOST, 7),
    (rules.commit_before_landing, _scope(), _LOST, 5),
    (rules.nothing_grows_old, _scope("window", together=2), _DOUBLE, 13),
    (rules.nothing_grows_old, _scope("window", together=2, **_TIME), _DOUBLE, 13),
    (rules.coverage_is_not_asked, _scope("reset"), _DOUBLE, 20),
]


@pytest.fixture
def patch() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as context:
        yield context


@pytest.mark.parametrize(
    ("rule", "scope", "wrong", "steps"),
    RULES,
    ids=[f"{rule.__name__}, {', '.join(scope.faults)}" for rule, scope, _, _ in RULES],
)
def test_without_this_rule_the_shortest_schedule_is_found(
    rule: Patch, scope: Scope, wrong: str, steps: int, patch: pytest.MonkeyPatch
) -> None:
    rule(patch)
    found = Search(scope).run()
    print(_printed(found))
    assert re.search(wrong, found.wrong), found.wrong
    if steps:
        assert len(found.schedule) == steps


def _printed(found: Found) -> str:
    return "\n".join((found.wrong, *found.schedule))

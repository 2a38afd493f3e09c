"""The small scopes hold; and a search finds what is wrong when a rule of the core is switched off.

The full run, `python -m tests.exhaustive`, takes minutes. Where the simulator's random runs have to
come across a schedule, here the shortest one is found: its length is part of what is expected.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.exhaustive.record import told
from tests.exhaustive.rules import RULES, Off
from tests.exhaustive.scope import Scope
from tests.exhaustive.scopes import QUICK, SCOPES, unpaired
from tests.exhaustive.search import Found, Search


@pytest.mark.parametrize("scope", QUICK, ids=[scope.name for scope in QUICK])
def test_no_order_of_events_breaks_a_promise(scope: Scope) -> None:
    found = Search(scope).run()
    assert not found.wrong, _printed(found)
    assert found.complete
    assert found.states > 1000


def test_each_pair_of_faults_is_in_a_scope() -> None:
    assert unpaired(SCOPES) == []


@pytest.fixture
def patch() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as context:
        yield context


@pytest.mark.parametrize(
    "off",
    [
        pytest.param(
            off,
            id=f"{off.patch.__name__}, {', '.join(off.scope.faults)}",
            marks=[pytest.mark.slow] if off.slow else [],
        )
        for off in RULES
    ],
)
def test_without_this_rule_the_shortest_schedule_is_found(
    off: Off, patch: pytest.MonkeyPatch
) -> None:
    off.patch(patch)
    found = Search(off.scope).run()
    print(_printed(found))
    assert re.search(off.wrong, found.wrong), found.wrong
    assert len(found.schedule) == off.steps


def _printed(found: Found) -> str:
    return "\n".join((found.wrong, *found.schedule))


def test_what_is_recorded_can_be_told() -> None:
    assert ", 0 violations," in told()

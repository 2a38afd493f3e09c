"""The tests can find bugs: with any one of the protocol's rules switched off, one turns red."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.simulation.rules import RULES, SCRIPTED, Rule, Scripted


@pytest.fixture
def patch() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as context:
        yield context


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_without_this_rule_a_seed_fails(rule: Rule, patch: pytest.MonkeyPatch) -> None:
    rule.patch(patch)
    rule.turns_red()


@pytest.mark.parametrize("rule", SCRIPTED, ids=lambda rule: rule.name)
def test_without_this_rule_a_script_fails(rule: Scripted, patch: pytest.MonkeyPatch) -> None:
    rule.passes()
    rule.patch(patch)
    rule.turns_red()

"""The tests can find bugs: with any one of the protocol's rules switched off, one turns red."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.simulation.rules import RULES, Rule, Script


@pytest.fixture
def patch() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as context:
        yield context


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_without_this_rule_one_turns_red(rule: Rule, patch: pytest.MonkeyPatch) -> None:
    rule.off(patch)
    rule.shown_by.turns_red()


@pytest.mark.parametrize(
    "rule", [r for r in RULES if isinstance(r.shown_by, Script)], ids=lambda rule: rule.name
)
def test_with_it_that_script_is_green(rule: Rule) -> None:
    assert isinstance(rule.shown_by, Script)
    rule.shown_by.test()

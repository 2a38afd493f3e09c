"""The consumer's README links each hole to its test: the link must lead to one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_LINKS = re.findall(
    r"^\| (\d+) \|.*`(tests/[\w/]+\.py)(?:::(\w+))?` \|$",
    (ROOT / "consumer" / "README.md").read_text(encoding="utf-8"),
    re.MULTILINE,
)


def test_every_hole_has_a_line() -> None:
    assert [int(number) for number, _, _ in _LINKS] == list(range(1, 25))


@pytest.mark.parametrize(("number", "path", "name"), _LINKS)
def test_the_link_leads_to_a_test(number: str, path: str, name: str) -> None:
    text = (ROOT / path).read_text(encoding="utf-8")
    assert f"def {name or 'test_'}" in text

"""The consumer's README links each hole to its tests: a link leads to a test of that very name,
and the first one to a test that the hole's mutants name, so `make mutants` has seen it turn red."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from tests.mutants.catalogue import HOLES, MUTANTS

ROOT = Path(__file__).parents[2]
_README = ROOT / "consumer" / "README.md"
_ROW = re.compile(r"^\| (\d+) \|.*\| ([^|]*) \|$", re.MULTILINE)
_LINK = re.compile(r"\[(test_\w+)\]\(([^()\s]+)\)")
_CELLS = [(int(number), cell) for number, cell in _ROW.findall(_README.read_text(encoding="utf-8"))]
_LINKS = [(number, *link) for number, cell in _CELLS for link in _LINK.findall(cell)]


def linked(target: str) -> str:
    """The file that a link leads to, from the project's root."""
    return (_README.parent / target).resolve().relative_to(ROOT.resolve()).as_posix()


@cache
def functions(path: str) -> frozenset[str]:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return frozenset(node.name for node in tree.body if isinstance(node, kinds))


def test_every_hole_has_a_line() -> None:
    assert [number for number, _ in _CELLS] == list(HOLES)


@pytest.mark.parametrize(("number", "cell"), _CELLS)
def test_a_hole_has_links_and_nothing_beside_them(number: int, cell: str) -> None:
    assert all(_LINK.fullmatch(each) for each in cell.split(", "))


@pytest.mark.parametrize(("number", "name", "target"), _LINKS)
def test_the_link_leads_to_a_test(number: int, name: str, target: str) -> None:
    assert name in functions(linked(target))


@pytest.mark.parametrize("hole", HOLES)
def test_the_first_link_is_a_test_that_a_mutant_of_the_hole_turns_red(hole: int) -> None:
    red = {test for mutant in MUTANTS if mutant.hole == hole for test in mutant.tests}
    links = [f"{linked(target)}::{name}" for number, name, target in _LINKS if number == hole]
    assert links
    assert links[0] in red

"""The mutants are still about the code as it is, and every hole has one."""

from __future__ import annotations

import ast
from functools import cache

import pytest

from tests.mutants.catalogue import HOLES, MUTANTS
from tests.mutants.mutant import Edit, Mutant
from tests.mutants.switching import ROOT, NotThere, edited


@cache
def functions(path: str) -> frozenset[str]:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef))


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_what_a_mutant_edits_is_there_and_stays_code(mutant: Mutant) -> None:
    for path in {edit.path for edit in mutant.edits}:
        text = (ROOT / path).read_text(encoding="utf-8")
        without_it = edited(path, text, mutant.edits)
        assert without_it != text
        if path.endswith(".py"):
            ast.parse(without_it)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_names_tests_that_there_are(mutant: Mutant) -> None:
    assert mutant.tests
    for test in mutant.tests:
        path, _, name = test.partition("::")
        assert name in functions(path)


def test_every_hole_has_a_mutant_and_no_two_have_one_name() -> None:
    assert {mutant.hole for mutant in MUTANTS} >= set(HOLES)
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)


def test_an_edit_whose_text_is_not_there_once_is_an_error() -> None:
    edit = Edit("a.py", "one", "two")
    assert edited("a.py", "one three", [edit]) == "two three"
    assert edited("b.py", "four", [edit]) == "four"
    for text in ("", "one one"):
        with pytest.raises(NotThere, match=r"a\.py has"):
            edited("a.py", text, [edit])

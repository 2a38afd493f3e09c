"""The mutants are still about the code as it is, and every hole has one."""

from __future__ import annotations

import ast

import pytest

from tests.mutants.catalogue import HOLES, MUTANTS
from tests.mutants.mutant import Mutant
from tests.mutants.switching import ROOT, edited


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_what_a_mutant_edits_is_there_and_stays_code(mutant: Mutant) -> None:
    for path in {edit.path for edit in mutant.edits}:
        text = (ROOT / path).read_text(encoding="utf-8")
        without_it = edited(path, text, mutant.edits)
        if path.endswith(".py"):
            assert ast.dump(ast.parse(without_it)) != ast.dump(ast.parse(text))


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_names_tests_that_there_are(mutant: Mutant) -> None:
    assert mutant.tests
    for test in mutant.tests:
        path, _, name = test.partition("::")
        tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_every_hole_has_a_mutant_and_no_two_have_one_name() -> None:
    assert {mutant.hole for mutant in MUTANTS} >= set(HOLES)
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)

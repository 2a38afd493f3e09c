"""Whatever can land is placed, however oddly it is written; and no line is too odd to be asked."""

from __future__ import annotations

import uuid

import pytest

from consumer.placing import placed
from schemas.record import fault
from tests.fixtures.batches import batch
from tests.fixtures.lines import CASES, with_member


@pytest.mark.parametrize("name", CASES)
def test_each_line_that_passes_has_a_place(name: str) -> None:
    line = CASES[name].line
    found = list(placed(batch(0, line)))
    assert len(found) == 1
    if fault(line) is None:
        assert found[0] is not None
        assert found[0].partition
        assert found[0].id == str(uuid.UUID(found[0].id)), "as the table shows it"


@pytest.mark.parametrize("written", ["0A" * 16, str(uuid.UUID("0a" * 16)).upper()])
def test_an_id_is_the_tables_however_it_is_written(written: str) -> None:
    (found,) = placed(batch(0, with_member("id", f'"{written}"')))
    assert found is not None
    assert found.id == str(uuid.UUID("0a" * 16))

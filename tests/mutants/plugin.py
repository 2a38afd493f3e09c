"""For pytest (`-p tests.mutants.plugin`): switches a rule off before anything is collected, and
writes down how each test ended, a JSON object a line, for the gate.
"""

from __future__ import annotations

import json
import os
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.mutants.switching import of_the_environment

RESULTS = "SWITCHED_OFF_RESULTS"

of_the_environment()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if RESULTS in os.environ and (report.when == "call" or report.outcome != "passed"):
        error = call.excinfo
        line = {
            "test": item.nodeid,
            "when": report.when,
            "outcome": report.outcome,
            "seconds": round(report.duration, 3),
            "error": "" if error is None else error.typename,
            "why": "" if error is None else str(error.value)[:2000],
        }
        with Path(os.environ[RESULTS]).open("a") as file:
            file.write(json.dumps(line) + "\n")
    return report

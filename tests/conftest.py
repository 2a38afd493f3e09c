"""What every test may ask for, and what a run says at its end about the tests it could not make.

The fixtures stand in `tests/fixtures/`. A test that uses one that needs a Kafka or a ClickHouse is
marked so by itself: `pytest -m "not kafka and not clickhouse"` is the quick run.
"""

from __future__ import annotations

from collections import Counter

import pytest

pytest_plugins = [
    "tests.fixtures.children",
    "tests.fixtures.kafka",
    "tests.fixtures.clickhouse",
    "tests.fixtures.side_by_side",
]

_MARK_OF = {
    "kafka": "kafka",
    "own_kafka": "kafka",
    "clickhouse": "clickhouse",
    "clickhouse_with_schema": "clickhouse",
    "own_clickhouse": "clickhouse",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        used = set(getattr(item, "fixturenames", ()))
        for mark in sorted({_MARK_OF[name] for name in used & _MARK_OF.keys()}):
            item.add_marker(getattr(pytest.mark, mark))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line for each reason for which tests were left out: a green run must not hide them."""
    reasons: Counter[str] = Counter()
    for report in terminalreporter.getreports("skipped"):
        place = report.longrepr
        reasons[str(place[2] if isinstance(place, tuple) else place)] += 1
    for reason, count in sorted(reasons.items()):
        terminalreporter.write_line(f"NOT RUN: {count} tests: {reason.removeprefix('Skipped: ')}")

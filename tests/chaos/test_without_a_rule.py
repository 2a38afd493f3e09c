"""A consumer that is wrong makes a run end badly: the truth that chaos is held against is one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.run import Run


@pytest.mark.long
@pytest.mark.kafka
@pytest.mark.clickhouse
@pytest.mark.parametrize(
    ("rule", "told"),
    [
        ("no-restore", "sessions"),  # what a view has not seen, it never gets
        ("replay-in-a-new-time", "landed twice"),  # so a replay has another token
    ],
)
def test_a_rule_that_is_missing_is_seen(
    rule: str, told: str, kafka_jars: Path, tmp_path: Path
) -> None:
    report = Run(7, 90, tmp_path, off=rule)()
    assert not report.good
    assert [problem for problem in report.problems if told in problem], report.text()

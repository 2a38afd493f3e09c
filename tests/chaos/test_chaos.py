"""A short run of everything that `make chaos` does for longer, and its truth.

CHAOS_SEED chooses the run again that failed, CHAOS_SECONDS how long it is.
"""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import pytest

from tests.chaos.plan import plan
from tests.chaos.report import Report
from tests.chaos.run import Run, protocols

SEED = int(os.environ.get("CHAOS_SEED", random.SystemRandom().randrange(10**6)))
SECONDS = float(os.environ.get("CHAOS_SECONDS", "120"))


@pytest.mark.alone
@pytest.mark.slow
@pytest.mark.kafka
@pytest.mark.clickhouse
@pytest.mark.timeout(600)
def test_nothing_is_lost_and_nothing_doubled(kafka_jars: Path, tmp_path: Path) -> None:
    print(f"CHAOS_SEED={SEED}")
    allowed = protocols()
    run = Run(SEED, SECONDS, tmp_path, protocol=allowed[SEED % len(allowed)])
    report = run()
    print(report.text())
    assert report.good, report.text()
    assert report.events > 0
    assert len(report.cuts_struck) >= 5, "the run met hardly any of its faults"


def test_a_plan_is_its_seed() -> None:
    faults = plan(7, 600)
    assert faults == plan(7, 600)
    assert faults != plan(8, 600)
    assert [fault.at for fault in faults] == sorted(fault.at for fault in faults)
    assert len(faults) > 300


def test_runs_over_the_same_sources_are_added_up(tmp_path: Path) -> None:
    path = tmp_path / "last.json"
    struck = {"before insert": 3}
    passed = {"before insert": 9, "after commit": 4}
    for seed, group in ((1, "eager"), (2, "consumer"), (2, "consumer")):
        run = Report(seed, 300, group, "x", events=10, cuts_struck=struck, cuts_passed=passed)
        run.lost = run.doubled = 0
        run.write(path)
    total = json.loads(path.read_text())["total"]
    assert total["seeds"] == {"1": "eager", "2": "consumer"}
    assert (total["minutes"], total["events"], total["lost"]) == (10.0, 20, 0)
    assert total["never_struck"] == ["after commit"]

    stale = json.loads(path.read_text())
    for run_of_then in stale["runs"]:
        run_of_then["code"] = "other"
    path.write_text(json.dumps(stale))
    run.write(path)
    assert list(json.loads(path.read_text())["total"]["seeds"]) == ["2"]

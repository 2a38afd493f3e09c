"""A short run of everything that `make chaos` does for longer, and its truth.

CHAOS_SEED chooses the run again that failed, CHAOS_SECONDS how long it is.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.chaos.plan import plan
from tests.chaos.run import Run, protocols

SEED = int(os.environ.get("CHAOS_SEED", random.SystemRandom().randrange(10**6)))
SECONDS = float(os.environ.get("CHAOS_SECONDS", "75"))


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

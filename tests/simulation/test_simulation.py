"""The real core through many seeded runs, each family of faults in its share of them.

`SIM_RUNS` is the number of runs over all families (3000), `SIM_SEED` the first seed (0). A failure
prints its family, its seed and its schedule; `SIM_RUNS=1 SIM_SEED=... -k family` shows it again.
"""

from __future__ import annotations

import os
from collections import Counter

import pytest

from tests.simulation.faults import CROWD, PROFILES, Profile
from tests.simulation.world import run

RUNS = int(os.environ.get("SIM_RUNS", "3000"))
FIRST_SEED = int(os.environ.get("SIM_SEED", "0"))


@pytest.mark.parametrize("profile", PROFILES, ids=lambda p: p.name)
def test_everything_lands_exactly_once(profile: Profile) -> None:
    runs = max(1, RUNS // len(PROFILES))
    reports: Counter[str] = Counter()
    for seed in range(FIRST_SEED, FIRST_SEED + runs):
        reports += run(seed, profile).reports
    print(f"{profile.name}: {runs} runs, {dict(reports)}")

    if runs >= 100:  # a family in which nothing happens proves nothing
        assert reports["inserted"] > runs / 4
        for what in ("replayed", *profile.shows):
            assert reports[what] > runs / 100, what


def test_a_seed_is_a_run() -> None:
    assert run(7, CROWD) == run(7, CROWD)

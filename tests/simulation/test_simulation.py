"""The real core through many seeded runs, each family of faults in its share of them.

`SIM_RUNS` is the least number of runs over all families (20 000), `SIM_SEED` the first seed. A
failure prints its family, its seed, its shortest schedule, and the command that keeps this schedule
among the regressions; `make sim` runs more, and keeps what fails by itself.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import pytest

from consumer.commands import Command
from consumer.partition import Partition
from consumer.recovery import Commit
from tests.simulation import __main__ as command
from tests.simulation import shorten
from tests.simulation.faults import CROWD, EVERYDAY, PROFILES, RESET_WHILE_INSERTING
from tests.simulation.many import Some, runs
from tests.simulation.record import add
from tests.simulation.shorten import Regression, failure, how_to_keep, regressions, shortened
from tests.simulation.world import Failed, run

RUNS = int(os.environ.get("SIM_RUNS", "20000"))
FIRST_SEED = int(os.environ.get("SIM_SEED", "0"))


@pytest.mark.timeout(1200)
def test_everything_lands_exactly_once() -> None:
    each = -(-RUNS // len(PROFILES))
    reports = {profile: Counter[str]() for profile in PROFILES}
    for some in runs(range(len(PROFILES)), FIRST_SEED, each):
        profile = PROFILES[some.family]
        reports[profile] += some.reports
        if some.failed is not None:
            steps, failed = shortened(some.failed, profile)
            pytest.fail(
                f"{failed}\n{len(steps)} steps: {steps}\n{how_to_keep(some.failed, profile)}"
            )
    for profile, told in reports.items():
        print(f"{profile.name}: {each} runs, {dict(told)}")
        if each >= 100:  # a family in which nothing happens proves nothing
            assert told["inserted"] > each / 4, profile.name
            for what in ("replayed", *profile.shows):
                assert told[what] > each / 100, f"{profile.name}: {what}"


def test_a_seed_is_a_run() -> None:
    assert run(7, CROWD) == run(7, CROWD)


@pytest.mark.parametrize(
    "kept", list(regressions()), ids=lambda kept: f"{kept.profile.name} {kept.seed}: {kept.what}"
)
def test_what_failed_once_does_not_fail_again(kept: Regression) -> None:
    run(kept.seed, kept.profile, kept.steps)


def test_a_failure_is_told_with_the_steps_that_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the wait switched off, few of the run's steps are left, and they fail alike."""
    wait = Partition._look_at

    def hasty(self: Partition, commit: Commit) -> list[Command]:
        self._waited = True
        return wait(self, commit)

    monkeypatch.setattr(Partition, "_look_at", hasty)
    profile = RESET_WHILE_INSERTING
    seed = next(s for s in range(1000) if failure(s, profile, list(range(profile.steps))))
    steps, failed = shortened(seed, profile)
    assert len(steps) < profile.steps / 4
    again = failure(seed, profile, steps)
    assert again is not None
    assert str(again) == str(failed)


def test_a_failure_is_kept_unless_told_otherwise(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "regressions.json"
    kept.write_text("[]")
    failed = Failed("'everyday', seed 5: lost\nschedule:")
    monkeypatch.setattr(shorten, "REGRESSIONS", kept)
    monkeypatch.setattr(command, "runs", lambda *_: iter([Some(0, 6, Counter(), 5)]))
    monkeypatch.setattr(command, "shortened", lambda *_: ([3, 8], failed))

    def ends(*flags: str) -> str:
        monkeypatch.setattr("sys.argv", ["simulation", *flags])
        assert command.main() == 1
        return capsys.readouterr().out

    assert how_to_keep(5, EVERYDAY) in ends("--no-keep")
    assert list(regressions()) == []
    ends()
    assert list(regressions()) == [Regression(EVERYDAY, 5, (3, 8), "lost")]
    ends()
    assert len(list(regressions())) == 1, "the same schedule is kept once"


def test_runs_over_the_same_sources_are_added_up(tmp_path: Path) -> None:
    path = tmp_path / "last.json"
    add((0, 10), 40, 2.0, {"mended": 1}, "these", path)
    add((10, 30), 80, 4.0, {"mended": 2, "doubt": 1}, "these", path)
    total = add((5, 10), 20, 1.0, {}, "these", path)  # seeds of the first once more
    assert (total["runs"], total["seconds"]) == (100, 5)
    assert total["reports"] == {"mended": 2, "doubt": 1}
    assert [part["first"] for part in total["parts"]] == [5, 10]
    assert add((30, 40), 40, 2.0, {}, "others", path)["runs"] == 40
    assert json.loads(path.read_text())["code"] == "others"

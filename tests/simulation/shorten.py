"""A failing run made short: the fewest of its steps that still fail.

Steps are taken away in ever smaller blocks, each time those without which the run still breaks a
promise. What is left is a schedule that a person can read; `make sim` keeps it in
`regressions.json`, and what a test finds is kept by the command that the test prints.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.simulation.faults import PROFILES, Profile
from tests.simulation.world import Failed, run

REGRESSIONS = Path(__file__).with_name("regressions.json")


class Regression(NamedTuple):
    """A run that failed once: its family, its seed, and the steps of it that it took."""

    profile: Profile
    seed: int
    steps: tuple[int, ...]
    what: str


def failure(seed: int, profile: Profile, steps: list[int]) -> Failed | None:
    try:
        run(seed, profile, steps)
    except Failed as failed:
        return failed
    return None


def shortened(seed: int, profile: Profile) -> tuple[list[int], Failed]:
    """The steps that are left, and how they fail. The whole run must fail."""
    steps = list(range(profile.steps))
    told = failure(seed, profile, steps)
    assert told is not None, "this run does not fail"
    size = len(steps) // 2
    while size:
        start = 0
        while start < len(steps):
            fewer = steps[:start] + steps[start + size :]
            still = failure(seed, profile, fewer)
            if still is None:
                start += size
            else:
                steps, told = fewer, still
        size //= 2
    return steps, told


def keep(seed: int, profile: Profile, steps: list[int], what: str) -> None:
    kept = json.loads(REGRESSIONS.read_text(encoding="utf-8"))
    own = {"family": profile.name, "seed": seed, "what": what, "steps": steps}
    if own not in kept:
        kept.append(own)
    lines = ",\n".join(json.dumps(each) for each in kept)
    REGRESSIONS.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


def how_to_keep(seed: int, profile: Profile) -> str:
    return (
        "to keep it among the regressions: "
        f"python -m tests.simulation --family '{profile.name}' --seed {seed} --runs 1"
    )


def regressions() -> Iterator[Regression]:
    families = {profile.name: profile for profile in PROFILES}
    for each in json.loads(REGRESSIONS.read_text(encoding="utf-8")):
        yield Regression(families[each["family"]], each["seed"], tuple(each["steps"]), each["what"])

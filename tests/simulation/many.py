"""Many runs at once, over all cores."""

from __future__ import annotations

import multiprocessing
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from tests.simulation.faults import PROFILES
from tests.simulation.world import Failed, run

AT_ONCE = 50


class Some(NamedTuple):
    """Runs of one family: how many, what the core reported, and the seed that failed, if one."""

    family: int
    runs: int
    reports: Counter[str]
    failed: int | None


def runs(families: Sequence[int], first: int, each: int) -> Iterator[Some]:
    """`each` runs of each of the families, by their numbers in PROFILES, a part of each in turn."""
    work = [
        (family, first + start, min(AT_ONCE, each - start))
        for start in range(0, each, AT_ONCE)
        for family in families
    ]
    # The core's modules are patched by tests: a fork has the same patches.
    with multiprocessing.get_context("fork").Pool(os.cpu_count()) as pool:
        yield from pool.imap(_some, work)


def _some(work: tuple[int, int, int]) -> Some:
    family, first, count = work
    reports: Counter[str] = Counter()
    for seed in range(first, first + count):
        try:
            reports += run(seed, PROFILES[family]).reports
        except Failed:
            return Some(family, seed - first + 1, reports, seed)
    return Some(family, count, reports, None)

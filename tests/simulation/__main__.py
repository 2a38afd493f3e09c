"""`python -m tests.simulation --runs 1000000`: many seeded runs, over all cores.

A good run over all families of faults is added to tests/simulation/last.json, beside those of
other seeds over the same sources. A failure ends it: its seed is printed with the shortest schedule
that still fails, and that schedule is kept among the regressions (but with --no-keep), which every
run of the tests tries again.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter

from tests.simulation import record
from tests.simulation.faults import PROFILES, Profile
from tests.simulation.many import AT_ONCE, runs
from tests.simulation.shorten import REGRESSIONS, how_to_keep, keep, shortened


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--runs", type=int, default=100_000, help="over all families of faults")
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--family", choices=[p.name for p in PROFILES], help="only this one")
    parser.add_argument("--no-keep", action="store_true", help="keep no failure as a regression")
    chosen = parser.parse_args()
    families = [n for n, p in enumerate(PROFILES) if chosen.family in (None, p.name)]
    each = -(-chosen.runs // len(families))
    code = record.sources()
    done, reports, began = 0, Counter[str](), time.monotonic()
    for some in runs(families, chosen.seed, each):
        done, reports = done + some.runs, reports + some.reports
        if some.failed is not None:
            return tell(PROFILES[some.family], some.failed, kept=not chosen.no_keep)
        show(done, each * len(families), time.monotonic() - began)
    print(f"\n{done} runs, no promise broken; the core reported:")
    for what, times in reports.most_common():
        print(f"  {times:>10}  {what}")
    if chosen.family is None and done >= record.LEAST_RUNS:
        seeds = chosen.seed, chosen.seed + each
        total = record.add(seeds, done, time.monotonic() - began, reports, code)
        print(f"recorded: {total['runs']} runs over these sources; go on with --seed {seeds[1]}")
    return 0


def show(done: int, of: int, seconds: float) -> None:
    rate = done / seconds
    left = (of - done) / rate
    text = f"{done} of {of} runs, {rate:.0f} a second, {left:.0f} s to go"
    if sys.stderr.isatty():
        print(f"\r{text}\x1b[K", end="", file=sys.stderr, flush=True)
    elif done % 5000 < AT_ONCE:
        print(text, file=sys.stderr, flush=True)


def tell(profile: Profile, seed: int, *, kept: bool) -> int:
    print(f"\n{profile.name!r}, seed {seed} fails; making it short", file=sys.stderr, flush=True)
    steps, failed = shortened(seed, profile)
    what = str(failed).splitlines()[0].split(": ", 1)[1]
    print(f"{failed}\n{len(steps)} of {profile.steps} steps: {steps}")
    if kept:
        keep(seed, profile, steps, what)
        print(f"kept in {REGRESSIONS.name}: every run of the tests tries it again")
    else:
        print(how_to_keep(seed, profile))
    return 1


if __name__ == "__main__":
    sys.exit(main())

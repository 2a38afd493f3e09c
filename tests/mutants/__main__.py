"""`python -m tests.mutants`: switch off each rule of the protocol, and see a test turn red.

Exit code 1 when a mutant survives, when one cannot be judged, or when one of the holes has none.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from pathlib import Path

from tests.mutants.catalogue import HOLES, MUTANTS
from tests.mutants.gate import NOT_RUN, RED, Verdict, as_it_is, seeds, shares, without, written
from tests.mutants.mutant import Mutant
from tests.mutants.seeds import ALL

_LAST = Path(__file__).parent / "last.json"
_OFF_CHARACTERS, _TEST_CHARACTERS = 64, 60


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("--only", metavar="TEXT", help="mutants whose name has it, or hole=N")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="at once (default 2)")
    parser.add_argument("--no-simulation", action="store_true", help="without the simulation's")
    flags = parser.parse_args(arguments)

    def wanted(name: str, holes: Sequence[int]) -> bool:
        named = [f"hole={hole}" for hole in holes]
        return not flags.only or flags.only in name or flags.only in named

    mutants = [mutant for mutant in MUTANTS if wanted(mutant.name, mutant.holes)]
    simulated = [
        number
        for number, rule in enumerate(ALL)
        if not flags.no_simulation and wanted(rule.name, (rule.hole,))
    ]
    began = time.monotonic()
    total = len(mutants) + len(simulated)

    def say(text: str) -> None:
        print(f"[{time.monotonic() - began:6.1f} s] {text}", flush=True)

    say(f"{total} mutants")
    verdicts: list[Verdict] = []
    with ThreadPoolExecutor(flags.jobs) as pool:
        # A pool begins in this order: a mutant's tests have begun as the code is before it does.
        as_is: dict[str, Future[dict[str, str]]] = {}
        for share in shares([test for mutant in mutants for test in mutant.tests]):
            as_is |= dict.fromkeys(share, pool.submit(as_it_is, share))

        def judge(mutant: Mutant) -> Verdict:
            return without(mutant, {test: as_is[test].result()[test] for test in mutant.tests})

        jobs = [
            *(pool.submit(seeds, number) for number in simulated),
            *(pool.submit(judge, mutant) for mutant in mutants),
        ]
        for job in as_completed(jobs):
            verdict = job.result()
            verdicts.append(verdict)
            say(f"{len(verdicts):3}/{total} {verdict.verdict:8} {verdict.seconds:6.1f} s  "
                f"{_holes(verdict):>5}  {verdict.name}")  # fmt: skip
    seconds = time.monotonic() - began
    verdicts.sort(key=lambda verdict: (verdict.holes or (99,), verdict.name))
    print()
    _table(verdicts)
    if not flags.only:
        written(verdicts, seconds, _LAST)
    return _summary(verdicts, seconds, everything=not flags.only and not flags.no_simulation)


def _holes(verdict: Verdict) -> str:
    return ", ".join(map(str, verdict.holes)) or "-"


def _table(verdicts: Sequence[Verdict]) -> None:
    print(
        f"{'hole':>6}  {'the rule that is off':{_OFF_CHARACTERS}}  {'seconds':>7}  verdict   test"
    )
    for verdict in verdicts:
        off = _short(" ".join(verdict.off.split()), _OFF_CHARACTERS)
        for number, test in enumerate(verdict.tests or ("",)):
            start = (
                f"{_holes(verdict):>6}  {off:{_OFF_CHARACTERS}}  {verdict.seconds:7.1f}  "
                f"{verdict.verdict:8}"
            )
            print(f"{start if not number else ' ' * len(start)}  {test.rpartition('/')[2]}")


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 3] + "..."


def _summary(verdicts: Sequence[Verdict], seconds: float, *, everything: bool) -> int:
    bad = [verdict for verdict in verdicts if verdict.verdict not in (RED, NOT_RUN)]
    for verdict in (each for each in verdicts if each.verdict != RED):
        print(f"\n{verdict.verdict}: {verdict.name} (hole {_holes(verdict)}): {verdict.why}")
    seen = {hole for verdict in verdicts if verdict.verdict == RED for hole in verdict.holes}
    without_one = [hole for hole in HOLES if hole not in seen] if everything else []
    if without_one:
        print(f"\nno mutant turned a test red for hole {', '.join(map(str, without_one))}")
    red = sum(verdict.verdict == RED for verdict in verdicts)
    covered = len(seen & set(HOLES))
    print(f"\n{red} of {len(verdicts)} mutants turned their tests red, over {covered} of "
          f"{len(HOLES)} holes, in {seconds:.0f} s")  # fmt: skip
    return 1 if bad or without_one else 0


if __name__ == "__main__":
    sys.exit(main())

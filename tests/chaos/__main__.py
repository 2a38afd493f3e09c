"""`python -m tests.chaos --minutes 10 --seed 1`: the long run; `make chaos` starts it.

The plan and every log are kept in a folder that is printed; --keep keeps it after a good run too.
A good run of at least five minutes is added to tests/chaos/last.json, beside those of other seeds
over the same sources.

`--off` switches a rule of the protocol off in the consumers, by the name that `make mutants`
prints. Then the run is good (exit code 0) when the truth shows it: something lost, doubled or
miscounted.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from tests.chaos.plan import OFF, PROTOCOLS, SWITCHES
from tests.chaos.run import Run, protocols
from tests.fixtures.kafka import why_no_jars
from tests.mutants.catalogue import MUTANTS

_LAST = Path(__file__).with_name("last.json")
LONG_SECONDS = 300


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--group", choices=("any", *PROTOCOLS), default="any")
    parser.add_argument("--without", action="append", default=list(OFF), choices=SWITCHES)
    parser.add_argument("--with", action="append", default=[], choices=SWITCHES, dest="on")
    parser.add_argument("--plan", action="store_true", help="print the plan and do nothing")
    parser.add_argument("--keep", action="store_true")
    names = sorted(mutant.name for mutant in MUTANTS)
    parser.add_argument("--off", metavar="RULE", default="", choices=["", *names])
    chosen = parser.parse_args()
    why = why_no_jars()
    if why is not None:
        print(f"no real Kafka: {why}", file=sys.stderr)
        return 1
    allowed = protocols()
    protocol = chosen.group if chosen.group != "any" else allowed[chosen.seed % len(allowed)]
    if protocol not in allowed:
        print(f"the consumer's settings refuse {protocol} groups", file=sys.stderr)
        return 2
    folder = Path(tempfile.mkdtemp(prefix=f"penstock-chaos-{chosen.seed}-"))
    run = Run(
        chosen.seed,
        chosen.minutes * 60,
        folder,
        protocol=protocol,
        without=set(chosen.without) - set(chosen.on),
        off=chosen.off,
        say=lambda line: print(line, flush=True),
    )
    if chosen.plan:
        print((folder / "plan.txt").read_text(encoding="utf-8"), end="")
        shutil.rmtree(folder)
        return 0
    print(f"seed {chosen.seed}: {len(run.faults)} faults planned, all kept in {folder}", flush=True)
    report = run()
    print(report.text())
    if chosen.off:
        print(f"without {chosen.off}: {'NOT NOTICED' if report.good else 'noticed'}")
    elif report.good and report.seconds >= LONG_SECONDS:
        report.write(_LAST)
    as_it_should = report.good is not bool(chosen.off)
    if as_it_should and not chosen.keep:
        shutil.rmtree(folder, ignore_errors=True)
    return int(not as_it_should)


if __name__ == "__main__":
    sys.exit(main())

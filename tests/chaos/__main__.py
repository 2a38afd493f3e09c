"""`python -m tests.chaos --minutes 10 --seed 1`: the long run; `make chaos` starts it.

The plan and every log are kept in a folder that is printed; --keep keeps it after a good run too.
A good run of at least five minutes is added to tests/chaos/last.json, beside those of other seeds
over the same sources.
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
        say=lambda line: print(line, flush=True),
    )
    if chosen.plan:
        print((folder / "plan.txt").read_text(encoding="utf-8"), end="")
        shutil.rmtree(folder)
        return 0
    print(f"seed {chosen.seed}: {len(run.faults)} faults planned, all kept in {folder}", flush=True)
    report = run()
    print(report.text())
    if report.good and report.seconds >= LONG_SECONDS:
        report.write(_LAST)
    if report.good and not chosen.keep:
        shutil.rmtree(folder, ignore_errors=True)
    return int(not report.good)


if __name__ == "__main__":
    sys.exit(main())

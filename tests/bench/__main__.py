"""`make bench`: what an event costs, as CPU, beside baselines of the same run; what a bad one costs
a batch; how long a handover and a recovery take.

A table for people on standard output, and JSON for machines in `tests/bench/last.json`: of each
part its figures, and when, on what machine and with which versions they were measured. `--only`
measures some of the parts and leaves the others' figures as they are. Machines are noisy and
differ: compare ratios, and only within one part.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path

from schemas.version import penstock_version
from tests.bench import bad_rows, consumers, handover, recovery, requests
from tests.bench.parts import Parts
from tests.bench.report import table

_RESULTS = Path(__file__).with_name("last.json")
_PACKAGES = ("confluent-kafka", "clickhouse-connect", "chdb", "uvloop", "msgspec", "uvicorn")

Measure = Callable[[Parts], object]


def _progress(title: str) -> Callable[[str], None]:
    began = time.monotonic()

    def say(step: str) -> None:
        print(f"  [{time.monotonic() - began:5.1f} s] {title}: {step}", file=sys.stderr, flush=True)

    return say


def _circumstances() -> dict[str, object]:
    model = ""
    if (cpuinfo := Path("/proc/cpuinfo")).is_file():
        names = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = names[0].partition(":")[2].strip() if names else ""
    return {
        "at": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "load_average_at_start": round(os.getloadavg()[0], 2),
        "cpu": model or platform.processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "penstock": penstock_version(),
        **{name: version(name) for name in _PACKAGES},
    }


def _consumers(events: int, parts: Parts) -> object:
    return [
        consumers.measure(parts, case, int(events * case.share), _progress(case.name))
        for case in consumers.cases()
    ]


def _parts_of(arguments: argparse.Namespace, folder: Path) -> Mapping[str, Measure]:
    """What there is to measure, by the name that `--only` takes."""
    return {
        "shim": lambda parts: requests.measure(
            parts, folder, arguments.requests, _progress("shim")
        ),
        "consumer": partial(_consumers, arguments.events),
        "obvious": lambda parts: consumers.obvious(
            parts, arguments.events // 10, _progress("obvious")
        ),
        "bad-rows": lambda parts: bad_rows.measure(parts, arguments.repeats, _progress("bad rows")),
        "handover": lambda parts: handover.measure(parts, arguments.repeats, _progress("handover")),
        "recovery": lambda parts: recovery.measure(parts, arguments.batches, _progress("recovery")),
    }


NAMES = ("shim", "consumer", "obvious", "bad-rows", "handover", "recovery")


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument(
        "--only", action="append", choices=NAMES, help="measure this part; may be given again"
    )
    parser.add_argument("--events", type=int, default=1_000_000, help="on the packed topic")
    parser.add_argument("--requests", type=int, default=100_000, help="to the shim")
    parser.add_argument("--repeats", type=int, default=5, help="of batches and handovers")
    parser.add_argument("--batches", type=int, default=1_000_000, help="of the ledger to recover")
    parser.add_argument("--json", type=Path, default=_RESULTS, help="where the JSON goes")
    arguments = parser.parse_args()
    results: dict[str, object] = {}
    if arguments.json.is_file():
        results = json.loads(arguments.json.read_text())
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as name:
        folder = Path(name)
        parts = Parts(folder)
        try:
            for part, measure in _parts_of(arguments, folder).items():
                if arguments.only and part not in arguments.only:
                    continue
                circumstances = _circumstances()
                results[part] = {"measured": circumstances, "figures": measure(parts)}
                # At once: what was measured outlives a failure of what follows.
                arguments.json.write_text(json.dumps(results, indent=2) + "\n")
        finally:
            parts.close()
    print(table(results))
    print(f"\nalso in {arguments.json}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

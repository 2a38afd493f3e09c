"""`make bench`: what an event costs, as CPU, beside baselines of the same run.

A table for people on standard output, and JSON for machines in `tests/bench/last.json`. Machines
are noisy and differ: compare ratios, and only within one run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from schemas.version import penstock_version
from tests.bench import consumers, requests
from tests.bench.parts import Parts

_RESULTS = Path(__file__).with_name("last.json")
_PACKAGES = ("confluent-kafka", "clickhouse-connect", "chdb", "uvloop", "msgspec", "uvicorn")


def _progress(title: str) -> Callable[[str], None]:
    began = time.monotonic()

    def say(step: str) -> None:
        print(f"  [{time.monotonic() - began:5.1f} s] {title}: {step}", file=sys.stderr, flush=True)

    return say


def _machine() -> dict[str, object]:
    model = ""
    if (cpuinfo := Path("/proc/cpuinfo")).is_file():
        names = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = names[0].partition(":")[2].strip() if names else ""
    return {
        "cpu": model or platform.processor(),
        "cores": os.cpu_count(),
        "load_average_at_start": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "penstock": penstock_version(),
        **{name: version(name) for name in _PACKAGES},
    }


def _table(results: dict[str, object]) -> str:
    lines = ["", "CPU microseconds an event, consumer side"]
    columns = (
        "floor",
        "consumer",
        "/floor",
        "M ev/s/core",
        "ClickHouse",
        "together",
        "rows/insert",
    )
    lines.append(f"{'':44}" + "".join(f"{name:>13}" for name in columns))
    for case in results["consumer"]:  # type: ignore[attr-defined]
        rate = case["consumer_events_per_second_per_core"] / 1e6
        lines.append(
            f"{case['case']:44}{case['floor_us']:13.2f}{case['consumer_us']:13.2f}"
            f"{case['consumer_over_floor']:13.2f}{rate:13.2f}{case['clickhouse_us']:13.2f}"
            f"{case['together_us']:13.2f}{case['rows_per_insert']:13}"
        )
    obvious = results["obvious"]["obvious_us"]  # type: ignore[index]
    lines.append(f"{'the obvious consumer (orjson, rows, insert)':57}{obvious:13.2f}")
    shim = results["shim"]
    lines += [
        "",
        "CPU microseconds an acknowledged request, shim side",
        f"{'empty-answer uvicorn':44}{shim['empty_uvicorn_us']:13.2f}",  # type: ignore[index]
        f"{'shim, one event':44}{shim['shim_single_us']:13.2f}"  # type: ignore[index]
        f"   = {shim['shim_over_empty_uvicorn']} of it",  # type: ignore[index]
        f"{'shim, ten events':44}{shim['shim_ten_events_us']:13.2f}"  # type: ignore[index]
        f"   = {shim['shim_events_per_second_per_core_in_tens']:,} events/s/core",  # type: ignore[index]
    ]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--events", type=int, default=1_000_000, help="on the packed topic")
    parser.add_argument("--requests", type=int, default=100_000, help="to the shim")
    parser.add_argument("--json", type=Path, default=_RESULTS, help="where the JSON goes")
    arguments = parser.parse_args()
    results: dict[str, object] = {"machine": _machine()}
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as name:
        folder = Path(name)
        parts = Parts(folder)
        try:
            results["shim"] = requests.measure(parts, folder, arguments.requests, _progress("shim"))
            results["consumer"] = [
                consumers.measure(
                    parts, case, int(arguments.events * case.share), _progress(case.name)
                )
                for case in consumers.cases()
            ]
            results["obvious"] = consumers.obvious(
                parts, arguments.events // 10, _progress("obvious")
            )
        finally:
            parts.close()
    print(_table(results))
    arguments.json.write_text(json.dumps(results, indent=2) + "\n")
    print(f"\nalso in {arguments.json}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The long runs, as data that is committed: `tests/simulation/last.json`.

Runs over the same sources add up, each with seeds of its own: a million takes hours, and need not
be made at one go. What was run over other sources, or with the same seeds, is left out.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.fixtures.sources import core_digest

LAST = Path(__file__).with_name("last.json")
LEAST_RUNS = 50_000  # fewer are not worth a record


def sources() -> str:
    """A digest of what is run."""
    return core_digest("tests/simulation/*.py")


def add(
    seeds: tuple[int, int], runs: int, seconds: float, reports: Mapping[str, int],
    code: str, to: Path = LAST,
) -> dict[str, Any]:  # fmt: skip
    """Runs of all families of faults with the seeds from the first up to the second, in which no
    promise was broken. `code`: the digest at their beginning. Returns what is recorded now."""
    first, end = seeds
    kept: list[dict[str, Any]] = []
    if to.is_file() and (before := json.loads(to.read_text(encoding="utf-8")))["code"] == code:
        kept = [p for p in before["parts"] if p["end"] <= first or end <= p["first"]]
    own = {"first": first, "end": end, "runs": runs, "seconds": round(seconds),
           "reports": dict(reports)}  # fmt: skip
    parts = sorted([*kept, own], key=lambda part: int(part["first"]))
    reported: Counter[str] = Counter()
    for part in parts:
        reported.update(part["reports"])
    record = {
        "code": code,
        "runs": sum(part["runs"] for part in parts),
        "seconds": sum(part["seconds"] for part in parts),
        "reports": dict(reported.most_common()),
        "parts": parts,
    }
    to.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return record

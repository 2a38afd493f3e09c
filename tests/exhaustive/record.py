"""The last whole run, as data that is committed: `tests/exhaustive/last.json`.

It says what was searched, and of which core: a digest of the core's sources, so that a reader can
see whether they have changed since.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from tests.exhaustive.search import Found
from tests.fixtures.sources import core_digest

LAST = Path(__file__).with_name("last.json")


def write(found: Sequence[Found], wall_seconds: float, core: str, to: Path = LAST) -> None:
    """`core`: the digest at the run's beginning. All `found` were searched whole."""
    record = {
        "core": core,
        "states": sum(one.states for one in found),
        "violations": sum(bool(one.wrong) for one in found),
        "complete": all(one.complete for one in found),
        "seconds": round(wall_seconds, 1),
        "search_seconds": round(sum(one.seconds for one in found), 1),
        "scopes": [
            {
                "name": one.scope.name,
                "log": one.scope.log,
                "consumers": one.scope.consumers,
                "together": one.scope.together,
                "faults": list(one.scope.faults),
                "states": one.states,
                "depth": one.depth,
                "seconds": round(one.seconds, 1),
                "complete": one.complete,
                "wrong": one.wrong,
            }
            for one in found
        ],
    }
    to.write_text(json.dumps(record, indent=1) + "\n")


def told() -> str:
    """What the last whole run was, and whether it is of the core as it is."""
    if not LAST.exists():
        return "no whole run is recorded"
    record = json.loads(LAST.read_text())
    whose = "of this core" if record["core"] == core_digest() else "STALE: the core has changed"
    return (
        f"last whole run: {len(record['scopes'])} scopes, {record['states']:,} states, "
        f"{record['violations']} violations, {record['seconds']:,.0f} s, {whose}"
    )

"""What a run came to: as data, as JSON, and as text for a person."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.fixtures.sources import digest

_SOURCES = ("consumer/*.py", "schemas/*.py", "schemas/**/*.sql", "tests/chaos/*.py")


@dataclass
class Report:
    """`lost` counts events that `events` has no row of, `doubled` rows that no copy in the topic
    explains; `problems` covers all that is stored."""

    seed: int
    seconds: float
    protocol: str
    folder: str
    events: int = 0
    sources: Mapping[str, int] = field(default_factory=dict)
    batches: int = 0
    replays: int = 0
    reconciles: int = 0
    faults: Mapping[str, int] = field(default_factory=dict)
    cuts_struck: Mapping[str, int] = field(default_factory=dict)
    cuts_passed: Mapping[str, int] = field(default_factory=dict)
    network: Mapping[str, int] = field(default_factory=dict)
    said: Mapping[str, int] = field(default_factory=dict)
    exits: Mapping[str, int] = field(default_factory=dict)
    bad_lines: int = 0
    dead_letters: int = 0  # records of theirs: one line's may be written twice
    settled_seconds: float = 0.0
    lost: int = -1
    doubled: int = -1
    problems: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        return not self.problems and self.lost == 0 and self.doubled == 0

    @property
    def not_struck(self) -> list[str]:
        """Cut points that were passed, or not even that, and never struck."""
        return [point for point in self.cuts_passed if not self.cuts_struck.get(point)]

    def write(self, path: Path) -> None:
        """Adds the run to those of the same sources; runs of older sources are left out."""
        code = digest(*_SOURCES)
        kept: list[dict[str, Any]] = []
        if path.is_file():
            kept = json.loads(path.read_text(encoding="utf-8"))["runs"]
        own = {"code": code, **asdict(self)}
        del own["folder"]
        runs = [run for run in kept if run["code"] == code and run["seed"] != self.seed]
        runs.append(own)
        written = {"total": _total(runs), "runs": runs}
        path.write_text(json.dumps(written, indent=1, sort_keys=True) + "\n", encoding="utf-8")

    def text(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield (
            f"chaos: seed {self.seed}, {self.seconds:.0f} s, {self.protocol} groups: "
            f"{self.events} events in {self.batches} batches, {sum(self.faults.values())} faults, "
            f"{self.replays} replays, {self.reconciles} reconciles"
        )
        for title, counts in (
            ("sources", self.sources),
            ("faults", self.faults),
            ("network", self.network),
            ("consumers said", self.said),
            ("ended by themselves", self.exits),
        ):
            yield from _table(title, counts)
        yield "cut points (passed, struck)"
        for point, passed in self.cuts_passed.items():
            yield f"  {point:<32}{passed:>9}{self.cuts_struck.get(point, 0):>6}"
        if self.not_struck:
            yield f"never struck: {', '.join(self.not_struck)}"
        yield f"everything had landed {self.settled_seconds:.1f} s after the last fault"
        yield f"bad lines {self.bad_lines}, dead letters written {self.dead_letters}"
        yield from self.problems
        yield f"lost {self.lost}, doubled {self.doubled}"
        if not self.good:
            yield f"FAILED: CHAOS_SEED={self.seed}; plan and logs in {self.folder}"


def _total(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The figures of all runs together, with every cut point that no run struck."""
    counts = ("events", "batches", "replays", "reconciles", "bad_lines", "lost", "doubled")
    faults, struck, passed = Counter[str](), Counter[str](), Counter[str]()
    for run in runs:
        faults.update(run["faults"])
        struck.update(run["cuts_struck"])
        passed.update(run["cuts_passed"])
    return {
        "minutes": round(sum(run["seconds"] for run in runs) / 60, 1),
        "seeds": {str(run["seed"]): run["protocol"] for run in runs},
        **{name: sum(run[name] for run in runs) for name in counts},
        "faults": dict(faults),
        "cut_points": len(passed),
        "never_struck": [point for point in passed if not struck[point]],
    }


def _table(title: str, counts: Mapping[str, Any]) -> Iterator[str]:
    if counts:
        yield title
        for name, count in sorted(counts.items()):
            yield f"  {name:<44}{count:>10}"

"""What the audit says: for people, as JSON, and how far it has come."""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TextIO

from consumer.audit_tiles import Fault, Kind

_SHOWN = 200  # findings of each partition, explained and not


@dataclass(frozen=True, slots=True)
class Finding:
    """A fault with its recorded cause; `cause` is None where there is none."""

    fault: Fault
    cause: str | None


@dataclass
class Verdict:
    """One Kafka partition of one topic."""

    topic_id: str
    partition: int | None
    commit: str
    batches: int = 0
    rows: int = 0
    first: int = 0
    end: int = 0
    in_flight: int = 0
    findings: Counter[str] = field(default_factory=Counter)
    unexplained: Counter[str] = field(default_factory=Counter)
    shown: list[Finding] = field(default_factory=list)

    def add(self, finding: Finding) -> None:
        self.findings[finding.fault.kind.value] += 1
        bad = finding.cause is None
        self.unexplained[finding.fault.kind.value] += bad
        if self.findings.total() <= _SHOWN or (bad and self.unexplained.total() <= _SHOWN):
            self.shown.append(finding)

    @property
    def text(self) -> str:
        bad = ", ".join(f"{n} x {kind}" for kind, n in self.unexplained.items() if n)
        if bad:
            return f"UNEXPLAINED: {bad}"
        explained = self.findings.total()
        return f"whole ({explained} explained)" if explained else "whole"


def report(topic: str, verdicts: Sequence[Verdict], *, as_json: bool) -> None:
    """Print them."""
    try:
        if as_json:
            print(json.dumps(_json(topic, verdicts), indent=2))
        else:
            _show(topic, verdicts)
        sys.stdout.flush()
    except BrokenPipeError:  # `| head` has seen enough
        # else Python writes what is left once more at its end, complains, and ends with 120
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _show(topic: str, verdicts: Sequence[Verdict]) -> None:
    """A verdict line a partition, then the findings."""
    several = len({v.topic_id for v in verdicts if v.topic_id}) > 1
    head: tuple[str, ...] = ("partition", "offsets", "batches", "rows", "Kafka's commit", "verdict")
    lines = [head if not several else ("topic id", *head)]
    for v in verdicts:
        offsets = f"[{v.first}, {v.end})" if v.batches or v.in_flight else "-"
        number = "-" if v.partition is None else str(v.partition)
        line: tuple[str, ...] = (
            number,
            offsets,
            f"{v.batches:,}",
            f"{v.rows:,}",
            v.commit or "-",
            v.text,
        )
        lines.append(line if not several else (v.topic_id or "-", *line))
    print(f"topic {topic}")
    widths = [max(len(line[at]) for line in lines) for at in range(len(lines[0]))]
    for line in lines:
        print("  ".join(f"{c:{w}}" for c, w in zip(line, widths, strict=True)).rstrip())
    for v in verdicts:
        for finding in sorted(v.shown, key=lambda f: f.cause is not None):
            print(_sentence(finding))
        hidden = v.findings.total() - len(v.shown)
        if hidden:
            print(f"partition {v.partition}: and {hidden} more findings")
    unexplained = sum(v.unexplained.total() for v in verdicts)
    found = sum(v.findings.total() for v in verdicts)
    print(f"{found} findings, {unexplained} unexplained")


def _sentence(finding: Finding) -> str:
    fault = finding.fault
    mark = "UNEXPLAINED" if finding.cause is None else "explained"
    place = "" if fault.kind is Kind.NO_BATCH else f"partition {fault.partition} "
    place += f"[{fault.first}, {fault.end})" if fault.end else ""
    if fault.clickhouse_partition:
        place += f" in {fault.clickhouse_partition}"
    if fault.epochs:
        place += f" epoch {', '.join(map(str, fault.epochs))}"
    cause = f" ({finding.cause})" if finding.cause is not None else ""
    return f"{mark}: {fault.kind.value}: {place.strip()}: {fault.what}{cause}"


def _json(topic: str, verdicts: Sequence[Verdict]) -> dict[str, Any]:
    return {
        "topic": topic,
        "unexplained": sum(v.unexplained.total() for v in verdicts),
        "partitions": [
            {
                "topic_id": v.topic_id,
                "partition": v.partition,
                "first": v.first,
                "end": v.end,
                "batches": v.batches,
                "in_flight": v.in_flight,
                "rows": v.rows,
                "commit": v.commit,
                "verdict": v.text,
                "findings": dict(v.findings),
                "unexplained": {kind: n for kind, n in v.unexplained.items() if n},
            }
            for v in verdicts
        ],
        "findings": [
            {**asdict(f.fault), "kind": f.fault.kind.value, "cause": f.cause}
            for v in verdicts
            for f in v.shown
        ],
    }


class Bar:
    """Progress on a terminal; silent elsewhere."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._shown = out.isatty()
        self._total = self._done = self._looked = 0
        self._next = 0.0

    def begin(self, total: int) -> None:
        self._total = max(1, total)
        self._draw("reading the rows' stamps ")

    def step(self) -> None:
        self._done += 1
        if self._shown and self._done % 256 == 0 and time.monotonic() >= self._next:
            self._next = time.monotonic() + 0.1
            self._draw("")

    def looked(self) -> None:
        """A finding is looked up in Kafka's log."""
        self._looked += 1
        self._draw(f"{self._looked:,} looked up")

    def _draw(self, text: str) -> None:
        if self._shown and self._total:
            share = min(1.0, self._done / self._total)
            filled = round(share * 40)
            line = f"[{'#' * filled}{'.' * (40 - filled)}] {share:4.0%} of {self._total:,} {text}"
            self._out.write(f"\r{line:<79}")
            self._out.flush()

    def close(self) -> None:
        if self._shown and self._total:
            self._out.write(f"\r{'':79}\r")
            self._out.flush()

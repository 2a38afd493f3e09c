"""What a consumer's log tells of batches, to the millisecond: when each was inserted, and by whom.

Polling a metric would add the poll's own pause to a time of half a second.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Fact:
    """A line of a log. `at`: epoch seconds."""

    at: float
    message: str
    partition: int
    first: int
    end: int


class Log:
    """The JSON log of one process, read on from where the last look ended."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = 0
        self.facts: list[Fact] = []

    def look(self) -> list[Fact]:
        """Everything that it has said until now."""
        self.facts += self._new()
        return self.facts

    def inserts(self) -> list[Fact]:
        """Batches that landed, replays too."""
        return [f for f in self.look() if f.message in ("batch inserted", "batch replayed")]

    def first(self, message: str, since: float) -> float | None:
        """When it said so first after `since`."""
        return min(
            (f.at for f in self.facts if f.message == message and f.at >= since), default=None
        )

    def _new(self) -> Iterator[Fact]:
        with self._path.open("rb") as file:
            file.seek(self._read)
            for line in file:
                if not line.endswith(b"\n"):
                    return  # half of it is not written yet
                self._read += len(line)
                if not line.startswith(b"{"):
                    continue
                said = json.loads(line)
                yield Fact(
                    datetime.fromisoformat(said["at"]).timestamp(),
                    said["message"],
                    said.get("partition", -1),
                    said.get("first", -1),
                    said.get("end", -1),
                )

"""What batches that overlap one another announced, and what landed of them.

More than was announced is looked for in each batch range by itself, over all its epochs: a range
that landed again in other ClickHouse partitions overlaps nowhere, and the rows of a mend only fill
up what was announced. Between ranges that overlap in part nothing says which announced what.

Pure: no clock, no server.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from dataclasses import dataclass, field
from typing import NamedTuple


class Part(NamedTuple):
    """`times`: how often the ledger lists it, 0: not at all. `stamped`: rows that bear its stamp.
    `landed_ms`: when it landed last, epoch milliseconds of the server's clock, 0: unknown."""

    first: int
    end: int
    epoch: int
    clickhouse_partition: str
    expected_rows: int
    rows: int
    times: int
    landed_ms: int
    stamped: int


@dataclass(slots=True)
class Overlap:
    first: int
    end: int
    epochs: set[int]
    landed_ms: int
    times: int = 0


@dataclass(slots=True)
class Range:
    """Batches of the same offsets. `landed`: of each ClickHouse partition the most of one epoch."""

    first: int
    end: int
    expected: int = 0
    landed: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))
    epochs: set[int] = field(default_factory=set)
    told: set[int] = field(default_factory=set)  # epochs whose batch says what it announced
    unlisted: bool = False

    def add(self, part: Part, rows: int) -> None:
        self.landed[part.clickhouse_partition] = max(self.landed[part.clickhouse_partition], rows)
        self.expected = max(self.expected, part.expected_rows)
        self.epochs.add(part.epoch)
        if part.expected_rows:
            self.told.add(part.epoch)
        self.unlisted |= not part.times

    @property
    def long(self) -> bool:
        known = not self.unlisted and self.epochs == self.told
        return known and sum(self.landed.values()) > self.expected


@dataclass(slots=True)
class Long:
    """Ranges of a run in which more landed than was announced, in sum."""

    first: int
    end: int
    expected: int = 0
    landed: int = 0
    epochs: set[int] = field(default_factory=set)


@dataclass(slots=True)
class Run:
    """Batches that overlap one another, or one batch alone."""

    first: int
    end: int
    expected: defaultdict[int, int] = field(default_factory=lambda: defaultdict(int))
    landed: defaultdict[tuple[str, int], int] = field(default_factory=lambda: defaultdict(int))
    overlaps: dict[str, Overlap] = field(default_factory=dict)
    # by epoch, the offsets of batches that are known, and the batches that are not
    known: defaultdict[int, list[tuple[int, int]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    unknown: list[Part] = field(default_factory=list)
    landed_ms: int = 0
    unlisted: int = 0  # rows beyond those that the ledger lists
    in_flight: bool = False
    range: Range | None = None
    long: Long | None = None

    def add(self, part: Part, rows: int) -> None:
        self.end = max(self.end, part.end)
        self.landed[part.clickhouse_partition, part.epoch] += rows
        self.landed_ms = max(self.landed_ms, part.landed_ms)
        self.unlisted += max(0, part.stamped - part.rows) if part.times else 0
        if self.range is None or (self.range.first, self.range.end) != (part.first, part.end):
            self.fold()
            self.range = Range(part.first, part.end)
        self.range.add(part, rows)

    def fold(self) -> None:
        """Nothing more comes of the latest range."""
        done, self.range = self.range, None
        if done is not None and done.long:
            if self.long is None:
                self.long = Long(done.first, done.end)
            self.long.end = max(self.long.end, done.end)
            self.long.expected += done.expected
            self.long.landed += sum(done.landed.values())
            self.long.epochs |= done.epochs

    def announce(self, part: Part) -> None:
        """A batch that announced so much."""
        self.expected[part.epoch] += part.expected_rows
        ranges = self.known[part.epoch]
        if ranges and part.first <= ranges[-1][1]:
            first, end = ranges.pop()
            ranges.append((first, max(end, part.end)))
        else:
            ranges.append((part.first, part.end))

    def proves(self, part: Part) -> bool:
        """Whether batches of later epochs hold all its offsets."""
        reach = part.first
        later = (ranges for epoch, ranges in self.known.items() if epoch > part.epoch)
        for first, end in sorted(itertools.chain.from_iterable(later)):
            if first <= reach:
                reach = max(reach, end)
        return reach >= part.end

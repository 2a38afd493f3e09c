"""Dead letters as a cause: what they say of lines that did not land.

A letter says that its line was set aside. It explains that the line is not in the table, unless

- it is marked as being **in the table**: then its row landed, and not in every view, which explains
  only what the ledger and the views lack;
- it is **outdated**: a rewind had its line read again since, so the line has landed, or has a newer
  letter. What was only to be read again, and was not taken out, leaves the letters of the batches
  that still stand as they are: no mend looks at these lines again.

Pure: no clock, no server.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from consumer.audit_tiles import Fault
from consumer.rewind_record import REMOVED, Row

Place = tuple[int, int]  # offset, and line within the record


class Letter(NamedTuple):
    """`at_ms`: when it was written, epoch milliseconds of a consumer's clock."""

    topic_id: str
    partition: int
    offset: int
    line: int
    in_table: bool
    at_ms: int = 0


@dataclass(frozen=True, slots=True)
class Places:
    """Those of a fault's range, each once."""

    aside: frozenset[Place]
    in_table: frozenset[Place]


class Letters:
    """All there are. `within` gives what counts for a fault; `again`: see `reads_again`."""

    def __init__(self, letters: Iterable[Letter]) -> None:
        self._of: defaultdict[tuple[str, int], list[Letter]] = defaultdict(list)
        for letter in letters:
            self._of[letter.topic_id, letter.partition].append(letter)
        for several in self._of.values():
            several.sort(key=_offset)

    def within(self, fault: Fault, again: Sequence[Row]) -> Places:
        several = self._of.get((fault.topic_id, fault.partition), [])
        places: dict[bool, set[Place]] = {True: set(), False: set()}
        for at in range(bisect_left(several, fault.first, key=_offset), len(several)):
            letter = several[at]
            if letter.offset >= fault.end:
                break
            if not any(_outdates(row, letter, fault) for row in again):
                places[letter.in_table].add((letter.offset, letter.line))
        return Places(frozenset(places[False] - places[True]), frozenset(places[True]))


def _offset(letter: Letter) -> int:
    return letter.offset


def _outdates(row: Row, letter: Letter, fault: Fault) -> bool:
    later = row.first <= letter.offset < row.end and letter.at_ms < row.at_ms
    stands = bool(fault.epochs) and min(fault.epochs) < row.epoch
    return later and (row.what == REMOVED or not stands)

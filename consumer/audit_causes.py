"""Recorded causes: what may have made a fault of the ledger without anything being wrong.

| fault | what explains it | where it is recorded |
|---|---|---|
| gap | each event in it was dead-lettered; its offsets hold no event (markers, aborted or empty records, tombstones) | the dead-letter topic; the log, while it has them |
| gap, no rows, short | a rewind passed it over | `rewinds` |
| no rows, short | a rewind to a later epoch took its rows out, and did not come to its end | `rewinds` |
| short batch | as many dead letters | the dead-letter topic |
| short batch | each of its events is in the table, and the sums were counted again later | the log, `events`, `rebuilds` |
| size not known | each of its events is in the table; a rewind took it out or passed it over | the log and `events`; `rewinds` |
| no rows | resends: each of its events is in the table, under the stamp of another batch | the log and `events` |
| no rows | its rows have expired | the TTL of `events`; the log |
| no rows | erasure: rows were deleted later, and not by their stamps | system.mutations; the log |
| gap, short, size not known | as by resends, where a mend left out what was erased | the log, `events`, system.mutations |
| overlap, double | the sums were counted again from `events` later, which knows each event by its id | `rebuilds` |

Expiry, erasure and resends are looked for line by line, in whatever mixture (`audit_gone`).

What left the log before it was read is a loss, and stays unexplained. So does what nobody recorded:
rows that were inserted by hand, a partition that was dropped.
"""  # noqa: E501 - a table

from __future__ import annotations

import contextlib
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any

import msgspec

from consumer.audit_gone import Account, Gone, Line
from consumer.audit_log import Log
from consumer.audit_tables import Tables
from consumer.audit_tiles import Fault, Kind
from consumer.rewind_record import IN_ORDER, SKIPPED, Row, believed
from schemas.tables import REBUILDS, REWINDS, SUMMED, clickhouse_partition

_GAP_LINES = 1_000


_line = msgspec.json.Decoder(Line)


@dataclass(frozen=True, slots=True)
class _Letters:
    """Dead letters of one partition, each place once, in order of (offset, line)."""

    places: list[tuple[int, int]]
    in_table: frozenset[tuple[int, int]]

    def between(self, first: int, end: int) -> list[tuple[int, int]]:
        return self.places[
            bisect_left(self.places, (first, -1)) : bisect_left(self.places, (end, -1))
        ]


class Causes:
    """Explains faults. `looks`: how many may be looked up in the log, which is slow. `looked` is
    called for each that is. `seen`: the latest epoch, by topic id and partition."""

    def __init__(
        self,
        tables: Tables,
        log: Log,
        looks: int = 1_000,
        looked: Callable[[], None] = lambda: None,
        seen: Mapping[tuple[str, int], int] = MappingProxyType({}),
    ) -> None:
        self._tables = tables
        self._log = log
        self._looks = self._most_looks = looks
        self._looked = looked
        self._seen = seen
        self._gone = Gone(tables)

    def explain(self, fault: Fault) -> str | None:
        """The recorded cause, or None. Raises LogError and the client's errors."""
        match fault.kind:
            case Kind.GAP:
                return self._rewound(fault) or self._without_events(fault)
            case Kind.SHORT:
                return self._lettered(fault) or self._rewound(fault) or self._restored(fault)
            case Kind.UNKNOWN:
                return self._rewound(fault) or self._whole(fault)
            case Kind.NO_ROWS:
                return self._rewound(fault) or self._without_rows(fault)
            case Kind.DOUBLE:
                return self._in_table(fault) or self._rebuilt(fault)
            case Kind.OVERLAP:
                return self._rebuilt(fault)
            case _:
                return None

    # --- dead letters and the log ------------------------------------------------------------

    @cached_property
    def _letters(self) -> dict[tuple[str, int], _Letters]:
        places: defaultdict[tuple[str, int], set[tuple[int, int]]] = defaultdict(set)
        in_table: defaultdict[tuple[str, int], set[tuple[int, int]]] = defaultdict(set)
        for letter in self._log.letters():
            whose, place = (letter.topic_id, letter.partition), (letter.offset, letter.line)
            places[whose].add(place)
            if letter.in_table:
                in_table[whose].add(place)
        return {
            whose: _Letters(sorted(found), frozenset(in_table[whose]))
            for whose, found in places.items()
        }

    def _of(self, fault: Fault) -> _Letters:
        return self._letters.get((fault.topic_id, fault.partition), _Letters([], frozenset()))

    def _lettered(self, fault: Fault) -> str | None:
        found = len(self._of(fault).between(fault.first, fault.end))
        return f"{found} dead letters" if found >= fault.rows else None

    def _in_table(self, fault: Fault) -> str | None:
        letters = self._of(fault)
        found = letters.in_table.intersection(letters.between(fault.first, fault.end))
        if found and len(found) >= fault.rows:
            return f"{len(found)} dead letters that had landed and are not in every view"
        return None

    def _not_in_log(self, fault: Fault) -> str:
        """Why it is not read again; empty where it can be."""
        if fault.topic_id != self._log.topic_id:
            return "Kafka's log is of another topic id"
        if self._looks <= 0:
            return f"{self._most_looks:,} findings were looked up in Kafka's log, and no more are"
        ends = self._log.ends(fault.partition)
        if ends is None:
            return "the topic has no such partition"
        if ends[0] > fault.first:
            return "Kafka's log does not reach back to it"
        if ends[1] < fault.end:
            return "Kafka's log does not reach so far"
        self._looks -= 1
        self._looked()
        return ""

    def _without_events(self, fault: Fault) -> str | None:
        places = set(self._of(fault).between(fault.first, fault.end))
        if self._not_in_log(fault):
            # A letter in each record, and nothing says that a record had more than those.
            if len({offset for offset, _ in places}) == fault.rows:
                return f"{len(places)} dead letters, one or more of each record"
            return None
        events, erased = 0, 0
        left: list[bytes] = []
        for offset, lines in self._log.lines(fault.partition, fault.first, fault.end):
            events += len(lines)
            left += [line for n, line in enumerate(lines) if (offset, n) not in places]
            if len(left) >= _GAP_LINES or (left and not self._gone.deletions):
                if not self._gone.erased(left):
                    return None
                erased, left = erased + len(left), []
        if left and not self._gone.erased(left):
            return None
        erased += len(left)
        if erased:
            return f"{events - erased} dead letters, {erased} erased events, and no other event"
        if not events:
            return "these offsets hold no event"
        return f"{events} dead letters, and no other event"

    def _without_rows(self, fault: Fault) -> str | None:
        why = self._not_in_log(fault)
        if why:
            return self._gone.unchecked(fault, why)
        return self._gone.explain(fault, self._lines(fault))

    def _whole(self, fault: Fault) -> str | None:
        found = self._there(fault)
        return found.whole if found is not None else None

    def _restored(self, fault: Fault) -> str | None:
        """The ledger is written with the views: where it is short, the sums may be."""
        found = self._there(fault)
        if found is None:
            return None
        if any(self._rebuilds.get(m, -1) < fault.landed_ms for m in found.present):
            return None
        return f"{found.whole}, and the sums were rebuilt later"

    def _there(self, fault: Fault) -> Account | None:
        """What became of each event that the log has there; None if one of them is not in the table
        and no rule took it out, or the log does not reach back."""
        if self._not_in_log(fault):
            return None
        # Not the TTL's: that an event would have expired by now does not say that it had landed.
        found = self._gone.account(self._lines(fault), self._gone.deletions, landed=False)
        return found if found.events and not found.missing else None

    def _lines(self, fault: Fault) -> Iterator[tuple[Line, bytes]]:
        letters = set(self._of(fault).between(fault.first, fault.end))
        for offset, lines in self._log.lines(fault.partition, fault.first, fault.end):
            for number, text in enumerate(lines):
                with contextlib.suppress(msgspec.MsgspecError, ValueError):
                    line = _line.decode(text)
                    where = clickhouse_partition(line.created_at)
                    if (offset, number) not in letters and fault.clickhouse_partition in (
                        "",
                        where,
                    ):
                        yield line, text

    # --- what ClickHouse recorded ------------------------------------------------------------

    @cached_property
    def _rebuilds(self) -> dict[str, int]:
        """When the last finished rebuild of all sums began, by ClickHouse partition."""
        rows = self._rows_of(
            REBUILDS,
            "SELECT clickhouse_partition, toUnixTimestamp64Milli(max(began_at)) FROM rebuilds "
            "WHERE finished_at > toDateTime64(1, 3, 'UTC') AND "
            "hasAll(tables, {sums:Array(String)}) GROUP BY clickhouse_partition",
            sums=list(SUMMED),
        )
        return {str(where): int(at) for where, at in rows}

    def _rebuilt(self, fault: Fault) -> str | None:
        at = self._rebuilds.get(fault.clickhouse_partition)
        if at is None or at < fault.landed_ms:
            return None
        return "the sums of this ClickHouse partition were rebuilt later"

    @cached_property
    def _rewinds(self) -> dict[tuple[str, int], list[Row]]:
        """What rewinds wrote, by topic id and partition, in that order."""
        found: defaultdict[tuple[str, int], list[Row]] = defaultdict(list)
        for topic_id, partition, *row in self._rows_of(
            REWINDS,
            "SELECT topic_id, partition, first, end, epoch, what, toUnixTimestamp64Milli(at) "
            "FROM rewinds ORDER BY " + IN_ORDER,
        ):
            found[str(topic_id), int(partition)].append(Row(*row))
        return dict(found)

    def _believed(self, fault: Fault) -> list[Row]:
        whose = fault.topic_id, fault.partition
        return believed(self._rewinds.get(whose, ()), self._seen.get(whose, -1))

    def _rewound(self, fault: Fault) -> str | None:
        """What was to be read again must have come by now: only what it brought before may lack."""
        position = fault.first
        for row in self._believed(fault):
            removed = bool(fault.epochs) and max(fault.epochs) < row.epoch
            before = removed and fault.landed_ms <= row.at_ms
            if row.first <= position < row.end and (row.what == SKIPPED or before):
                position = row.end
        return "rewind" if position >= fault.end else None

    def _rows_of(self, table: str, sql: str, **parameters: Any) -> list[tuple[Any, ...]]:
        """Nothing where there is no such table: an older layout."""
        known = self._tables.rows(
            "SELECT count() FROM system.tables WHERE database = currentDatabase() "
            "AND name = {name:String}",
            name=table,
        )
        return [tuple(row) for row in self._tables.rows(sql, **parameters)] if known[0][0] else []

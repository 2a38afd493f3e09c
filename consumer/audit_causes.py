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
| no rows | its rows may have expired | the TTL of `events` |
| no rows | erasure: rows were deleted later, and not by their stamps | system.mutations |
| overlap, double | the sums were counted again from `events` later, which knows each event by its id | `rebuilds` |

What left the log before it was read is a loss, and stays unexplained. So does what nobody recorded:
rows that were inserted by hand, a partition that was dropped.
"""  # noqa: E501 - a table

from __future__ import annotations

import contextlib
import re
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any

import msgspec
from clickhouse_connect.driver.exceptions import DatabaseError

from consumer.audit_log import Log
from consumer.audit_tables import Tables
from consumer.audit_tiles import Fault, Kind
from schemas.tables import EVENTS, REBUILDS, REWINDS, SUMMED, clickhouse_partition

_IDS_AT_ONCE = 5_000
_STAMPS = re.compile(r"\b_(topic_id|partition|first|end|epoch)\b")


class _Line(msgspec.Struct):
    id: str
    created_at: int


_line = msgspec.json.Decoder(_Line)


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
    """Explains faults. `looks`: how many may be looked up in the log, which is slow."""

    def __init__(self, tables: Tables, log: Log, looks: int = 1_000) -> None:
        self._tables = tables
        self._log = log
        self._looks = looks

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
                return (
                    self._rewound(fault)
                    or self._expired(fault)
                    or self._erased(fault)
                    or self._resent(fault)
                )
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

    def _in_log(self, fault: Fault) -> bool:
        if fault.topic_id != self._log.topic_id or self._looks <= 0:
            return False
        self._looks -= 1
        return self._log.low(fault.partition) <= fault.first

    def _without_events(self, fault: Fault) -> str | None:
        places = set(self._of(fault).between(fault.first, fault.end))
        if not self._in_log(fault):
            # A letter in each record, and nothing says that a record had more than those.
            if len({offset for offset, _ in places}) == fault.rows:
                return f"{len(places)} dead letters, one or more of each record"
            return None
        events = 0
        for offset, lines in self._log.lines(fault.partition, fault.first, fault.end):
            events += len(lines)
            if any((offset, number) not in places for number in range(len(lines))):
                return None
        if not events:
            return "these offsets hold no event"
        return f"{events} dead letters, and no other event"

    def _resent(self, fault: Fault) -> str | None:
        events, _ = self._there(fault)
        return f"resends: each of its {events} events is in the table" if events else None

    def _whole(self, fault: Fault) -> str | None:
        events, _ = self._there(fault)
        return f"each of its {events} events is in the table" if events else None

    def _restored(self, fault: Fault) -> str | None:
        """The ledger is written with the views: where it is short, the sums may be."""
        events, months = self._there(fault)
        if not events or any(self._rebuilds.get(m, -1) < fault.landed_ms for m in months):
            return None
        return f"each of its {events} events is in the table, and the sums were rebuilt later"

    def _there(self, fault: Fault) -> tuple[int, set[str]]:
        """How many events the log has there, and in which ClickHouse partitions; none if one of
        them is not in the table, or the log does not reach back."""
        if not self._in_log(fault):
            return 0, set()
        places = set(self._of(fault).between(fault.first, fault.end))
        events, months = 0, set()
        lines = self._lines(fault, places)
        while some := list(islice(lines, _IDS_AT_ONCE)):
            ids = sorted({line.id.lower() for line in some})
            times = [line.created_at for line in some]
            ((there,),) = self._tables.ask("audit_ids", ids=ids, least=min(times), most=max(times))
            if there < len(ids):
                return 0, set()
            events += len(some)
            months |= set(map(clickhouse_partition, times))
        return events, months

    def _lines(self, fault: Fault, letters: set[tuple[int, int]]) -> Iterator[_Line]:
        for offset, lines in self._log.lines(fault.partition, fault.first, fault.end):
            for number, text in enumerate(lines):
                with contextlib.suppress(msgspec.MsgspecError, ValueError):
                    line = _line.decode(text)
                    where = clickhouse_partition(line.created_at)
                    if (offset, number) not in letters and fault.clickhouse_partition in (
                        "",
                        where,
                    ):
                        yield line

    # --- what ClickHouse recorded ------------------------------------------------------------

    @cached_property
    def _ttl(self) -> str | None:
        rows = self._tables.rows(
            "SELECT engine_full FROM system.tables "
            "WHERE database = currentDatabase() AND name = {name:String}",
            name=EVENTS,
        )
        found = re.search(r" TTL (.+?)(?: SETTINGS |$)", str(rows[0][0])) if rows else None
        return found[1] if found else None

    def _expired(self, fault: Fault) -> str | None:
        """Where the oldest row that its ClickHouse partition can have would have expired by now."""
        if self._ttl is None or not re.fullmatch(r"\d{6}", fault.clickhouse_partition):
            return None
        try:
            rows = self._tables.rows(
                f"SELECT toDateTime({self._ttl}) <= now() FROM (SELECT toDateTime64("  # noqa: S608
                "concat({year:String}, '-', {month:String}, '-01 00:00:00'), 3, 'UTC') "
                "AS created_at, created_at AS received_at)",
                year=fault.clickhouse_partition[:4],
                month=fault.clickhouse_partition[4:],
            )
        except DatabaseError:  # a TTL over other columns: nobody can say for a whole partition
            return None
        return f"TTL {self._ttl}" if rows[0][0] else None

    @cached_property
    def _deletions(self) -> list[tuple[int, str]]:
        """(when, command) of what deleted rows, other than by their stamps."""
        rows = self._tables.rows(
            "SELECT toUnixTimestamp(create_time), command FROM system.mutations "
            "WHERE database = currentDatabase() AND table = {name:String} "
            "AND match(command, '^[( ]*(DELETE|UPDATE _row_exists = 0) ') ORDER BY create_time",
            name=EVENTS,
        )
        return [(int(at), str(text)) for at, text in rows if not _STAMPS.search(str(text))]

    def _erased(self, fault: Fault) -> str | None:
        for at, command in self._deletions:
            if at * 1000 + 999 >= fault.landed_ms:
                return f"erasure: {command.strip('()')}"
        return None

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
    def _rewinds(self) -> dict[tuple[str, int], list[tuple[int, int, int, bool]]]:
        """(first, end, epoch, whether it was skipped), by topic id and partition."""
        found: defaultdict[tuple[str, int], list[tuple[int, int, int, bool]]] = defaultdict(list)
        for topic_id, partition, first, end, epoch, skipped in self._rows_of(
            REWINDS,
            "SELECT topic_id, partition, first, end, epoch, skipped FROM rewinds "
            "ORDER BY first, end",
        ):
            found[str(topic_id), int(partition)].append(
                (int(first), int(end), int(epoch), bool(skipped))
            )
        return found

    def _rewound(self, fault: Fault) -> str | None:
        """What was to be read again must have come by now: only what it brought before may lack."""
        position = fault.first
        for first, end, epoch, skipped in self._rewinds.get((fault.topic_id, fault.partition), ()):
            removed = bool(fault.epochs) and max(fault.epochs) < epoch
            if first <= position < end and (skipped or removed):
                position = end
        return "rewind" if position >= fault.end else None

    def _rows_of(self, table: str, sql: str, **parameters: Any) -> list[tuple[Any, ...]]:
        """Nothing where there is no such table: an older layout."""
        known = self._tables.rows(
            "SELECT count() FROM system.tables WHERE database = currentDatabase() "
            "AND name = {name:String}",
            name=table,
        )
        return [tuple(row) for row in self._tables.rows(sql, **parameters)] if known[0][0] else []

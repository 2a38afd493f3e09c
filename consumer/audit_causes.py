"""Recorded causes: what may have made a fault of the ledger without anything being wrong.

| fault | what explains it | where it is recorded |
|---|---|---|
| gap | each event in it was set aside; its offsets hold no event (markers, aborted or empty records, tombstones) | the dead-letter topic; the log, while it has them |
| gap, no rows, short | a rewind passed it over | `rewinds` |
| no rows, short | a rewind to a later epoch took its rows out, and did not come to its end | `rewinds` |
| short batch | as many dead letters, and each other event is in the table, or went from it by a rule | the dead-letter topic; the log, `events` |
| short batch | each of its events is in the table, and the sums were counted again later | the log, `events`, `rebuilds` |
| size not known | each of its events is in the table; a rewind took it out or passed it over | the log and `events`; `rewinds` |
| no rows | resends: each of its events is in the table, under the stamp of another batch | the log and `events` |
| no rows | its rows have expired | the TTL of `events`; the log |
| no rows | erasure: rows were deleted later, and not by their stamps | system.mutations; the log |
| gap, short, size not known | as by resends, where a mend left out what was erased | the log, `events`, system.mutations |
| overlap, double | the sums were counted again from `events` later, which knows each event by its id | `rebuilds` |

Letters, expiry, erasure and resends are looked for line by line, in whatever mixture (`audit_gone`).
Where the log has the lines no more letters are only counted, and the cause says so.

What left the log before it was read is a loss, and stays unexplained. So does what nobody recorded:
rows that were inserted by hand, a partition that was dropped.
"""  # noqa: E501 - a table

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from types import MappingProxyType
from typing import Any

from consumer.audit_gone import Gone, Line
from consumer.audit_letters import Letters, Places
from consumer.audit_log import Log
from consumer.audit_tables import Tables
from consumer.audit_tiles import Fault, Kind
from consumer.rewind_record import IN_ORDER, SKIPPED, Row, believed, reads_again
from schemas.tables import REBUILDS, REWINDS, SUMMED

_GAP_LINES = 1_000


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
                return self._rewound(fault) or self._short(fault)
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
    def _letters(self) -> Letters:
        return Letters(self._log.letters())

    def _of(self, fault: Fault) -> Places:
        whose = fault.topic_id, fault.partition
        seen = self._seen.get(whose, -1)
        return self._letters.within(fault, reads_again(self._rewinds.get(whose, ()), seen))

    def _in_table(self, fault: Fault) -> str | None:
        found = self._of(fault).in_table
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
        aside = self._of(fault).aside
        if why := self._not_in_log(fault):
            # A letter in each record, and nothing says that a record had more than those.
            if len({offset for offset, _ in aside}) == fault.rows:
                return f"{len(aside)} dead letters, one or more of each record, only counted: {why}"
            return None
        events, erased = 0, 0
        left: list[bytes] = []
        for line in self._lines(fault):
            events += 1
            left += [] if line.aside else [line.text]
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

    def _short(self, fault: Fault) -> str | None:
        """By its letters; or the sums were counted again. The ledger is written with the views:
        where it is short of what the table has, the sums may be."""
        if why := self._not_in_log(fault):
            places = self._of(fault)
            # of the rows that have landed, only those that the ledger lacks
            count = len(places.aside) + min(len(places.in_table), fault.unlisted)
            return f"{count} dead letters, only counted: {why}" if count >= fault.rows else None
        rules = [*self._gone.deletions, *self._gone.expiries]
        found = self._gone.account(self._lines(fault), rules, landed=False)
        if found.letters >= fault.rows:
            # As many as the ledger lacks: all others had landed. So they may have expired since,
            # and so have those that cannot be read.
            said = f"{found.letters} dead letters"
            if not found.missing:
                return said
            untold = self._gone.untold(found)
            return f"{said}; {untold}" if untold else None
        # That an event would have expired by now does not say that it had landed.
        if found.missing or found.unread or found.expired or not found.events:
            return None
        if any(self._rebuilds.get(m, -1) < fault.landed_ms for m in found.present):
            return None
        return f"{found.whole}, and the sums were rebuilt later"

    def _without_rows(self, fault: Fault) -> str | None:
        why = self._not_in_log(fault)
        if why:
            return self._gone.unchecked(fault, why)
        return self._gone.explain(fault, self._lines(fault))

    def _whole(self, fault: Fault) -> str | None:
        """Where each event that the log has there is in the table, or was erased or set aside."""
        if self._not_in_log(fault):
            return None
        found = self._gone.account(self._lines(fault), self._gone.deletions, landed=False)
        lacking = found.missing or found.unread or not found.events
        return None if lacking else found.whole

    def _lines(self, fault: Fault) -> Iterator[Line]:
        """Of a part, those that fall there."""
        places = self._of(fault)
        for offset, lines in self._log.lines(fault.partition, fault.first, fault.end):
            for number, text in enumerate(lines):
                aside = (offset, number) in places.aside
                line = Line(text, aside, aside or (offset, number) in places.in_table)
                if not fault.clickhouse_partition or (
                    line.place is not None and line.place.partition == fault.clickhouse_partition
                ):
                    yield line

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

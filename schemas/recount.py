"""Counts one ClickHouse partition of `events` into scratch tables, one for each table of views.

Steps 1, 2, 3 and 5 of the protocol that schemas/rebuild.py describes. All of it happens in tables
named `rebuild_<when it must be over>_<id>_...`, which nobody reads:

    ..._events_0, 1, 2       snapshots: the partition's parts, as hard links
    ..._events_1_found       keys in parts that are new then
    ..._events_1_fresh       of these, those not counted yet
    ..._sessions_daily, ...  the twins
    ..._sessions_daily_3     a twin and the days that are kept as they are, made under a hold
"""

from __future__ import annotations

import itertools
import math
import re
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from clickhouse_connect.driver.exceptions import DatabaseError

from schemas import hold
from schemas.connection import SchemaError
from schemas.hold import SCRATCH, Database
from schemas.layout import literal, quoted
from schemas.tables import EVENTS, SESSIONS

_CHUNK_ROWS = 1_000_000  # of one filling statement: whole days, at least one
_PAUSE_SECONDS = 0.05
_TIMEOUT = 159
_NAME = re.compile(rf"{SCRATCH}_(\d+)_[0-9a-f]{{8}}_\w+")

# What tells events apart: the sorting key of `events`.
_KEY = "project_id, toDate(created_at), session_id, created_at, id"
_FOUND_KEY = "project_id, date, session_id, created_at, id"
_SOURCE = "{source}"  # stands in a view's query for what it reads
_QUIETLY = {"async_insert": 0, "insert_deduplicate": 0, "insert_deduplication_token": ""}


class Anew(Exception):
    """What was counted no longer holds: begin again."""


class Slow(Exception):
    """There was too much that is new to count it in time: try again, nothing was counted."""


class Heavy(Slow):
    """There were too many sums to keep within the hold."""


@dataclass(frozen=True)
class Course:
    """How long it may take (`until`, on `clock`), and whom to tell."""

    until: float
    clock: Callable[[], float]
    sleep: Callable[[float], None]
    say: Callable[[str], None]

    def check(self) -> float:
        """The seconds that are left; SchemaError when there are none."""
        left = self.until - self.clock()
        if left <= 0:
            raise SchemaError("the time that the rebuild was given is over")
        return left


@dataclass(frozen=True)
class _Snapshot:
    """A table with the rows of one moment, and the parts that `events` had just before."""

    table: str
    parts: Sequence[tuple[str, int, int]]  # name, first and last block


class Recount:
    """One count, from the first snapshot on. `prefix` begins the names of its tables. `kept`: days
    ('2026-11-01') that are not counted: their sums stay as they are."""

    def __init__(
        self,
        server: Database,
        partition: str,
        tables: Sequence[str],
        course: Course,
        kept: Sequence[str] = (),
    ) -> None:
        self.server = server
        self.partition = partition
        self.kept = tuple(kept)
        self.tables = tuple(tables)
        self.key = uuid.uuid4().hex[:8]
        over = server.now_ms() // 1000 + math.ceil(course.check()) + 1
        self.prefix = f"{SCRATCH}_{over}_{self.key}"
        self._course = course
        self._numbers = itertools.count()
        self._queries: dict[str, tuple[str, str]] = {}
        self._snapshot = _Snapshot("", ())
        self._prepared = ""
        self._sources: dict[str, str] = {}
        self._mutations: frozenset[str] = frozenset()

    def twin(self, table: str) -> str:
        return self._scratch(table)

    def source(self, table: str) -> str:
        """What takes the place of the table's partition."""
        return self._sources.get(table, self.twin(table))

    def begin(self) -> int:
        """The first snapshot and the empty twins; the rows of the snapshot, copies included."""
        while self._unfinished_mutations():
            self._course.check()
            self._course.sleep(_PAUSE_SECONDS)
        self._mutations = self._known_mutations()
        self._snapshot = self._take_snapshot()
        for table in self.tables:
            self._queries[table] = view_query(self.server, table, _SOURCE)
            self.server.do(f"CREATE TABLE {self.twin(table)} AS {self.server.table(table)}")
        return self.rows()

    def rows(self) -> int:
        """Of the last snapshot, copies included."""
        return int(self.server.ask(f"SELECT count() FROM {self._snapshot.table}")[0][0])  # noqa: S608

    def targets_have_rows(self) -> bool:
        return bool(
            self.server.ask(
                "SELECT count() FROM system.parts WHERE active AND rows > 0 "
                "AND database = {database:String} AND table IN {tables:Array(String)} "
                "AND partition_id = {partition:String}",
                database=self.server.name,
                tables=list(self.tables),
                partition=self.partition,
            )[0][0]
        )

    def fill(self) -> float:
        """Count the first snapshot; the seconds that it took."""
        began = self._course.clock()
        chunks = list(self._chunks())
        for number, (first, last, rows) in enumerate(chunks, 1):
            for table in self.tables:
                days = f"toDate(created_at) BETWEEN {literal(first)} AND {literal(last)}"
                self._count(table, days)
                self._course.say(f"{table}: {rows} events counted ({number} of {len(chunks)})")
        return self._course.clock() - began

    def catch_up(self, until: float | None = None) -> float:
        """Count what came since the last snapshot, before `until`; the seconds that it took."""
        began = self._course.clock()
        before, self._snapshot = self._snapshot, self._take_snapshot()
        self.refuse_removals(before)
        found, fresh = f"{self._snapshot.table}_found", f"{self._snapshot.table}_fresh"
        here = f"_partition_id = {literal(self.partition)}"
        if before.parts:
            here += f" AND _part NOT IN ({', '.join(literal(name) for name, *_ in before.parts)})"
        # seen in `events` after the snapshot: nothing that the snapshot has more than the last one
        # is missed, and what has come after it is not in it, and not counted
        all_of_them = f"SELECT * FROM {found}"  # noqa: S608
        try:
            self._write(
                f"INSERT INTO {found} SELECT {_KEY} "  # noqa: S608
                f"FROM {self.server.table(EVENTS)} WHERE {here}",
                until,
            )
            self._write(
                f"INSERT INTO {fresh} {all_of_them} WHERE ({_FOUND_KEY}) NOT IN "  # noqa: S608
                f"(SELECT {_KEY} FROM {before.table} WHERE ({_KEY}) IN ({all_of_them}))",
                until,
            )
            if self.server.ask(f"SELECT count() FROM {found}")[0][0]:  # noqa: S608
                for table in self.tables:
                    keys = all_of_them if table == SESSIONS else f"SELECT * FROM {fresh}"  # noqa: S608
                    self._count(table, f"({_KEY}) IN ({keys})", until)
        except Slow:
            self._snapshot = before
            raise
        return self._course.clock() - began

    def keep_days(self, until: float) -> None:
        """Under a hold: put the sums of the days that are kept beside what was counted. All that
        was inserted is in them, and nothing comes until the partition is replaced."""
        for table, source in self._sources.items():
            self.server.do(
                f"ALTER TABLE {source} ATTACH PARTITION ID {literal(self.partition)} "
                f"FROM {self.twin(table)}"
            )
            try:
                self._write(
                    f"INSERT INTO {source} SELECT * FROM {self.server.table(table)} "  # noqa: S608
                    f"WHERE _partition_id = {literal(self.partition)} AND date IN ({self._days})",
                    until,
                )
            except Slow as slow:
                raise Heavy("there were too many sums to keep within the hold") from slow

    def refuse_removals(self, before: _Snapshot | None = None) -> None:
        """Raises Anew when rows may have gone from `events` since the first snapshot (the parts are
        compared with those of `before`, by default the last snapshot's)."""
        if self._known_mutations() - self._mutations:
            raise Anew(f"rows of {EVENTS} were changed or deleted meanwhile")
        now = self._parts()
        for _, first, last in (before or self._snapshot).parts:
            if not any(first >= least and last <= most for _, least, most in now):
                raise Anew(f"rows of {EVENTS} were dropped meanwhile")

    # --- its statements ----------------------------------------------------------------------

    @property
    def _days(self) -> str:
        return ", ".join(map(literal, self.kept))

    @property
    def _counted(self) -> str:
        return f"toDate(created_at) NOT IN ({self._days})" if self.kept else "1"

    def _scratch(self, name: str) -> str:
        return self.server.table(f"{self.prefix}_{name}")

    def _write(self, statement: str, until: float | None = None) -> None:
        left = self._course.check()
        if until is not None:
            left = min(left, until - self._course.clock())
        try:
            self.server.do(statement, **_QUIETLY, max_execution_time=max(1, math.ceil(left)))
        except DatabaseError as error:
            if until is None or error.code != _TIMEOUT:
                raise
            raise Slow("there was too much to count within the hold") from error

    def _count(self, table: str, condition: str, until: float | None = None) -> None:
        """The view's query over the snapshot's events, each once, into the twin."""
        columns, query = self._queries[table]
        source = (
            f"(SELECT * FROM {self._snapshot.table} FINAL WHERE {condition} AND {self._counted})"  # noqa: S608
        )
        statement = f"INSERT INTO {self.twin(table)} ({columns}) {query.replace(_SOURCE, source)}"
        try:
            self._write(statement, until)
        except Slow as slow:  # how much it has written before it was stopped cannot be told
            raise Anew(str(slow)) from slow

    def prepare(self) -> None:
        """Make the tables of the next round: so much less to do under a hold."""
        if not self._prepared:
            table = self._scratch(f"{EVENTS}_{next(self._numbers)}")
            self.server.do(f"CREATE TABLE {table} AS {self.server.table(EVENTS)}")
            # its parts are read once or twice: merging them would be for nothing
            self.server.do(f"SYSTEM STOP MERGES {table}")
            self._prepared = table
            for name in ("found", "fresh"):
                self.server.do(
                    f"CREATE TABLE {table}_{name} ENGINE = MergeTree ORDER BY tuple() AS "  # noqa: S608
                    "SELECT project_id, toDate(created_at) AS date, session_id, created_at, id "
                    f"FROM {table} WHERE 0"
                )

    def prepare_to_keep(self) -> None:
        """Tables for one hold: what one that came too late has put there is in no other."""
        number = next(self._numbers)
        for table in self.tables if self.kept else ():
            self._sources[table] = self._scratch(f"{table}_{number}")
            self.server.do(f"CREATE TABLE {self._sources[table]} AS {self.server.table(table)}")

    def _take_snapshot(self) -> _Snapshot:
        self.prepare()
        table, self._prepared = self._prepared, ""
        parts = self._parts()
        self.server.do(
            f"ALTER TABLE {table} ATTACH PARTITION ID {literal(self.partition)} "
            f"FROM {self.server.table(EVENTS)}"
        )
        return _Snapshot(table, parts)

    def _parts(self) -> Sequence[tuple[str, int, int]]:
        rows = self.server.ask(
            "SELECT name, min_block_number, max_block_number FROM system.parts WHERE active "
            "AND database = {database:String} AND table = {table:String} "
            "AND partition_id = {partition:String}",
            database=self.server.name,
            table=EVENTS,
            partition=self.partition,
        )
        return [(name, least, most) for name, least, most in rows]

    def _chunks(self) -> Iterator[tuple[str, str, int]]:
        """First day, last day and rows of what one statement counts."""
        first, chunk_rows, last = "", 0, ""
        for day, rows in self.server.ask(
            "SELECT toString(toDate(created_at)) AS day, count() "  # noqa: S608
            f"FROM {self._snapshot.table} WHERE {self._counted} GROUP BY day ORDER BY day"
        ):
            if first and chunk_rows + rows > _CHUNK_ROWS:
                yield first, last, chunk_rows
                first, chunk_rows = "", 0
            first, last, chunk_rows = first or day, day, chunk_rows + rows
        if first:
            yield first, last, chunk_rows

    def _known_mutations(self) -> frozenset[str]:
        return frozenset(row[0] for row in self._ask_mutations("1"))

    def _unfinished_mutations(self) -> bool:
        return bool(self._ask_mutations("NOT is_done AND NOT is_killed"))

    def _ask_mutations(self, condition: str) -> Sequence[Sequence[Any]]:
        return self.server.ask(
            "SELECT mutation_id FROM system.mutations WHERE database = {database:String} "  # noqa: S608
            f"AND table = {{table:String}} AND {condition}",
            database=self.server.name,
            table=EVENTS,
        )


def view_query(server: Database, table: str, source: str) -> tuple[str, str]:
    """Columns and SELECT of what the view of `table` writes, read from `source` in place of
    `events`. Raises SchemaError when the view is not as the layout has it."""
    view = f"{table}_mv"
    found = server.ask(
        "SELECT as_select FROM system.tables "
        "WHERE database = {database:String} AND name = {view:String}",
        database=server.name,
        view=view,
    )
    reads = re.compile(rf"\bFROM {re.escape(quoted(server.name))}\.`?{EVENTS}`?(?![\w.`])")
    live = found[0][0] if found else ""
    query, times = reads.subn(lambda _: f"FROM {source} AS {EVENTS}", live)
    if times != 1:
        raise SchemaError(
            f"{server.table(view)} is missing, or does not read {EVENTS} as the layout does: "
            "penstock-schemas check says what mends it"
        )
    columns = server.ask(
        "SELECT name FROM system.columns "
        "WHERE database = {database:String} AND table = {view:String} ORDER BY position",
        database=server.name,
        view=view,
    )
    return ", ".join(quoted(row[0]) for row in columns), query


def drop_leftovers(server: Database) -> None:
    """What rebuilds that died have left, as far as their time is over."""
    hold.drop_expired(server)
    now_seconds = server.now_ms() // 1000
    for name in _scratch_tables(server, SCRATCH):
        found = _NAME.fullmatch(name)
        if found and int(found[1]) < now_seconds:
            server.do(f"DROP TABLE IF EXISTS {server.table(name)} SYNC")


def drop_scratch(server: Database, prefix: str) -> None:
    for name in _scratch_tables(server, prefix):
        server.do(f"DROP TABLE IF EXISTS {server.table(name)} SYNC")


def _scratch_tables(server: Database, prefix: str) -> list[str]:
    rows = server.ask(
        "SELECT name FROM system.tables WHERE database = {database:String} "
        "AND startsWith(name, {prefix:String})",
        database=server.name,
        prefix=f"{prefix}_",
    )
    return [row[0] for row in rows]

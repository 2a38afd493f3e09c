"""A real ClickHouse as a table's contract meets it, through the consumer's own adapter."""

from __future__ import annotations

import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, fields

import orjson

from consumer.batch import Batch, Filling, Records
from consumer.clickhouse import ClickHouseTable
from consumer.commands import InsertAnswered, Outcome
from consumer.config import consumer_settings
from consumer.ledger import ROWS_VERSION, Intent, Source, token
from consumer.runner import clock
from schemas.hold import Database, name, place, release
from schemas.settings import load
from schemas.tables import (
    BATCHES,
    DEDUPLICATION_WINDOW,
    EVENTS,
    PAGES_DAILY,
    REBUILDS,
    SESSIONS_DAILY,
    SUMMED,
)
from tests.contract.table_port import BAD, THROWN_ON, Late
from tests.fixtures.clickhouse import ClickHouse, OwnClickHouse

_MONTHS = {"a": 1_767_225_600_000, "b": 1_769_904_000_000}  # 2026-01-01, 2026-02-01
_OTHERS, _MONTH = 1_430_000_000_000, 31 * 24 * 3_600_000  # from 2015 on


class _Unmended(ClickHouseTable):
    """Of a server that does not say that it mends its deduplication log."""

    def _mends_log(self) -> bool:
        return False


@dataclass(frozen=True)
class _Gated(Batch):
    """Its text goes out when the gate is opened: whoever sends it was suspended."""

    gate: threading.Event = field(default_factory=threading.Event, compare=False)
    sending: threading.Event = field(default_factory=threading.Event, compare=False)

    def body(self) -> Iterator[bytes]:
        for chunk in super().body():
            self.sending.set()
            self.gate.wait(30)
            yield chunk


class _Late:
    def __init__(self, table: ClickHouseTable, batch: Batch, token: str) -> None:
        given = {each.name: getattr(batch, each.name) for each in fields(Batch)}
        self._batch = _Gated(**given)
        self._pool = ThreadPoolExecutor(1)
        self._answer: Future[InsertAnswered] = self._pool.submit(
            table.insert, self._batch, token, clock() + 20.0, None
        )
        assert self._batch.sending.wait(30)

    def arrive(self) -> InsertAnswered:
        self._batch.gate.set()
        answer = self._answer.result(30)
        self._pool.shutdown()
        return answer


class RealServer:
    """A database with the project's layout, and one more view, which throws on what is `unwanted`.
    Each test has a topic and a project of its own there."""

    names = {"a": "202601", "b": "202602"}  # noqa: RUF012

    def __init__(self, clickhouse: ClickHouse) -> None:
        values = load("consumer", None, {"PENSTOCK_CLICKHOUSE_URL": clickhouse.url})
        self._clickhouse = clickhouse
        self._settings = consumer_settings(values)
        self._client = clickhouse.client()
        self._throws = False
        self._window = DEDUPLICATION_WINDOW
        self._adapter = self.table = ClickHouseTable(self._settings, clock)
        self.source = Source("cluster", "events", "", 3)
        for statement in (
            f"SYSTEM STOP MERGES {EVENTS}",  # equal ids must stay to be counted
            f"CREATE TABLE others AS {EVENTS}",  # a row of another project in each partition
            "INSERT INTO others (project_id, created_at) VALUES"
            f" ('others', {_MONTHS['a'] / 1000}), ('others', {_MONTHS['b'] / 1000})",
            "CREATE TABLE unwanted (city String) ENGINE = MergeTree ORDER BY city",
            "CREATE TABLE strict (project_id String, path String, c UInt64)"
            " ENGINE = SummingMergeTree ORDER BY (project_id, path)"
            f" SETTINGS non_replicated_deduplication_window = {DEDUPLICATION_WINDOW}",
            "CREATE MATERIALIZED VIEW strict_mv TO strict AS SELECT project_id, path, count()"
            " + 0 * sum(throwIf(city IN (SELECT city FROM unwanted))) AS c"
            f" FROM {EVENTS} GROUP BY project_id, path",
        ):
            self._do(statement)

    def fresh(self) -> RealServer:
        """For the next test."""
        if self._throws:
            self.takes_all()
        self._throws = False
        self._do(f"TRUNCATE TABLE {REBUILDS}")
        self.set_window(DEDUPLICATION_WINDOW)
        self.table = self._adapter
        self._project = uuid.uuid4().hex
        self.source = Source("cluster", "events", f"id-{self._project}", 3)
        return self

    def _do(self, statement: str) -> None:
        self._client.command(statement)

    def _of_each(self, figure: str, table: str) -> Counter[int]:
        rows = self._client.query(
            f"SELECT path, {figure} FROM {table} WHERE project_id = '{self._project}' GROUP BY path"
        ).result_rows
        return Counter({int(path): int(times) for path, times in rows})

    # --- behind the port's back ----------------------------------------------------------------

    def line(self, offset: int, part: str, fault: str = "") -> bytes:
        if fault == BAD:
            return b'{"offset": %d' % offset
        return _line(self._project, offset, _MONTHS[part] + offset, fault)

    def clock(self) -> float:
        return clock()

    def now_ms(self) -> int:
        return int(time.time() * 1000)

    def begin(self, batch: Batch, token: str) -> Late:
        return _Late(self.table, batch, token)

    def rows(self) -> Counter[int]:
        return self._of_each("count()", EVENTS)

    def counted(self) -> Counter[int]:
        if self._throws:
            return self._of_each("sum(c)", "strict")
        found = self._of_each("sum(views)", PAGES_DAILY)
        ((by_day,),) = self._client.query(
            f"SELECT sum(events) FROM {SESSIONS_DAILY} WHERE project_id = '{self._project}'"
        ).result_rows
        assert by_day == found.total(), "the summed tables differ"
        return found

    def throwing(self) -> None:
        self._do(f"INSERT INTO unwanted VALUES ('{THROWN_ON}')")
        self._throws = True

    def takes_all(self) -> None:
        """Its query stays as it is: a view with another would not know the tokens of before."""
        self._do("TRUNCATE TABLE unwanted")

    def set_window(self, entries: int) -> None:
        if entries != self._window:
            for table in (EVENTS, *SUMMED):
                self._do(
                    f"ALTER TABLE {table} MODIFY SETTING"
                    f" non_replicated_deduplication_window = {entries}"
                )
        self._window = entries

    def others(self, entries: int) -> None:
        """One batch, of so many months: an entry each in the log of the table."""
        source = Source("cluster", "others", f"id-{uuid.uuid4().hex}", 9)
        values = [_line("others", n, _OTHERS + n * _MONTH, "") for n in range(entries)]
        filling = Filling(0)
        filling.add(Records(range(entries), values, entries, 0), 0.0)
        batch = filling.close()
        note = Intent(0, entries, entries, batch.digest, 0, ROWS_VERSION, source.topic_id, 1)
        answer = self.table.insert(batch, token(source, batch, note), clock() + 30.0, None)
        assert answer.outcome is Outcome.LANDED, answer.why

    @contextmanager
    def holding(self) -> Iterator[None]:
        database = Database(self._client, self._clickhouse.database)
        until_ms = self.now_ms() + 60_000
        constraint = name("contract", until_ms)
        place(database, constraint, until_ms)
        yield
        release(database, constraint)

    def lose_part(self, part: str) -> None:
        self._do(f"ALTER TABLE {EVENTS} DROP PARTITION {self.names[part]}")

    def lose_rows(self, part: str) -> None:
        """Replacing a partition leaves the log as it is; a mutation would do, after seconds."""
        self._do(f"ALTER TABLE {EVENTS} REPLACE PARTITION {self.names[part]} FROM others")

    def lose_ledger(self) -> None:
        self._do(f"TRUNCATE TABLE {BATCHES}")

    def lose_view(self) -> None:
        for table in SUMMED:
            self._do(f"TRUNCATE TABLE {table}")

    def forget_log(self) -> None:
        self.table = _Unmended(self._settings, clock)


class StoppableServer(RealServer):
    """One of a test's own."""

    def __init__(self, clickhouse: OwnClickHouse) -> None:
        super().__init__(clickhouse)
        self._own = clickhouse

    def stop(self) -> None:
        self._own.kill()

    def start(self) -> None:
        self._own.start()


def _line(project: str, offset: int, created_at: int, city: str) -> bytes:
    return orjson.dumps(
        {
            "id": str(uuid.uuid5(uuid.NAMESPACE_OID, f"{project}/{offset}")),
            "project_id": project,
            "session_id": "s",
            "name": "screen_view",
            "created_at": created_at,
            "received_at": 1,
            "path": str(offset),
            "city": city,
        }
    )

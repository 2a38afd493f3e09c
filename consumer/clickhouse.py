"""The table: inserts, and what the stamps say, through clickhouse-connect.

**One insert is one block.** A block's number is part of its identity in the deduplication log, so
the settings that cut blocks are pinned far above any batch, and everything that could change the
cut between an attempt and its replay is switched off. A setting that a server does not know would
be an error of every insert, so those are left out by asking `system.settings` first.

**The body is read once**, sent chunked. The server sees its end only when all of it was read; so
the deadline, looked at before each chunk and once more after the last, bounds when an insert can
begin to land. What the transport would send again, after a cut TLS connection or a redirect, would
be the rest of a body under the token of the whole: `_Body` refuses to be read twice.

**Errors** are told apart by what they leave in doubt: nothing was sent (`UNSENT`), the server says
why and another try may help (`FAILED`), the content is refused (`REFUSED`). All but the first may
have landed in part: a materialized view can throw after its source table has landed.
"""

from __future__ import annotations

import contextlib
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import urllib3
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError, DatabaseError
from clickhouse_connect.driver.httputil import get_pool_manager

from consumer.batch import Batch
from consumer.by_number import row_of
from consumer.commands import (
    CoverageRead,
    InsertAnswered,
    Isolated,
    Outcome,
    ReadFailed,
    Restored,
    Sifted,
    StampsRead,
)
from consumer.config import ConsumerSettings
from consumer.content import Content
from consumer.coverage import covered
from consumer.errors import (
    PASSING,
    REFUSED_BY_A_CONSTRAINT,
    TOO_MANY_PARTS,
    UNKNOWN_SETTING,
    UNREADABLE,
)
from consumer.ledger import Source
from consumer.recovery import Coverage
from schemas.check import other_targets
from schemas.connection import CONNECT_SECONDS, SchemaError, open_client, told
from schemas.logs import fact
from schemas.rebuilds import counted_after, rebuilt_since
from schemas.restore import Span, restore
from schemas.tables import BATCHES, DEDUPLICATED, HOLD, LANDING, SUMMED

log = logging.getLogger("consumer.clickhouse")

_READ_SECONDS = 30
_ANSWER_SECONDS = 10  # for an answer to travel, on top of max_execution_time

_BLOCK_ROWS = 1 << 24
_BLOCK_BYTES = 1 << 32
INSERT_SETTINGS: Mapping[str, int] = {
    # one synchronous insert, deduplicated in the table and in every view
    "async_insert": 0,
    "wait_for_async_insert": 1,
    "insert_deduplicate": 1,
    "deduplicate_blocks_in_dependent_materialized_views": 1,
    "materialized_views_ignore_errors": 0,
    # one block
    "max_insert_threads": 1,
    "parallel_view_processing": 0,
    "input_format_parallel_parsing": 0,
    "max_insert_block_size": _BLOCK_ROWS,
    "max_insert_block_size_bytes": 0,
    "min_insert_block_size_rows": _BLOCK_ROWS,
    "min_insert_block_size_bytes": _BLOCK_BYTES,
    "min_insert_block_size_rows_for_materialized_views": 0,
    "min_insert_block_size_bytes_for_materialized_views": 0,
    "input_format_max_block_size_bytes": 0,
    # events of any number of months: a refusal for that no retry would heal
    "max_partitions_per_insert_block": 0,
    # equal keys of one block collapse in merges and under FINAL, at a third less CPU an insert
    "optimize_on_insert": 0,
    # every line or none
    "input_format_allow_errors_num": 0,
    "input_format_allow_errors_ratio": 0,
    "input_format_skip_unknown_fields": 0,
    "input_format_null_as_default": 1,
    "input_format_defaults_for_omitted_fields": 1,
}

_BEHIND = "while pushing to view"
_CLOCK_MARGIN_MS = 5_000  # for clocks that were set since
_SKEW_MS = 1_000  # by which the difference of two clocks can be measured wrongly

_CONSTRAINT = re.compile(r"Constraint `?(\w+)")
_WINDOW = re.compile(r"\b(replicated_|non_replicated_)deduplication_window = (\d+)")
_WINDOW_SECONDS = re.compile(r"\breplicated_deduplication_window_seconds = (\d+)")


@dataclass(frozen=True, slots=True)
class _Server:
    """Facts about the server. Times are epoch milliseconds of our own clock."""

    started_ms: int
    clock_ahead_ms: int
    window_entries: int
    window_seconds: float | None
    restart_keeps_log: bool


_RESTARTED = "the server was restarted since the first attempt, and its deduplication log can lie"


class _DeadlinePassed(Exception):
    pass


class _ReadTwice(Exception):
    pass


class ClickHouseTable:
    """See `ports.Table`. `clock` is the protocol's, in seconds. `doubted` is called for each mend
    that leaves sums as they are, right or wrong."""

    def __init__(
        self,
        settings: ConsumerSettings,
        clock: Callable[[], float],
        doubted: Callable[[], None] = lambda: None,
    ) -> None:
        self._doubted = doubted
        self._settings = settings
        self._database = settings.clickhouse.database
        self._clock = clock
        self._lock = threading.Lock()
        self._client: Client | None = None
        self._pinned: dict[str, int] = {}
        self._pool = urllib3.PoolManager(
            timeout=urllib3.Timeout(connect=CONNECT_SECONDS, read=_READ_SECONDS), retries=False
        )

    def client(self) -> Client:
        """The connected client; raises ClickHouseError while the server is away."""
        with self._lock:
            if self._client is None:
                client = self._connected(
                    self._settings.limits.insert_max_seconds + _ANSWER_SECONDS,
                    self._settings.insert_threads + 2,
                )
                self._pinned = {
                    name: value
                    for name, value in INSERT_SETTINGS.items()
                    if name in client.server_settings
                }
                self._client = client
            return self._client

    def _forget(self, client: Client) -> None:
        """It may be another server from now on, of a version that knows other settings."""
        with self._lock:
            if self._client is client:
                self._client = None

    def _connected(self, answer_seconds: float, connections: int) -> Client:
        pool = get_pool_manager(maxsize=connections)
        address = self._settings.clickhouse
        return open_client(address, answer_seconds, database=address.database, pool_mgr=pool)

    @contextlib.contextmanager
    def _patient(self) -> Iterator[Client]:
        """For what reads whole tables, after a doubt: it may take longer than an insert."""
        client = self._connected(self._settings.restore_seconds, 1)
        try:
            yield client
        finally:
            client.close()

    # --- inserting ---------------------------------------------------------------------------

    def insert(
        self, batch: Batch, token: str, deadline: float, first_attempt_ms: int | None
    ) -> InsertAnswered:
        """The batch as one block under its token. See `ports.Table`."""
        try:
            client = self.client()
            if first_attempt_ms is not None and self._restarted(client, first_attempt_ms):
                return InsertAnswered(Outcome.RESTARTED, _RESTARTED, heard=True)
        except (ClickHouseError, urllib3.exceptions.HTTPError) as error:
            return InsertAnswered(Outcome.UNSENT, told(error))
        settings: dict[str, object] = {
            **self._pinned,
            "insert_deduplication_token": token,
            "max_execution_time": self._settings.limits.insert_max_seconds,
        }
        body = _Body(batch, deadline, self._clock)
        try:
            summary = client.raw_insert(
                LANDING,
                insert_block=body,  # type: ignore[arg-type]  # an iterable; the client wants less
                settings=settings,
                fmt="JSONEachRow",
            )
        except _DeadlinePassed:
            outcome = Outcome.FAILED if body.begun else Outcome.UNSENT
            return InsertAnswered(outcome, "its deadline has passed", heard=True)
        except _ReadTwice:
            return InsertAnswered(Outcome.FAILED, "the connection was cut, or redirected")
        except DatabaseError as error:
            if error.code in (None, UNKNOWN_SETTING):
                self._forget(client)
            return _answer(error, sent=body.begun)
        except UnicodeDecodeError:  # the client's, of an error that quotes a line
            return InsertAnswered(Outcome.REFUSED, "a line is not UTF-8", heard=True)
        except (ClickHouseError, urllib3.exceptions.HTTPError, OSError) as error:
            outcome = Outcome.FAILED if body.begun else Outcome.UNSENT
            return InsertAnswered(outcome, told(error))
        try:
            # Also between the look above and the send, and a view's log can lie as the table's can.
            if first_attempt_ms is not None and self._restarted(client, first_attempt_ms):
                return InsertAnswered(Outcome.RESTARTED, _RESTARTED, heard=True)
        except (ClickHouseError, urllib3.exceptions.HTTPError) as error:
            return InsertAnswered(Outcome.FAILED, told(error))
        rows = summary.summary.get("read_rows")  # a proxy can have taken the header out
        return InsertAnswered(Outcome.LANDED, heard=True, rows=None if rows is None else int(rows))

    def _restarted(self, client: Client, since_ms: int) -> bool:
        """Whether the server was restarted since then and cannot vouch for its log."""
        server = self._server(client)
        return not server.restart_keeps_log and server.started_ms >= since_ms

    # --- reading -----------------------------------------------------------------------------

    def coverage(
        self, source: Source, offset: int, since_ms: int | None, *, whole: bool
    ) -> CoverageRead | ReadFailed:
        with (
            _failures() as failed,
            self._patient() if whole else contextlib.nullcontext(self.client()) as client,
        ):
            server = self._server(client)
            batches = covered(
                client,
                source,
                offset,
                whole=whole,
                clock_ahead_ms=server.clock_ahead_ms,
                # that many lines since the oldest of them, and all is old: see Coverage.old
                foldable_from=server.window_entries // 2 + 1,
            )
            if since_ms is None:
                since_ms = min((c.landed_ms for c in batches), default=int(time.time() * 1000))
            entries = client.query(
                f"SELECT count() FROM {BATCHES} WHERE landed_at >= fromUnixTimestamp64Milli("
                "{since:Int64})",
                parameters={"since": max(0, since_ms + server.clock_ahead_ms - _CLOCK_MARGIN_MS)},
            ).result_rows[0][0]
            return CoverageRead(
                Coverage(
                    batches=batches,
                    entries_since=entries,
                    window_entries=server.window_entries,
                    window_seconds=server.window_seconds,
                    server_started_ms=server.started_ms,
                    restart_keeps_log=server.restart_keeps_log,
                )
            )
        return failed[0]

    # --- after a doubt -----------------------------------------------------------------------

    def stamps(
        self, source: Source, batch: Batch, epoch: int, since_ms: int
    ) -> StampsRead | ReadFailed:
        with _failures() as failed:
            client = self.client()
            missing, partitions = Content(client).missing(source, batch, epoch)
            since = since_ms + self._server(client).clock_ahead_ms - _CLOCK_MARGIN_MS
            rebuilt = rebuilt_since(client, self._database, partitions, since)
            return StampsRead(frozenset(missing), rebuilt)
        return failed[0]

    def sift(self, batch: Batch, landed: frozenset[str], *, by_ids: bool) -> Sifted | ReadFailed:
        with _failures() as failed, self._patient() as client:
            return Content(client).sift(batch, landed, by_ids=by_ids)
        return failed[0]

    def isolate(
        self, source: Source, batch: Batch, refusal: str, landed_epoch: int | None
    ) -> Isolated | ReadFailed:
        with _failures() as failed:
            content = Content(self.client())
            letters = content.letters(source, batch, refusal, landed_epoch, self._pinned)
            return Isolated(letters)
        return failed[0]

    def restore(
        self,
        source: Source,
        first: int,
        end: int,
        partitions: frozenset[str],
        asked_ms: int,
        *,
        last: bool = False,
    ) -> Restored | ReadFailed:
        with _failures() as failed:
            # After an outage many ranges are mended at once: one rebuild serves all that wait.
            asked = asked_ms + self._server(self.client()).clock_ahead_ms + _SKEW_MS
            counted = counted_after(self.client(), self._database, partitions, SUMMED, asked)
            with self._patient() as client:
                done = restore(
                    client,
                    self._database,
                    Span(source.topic_id, source.partition, first, end),
                    partitions,
                    topic=source.topic,
                    seconds=self._settings.restore_seconds,
                    counted=counted,
                    last=last,
                )
            for doubt in done.doubts:
                fact(log, logging.WARNING, "sums may be wrong and are left as they are",
                     partition=source.partition, first=first, end=end, mend=doubt.mend,
                     clickhouse_partition=doubt.partition, tables=doubt.tables,
                     why=doubt.why)  # fmt: skip
            if done.doubts:
                self._doubted()
            return Restored()
        return failed[0]

    # --- the server --------------------------------------------------------------------------

    def _server(self, client: Client) -> _Server:
        before = time.time()
        uptime, now_ms = client.query(
            "SELECT uptime(), toUnixTimestamp64Milli(now64(3))"
        ).result_rows[0]
        ours_ms = int((before + time.time()) * 500)
        entries, seconds, replicated = self._windows(client)
        return _Server(
            # uptime is in whole seconds rounded down: the later start is the careful one
            started_ms=ours_ms - uptime * 1000,
            clock_ahead_ms=now_ms - ours_ms,
            window_entries=entries,
            window_seconds=seconds,
            restart_keeps_log=replicated or self._mends_log(),
        )

    def _windows(self, client: Client) -> tuple[int, float | None, bool]:
        """The smallest window over all tables that a replay must find its token in, those of other
        people's views too."""
        others = {target for _, target, _ in other_targets(client, self._database)}
        rows = client.query(
            "SELECT engine, engine_full FROM system.tables "
            "WHERE (database, name) IN {names:Array(Tuple(String, String))} "
            "AND endsWith(engine, 'MergeTree')",
            parameters={"names": sorted({*others, *((self._database, n) for n in DEDUPLICATED)})},
        ).result_rows
        entries, seconds, replicated = [], [], True
        for engine, full in rows:
            own = "replicated_" if engine.startswith("Replicated") else "non_replicated_"
            replicated = replicated and own == "replicated_"
            found = [int(n) for kind, n in _WINDOW.findall(full) if kind == own]
            entries.append(found[0] if found else 0)
            if own == "replicated_":
                stated = _WINDOW_SECONDS.search(full)
                seconds.append(float(stated.group(1)) if stated else 3600.0)
        return min(entries, default=0), min(seconds, default=None), replicated and bool(rows)

    def _mends_log(self) -> bool:
        """The embedded front mends its deduplication log at start, and says so."""
        response = self._pool.request("GET", f"{self._settings.clickhouse.base_url}/penstock")
        if response.status != 200:
            return False
        try:
            said = response.json()
        except ValueError:
            return False
        return isinstance(said, dict) and said.get("mends_deduplication_log") is True


class _Body:
    """A batch's body that stops at the deadline, and can be read once. `begun`: bytes may have
    left."""

    def __init__(self, batch: Batch, deadline: float, clock: Callable[[], float]) -> None:
        self._batch = batch
        self._deadline = deadline
        self._clock = clock
        self.begun = False

    def __iter__(self) -> Iterator[bytes]:
        if self.begun:
            raise _ReadTwice
        return self._chunks()

    def _chunks(self) -> Iterator[bytes]:
        for chunk in self._batch.body():
            self._look()
            self.begun = True
            yield chunk
        self._look()

    def _look(self) -> None:
        if self._clock() >= self._deadline:
            raise _DeadlinePassed


@contextlib.contextmanager
def _failures() -> Iterator[list[ReadFailed]]:
    """Catches what a read can fail with, and leaves the one event that says so."""
    failed: list[ReadFailed] = []
    try:
        yield failed
    except (ClickHouseError, SchemaError, urllib3.exceptions.HTTPError, OSError) as error:
        failed.append(ReadFailed(told(error), spent=isinstance(error, SchemaError)))


def _answer(error: DatabaseError, *, sent: bool) -> InsertAnswered:
    why = told(error)
    if error.code is None:
        return InsertAnswered(Outcome.FAILED if sent else Outcome.UNSENT, why)
    # What is quoted can say anything: believed only where the server names a row, and no view.
    named, behind = row_of(why) is not None, _BEHIND in why
    content = error.code not in PASSING and (error.code in UNREADABLE or named or behind)
    if error.code == TOO_MANY_PARTS and "too many partitions" in why.lower():
        content = True
    if error.code == REFUSED_BY_A_CONSTRAINT and _constraint(why).startswith(HOLD):
        content = False
    untouched = error.code in UNREADABLE and named and not behind
    outcome = Outcome.REFUSED if content else Outcome.FAILED
    return InsertAnswered(outcome, why, heard=True, untouched=content and untouched)


def _constraint(why: str) -> str:
    """The constraint that a refusal names, before it quotes anything."""
    named = _CONSTRAINT.search(why)
    return named[1] if named else ""

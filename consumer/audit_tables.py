"""What the audit reads out of ClickHouse: ledger and stamps as two streams in one order, joined.

Both go through a file (about 100 bytes a batch each): while a fault is looked up in Kafka's log, or
the other query is being answered, a server would give up a reader that does not read.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import orjson
from clickhouse_connect.driver.client import Client

from consumer.audit_run import Part
from consumer.config import ConsumerSettings
from schemas.connection import open_client
from schemas.queries import load

_QUERY_SECONDS = 3600
_COPIED_BYTES = 1 << 20

Range = tuple[str, int, int, int]  # topic id, partition, first, end


@dataclass(frozen=True, slots=True)
class Listed:
    """What the ledger has of one partition. `first` to `end`: where the time range lies. `epoch`:
    the latest, of any time."""

    topic_id: str
    topic: str
    partition: int
    parts: int
    first: int
    end: int
    epoch: int


@dataclass(frozen=True)
class Scope:
    """What is looked at. No `ranges`: all. `since_ms` to before `until_ms`, 0 and 0: ever."""

    topic_ids: Sequence[str]
    other_topic_ids: Sequence[str]
    ranges: Sequence[Range] = ()
    partitions: Sequence[str] = ()
    since_ms: int = 0
    until_ms: int = 0


@dataclass
class Tables:
    """ClickHouse, asked."""

    client: Client
    now_ms: int = field(default=0, init=False)  # of the server

    def ask(self, name: str, **parameters: Any) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in self.rows(load(name), **parameters)]

    def rows(self, sql: str, **parameters: Any) -> Sequence[Sequence[Any]]:
        return self.client.query(sql, parameters=parameters).result_rows

    def listed(self, since_ms: int, until_ms: int) -> list[Listed]:
        found = self.ask("audit_partitions", since=since_ms, until=until_ms)
        (row,) = self.rows("SELECT toUnixTimestamp64Milli(now64(3))")
        self.now_ms = int(row[0])
        return [Listed(*row) for row in found]

    def parts(self, scope: Scope) -> Iterator[tuple[str, int, Iterator[Part]]]:
        """(topic id, partition, its parts in order); each is to be used up before the next."""
        with contextlib.ExitStack() as files:
            listed = self._spooled(
                files,
                "audit_ledger",
                topic_ids=list(scope.topic_ids),
                ranges=list(scope.ranges),
            )
            stamped = self._spooled(
                files,
                "audit_stamps",
                other_topic_ids=list(scope.other_topic_ids),
                ranges=list(scope.ranges),
                partitions=list(scope.partitions),
                since=scope.since_ms,
                until=scope.until_ms,
            )
            merged = groupby(joined(listed, stamped), key=_whose)
            for (topic_id, partition), parts in merged:
                yield topic_id, partition, (part for _, _, part in parts)

    def _spooled(
        self, files: contextlib.ExitStack, name: str, **parameters: Any
    ) -> Iterator[list[Any]]:
        spool = tempfile.TemporaryFile(prefix="penstock-audit-")  # noqa: SIM115 - closed by `files`
        files.callback(spool.close)
        stream: Any = self.client.raw_stream(
            load(name),
            parameters=parameters,
            fmt="JSONCompactEachRow",
            settings={"output_format_json_quote_64bit_integers": 0},
        )
        with stream:
            shutil.copyfileobj(stream, spool, _COPIED_BYTES)
        spool.seek(0)
        return map(orjson.loads, spool)


def connected(settings: ConsumerSettings) -> Client:
    """A client for reads that take long. Raises ClickHouseError."""
    address = settings.clickhouse
    return open_client(address, _QUERY_SECONDS, database=address.database)


def _whose(row: tuple[str, int, Part]) -> tuple[str, int]:
    return row[0], row[1]


def joined(
    listed: Iterable[list[Any]], stamped: Iterable[list[Any]]
) -> Iterator[tuple[str, int, Part]]:
    """Both, by (topic id, partition, first, end, epoch, ClickHouse partition), in that order."""
    ledger, stamps = iter(listed), iter(stamped)
    row, stamp = next(ledger, None), next(stamps, None)
    while row is not None or stamp is not None:
        if stamp is None or (row is not None and row[:6] < stamp[:6]):
            assert row is not None
            found, stamps_of_it, row = row, 0, next(ledger, None)
        elif row is None or stamp[:6] < row[:6]:
            found, stamps_of_it, stamp = [*stamp[:6], 0, 0, 0, 0], stamp[6], next(stamps, None)
        else:
            found, stamps_of_it = row, stamp[6]
            row, stamp = next(ledger, None), next(stamps, None)
        yield found[0], found[1], Part._make((*found[2:], stamps_of_it))

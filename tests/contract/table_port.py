"""What a contract test of the table needs: the port, and what it does behind the port's back.

A `TableServer` is a ClickHouse as the consumer meets it: the real one behind the consumer's own
adapter, or the simulation's model behind the simulation's own consumer. Records are known by their
offset and have one line each; ClickHouse partitions are "a" and "b" here, whatever a server calls
them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Protocol

from consumer.batch import Batch, Filling, Records
from consumer.commands import CoverageRead, InsertAnswered, StampsRead
from consumer.ledger import ROWS_VERSION, Intent, Source, token
from consumer.ports import Table
from consumer.recovery import Coverage, Covered

ANNOUNCED_MS = 1_770_000_000_000
BAD, THROWN_ON = "bad", "view"  # a line that nobody can read, and one that only a view cannot take


class Late(Protocol):
    """An insert that was sent in time and has not reached the table."""

    def arrive(self) -> InsertAnswered: ...


class TableServer(Protocol):
    @property
    def table(self) -> Table: ...

    @property
    def source(self) -> Source: ...

    @property
    def names(self) -> Mapping[str, str]:
        """The server's own names of "a" and "b"."""

    def line(self, offset: int, part: str, fault: str = "") -> bytes: ...

    def clock(self) -> float:
        """Seconds, of deadlines."""

    def now_ms(self) -> int: ...

    def begin(self, batch: Batch, token: str) -> Late: ...

    def rows(self) -> Counter[int]:
        """How often each record lies in the table."""

    def counted(self) -> Counter[int]:
        """How often a summed view counted each; after `throwing`, the view that throws."""

    def throwing(self) -> None:
        """From now on a view throws on some rows."""

    def takes_all(self) -> None:
        """The view that threw takes everything."""

    def set_window(self, entries: int) -> None: ...

    def others(self, entries: int) -> None:
        """Other Kafka partitions' batches land: so many parts."""

    def holding(self) -> AbstractContextManager[None]:
        """A rebuild's hold, for as long as it is entered."""

    def lose_part(self, part: str) -> None:
        """A part of the table is as if it had never appeared, in the deduplication log too."""

    def lose_rows(self, part: str) -> None:
        """The rows are gone, and the deduplication log goes on knowing them."""

    def lose_ledger(self) -> None: ...

    def lose_view(self) -> None:
        """As `lose_part`, of the summed views."""

    def forget_log(self) -> None:
        """From now on nobody says that the server mends its deduplication log."""


class StoppedServer(TableServer, Protocol):
    """A server that a test may stop."""

    def stop(self) -> None: ...

    def start(self) -> None: ...


def batch(server: TableServer, first: int, parts: str, *faults: str) -> Batch:
    """Records from `first` on, each in the part that its letter names. `faults` by record."""
    known = dict(enumerate(faults))
    values = [server.line(first + at, part, known.get(at, "")) for at, part in enumerate(parts)]
    end = first + len(values)
    filling = Filling(first)
    filling.add(Records(range(first, end), values, end, 0), 0.0)
    return filling.close()


def named(server: TableServer, made: Batch, epoch: int = 0) -> str:
    """Its token, as announced at a fixed time."""
    note = Intent(
        made.first, made.end, made.rows, made.digest, epoch, ROWS_VERSION,
        server.source.topic_id, ANNOUNCED_MS,
    )  # fmt: skip
    return token(server.source, made, note)


def insert(
    server: TableServer, made: Batch, token: str = "", *, epoch: int = 0, since: int | None = None
) -> InsertAnswered:
    """In time. `since`: when it was attempted first."""
    deadline = server.clock() + 20.0
    return server.table.insert(made, token or named(server, made, epoch), deadline, since)


def months(server: TableServer, parts: Iterable[str]) -> frozenset[str]:
    return frozenset(server.names[part] for part in parts)


def once(offsets: Iterable[int]) -> Counter[int]:
    return Counter(offsets)


def coverage(
    server: TableServer, offset: int = 0, since_ms: int | None = None, *, whole: bool = True
) -> Coverage:
    read = server.table.coverage(server.source, offset, since_ms, whole=whole)
    assert isinstance(read, CoverageRead), read
    return read.coverage


def covered(server: TableServer, offset: int = 0, *, whole: bool = True) -> tuple[Covered, ...]:
    """Without the times of landing: each reading takes the difference of two clocks anew."""
    return tuple(replace(c, landed_ms=0) for c in coverage(server, offset, whole=whole).batches)


def stamps(server: TableServer, made: Batch, epoch: int = 0, since_ms: int = 0) -> StampsRead:
    read = server.table.stamps(server.source, made, epoch, since_ms)
    assert isinstance(read, StampsRead), read
    return read

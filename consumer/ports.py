"""What the runner asks of Kafka and of ClickHouse. Adapters and tests implement these.

`Log` is used from one thread. `Table` is used from many, and each of its calls may block up to its
deadline; none of them raises for what a server or a network can do: the answer says it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from consumer.batch import Batch, Letter, Records
from consumer.commands import (
    CommitAnswered,
    CoverageRead,
    InsertAnswered,
    Isolated,
    ReadFailed,
    Restored,
    Sifted,
    StampsRead,
)
from consumer.ledger import Source
from consumer.recovery import Commit


class LogError(Exception):
    """Kafka did not answer, or refused. The message is for a person."""


@dataclass(frozen=True, slots=True)
class Listener:
    """What a log calls from within `fetch` and `leave`, on the thread that called those.

    `assigned` gets each new partition with its commit, or why that could not be read yet;
    `revoked` those that are given up when it
    returns; `lost` those that were taken; `answered` the answer to a commit by partition.
    """

    assigned: Callable[[Mapping[int, Commit | LogError]], None]
    revoked: Callable[[Iterable[int]], None]
    lost: Callable[[Iterable[int]], None]
    answered: Callable[[int, CommitAnswered], None]


class Log(Protocol):
    """A member of the consumer group, and its partitions of the topic."""

    def join(self, listener: Listener) -> None:
        """Become a member. Raises LogError."""

    def source(self, partition: int) -> Source:
        """Where the partition's records come from."""

    def topic_id(self) -> str:
        """The topic's id as it is now, asked anew, from any thread. Raises LogError."""

    def made_again(self, topic_id: str) -> bool:
        """Whether this is another topic than the one that was joined; empty: not known."""

    def fetch(self, timeout_seconds: float) -> Mapping[int, Records]:
        """What has arrived, by partition. Calls the listener. Raises LogError when the member
        cannot go on and must leave."""

    def read_from(self, partition: int, offset: int) -> None:
        """Read on at this offset, once the partition is among those fetched."""

    def fetch_only(self, partitions: frozenset[int]) -> None:
        """Pause every partition but these."""

    def commit(self, partition: int, offset: int, metadata: str) -> None:
        """Send a commit. Its answer comes through the listener; a failure to send is one."""

    def committed(self, partition: int) -> Commit:
        """Kafka's commit and the log's ends, asked behind all that was committed. Raises
        LogError."""

    def read_commit(self, partition: int) -> Commit:
        """The same, from any thread and beside the poll loop. Raises LogError."""

    def lag(self, partition: int, position: int) -> int | None:
        """Records after `position`, as last heard from the broker."""

    def leave(self) -> None:
        """Leave the group and close. Safe to call twice."""


class DeadLetters(Protocol):
    """The dead-letter topic."""

    def write(self, source: Source, letters: Sequence[Letter]) -> str | None:
        """Have all of them acknowledged by Kafka. None, or why not: then some may be there. Blocks
        up to a deadline, from any thread, and does not raise."""


class Table(Protocol):
    """The tables in ClickHouse."""

    def insert(
        self, batch: Batch, token: str, deadline: float, first_attempt_ms: int | None
    ) -> InsertAnswered:
        """One block, sent before `deadline` (seconds on the protocol's clock) or not at all."""

    def coverage(
        self, source: Source, offset: int, since_ms: int | None, *, whole: bool
    ) -> CoverageRead | ReadFailed:
        """What is stamped with an end past `offset`."""

    def stamps(
        self, source: Source, batch: Batch, epoch: int, since_ms: int
    ) -> StampsRead | ReadFailed:
        """Which ClickHouse partitions that the batch maps to have no row of it, and which were
        rebuilt since then."""

    def sift(self, batch: Batch, landed: frozenset[str], *, by_ids: bool) -> Sifted | ReadFailed:
        """What is missing of the batch, by ClickHouse partition or by id."""

    def isolate(
        self, source: Source, batch: Batch, refusal: str, landed_epoch: int | None
    ) -> Isolated | ReadFailed:
        """The lines that cannot be inserted."""

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
        """Bring ledger, sessions and sums up to the table's rows as they were at `asked_ms` (epoch
        milliseconds) at least. May take minutes. `last`: what cannot be done stays undone, and is
        told."""

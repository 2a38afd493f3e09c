"""What a contract test of the log needs: members of a group, and what befalls a topic.

A `LogServer` is a Kafka with one topic of two partitions and one group: the real one behind the
consumer's own adapter, or the simulation's model. All that a test reads and writes is in partition
0, but for what a pair of members shares.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from consumer.commands import Answer
from consumer.recovery import Commit


@dataclass(frozen=True)
class Read:
    """Records up to the log's end, and where reading would go on."""

    offsets: tuple[int, ...]
    values: tuple[bytes | None, ...]
    position: int


class Member(Protocol):
    """A member of the group that has partition 0, or had it."""

    def commit(self, offset: int, metadata: str) -> Answer: ...

    def committed(self) -> Commit: ...

    def read(self, offset: int) -> Read:
        """All from there to the log's end. LogError where there is no such offset."""

    def made_again(self) -> bool:
        """Whether the topic, as it is now, is another one than was joined."""

    def leave(self) -> None: ...

    def put_out(self) -> None:
        """As by its session timeout: the group does without it, and it does not know yet."""


class LogServer(Protocol):
    def join(self) -> Member:
        """The group's only member, once it has every partition."""

    def pair(self) -> tuple[Member, Member]:
        """Two members: the first had partition 0, and handed it over to the second."""

    def produce(self, *values: bytes | None) -> None: ...

    def abort(self) -> None:
        """A transaction of one record is aborted: two offsets that nobody reads."""

    def trim(self, low: int) -> None: ...

    def make_again(self) -> None:
        """The topic is deleted, and made again under its name."""


def numbered(first: int, count: int) -> Sequence[bytes]:
    return [b"%d" % number for number in range(first, first + count)]

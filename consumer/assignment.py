"""The partitions this consumer owns now, and what they share: memory and the rate of inserts.

Each partition lives its own life (`partition`). Here is what only all of them together know:

- **memory**: event bytes held over all partitions stay near one limit. Past it fetching pauses,
  and goes on at three quarters of it: a pause drops what librdkafka has prefetched, so pausing and
  resuming at the same mark would fetch everything twice. A replay, or a mend's piece, needs its
  whole range before it can finish, so past the limit one of them goes on all the same, the one that
  has read the most: the sum stays near the limit and one batch, and one after another they end.
- **rate**: with many partitions, each closing its batch by age, inserts would be many and small.
  The age stretches so that all of them together keep to the rate that is aimed at.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from consumer.batch import Records
from consumer.commands import Command, Event
from consumer.flight import Now, Phase
from consumer.partition import Partition

_RESUME_SHARE = 0.75


@dataclass(frozen=True, slots=True)
class Shares:
    """What the partitions share. Bytes, seconds, inserts a second."""

    buffer_bytes: int
    batch_age_seconds: float
    inserts_per_second: float


Commands = list[tuple[Partition, Command]]


class Assignment:
    """Owned partitions by number. Routes events to them, and says which should be fetched."""

    def __init__(self, shares: Shares) -> None:
        self._shares = shares
        self._partitions: dict[int, Partition] = {}
        self._memory_full = False
        self._held: set[int] = set()  # paused for their own full batches

    def __len__(self) -> int:
        return len(self._partitions)

    def __iter__(self) -> Iterator[Partition]:
        return iter(self._partitions.values())

    def __contains__(self, partition: Partition) -> bool:
        """Whether it is still owned: the same assignment, not just the same number."""
        return self._partitions.get(partition.source.partition) is partition

    def get(self, number: int) -> Partition | None:
        return self._partitions.get(number)

    def add(self, partition: Partition) -> None:
        self._partitions[partition.source.partition] = partition

    def drop(self, number: int) -> Partition | None:
        """Forget a partition and all that it held."""
        self._held.discard(number)
        return self._partitions.pop(number, None)

    def on(self, partition: Partition, event: Event, now: Now) -> Commands:
        """An answer for a partition; nothing where it is not owned any more."""
        if partition not in self:
            return []
        return [(partition, command) for command in partition.on(event, now)]

    def records(self, number: int, records: Records, now: Now) -> Commands:
        partition = self._partitions.get(number)
        if partition is None:
            return []
        return [(partition, command) for command in partition.records(records, now)]

    def tick(self, now: Now) -> Commands:
        age_seconds = self.age_seconds
        return [
            (partition, command)
            for partition in self._partitions.values()
            for command in partition.tick(now, age_seconds)
        ]

    def stop(self) -> None:
        for partition in self._partitions.values():
            partition.stop()

    @property
    def at_rest(self) -> bool:
        return all(partition.at_rest for partition in self._partitions.values())

    @property
    def planned(self) -> bool:
        # A copy: the admin port asks from a thread of its own.
        return all(partition.planned for partition in list(self._partitions.values()))

    @property
    def age_seconds(self) -> float:
        """How old a batch may grow now."""
        filling = sum(1 for partition in self._partitions.values() if partition.filling)
        return max(self._shares.batch_age_seconds, filling / self._shares.inserts_per_second)

    @property
    def buffered_bytes(self) -> int:
        return sum(partition.buffered_bytes for partition in self._partitions.values())

    def fetched(self) -> frozenset[int]:
        """The partitions that should be fetched now; all others should be paused."""
        buffered = self.buffered_bytes
        if buffered >= self._shares.buffer_bytes:
            self._memory_full = True
        elif buffered < self._shares.buffer_bytes * _RESUME_SHARE:
            self._memory_full = False
        wanted = set()
        replaying = {n: p for n, p in self._partitions.items() if p.replaying}
        if self._memory_full and replaying:
            most = max(replaying, key=lambda n: (replaying[n].buffered_bytes, -n))
            replaying = {most: replaying[most]}
        for number, partition in self._partitions.items():
            if not partition.wants_records:
                self._held.add(number)
            elif partition.drained:
                self._held.discard(number)
            if number in replaying or (number not in self._held and not self._memory_full):
                wanted.add(number)
        return frozenset(wanted)

    def in_phase(self, phase: Phase) -> int:
        return sum(1 for partition in self._partitions.values() if partition.phase is phase)

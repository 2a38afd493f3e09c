"""The searched world as a value: small tuples that are hashed, compared and shared.

Consumers have no names: worlds that differ in who is who are one world, so a world is packed with
its consumers in order. Kafka's memory of them is part of each: whether it is a member, whether it
owns the partition, what is on its way. A member whose process is gone is a `Ghost`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from consumer.commands import Event, ReadCoverage, Restore
from tests.exhaustive.server import Insert, Running, Server


class Request(NamedTuple):
    """A commit on its way; or its answer, when that is there; or silence (`answer` "")."""

    offset: int
    metadata: str
    latest: bool  # the core has sent none after it
    answer: str | None = None


class Sifting(NamedTuple):
    """A Sift."""

    batch: int  # its number
    landed: frozenset[str]
    by_ids: bool


class Job(NamedTuple):
    """What the pool of a process does for a partition. `mine`: for the one it owns now, so that
    the answer is heard. One of: a read of the coverage, or of an insert's stamps; a part of a mend;
    an insert before it is sent; one that runs; an answer."""

    mine: bool
    read: ReadCoverage | None = None
    stamps: bool = False
    since_ms: int = 0  # of the stamps
    sift: Sifting | None = None
    restore: Restore | None = None
    insert: Insert | None = None
    deadline: float = 0.0
    first_attempt_ms: int | None = None
    looked: bool = False
    running: Running | None = None
    answer: Event | None = None


class Prepared(NamedTuple):
    """The last prepare of this assignment."""

    first: int
    end: int
    epoch: int
    digest: str
    sent_at: float
    answered: bool


class Consumer(NamedTuple):
    """`seen`: the commit that its core sent last is the one Kafka shows."""

    version: int
    up: bool = True
    member: bool = True
    owner: bool = False
    core: int = -1
    wire: tuple[Request, ...] = ()
    seen: bool = False
    strays: tuple[Request, ...] = ()
    jobs: tuple[Job, ...] = ()
    prepared: Prepared | None = None
    leaving: bool = False


class Ghost(NamedTuple):
    """A member without a process, until its session times out."""

    owner: bool
    strays: tuple[Request, ...]


class World(NamedTuple):
    """`left`: how many more faults. `jumps`: what is left of a pause."""

    offset: int | None
    metadata: str | None
    low: int
    consumers: tuple[Consumer, ...]
    ghosts: tuple[Ghost, ...]
    server: Server
    left: int
    jumps: int = 0
    reset: bool = False
    trimmed: bool = False


def with_job(jobs: tuple[Job, ...], job: Job) -> tuple[Job, ...]:
    return tuple(sorted((*jobs, job), key=repr)) if jobs else (job,)


def put(world: World, i: int, c: Consumer) -> World:
    consumers = world.consumers
    # The most frequent step of all: `_replace` would take three times as long.
    changed = (*consumers[:i], c, *consumers[i + 1 :])
    return tuple.__new__(World, (*world[:3], changed, *world[4:]))


def add(world: World, i: int, job: Job) -> World:
    c = world.consumers[i]
    return put(world, i, c._replace(jobs=with_job(c.jobs, job)))


def remove(world: World, i: int, job: Job) -> World:
    c = world.consumers[i]
    jobs = list(c.jobs)
    jobs.remove(job)
    return put(world, i, c._replace(jobs=tuple(jobs)))


def unsent(job: Job) -> bool:
    return job.insert is not None and not job.stamps and job.running is None


class Packing:
    """Worlds as numbers, their parts kept once. Two worlds that differ in names only are one."""

    _BITS = 24

    def __init__(self) -> None:
        self._numbers: dict[Any, int] = {}
        self._parts: list[Any] = []

    def __len__(self) -> int:
        return len(self._parts)

    def _number(self, part: Any) -> int:
        number = self._numbers.get(part)
        if number is None:
            number = self._numbers[part] = len(self._parts)
            self._parts.append(part)
        return number

    def pack(self, world: World) -> int:
        number = self._number
        packed = 1
        for consumer in sorted(map(number, world.consumers)):
            packed = packed << self._BITS | consumer
        packed = packed << self._BITS | number(world.server)
        rest = (world.offset, world.metadata, world.ghosts, *world[6:], world.low)
        return packed << self._BITS | number(rest)

    def unpack(self, packed: int) -> World:
        mask = (1 << self._BITS) - 1
        numbers = []
        while packed > 1:
            numbers.append(packed & mask)
            packed >>= self._BITS
        rest, server, *consumers = (self._parts[n] for n in numbers)
        offset, metadata, ghosts, *others, low = rest
        return World(offset, metadata, low, tuple(consumers), ghosts, server, *others)

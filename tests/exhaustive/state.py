"""The searched world as a value: small tuples that are hashed, compared and shared.

Consumers have no names: worlds that differ in who is who are one world, so a world is packed with
its consumers in order. Kafka's memory of them is part of each: whether it is a member, whether it
owns the partition, what is on its way. A member whose process is gone is a `Ghost`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from consumer.batch import Letter
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


class Isolating(NamedTuple):
    """An Isolate. `epoch`: under which its lines may be in the table."""

    batch: int  # its number
    refused: bool
    epoch: int | None


class Asking(NamedTuple):
    """For the topic's id, after a commit."""

    offset: int
    metadata: str


class Job(NamedTuple):
    """What the pool of a process does for a partition. `mine`: for the one it owns now, so that
    the answer is heard. One of: a read of the coverage, or of an insert's stamps, or of the topic's
    id; a part of a mend; a search for bad lines; letters to write; an insert before it is sent; one
    that runs; an answer."""

    mine: bool
    read: ReadCoverage | None = None
    stamps: bool = False
    since_ms: int = 0  # of the stamps
    sift: Sifting | None = None
    restore: Restore | None = None
    isolate: Isolating | None = None
    letters: tuple[Letter, ...] = ()
    topic: Asking | None = None
    insert: Insert | None = None
    deadline: float = 0.0
    first_attempt_ms: int | None = None
    looked: bool = False
    running: Running | None = None
    answer: Event | None = None


class Prepared(NamedTuple):
    """The last prepare of this assignment. Offsets are the table's."""

    first: int
    end: int
    epoch: int
    digest: str
    sent_at: float
    answered: bool


class Consumer(NamedTuple):
    """`seen`: the commit that its core sent last is the one Kafka shows. `topic`: which one there
    was when it joined. A process that has ended is a new one at once: being away allows nothing
    that being idle does not."""

    version: int
    topic: int = 0
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
    """`left`: how many more faults. `jumps`: what is left of a pause. `topic`: the first, or the
    one made again; `high`: the end of its log; `letters`: rows told to be bad, as bits."""

    offset: int | None
    metadata: str | None
    low: int
    consumers: tuple[Consumer, ...]
    ghosts: tuple[Ghost, ...]
    server: Server
    left: int
    jumps: int = 0
    reset: bool = False
    topic: int = 0
    high: int = 0
    letters: int = 0


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
    """Worlds as numbers, their parts kept once. Two worlds that differ in names only are one.

    How many faults and jumps are left stands in the lowest bits: `base` is the world without it.
    """

    _BITS = 24
    _LEFT_BITS, _JUMPS_BITS = 4, 8
    LEFT = 1 << _LEFT_BITS
    BUDGET = 1 << (_LEFT_BITS + _JUMPS_BITS)

    def __init__(self) -> None:
        self._numbers: dict[Any, int] = {}
        self._parts: list[Any] = []
        self._near: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._parts)

    def _number(self, part: Any) -> int:
        # Most parts of a world are those of the world before it, the very same objects.
        number = self._near.get(id(part))
        if number is not None:
            return number
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
        rest = (world.offset, world.metadata, world.low, world.ghosts, *world[8:])
        packed = packed << self._BITS | number(rest)
        return (packed << self._JUMPS_BITS | world.jumps) << self._LEFT_BITS | world.left

    def unpack(self, packed: int) -> World:
        left = packed & (self.LEFT - 1)
        packed >>= self._LEFT_BITS
        jumps = packed & ((1 << self._JUMPS_BITS) - 1)
        packed >>= self._JUMPS_BITS
        mask = (1 << self._BITS) - 1
        numbers = []
        while packed > 1:
            numbers.append(packed & mask)
            packed >>= self._BITS
        rest, server, *consumers = (self._parts[n] for n in numbers)
        self._near = {id(self._parts[n]): n for n in numbers[1:]}
        offset, metadata, low, ghosts, *others = rest
        return World(offset, metadata, low, tuple(consumers), ghosts, server, left, jumps, *others)

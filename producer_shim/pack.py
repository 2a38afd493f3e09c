"""Packing: what arrives within a few milliseconds for one lane becomes one Kafka record.

    session --murmur2--> lane --> the lane's open pack --closed by time or bytes--> next partition

A lane is an equal run of partitions, and each of its packs goes to the next partition in turn: so
packs are full, no session makes a hot partition, and a session stays in its lane. A pack is
answered as one: one delivery report tells all that wait for it. With `PACK_MILLISECONDS=0` every
event is a record of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final, Protocol

from .metrics import ProduceReason

_SESSIONS: Final = 65_536
_MASK: Final = 0xFFFF_FFFF


class Waiter(Protocol):
    """Who waits for a pack's answer."""

    def delivered(self, positions: Sequence[int], failed: ProduceReason | None) -> None:
        """These events of yours are acknowledged (None), or are not."""


class Pack:
    """Lines that share a record, and who waits for them."""

    __slots__ = ("answered", "bytes", "lane", "lines", "partition", "sent", "timer", "waiters")

    def __init__(self, lane: int) -> None:
        self.lane = lane
        self.lines: list[bytes] = []
        self.bytes = 0
        self.waiters: list[tuple[Waiter, Sequence[int]]] = []
        self.partition = -1
        self.sent = 0.0
        self.timer: asyncio.TimerHandle | None = None
        self.answered = False

    def answer(self, failed: ProduceReason | None) -> None:
        """Tell everyone who waits. Once."""
        self.answered = True
        for waiter, positions in self.waiters:
            waiter.delivered(positions, failed)
        self.waiters.clear()


class Sink(Protocol):
    """Where closed packs go: `send` numbers them to a partition and sees them answered."""

    def send(self, pack: Pack) -> None: ...


class Packer:
    """The open pack of each lane."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sink: Sink,
        lanes: int,
        milliseconds: float,
        most_bytes: int,
    ) -> None:
        self._loop = loop
        self._sink = sink
        self._lanes = lanes
        self._seconds = milliseconds / 1000
        self._most_bytes = most_bytes
        self._open: list[Pack | None] = [None] * lanes
        self._lane_of: dict[str, int] = {}

    def lane(self, session_id: str) -> int:
        if self._lanes == 1:
            return 0
        lane = self._lane_of.get(session_id)
        if lane is None:
            if len(self._lane_of) >= _SESSIONS:
                self._lane_of.clear()
            lane = (murmur2(session_id.encode()) & 0x7FFF_FFFF) % self._lanes
            self._lane_of[session_id] = lane
        return lane

    def add(self, lane: int, lines: Sequence[bytes], waiter: Waiter, at: Sequence[int]) -> int:
        """Put lines into the lane's pack; `at` are their positions among the waiter's events.

        Returns in how many packs they lie: so many answers the waiter gets, none of them before
        the caller is back in the event loop.
        """
        if not self._seconds:
            for single, position in zip(lines, at, strict=True):
                self._close(self._filled(lane, (single,), waiter, (position,)))
            return len(lines)
        packs, begin = 1, 0
        pack = self._open[lane]
        if pack is None:
            pack = self._new(lane)
        room = self._most_bytes - pack.bytes
        if len(lines) == 1 and len(lines[0]) < room:  # nearly every post of a browser
            pack.lines.append(lines[0])
            pack.waiters.append((waiter, at))
            pack.bytes += len(lines[0]) + 1
            return 1
        for index, single in enumerate(lines):
            room -= len(single) + 1
            if room < 0 and (pack.lines or index > begin):
                self._fill(pack, lines[begin:index], waiter, at[begin:index])
                packs += index > begin
                self._close(pack)
                pack, begin = self._new(lane), index
                room = self._most_bytes - len(single) - 1
        self._fill(pack, lines[begin:] if begin else lines, waiter, at[begin:] if begin else at)
        if pack.bytes >= self._most_bytes:
            self._close(pack)
        return packs

    def flush(self) -> None:
        """Close every open pack now."""
        for pack in self._open:
            if pack is not None:
                self._close(pack)

    def _new(self, lane: int) -> Pack:
        pack = self._open[lane] = Pack(lane)
        pack.timer = self._loop.call_later(self._seconds, self._close, pack)
        return pack

    def _filled(self, lane: int, lines: Sequence[bytes], waiter: Waiter, at: Sequence[int]) -> Pack:
        pack = Pack(lane)
        self._fill(pack, lines, waiter, at)
        return pack

    @staticmethod
    def _fill(pack: Pack, lines: Sequence[bytes], waiter: Waiter, at: Sequence[int]) -> None:
        if not lines:
            return
        pack.lines.extend(lines)
        pack.waiters.append((waiter, at))
        for single in lines:
            pack.bytes += len(single) + 1

    def _close(self, pack: Pack) -> None:
        if pack.timer is not None:
            pack.timer.cancel()
            pack.timer = None
        if self._open[pack.lane] is pack:
            self._open[pack.lane] = None
        if pack.lines:
            self._sink.send(pack)


def murmur2(data: bytes) -> int:
    """Kafka's murmur2 (its DefaultPartitioner), as an unsigned 32-bit number."""
    length = len(data)
    m = 0x5BD1E995
    h = 0x9747B28C ^ length
    whole = length & ~3
    for at in range(0, whole, 4):
        k = int.from_bytes(data[at : at + 4], "little") * m & _MASK
        k = (k ^ k >> 24) * m & _MASK
        h = (h * m & _MASK) ^ k
    if whole < length:
        h = (h ^ int.from_bytes(data[whole:], "little")) * m & _MASK
    h = (h ^ h >> 13) * m & _MASK
    return h ^ h >> 15

"""How many events the shim's packs really hold at a steady rate: its own packer, on a real loop."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from producer_shim.metrics import ProduceReason
from producer_shim.pack import Pack, Packer
from tests.bench.events import line


class _Sizes:
    """Takes closed packs, and keeps only their sizes."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def send(self, pack: Pack) -> None:
        self.sizes.append(len(pack.lines))

    def delivered(self, positions: Sequence[int], failed: ProduceReason | None) -> None:
        """Nobody waits here."""


def pack_sizes(events_per_second: int, seconds: float = 1.0) -> list[int]:
    """The sizes of the packs that this many single events a second make, in their order."""

    async def arrive() -> list[int]:
        loop = asyncio.get_running_loop()
        sink = _Sizes()
        packer = Packer(loop, sink, lanes=1, milliseconds=3, most_bytes=512 * 1024)
        began, sent = loop.time(), 0
        one = line(0)
        while (passed := loop.time() - began) < seconds:
            due = int(passed * events_per_second) - sent
            for _ in range(due):
                packer.add(0, (one,), sink, (0,))
            sent += due
            await asyncio.sleep(0.0005)
        packer.flush()
        return sink.sizes[1:-1] or sink.sizes

    return asyncio.run(arrive())

"""Packs: what shares a record, and who is told about it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producer_shim.metrics import ProduceReason
from producer_shim.pack import Pack, Packer, murmur2


@pytest.mark.parametrize(
    ("data", "expected"),
    [  # from the test of Kafka's Java client
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_murmur2_is_kafkas(data: bytes, expected: int) -> None:
    assert murmur2(data) == expected & 0xFFFF_FFFF


class Sink:
    def __init__(self) -> None:
        self.packs: list[Pack] = []
        self.sent = asyncio.Event()

    def send(self, pack: Pack) -> None:
        self.packs.append(pack)
        self.sent.set()


class Waiter:
    def __init__(self) -> None:
        self.told: list[int] = []
        self.answers = 0

    def delivered(self, positions: Sequence[int], failed: ProduceReason | None) -> None:
        assert positions, "an answer about nothing"
        self.told.extend(positions)
        self.answers += 1


@given(
    posts=st.lists(
        st.tuples(
            st.integers(0, 2), st.lists(st.integers(1, 60), min_size=1, max_size=12), st.booleans()
        ),
        max_size=12,
    ),
    milliseconds=st.sampled_from([0, 1000]),
    most=st.integers(20, 100),
)
def test_every_line_is_in_one_pack_and_answered_once(
    posts: list[tuple[int, list[int], bool]], milliseconds: float, most: int
) -> None:
    loop = asyncio.new_event_loop()
    try:
        sink = Sink()
        packer = Packer(loop, sink, 3, milliseconds, most)
        waiters: list[tuple[Waiter, int, int]] = []
        expected: list[list[bytes]] = [[], [], []]
        for number, (lane, sizes, flush) in enumerate(posts):
            lines = [b"%02d" % number + b"x" * size for size in sizes]
            waiter = Waiter()
            packs = packer.add(lane, lines, waiter, range(len(lines)))
            waiters.append((waiter, packs, len(lines)))
            expected[lane].extend(lines)
            if flush:
                packer.flush()
        packer.flush()
        found: list[list[bytes]] = [[], [], []]
        for pack in sink.packs:
            found[pack.lane].extend(pack.lines)
            size = sum(len(line) + 1 for line in pack.lines)
            assert size == pack.bytes
            assert size <= most or len(pack.lines) == 1
            assert milliseconds or len(pack.lines) == 1
            pack.answer(None)
        assert found == expected
        for waiter, packs, count in waiters:
            assert (waiter.answers, waiter.told) == (packs, list(range(count)))
    finally:
        loop.close()


def test_a_pack_closes_by_itself() -> None:
    async def later() -> None:
        sink = Sink()
        packer = Packer(asyncio.get_running_loop(), sink, 1, 1, 1000)
        packer.add(0, [b"a"], Waiter(), [0])
        packer.add(0, [b"b"], Waiter(), [0])
        assert sink.packs == []
        async with asyncio.timeout(5):
            await sink.sent.wait()
        assert sink.packs[0].lines == [b"a", b"b"]

    asyncio.run(later())

"""What a consumer holds in memory, measured from the texts themselves, and what bounds it.

A partition holds the texts of its batches: the one that fills, those that wait, and the one in
flight. While lines are set aside there is more beside that one: the letters, and what is written
anew of the rest, neither of them more than the batch. A piece of a mend that is sifted is one batch
too, and so is the text of a replay that is kept while it is planned again.

With a limit on what all partitions of a consumer hold together:

- once they hold so much, nothing is fetched but ranges that must be read again, for they can only
  be sent whole: what had been announced when reading began. Of such a range a partition fetches no
  more than one ahead of the one in flight;
- so what was read on, past all that had been announced, is never more than the limit and one fetch
  of each partition;
- a partition that waits, has stopped or is leaving holds nothing, and one that plans nothing but
  that text.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from consumer.batch import Batch
from consumer.flight import Phase
from consumer.partition import Partition

_EMPTY_HANDED = frozenset({Phase.PLANNING, Phase.WAITING, Phase.HALTED, Phase.LEAVING})


class Held(NamedTuple):
    """Bytes. `fresh`: of batches that begin at or after what was announced before; `again`: of the
    others; `beside`: letters, and what is sent in place of a batch. `waiting`: how many closed
    batches wait."""

    fresh: int
    again: int
    beside: int
    waiting: int

    @property
    def batches(self) -> int:
        return self.fresh + self.again


def held(partition: Partition, announced_to: int = 0) -> Held:
    """`announced_to`: the end of what had been announced when this partition began to read."""
    state: dict[str, Any] = vars(partition)
    flight, filling, sifting = state["_flight"], state["_filling"], state["_sifting"]
    texts: list[tuple[int, Iterable[bytes]]] = [(b.first, b.chunks) for b, _ in state["_ready"]]
    if filling is not None:
        texts.append((filling.first, filling._chunks))
    if sifting is not None:
        texts.append((sifting.batch.first, sifting.batch.chunks))
    if (kept := state["_text"]) is not None:
        texts.append((kept[0].first, kept[0].chunks))
    beside: dict[int, bytes] = {}
    batch: Batch | None = None if flight is None else flight.batch
    if flight is not None and batch is not None:
        texts.append((batch.first, batch.chunks))
        # Some are not written anew: a chunk without bad lines, the letter of a chunk of one line.
        beside = {id(text): text for text in flight.body.chunks}
        beside |= {id(letter.value): letter.value for letter in flight.letters}
        beside = {at: beside[at] for at in beside.keys() - set(map(id, batch.chunks))}
    sizes = [(first < announced_to, sum(map(len, chunks))) for first, chunks in texts]
    return Held(
        fresh=sum(size for before, size in sizes if not before),
        again=sum(size for before, size in sizes if before),
        beside=sum(map(len, beside.values())),
        waiting=len(state["_ready"]),
    )


def wrong_in(partition: Partition, found: Held) -> str:
    """What a single partition may never hold; empty where nothing is wrong."""
    flight = vars(partition)["_flight"]
    kept = vars(partition)["_text"] if partition.phase is Phase.PLANNING else None
    may = 0 if kept is None else kept[0].size_bytes
    if partition.phase in _EMPTY_HANDED and found.batches + found.beside > may:
        return f"holds {found.batches + found.beside} bytes while {partition.phase.value}"
    if flight is not None and flight.batch is not None:
        size = sum(map(len, flight.batch.chunks))
        if found.beside > 2 * size:
            return f"holds {found.beside} bytes beside its batch of {size}"
    return ""


class Memory:
    """Of one consumer: looked at after each of its steps."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._announced_to: dict[Partition, int] = {}
        self._fetched: dict[int, int] = {}

    def begins_to_read(self, partition: Partition, announced_to: int) -> None:
        self._announced_to[partition] = announced_to

    def fetched(self, number: int, values: Iterable[bytes | None]) -> None:
        """What the newest fetch of a partition brought."""
        self._fetched[number] = sum(len(value or b"") + 1 for value in values)  # and line feeds

    def full(self, partitions: Iterable[Partition]) -> tuple[int, bool, str]:
        """The bytes of all batches, whether fetching must pause, and which promise is broken."""
        total = fresh = 0
        known: dict[Partition, int] = {}
        for partition in partitions:
            known[partition] = self._announced_to.get(partition, 0)
            found = held(partition, known[partition])
            total += found.batches
            fresh += found.fresh
            if wrong := wrong_in(partition, found):
                return total, False, f"partition {partition.source.partition} {wrong}"
        self._announced_to = known
        most = self.limit + sum(self._fetched.get(p.source.partition, 0) for p in known)
        wrong = f"{fresh} bytes were read on, more than {most}" if fresh > most else ""
        return total, total >= self.limit, wrong

    def wrongly_fetched(self, partition: Partition, position: int, total: int) -> str:
        """What is wrong with fetching it from there while so much is held; empty for nothing."""
        if position >= self._announced_to.get(partition, 0):
            return f"is fetched from {position} on, while {total} bytes are held"
        if held(partition).waiting:
            return f"reads a second range ahead, while {total} bytes are held"
        return ""

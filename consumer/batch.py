"""What one partition has read and not yet inserted, as bytes.

A batch is a half-open range of offsets `[first, end)` and the NDJSON text of its records: exactly
what a replay must send again. On the happy path no event becomes a Python object here: the values
of one fetch are joined at once, rows are counted as lines, and the digest runs over the text.

The happy path never reads a line. What could be wrong with one and would land unseen makes the
batch `suspect`: bytes that are not UTF-8, a record of another size than Kafka's usual limit, and a
line that may be another thing than one object. Of such a line ClickHouse makes no row or several,
joins it with the next one, or takes it in one place and not in another; so what becomes of it would
depend on its neighbours. A suspect batch is looked through before it is sent. Then, and when
ClickHouse refuses it, `origins` leads from each line back to its record.

The text of a range does not depend on how it was fetched: between any two records stands one line
feed, and empty lines are dropped. So count and digest are functions of the log alone,
and a replay that reads other bytes than the first attempt is recognised.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import count, repeat

import xxhash

from consumer.ndjson import MUCH, is_utf8, join, one_object_each

_RECORD_BYTES = 1 << 20  # Kafka's default limit: lines of a larger record are looked at one by one


@dataclass(frozen=True, slots=True)
class Records:
    """Records of one partition in log order, as one fetch gave them.

    `offsets` has the offset of each of `values` (a `range` when there is no hole). `position` is
    the offset to read next, which is past the last record also where markers follow it.
    `append_ms` is the broker's time for the first of them, epoch milliseconds (0: unknown).
    """

    offsets: Sequence[int]
    values: Sequence[bytes | None]
    position: int
    append_ms: int

    def split(self, end: int) -> tuple[Records, Records | None]:
        """Those before offset `end`, and the rest where there is any past it."""
        if self.position <= end:
            return self, None
        kept = sum(1 for offset in self.offsets if offset < end)
        before = Records(self.offsets[:kept], self.values[:kept], end, self.append_ms)
        return before, Records(
            self.offsets[kept:], self.values[kept:], self.position, self.append_ms
        )


@dataclass(frozen=True, slots=True)
class Batch:
    """A closed batch. `chunks` are NDJSON without line feeds at their ends.

    `records` has for each chunk the offsets of its records and the bytes that each has in it (none
    where a record has no content); `gone` has (offset, line) of each line that was taken out.
    `suspect`: a line may be bad although ClickHouse would take it.
    """

    first: int
    end: int
    rows: int
    digest: str
    size_bytes: int
    chunks: tuple[bytes, ...]
    oldest_append_ms: int
    records: tuple[tuple[Sequence[int], Sequence[int]], ...] = field(default=(), repr=False)
    gone: frozenset[tuple[int, int]] = field(default=frozenset(), repr=False)
    suspect: bool = False

    def body(self) -> Iterator[bytes]:
        """The insert's body, chunk by chunk."""
        for index, chunk in enumerate(self.chunks):
            if index:
                yield b"\n"
            yield chunk

    def lines(self) -> Iterator[bytes]:
        for chunk in self.chunks:
            yield from chunk.split(b"\n")

    def origins(self) -> Iterator[tuple[int, int, bytes]]:
        """(offset, line, text) of every line; `line` counts within the record, from 0."""
        for chunk, (offsets, sizes) in zip(self.chunks, self.records, strict=True):
            start = 0
            for offset, size in zip(offsets, sizes, strict=True):
                if size:
                    lines = chunk[start : start + size].split(b"\n")
                    yield from zip(repeat(offset), self._numbers(offset), lines, strict=False)
                    start += size + 1

    def _numbers(self, offset: int) -> Iterator[int]:
        """Of the lines of this record that are here, and on."""
        if not self.gone:
            return count()
        return (number for number in count() if (offset, number) not in self.gone)

    def only(self, wanted: Iterable[bool]) -> Batch:
        """The same range with those of its lines that are wanted, as a text of its own."""
        origins = zip(self.origins(), wanted, strict=True)
        return self._without({(offset, line) for (offset, line, _), keep in origins if not keep})

    def without(self, letters: Iterable[Letter]) -> Batch:
        return self._without({(letter.offset, letter.line) for letter in letters})

    def _without(self, gone: set[tuple[int, int]]) -> Batch:
        """Few of many lines, mostly: the text around them stays as it is."""
        touched = {offset for offset, _ in gone}
        rows, digest = self.rows, xxhash.xxh3_64()
        texts: list[bytes] = []
        records: list[tuple[Sequence[int], Sequence[int]]] = []
        for chunk, (offsets, sizes) in zip(self.chunks, self.records, strict=True):
            text, sizes = chunk, list(sizes)
            if not touched.isdisjoint(offsets):
                pieces, start, begin = [], 0, 0
                for index, (offset, size) in enumerate(zip(offsets, sizes, strict=True)):
                    if size and offset in touched:
                        lines = chunk[start : start + size].split(b"\n")
                        numbers = zip(self._numbers(offset), lines, strict=False)
                        kept = [line for number, line in numbers if (offset, number) not in gone]
                        rows -= len(lines) - len(kept)
                        piece = b"\n".join(kept)
                        pieces += [chunk[begin : max(begin, start - 1)], piece]
                        sizes[index], begin = len(piece), start + size + 1
                    start += size + (size > 0)
                text = b"\n".join(filter(None, [*pieces, chunk[begin:]]))
            if text:
                if texts:
                    digest.update(b"\n")
                digest.update(text)
                texts.append(text)
                records.append((offsets, tuple(sizes)))
        return replace(
            self,
            rows=rows,
            digest=digest.hexdigest(),
            size_bytes=sum(map(len, texts)),
            chunks=tuple(texts),
            records=tuple(records),
            gone=self.gone | gone,
        )


@dataclass(frozen=True, slots=True)
class Letter:
    """One event that cannot be inserted, for the dead-letter topic.

    `line` counts the lines of the record that have content, from 0. `reason` is one of a closed set
    (`schemas.record.REASONS`), `error` says more. `in_table`: it has landed in the table, in that
    ClickHouse partition, and not in every view, so it must not be inserted again.
    """

    offset: int
    line: int
    value: bytes
    reason: str
    error: str
    in_table: bool = False
    clickhouse_partition: str = ""


class Filling:
    """A batch that still grows. `first` is where it begins, `position` where reading goes on."""

    def __init__(self, first: int) -> None:
        self.first = first
        self.position = first
        self.rows = 0
        self.size_bytes = 0
        self.began_at = 0.0
        self._chunks: list[bytes] = []
        self._records: list[tuple[Sequence[int], Sequence[int]]] = []
        self._suspect = False
        self._unseen: list[bytes] = []  # by `_look`
        self._unseen_bytes = 0
        self._digest = xxhash.xxh3_64()
        self._oldest_append_ms = 0

    def add(self, records: Records, now: float) -> None:
        """Take records that begin at or after `position`. `now` is a monotonic time in seconds."""
        text, rows, sizes, objects = join(records.values)
        if self.position == self.first:
            self.began_at = now
        self.position = records.position
        if not self._oldest_append_ms:
            self._oldest_append_ms = records.append_ms
        if not text:
            return
        if self._chunks:
            self._digest.update(b"\n")
        self._digest.update(text)
        self._chunks.append(text)
        self._records.append((records.offsets, sizes))
        self._suspect = self._suspect or max(sizes) > _RECORD_BYTES or not is_utf8(text)
        if objects is None:
            self._unseen.append(text)
            self._unseen_bytes += len(text)
            if self._unseen_bytes >= MUCH:
                self._look()
        else:
            self._suspect = self._suspect or not objects
        self.rows += rows
        self.size_bytes += len(text)

    def _look(self) -> None:
        text = b"\n".join(self._unseen)
        self._suspect = self._suspect or not one_object_each(text)
        self._unseen, self._unseen_bytes = [], 0

    @property
    def empty(self) -> bool:
        """Nothing was read into it, not even a record without content."""
        return self.position == self.first

    @property
    def oldest_append_ms(self) -> int:
        return self._oldest_append_ms

    def close(self) -> Batch:
        if self._unseen:
            self._look()
        return Batch(
            first=self.first,
            end=self.position,
            rows=self.rows,
            digest=self._digest.hexdigest(),
            size_bytes=self.size_bytes,
            chunks=tuple(self._chunks),
            oldest_append_ms=self._oldest_append_ms,
            records=tuple(self._records),
            suspect=self._suspect,
        )

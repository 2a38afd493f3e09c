"""Where a batch's lines fall, and how a statement names their rows in the table.

A line that cannot be read here is in no ClickHouse partition; whether it is bad is for
`schemas.record` to say.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from consumer.batch import Batch
from consumer.ledger import Source
from schemas.record import UUID
from schemas.tables import clickhouse_partition

# created_at first: it prunes to the few parts and granules that can hold a batch's rows.
BETWEEN = (
    "created_at >= fromUnixTimestamp64Milli({least:Int64}, 'UTC') "
    "AND created_at <= fromUnixTimestamp64Milli({most:Int64}, 'UTC')"
)
STAMPED = (
    f"{BETWEEN} AND _topic_id = {{topic_id:String}} AND _partition = {{partition:UInt32}} "
    "AND _first = {first:UInt64} AND _end = {end:UInt64} AND _epoch = {epoch:UInt32}"
)
_IDS_AT_ONCE = 2_000  # in a statement's text, which has a limit
_LOOSE = json.JSONDecoder(strict=False)

T = TypeVar("T")


class _Line(msgspec.Struct):
    id: str
    created_at: int


_line = msgspec.json.Decoder(_Line)


@dataclass(frozen=True, slots=True)
class Placed:
    """Where a line falls: its id, its time (epoch milliseconds), and its ClickHouse partition.

    Only a line with an id that ClickHouse takes, and that it could have landed with, is placed."""

    id: str
    created_at: int
    partition: str


def placed(batch: Batch) -> Iterator[Placed | None]:
    """Of each line, in order, where it falls."""
    return map(place, batch.lines())


def place(text: bytes) -> Placed | None:
    """None where that cannot be read from the line. Whatever `schemas.record.fault` passes is
    placed: it can land."""
    try:
        try:
            line = _line.decode(text)
        except msgspec.MsgspecError:  # raw control characters, perhaps, which ClickHouse takes
            line = msgspec.convert(_LOOSE.decode(text.decode()), _Line)
        partition = clickhouse_partition(line.created_at)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    if not UUID.fullmatch(line.id):
        return None
    written = line.id.lower() if "-" in line.id else str(uuid.UUID(line.id))
    return Placed(written, line.created_at, partition)


def parts(items: list[T]) -> list[list[T]]:
    return [items[at : at + _IDS_AT_ONCE] for at in range(0, len(items), _IDS_AT_ONCE)]


def among(lines: Iterable[Placed]) -> str:
    """In the text, not as a parameter: so many the client would send as a form. They are UUIDs."""
    return f"id IN ({', '.join(sorted({repr(line.id) for line in lines}))})"


def stamp(source: Source, batch: Batch, epoch: int) -> dict[str, object]:
    return {
        "topic_id": source.topic_id,
        "partition": source.partition,
        "first": batch.first,
        "end": batch.end,
        "epoch": epoch,
    }


def times(lines: Iterable[Placed]) -> dict[str, int]:
    found = [line.created_at for line in lines]
    return {"least": min(found), "most": max(found)} if found else {}

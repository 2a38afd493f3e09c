"""What a commit's metadata says, and the token that names an insert.

Every commit of ours carries one line of text in Kafka's commit metadata:

    penstock1:open:EPOCH:VERSION:TOPIC_ID:TIME:CRC                          nothing is being written
    penstock1:intent:END:COUNT:DIGEST:EPOCH:VERSION:TOPIC_ID:TIME:SENT:CRC  [offset, END) is
    penstock1:mend:END:EPOCH:VERSION:TOPIC_ID:TIME:SENT:CRC                 [offset, END) is mended

An intent is replayed. A mend is not: what it inserts depends on what it found in the table, so
whoever finds its mark waits, looks at the table and does it again.

A replay announces the same intent again. SENT alone tells the two commits apart: without it an
owner that looks whether its own was applied would take the one before it for it.

The checksum covers the offset too, so that a commit which was moved by a tool is not taken for one
of ours, even where the tool kept the metadata. Anything else (none, another's, cut, corrupt, too
long) reads as `None`: a foreign commit, whose offset means nothing.

`ROWS_VERSION` stands for everything that makes rows out of a record's bytes: the parser's rules
here and the landing view's. It changes when the same bytes would give other rows or another
ClickHouse partition; an intent of another version is never replayed.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass, field

from consumer.batch import Batch

ROWS_VERSION = 1

_LONGEST = 1024
_MARK = "penstock1"
_ID = r"[A-Za-z0-9._=+/-]{1,300}"
_OPEN = re.compile(rf"{_MARK}:open:(\d+):(\d+):({_ID}):(\d+):([0-9a-f]{{8}})")
_INTENT = re.compile(
    rf"{_MARK}:intent:(\d+):(\d+):([0-9a-f]{{16}}):(\d+):(\d+):({_ID}):(\d+):(\d+)"
    r":([0-9a-f]{8})"
)
_MEND = re.compile(rf"{_MARK}:mend:(\d+):(\d+):(\d+):({_ID}):(\d+):(\d+):([0-9a-f]{{8}})")


@dataclass(frozen=True, slots=True)
class Source:
    """Where the records of a partition come from. `topic_id` is new when a topic is made again."""

    cluster: str
    topic: str
    topic_id: str
    partition: int


@dataclass(frozen=True, slots=True)
class Open:
    """A commit of ours with nothing being written. `time_ms`: epoch milliseconds."""

    epoch: int
    version: int
    topic_id: str
    time_ms: int


@dataclass(frozen=True, slots=True)
class Intent:
    """`[first, end)` is being written, announced at `time_ms`, and in this commit at `sent_ms`
    (epoch milliseconds). Two intents are equal when they announce the same insert."""

    first: int
    end: int
    count: int
    digest: str
    epoch: int
    version: int
    topic_id: str
    time_ms: int
    sent_ms: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Mark:
    """`[first, end)` is being mended: what is missing is inserted under `epoch`, and the views are
    restored. Times as an intent's."""

    first: int
    end: int
    epoch: int
    version: int
    topic_id: str
    time_ms: int
    sent_ms: int = field(default=0, compare=False)


Note = Open | Intent | Mark


def encode(offset: int, note: Note) -> str:
    """The metadata for a commit at `offset`."""
    if isinstance(note, Open):
        text = f"{_MARK}:open:{note.epoch}:{note.version}:{note.topic_id}:{note.time_ms}"
    elif isinstance(note, Mark):
        text = (
            f"{_MARK}:mend:{note.end}:{note.epoch}:{note.version}:{note.topic_id}"
            f":{note.time_ms}:{note.sent_ms}"
        )
    else:
        text = (
            f"{_MARK}:intent:{note.end}:{note.count}:{note.digest}:{note.epoch}"
            f":{note.version}:{note.topic_id}:{note.time_ms}:{note.sent_ms}"
        )
    return f"{text}:{_checksum(offset, text)}"


def decode(offset: int, metadata: str | None) -> Note | None:
    """What a commit says, or None where it is not one of ours."""
    if not metadata or len(metadata) > _LONGEST:
        return None
    text, _, checksum = metadata.rpartition(":")
    if checksum != _checksum(offset, text):
        return None
    if found := _OPEN.fullmatch(metadata):
        epoch, version, topic_id, time_ms, _ = found.groups()
        return Open(int(epoch), int(version), topic_id, int(time_ms))
    if found := _INTENT.fullmatch(metadata):
        end, count, digest, epoch, version, topic_id, time_ms, sent_ms, _ = found.groups()
        if int(end) <= offset:
            return None
        return Intent(
            offset, int(end), int(count), digest, int(epoch), int(version), topic_id,
            int(time_ms), int(sent_ms),
        )  # fmt: skip
    if found := _MEND.fullmatch(metadata):
        end, epoch, version, topic_id, time_ms, sent_ms, _ = found.groups()
        if int(end) <= offset:
            return None
        return Mark(
            offset, int(end), int(epoch), int(version), topic_id, int(time_ms), int(sent_ms)
        )
    return None


def token(source: Source, batch: Batch, note: Intent | Mark) -> str:
    """The insert's deduplication token, which the landing view splits into the rows' stamp.

    `batch` is the announced one, also where bad rows were taken out of its text since; `note`
    announced it. Its time keeps apart what was announced twice: the same range of the same log may
    come again, when its offsets were reset, while the deduplication log still knows, or wrongly
    claims to know, the attempt before. A replay keeps it.
    """
    return (
        f"{source.cluster}:{source.topic_id}:{source.partition}:{batch.first}-{batch.end}"
        f":{batch.rows}:{batch.digest}:{note.epoch}:{source.topic}:{note.version}:{note.time_ms}"
    )


def _checksum(offset: int, text: str) -> str:
    return f"{zlib.crc32(f'{text}@{offset}'.encode()):08x}"

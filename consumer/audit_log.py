"""What the audit reads out of Kafka: commits, records, dead letters. No group is joined and nothing
is committed."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from confluent_kafka import OFFSET_INVALID, Consumer, KafkaError, KafkaException, TopicPartition

from consumer.config import ConsumerSettings
from consumer.dead_letters import dead_letter_topic
from consumer.kafka import connection, topic_identity
from consumer.ledger import decode
from consumer.ports import LogError
from consumer.recovery import Commit
from schemas.logs import Sparing

_library_log = logging.getLogger("consumer.librdkafka")
_library_log.addFilter(Sparing())

_CALL_SECONDS = 10.0
_READ_SECONDS = 60.0  # without a record of a range that the log has
_POLL_SECONDS = 0.1  # `consume` waits so long for more
_FETCHED = 500


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter's place. `in_table`: it has landed, and not in every view."""

    topic_id: str
    partition: int
    offset: int
    line: int
    in_table: bool


class Log:
    """The topic and its dead-letter topic, read without joining the group. Raises LogError."""

    def __init__(self, settings: ConsumerSettings) -> None:
        self._topic = settings.kafka_topic
        _, self.topic_id = topic_identity(settings)
        self._consumer = Consumer(
            {
                **connection(settings),
                "group.id": settings.kafka_group,
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "auto.offset.reset": "error",
                "isolation.level": "read_committed",
                "enable.partition.eof": True,
                "allow.auto.create.topics": False,
            },
            logger=_library_log,
        )

    def close(self) -> None:
        self._consumer.close()

    def commits(self) -> Mapping[int, Commit]:
        """Kafka's commit and the log's ends, by partition."""
        with _told():
            numbers = self._partitions(self._topic)
            asked = [TopicPartition(self._topic, number) for number in numbers]
            found = {}
            for commit in self._consumer.committed(asked, timeout=_CALL_SECONDS):
                if commit.error is not None:
                    raise LogError(f"Kafka: {commit.error.str()}")
                low, high = self._consumer.get_watermark_offsets(commit, timeout=_CALL_SECONDS)
                offset = None if commit.offset == OFFSET_INVALID else commit.offset
                found[commit.partition] = Commit(offset, commit.metadata, low, high)
            return found

    def _partitions(self, topic: str) -> list[int]:
        described = self._consumer.list_topics(topic, timeout=_CALL_SECONDS).topics.get(topic)
        return sorted(described.partitions) if described and not described.error else []

    def low(self, partition: int) -> int:
        with _told():
            place = TopicPartition(self._topic, partition)
            low, _ = self._consumer.get_watermark_offsets(place, timeout=_CALL_SECONDS)
            return int(low)

    def lines(self, partition: int, first: int, end: int) -> Iterator[tuple[int, list[bytes]]]:
        """Of each record in `[first, end)` its offset and lines that have content."""
        for message in self._read(self._topic, partition, first, end):
            value = message.value() or b""
            yield message.offset(), [line for line in value.split(b"\n") if line]

    def letters(self) -> Iterator[Letter]:
        """All letters that there are. None where there is no dead-letter topic."""
        dead = dead_letter_topic(self._topic)
        with _told():
            ends = {
                number: self._consumer.get_watermark_offsets(
                    TopicPartition(dead, number), timeout=_CALL_SECONDS
                )
                for number in self._partitions(dead)
            }
        for number, (low, high) in ends.items():
            for message in self._read(dead, number, low, high):
                letter = _letter(message.headers() or [])
                if letter is not None:
                    yield letter

    def _read(self, topic: str, partition: int, first: int, end: int) -> Iterator[Any]:
        if first >= end:
            return
        with _told():
            self._consumer.assign([TopicPartition(topic, partition, first)])
            position, deadline = first, time.monotonic() + _READ_SECONDS
            while position < end:
                if time.monotonic() > deadline:
                    raise LogError(f"Kafka: nothing came of {topic} [{partition}] at {position}")
                for message in self._consumer.consume(_FETCHED, _POLL_SECONDS):
                    deadline = time.monotonic() + _READ_SECONDS
                    error = message.error()
                    if error is None:
                        position = (message.offset() or 0) + 1
                        if position <= end:
                            yield message
                    elif error.code() == KafkaError._PARTITION_EOF:
                        position = max(position, end)  # what is left are markers
                    elif error.fatal() or error.code() == KafkaError._AUTO_OFFSET_RESET:
                        raise LogError(f"Kafka: {error.str()}")
            self._consumer.unassign()


@contextlib.contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except KafkaException as error:
        raise LogError(f"Kafka: {error.args[0].str()}") from error


def _letter(headers: Sequence[tuple[str, bytes | None]]) -> Letter | None:
    given = {name: (value or b"").decode(errors="replace") for name, value in headers}
    try:
        return Letter(
            given["penstock.topic_id"],
            int(given["penstock.partition"]),
            int(given["penstock.offset"]),
            int(given["penstock.line"]),
            given.get("penstock.in_table") == "1",
        )
    except (KeyError, ValueError):
        return None  # somebody else's


def said(commit: Commit | None, topic_id: str) -> tuple[int | None, str]:
    """How far Kafka's commit can be trusted (None: not at all), and what it says."""
    if commit is None:
        return None, "no such partition"
    if commit.offset is None:
        return None, "no commit"
    note = decode(commit.offset, commit.metadata)
    if note is None or note.topic_id != topic_id:
        return None, f"{commit.offset}, and it is not one of ours"
    kind, end = type(note).__name__.lower(), getattr(note, "end", None)
    if end is None:
        return commit.offset, f"{commit.offset}, nothing open"
    doing = "mending" if kind == "mark" else "writing"
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(note.time_ms / 1000))
    span = f"[{commit.offset}, {end})"
    return commit.offset, f"{commit.offset}, {doing} {span} epoch {note.epoch} since {at}"

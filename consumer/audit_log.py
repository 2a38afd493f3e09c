"""What the audit reads out of Kafka: commits, records, dead letters. No group is joined and nothing
is committed."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from consumer.audit_letters import Letter
from consumer.config import ConsumerSettings
from consumer.dead_letters import dead_letter_topic
from consumer.kafka_client import (
    CALL_SECONDS,
    as_log_error,
    commits,
    library_log,
    reading,
    topic_identity,
)
from consumer.ledger import decode
from consumer.ports import LogError
from consumer.recovery import Commit

_READ_SECONDS = 60.0  # without a record of a range that the log has
_POLL_SECONDS = 0.1  # `consume` waits so long for more
_FETCHED = 500
_NO_SUCH_PARTITION = frozenset({KafkaError._UNKNOWN_PARTITION, KafkaError.UNKNOWN_TOPIC_OR_PART})


class Log:
    """The topic and its dead-letter topic, read without joining the group. Raises LogError."""

    def __init__(self, settings: ConsumerSettings) -> None:
        self._topic = settings.kafka_topic
        _, self.topic_id = topic_identity(settings)
        self._consumer = Consumer(reading(settings), logger=library_log)

    def close(self) -> None:
        self._consumer.close()

    def commits(self) -> Mapping[int, Commit]:
        """Kafka's commit and the log's ends, by partition."""
        with as_log_error():
            numbers = self._partitions(self._topic)
        return commits(self._consumer, [TopicPartition(self._topic, each) for each in numbers])

    def _partitions(self, topic: str) -> list[int]:
        described = self._consumer.list_topics(topic, timeout=CALL_SECONDS).topics.get(topic)
        return sorted(described.partitions) if described and not described.error else []

    def ends(self, partition: int) -> tuple[int, int] | None:
        """Of the log; None where the topic has no such partition."""
        with as_log_error():
            place = TopicPartition(self._topic, partition)
            try:
                low, high = self._consumer.get_watermark_offsets(place, timeout=CALL_SECONDS)
            except KafkaException as error:
                if error.args[0].code() in _NO_SUCH_PARTITION:
                    return None
                raise
            return int(low), int(high)

    def lines(self, partition: int, first: int, end: int) -> Iterator[tuple[int, list[bytes]]]:
        """Of each record in `[first, end)` its offset and lines that have content. The log has to
        reach so far: where it ends, what is left of the range is taken for markers."""
        for message in self._read(self._topic, partition, first, end):
            value = message.value() or b""
            yield message.offset(), [line for line in value.split(b"\n") if line]

    def letters(self) -> Iterator[Letter]:
        """All letters that there are. None where there is no dead-letter topic."""
        dead = dead_letter_topic(self._topic)
        with as_log_error():
            ends = {
                number: self._consumer.get_watermark_offsets(
                    TopicPartition(dead, number), timeout=CALL_SECONDS
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
        with as_log_error():
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


def _letter(headers: Sequence[tuple[str, bytes | None]]) -> Letter | None:
    given = {name: (value or b"").decode(errors="replace") for name, value in headers}
    if "penstock.settled" in given:  # a marker: what was done with a letter is no letter
        return None
    try:
        return Letter(
            given["penstock.topic_id"],
            int(given["penstock.partition"]),
            int(given["penstock.offset"]),
            int(given["penstock.line"]),
            given.get("penstock.in_table") == "1",
            int(given["penstock.at"]),
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

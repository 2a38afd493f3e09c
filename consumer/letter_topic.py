"""What stands in the dead-letter topic: letters, markers, and what follows from them.

The topic is the only record of what was done with a letter, so it is read whole, up to its end and
committed records only. A letter that was written twice is one; a marker settles it wherever the two
stand; a letter that stands where a replay put an event has **returned**: the fix did not help.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition

from consumer.config import ConsumerSettings
from consumer.dead_letters import dead_letter_topic, missing
from consumer.kafka_client import CALL_SECONDS, reading

_library_log = logging.getLogger("consumer.librdkafka.letters")
_library_log.setLevel(logging.CRITICAL)  # what fails is answered, and told once

_POLL_SECONDS = 0.1  # `consume` waits so long for more
_SILENT_SECONDS = 30.0
_AT_ONCE = 1000


class Identity(NamedTuple):
    """Which line of which record. A topic id tells a topic from a later one of the same name."""

    topic_id: str
    partition: int
    offset: int
    line: int


class Position(NamedTuple):
    topic_id: str
    partition: int
    offset: int


@dataclass(frozen=True, slots=True)
class Marker:
    """What was done with a letter, and when (epoch milliseconds); of a replay also where to."""

    identity: Identity
    done: str  # replayed, dropped
    at_ms: int
    to: Position | None = None


@dataclass(frozen=True, slots=True)
class Stored:
    """A letter as it stands in the topic. `stands_in`: the topic's partition."""

    identity: Identity
    topic: str
    reason: str
    error: str
    at_ms: int
    in_table: bool
    value: bytes
    stands_in: int


@dataclass
class Contents:
    """Everything in the topic, by identity, the first of several copies."""

    letters: dict[Identity, Stored] = field(default_factory=dict)
    copies: dict[Identity, int] = field(default_factory=dict)
    markers: dict[Identity, Marker] = field(default_factory=dict)
    strangers: int = 0  # records that are neither
    _arrived_from: dict[Position, Identity] = field(default_factory=dict)

    def add(self, record: Stored | Marker | None) -> None:
        if record is None:
            self.strangers += 1
        elif isinstance(record, Marker):
            self.markers.setdefault(record.identity, record)
            if record.to is not None:
                self._arrived_from[record.to] = record.identity
        else:
            known = self.letters.setdefault(record.identity, record)
            self.copies[record.identity] = self.copies.get(record.identity, 0) + 1
            if record.in_table and not known.in_table:
                self.letters[record.identity] = record

    def returns(self, identity: Identity) -> int:
        """How often the event was replayed before it came to be this letter."""
        passed = {identity}
        before = self._arrived_from.get(Position(*identity[:3]))
        while before is not None and before not in passed:  # only a forged marker makes a circle
            passed.add(before)
            before = self._arrived_from.get(Position(*before[:3]))
        return len(passed) - 1

    def open(self) -> Iterator[Stored]:
        """Letters that nothing was done with."""
        return (each for each in self.letters.values() if each.identity not in self.markers)


def read_record(
    value: bytes | None, headers: Mapping[str, str | bytes | None], stands_in: int
) -> Stored | Marker | None:
    """A record of the topic, or None when it is not one of ours."""

    def text(name: str) -> str:
        given = headers.get(f"penstock.{name}") or b""
        return given if isinstance(given, str) else given.decode("utf-8", "backslashreplace")

    def number(name: str) -> int:
        return int(text(name))

    try:
        identity = Identity(text("topic_id"), number("partition"), number("offset"), number("line"))
        if value is None:
            to = None
            if text("to_offset"):
                to = Position(text("to_topic_id"), number("to_partition"), number("to_offset"))
            done = text("settled")
            return Marker(identity, done, number("at"), to) if done else None
        return Stored(
            identity=identity,
            topic=text("topic"),
            reason=text("reason"),
            error=text("error"),
            at_ms=number("at"),
            in_table=text("in_table") == "1",
            value=value,
            stands_in=stands_in,
        )
    except ValueError:
        return None


class Unreadable(Exception):
    """The topic cannot be read. The message says what to do."""


class LetterTopic:
    """Reads the dead-letter topic from its beginning, and on from there. Use it as a context."""

    def __init__(self, settings: ConsumerSettings) -> None:
        self._topic = dead_letter_topic(settings.kafka_topic)
        self.contents = Contents()
        self._next: dict[int, int] = {}  # partition -> the offset to read next
        self._consumer = Consumer(
            {
                **reading(settings),
                "group.id": f"{settings.kafka_group}.dead-letters",  # never joined
                "auto.offset.reset": "earliest",
                "fetch.queue.backoff.ms": 10,
                # an end is told by an empty answer, and a broker would wait half a second with it
                "fetch.wait.max.ms": 20,
                "error_cb": lambda _: None,
            },
            logger=_library_log,
        )

    def __enter__(self) -> LetterTopic:
        return self

    def __exit__(self, *_: object) -> None:
        self._consumer.close()

    def read_on(self, progress: Callable[[int], None]) -> Contents:
        """Read to the end, from the beginning or from where the last reading ended. Raises
        Unreadable. `progress` is told how many records were read."""
        try:
            found = self._consumer.list_topics(timeout=CALL_SECONDS).topics.get(self._topic)
            if found is None:
                raise Unreadable(missing(self._topic))
            for partition in found.partitions:
                self._next.setdefault(partition, OFFSET_BEGINNING)
            # Assigned anew, each partition's end is told once more.
            self._consumer.assign(
                [TopicPartition(self._topic, at, offset) for at, offset in self._next.items()]
            )
            self._read_to_ends(progress)
        except KafkaException as error:
            raise Unreadable(f"reading {self._topic}: {error.args[0].str()}") from error
        return self.contents

    def _read_to_ends(self, progress: Callable[[int], None]) -> None:
        unread, count, heard_at = set(self._next), 0, time.monotonic()
        while unread:
            messages = self._consumer.consume(_AT_ONCE, _POLL_SECONDS)
            if messages:
                heard_at = time.monotonic()
            elif time.monotonic() > heard_at + _SILENT_SECONDS:
                raise Unreadable(
                    f"reading {self._topic}: Kafka said nothing for {_SILENT_SECONDS:g} s"
                )
            for message in messages:
                partition, error = message.partition() or 0, message.error()
                if error is None:
                    headers = dict(message.headers() or ())
                    self.contents.add(read_record(message.value(), headers, partition))
                    self._next[partition] = (message.offset() or 0) + 1
                    count += 1
                elif error.code() == KafkaError._PARTITION_EOF:
                    unread.discard(partition)
                elif error.fatal() or not error.retriable():
                    raise KafkaException(error)
            progress(count)

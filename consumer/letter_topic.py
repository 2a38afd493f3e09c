"""Reads the dead-letter topic: all of it into an index, and letters' records again by their place.

Committed records only. What is in memory at a time are some megabytes, whatever the topic holds.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition

from consumer.config import ConsumerSettings
from consumer.dead_letters import dead_letter_topic, missing
from consumer.kafka_client import CALL_SECONDS, reading
from consumer.letter_index import Identity, Index, Listed, Marker, Position, Stored

_library_log = logging.getLogger("consumer.librdkafka.letters")
_library_log.setLevel(logging.CRITICAL)  # what fails is answered, and told once

_POLL_SECONDS = 0.1  # `consume` waits so long for more
_SILENT_SECONDS = 30.0
_MOST_MESSAGES = 1000
_BITE_BYTES = 1 << 20
_PREFETCH_KIB = 8 * 1024
_SKIPPED = 2000  # records between two wanted ones: to read over more than that is to seek
_MOST = (1 << 63) - 1


def read_record(
    value: bytes | None,
    headers: Mapping[str, str | bytes | None],
    stands_at: tuple[int, int] = (0, 0),
) -> Stored | Marker | None:
    """A record of the topic, or None when it is not one of ours."""

    def text(name: str) -> str:
        given = headers.get(f"penstock.{name}") or b""
        return given if isinstance(given, str) else given.decode("utf-8", "backslashreplace")

    def number(name: str) -> int:
        given = int(text(name))
        if not 0 <= given <= _MOST:
            raise ValueError(name)
        return given

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
            stands_at=stands_at,
        )
    except ValueError:
        return None


class Unreadable(Exception):
    """The topic cannot be read. The message says what to do."""


class LetterTopic:
    """Reads the topic from its beginning into `index`, and on from there. Use it as a context."""

    def __init__(self, settings: ConsumerSettings) -> None:
        self._topic = dead_letter_topic(settings.kafka_topic)
        self.index = Index()
        self._next: dict[int, int] = {}  # partition -> the offset to read next
        self._messages = 20
        self._consumer = Consumer(
            {
                **reading(settings),
                "group.id": f"{settings.kafka_group}.dead-letters",  # never joined
                "auto.offset.reset": "earliest",
                "queued.max.messages.kbytes": _PREFETCH_KIB,
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
        self.index.close()

    def read_on(self, progress: Callable[[int, int], None]) -> Index:
        """Read to the end, from the beginning or from where the last reading ended. Raises
        Unreadable. `progress` is told how many records were read, and of about how many."""
        try:
            found = self._consumer.list_topics(timeout=CALL_SECONDS).topics.get(self._topic)
            if found is None:
                raise Unreadable(missing(self._topic))
            for partition in found.partitions:
                self._next.setdefault(partition, OFFSET_BEGINNING)
            of = sum(self._ahead(partition) for partition in self._next)
            # Assigned anew, each partition's end is told once more.
            self._assign(self._next)
            unread, count = set(self._next), 0
            while unread:
                for message in self._more():
                    partition, offset = message.partition(), message.offset()
                    if message.error() is not None:  # it is the end
                        unread.discard(partition)
                        continue
                    self.index.add(_record(message))
                    self._next[partition] = offset + 1
                    count += 1
                progress(count, of)
        except KafkaException as error:
            raise Unreadable(f"reading {self._topic}: {error.args[0].str()}") from error
        return self.index

    def read_again(self, letters: Sequence[Listed]) -> dict[Identity, Stored]:
        """The letters' records; without those that are not there any more. Raises Unreadable."""
        found: dict[Identity, Stored] = {}
        try:
            for partition in sorted({letter.stands_at[0] for letter in letters}):
                wanted = {
                    letter.stands_at[1]: letter.identity
                    for letter in letters
                    if letter.stands_at[0] == partition
                }
                for record in self._read_again(partition, sorted(wanted)):
                    # a topic that was made again has other letters there
                    if record.identity == wanted[record.stands_at[1]]:
                        found[record.identity] = record
        except KafkaException as error:
            raise Unreadable(f"reading {self._topic}: {error.args[0].str()}") from error
        return found

    def _read_again(self, partition: int, offsets: Sequence[int]) -> Iterator[Stored]:
        left, position, last = list(reversed(offsets)), offsets[0], offsets[-1]
        self._assign({partition: position})
        while left:
            messages = self._more(last - position + 1)
            for message in messages:
                if message.error() is not None:  # it is the end
                    return
                position = message.offset() + 1
                while left and left[-1] < position:
                    if left.pop() == message.offset():
                        record = _record(message)
                        if isinstance(record, Stored):
                            yield record
            if left and left[-1] - position > _SKIPPED:
                position = left[-1]
                self._assign({partition: position})

    def _ahead(self, partition: int) -> int:
        """How many offsets are left to be read."""
        place = TopicPartition(self._topic, partition)
        low, high = self._consumer.get_watermark_offsets(place, timeout=CALL_SECONDS)
        return max(0, int(high - max(low, self._next[partition])))

    def _assign(self, positions: Mapping[int, int]) -> None:
        self._consumer.assign(
            [TopicPartition(self._topic, at, offset) for at, offset in positions.items()]
        )

    def _more(self, most: int = _MOST_MESSAGES) -> list[Any]:
        """What comes next, in Kafka's time; those that are errors are ends of partitions."""
        deadline = time.monotonic() + _SILENT_SECONDS
        while not (messages := self._consumer.consume(min(most, self._messages), _POLL_SECONDS)):
            if time.monotonic() > deadline:
                raise Unreadable(
                    f"reading {self._topic}: Kafka said nothing for {_SILENT_SECONDS:g} s"
                )
        kept, size = list[Any](), 0
        for message in messages:
            error = message.error()
            if error is None:
                size += len(message.value() or b"")
            elif error.code() != KafkaError._PARTITION_EOF:
                if error.fatal() or not error.retriable():
                    raise KafkaException(error)
                continue
            kept.append(message)
        if size:  # about a megabyte at a time
            wanted = len(kept) * _BITE_BYTES // size
            self._messages = max(1, min(_MOST_MESSAGES, wanted))
        return kept


def _record(message: Any) -> Stored | Marker | None:
    place = (message.partition(), message.offset())
    return read_record(message.value(), dict(message.headers() or ()), place)

"""The dead-letter topic: what its records are, and writing to it.

A **letter** is one line that could not be inserted: the value is the line's bytes as they were, the
headers say where it stood, why it is here and when it came. Its identity is (topic id, partition,
offset, line): a batch that is tried again after a crash writes its letters again, and whoever reads
the topic counts one identity as one letter.

A **marker** says that a letter is settled: replayed (and at which position) or dropped. It has no
value, so that a reader who knows nothing of markers sees no event in it, and it stands in the same
partition as the letter, so that retention cannot take the marker first.

Letters of one partition of the events stand in one partition here. The topic is never created from
here: how long letters are kept is for its owner to say, and a broker's defaults say a week.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from consumer.batch import Letter
from consumer.config import ConsumerSettings
from consumer.kafka_client import connection
from consumer.ledger import Source
from schemas.callbacks import give_up, serving_callbacks
from schemas.logs import Sparing

_library_log = logging.getLogger("consumer.librdkafka.dead_letters")
_library_log.addFilter(Sparing())

SUFFIX = ".dead"
MOST_BYTES = 1_000_000_000  # what librdkafka lets through: the topic's own limit decides
_ERROR_CHARACTERS = 1000
_POLL_SECONDS = 0.05

# A topic's limit holds for what is sent together: little of it, so that one letter's size decides.
_TOGETHER_BYTES = 65_536

Headers = list[tuple[str, str | bytes | None]]
Settled = Literal["replayed", "dropped"]


def dead_letter_topic(topic: str) -> str:
    return topic + SUFFIX


def letter_headers(source: Source, letter: Letter, at_ms: int) -> Headers:
    """What the record of this letter says beside its value. `at_ms`: epoch milliseconds."""
    headers = {
        **_identity(source.topic, source.topic_id, source.partition, letter.offset, letter.line),
        "penstock.reason": letter.reason,
        "penstock.error": letter.error[:_ERROR_CHARACTERS],
        "penstock.at": str(at_ms),
    }
    if letter.in_table:
        headers["penstock.in_table"] = "1"
    return _encoded(headers)


def marker_headers(
    source: Source,
    offset: int,
    line: int,
    settled: Settled,
    at_ms: int,
    to: tuple[str, int, int] | None = None,
) -> Headers:
    """A marker for the letter of this identity. `to`: the topic id, partition and offset at which a
    replay put its event."""
    headers = {
        **_identity(source.topic, source.topic_id, source.partition, offset, line),
        "penstock.settled": settled,
        "penstock.at": str(at_ms),
    }
    if to is not None:
        names = ("penstock.to_topic_id", "penstock.to_partition", "penstock.to_offset")
        headers |= dict(zip(names, map(str, to), strict=True))
    return _encoded(headers)


def _identity(topic: str, topic_id: str, partition: int, offset: int, line: int) -> dict[str, str]:
    return {
        "penstock.topic": topic,
        "penstock.topic_id": topic_id,
        "penstock.partition": str(partition),
        "penstock.offset": str(offset),
        "penstock.line": str(line),
    }


def _encoded(headers: Mapping[str, str]) -> Headers:
    return [(name, value.encode("utf-8", "backslashreplace")) for name, value in headers.items()]


def producer_settings(settings: ConsumerSettings, timeout_seconds: float) -> dict[str, Any]:
    """What every producer of the consumer is made with."""
    return {
        **connection(settings),
        "acks": "all",
        "enable.idempotence": True,
        "delivery.timeout.ms": int(timeout_seconds * 1000),
        "message.max.bytes": MOST_BYTES,
        "batch.size": _TOGETHER_BYTES,
        "linger.ms": 5,
        "error_cb": lambda _: None,  # each send has its answer
    }


def partitions_of(producer: Producer, topic: str, timeout_seconds: float) -> int:
    """How many partitions the topic has; 0 when there is none. Raises KafkaException.

    Asks for all topics: asking a broker for one by name may create it.
    """
    found = producer.list_topics(timeout=timeout_seconds).topics.get(topic)
    return 0 if found is None else len(found.partitions)


def missing(topic: str) -> str:
    return (
        f"the dead-letter topic {topic} does not exist: create it, for example with "
        f"kafka-topics.sh --create --topic {topic} --partitions 1 --config retention.ms=-1"
    )


class KafkaDeadLetters:
    """See `ports.DeadLetters`. The producer is made by the first write."""

    def __init__(self, settings: ConsumerSettings) -> None:
        self._settings = settings
        self._topic = dead_letter_topic(settings.kafka_topic)
        self._timeout_seconds = settings.limits.commit_timeout_seconds
        self._lock = threading.Lock()
        self._producer: Producer | None = None
        self._partitions = 0

    def write(self, source: Source, letters: Sequence[Letter]) -> str | None:
        if not letters:
            return None
        deadline = time.monotonic() + self._timeout_seconds
        sending, producer = _Sending(letters), None
        try:
            producer, partitions = self._ready(deadline)
            if not partitions:
                return missing(self._topic)
            with serving_callbacks():
                self._produce(producer, source.partition % partitions, source, sending, deadline)
        except KafkaException as error:
            sending.refused = error.args[0], max(len(letter.value) for letter in letters)
        except (BufferError, ValueError, RuntimeError) as error:
            return f"writing to the dead-letter topic {self._topic}: {error}"
        if sending.refused is not None:
            self._forget(sending.refused[0], producer)
            return self._told(*sending.refused)
        if sending.waiting:
            return self._told(KafkaError(KafkaError._MSG_TIMED_OUT))
        return None

    def close(self) -> None:
        """Give the connection back. What was not acknowledged was answered so already."""
        with self._lock:
            producer, self._producer = self._producer, None
        if producer is not None:
            give_up(producer)

    def _ready(self, deadline: float) -> tuple[Producer, int]:
        with self._lock:
            if self._producer is None:
                wanted = producer_settings(self._settings, self._timeout_seconds)
                self._producer = Producer({**wanted, "logger": _library_log})
                self._partitions = 0
            if not self._partitions:
                left = max(0.1, deadline - time.monotonic())
                self._partitions = partitions_of(self._producer, self._topic, left)
            return self._producer, self._partitions

    def _produce(
        self,
        producer: Producer,
        partition: int,
        source: Source,
        sending: _Sending,
        deadline: float,
    ) -> None:
        """Send them and wait, up to the deadline, until Kafka has answered for each."""
        at_ms = int(time.time() * 1000)
        for letter in sending.letters:
            headers = letter_headers(source, letter, at_ms)
            while True:
                try:
                    producer.produce(
                        self._topic,
                        letter.value,
                        partition=partition,
                        headers=headers,
                        on_delivery=sending.answer(letter),
                    )
                    break
                except BufferError:  # full: of other threads' letters, or of ours
                    if time.monotonic() >= deadline:
                        raise
                    producer.poll(_POLL_SECONDS)
        # librdkafka's own deadline is counted from each `produce`, and answers by itself.
        while sending.waiting and time.monotonic() < deadline + 1:
            producer.poll(_POLL_SECONDS)

    def _forget(self, error: KafkaError, failed: Producer | None) -> None:
        """Look at the topic again next time; and begin with a new producer after a fatal error,
        which is told once, and after which the producer takes nothing more. Another thread may have
        begun already."""
        with self._lock:
            self._partitions = 0
            fatal = error.fatal() or error.code() == KafkaError._FATAL
            if fatal and failed in (None, self._producer):
                self._producer = None

    def _told(self, error: KafkaError, size_bytes: int = 0) -> str:
        """The error with what to do about it."""
        topic, code = self._topic, error.code()
        if code in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC):
            return missing(topic)
        if code in (KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE):
            return (
                f"the dead-letter topic {topic} refuses a letter of {size_bytes} bytes as too "
                f"large: set its max.message.bytes to {2 * size_bytes + _TOGETHER_BYTES} or more"
            )
        if code in (KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.CLUSTER_AUTHORIZATION_FAILED):
            return f"writing to the dead-letter topic {topic} is not allowed: grant WRITE on it"
        if code == KafkaError._MSG_TIMED_OUT:
            return (
                f"Kafka did not acknowledge the letters for {topic} within "
                f"{self._timeout_seconds:g} s: look at the brokers and at min.insync.replicas"
            )
        return f"writing to the dead-letter topic {topic}: {error.str()}"


class _Sending:
    """Letters under way, and the first refusal among their answers."""

    def __init__(self, letters: Sequence[Letter]) -> None:
        self.letters = letters
        self.refused: tuple[KafkaError, int] | None = None
        self._lock = threading.Lock()
        self._waiting = len(letters)

    @property
    def waiting(self) -> bool:
        with self._lock:
            return self._waiting > 0

    def answer(self, letter: Letter) -> Callable[[KafkaError | None, Message], None]:
        def answered(error: KafkaError | None, _: Message) -> None:
            # on whichever thread polls
            with self._lock:
                self._waiting -= 1
                if error is not None and self.refused is None:
                    self.refused = (error, len(letter.value))

        return answered

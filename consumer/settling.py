"""Settling letters: the event back to its partition, and a marker that says so, in one transaction.

Either both are there or neither is, also after a kill -9 in the middle: consumers and this tool
read committed records only. The transactional id is made of the topic's name, so of two runs at
once the later one fences the earlier: what that one had under way is aborted before the later one
looks at what is still open.

1. `take_over`: init_transactions. What an earlier run left open is now aborted, or committed.
2. (the caller reads the topic on to its end, and knows what is still open)
3. `settle`, a few hundred letters at a time: begin, produce the events, wait for their positions,
   produce the markers, commit.

A letter that its topic refuses (too large by now) is left out, and its neighbours are tried again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from consumer.config import ConsumerSettings
from consumer.dead_letters import (
    Settled,
    dead_letter_topic,
    marker_headers,
    partitions_of,
    producer_settings,
)
from consumer.ledger import Source
from consumer.letter_index import Identity, Listed
from schemas.callbacks import serving_callbacks

_library_log = logging.getLogger("consumer.librdkafka.settling")
_library_log.disabled = True  # what fails is answered, and told once

AT_ONCE = 500
# After a refusal the client's sequence has a gap: the next try fails too, and mends it.
_TRIES = 3
_CALL_SECONDS = 15.0
_POLL_SECONDS = 0.05
# What a killed run left open keeps the consumers from reading on for so long, at most.
_TRANSACTION_SECONDS = 15.0

# About one letter, and not about the broker: the others can go without it.
_OF_THE_LETTER = frozenset(
    {
        KafkaError.MSG_SIZE_TOO_LARGE,
        KafkaError.RECORD_LIST_TOO_LARGE,
        KafkaError.INVALID_RECORD,
        KafkaError._UNKNOWN_PARTITION,
    }
)


class Failed(Exception):
    """Kafka does not let us go on. The message says what to do; what was settled stays settled."""


@dataclass
class Outcome:
    """Of one `settle`: how many are done, and which could not be, with why."""

    done: int = 0
    refused: dict[Identity, str] = field(default_factory=dict)


class Settling:
    """One run's transactional producer. `topic_id`: that of the topic the events go to."""

    def __init__(self, settings: ConsumerSettings, topic_id: str) -> None:
        self._topic = settings.kafka_topic
        self._dead = dead_letter_topic(self._topic)
        self._topic_id = topic_id
        self._partitions = 0
        self._producer = Producer(
            {
                **producer_settings(settings, _TRANSACTION_SECONDS),
                "transactional.id": f"penstock.{self._dead}",
                # what is refused is refused together: so each by itself
                "batch.num.messages": 1,
                "linger.ms": 0,
                # ...and with nothing else under way, on which taking it back would wait in vain
                "max.in.flight": 1,
                "transaction.timeout.ms": int(_TRANSACTION_SECONDS * 1000),
                "logger": _library_log,
            }
        )

    def take_over(self) -> None:
        """From here on no other run can settle anything. Raises Failed."""
        try:
            with serving_callbacks():
                self._producer.init_transactions(_CALL_SECONDS)
            self._partitions = partitions_of(self._producer, self._topic, _CALL_SECONDS)
        except KafkaException as error:
            raise Failed(_told(error.args[0])) from error

    def settle(self, letters: Sequence[Listed], values: Mapping[Identity, bytes] | None) -> Outcome:
        """Settle them all in one transaction, but for those that cannot be. Raises Failed.

        `values`: what is put back on the topic, for each of them; None: they are dropped.
        """
        outcome = Outcome()
        left = list(letters)
        if values is not None:
            for letter in letters:
                if letter.identity.partition >= self._partitions:
                    outcome.refused[letter.identity] = (
                        f"{self._topic} has no partition {letter.identity.partition} any more"
                    )
        tries = _TRIES
        while left := [each for each in left if each.identity not in outcome.refused]:
            try:
                refused = self._transaction(left, values)
            except KafkaException as error:
                tries -= 1
                if not self._aborted() or not tries:
                    raise Failed(_told(error.args[0])) from error
                continue
            if not refused:
                outcome.done = len(left)
                break
            if not self._aborted():
                raise Failed("; ".join(refused.values()))
            outcome.refused |= refused
            tries = _TRIES
        return outcome

    @serving_callbacks()
    def _transaction(
        self, letters: Sequence[Listed], values: Mapping[Identity, bytes] | None
    ) -> dict[Identity, str]:
        """One try. Where letters are refused, it says which, and is not committed."""
        self._producer.begin_transaction()
        events = _Events()
        done: Settled = "dropped" if values is None else "replayed"
        if values is not None:
            for letter in letters:
                self._producer.produce(
                    self._topic,
                    values[letter.identity],
                    partition=letter.identity.partition,
                    on_delivery=events.answer(letter.identity),
                )
            self._await(events, len(letters))
            if events.refused:
                return events.refused
        at_ms = int(time.time() * 1000)
        for letter in letters:
            identity, to = letter.identity, None
            if values is not None:
                to = (self._topic_id, identity.partition, events.offsets[identity])
            source = Source("", letter.topic, identity.topic_id, identity.partition)
            headers = marker_headers(source, identity.offset, identity.line, done, at_ms, to)
            stands_in, _ = letter.stands_at
            self._producer.produce(self._dead, None, partition=stands_in, headers=headers)
        self._commit()
        return {}

    def _await(self, events: _Events, count: int) -> None:
        """Until each has its position, or one is refused: after that the others are not sent."""
        deadline = time.monotonic() + _TRANSACTION_SECONDS
        while len(events.offsets) < count and not events.refused:
            if events.failure is not None or time.monotonic() > deadline:
                raise KafkaException(events.failure or KafkaError(KafkaError._TIMED_OUT))
            self._producer.poll(_POLL_SECONDS)

    def _commit(self) -> None:
        """Until it is known to be committed. Raises KafkaException when it is not to be known."""
        deadline = time.monotonic() + _TRANSACTION_SECONDS
        while True:
            try:
                return self._producer.commit_transaction(_CALL_SECONDS)
            except KafkaException as error:
                if not error.args[0].retriable() or time.monotonic() > deadline:
                    raise

    def _aborted(self) -> bool:
        """Take the try back. Where that fails, the broker does it in time, or the next run."""
        try:
            with serving_callbacks():
                self._producer.abort_transaction(_CALL_SECONDS)
        except KafkaException:
            return False
        return True


class _Events:
    """Where Kafka put the events of one try, or why it did not."""

    def __init__(self) -> None:
        self.offsets: dict[Identity, int] = {}
        self.refused: dict[Identity, str] = {}
        self.failure: KafkaError | None = None

    def answer(self, identity: Identity) -> Callable[[KafkaError | None, Message], None]:
        def answered(error: KafkaError | None, message: Message) -> None:
            if error is None:
                self.offsets[identity] = message.offset() or 0
            elif error.code() in _OF_THE_LETTER:
                self.refused[identity] = error.str()
            else:
                self.failure = self.failure or error

        return answered


def _told(error: KafkaError) -> str:
    if error.code() in (KafkaError._FENCED, KafkaError.INVALID_PRODUCER_EPOCH):
        return (
            "another replay or drop has taken over, or this one stood still for too long: what is "
            "settled stays settled; run it again for what is still open"
        )
    return f"Kafka: {error.str()}"

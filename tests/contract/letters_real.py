"""A real dead-letter topic as its contract meets it: the consumer's adapter, and its own reader."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from confluent_kafka.admin import (  # type: ignore[attr-defined]  # it has no __all__
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

from consumer.batch import Letter
from consumer.config import consumer_settings
from consumer.dead_letters import KafkaDeadLetters, dead_letter_topic
from consumer.ledger import Source
from consumer.letter_index import Filter
from consumer.letter_topic import LetterTopic
from schemas.settings import load
from tests.contract.letters_port import LARGE, There
from tests.fixtures.kafka import Kafka

_TOPIC_IDS = ("id-of-the-first", "id-of-the-one-made-again")
_SECONDS = 10


class RealLetters:
    def __init__(self, kafka: Kafka) -> None:
        self._kafka = kafka
        self._topic = kafka.create_topic(2)
        self._dead = dead_letter_topic(self._topic)
        kafka.create_topic(1, self._dead)
        given = {
            "KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap_servers,
            "KAFKA_TOPIC": self._topic,
            "COMMIT_TIMEOUT_SECONDS": str(_SECONDS),
        }
        values = load("consumer", None, {f"PENSTOCK_{name}": it for name, it in given.items()})
        self._settings = consumer_settings(values)
        self._letters = KafkaDeadLetters(self._settings)

    def close(self) -> None:
        self._letters.close()

    def source(self, partition: int = 0, topic: int = 0) -> Source:
        return Source("cluster", self._topic, _TOPIC_IDS[topic], partition)

    def write(self, source: Source, letters: Sequence[Letter]) -> str | None:
        return self._letters.write(source, letters)

    def there(self) -> list[There]:
        with LetterTopic(self._settings) as topic:
            index = topic.read_on(lambda *_: None)
            index.choose(Filter())
            found = sorted(index.chosen(), key=lambda each: each.stands_at)
        return [
            There(
                _TOPIC_IDS.index(each.identity.topic_id), *each.identity[1:], in_table=each.in_table
            )
            for each in found
        ]

    @contextmanager
    def missing(self) -> Iterator[None]:
        self._kafka.delete_topic(self._dead)
        yield
        self._kafka.create_topic(1, self._dead)

    @contextmanager
    def refusing_large(self) -> Iterator[None]:
        self._limit(len(LARGE) // 2)
        yield
        self._limit(10 * len(LARGE))

    def _limit(self, size_bytes: int) -> None:
        entry = ConfigEntry(
            "max.message.bytes", str(size_bytes), incremental_operation=AlterConfigOpType.SET
        )
        resource = ConfigResource(ResourceType.TOPIC, self._dead, incremental_configs=[entry])
        answers = self._kafka.admin().incremental_alter_configs([resource])
        answers[resource].result(_SECONDS)

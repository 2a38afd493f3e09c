"""Leaving the group while a rebalance is under way: librdkafka assigns from within its close."""

from __future__ import annotations

from collections.abc import Mapping

from confluent_kafka import TopicPartition

from consumer.config import consumer_settings
from consumer.kafka import KafkaLog
from consumer.ports import Listener, LogError
from consumer.recovery import Commit
from schemas.settings import load


class Closing:
    """A client that is given a partition in its `close`."""

    def __init__(self, log: KafkaLog) -> None:
        self._log = log
        self.took: list[list[TopicPartition]] = []

    def close(self) -> None:
        self._log._on_assign(self, [TopicPartition("events", 1)])  # type: ignore[arg-type]

    def incremental_assign(self, partitions: list[TopicPartition]) -> None:
        self.took.append(partitions)


def test_what_is_assigned_while_leaving_is_not_taken() -> None:
    told: list[Mapping[int, Commit | LogError]] = []
    log = KafkaLog(consumer_settings(load("consumer", None, {})))
    log._listener = Listener(told.append, lambda _: None, lambda _: None, lambda _, event: None)
    client = Closing(log)
    log._consumer = client  # type: ignore[assignment]
    log.leave()
    assert told == []
    assert client.took == [[]]

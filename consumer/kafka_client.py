"""What every Kafka client of the consumer is made with, and what each of them asks."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from typing import Any

from confluent_kafka import (
    OFFSET_INVALID,
    Consumer,
    KafkaError,
    KafkaException,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient

from consumer.config import ConsumerSettings
from consumer.ports import LogError
from consumer.recovery import Commit
from schemas.logs import Sparing

CALL_SECONDS = 10.0
_ENDS_SECONDS = 5.0
_UNHEARD = 3  # partitions that are waited for, of those asked for at once

library_log = logging.getLogger("consumer.librdkafka")
library_log.addFilter(Sparing())


def connection(settings: ConsumerSettings) -> dict[str, Any]:
    """What every client connects with."""
    return {
        **settings.kafka,
        "bootstrap.servers": settings.kafka_bootstrap_servers,
        "client.id": "penstock-consumer",
    }


def reading(settings: ConsumerSettings) -> dict[str, Any]:
    """What every client reads with: committed records only; each log's end is told; and no offset
    is committed or reset, and no topic made, by itself."""
    return {
        **connection(settings),
        "group.id": settings.kafka_group,
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "error",
        "isolation.level": "read_committed",
        "enable.partition.eof": True,
        "allow.auto.create.topics": False,
    }


def admin_client(settings: ConsumerSettings) -> AdminClient:
    return AdminClient(connection(settings), logger=library_log)


@contextlib.contextmanager
def as_log_error(server: str = "Kafka") -> Iterator[None]:
    """What the library raises within, as LogError."""
    try:
        yield
    except KafkaException as error:
        raise LogError(f"{server}: {error.args[0].str()}") from error


def topic_identity(settings: ConsumerSettings, admin: AdminClient | None = None) -> tuple[str, str]:
    """(cluster id, topic id). Raises LogError with what to do when there is no such topic."""
    if admin is None:
        admin = admin_client(settings)
    topic = settings.kafka_topic
    with as_log_error(f"Kafka at {settings.kafka_bootstrap_servers}"):
        cluster = admin.list_topics(timeout=CALL_SECONDS)
    cluster_id = cluster.cluster_id or ""
    if topic not in cluster.topics:
        raise LogError(f"topic {topic!r} does not exist: create it, or set PENSTOCK_KAFKA_TOPIC")
    return cluster_id, topic_id(admin, topic, cluster_id)


def topic_id(admin: AdminClient, topic: str, cluster_id: str) -> str:
    """Raises LogError."""
    with as_log_error():
        found = admin.describe_topics(TopicCollection([topic]), request_timeout=CALL_SECONDS)
        try:
            return str(found[topic].result().topic_id)
        except KafkaException as error:
            if error.args[0].code() == KafkaError._UNSUPPORTED_FEATURE:
                return f"{cluster_id}.{topic}"
            raise


def commits(consumer: Consumer, partitions: Sequence[TopicPartition]) -> dict[int, Commit]:
    """The group's commit and the log's ends, by partition. Raises LogError."""
    found = {}
    for number, commit in commits_or_why(consumer, partitions).items():
        if isinstance(commit, LogError):
            raise commit
        found[number] = commit
    return found


def commits_or_why(
    consumer: Consumer, partitions: Sequence[TopicPartition]
) -> dict[int, Commit | LogError]:
    """As `commits`, but a partition of which nothing can be heard, because it has no leader say,
    is not all others' trouble. Raises LogError when the group's coordinator does not answer."""
    found: dict[int, Commit | LogError] = {}
    unheard = 0
    with as_log_error():
        listed = consumer.committed(list(partitions), timeout=CALL_SECONDS)
    for commit in listed:
        number = commit.partition
        if commit.error is not None:
            found[number] = LogError(f"Kafka: {commit.error.str()}")
            continue
        if unheard >= _UNHEARD:  # these are asked for again, each by itself
            found[number] = LogError(f"Kafka: no answer about {unheard} partitions before this one")
            continue
        try:
            ends = _ends(consumer, commit)
        except KafkaException as error:
            unheard += 1
            found[number] = LogError(f"Kafka: the log's ends: {error.args[0].str()}")
            continue
        offset = None if commit.offset == OFFSET_INVALID else commit.offset
        found[number] = Commit(offset, commit.metadata, *ends)
    return found


def _ends(consumer: Consumer, place: TopicPartition) -> tuple[int, int]:
    """A client remembers that a partition had no leader, and does not look again by itself."""
    try:
        ends = consumer.get_watermark_offsets(place, timeout=_ENDS_SECONDS)
    except KafkaException:
        consumer.list_topics(place.topic, timeout=_ENDS_SECONDS)
        ends = consumer.get_watermark_offsets(place, timeout=_ENDS_SECONDS)
    return int(ends[0]), int(ends[1])


def members(admin: AdminClient, group: str) -> int | None:
    """How many consumers are in the group; 0 where there is no such group, and None where the
    broker cannot say (the in-memory one). Raises LogError."""
    with as_log_error():
        described = admin.describe_consumer_groups([group], request_timeout=CALL_SECONDS)
        try:
            return len(described[group].result().members)
        except KafkaException as error:
            if error.args[0].code() == KafkaError.GROUP_ID_NOT_FOUND:
                return 0
            if error.args[0].code() == KafkaError._UNSUPPORTED_FEATURE:
                return None
            raise

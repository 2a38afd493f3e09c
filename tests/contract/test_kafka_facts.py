"""The facts about Kafka that the exactly-once protocol stands on, asked of a broker itself.

The commit's metadata is the ledger, so its tests run on the in-memory broker of the trial stack as
well as on a real Apache Kafka.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Protocol

import pytest
from confluent_kafka import (
    Consumer,
    KafkaError,
    KafkaException,
    Producer,
    TopicPartition,
)

from deploy.local.mock_broker import mock_broker
from deploy.local.waiting import wait_until
from tests.fixtures.kafka import Kafka


class Broker(Protocol):
    bootstrap_servers: str

    def create_topic(self, partitions: int = 4) -> str: ...


@pytest.fixture(params=["apache", "in-memory"])
def broker(request: pytest.FixtureRequest) -> Broker:
    found: Broker = request.getfixturevalue("kafka" if request.param == "apache" else "mock_kafka")
    return found


class Member:
    """A member of a group that polls until what is waited for has come."""

    def __init__(self, bootstrap_servers: str, group: str, topic: str) -> None:
        self.answers: list[tuple[KafkaError | None, list[TopicPartition]]] = []
        self.topic = topic
        self.consumer = Consumer(
            {
                "bootstrap.servers": bootstrap_servers,
                "group.id": group,
                "enable.auto.commit": False,
                "auto.offset.reset": "error",
                "partition.assignment.strategy": "cooperative-sticky",
                "session.timeout.ms": 10_000,
                "heartbeat.interval.ms": 500,
                "log_level": 0,
                "on_commit": lambda error, partitions: self.answers.append((error, partitions)),
            }
        )

    def join(self) -> None:
        # Explicit on_assign: an assignment without an offset must be no error before we commit.
        def begin(consumer: Consumer, partitions: list[TopicPartition]) -> None:
            for partition in partitions:
                partition.offset = 0
            consumer.incremental_assign(partitions)

        self.consumer.subscribe([self.topic], on_assign=begin)

    def assigned(self) -> set[int]:
        self.consumer.poll(0)
        return {partition.partition for partition in self.consumer.assignment()}

    def commit(self, partition: int, offset: int, metadata: str | None = None) -> TopicPartition:
        """Commit asynchronously, poll until answered; the partition as `on_commit` had it."""
        before = len(self.answers)
        wanted = TopicPartition(self.topic, partition, offset)
        if metadata is not None:
            wanted = TopicPartition(self.topic, partition, offset, metadata)
        self.consumer.commit(offsets=[wanted], asynchronous=True)

        def answered() -> bool:
            self.consumer.poll(0)
            return len(self.answers) > before

        wait_until(answered, 15, "the commit is answered")
        error, partitions = self.answers[-1]
        assert len(partitions) == 1
        if error is not None:
            raise KafkaException(error)
        if partitions[0].error is not None:
            raise KafkaException(partitions[0].error)
        return partitions[0]

    def committed(self, partition: int) -> tuple[int, str | None]:
        found = self.consumer.committed([TopicPartition(self.topic, partition)], timeout=15)[0]
        return found.offset, found.metadata


@pytest.fixture
def group() -> str:
    return f"group-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def members(broker: Broker, group: str) -> Iterator[tuple[Member, Member]]:
    """Two members-to-be of one group on one topic of two partitions."""
    topic = broker.create_topic(partitions=2)
    pair = (
        Member(broker.bootstrap_servers, group, topic),
        Member(broker.bootstrap_servers, group, topic),
    )
    yield pair
    for member in pair:
        member.consumer.close()


@pytest.fixture
def member(members: tuple[Member, Member]) -> Member:
    """One member that has both partitions."""
    first = members[0]
    first.join()
    wait_until(lambda: first.assigned() == {0, 1}, 30, "both partitions are assigned")
    return first


def test_commit_metadata_comes_back_from_committed_and_on_commit(member: Member) -> None:
    text = "penstock:1:0-50000:50000:\u00e9\u4e16"
    answer = member.commit(0, 7, text)
    assert (answer.partition, answer.offset, answer.metadata) == (0, 7, text)
    assert member.committed(0) == (7, text)


def test_commits_with_the_same_offset_are_told_apart_by_metadata(member: Member) -> None:
    assert member.commit(0, 9, "end of one batch").metadata == "end of one batch"
    assert member.commit(0, 9, "intent of the next").metadata == "intent of the next"
    assert member.committed(0) == (9, "intent of the next")


def test_a_commit_without_metadata_clears_it(member: Member) -> None:
    member.commit(1, 3, "intent")
    member.commit(1, 3)
    offset, metadata = member.committed(1)
    assert offset == 3
    assert not metadata


def test_a_partition_never_committed_reads_as_no_offset(member: Member) -> None:
    offset, metadata = member.committed(1)
    assert offset == -1001
    assert not metadata


def test_4095_bytes_of_metadata_pass(member: Member) -> None:
    text = "x" * 4095
    member.commit(0, 1, text)
    assert member.committed(0) == (1, text)


@pytest.mark.kafka
class TestApacheKafka:
    """What the in-memory broker does not do."""

    @pytest.fixture
    def broker(self, kafka: Kafka) -> Kafka:
        return kafka

    def test_4096_bytes_of_metadata_are_refused(self, member: Member) -> None:
        member.commit(0, 1, "kept")
        with pytest.raises(KafkaException) as refusal:
            member.commit(0, 2, "x" * 4096)
        assert refusal.value.args[0].code() == KafkaError.OFFSET_METADATA_TOO_LARGE
        assert member.committed(0) == (1, "kept")

    def test_records_carry_the_time_of_their_append(self, kafka: Kafka) -> None:
        topic = kafka.create_topic(partitions=1)
        self._produce(kafka, topic, 1, timestamp=1_000)
        consumer = Consumer(
            {"bootstrap.servers": kafka.bootstrap_servers, "group.id": "none", "log_level": 0}
        )
        consumer.assign([TopicPartition(topic, 0, 0)])
        records = consumer.consume(1, timeout=15)
        consumer.close()
        assert len(records) == 1
        kind, milliseconds = records[0].timestamp()
        assert kind == 2  # TIMESTAMP_LOG_APPEND_TIME
        assert milliseconds > 1_000

    @staticmethod
    def _produce(kafka: Kafka, topic: str, count: int, timestamp: int = 0) -> None:
        producer = Producer({"bootstrap.servers": kafka.bootstrap_servers, "log_level": 0})
        for number in range(count):
            producer.produce(topic, b"%d" % number, partition=0, timestamp=timestamp)
        assert producer.flush(15) == 0


def test_two_in_memory_brokers_give_the_same_topic_different_ids() -> None:
    """So what the first one's offsets meant is never read into the second one's log."""
    ids = set()
    for _ in range(2):
        with mock_broker(0, {"events": 3}) as broker:
            kafka = Kafka(broker.address)
            assert len(kafka.admin().list_topics(timeout=15).topics["events"].partitions) == 3
            assert kafka.topic_id("events") == kafka.topic_id("events")
            ids.add(kafka.topic_id("events"))
    assert len(ids) == 2

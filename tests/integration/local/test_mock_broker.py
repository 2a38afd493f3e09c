"""The in-memory broker as a program: its port, its topics, its bounds."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from deploy.local.apache_kafka.node import metadata_answers
from deploy.local.mock_broker import MockBroker, mock_broker
from deploy.local.trouble import Trouble
from deploy.local.waiting import free_port
from tests.fixtures.children import Children

MODULE = [sys.executable, "-m", "deploy.local.mock_broker"]


def produce(address: str, topic: str, count: int, size: int) -> None:
    """`count` records on partition 0, acknowledged."""
    refused = []
    producer = Producer({"bootstrap.servers": address, "log_level": 0, "linger.ms": 5})
    for _ in range(count):
        producer.produce(
            topic,
            b"x" * size,
            partition=0,
            on_delivery=lambda error, _: refused.append(error) if error else None,
        )
        producer.poll(0)
    assert producer.flush(30) == 0
    assert refused == []


def test_it_has_the_port_and_the_topics_that_it_was_told(start: Children) -> None:
    port = free_port()
    command = [*MODULE, "--port", str(port), "--partitions", "3"]
    command += ["--topic", "events", "--topic", "events.dead"]
    address = f"127.0.0.1:{port}"
    child = start("broker", command, until=lambda: metadata_answers(address))
    found = AdminClient({"bootstrap.servers": address, "log_level": 0}).list_topics(timeout=10)
    assert {name: len(topic.partitions) for name, topic in found.topics.items()} == {
        "events": 3,
        "events.dead": 3,
    }
    assert [f"{broker.host}:{broker.port}" for broker in found.brokers.values()] == [address]
    assert "gone when it stops" in child.tail()
    assert child.stop(10)
    assert child.exit_code == 0


def test_a_taken_port_is_one_line(start: Children) -> None:
    with mock_broker() as broker:
        child = start("second", [*MODULE, "--port", str(broker.port)])
        assert child.wait(20) == 1
    lines = child.tail().splitlines()
    assert len(lines) == 1
    assert f"port {broker.port} " in lines[0]


def test_a_refused_topic_is_trouble() -> None:
    with mock_broker(0, {"events": 1}) as broker, pytest.raises(Trouble, match="events"):
        broker.create_topic("events", 1)


def test_a_client_that_connects_while_it_opens_does_not_make_a_topic_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its listener is open from the start, and only the topics' creation follows."""
    created: list[str] = []
    create = MockBroker.create_topic

    def slow(self: MockBroker, name: str, partitions: int) -> None:
        assert not metadata_answers(self.address, 0.5), "it answers before its topics are there"
        create(self, name, partitions)
        created.append(name)

    monkeypatch.setattr(MockBroker, "create_topic", slow)
    with mock_broker(0, {"events": 7}) as broker:
        assert metadata_answers(broker.address)
    assert created == ["events"]


def test_its_memory_is_bounded_by_dropping_the_oldest(start: Children) -> None:
    port = free_port()
    address = f"127.0.0.1:{port}"
    child = start(
        "broker",
        [*MODULE, "--port", str(port), "--partitions", "1"],
        until=lambda: metadata_answers(address),
    )
    produce(address, "events", 60_000, 1_000)
    status = Path(f"/proc/{child.pid}/status").read_text(encoding="utf-8")
    resident_kb = int(status.partition("VmRSS:")[2].split()[0])
    assert resident_kb < 100_000
    consumer = Consumer({"bootstrap.servers": address, "group.id": "none", "log_level": 0})
    low, high = consumer.get_watermark_offsets(TopicPartition("events", 0), timeout=15)
    consumer.close()
    assert high == 60_000
    assert 0 < high - low < 10_000

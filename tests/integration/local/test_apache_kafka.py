"""Apache Kafka from its jars: durable over kill -9, and clear about what it lacks."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from confluent_kafka import Consumer, KafkaError, Message, Producer, TopicPartition

from deploy.local.apache_kafka import jars
from deploy.local.trouble import Trouble
from deploy.local.waiting import free_port
from tests.fixtures.children import ROOT, Children
from tests.fixtures.kafka import OwnKafka

MODULE = [sys.executable, "-m", "deploy.local.apache_kafka"]
JARS = ROOT / ".penstock" / "jars"


def one_line(start: Children, *options: str, **env: str) -> str:
    """What the launcher says before it ends with 1."""
    child = start("launcher", [*MODULE, *options, "--jars", str(JARS)], env=env)
    assert child.wait(60) == 1
    lines = child.tail().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


def test_what_was_acknowledged_is_there_after_kill_9(own_kafka: OwnKafka) -> None:
    topic = own_kafka.create_topic(partitions=1)
    topic_id = own_kafka.topic_id(topic)
    producer = Producer(
        {"bootstrap.servers": own_kafka.bootstrap_servers, "acks": "all", "log_level": 0}
    )
    acknowledged: list[bytes | None] = []

    def delivered(error: KafkaError | None, record: Message[bytes, bytes]) -> None:
        assert error is None
        acknowledged.append(record.value())

    for number in range(1_000):
        producer.produce(topic, b"%d" % number, on_delivery=delivered)
    assert producer.flush(30) == 0
    assert len(acknowledged) == 1_000

    own_kafka.kill()
    own_kafka.restart()

    assert own_kafka.topic_id(topic) == topic_id
    consumer = Consumer(
        {"bootstrap.servers": own_kafka.bootstrap_servers, "group.id": "g", "log_level": 0}
    )
    consumer.assign([TopicPartition(topic, 0, 0)])
    found: list[bytes | None] = []
    while len(found) < 1_000:
        records = consumer.consume(1_000, timeout=30)
        assert records, f"only {len(found)} came back"
        found += [record.value() for record in records]
    consumer.close()
    assert found == acknowledged


def test_a_second_one_on_the_same_data_is_one_line(own_kafka: OwnKafka, start: Children) -> None:
    said = one_line(start, "--data", str(own_kafka.data), "--port", str(free_port()))
    assert said == f"Kafka's data folder {own_kafka.data} is in use by another Kafka"
    port = own_kafka.bootstrap_servers.rpartition(":")[2]
    said = one_line(start, "--data", str(own_kafka.data), "--port", port)
    assert said.startswith(f"port {port} on 127.0.0.1, for Kafka, is taken")


@pytest.mark.usefixtures("kafka_jars")
def test_a_data_folder_that_is_none_is_one_line(start: Children, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    said = one_line(start, "--data", str(file), "--port", str(free_port()))
    assert said.startswith(f"Kafka's data folder {file} is not usable")

    (tmp_path / "half" / "log").mkdir(parents=True)
    said = one_line(start, "--data", str(tmp_path / "half"), "--port", str(free_port()))
    assert said.startswith(f"Kafka's data folder {tmp_path / 'half'} is not usable")


def test_a_missing_java_is_one_line(start: Children, tmp_path: Path) -> None:
    options = ("--data", str(tmp_path / "data"), "--port", str(free_port()))
    said = one_line(start, *options, PATH=str(tmp_path), JAVA_HOME="")
    assert said.startswith("Apache Kafka needs Java 17 or newer, and none was found")
    assert not (tmp_path / "data").exists()


def fake(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(0o755)


@pytest.mark.parametrize(
    ("shown", "usable"),
    [
        ('openjdk version "17.0.15" 2025-04-15', True),
        ('java version "21" 2023-09-19 LTS', True),
        ('openjdk version "11.0.2" 2019-01-15', False),
        ('java version "1.8.0_392"', False),
        ("no Java at all", False),
    ],
)
def test_which_java_is_new_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shown: str, usable: bool
) -> None:
    fake(tmp_path, "java", f"echo '{shown}' >&2")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    if usable:
        assert jars.find_java() == str(tmp_path / "java")
    else:
        with pytest.raises(Trouble, match="needs Java 17"):
            jars.find_java()


def test_a_missing_maven_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Trouble, match=r"Maven \(mvn\) .* was not found"):
        jars.bring(tmp_path / "cache")


def test_jars_that_came_in_part_are_not_taken_for_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    cache = tmp_path / "cache"
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    half = 'for last; do :; done; touch "${last#-DoutputDirectory=}/kafka_2.13-4.3.1.jar"'
    fake(tools, "mvn", f"{half}; echo '[ERROR] no network' >&2; exit 1")
    with pytest.raises(Trouble, match="no network"):
        jars.bring(cache)
    assert list(cache.iterdir()) == []
    fake(tools, "mvn", half)
    assert list(jars.bring(cache).iterdir())
    fake(tools, "mvn", "exit 1")
    assert jars.bring(cache) == jars.folder_of(cache), "they are there, and are not asked for again"

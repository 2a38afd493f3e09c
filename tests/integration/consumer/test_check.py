"""`penstock-consumer check`, and `run`, which does it first: what would break a guarantee.

What is found where is tried in test_preflight.py; here are the programs, and how they end.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

from consumer import preflight
from consumer.__main__ import main
from schemas import logs
from tests.fixtures.children import ROOT, environment
from tests.fixtures.clickhouse import ClickHouse
from tests.fixtures.kafka import Kafka

pytestmark = pytest.mark.kafka


def consumer(
    command: str, kafka: str, topic: str, clickhouse: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "consumer", command],
        env=environment(
            PENSTOCK_KAFKA_BOOTSTRAP_SERVERS=kafka,
            PENSTOCK_KAFKA_TOPIC=topic,
            PENSTOCK_CLICKHOUSE_URL=clickhouse,
            PENSTOCK_ADMIN_PORT="0",
            PENSTOCK_LOG_FORMAT="json",
        ),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_nothing_to_find(kafka: Kafka, clickhouse_with_schema: ClickHouse) -> None:
    done = consumer(
        "check", kafka.bootstrap_servers, kafka.create_topic(), clickhouse_with_schema.url
    )
    assert done.returncode == 0, done.stderr
    assert "nothing keeps the consumer from starting" in done.stdout


@pytest.mark.parametrize("command", ["check", "run"])
def test_a_missing_window_is_named_with_what_mends_it(
    kafka: Kafka, clickhouse_with_schema: ClickHouse, command: str
) -> None:
    client = clickhouse_with_schema.client()
    client.command("ALTER TABLE sessions MODIFY SETTING non_replicated_deduplication_window = 0")
    done = consumer(
        command, kafka.bootstrap_servers, kafka.create_topic(), clickhouse_with_schema.url
    )
    assert done.returncode == 3
    said = done.stdout + done.stderr
    assert "MODIFY SETTING non_replicated_deduplication_window" in said
    assert "sessions" in said


def test_a_missing_topic_is_named_with_what_makes_it(
    kafka: Kafka, clickhouse_with_schema: ClickHouse
) -> None:
    done = consumer("run", kafka.bootstrap_servers, "no-such-topic", clickhouse_with_schema.url)
    assert done.returncode == 3
    said = done.stdout + done.stderr
    assert "'no-such-topic' does not exist" in said
    assert "--create --topic no-such-topic" in said


def test_what_is_merely_unwise_is_said_and_refuses_nothing(
    kafka: Kafka, clickhouse_with_schema: ClickHouse
) -> None:
    topic = kafka.create_topic(retention_ms="3600000")
    done = consumer("check", kafka.bootstrap_servers, topic, clickhouse_with_schema.url)
    assert done.returncode == 0, done.stdout
    assert f"warning: topic '{topic}' keeps records for 1 hours" in done.stdout
    assert f"--entity-name {topic} --add-config retention.ms=604800000" in done.stdout
    assert f"warning: topic '{topic}.dead' does not exist" in done.stdout
    assert "nothing keeps the consumer from starting" in done.stdout


def test_a_topic_that_is_compacted_is_refused(
    kafka: Kafka, clickhouse_with_schema: ClickHouse
) -> None:
    topic = kafka.create_topic(cleanup_policy="compact")
    done = consumer("run", kafka.bootstrap_servers, topic, clickhouse_with_schema.url)
    assert done.returncode == 3
    said = done.stdout + done.stderr
    assert "cleanup.policy=compact" in said
    assert f"--entity-name {topic} --add-config cleanup.policy=delete" in said


def test_tables_that_are_not_there(kafka: Kafka, clickhouse: ClickHouse) -> None:
    clickhouse.create_database()
    done = consumer("check", kafka.bootstrap_servers, kafka.create_topic(), clickhouse.url)
    assert done.returncode == 3
    assert "events_landing" in done.stdout


@pytest.mark.parametrize("command", ["check", "run"])
def test_a_database_that_is_not_there_is_not_waited_for(
    kafka: Kafka, clickhouse: ClickHouse, command: str
) -> None:
    clickhouse.drop_database()
    done = consumer(command, kafka.bootstrap_servers, kafka.create_topic(), clickhouse.url)
    assert done.returncode == 3
    said = done.stdout + done.stderr
    assert f"database '{clickhouse.database}' does not exist" in said
    assert "penstock-schemas apply" in said


def test_a_server_that_is_away_is_no_finding(kafka: Kafka) -> None:
    topic = kafka.create_topic()
    done = consumer("check", kafka.bootstrap_servers, topic, "http://127.0.0.1:1/penstock")
    assert done.returncode == 1
    assert "ClickHouse at http://127.0.0.1:1/penstock cannot be reached" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_it_can_be_stopped(
    kafka: Kafka, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(preflight, "look", interrupted)
    monkeypatch.setattr(logs, "configure", lambda *_: None)  # of this process, and all its tests
    monkeypatch.setenv("PENSTOCK_KAFKA_BOOTSTRAP_SERVERS", kafka.bootstrap_servers)
    assert main(["check"]) == 1
    assert capsys.readouterr().err == "penstock-consumer: stopped\n"

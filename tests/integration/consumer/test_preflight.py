"""Each finding of the preflight: what is wrong is made, found, mended with the finding's own words,
and found no more."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from typing import Any

import pytest
from clickhouse_connect.driver.client import Client
from confluent_kafka.admin import (  # type: ignore[attr-defined] # it has no __all__
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
)

from consumer import preflight, preflight_clickhouse, preflight_kafka
from consumer.clickhouse import ClickHouseTable
from consumer.config import ConsumerSettings, consumer_settings
from consumer.findings import Finding
from consumer.runner import clock
from schemas import rebuilds
from schemas.hold import Database
from schemas.settings import load
from tests.fixtures.clickhouse import ClickHouse
from tests.fixtures.kafka import Kafka, MockKafka


def settings_of(kafka: str = "", topic: str = "", url: str = "", **more: str) -> ConsumerSettings:
    given = {
        "PENSTOCK_KAFKA_BOOTSTRAP_SERVERS": kafka or "127.0.0.1:1",
        "PENSTOCK_KAFKA_TOPIC": topic or "events",
        "PENSTOCK_KAFKA_GROUP": f"group-of-{topic}",
        "PENSTOCK_CLICKHOUSE_URL": url or "http://127.0.0.1:1/penstock",
        **{f"PENSTOCK_{name}": value for name, value in more.items()},
    }
    return consumer_settings(load("consumer", None, given))


def about(findings: list[Finding], *words: str) -> Finding | None:
    found = [f for f in findings if all(word in f.what for word in words)]
    assert len(found) <= 1, found
    return found[0] if found else None


# --- Kafka ---------------------------------------------------------------------------------------


def dead_of(kafka: Kafka, topic: str, **config: str) -> str:
    """The dead-letter topic as the preflight asks for it."""
    given = {"retention_ms": "-1", "max_message_bytes": "1056780", **config}
    return kafka.create_topic(1, f"{topic}.dead", **given)


def found_in(kafka: Kafka, topic: str, **more: str) -> list[Finding]:
    settings = settings_of(kafka.bootstrap_servers, topic, **more)
    return list(preflight_kafka.look(settings).findings)


def do(kafka: Kafka, mend: str) -> None:
    """What the kafka-configs.sh or kafka-topics.sh command of a finding says."""
    words = shlex.split(next(way for way in mend.split(", or ") if way.startswith("kafka-")))

    def all_of(flag: str) -> list[str]:
        return [words[at + 1] for at, word in enumerate(words) if word == flag]

    assert all_of("--bootstrap-server") == [kafka.bootstrap_servers]
    admin = kafka.admin()
    if words[0] == "kafka-configs.sh":
        (topic,), (setting,) = all_of("--entity-name"), all_of("--add-config")
        name, _, value = setting.partition("=")
        entry = ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
        resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=[entry])
        admin.incremental_alter_configs([resource])[resource].result(30)
        return
    assert words[0] == "kafka-topics.sh"
    assert "--create" in words
    (topic,), (partitions,) = all_of("--topic"), all_of("--partitions")
    given = [setting.split("=") for setting in all_of("--config")]
    config: dict[str, Any] = {key.replace(".", "_"): value for key, value in given}
    kafka.create_topic(int(partitions), topic, **config)


def test_a_topic_as_it_should_be_has_one_warning(kafka: Kafka) -> None:
    topic = kafka.create_topic()
    dead_of(kafka, topic)
    (replicas,) = found_in(kafka, topic)  # the tests' broker is alone
    assert not replicas.refuses
    assert "one replica" in replicas.what


@pytest.mark.parametrize(
    ("config", "words", "refuses"),
    [
        ({"cleanup_policy": "compact"}, ("cleanup.policy=compact",), True),
        ({"cleanup_policy": "compact,delete"}, ("cleanup.policy=compact,delete",), True),
        ({"retention_ms": "3600000"}, ("keeps records for 1 hours", "24 hours"), False),
        ({"retention_bytes": "1000000"}, ("keeps 1000000 bytes",), False),
        ({"message_timestamp_type": "CreateTime"}, ("CreateTime",), False),
        ({"unclean_leader_election_enable": "true"}, ("unclean leader election",), False),
        ({"max_message_bytes": "99999999"}, ("99999999 bytes", "100000000"), True),
    ],
)
def test_settings_of_the_topic(
    kafka: Kafka, config: dict[str, str], words: tuple[str, ...], refuses: bool
) -> None:
    topic = kafka.create_topic(4, **config)
    dead_of(kafka, topic, max_message_bytes="100008191")
    finding = about(found_in(kafka, topic), *words)
    assert finding is not None
    assert finding.refuses is refuses
    do(kafka, finding.mend)
    assert about(found_in(kafka, topic), *words) is None


def test_a_larger_answer_is_the_other_mend(kafka: Kafka) -> None:
    topic = kafka.create_topic(max_message_bytes="99999999")
    dead_of(kafka, topic, max_message_bytes="100008191")
    (finding,) = (f for f in found_in(kafka, topic) if f.refuses)
    name, value = re.findall(r"PENSTOCK_(KAFKA__RECEIVE_MESSAGE_MAX_BYTES)=(\d+)", finding.mend)[0]
    assert not [f for f in found_in(kafka, topic, **{name: value}) if f.refuses]


def test_retention_is_held_against_the_worst_outage(kafka: Kafka) -> None:
    topic = kafka.create_topic()  # a week
    dead_of(kafka, topic)
    assert about(found_in(kafka, topic, WORST_OUTAGE_HOURS="168"), "keeps records") is None
    finding = about(found_in(kafka, topic, WORST_OUTAGE_HOURS="169"), "keeps records")
    assert finding is not None
    do(kafka, finding.mend)
    assert about(found_in(kafka, topic, WORST_OUTAGE_HOURS="169"), "keeps records") is None


def test_the_brokers_memory_of_commits_is_held_against_the_worst_outage(kafka: Kafka) -> None:
    topic = kafka.create_topic()
    dead_of(kafka, topic)
    assert about(found_in(kafka, topic), "forget the commits") is None
    finding = about(found_in(kafka, topic, WORST_OUTAGE_HOURS="169"), "forget the commits")
    assert finding is not None
    assert not finding.refuses
    wanted = re.search(r"offsets.retention.minutes=(\d+)", finding.mend)
    assert wanted is not None
    assert int(wanted[1]) >= 169 * 60


def test_a_missing_dead_letter_topic(kafka: Kafka) -> None:
    topic = kafka.create_topic(max_message_bytes="2000000")
    finding = about(found_in(kafka, topic), f"{topic}.dead", "does not exist")
    assert finding is not None
    assert not finding.refuses
    do(kafka, finding.mend)
    assert about(found_in(kafka, topic), f"{topic}.dead") is None


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"max_message_bytes": "1000"}, ("takes records of 1000 bytes",)),
        ({"cleanup_policy": "compact"}, ("cleanup.policy=compact",)),
        ({"retention_ms": "3600000"}, ("keeps letters for 1 hours",)),
    ],
)
def test_settings_of_the_dead_letter_topic(
    kafka: Kafka, config: dict[str, str], words: tuple[str, ...]
) -> None:
    topic = kafka.create_topic()
    kafka.create_topic(1, f"{topic}.dead", **config)
    finding = about(found_in(kafka, topic), f"{topic}.dead", *words)
    assert finding is not None
    assert not finding.refuses
    do(kafka, finding.mend)
    assert about(found_in(kafka, topic), f"{topic}.dead", *words) is None


def test_one_partition_is_few(kafka: Kafka) -> None:
    topic = kafka.create_topic(1)
    finding = about(found_in(kafka, topic), "has 1 partition,")
    assert finding is not None
    assert not finding.refuses
    assert f"--alter --topic {topic} --partitions 12" in finding.mend


def test_more_partitions_than_inserts(kafka: Kafka) -> None:
    topic = kafka.create_topic(8)
    finding = about(found_in(kafka, topic, INSERTS_PER_SECOND="0.1"), "every 80 seconds")
    assert finding is not None
    assert about(found_in(kafka, topic), "every") is None


def test_the_in_memory_broker_says_nothing_of_its_settings(mock_kafka: MockKafka) -> None:
    settings = settings_of(mock_kafka.bootstrap_servers, mock_kafka.create_topic())
    (finding,) = preflight_kafka.look(settings).findings
    assert "does not exist" in finding.what  # the dead-letter topic
    assert not finding.refuses


# --- ClickHouse ----------------------------------------------------------------------------------


@pytest.fixture
def client(clickhouse_with_schema: ClickHouse) -> Client:
    return clickhouse_with_schema.client()


@pytest.fixture
def found(clickhouse_with_schema: ClickHouse, client: Client) -> Callable[..., list[Finding]]:
    def look(members: int = 0, **more: str) -> list[Finding]:
        settings = settings_of(url=clickhouse_with_schema.url, **more)
        return preflight_clickhouse.look(settings, client, members)

    return look


def test_the_layout_as_it_is_applied_has_no_finding(found: Callable[..., list[Finding]]) -> None:
    assert found() == []


@pytest.mark.parametrize(
    "table", ["events", "batches", "sessions", "sessions_daily", "pages_daily"]
)
def test_a_window_of_each_of_our_tables(
    client: Client, found: Callable[..., list[Finding]], table: str
) -> None:
    client.command(f"ALTER TABLE {table} MODIFY SETTING non_replicated_deduplication_window = 10")
    (finding,) = found()
    assert finding.refuses
    assert f".{table} has non_replicated_deduplication_window = 10" in finding.what
    client.command(finding.mend)
    assert found() == []


_MERGE_TREE = "(p String, n UInt64) ENGINE = SummingMergeTree ORDER BY p"
_COUNT = "AS SELECT project_id AS p, count() AS n FROM"


@pytest.mark.parametrize("source", ["events_landing", "events"])
def test_a_window_of_a_target_that_somebody_added(
    client: Client, found: Callable[..., list[Finding]], source: str
) -> None:
    client.command(f"CREATE TABLE mine {_MERGE_TREE}")
    client.command(f"CREATE MATERIALIZED VIEW mine_mv TO mine {_COUNT} {source} GROUP BY p")
    (finding,) = found()
    assert finding.refuses
    assert "mine has non_replicated_deduplication_window = 0" in finding.what
    client.command(finding.mend)
    assert found() == []


def test_a_window_at_the_end_of_a_chain(
    client: Client, found: Callable[..., list[Finding]]
) -> None:
    window = "SETTINGS non_replicated_deduplication_window = 100000"
    client.command(f"CREATE TABLE one {_MERGE_TREE} {window}")
    client.command(f"CREATE MATERIALIZED VIEW one_mv TO one {_COUNT} sessions GROUP BY p")
    client.command("CREATE TABLE two (p String) ENGINE = Null")
    client.command("CREATE MATERIALIZED VIEW two_mv TO two AS SELECT p FROM one")
    client.command(
        "CREATE MATERIALIZED VIEW three_mv ENGINE = MergeTree ORDER BY p AS SELECT p FROM two"
    )
    (finding,) = found()
    assert finding.refuses
    assert ".inner_id." in finding.what
    assert "three_mv writes to it" in finding.what
    client.command(finding.mend)
    assert found() == []


def test_a_target_without_a_log(client: Client, found: Callable[..., list[Finding]]) -> None:
    client.command("CREATE TABLE mine (p String) ENGINE = Memory")
    client.command("CREATE MATERIALIZED VIEW mine_mv TO mine AS SELECT project_id AS p FROM events")
    (finding,) = found()
    assert finding.refuses
    assert "engine Memory, which keeps no deduplication log" in finding.what
    client.command(finding.mend.split(", or ")[0])
    assert found() == []


def test_a_window_that_the_rate_uses_up(
    client: Client, found: Callable[..., list[Finding]]
) -> None:
    # 30 + 30 + 10 seconds, 2 ClickHouse partitions an insert, twice: 280 an insert and second
    assert found(members=25, INSERTS_PER_SECOND="14") == []  # 98 000
    findings = found(members=30, INSERTS_PER_SECOND="14")  # 117 600
    assert len(findings) == 5
    assert not any(f.refuses for f in findings)
    assert all("= 100000: at 840 entries a second" in f.what for f in findings)
    for finding in findings:
        assert "non_replicated_deduplication_window = 117600" in finding.mend
        client.command(finding.mend)
    assert found(members=30, INSERTS_PER_SECOND="14") == []


def test_a_user_that_may_only_read(clickhouse_with_schema: ClickHouse) -> None:
    reader = clickhouse_with_schema.client()
    reader.set_client_setting("readonly", 2)
    settings = settings_of(url=clickhouse_with_schema.url)
    database, user = clickhouse_with_schema.database, settings.clickhouse.username
    inserting, mending = preflight_clickhouse.look(settings, reader, 0)
    assert inserting.refuses
    assert "INSERT on events_landing" in inserting.what
    assert "SELECT" not in inserting.what
    assert inserting.mend == f"GRANT INSERT ON {database}.* TO {user}"
    assert not mending.refuses
    assert "ALTER DELETE on the database" in mending.what
    assert "CREATE TABLE" in mending.mend
    assert f"GRANT KILL QUERY ON *.* TO {user}" in mending.mend


def test_the_insert_of_no_rows_leaves_nothing(
    client: Client, found: Callable[..., list[Finding]]
) -> None:
    found()
    for table in ("events", "batches", "sessions"):
        assert client.query(f"SELECT count() FROM {table}").result_rows == [(0,)]


def test_everything_at_once(kafka: Kafka, clickhouse_with_schema: ClickHouse) -> None:
    """Those that refuse come first."""
    topic = kafka.create_topic(1)
    settings = settings_of(kafka.bootstrap_servers, topic, clickhouse_with_schema.url)
    table = ClickHouseTable(settings, clock)
    client = clickhouse_with_schema.client()
    client.command("ALTER TABLE events MODIFY SETTING non_replicated_deduplication_window = 0")
    findings = preflight.look(settings, table)
    assert [f.refuses for f in findings] == [True] + [False] * (len(findings) - 1)
    assert len(findings) > 2
    assert preflight.report(findings) == 3
    client.command(findings[0].mend)
    left = preflight.look(settings, table)
    assert left == findings[1:]
    assert preflight.report(left) == 0


def test_a_rebuild_that_was_cut_off(
    clickhouse_with_schema: ClickHouse, client: Client, found: Callable[..., list[Finding]]
) -> None:
    server = Database(client, clickhouse_with_schema.database)

    def record(until_ms: int, *, finished: bool) -> None:
        rebuilds.write(
            server, "one", "202601", ["sessions_daily"], began_ms=until_ms - 1, until_ms=until_ms,
            finished=finished,
        )  # fmt: skip

    long_ago = 1_770_000_000_000
    record(long_ago, finished=False)
    (finding,) = found()
    assert not finding.refuses
    assert finding.what.startswith("a rebuild of sessions_daily in ClickHouse partition 202601 was")
    assert finding.mend == "penstock-schemas rebuild --partition 202601 --table sessions_daily"
    record(long_ago + 1, finished=True)
    assert found() == []

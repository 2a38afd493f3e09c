"""The preflight's questions to Kafka: the topic, its dead-letter topic, the brokers.

Settings of topics and brokers are read with DescribeConfigs. A broker that does not know the
request says nothing about them, and then nothing is found; one that refuses us is a warning.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import (  # type: ignore[attr-defined] # it has no __all__
    AclOperation,
    AdminClient,
    ConfigResource,
    TopicMetadata,
)

from consumer.config import ConsumerSettings
from consumer.dead_letters import dead_letter_topic
from consumer.findings import Away, Finding, warning
from consumer.kafka_client import CALL_SECONDS, admin_client, members, topic_identity
from consumer.ports import LogError

_HOUR_MS = 3_600_000
# librdkafka's default for the largest answer it takes, and what an answer has around a record.
_RECEIVE_BYTES = 100_000_000
_AROUND_A_RECORD_BYTES = 512
_AROUND_A_LETTER_BYTES = 8_192  # its headers: the error has 1 000 characters
_METADATA_BYTES = 1_024  # more than any that we write with a commit

Config = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Kafka:
    """What Kafka says. `members`: consumers in the group now, 0 where that is not known."""

    findings: tuple[Finding, ...]
    members: int = 0


def look(settings: ConsumerSettings) -> Kafka:
    """Raises Away."""
    admin = admin_client(settings)
    dead = dead_letter_topic(settings.kafka_topic)
    refused = tuple(_rights(settings, admin, dead))
    try:
        topic_identity(settings)
    except LogError as error:
        if refused:
            return Kafka(refused)
        if "does not exist" in str(error):
            return Kafka((_missing(settings, str(error)),))
        raise Away(str(error)) from error
    try:
        topics = admin.list_topics(timeout=CALL_SECONDS).topics
    except KafkaException as error:
        raise Away(f"Kafka: {error.args[0].str()}") from error
    joined = _members(admin, settings.kafka_group)
    asked = _Settings(admin)
    topic = asked.topic(settings.kafka_topic)
    found = [
        *refused,
        *_partitions(settings, topics[settings.kafka_topic], joined),
        *_topic(settings, topic),
        *_durability(settings, topics[settings.kafka_topic], topic),
    ]
    if dead in topics:
        found += _dead_letters(settings, asked.topic(dead), topic)
    elif not any(repr(dead) in each.what for each in refused):
        found.append(_no_dead_letters(settings, topic))
    leader = next((p.leader for p in topics[settings.kafka_topic].partitions.values()), -1)
    if leader >= 0:
        found += _broker(settings, asked.broker(leader))
    return Kafka((*found, *asked.refused), joined)


class _Settings:
    """Settings of topics and brokers. What cannot be read is empty, and why stands in `refused`."""

    def __init__(self, admin: AdminClient) -> None:
        self._admin = admin
        self.refused: list[Finding] = []

    def topic(self, name: str) -> Config:
        return self._read(ConfigResource(ConfigResource.Type.TOPIC, name), f"topic {name!r}")

    def broker(self, number: int) -> Config:
        resource = ConfigResource(ConfigResource.Type.BROKER, str(number))
        return self._read(resource, f"broker {number}")

    def _read(self, resource: ConfigResource, named: str) -> Config:
        try:
            answers = self._admin.describe_configs([resource], request_timeout=CALL_SECONDS)
            entries = answers[resource].result()
        except KafkaException as error:
            if error.args[0].code() in _DENIED:
                self.refused.append(
                    warning(
                        f"the settings of {named} may not be read, so they were not looked at",
                        "grant DescribeConfigs on topics and cluster: kafka-acls.sh --add "
                        "--allow-principal User:... --operation DescribeConfigs --topic ...",
                    )
                )
                return {}
            if error.args[0].code() == KafkaError._UNSUPPORTED_FEATURE:
                return {}
            raise Away(f"Kafka: {error.args[0].str()}") from error
        return {name: entry.value for name, entry in entries.items() if entry.value is not None}


_DENIED = frozenset(
    {
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
    }
)


def _rights(settings: ConsumerSettings, admin: AdminClient, dead: str) -> Iterator[Finding]:
    """What this user may not do, as far as the brokers say."""
    for topic, wanted, without, refuses in (
        (settings.kafka_topic, AclOperation.READ, "no event can be read", True),
        (dead, AclOperation.WRITE, "one bad event makes its partition wait", False),
    ):
        asked = TopicCollection([topic])
        answers = admin.describe_topics(
            asked, include_authorized_operations=True, request_timeout=CALL_SECONDS
        )
        if _lacks(answers[topic], wanted):
            yield _may_not(f"topic {topic!r}", "topic", topic, wanted, without, refuses)
    group = settings.kafka_group
    groups = admin.describe_consumer_groups(
        [group], include_authorized_operations=True, request_timeout=CALL_SECONDS
    )
    if _lacks(groups[group], AclOperation.READ):
        what = "no consumer can join it"
        yield _may_not(f"group {group!r}", "group", group, AclOperation.READ, what, True)


def _lacks(answer: Future[Any], wanted: AclOperation) -> bool:
    """Whether it is sure that this may not be done. A broker without rights allows all; one that
    does not know the request, or is away, says nothing."""
    try:
        allowed = answer.result().authorized_operations
    except KafkaException as error:
        return error.args[0].code() in _DENIED
    return allowed is not None and wanted not in allowed


def _may_not(
    named: str, kind: str, name: str, wanted: AclOperation, without: str, refuses: bool
) -> Finding:
    operation = wanted.name.capitalize()
    return Finding(
        f"this user may not {operation} {named}: {without}",
        f"kafka-acls.sh --add --allow-principal User:... --operation {operation} "
        f"--operation Describe --{kind} {name}",
        refuses,
    )


def _members(admin: AdminClient, group: str) -> int:
    try:
        return members(admin, group) or 0
    except LogError:
        return 0


def _missing(settings: ConsumerSettings, why: str) -> Finding:
    create = f"{_create(settings, settings.kafka_topic)} --partitions 12"
    return Finding(why, f"{create} --config message.timestamp.type=LogAppendTime")


def _partitions(
    settings: ConsumerSettings, topic: TopicMetadata, members: int
) -> Iterator[Finding]:
    count = len(topic.partitions)
    if count < max(2, members):
        wanted = max(12, 2 * members)
        why = (
            f"while the group has {members} members: the others have nothing to do"
            if count < members
            else "so a second consumer would have nothing to do"
        )
        yield warning(
            f"topic {settings.kafka_topic!r} has {count} partition{'s' * (count > 1)}, {why}",
            f"{_topics(settings)} --alter --topic {settings.kafka_topic} --partitions {wanted} "
            "(sessions may change their lane then)",
        )
    per_second = settings.shares.inserts_per_second * max(1, members)
    turn_seconds = count / per_second
    if turn_seconds > max(60.0, 2 * settings.shares.batch_age_seconds):
        yield warning(
            f"{count} partitions at {per_second:g} inserts a second: each is inserted every "
            f"{turn_seconds:.0f} seconds, and events are so late",
            "run more consumers, or raise PENSTOCK_INSERTS_PER_SECOND to "
            f"{count / 30:.0f} where ClickHouse bears it",
        )


def _topic(settings: ConsumerSettings, config: Config) -> Iterator[Finding]:
    name, outage_hours = settings.kafka_topic, settings.worst_outage_hours
    if "compact" in config.get("cleanup.policy", ""):
        yield Finding(
            f"topic {name!r} has cleanup.policy={config['cleanup.policy']}: compaction drops "
            "records that were acknowledged, and refuses those without a key",
            _alter(settings, name, "cleanup.policy=delete"),
        )
    retention_ms = int(config.get("retention.ms", -1))
    if 0 <= retention_ms < outage_hours * _HOUR_MS:
        yield warning(
            f"topic {name!r} keeps records for {retention_ms / _HOUR_MS:g} hours: in an outage of "
            f"{outage_hours:g} hours (PENSTOCK_WORST_OUTAGE_HOURS) acknowledged events are lost",
            _alter(settings, name, f"retention.ms={_outage_ms(settings)}"),
        )
    if int(config.get("retention.bytes", -1)) >= 0:
        yield warning(
            f"topic {name!r} keeps {config['retention.bytes']} bytes a partition, however young "
            "they are: in an outage acknowledged events are lost when there are more",
            _alter(settings, name, "retention.bytes=-1")
            + ", or make sure that it holds the worst outage",
        )
    if config.get("message.timestamp.type", "LogAppendTime") != "LogAppendTime":
        yield warning(
            f"topic {name!r} has the producers' times (message.timestamp.type=CreateTime): a "
            "producer whose clock is wrong has its records trimmed too soon, and freshness lies",
            _alter(settings, name, "message.timestamp.type=LogAppendTime"),
        )
    largest = int(config.get("max.message.bytes", 0))
    receive = int(settings.kafka.get("receive.message.max.bytes", _RECEIVE_BYTES))
    if largest + _AROUND_A_RECORD_BYTES > receive:
        yield Finding(
            f"topic {name!r} takes records of {largest} bytes, and the consumer answers of "
            f"{receive}: a record between the two stops its partition for ever",
            f"set PENSTOCK_KAFKA__RECEIVE_MESSAGE_MAX_BYTES={largest + (1 << 20)}, or "
            + _alter(settings, name, f"max.message.bytes={1 << 20}"),
        )


def _durability(
    settings: ConsumerSettings, topic: TopicMetadata, config: Config
) -> Iterator[Finding]:
    name = settings.kafka_topic
    if config.get("unclean.leader.election.enable") == "true":
        yield warning(
            f"topic {name!r} allows unclean leader election: a replica that lacks acknowledged "
            "events may become the leader, and they are lost",
            _alter(settings, name, "unclean.leader.election.enable=false"),
        )
    if not config:
        return
    replicas = min((len(p.replicas) for p in topic.partitions.values()), default=0)
    if replicas == 1:
        yield warning(
            f"topic {name!r} has one replica: what was acknowledged is on one disk",
            "kafka-reassign-partitions.sh --bootstrap-server "
            f"{settings.kafka_bootstrap_servers} --execute with three replicas a partition",
        )
    elif replicas > 1 and int(config.get("min.insync.replicas", 2)) < 2:
        yield warning(
            f"topic {name!r} has min.insync.replicas=1: an event counts as acknowledged when one "
            "replica has it",
            _alter(settings, name, "min.insync.replicas=2"),
        )


def _no_dead_letters(settings: ConsumerSettings, topic: Config) -> Finding:
    dead, size = dead_letter_topic(settings.kafka_topic), int(topic.get("max.message.bytes", 0))
    more = f" --config max.message.bytes={size + _AROUND_A_LETTER_BYTES}" if size else ""
    return warning(
        f"topic {dead!r} does not exist: one event that ClickHouse refuses makes its partition "
        "wait, because there is no place to put it",
        f"{_create(settings, dead)} --partitions 1 --config retention.ms=-1"
        f" --config cleanup.policy=delete{more}",
    )


def _dead_letters(settings: ConsumerSettings, dead: Config, topic: Config) -> Iterator[Finding]:
    name = dead_letter_topic(settings.kafka_topic)
    if "compact" in dead.get("cleanup.policy", ""):
        yield warning(
            f"topic {name!r} has cleanup.policy={dead['cleanup.policy']}, and letters that are "
            "read again, listed or explain a gap may be gone",
            _alter(settings, name, "cleanup.policy=delete"),
        )
    takes, largest = (int(each.get("max.message.bytes", 0)) for each in (dead, topic))
    if takes and largest and takes < largest + _AROUND_A_LETTER_BYTES:
        yield warning(
            f"topic {name!r} takes records of {takes} bytes, and {settings.kafka_topic!r} of "
            f"{largest}, to which a letter adds why it was refused: a bad event of about that size "
            "makes its partition wait",
            _alter(settings, name, f"max.message.bytes={largest + _AROUND_A_LETTER_BYTES}"),
        )
    kept, wanted = int(dead.get("retention.ms", -1)), int(topic.get("retention.ms", -1))
    if kept >= 0 and (wanted < 0 or kept < wanted):
        yield warning(
            f"topic {name!r} keeps letters for {kept / _HOUR_MS:g} hours, less than "
            f"{settings.kafka_topic!r} keeps its records: they are gone before they are looked at",
            _alter(settings, name, "retention.ms=-1"),
        )


def _broker(settings: ConsumerSettings, config: Config) -> Iterator[Finding]:
    most = int(config.get("offset.metadata.max.bytes", _METADATA_BYTES))
    if most < _METADATA_BYTES:
        yield Finding(
            f"the brokers take {most} bytes of metadata with a commit: there the consumers write "
            "what they are about to insert, and each such commit would be refused",
            "set offset.metadata.max.bytes=4096 in the brokers' server.properties",
        )
    minutes = int(config.get("offsets.retention.minutes", -1))
    if 0 <= minutes < settings.worst_outage_hours * 60:
        wanted = max(10_080, round(settings.worst_outage_hours * 120))
        yield warning(
            f"the brokers forget the commits of an empty group after {minutes} minutes: after an "
            f"outage of {settings.worst_outage_hours:g} hours each partition is planned from the "
            "log's start over what the table has, which is right and slow",
            f"set offsets.retention.minutes={wanted} in the brokers' server.properties",
        )


def _outage_ms(settings: ConsumerSettings) -> int:
    """Twice the worst outage, and no less than Kafka's own week."""
    return max(168 * _HOUR_MS, round(2 * settings.worst_outage_hours * _HOUR_MS))


def _topics(settings: ConsumerSettings) -> str:
    return f"kafka-topics.sh --bootstrap-server {settings.kafka_bootstrap_servers}"


def _create(settings: ConsumerSettings, topic: str) -> str:
    return f"{_topics(settings)} --create --topic {topic}"


def _alter(settings: ConsumerSettings, topic: str, setting: str) -> str:
    return (
        f"kafka-configs.sh --bootstrap-server {settings.kafka_bootstrap_servers} --alter "
        f"--entity-type topics --entity-name {topic} --add-config {setting}"
    )

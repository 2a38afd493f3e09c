"""What of Kafka's preflight no broker of the tests can be brought to: brokers scripted by hand."""

from __future__ import annotations

from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AclOperation  # type: ignore[attr-defined]  # it has no __all__

from consumer import preflight_kafka
from consumer.config import ConsumerSettings, consumer_settings
from consumer.findings import Finding
from schemas.settings import load

_ALL = [AclOperation.READ, AclOperation.WRITE, AclOperation.DESCRIBE]


@pytest.fixture
def settings() -> ConsumerSettings:
    return consumer_settings(load("consumer", None, {}))


class Brokers:
    """`allowed`: what may be done to a topic or group; an error, or None: nothing is said."""

    def __init__(self, **allowed: list[AclOperation] | KafkaError | None) -> None:
        self._allowed = allowed

    def _answer(self, name: str) -> Future[Any]:
        answer: Future[Any] = Future()
        allowed = self._allowed.get(name.replace(".", "_"), _ALL)
        if isinstance(allowed, KafkaError):
            answer.set_exception(KafkaException(allowed))
        else:
            answer.set_result(SimpleNamespace(authorized_operations=allowed))
        return answer

    def describe_topics(self, topics: TopicCollection, **_: Any) -> dict[str, Future[Any]]:
        return {name: self._answer(name) for name in topics.topic_names}

    def describe_consumer_groups(self, groups: list[str], **_: Any) -> dict[str, Future[Any]]:
        return {name: self._answer(name) for name in groups}


def rights(settings: ConsumerSettings, brokers: Brokers) -> list[Finding]:
    return list(preflight_kafka._rights(settings, brokers, "events.dead"))  # type: ignore[arg-type]


def test_who_may_do_all_has_no_finding(settings: ConsumerSettings) -> None:
    assert rights(settings, Brokers()) == []


@pytest.mark.parametrize(
    "silent",
    [None, KafkaError(KafkaError._UNSUPPORTED_FEATURE), KafkaError(KafkaError.GROUP_ID_NOT_FOUND)],
)
def test_what_is_not_known_is_no_finding(
    settings: ConsumerSettings, silent: KafkaError | None
) -> None:
    assert rights(settings, Brokers(events=silent, events_dead=silent, penstock=silent)) == []


@pytest.mark.parametrize(
    ("brokers", "what", "mend", "refuses"),
    [
        (Brokers(events=[AclOperation.DESCRIBE]), "may not Read topic 'events'", "--topic", 1),
        (
            Brokers(events=KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED)),
            "may not Read topic 'events'",
            "--operation Read --operation Describe --topic events",
            1,
        ),
        (
            Brokers(events_dead=[AclOperation.DESCRIBE]),
            "may not Write topic 'events.dead'",
            "--operation Write --operation Describe --topic events.dead",
            0,
        ),
        (
            Brokers(penstock=KafkaError(KafkaError.GROUP_AUTHORIZATION_FAILED)),
            "may not Read group 'penstock': no consumer can join it",
            "--group penstock",
            1,
        ),
    ],
)  # fmt: skip
def test_what_may_not_be_done_is_named_with_what_allows_it(
    settings: ConsumerSettings, brokers: Brokers, what: str, mend: str, refuses: int
) -> None:
    (finding,) = rights(settings, brokers)
    assert what in finding.what
    assert mend in finding.mend
    assert finding.refuses == bool(refuses)


def test_settings_that_could_not_be_read_are_no_finding(settings: ConsumerSettings) -> None:
    """The warning that says why is one already."""
    large = {"max.message.bytes": "1048588"}
    assert list(preflight_kafka._dead_letters(settings, {}, large)) == []
    assert list(preflight_kafka._broker(settings, {"log.retention.hours": "1"})) == []


def test_brokers_that_take_too_little_with_a_commit(settings: ConsumerSettings) -> None:
    (finding,) = preflight_kafka._broker(settings, {"offset.metadata.max.bytes": "100"})
    assert finding.refuses
    assert "offset.metadata.max.bytes=4096" in finding.mend

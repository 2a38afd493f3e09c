"""One insert holds one Kafka partition: nothing of two comes together from fetch to token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest

from consumer import kafka
from consumer.assignment import Assignment, Shares
from consumer.commands import (
    Answer,
    Command,
    CommitAnswered,
    CoverageRead,
    Event,
    ReadTopic,
    SendCommit,
    SendInsert,
    TopicRead,
)
from consumer.config import consumer_settings
from consumer.flight import Now
from consumer.kafka import KafkaLog
from consumer.partition import Partition
from schemas.settings import load
from tests.unit.consumer.owner import (
    LIMITS,
    SOURCE,
    TOPIC_ID,
    coverage,
    line,
    nothing_open,
    records,
)

NOW = Now(1000.0, 1_700_000_000_000)


@dataclass(frozen=True)
class Message:
    """As much of a Kafka message as the adapter looks at."""

    number: int
    at: int

    def partition(self) -> int:
        return self.number

    def offset(self) -> int:
        return self.at

    def value(self) -> bytes:
        return b"%d@%d" % (self.at, self.number)

    def error(self) -> None:
        return None

    def timestamp(self) -> tuple[int, int]:
        return 1, 1


class Member:
    def __init__(self, messages: Sequence[Message]) -> None:
        self._messages = list(messages)

    def consume(self, count: int, seconds: float) -> list[Message]:
        return self._messages


def test_a_fetch_keeps_the_records_of_each_partition_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("partition", "error", "value"):
        monkeypatch.setattr(kafka, f"_{name}", getattr(Message, name))
    log = KafkaLog(consumer_settings(load("consumer", None, {})))
    mixed = [Message(1, 0), Message(1, 1), Message(2, 0), Message(1, 2), Message(2, 1)]
    log._consumer = Member(mixed)  # type: ignore[assignment]
    fetched = log.fetch(0.0)
    assert {number: list(each.offsets) for number, each in fetched.items()} == {
        1: [0, 1, 2],
        2: [0, 1],
    }
    assert list(fetched[1].values) == [b"0@1", b"1@1", b"2@1"]
    assert list(fetched[2].values) == [b"0@2", b"1@2"]


def owning(*numbers: int) -> Assignment:
    assignment = Assignment(Shares(1_000_000, 2.0, 4.0))
    for number in numbers:
        partition = Partition(replace(SOURCE, partition=number), LIMITS, NOW)
        assignment.add(partition)
        partition.begin(nothing_open(0), NOW)
        partition.on(CoverageRead(coverage()), NOW)
    return assignment


def inserts(assignment: Assignment, found: Sequence[tuple[Partition, Command]]) -> list[SendInsert]:
    """What is inserted when everything that is asked for is answered well."""
    sent: list[SendInsert] = []
    waiting = list(found)
    while waiting:
        partition, command = waiting.pop(0)
        answer: Event
        match command:
            case SendInsert():
                sent.append(command)
                continue
            case SendCommit(_, metadata):
                answer = CommitAnswered(metadata, Answer.APPLIED)
            case ReadTopic(asked):
                answer = TopicRead(TOPIC_ID, asked)
            case _:
                continue
        waiting += assignment.on(partition, answer, NOW)
    return sent


def test_records_fill_the_batch_of_their_partition_and_of_no_other() -> None:
    assignment = owning(1, 2)
    sent = inserts(assignment, assignment.records(1, records(0, 4), NOW))
    assert [list(each.batch.lines()) for each in sent] == [[line(n) for n in range(4)]]
    other = assignment.get(2)
    assert other is not None
    assert (other.position, other.buffered_bytes) == (0, 0)


def test_the_same_range_of_two_partitions_is_two_inserts_under_two_tokens() -> None:
    assignment = owning(1, 2)
    found = [
        *assignment.records(1, records(0, 4), NOW),
        *assignment.records(2, records(0, 4), NOW),
    ]
    one, two = inserts(assignment, found)
    assert (one.batch.first, one.batch.end) == (two.batch.first, two.batch.end) == (0, 4)
    assert one.token != two.token
    assert [each.token.split(":")[2] for each in (one, two)] == ["1", "2"]

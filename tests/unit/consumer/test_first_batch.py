"""What waited for a new owner does not wait for a batch's age as well, where the log ends."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from consumer.commands import (
    CoverageRead,
    InsertAnswered,
    Outcome,
    SendCommit,
    SendInsert,
)
from consumer.config import consumer_settings
from consumer.flight import Now
from consumer.ledger import Open, encode
from consumer.metrics import Metrics
from consumer.partition import Partition
from consumer.ports import DeadLetters, Log, Table
from consumer.recovery import Commit, Coverage
from consumer.runner import Runner
from schemas.settings import load
from tests.unit.consumer.owner import SOURCE, TOPIC_ID, records

NOW = Now(1000.0, 1_000_000)


class Kafka:
    """As much of a log as a member asks for that was given a partition."""

    def __init__(self) -> None:
        self.behind: int | None = None

    def topic_id(self) -> str:
        return TOPIC_ID

    def source(self, partition: int) -> object:
        return replace(SOURCE, partition=partition)

    def lag(self, partition: int, position: int) -> int | None:
        return self.behind


class Accepts:
    def insert(self, *_: object) -> InsertAnswered:
        return InsertAnswered(Outcome.LANDED)


@pytest.fixture
def log() -> Kafka:
    return Kafka()


@pytest.fixture
def runner(log: Kafka) -> Iterator[Runner]:
    port: Log = log  # type: ignore[assignment]
    table: Table = Accepts()  # type: ignore[assignment]
    letters: DeadLetters = None  # type: ignore[assignment] # nobody asks it
    settings = consumer_settings(load("consumer", None, {"PENSTOCK_BATCH_ROWS": "100"}))
    made = Runner(settings, port, table, letters, Metrics(), lambda _: None)
    made._assigned({SOURCE.partition: Commit(0, encode(0, Open(0, 1, TOPIC_ID, 1)), 0, 50)})
    yield made
    made._topic.close()
    made._pool.shutdown()


@pytest.fixture
def partition(runner: Runner) -> Partition:
    """Planned, with two of the log's records read."""
    found = runner._assignment.get(SOURCE.partition)
    assert found is not None
    found.on(CoverageRead(Coverage((), 0, 100, None, 0, True)), NOW)
    assert found.records(records(0, 2), NOW) == []
    return found


@pytest.mark.parametrize("behind", [None, 1])
def test_it_waits_while_more_of_the_log_is_to_come(
    runner: Runner, partition: Partition, log: Kafka, behind: int | None
) -> None:
    log.behind = behind
    assert runner._first_batches(NOW) == []


def test_it_is_closed_where_the_log_ends_and_only_it(
    runner: Runner, partition: Partition, log: Kafka
) -> None:
    log.behind = 0
    (_, prepare), *_ = runner._first_batches(NOW)
    assert isinstance(prepare, SendCommit)
    assert prepare.offset == 0
    assert partition.outstanding is not None
    partition.records(records(2, 4), NOW)
    assert partition.filling
    assert runner._first_batches(NOW) == [], "the next one has the age of every batch"


@pytest.mark.parametrize(("first_attempt_ms", "fresh"), [(None, False), (1, True)])
def test_a_replay_is_not_the_first_batch(
    runner: Runner, partition: Partition, log: Kafka, first_attempt_ms: int | None, fresh: bool
) -> None:
    """What follows it has waited as well."""
    partition.tick(NOW, 0)
    flight = partition._flight
    assert flight is not None
    assert flight.batch is not None
    runner._send_insert(partition, SendInsert(flight.batch, "token", 2000.0, first_attempt_ms))
    assert (partition in runner._fresh) == fresh


def test_a_partition_that_is_given_up_is_forgotten(
    runner: Runner, partition: Partition, log: Kafka
) -> None:
    log.behind = 0
    runner._lost([SOURCE.partition])
    assert runner._first_batches(NOW) == []
    assert not runner._fresh

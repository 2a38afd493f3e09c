"""A partition that is given up: an unanswered commit is seen first, or the member ends.

A commit that is applied after the next owner's would replace what that one announced, and Kafka
lets it, as long as we are a member of the group.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import pytest

from consumer import runner as runner_module
from consumer.commands import CommitRead, CoverageRead, SendCommit, TopicRead
from consumer.config import consumer_settings
from consumer.flight import Now
from consumer.ledger import Open, encode
from consumer.metrics import Metrics
from consumer.partition import Partition
from consumer.ports import DeadLetters, Listener, Log, Table
from consumer.recovery import Commit, Coverage
from consumer.runner import Runner
from schemas.settings import load
from tests.unit.consumer.owner import SOURCE, TOPIC_ID, records

NUMBER = SOURCE.partition


class Kafka:
    """A log that shows the commits which it is told have been applied."""

    def __init__(self) -> None:
        self.sent: list[tuple[int, str]] = []
        self.shown = Commit(0, encode(0, Open(0, 1, TOPIC_ID, 1)), 0, 10)
        self.asked = 0
        self.shows_from = 0  # the question that the last commit sent is shown from

    def topic_id(self) -> str:
        return TOPIC_ID

    def source(self, partition: int) -> object:
        return replace(SOURCE, partition=partition)

    def lag(self, partition: int, position: int) -> int | None:
        return None

    def commit(self, partition: int, offset: int, metadata: str) -> None:
        self.sent.append((offset, metadata))

    def read_from(self, partition: int, offset: int) -> None:
        pass

    def committed(self, partition: int) -> Commit:
        self.asked += 1
        if self.shows_from and self.asked >= self.shows_from:
            offset, metadata = self.sent[-1]
            return Commit(offset, metadata, 0, 10)
        return self.shown

    def leave(self) -> None:
        pass


class Clock:
    """A clock that each look moves on."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        self.seconds += 0.5
        return self.seconds


class Owner:
    """A runner that owns one partition whose prepare was sent and not answered."""

    def __init__(self, log: Kafka, table: Table, dead_letters: DeadLetters) -> None:
        self.log = log
        self.aborted: list[str] = []
        self.owned_at_abort: list[bool] = []
        port: Log = log  # type: ignore[assignment] # as much of one as is asked for here
        values = load("consumer", None, {"PENSTOCK_BATCH_ROWS": "4"})
        settings = consumer_settings(values)
        self.runner = Runner(settings, port, table, dead_letters, Metrics(), self.abort)
        self.listener = Listener(
            self.runner._assigned, self.runner._revoked, self.runner._lost, self.runner._answered
        )
        self.listener.assigned({NUMBER: log.shown})
        now = Now(1000.0, 1_000_000)
        coverage = Coverage((), 0, 100, None, 0, True)
        partition = self.partition
        assert partition is not None
        self.do(partition.on(CoverageRead(coverage), now))
        self.do(partition.records(records(0, 4), now))
        assert partition.outstanding is not None

    def abort(self, why: str) -> None:
        self.aborted.append(why)
        self.owned_at_abort.append(self.partition is not None)

    @property
    def partition(self) -> Partition | None:
        return self.runner._assignment.get(NUMBER)

    def do(self, commands: Sequence[object]) -> None:
        for command in commands:
            if isinstance(command, SendCommit):
                self.log.commit(NUMBER, command.offset, command.metadata)


@pytest.fixture
def owner(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Owner]]:
    made: list[Owner] = []
    monkeypatch.setattr(runner_module, "clock", Clock())
    monkeypatch.setattr(time, "sleep", lambda seconds: None)

    def make() -> Owner:
        nobody: object = None
        made.append(Owner(Kafka(), nobody, nobody))  # type: ignore[arg-type] # nobody asks them
        return made[-1]

    yield make
    for each in made:
        each.runner._topic.close()


def test_a_commit_that_is_not_seen_in_time_ends_the_member_before_the_partition_is_given_up(
    owner: Callable[[], Owner],
) -> None:
    us = owner()
    us.listener.revoked([NUMBER])
    assert len(us.aborted) == 1
    assert "revoked while a commit is unanswered" in us.aborted[0]
    assert us.owned_at_abort == [True]
    assert us.log.asked > 1


def test_a_commit_that_is_seen_lets_the_partition_go(owner: Callable[[], Owner]) -> None:
    us = owner()
    us.log.shows_from = 3
    us.listener.revoked([NUMBER])
    assert us.aborted == []
    assert us.log.asked == 3
    assert us.partition is None


def test_the_commit_before_it_is_not_taken_for_it(owner: Callable[[], Owner]) -> None:
    us = owner()
    (offset, _), *_ = us.log.sent
    assert us.log.shown.offset == offset, "the same offset: its metadata tells them apart"
    us.listener.revoked([NUMBER])
    assert us.aborted


def test_with_nothing_unanswered_nothing_is_asked(owner: Callable[[], Owner]) -> None:
    us = owner()
    partition = us.partition
    assert partition is not None
    (_, metadata), *_ = us.log.sent
    partition.on(TopicRead(TOPIC_ID, metadata), Now(1000.0, 1_000_000))
    partition._sent = None
    us.listener.revoked([NUMBER])
    assert us.aborted == []
    assert us.log.asked == 0
    assert us.partition is None


def test_what_is_lost_is_dropped_at_once(owner: Callable[[], Owner]) -> None:
    """It is another's already: there is nothing to keep it from, and nobody to ask."""
    us = owner()
    us.listener.lost([NUMBER])
    assert us.aborted == []
    assert us.log.asked == 0
    assert us.partition is None


def test_an_answer_after_that_is_nobodys(owner: Callable[[], Owner]) -> None:
    us = owner()
    us.listener.lost([NUMBER])
    assert us.runner._assignment.on(partition_gone(us), CommitRead(us.log.shown), Now(1.0, 1)) == []


def partition_gone(us: Owner) -> Partition:
    """A partition as it was before it was dropped."""
    return Partition(SOURCE, us.runner._settings.limits, Now(1000.0, 1_000_000))

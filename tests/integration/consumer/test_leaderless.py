"""A partition without a leader waits by itself: the group's others go on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

import pytest

from consumer.commands import CommitAnswered
from consumer.config import consumer_settings
from consumer.kafka import KafkaLog
from consumer.ports import Listener, LogError
from consumer.recovery import Commit
from deploy.local.mock_broker import MockBroker, mock_broker
from deploy.local.waiting import wait_until
from schemas.settings import load

LEADERLESS, BROKER = 1, 1


@pytest.fixture
def broker() -> Iterator[MockBroker]:
    with mock_broker(topics={"events": 3}) as broker:
        yield broker


def lead(broker: MockBroker, leader: int) -> None:
    """Let partition 1 be led by this broker; by none: -1."""
    assert broker._library.rd_kafka_mock_partition_set_leader(
        broker._cluster, b"events", LEADERLESS, leader
    ) == 0  # fmt: skip


class Member:
    def __init__(self, broker: MockBroker, protocol: str) -> None:
        given = {
            "PENSTOCK_KAFKA_BOOTSTRAP_SERVERS": broker.address,
            "PENSTOCK_KAFKA_GROUP_PROTOCOL": protocol,
        }
        self.log = KafkaLog(consumer_settings(load("consumer", None, given)))
        self.commits: dict[int, Commit | LogError] = {}

    def _assigned(self, commits: Mapping[int, Commit | LogError]) -> None:
        self.commits |= commits

    def joined(self) -> Member:
        def ignore(_: Iterable[int]) -> None:
            pass

        def answered(_: int, event: CommitAnswered) -> None:
            pass

        self.log.join(Listener(self._assigned, ignore, ignore, answered))
        self.until(lambda: len(self.commits) == 3, "all partitions are assigned")
        return self

    def until(self, holds: Callable[[], bool], what: str) -> None:
        def looked() -> bool:
            self.log.fetch(0.1)  # raises where the member has to leave
            return holds()

        wait_until(looked, 40, what)


@pytest.mark.parametrize("protocol", ["cooperative", "eager"])
def test_it_is_taken_without_its_commit_and_the_others_with_theirs(
    broker: MockBroker, protocol: str
) -> None:
    lead(broker, -1)
    member = Member(broker, protocol).joined()
    try:
        assert isinstance(member.commits[LEADERLESS], LogError)
        assert member.commits[0] == member.commits[2] == Commit(None, None, 0, 0)
        with pytest.raises(LogError):
            member.log.read_commit(LEADERLESS)
        lead(broker, BROKER)
        found: list[Commit] = []

        def read() -> bool:
            try:
                found.append(member.log.read_commit(LEADERLESS))
            except LogError:
                return False
            return True

        member.until(read, "it has a leader again")
        assert found == [Commit(None, None, 0, 0)]
        member.log.read_from(LEADERLESS, 0)
        member.log.fetch_only(frozenset({0, LEADERLESS, 2}))
        member.until(lambda: member.log.lag(LEADERLESS, 0) == 0, "it is fetched")
    finally:
        member.log.leave()

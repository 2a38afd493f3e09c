"""A real Kafka as a log's contract meets it, through the consumer's own adapter."""

from __future__ import annotations

import socket
import struct
import uuid
from collections.abc import Iterable, Mapping

from confluent_kafka import Consumer, Producer, TopicPartition

from consumer.commands import Answer, CommitAnswered
from consumer.config import ConsumerSettings, consumer_settings
from consumer.kafka import KafkaLog
from consumer.ports import Listener, LogError
from consumer.recovery import Commit
from deploy.local.waiting import wait_until
from schemas.settings import load
from tests.contract.log_port import Read
from tests.fixtures.kafka import Kafka

_SECONDS = 30
_LEAVE_GROUP = 13


class RealMember:
    """Comes round in the adapter's `fetch` while something is waited for, as the runner does."""

    def __init__(self, settings: ConsumerSettings) -> None:
        self._settings = settings
        self.log = KafkaLog(settings)
        self.owned: set[int] = set()
        self.partition = 0
        self._answers: list[CommitAnswered] = []
        self._found: dict[int, list[tuple[tuple[int, bytes | None], ...]]] = {}
        self._position = 0
        self.log.join(Listener(self._assigned, self._given_up, self._given_up, self._answered))

    def _assigned(self, commits: Mapping[int, Commit | LogError]) -> None:
        self.owned |= commits.keys()

    def _given_up(self, numbers: Iterable[int]) -> None:
        self.owned -= set(numbers)

    def _answered(self, _: int, event: CommitAnswered) -> None:
        self._answers.append(event)

    def come_round(self) -> None:
        self.log.fetch(0.05)

    def commit(self, offset: int, metadata: str) -> Answer:
        before = len(self._answers)
        self.log.commit(self.partition, offset, metadata)

        def answered() -> bool:
            self.come_round()
            return len(self._answers) > before

        wait_until(answered, _SECONDS, "the commit is answered", 0)
        assert self._answers[-1].metadata == metadata
        return self._answers[-1].answer

    def committed(self) -> Commit:
        """As soon as Kafka answers: it may not yet, of a topic that was just made."""
        found: list[Commit] = []

        def answered() -> bool:
            try:
                found.append(self.log.committed(self.partition))
            except LogError:
                return False
            return True

        wait_until(answered, _SECONDS, "Kafka says what is committed")
        return found[0]

    def read(self, offset: int) -> Read:
        end = self.committed().high
        offsets: list[int] = []
        values: list[bytes | None] = []
        position = offset
        self.log.read_from(self.partition, offset)
        self.log.fetch_only(frozenset({self.partition}))

        def come() -> bool:
            nonlocal position
            records = self.log.fetch(0.05).get(self.partition)
            if records is not None:
                offsets.extend(records.offsets)
                values.extend(records.values)
                position = records.position
            return position == end

        wait_until(come, _SECONDS, f"everything from {offset} to {end} is read", 0)
        return Read(tuple(offsets), tuple(values), position)

    def made_again(self) -> bool:
        return self.log.made_again(self.log.topic_id())

    def leave(self) -> None:
        self.log.leave()

    def put_out(self) -> None:
        """Another says for it that it leaves: to the group that is what a timeout is."""
        assert self.log._consumer is not None
        texts = ("contract", self._settings.kafka_group, self.log._consumer.memberid())
        request = struct.pack(">hhi", _LEAVE_GROUP, 0, 1)
        request += b"".join(struct.pack(">h", len(each)) + each.encode() for each in texts)
        host, _, port = self._settings.kafka_bootstrap_servers.rpartition(":")
        with socket.create_connection((host, int(port)), _SECONDS) as broker:
            broker.sendall(struct.pack(">i", len(request)) + request)
            answer = broker.recv(10, socket.MSG_WAITALL)
        assert struct.unpack(">iih", answer) == (6, 1, 0), "length, correlation, error"


class RealLog:
    def __init__(self, kafka: Kafka) -> None:
        self._kafka = kafka
        self._topic = kafka.create_topic(partitions=2)
        self._group = f"group-{uuid.uuid4().hex[:12]}"
        self._members: list[RealMember] = []
        self._producer = Producer({"bootstrap.servers": kafka.bootstrap_servers, "log_level": 0})
        given = {
            "KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap_servers,
            "KAFKA_TOPIC": self._topic,
            "KAFKA_GROUP": self._group,
            "SESSION_TIMEOUT_SECONDS": "6",
        }
        values = load("consumer", None, {f"PENSTOCK_{name}": it for name, it in given.items()})
        self._settings = consumer_settings(values)

    def close(self) -> None:
        for member in self._members:
            member.leave()

    # --- the group -----------------------------------------------------------------------------

    def _member(self) -> RealMember:
        member = RealMember(self._settings)
        self._members.append(member)
        return member

    def join(self) -> RealMember:
        member = self._member()

        def has_all() -> bool:
            member.come_round()
            return member.owned == {0, 1}

        wait_until(has_all, _SECONDS, "it has both partitions", 0)
        return member

    def pair(self) -> tuple[RealMember, RealMember]:
        """Which of the two partitions moves is for Kafka to say: it is the pair's."""
        old = self.join()
        new = self._member()

        def shared() -> bool:
            old.come_round()
            new.come_round()
            return len(old.owned) == len(new.owned) == 1

        wait_until(shared, _SECONDS, "each has one partition", 0)
        (old.partition,) = (new.partition,) = new.owned
        return old, new

    # --- the topic -----------------------------------------------------------------------------

    def produce(self, *values: bytes | None) -> None:
        for value in values:
            self._producer.produce(self._topic, value, partition=0)
        assert self._producer.flush(_SECONDS) == 0

    def abort(self) -> None:
        producer = Producer(
            {
                "bootstrap.servers": self._kafka.bootstrap_servers,
                "transactional.id": self._topic,
                "log_level": 0,
            }
        )
        producer.init_transactions(_SECONDS)
        producer.begin_transaction()
        aborted: list[int | None] = []
        producer.produce(
            self._topic,
            b"aborted",
            partition=0,
            on_delivery=lambda _, message: aborted.append(message.offset()),
        )
        producer.flush(_SECONDS)
        producer.abort_transaction(_SECONDS)
        assert aborted[0] is not None
        # The coordinator answers before it has written the marker.
        self._await_end(aborted[0] + 2)

    def _await_end(self, end: int) -> None:
        reader = Consumer(
            {
                "bootstrap.servers": self._kafka.bootstrap_servers,
                "group.id": "none",
                "isolation.level": "read_uncommitted",
                "log_level": 0,
            }
        )
        place = TopicPartition(self._topic, 0)
        wait_until(
            lambda: reader.get_watermark_offsets(place, timeout=_SECONDS) == (0, end),
            _SECONDS,
            f"the log ends at {end}",
        )
        reader.close()

    def trim(self, low: int) -> None:
        place = TopicPartition(self._topic, 0, low)
        self._kafka.admin().delete_records([place])[place].result(_SECONDS)

    def make_again(self) -> None:
        self._kafka.delete_topic(self._topic)
        self._kafka.create_topic(partitions=2, name=self._topic)

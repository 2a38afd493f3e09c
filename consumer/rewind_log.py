"""Kafka, as a rewind needs it: who is in the group, where offsets lie, and its commits.

A commit that does not come from a member is applied only while the group has no members: the broker
itself makes sure of that. So each commit is a fence as well: once it is answered, whoever joins was
assigned after it was sent. Sent asynchronously and awaited with a deadline, since the synchronous
call takes none.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType

from confluent_kafka import OFFSET_END, Consumer, KafkaError, KafkaException, TopicPartition

from consumer.audit_log import Log
from consumer.config import ConsumerSettings
from consumer.kafka_client import (
    CALL_SECONDS,
    admin_client,
    as_log_error,
    library_log,
    members,
    reading,
    topic_identity,
)
from consumer.ledger import Note, Source, encode
from consumer.ports import LogError
from consumer.recovery import Commit

_POLL_SECONDS = 0.05
_AGAIN_SECONDS = 0.5

# Not applied: there are members.
_JOINED = frozenset(
    {
        KafkaError.UNKNOWN_MEMBER_ID,
        KafkaError.ILLEGAL_GENERATION,
        KafkaError.REBALANCE_IN_PROGRESS,
        KafkaError.FENCED_INSTANCE_ID,
        KafkaError.STALE_MEMBER_EPOCH,
        KafkaError.FENCED_MEMBER_EPOCH,
    }
)
# Not applied: the coordinator is on its way.
_TRY_AGAIN = frozenset(
    {
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.NOT_COORDINATOR,
        KafkaError._WAIT_COORD,
    }
)


class Joined(Exception):
    """The group has members again, and the commit was not applied."""


class GroupLog:
    """The topic, and the group's commits. Nothing here joins the group. Raises LogError."""

    def __init__(self, settings: ConsumerSettings) -> None:
        self._settings = settings
        self._topic = settings.kafka_topic
        self.cluster, self.topic_id = topic_identity(settings)
        self._log = Log(settings)
        self._answers: dict[tuple[int, str], KafkaError | None] = {}
        self._admin = admin_client(settings)
        self._consumer = Consumer(
            {**reading(settings), "on_commit": self._on_commit}, logger=library_log
        )

    def __enter__(self) -> GroupLog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._log.close()
        self._consumer.close()

    def source(self, partition: int) -> Source:
        return Source(self.cluster, self._topic, self.topic_id, partition)

    def commits(self) -> Mapping[int, Commit]:
        """Kafka's commit and the log's ends, by partition."""
        return self._log.commits()

    def told_members(self) -> int | None:
        """How many consumers are in the group, None where the broker cannot say. It refuses the
        commits of a rewind then, too, while there are any."""
        return members(self._admin, self._settings.kafka_group)

    def members(self) -> int:
        """The same, and 0 where that is not to be known."""
        return self.told_members() or 0

    def at_time(self, time_ms: int, ends: Mapping[int, Commit]) -> dict[int, int]:
        """By partition the first offset that was appended at that time or later; the log's end
        where none was."""
        asked = [TopicPartition(self._topic, number, time_ms) for number in ends]
        found = {}
        with as_log_error():
            for place in self._consumer.offsets_for_times(asked, timeout=CALL_SECONDS):
                if place.error is not None:
                    raise LogError(f"Kafka: {place.error.str()}")
                end = ends[place.partition]
                found[place.partition] = (
                    end.high if place.offset == OFFSET_END else max(place.offset, end.low)
                )
        return found

    def commit(self, notes: Mapping[int, tuple[int, Note]]) -> None:
        """Commit each partition's (offset, note). Returns when all are applied.

        Raises Joined when the group has members, and LogError when that is not to be known within
        the commit's timeout.
        """
        until = time.monotonic() + self._settings.limits.commit_timeout_seconds
        left = {(p, encode(offset, note)): offset for p, (offset, note) in notes.items()}
        while left:
            self._send(left)
            while not left.keys() <= self._answers.keys():
                if time.monotonic() > until:
                    raise LogError("Kafka: a commit was not answered in time")
                self._consumer.poll(_POLL_SECONDS)
            left = {key: at for key, at in left.items() if self._refused(self._answers[key])}
            if left and time.monotonic() + _AGAIN_SECONDS > until:
                raise LogError("Kafka: the group's coordinator is not available")
            if left:
                self._consumer.poll(_AGAIN_SECONDS)

    def _send(self, commits: Mapping[tuple[int, str], int]) -> None:
        """In one request: the group has members for all of them, or for none."""
        places = []
        for (partition, metadata), offset in commits.items():
            self._answers.pop((partition, metadata), None)
            places.append(TopicPartition(self._topic, partition, offset, metadata=metadata))
        try:
            self._consumer.commit(offsets=places, asynchronous=True)
        except KafkaException as error:
            self._answers |= dict.fromkeys(commits, error.args[0])

    def _on_commit(self, error: KafkaError | None, places: list[TopicPartition]) -> None:
        for place in places:
            self._answers[place.partition, place.metadata or ""] = place.error or error

    def _refused(self, error: KafkaError | None) -> bool:
        """Whether to send it again; False: it is applied."""
        if error is None:
            return False
        if error.code() in _JOINED:
            raise Joined
        if error.code() in _TRY_AGAIN:
            return True
        raise LogError(f"Kafka: commit: {error.str()}")

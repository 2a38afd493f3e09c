"""The log: one member of the consumer group on librdkafka.

Facts this adapter stands on:

- A commit is sent asynchronously and answered through `on_commit`: the synchronous call takes no
  timeout and can hang for ever. An answer is matched by its metadata.
- Group commits are fenced by membership, not by ownership: a late commit of an ex-owner would
  replace its successor's. So `revoked` is given the chance to see a commit answered (`committed`,
  sent behind it on the same connection) before the partition is given up.
- `poll` and `consume` must not be called from within a rebalance callback (the binding asserts);
  `committed` may.
- A pause drops what was prefetched, and `seek` works only on a partition that is being fetched. A
  new partition is therefore assigned at the offset its plan will most likely want, and paused.
- A topic that is deleted and made again has the same name and other records: its id tells. The
  in-memory broker has no topic ids; its cluster's id is new at each start and stands in for it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

from confluent_kafka import (
    OFFSET_END,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)

from consumer import kafka_client
from consumer.batch import Records
from consumer.commands import Answer, CommitAnswered
from consumer.config import ConsumerSettings
from consumer.ledger import Source
from consumer.ports import Listener, LogError
from consumer.recovery import Commit, judge
from schemas.callbacks import serving_callbacks
from schemas.logs import fact

log = logging.getLogger("consumer.kafka")
_FETCH_BYTES = 1 << 20
_LEAST_MESSAGES, _MOST_MESSAGES = 20, 2000
_PREFETCH_KIB = 16 * 1024

# Not applied; or applied before the coordinator moved, and then the same again changes nothing.
# After any other error nobody knows.
# An old generation is what a commit meets that was under way while a rebalance ended. A member that
# was left behind gets it too, but is told of its loss before it can have a new generation.
_TRY_AGAIN = frozenset(
    {
        KafkaError.ILLEGAL_GENERATION,
        KafkaError.STALE_MEMBER_EPOCH,
        KafkaError.REBALANCE_IN_PROGRESS,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.NOT_COORDINATOR,
    }
)
# Refused for certain, because this member is not one any more.
_FENCED = frozenset(
    {
        KafkaError.UNKNOWN_MEMBER_ID,
        KafkaError.FENCED_INSTANCE_ID,
        KafkaError.FENCED_MEMBER_EPOCH,
    }
)
# The member goes on: librdkafka keeps trying, and says so by itself.
_PASSING = frozenset(
    {
        KafkaError._ALL_BROKERS_DOWN,
        KafkaError._TRANSPORT,
        KafkaError._RESOLVE,
        KafkaError._TIMED_OUT,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.NOT_COORDINATOR,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.REBALANCE_IN_PROGRESS,
    }
)


def _membership(settings: ConsumerSettings) -> dict[str, Any]:
    """How the group shares its partitions. The rules of revocation hold under each of these."""
    if settings.group_protocol == "consumer":
        return {"group.protocol": "consumer"}  # its session's length is the broker's
    session_ms = int(settings.session_timeout_seconds * 1000)
    eager = settings.group_protocol == "eager"
    return {
        "partition.assignment.strategy": "range,roundrobin" if eager else "cooperative-sticky",
        "session.timeout.ms": session_ms,
        # A member hears with a heartbeat that another left or died: at the usual 3 s that alone
        # would keep partitions without an owner for so long.
        "heartbeat.interval.ms": max(100, min(500, session_ms // 3)),
    }


class KafkaLog:
    """See `ports.Log`."""

    def __init__(self, settings: ConsumerSettings) -> None:
        self._settings = settings
        self._topic = settings.kafka_topic
        self._consumer: Consumer | None = None
        self._listener: Listener | None = None
        self._identity = ("", "")
        self._admin = kafka_client.admin_client(settings)
        self._owned: dict[int, int] = {}  # partition -> where reading goes on, as far as known
        self._paused: set[int] = set()
        self._messages = _LEAST_MESSAGES
        self._aside: Consumer | None = None
        self._aside_lock = threading.Lock()
        self._broken: str | None = None
        self._trouble: int | None = None  # the code of the error that was logged last

    # --- membership --------------------------------------------------------------------------

    def join(self, listener: Listener) -> None:
        self._listener = listener
        self._broken = None
        self._owned.clear()
        self._paused.clear()
        self._identity = kafka_client.topic_identity(self._settings, self._admin)
        self._consumer = Consumer(
            {
                **kafka_client.reading(self._settings),
                **_membership(self._settings),
                # A fast consumer stalls for as long as this on a queue that was full (default 1 s).
                "fetch.queue.backoff.ms": 10,
                "queued.max.messages.kbytes": _PREFETCH_KIB,
                "on_commit": self._on_commit,
                "error_cb": self._on_error,
            },
            logger=kafka_client.library_log,
        )
        self._consumer.subscribe(
            [self._topic],
            on_assign=self._on_assign,
            on_revoke=self._on_revoke,
            on_lost=self._on_lost,
        )

    def leave(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is None:
            return
        try:
            with serving_callbacks():
                consumer.close()
        except (KafkaException, RuntimeError) as error:
            fact(log, logging.WARNING, "leaving the group was not clean", error=str(error))

    def source(self, partition: int) -> Source:
        cluster, topic_id = self._identity
        return Source(cluster, self._topic, topic_id, partition)

    def topic_id(self) -> str:
        return kafka_client.topic_id(self._admin, self._topic, self._identity[0])

    def made_again(self, topic_id: str) -> bool:
        return topic_id not in ("", self._identity[1])

    # --- records -----------------------------------------------------------------------------

    def fetch(self, timeout_seconds: float) -> Mapping[int, Records]:
        assert self._consumer is not None
        try:
            with serving_callbacks():
                messages: list[Any] = self._consumer.consume(self._messages, timeout_seconds)
        except (KafkaException, RuntimeError) as error:
            raise LogError(f"Kafka: {error}") from error
        if self._broken is not None:
            raise LogError(self._broken)
        fetched: dict[int, Records] = {}
        size = 0
        for partition, run in groupby(messages, _partition):
            records = self._records(list(run))
            if records is None:
                continue
            size += _size(records.values)
            before = fetched.get(partition)
            fetched[partition] = records if before is None else _joined(before, records)
            self._owned[partition] = records.position
        if size:
            self._heard()
            # About a megabyte at a time: larger bites cost page faults, smaller ones calls.
            wanted = len(messages) * _FETCH_BYTES // size
            self._messages = max(_LEAST_MESSAGES, min(_MOST_MESSAGES, wanted))
        return fetched

    def _records(self, run: list[Any]) -> Records | None:
        """One partition's messages as records; what is not a record is taken out."""
        end_of_log = 0
        if any(map(_error, run)):
            kept = []
            for message in run:
                error = message.error()
                if error is None:
                    kept.append(message)
                elif error.code() == KafkaError._PARTITION_EOF:
                    end_of_log = message.offset()
                else:
                    self._on_message_error(error)
            run = kept
        if not run:
            return Records((), (), end_of_log, 0) if end_of_log else None
        first, last = run[0].offset(), run[-1].offset()
        offsets: range | list[int] = range(first, last + 1)
        if len(offsets) != len(run):  # markers or compaction left holes
            offsets = [message.offset() for message in run]
        return Records(
            offsets, list(map(_value, run)), max(last + 1, end_of_log), run[0].timestamp()[1]
        )

    def _on_message_error(self, error: KafkaError) -> None:
        if error.fatal() or error.code() not in _PASSING:
            self._broken = f"Kafka: {error.str()}"
        else:
            self._on_error(error)

    def read_from(self, partition: int, offset: int) -> None:
        assert self._consumer is not None
        if self._owned.get(partition) == offset:
            return
        try:
            self._consumer.seek(TopicPartition(self._topic, partition, offset))
        except KafkaException as error:
            raise LogError(f"cannot read partition {partition} at {offset}: {error}") from error
        self._owned[partition] = offset

    def fetch_only(self, partitions: frozenset[int]) -> None:
        assert self._consumer is not None
        pause = [p for p in self._owned if p not in partitions and p not in self._paused]
        resume = [p for p in self._paused if p in partitions]
        if pause:
            self._consumer.pause([TopicPartition(self._topic, p) for p in pause])
            self._paused.update(pause)
        if resume:
            self._consumer.resume([TopicPartition(self._topic, p) for p in resume])
            self._paused.difference_update(resume)

    @property
    def paused(self) -> int:
        return len(self._paused)

    def lag(self, partition: int, position: int) -> int | None:
        if self._consumer is None:
            return None
        _, high = self._consumer.get_watermark_offsets(
            TopicPartition(self._topic, partition), cached=True
        )
        return max(0, high - position) if high >= 0 else None

    # --- commits -----------------------------------------------------------------------------

    def commit(self, partition: int, offset: int, metadata: str) -> None:
        assert self._consumer is not None
        assert self._listener is not None
        try:
            self._consumer.commit(
                offsets=[TopicPartition(self._topic, partition, offset, metadata=metadata)],
                asynchronous=True,
            )
        except KafkaException as error:
            self._listener.answered(partition, CommitAnswered(metadata, *_answer(error.args[0])))

    def _on_commit(self, error: KafkaError | None, offsets: list[TopicPartition]) -> None:
        assert self._listener is not None
        if error is None:
            self._heard()
        for offset in offsets:
            # Each partition has an outcome of its own: one may fail where another is applied.
            answer = _answer(offset.error or error)
            told = CommitAnswered(offset.metadata or "", *answer)
            self._listener.answered(offset.partition, told)

    def committed(self, partition: int) -> Commit:
        assert self._consumer is not None
        places = [TopicPartition(self._topic, partition)]
        return kafka_client.commits(self._consumer, places)[partition]

    def read_commit(self, partition: int) -> Commit:
        with self._aside_lock:
            if self._aside is None:  # of no membership: never closed while a thread asks it
                self._aside = Consumer(
                    kafka_client.reading(self._settings), logger=kafka_client.library_log
                )
            places = [TopicPartition(self._topic, partition)]
            return kafka_client.commits(self._aside, places)[partition]

    # --- callbacks ---------------------------------------------------------------------------

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        assert self._listener is not None
        if self._consumer is None:  # leaving: a rebalance has ended within its `close`
            self._take(consumer, [])
            return
        if not partitions:
            self._take(consumer, [])
            self._listener.assigned({})
            return
        try:
            commits = kafka_client.commits_or_why(consumer, partitions)
        except LogError as error:
            self._broken = f"reading the commits of an assignment: {error}"
            self._take(consumer, [])
            return
        starts = {
            # without a commit it is paused, and read from where its plan says
            p: OFFSET_END if isinstance(c, LogError) else judge(c, self._identity[1]).start
            for p, c in commits.items()
        }
        self._take(consumer, [TopicPartition(self._topic, p, o) for p, o in starts.items()])
        consumer.pause([TopicPartition(self._topic, p) for p in starts])
        self._owned.update(starts)
        self._paused.update(starts)
        self._listener.assigned(commits)

    def _take(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        if self._settings.group_protocol == "eager":
            consumer.assign(partitions)
        else:
            consumer.incremental_assign(partitions)

    def _on_revoke(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        assert self._listener is not None
        self._listener.revoked(self._give_up(partitions))

    def _on_lost(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        assert self._listener is not None
        self._listener.lost(self._give_up(partitions))

    def _give_up(self, partitions: Iterable[TopicPartition]) -> list[int]:
        numbers = [offset.partition for offset in partitions]
        for number in numbers:
            self._owned.pop(number, None)
            self._paused.discard(number)
        return numbers

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal():
            self._broken = f"Kafka: {error.str()}"
        if self._trouble != error.code():
            self._trouble = error.code()
            fact(log, logging.WARNING, "Kafka is in trouble", error=error.str())

    def _heard(self) -> None:
        """Kafka gave an answer: whatever was wrong is over."""
        if self._trouble is not None:
            self._trouble = None
            fact(log, logging.INFO, "Kafka answers again")


_partition: Callable[[Any], int] = Message.partition  # type: ignore[assignment]
_error: Callable[[Any], KafkaError | None] = Message.error
_value: Callable[[Any], bytes | None] = Message.value


def _size(values: Sequence[bytes | None]) -> int:
    try:
        return sum(map(len, values))  # type: ignore[arg-type]
    except TypeError:  # a tombstone among them
        return sum(len(value) for value in values if value is not None)


def _joined(a: Records, b: Records) -> Records:
    return Records(
        [*a.offsets, *b.offsets], [*a.values, *b.values], b.position, a.append_ms or b.append_ms
    )


def _answer(error: KafkaError | None) -> tuple[Answer, str]:
    if error is None:
        return Answer.APPLIED, ""
    why = f"commit: {error.str()}"
    if error.code() in _FENCED:
        return Answer.FENCED, why
    return (Answer.TRY_AGAIN if error.code() in _TRY_AGAIN else Answer.LOST), why

"""How many bytes of ours wait in each partition for the consumer group.

For brokers that keep little (the trial's in-memory one drops what is over a few MB): with
BACKLOG_BYTES set, posts are refused before that much is uncommitted in any partition.

What this worker produced is remembered as (offset, bytes); each second the group's commits are
asked for, and what lies before them is forgotten. Asking does not join the group. While Kafka does
not answer, the last known commits count: the backlog can only seem larger than it is. What other
workers or producers wrote is not seen, so a worker allows itself its share of the bytes.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from typing import Final

from confluent_kafka import Consumer, KafkaException, TopicPartition

from schemas.logs import fact

from .config import Config

_log = logging.getLogger(__name__)
_ASK_SECONDS: Final = 1.0
_TIMEOUT_SECONDS: Final = 5.0


class Backlog:
    """Uncommitted bytes by partition; `largest` is read by the loop."""

    def __init__(self, config: Config) -> None:
        self.largest = 0
        self._limit = config.backlog_bytes // config.workers
        self._topic = config.topic
        self._records: dict[int, deque[tuple[int, int]]] = {}
        self._bytes: dict[int, int] = {}
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._consumer = Consumer(
            {
                **config.kafka,
                "bootstrap.servers": config.bootstrap_servers,
                "client.id": "penstock-shim-backlog",
                "group.id": config.group,
                "enable.auto.commit": False,
            },
            logger=_log,
        )
        self._thread = threading.Thread(target=self._run, name="backlog", daemon=True)
        self._thread.start()

    def full(self) -> bool:
        return self.largest >= self._limit

    def produced(self, partition: int, offset: int, size: int) -> None:
        """A record of ours is in the log. Called by the poll thread."""
        with self._lock:
            records = self._records.setdefault(partition, deque())
            if records and offset <= records[-1][0]:
                # The log began again (its topic was deleted): what was in the old one is gone.
                records.clear()
                self._bytes[partition] = 0
            records.append((offset, size))
            total = self._bytes[partition] = self._bytes.get(partition, 0) + size
            if total > self.largest:
                self.largest = total

    def committed(self, partition: int, offset: int) -> None:
        """The group has everything before `offset` of this partition."""
        with self._lock:
            records = self._records.get(partition)
            if records is None:
                return
            while records and records[0][0] < offset:
                self._bytes[partition] -= records.popleft()[1]

    def _measure(self) -> None:
        with self._lock:
            self.largest = max(self._bytes.values(), default=0)

    def _run(self) -> None:
        answering = True
        while not self._stopping.wait(_ASK_SECONDS):
            with self._lock:
                wanted = [TopicPartition(self._topic, p) for p, r in self._records.items() if r]
            if not wanted:
                continue
            try:
                for found in self._consumer.committed(wanted, timeout=_TIMEOUT_SECONDS):
                    if found.error is None and found.offset >= 0:
                        self.committed(found.partition, found.offset)
            except KafkaException as error:
                if answering:
                    fact(_log, logging.WARNING, "no committed offsets", problem=str(error))
                answering = False
                continue
            answering = True
            self._measure()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(_TIMEOUT_SECONDS + 1)
        self._consumer.close()

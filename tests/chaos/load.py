"""Load beside the shim's: producers of others, some with transactions that come to nothing.

Aborted records and the markers of both kinds take offsets without being records, so a batch's range
has holes. What an abandoned transaction wrote is aborted by its successor, or by the broker when
its time is over; until then nothing behind it can be read. A broker that is killed meanwhile may
forget it: then its records were seen to become visible with the next commit of the same producer.
So only an abort that was acknowledged says what is not in the topic.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Collection, Sequence
from typing import TypeVar

from confluent_kafka import KafkaError, KafkaException, Producer

from tests.fixtures.events import Made
from tests.fixtures.records import packs

_CALL_SECONDS = 5.0
TRANSACTION_TIMEOUT_MS = 6000
# For the topic, and for that of its dead letters: some lines are over what a line may be.
MOST_BYTES = 4 << 20

T = TypeVar("T")


class Transactions:
    """Sends `events` in transactions over `seconds`; `run` returns when they are through."""

    def __init__(
        self, servers: str, topic: str, partitions: int, events: Sequence[Made], *, seed: int,
        seconds: float,
    ) -> None:  # fmt: skip
        self.committed: set[str] = set()
        self.aborted: set[str] = set()
        self.unknown: set[str] = set()  # the outcome is the topic's to say
        self.happened: Counter[str] = Counter()
        self._servers, self._topic, self._partitions = servers, topic, partitions
        self._rng = random.Random(f"{seed} transactions")
        self._groups = list(_groups(self._rng, events))
        self._seconds = seconds
        self._name = f"chaos-{seed}-{topic}"
        self._producer: Producer | None = None

    def run(self) -> None:
        began = time.monotonic()
        for number, group in enumerate(self._groups):
            due = began + self._seconds * number / len(self._groups)
            while (wait := due - time.monotonic()) > 0:
                time.sleep(min(wait, 0.2))
            self._send(group)
        self._producer = None

    def _send(self, group: Sequence[Made]) -> None:
        """One transaction and its end. Tried once: after a failure only the topic knows."""
        end = self._rng.choices(("commit", "abort", "abandon"), (60, 35, 5))[0]
        ids = {made.id for made in group}
        into = self.unknown
        try:
            producer = self._connected()
            producer.begin_transaction()
            for value in packs(group, self._rng.choice((1, 3, 10))):
                partition = self._rng.randrange(self._partitions)
                producer.produce(self._topic, value, partition=partition)
            if producer.flush(_CALL_SECONDS):
                raise BufferError("not everything was acknowledged")
            if end == "commit":
                producer.commit_transaction(_CALL_SECONDS)
                into = self.committed
            elif end == "abort":
                producer.abort_transaction(_CALL_SECONDS)
                into = self.aborted
            else:
                self._producer = None  # its successor fences it off and aborts for it
            self.happened[end] += 1
        except (KafkaException, BufferError) as error:
            self._producer = None
            self.happened[f"failed: {_name(error)}"] += 1
        into |= ids

    def _connected(self) -> Producer:
        if self._producer is None:
            producer = Producer(
                {
                    "bootstrap.servers": self._servers,
                    "transactional.id": self._name,
                    "transaction.timeout.ms": TRANSACTION_TIMEOUT_MS,
                    "linger.ms": 5,
                    "log_level": 0,
                }
            )
            producer.init_transactions(_CALL_SECONDS)
            self._producer = producer
        return self._producer


class Sender:
    """Produces records without transactions, and keeps the ids of what was acknowledged."""

    def __init__(self, servers: str, topic: str) -> None:
        self.acknowledged: set[str] = set()
        self._topic = topic
        self.producer = Producer(
            {
                "bootstrap.servers": servers,
                "enable.idempotence": True,
                "delivery.timeout.ms": 300_000,
                "message.max.bytes": MOST_BYTES,
                "log_level": 0,
            }
        )

    def send(self, value: bytes | None, ids: Collection[str], partition: int) -> None:
        """Does not wait."""

        def report(error: KafkaError | None, _: object) -> None:
            if error is None:
                self.acknowledged.update(ids)

        self.producer.produce(self._topic, value, partition=partition, on_delivery=report)


class Plain(Sender):
    """Sends lines, each with its event's id, one to a record or packed, over `seconds`."""

    def __init__(
        self, servers: str, topic: str, partitions: int, lines: Sequence[tuple[str, bytes]], *,
        seed: int, seconds: float,
    ) -> None:  # fmt: skip
        super().__init__(servers, topic)
        self._rng = random.Random(f"{seed} plain")
        self._partitions = partitions
        self._lines, self._seconds = lines, seconds

    def run(self) -> None:
        began = time.monotonic()
        groups = list(_groups(self._rng, self._lines))
        for number, group in enumerate(groups):
            due = began + self._seconds * number / len(groups)
            while (wait := due - time.monotonic()) > 0:
                self.producer.poll(min(wait, 0.2))
            size = self._rng.choice((1, 1, 10))
            for at in range(0, len(group), size):
                ids, lines = zip(*group[at : at + size], strict=True)
                self.send(b"\n".join(lines), ids, self._rng.randrange(self._partitions))
        self.producer.flush(120)


class Load:
    """Runs several of these, each in a thread."""

    def __init__(self, *sources: object) -> None:
        self._threads = [
            threading.Thread(target=source.run, daemon=True)  # type: ignore[attr-defined]
            for source in sources
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    @property
    def over(self) -> bool:
        return not any(thread.is_alive() for thread in self._threads)


def _groups(rng: random.Random, events: Sequence[T]) -> list[Sequence[T]]:
    groups, at = [], 0
    while at < len(events):
        size = rng.choice((1, 5, 20, 60))
        groups.append(events[at : at + size])
        at += size
    return groups


def _name(error: BaseException) -> str:
    return str(error.args[0].name()) if isinstance(error, KafkaException) else str(error)

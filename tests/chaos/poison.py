"""Events that cannot be inserted, in records of their own and among good ones.

Every kind that must always be a letter and never a row, from the table that the unit tests are made
of: what ClickHouse refuses, and what it would take, or take in some places, and the consumer looks
for before it sends a batch: bytes that are not UTF-8, a line that is not one object, and a record
larger than Kafka's usual limit with a line over the consumer's. What ClickHouse takes wherever it
stands is left out: it is a letter only where another line had its batch looked through. A bad line
always has a good one on either side.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import islice

from confluent_kafka import KafkaError, Producer

from consumer.batch import Filling, Records
from tests.fixtures.events import Made
from tests.fixtures.lines import CASES, good, with_member
from tests.fixtures.records import line

# For the topic with such records, and for that of its dead letters.
MOST_BYTES = 4 << 20
_TOO_LARGE = with_member("path", b'"' + b"x" * (1 << 20) + b'"')


def _is_suspect(text: bytes) -> bool:
    filling = Filling(0)
    filling.add(Records(range(3), [good(), text, good()], 3, 0), 0.0)
    return filling.close().suspect


# The reader knows a bad line by its bytes: nobody else sends one of these.
BAD = frozenset(
    case.line
    for case in CASES.values()
    if case.reason not in (None, "too_large") and (case.rows is None or _is_suspect(case.line))
) | {_TOO_LARGE}


class Poison:
    """Produces to the topic; `good` gives the events that stand beside the bad lines."""

    def __init__(self, servers: str, topic: str, partitions: int, events: Sequence[Made]) -> None:
        self.acknowledged: set[str] = set()
        self._topic, self._partitions = topic, partitions
        self._events: Iterator[Made] = iter(events)
        self._bad = sorted(BAD - {_TOO_LARGE})
        self._producer = Producer(
            {
                "bootstrap.servers": servers,
                "enable.idempotence": True,
                "delivery.timeout.ms": 300_000,
                "message.max.bytes": MOST_BYTES,
                "log_level": 0,
            }
        )

    def __call__(self, records: int, seed: float) -> None:
        """So many records, each with a bad line between good ones. Does not wait."""
        rng = random.Random(seed)
        for _ in range(records):
            lines: list[bytes] = []
            ids = set()
            for made in islice(self._events, rng.choice((2, 2, 12))):
                if lines and rng.random() < 0.5:
                    lines.append(_TOO_LARGE if rng.random() < 0.02 else rng.choice(self._bad))
                lines.append(line(made))
                ids.add(made.id)
            self._send(b"\n".join(lines), ids, rng.randrange(self._partitions))
        self._producer.poll(0)

    @property
    def over(self) -> bool:
        """Whether everything was acknowledged."""
        return self._producer.flush(0) == 0

    def _send(self, value: bytes, ids: set[str], partition: int) -> None:
        def report(error: KafkaError | None, _: object) -> None:
            if error is None:
                self.acknowledged |= ids

        self._producer.produce(self._topic, value, partition=partition, on_delivery=report)

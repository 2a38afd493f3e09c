"""The simulation's dead letters as their contract meets them, through the simulation's consumer."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from consumer.batch import Letter
from consumer.commands import Event, LettersWritten, ReadFailed, WriteLetters
from consumer.flight import Now
from consumer.ledger import Source
from consumer.partition import Partition
from tests.contract.letters_port import There
from tests.simulation.clickhouse_model import ClickHouse
from tests.simulation.consumer_model import LIMITS, Consumer, Job
from tests.simulation.faults import Profile
from tests.simulation.kafka_model import TOPIC_IDS, Kafka
from tests.simulation.watch import Watch


class _Asked(Consumer):
    """Keeps the answer that a job has come to."""

    answer: Event | None = None

    def done(self, job: Job, answer: Event) -> None:
        super().done(job, answer)
        self.answer = answer


class ModelLetters:
    """`of_those_that_fail`: the share of a write without acknowledgement that is there."""

    def __init__(self, of_those_that_fail: float) -> None:
        profile = Profile("contract", partitions=2)
        self._kafka = Kafka(profile, random.Random(0))
        clickhouse = ClickHouse(profile, 0.0)
        self._consumer = _Asked(
            0, 1, self._kafka, clickhouse, Watch(profile, self._kafka, clickhouse)
        )
        self._consumer.start()
        self._now = Now(1000.0, 1_000_000, of_those_that_fail)
        self._fails = False

    def source(self, partition: int = 0, topic: int = 0) -> Source:
        return Source("cluster", "events", TOPIC_IDS[topic], partition)

    def write(self, source: Source, letters: Sequence[Letter]) -> str | None:
        job = Job(Partition(source, LIMITS, self._now), WriteLetters(tuple(letters)))
        self._consumer.jobs.append(job)
        self._consumer.run_job(job, self._now, fails=self._fails)
        answer = self._consumer.answer
        assert isinstance(answer, LettersWritten | ReadFailed)
        return answer.why if isinstance(answer, ReadFailed) else None

    def there(self) -> list[There]:
        return [
            There(key // 100, key % 100, offset, line, in_table)
            for (key, offset, line), in_table in self._kafka.letters.items()
        ]

    @contextmanager
    def missing(self) -> Iterator[None]:
        self._fails = True
        yield
        self._fails = False

    refusing_large = missing

"""The simulation's Kafka as a log's contract meets it."""

from __future__ import annotations

import random

from consumer.commands import Answer
from consumer.ports import LogError
from consumer.recovery import Commit
from tests.contract.log_port import Read
from tests.simulation.faults import Profile
from tests.simulation.kafka_model import Kafka, OutOfRange, Request

_AT_ONCE = 2  # records of one fetch


class ModelMember:
    def __init__(self, kafka: Kafka) -> None:
        self._kafka = kafka
        self.number = kafka.join()
        self._topic_id = kafka.topic_id

    def commit(self, offset: int, metadata: str) -> Answer:
        applied = self._kafka.arrive(Request(self.number, 0, offset, metadata))
        return Answer.APPLIED if applied else Answer.FENCED

    def committed(self) -> Commit:
        return self._kafka.read(0)

    def read(self, offset: int) -> Read:
        offsets: list[int] = []
        values: list[bytes | None] = []
        position = offset
        while True:
            try:
                found, some = self._kafka.fetch(0, position, _AT_ONCE)
            except OutOfRange as error:
                raise LogError("out of range") from error
            offsets += found
            values += some
            if not found:
                return Read(tuple(offsets), tuple(values), self._kafka.following(0, position))
            position = found[-1] + 1

    def made_again(self) -> bool:
        return self._kafka.topic_id != self._topic_id

    def leave(self) -> None:
        self._kafka.remove(self.number)

    def put_out(self) -> None:
        self._kafka.remove(self.number)


class ModelLog:
    def __init__(self) -> None:
        self._kafka = Kafka(Profile("contract", partitions=2, records=1), random.Random(0))
        self._kafka.commits = [(None, None), (None, None)]
        self._empty()

    def _empty(self) -> None:
        self._kafka.logs = [[], []]
        self._kafka.ends = [0, 0]
        self._kafka.visible = [0, 0]

    def join(self) -> ModelMember:
        return self._own(ModelMember(self._kafka))

    def _own(self, member: ModelMember) -> ModelMember:
        self._kafka.owners[0] = member.number
        return member

    def pair(self) -> tuple[ModelMember, ModelMember]:
        old = self._own(ModelMember(self._kafka))
        new = ModelMember(self._kafka)
        self._kafka.free(0)
        return old, self._own(new)

    def produce(self, *values: bytes | None) -> None:
        kafka = self._kafka
        for value in values:
            kafka.logs[0].append((kafka.ends[0], value))
            kafka.ends[0] += 1
            kafka.visible[0] += 1

    def abort(self) -> None:
        self._kafka.ends[0] += 2

    def trim(self, low: int) -> None:
        self._kafka.trim(0, low)

    def make_again(self) -> None:
        self._kafka.recreate()
        self._empty()

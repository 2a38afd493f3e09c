"""The simulation's ClickHouse as a table's contract meets it, through the simulation's consumer."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from consumer.batch import Batch
from consumer.commands import (
    CoverageRead,
    Event,
    InsertAnswered,
    Isolate,
    Isolated,
    ReadCoverage,
    ReadFailed,
    ReadStamps,
    Restore,
    Restored,
    SendInsert,
    Sift,
    Sifted,
    StampsRead,
)
from consumer.flight import Now
from consumer.ledger import Source
from consumer.partition import Partition
from tests.contract.table_port import Late
from tests.simulation.clickhouse_model import ClickHouse, Insert, Restoring, Violation
from tests.simulation.consumer_model import LIMITS, Consumer, Job, ended
from tests.simulation.faults import Profile
from tests.simulation.kafka_model import TOPIC_IDS, Kafka, line
from tests.simulation.watch import Watch

_STARTED, _NOW = 1000.0, 1_770_000_100.0
_RATE_SECONDS = 100.0  # past which a server takes more inserts, whatever came before


class _Unwatched(Watch):
    """Here nobody announces anything: what may be inserted is not looked at."""

    def insert_begun(self, partition: Partition, stamp: object) -> None:
        pass


class _Asked(Consumer):
    """Keeps the answer that a job has come to."""

    answer: Event | None = None

    def done(self, job: Job, answer: Event) -> None:
        super().done(job, answer)
        self.answer = answer


class _Table:
    """`ports.Table` by way of the simulation's jobs. What the model calls a broken promise is what
    a server just does: `again` has the rows that landed a second time."""

    def __init__(self, server: ModelServer) -> None:
        self._server = server
        self.again: Counter[int] = Counter()

    def insert(
        self, batch: Batch, token: str, deadline: float, first_attempt_ms: int | None
    ) -> InsertAnswered:
        return self.begin(batch, token, deadline, first_attempt_ms).arrive()

    def begin(
        self, batch: Batch, token: str, deadline: float, first_attempt_ms: int | None = None
    ) -> _Late:
        server = self._server
        job = server.job(SendInsert(batch, token, deadline, first_attempt_ms), server.source)
        while job.insert is None and job in server.consumer.jobs:
            server.consumer.run_job(job, server.now())
        return _Late(server, job, self.again)

    def coverage(
        self, source: Source, offset: int, since_ms: int | None, *, whole: bool
    ) -> CoverageRead | ReadFailed:
        answer = self._server.ask(ReadCoverage(offset, since_ms, whole), source)
        assert isinstance(answer, CoverageRead | ReadFailed)
        return answer

    def stamps(
        self, source: Source, batch: Batch, epoch: int, since_ms: int
    ) -> StampsRead | ReadFailed:
        answer = self._server.ask(ReadStamps(batch, epoch, since_ms), source)
        assert isinstance(answer, StampsRead | ReadFailed)
        return answer

    def sift(self, batch: Batch, landed: frozenset[str], *, by_ids: bool) -> Sifted | ReadFailed:
        answer = self._server.ask(Sift(batch, landed, by_ids), self._server.source)
        assert isinstance(answer, Sifted | ReadFailed)
        return answer

    def isolate(
        self, source: Source, batch: Batch, refusal: str, landed_epoch: int | None
    ) -> Isolated | ReadFailed:
        answer = self._server.ask(Isolate(batch, refusal, landed_epoch), source)
        assert isinstance(answer, Isolated | ReadFailed)
        return answer

    def restore(
        self,
        source: Source,
        first: int,
        end: int,
        partitions: frozenset[str],
        asked_ms: int,
        *,
        last: bool = False,
    ) -> Restored | ReadFailed:
        answer = self._server.ask(Restore(first, end, partitions), source)
        assert isinstance(answer, Restored | ReadFailed)
        return answer


class _Late:
    def __init__(self, server: ModelServer, job: Job, again: Counter[int]) -> None:
        self._server = server
        self._job = job
        self._again = again

    def arrive(self) -> InsertAnswered:
        server, job, insert = self._server, self._job, self._job.insert
        while insert is not None and insert in server.clickhouse.running:
            self._step(insert)
        if insert is not None:
            server.consumer.done(job, ended(insert))
        answer = server.consumer.answer
        assert isinstance(answer, InsertAnswered)
        return answer

    def _step(self, insert: Insert) -> None:
        """The model knows no row twice: it says so, and what has not landed goes on landing."""
        clickhouse, stage = self._server.clickhouse, insert.stages[0]
        if clickhouse.throws(insert):
            clickhouse.end(insert)
            return
        try:
            clickhouse.step(insert, self._server.seconds)
        except Violation:
            if stage not in ("ledger", "view"):
                self._again.update(r.offset for r in insert.rows if r.clickhouse_partition == stage)
            if not insert.stages:
                clickhouse.end(insert)


class ModelServer:
    """`ledger_first`: of its views, of which the ledger is one."""

    names = {"a": "a", "b": "b"}  # noqa: RUF012

    def __init__(self, *, ledger_first: bool = True) -> None:
        profile = Profile("contract")
        self.seconds = _NOW
        self._kafka = Kafka(profile, random.Random(0))
        self.clickhouse = ClickHouse(profile, _STARTED)
        self.clickhouse.ledger_first = ledger_first
        self._profile = profile
        watch = _Unwatched(profile, self._kafka, self.clickhouse)
        self.clickhouse.may_double = lambda row, stamp: True
        self.consumer = _Asked(0, 1, self._kafka, self.clickhouse, watch)
        self.consumer.start()
        self.source = Source("cluster", "events", TOPIC_IDS[0], 3)
        self.table = _Table(self)

    def now(self) -> Now:
        self.seconds += 1.0
        return Now(self.seconds, self.now_ms())

    def job(
        self, command: SendInsert | ReadCoverage | ReadStamps | Sift | Isolate | Restore,
        source: Source,
    ) -> Job:  # fmt: skip
        job = Job(Partition(source, LIMITS, self.now()), command)
        self.consumer.answer = None
        self.consumer.jobs.append(job)
        return job

    def ask(
        self, command: ReadCoverage | ReadStamps | Sift | Isolate | Restore, source: Source
    ) -> Event | None:
        job = self.job(command, source)
        while job in self.consumer.jobs:
            self.consumer.run_job(job, self.now())
        return self.consumer.answer

    # --- behind the port's back ----------------------------------------------------------------

    def line(self, offset: int, part: str, fault: str = "") -> bytes:
        return line(f"{self._key}/{offset}/0/{part}/{fault}")

    @property
    def _key(self) -> int:
        return self._kafka.key(self.source.partition)

    def clock(self) -> float:
        return self.seconds

    def now_ms(self) -> int:
        return int(self.seconds * 1000)

    def begin(self, batch: Batch, token: str) -> Late:
        return self.table.begin(batch, token, self.seconds + 20.0)

    def rows(self) -> Counter[int]:
        ours = [r.offset for r in self.clickhouse.table if r.partition == self._key]
        return Counter(ours) + self.table.again

    def counted(self) -> Counter[int]:
        return Counter(
            {o: n for (key, o, _), n in self.clickhouse.view.items() if key == self._key}
        )

    def throwing(self) -> None:
        self.clickhouse.strict = True

    def takes_all(self) -> None:
        self.clickhouse.strict = False

    def set_window(self, entries: int) -> None:
        self._change(window_entries=entries)

    def _change(self, **changes: object) -> None:
        self._profile = replace(self._profile, **changes)  # type: ignore[arg-type]
        self.clickhouse.profile = self._profile

    def others(self, entries: int) -> None:
        """As many at a time as the model lets in."""
        wanted = len(self.clickhouse.others) + entries
        while (left := wanted - len(self.clickhouse.others)) > 0:
            self.seconds += _RATE_SECONDS
            self.clickhouse.other_inserts(left, self.seconds)
        self.seconds += _RATE_SECONDS

    @contextmanager
    def holding(self) -> Iterator[None]:
        hold = Restoring((0, 0, 0, 0), frozenset(), held_until=self.seconds + 1000.0)
        self.clickhouse.holds.append(hold)
        yield
        hold.held_until = self.seconds

    def lose_part(self, part: str) -> None:
        self.lose_rows(part)
        self.clickhouse.forget(part)

    def lose_rows(self, part: str) -> None:
        for lost in [r for r in self.clickhouse.table if r.clickhouse_partition == part]:
            del self.clickhouse.table[lost]
            self.clickhouse.landed.discard(lost.record)

    def lose_ledger(self) -> None:
        self.clickhouse.ledger.clear()
        self.clickhouse.announced.clear()

    def lose_view(self) -> None:
        self.clickhouse.view.clear()
        self.clickhouse.forget("view")

    def forget_log(self) -> None:
        self._change(mends_log=False)

    def stop(self) -> None:
        self.clickhouse.crash(lies=False)

    def start(self) -> None:
        self.seconds += 1.0
        self.clickhouse.start(self.seconds)

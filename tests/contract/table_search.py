"""The exhaustive search's ClickHouse as a table's contract meets it, through the search's pool.

It has one Kafka partition and no clock of its own: what other partitions insert, and when it was
started, it knows only as far as a search needs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from consumer.batch import Batch
from consumer.commands import (
    CoverageRead,
    Event,
    InsertAnswered,
    Isolated,
    Outcome,
    ReadCoverage,
    ReadFailed,
    Restore,
    Restored,
    Sifted,
    StampsRead,
)
from consumer.ledger import Intent, Source, token
from tests.contract.table_port import BAD, THROWN_ON, Late
from tests.exhaustive.cores import NOW, NOW_MS, SOURCES
from tests.exhaustive.pool import Pool
from tests.exhaustive.scope import Scope, line
from tests.exhaustive.server import Running, Server, Violation, offsets_of, step
from tests.exhaustive.state import Isolating, Job, Sifting, World, add, remove
from tests.exhaustive.world import Rules

_VERSION = 1


class _Asked(Rules):
    """Keeps the answer that a job has come to, and looks at no promise."""

    heard: Event | None = None

    def answer(self, world: World, i: int, job: Job, event: Event) -> World:
        self.heard = event
        return remove(world, i, job)

    def land(self, world: World, running: Running) -> tuple[World, Running | None]:
        world = world._replace(server=step(world.server, running, self.scope))
        return world, _behind(running)


def _behind(running: Running) -> Running | None:
    landed = running.landed + 1
    return None if landed == len(running.insert.stages) else running._replace(landed=landed)


class _Table:
    """`ports.Table` by way of the search's jobs."""

    def __init__(self, server: SearchServer) -> None:
        self._server = server

    def insert(
        self, batch: Batch, token: str, deadline: float, first_attempt_ms: int | None
    ) -> InsertAnswered:
        return self._server.send(batch, token, deadline, first_attempt_ms).arrive()

    def coverage(
        self, source: Source, offset: int, since_ms: int | None, *, whole: bool
    ) -> CoverageRead | ReadFailed:
        answer = self._server.ask(Job(True, read=ReadCoverage(offset, since_ms, whole)))
        assert isinstance(answer, CoverageRead | ReadFailed)
        return answer

    def stamps(
        self, source: Source, batch: Batch, epoch: int, since_ms: int
    ) -> StampsRead | ReadFailed:
        note = Intent(
            batch.first, batch.end, batch.rows, batch.digest, epoch, _VERSION, source.topic_id, 0
        )
        insert = self._server.rules._insert(batch, token(source, batch, note), _VERSION)
        answer = self._server.ask(Job(True, stamps=True, since_ms=since_ms, insert=insert))
        assert isinstance(answer, StampsRead | ReadFailed)
        return answer

    def sift(self, batch: Batch, landed: frozenset[str], *, by_ids: bool) -> Sifted | ReadFailed:
        sift = Sifting(self._server.rules._batch(batch), landed, by_ids)
        answer = self._server.ask(Job(True, sift=sift))
        assert isinstance(answer, Sifted | ReadFailed)
        return answer

    def isolate(
        self, source: Source, batch: Batch, refusal: str, landed_epoch: int | None
    ) -> Isolated | ReadFailed:
        isolate = Isolating(self._server.rules._batch(batch), bool(refusal), landed_epoch)
        answer = self._server.ask(Job(True, isolate=isolate))
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
        job = Job(True, restore=Restore(first, end, partitions))
        server = self._server
        server.world = server.pool.restore(add(server.world, 0, job), 0, job)
        answer = server.rules.heard
        assert isinstance(answer, Restored | ReadFailed)
        return answer


class _Late:
    def __init__(self, server: SearchServer, job: Job | None) -> None:
        self._server = server
        self._job = job

    def arrive(self) -> InsertAnswered:
        while self._job is not None:
            self._step(self._job)
        answer = self._server.rules.heard
        assert isinstance(answer, InsertAnswered)
        return answer

    def _step(self, job: Job) -> None:
        server, running = self._server, job.running
        assert running is not None
        server.rules.heard = None
        try:
            server.world = server.pool.land(server.world, 0, job)
        except Violation:
            self._land_again(job, running)
        behind = _behind(running)
        ended = server.rules.heard is not None or behind is None
        self._job = None if ended else job._replace(running=behind)

    def _land_again(self, job: Job, running: Running) -> None:
        """What the model calls a broken promise is what a server just does."""
        server, stage = self._server, running.insert.stages[running.landed]
        if stage == "view":
            added = [(part, o) for part, rows in running.insert.rows for o in offsets_of(rows)]
            server.change(view=tuple(sorted((*server.server.view, *added))))
        elif stage != "ledger":
            server.again.update(offsets_of(dict(running.insert.rows)[stage]))
        behind = _behind(running)
        if behind is None:
            landed = InsertAnswered(Outcome.LANDED)
            server.world = server.rules.answer(server.world, 0, job, landed)
            return
        server.world = add(remove(server.world, 0, job), 0, job._replace(running=behind))


class SearchServer:
    names = {"a": "a", "b": "b"}  # noqa: RUF012

    def __init__(self) -> None:
        self.rules = _Asked(Scope("contract", together=0))
        self.pool = Pool(self.rules)
        self.world = self.rules.first()
        self.again: Counter[int] = Counter()
        self.source = SOURCES[0]
        self.table = _Table(self)

    @property
    def server(self) -> Server:
        return self.world.server

    def change(self, **changes: object) -> None:
        self.world = self.world._replace(server=self.server._replace(**changes))  # type: ignore[arg-type]

    def ask(self, job: Job) -> Event | None:
        self.world = self.pool.answered(add(self.world, 0, job), 0, job)
        return self.rules.heard

    def send(
        self, batch: Batch, token: str, deadline: float, first_attempt_ms: int | None = None
    ) -> _Late:
        insert = self.rules._insert(batch, token, _VERSION)
        job = Job(True, insert=insert, deadline=deadline, first_attempt_ms=first_attempt_ms)
        before = Counter(self.world.consumers[0].jobs)
        self.world = self.pool.send(add(self.world, 0, job), 0, job)
        sent = Counter(self.world.consumers[0].jobs) - before
        return _Late(self, next(iter(sent), None))

    # --- behind the port's back ----------------------------------------------------------------

    def line(self, offset: int, part: str, fault: str = "") -> bytes:
        kind = {BAD: "/x", THROWN_ON: f"{part}/v"}.get(fault, f"{part}/")
        return line(f"{offset}/{kind}")

    def clock(self) -> float:
        return NOW

    def now_ms(self) -> int:
        return NOW_MS

    def begin(self, batch: Batch, token: str) -> Late:
        return self.send(batch, token, NOW + 20.0)

    def rows(self) -> Counter[int]:
        return Counter(o for e in self.server.table for o in offsets_of(e.rows)) + self.again

    def counted(self) -> Counter[int]:
        return Counter(offset for _, offset in self.server.view)

    def throwing(self) -> None:
        self.change(strict=True)

    def takes_all(self) -> None:
        self.change(strict=False)

    def set_window(self, entries: int) -> None:
        raise NotImplementedError

    def others(self, entries: int) -> None:
        raise NotImplementedError

    @contextmanager
    def holding(self) -> Iterator[None]:
        self.change(hold="b")
        yield
        self.change(hold="")

    def lose_part(self, part: str) -> None:
        self.lose_rows(part)
        self._forget(part)

    def _forget(self, stage: str) -> None:
        self.change(known=tuple(e for e in self.server.known if e[1] != stage))

    def lose_rows(self, part: str) -> None:
        self.change(table=tuple(e for e in self.server.table if e.part != part))

    def lose_ledger(self) -> None:
        self.change(ledger=())

    def lose_view(self) -> None:
        self.change(view=())
        self._forget("view")

    def forget_log(self) -> None:
        self.rules.scope = replace(self.rules.scope, mends_log=False)

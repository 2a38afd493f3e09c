"""A whole run: consumers, Kafka and ClickHouse, and what the seed makes happen to them.

`run(seed, profile)` draws one action after another, faults among them; then the faults stop, time
passes, and everything must have landed exactly once. Each step has a seed of its own, so that a run
can be told again without some of its steps: that is how a failure is made short. A failure raises
`Failed`, which prints the seed and the schedule.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from consumer.commands import Answer, InsertAnswered, Outcome, SendInsert
from consumer.flight import Now, Phase
from consumer.ledger import ROWS_VERSION
from tests.simulation.clickhouse_model import ClickHouse, Insert, Violation
from tests.simulation.consumer_model import Consumer, Job, ended, rows_version
from tests.simulation.faults import Profile
from tests.simulation.kafka_model import Kafka
from tests.simulation.watch import Watch

_CALM_ROUNDS = 600


class Failed(AssertionError):
    """A run broke a promise. Says how to see it again."""


@dataclass(frozen=True)
class Outcomes:
    """What a run came to: what the core reported, and how often its memory was full."""

    reports: Counter[str]


def run(seed: int, profile: Profile, steps: Sequence[int] | None = None) -> Outcomes:
    """`steps`: only these of the run's steps, by their numbers."""
    world = World(seed, profile)
    try:
        world.faulty(steps)
        world.calm()
    except (Violation, AssertionError) as error:
        told = "\n".join(f"  {line}" for line in world.watch.schedule[-400:])
        raise Failed(f"{profile.name!r}, seed {seed}: {error}\nschedule:\n{told}") from error
    finally:
        rows_version(ROWS_VERSION)
    return Outcomes(world.watch.reports)


class World:
    def __init__(self, seed: int, profile: Profile) -> None:
        self._profile = profile
        self._seed = seed
        self._rng = random.Random(seed)
        self.seconds = 1000.0
        self.kafka = Kafka(profile, self._rng)
        self.clickhouse = ClickHouse(profile, 0.0)
        self.clickhouse.ledger_first = seed % 2 == 0
        self.watch = Watch(profile, self.kafka, self.clickhouse)
        self.consumers = [
            Consumer(
                n, profile.versions[n % len(profile.versions)], self.kafka, self.clickhouse,
                self.watch,
            )
            for n in range(profile.consumers)
        ]  # fmt: skip
        for consumer in self.consumers:
            consumer.start()
        self._actions, self._weights = self._table()

    def _table(self) -> tuple[list[Callable[[], None]], list[float]]:
        ordinary: dict[str, tuple[Callable[[], None], float]] = {
            "poll": (self._poll, 60.0),
            "deliver": (self._deliver, 25.0),
            "run job": (self._run_job, 40.0),
            "server step": (self._server_step, 25.0),
            "produce": (self._produce, 10.0),
            "assign": (self._assign, 15.0),
            "time passes": (self._time_passes, 14.0),
            "learn": (self._learn, 6.0),
            "session timeout": (self._session_timeout, 6.0),
            "start consumer": (self._start_consumer, 10.0),
            "start server": (self._start_server, 8.0),
        }
        faults: dict[str, Callable[[], None]] = {
            "rebalance": self._rebalance,
            "kick": self._kick,
            "crash": self._crash,
            "commit unknown": self._commit_unknown,
            "commit reply lost": self._commit_reply_lost,
            "commit try again": self._commit_try_again,
            "commit applied, try again": self._commit_applied_try_again,
            "stray commit applied": self._stray_commit,
            "insert reply lost": self._insert_reply_lost,
            "insert given up": self._insert_given_up,
            "insert throws": self._insert_throws,
            "server crash": self._server_crash,
            "server restart": self._server_restart,
            "read fails": self._read_fails,
            "stop": self._stop,
            "long pause": self._long_pause,
            "window passes": self._window_passes,
            "other inserts": self._other_inserts,
            "reset": self._reset,
            "trim": self._trim,
            "trim the unread": self._trim_unread,
            "recreate": self._recreate,
            "mend the view": self._mend_the_view,
        }
        weights = {do: self._profile.weight(name, usual) for name, (do, usual) in ordinary.items()}
        weights |= {do: self._profile.weight(name) for name, do in faults.items()}
        return list(weights), list(weights.values())

    # --- the two parts of a run --------------------------------------------------------------

    def faulty(self, steps: Sequence[int] | None) -> None:
        drawn = self._rng.choices(self._actions, self._weights, k=self._profile.steps)
        for number in range(len(drawn)) if steps is None else steps:
            self._rng.seed(self._seed * 4096 + number)
            drawn[number]()

    def calm(self) -> None:
        """No fault any more: everything must come to its end."""
        self._rng.seed(self._seed)
        self.watch.note("calm")
        self.kafka.visible = [len(log) for log in self.kafka.logs]
        for _ in range(_CALM_ROUNDS):
            self._start_server()
            for consumer in self.consumers:
                if not consumer.alive or consumer.stopping:
                    consumer.leave(heard=True)
                    consumer.start()
                    self.watch.note(f"c{consumer.number} starts")
            for member in self.kafka.members - {c.member for c in self.consumers}:
                self.kafka.remove(member)
            for consumer in self.consumers:
                self._learn_of(consumer)
            self._assign()
            self.kafka.stray.clear()
            for consumer in self.consumers:
                consumer.flush()
                for job in list(consumer.jobs):
                    if job.insert is None:
                        consumer.run_job(job, self._now())
            for insert in list(self.clickhouse.running):
                self._land(insert)
            for consumer in self.consumers:
                for job in list(consumer.jobs):
                    if job.insert is not None and not self._runs(job.insert):
                        consumer.done(job, ended(job.insert))
                self._poll_one(consumer)
            if all(self.watch.landed(n) for n in range(self._profile.partitions)):
                return
            phases = {p.phase for c in self.consumers for p in c.assignment}
            slow = phases & {Phase.WAITING, Phase.BACKING_OFF, Phase.LEAVING}
            self._advance(5.0 if slow else 0.7)
        raise Violation("it does not come to an end: " + self._state())

    def _state(self) -> str:
        phases = {
            f"c{c.number}/{p.source.partition}": p.phase.value
            for c in self.consumers
            for p in c.assignment
        }
        return f"{phases}, commits {self.kafka.commits}, owners {self.kafka.owners}"

    # --- ordinary actions --------------------------------------------------------------------

    def _now(self) -> Now:
        return Now(self.seconds, int(self.seconds * 1000), self._rng.random())

    def _advance(self, seconds: float) -> None:
        self.seconds += seconds
        for insert in self.clickhouse.overdue(self.seconds):
            self.clickhouse.end(insert)
            self.watch.note(f"server stops {insert.stamp} past max_execution_time")
            for consumer, job in self._jobs():
                if job.insert is insert:
                    consumer.done(job, InsertAnswered(Outcome.FAILED, "timeout"))

    def _alive(self) -> list[Consumer]:
        return [c for c in self.consumers if c.alive]

    def _jobs(self) -> list[tuple[Consumer, Job]]:
        return [(c, job) for c in self.consumers for job in c.jobs]

    def _poll(self) -> None:
        alive = self._alive()
        busy = [c for c in alive if c.inbox or len(c.assignment)]
        if alive:
            self._poll_one(self._rng.choice(busy or alive))

    def _poll_one(self, consumer: Consumer) -> None:
        self.watch.note(f"{self.seconds:.1f} c{consumer.number} polls")
        consumer.poll(self._now(), self._rng)
        if consumer.alive and consumer.rejoin_why is not None:
            heard = self._rng.random() >= self._profile.weight("leave lost") / 10
            self.watch.note(f"c{consumer.number} rejoins ({consumer.rejoin_why}), heard: {heard}")
            consumer.rejoin(heard=heard)
        if consumer.alive and consumer.stopping and consumer.at_rest:
            self.watch.note(f"c{consumer.number} has stopped")
            consumer.leave(heard=True)
            consumer.crash()

    def _deliver(self) -> None:
        wires = [(m, wire) for m, wire in self.kafka.wires.items() if wire]
        if not wires:
            return
        member, wire = self._rng.choice(wires)
        request = wire.popleft()
        self.watch.note(f"commit {request.offset} of member {member} arrives")
        for consumer in self._alive():
            if consumer.member == member:
                consumer.arrive(request)
                return
        self.kafka.arrive(request)

    def _run_job(self) -> None:
        jobs = [(c, job) for c, job in self._jobs() if job.insert is None]
        if jobs:
            consumer, job = self._rng.choice(jobs)
            self.watch.note(f"c{consumer.number} runs {type(job.command).__name__}")
            consumer.run_job(job, self._now())

    def _server_step(self) -> None:
        if not self.clickhouse.running:
            return
        insert = self._rng.choice(self.clickhouse.running)
        stages = len(insert.stages) if self._rng.random() < 0.5 else 1
        self.watch.note(f"server lands {insert.stages[:stages]} of {insert.stamp}")
        for _ in range(stages):
            if self.clickhouse.throws(insert):
                self.clickhouse.end(insert)
                break
            self.clickhouse.step(insert, self.seconds)
        if not self._runs(insert):
            self._answer(insert, ended(insert))

    def _runs(self, insert: Insert) -> bool:
        return insert in self.clickhouse.running

    def _land(self, insert: Insert) -> None:
        """To its end: whole, or until the view throws."""
        while self._runs(insert):
            if self.clickhouse.throws(insert):
                self.clickhouse.end(insert)
            else:
                self.clickhouse.step(insert, self.seconds)

    def _answer(self, insert: object, answer: InsertAnswered) -> None:
        for consumer, job in self._jobs():
            if job.insert is insert:
                consumer.done(job, answer)

    def _produce(self) -> None:
        number = self._rng.randrange(self._profile.partitions)
        most = len(self.kafka.logs[number])
        self.kafka.visible[number] = min(most, self.kafka.visible[number] + 2)

    def _assign(self) -> None:
        for number, owner in enumerate(self.kafka.owners):
            if owner is None and self.kafka.members:
                member = self._rng.choice(sorted(self.kafka.members))
                self.kafka.owners[number] = member
                self.watch.note(f"partition {number} to member {member}")
                for consumer in self._alive():
                    if consumer.member == member:
                        consumer.inbox.append(("assigned", number, None))

    def _time_passes(self) -> None:
        self._advance(self._rng.choice((0.3, 1.0, 1.0, 2.5, 6.0)))

    def _learn(self) -> None:
        alive = self._alive()
        if alive:
            self._learn_of(self._rng.choice(alive))

    def _learn_of(self, consumer: Consumer) -> None:
        if consumer.member not in self.kafka.members:
            self.watch.note(f"c{consumer.number} learns that it was kicked out")
            consumer.inbox.clear()
            consumer.inbox.append(("lost", 0, None))

    def _session_timeout(self) -> None:
        gone = self.kafka.members - {c.member for c in self._alive()}
        for member in gone:
            self.watch.note(f"session timeout of member {member}")
            self.kafka.remove(member)

    def _start_consumer(self) -> None:
        for consumer in self.consumers:
            if not consumer.alive:
                self.watch.note(f"c{consumer.number} starts")
                consumer.start()
                return

    def _start_server(self) -> None:
        if not self.clickhouse.up:
            self.watch.note("server starts")
            self.clickhouse.start(self.seconds)

    # --- faults ------------------------------------------------------------------------------

    def _rebalance(self) -> None:
        number = self._rng.randrange(self._profile.partitions)
        for consumer in self._alive():
            asked = number in self.kafka.revoking
            if self.kafka.owners[number] == consumer.member and not asked:
                self.kafka.revoking.add(number)
                self.watch.note(f"partition {number} is revoked from c{consumer.number}")
                consumer.inbox.append(("revoke", number, None))

    def _kick(self) -> None:
        members = sorted(self.kafka.members)
        if members:
            member = self._rng.choice(members)
            self.watch.note(f"member {member} is kicked out")
            self.kafka.remove(member)

    def _crash(self) -> None:
        alive = self._alive()
        if alive:
            consumer = self._rng.choice(alive)
            self.watch.note(f"c{consumer.number} crashes")
            consumer.crash()

    def _wired(self) -> Consumer | None:
        waiting = [c for c in self._alive() if self.kafka.wires[c.member]]
        return self._rng.choice(waiting) if waiting else None

    def _commit_unknown(self) -> None:
        consumer = self._wired()
        if consumer is not None:
            # The connection breaks: none of its requests has an outcome that anybody knows.
            wire = self.kafka.wires[consumer.member]
            self.watch.note(f"c{consumer.number} loses its connection, {len(wire)} commits unknown")
            while wire:
                request = wire.popleft()
                self.kafka.stray.append(request)
                consumer.answered(request, Answer.LOST)

    def _commit_reply_lost(self) -> None:
        consumer = self._wired()
        if consumer is not None:
            self.watch.note(f"c{consumer.number} never hears of its commit")
            self.kafka.arrive(self.kafka.wires[consumer.member].popleft())

    def _commit_try_again(self) -> None:
        consumer = self._wired()
        if consumer is not None:
            self.watch.note(f"c{consumer.number}'s commit is refused: try again")
            consumer.answered(self.kafka.wires[consumer.member].popleft(), Answer.TRY_AGAIN)

    def _commit_applied_try_again(self) -> None:
        consumer = self._wired()
        if consumer is not None:
            self.watch.note(f"c{consumer.number}'s commit is applied, and answered: try again")
            request = self.kafka.wires[consumer.member].popleft()
            self.kafka.arrive(request)
            consumer.answered(request, Answer.TRY_AGAIN)

    def _stray_commit(self) -> None:
        if self.kafka.stray:
            request = self.kafka.stray.pop(self._rng.randrange(len(self.kafka.stray)))
            applied = self.kafka.arrive(request)
            self.watch.note(f"late commit {request.offset} of {request.member}: {applied}")

    def _inserting(self) -> tuple[Consumer, Job] | None:
        running = [(c, job) for c, job in self._jobs() if job.insert is not None]
        return self._rng.choice(running) if running else None

    def _insert_reply_lost(self) -> None:
        found = self._inserting()
        if found is not None:
            consumer, job = found
            assert job.insert is not None
            self.watch.note(f"the insert {job.insert.stamp} lands, its reply is lost")
            self._land(job.insert)
            consumer.done(job, InsertAnswered(Outcome.FAILED, "no answer"))

    def _insert_given_up(self) -> None:
        found = self._inserting()
        if found is not None:
            consumer, job = found
            self.watch.note(f"c{consumer.number} gives up on its insert, the server goes on")
            consumer.done(job, InsertAnswered(Outcome.FAILED, "no answer"))

    def _insert_throws(self) -> None:
        found = self._inserting()
        if found is not None:
            consumer, job = found
            assert job.insert is not None
            self.clickhouse.end(job.insert)
            outcome = self._rng.choice((Outcome.FAILED, Outcome.REFUSED))
            self.watch.note(f"the insert {job.insert.stamp} throws: {outcome.value}")
            consumer.done(job, InsertAnswered(outcome, "thrown"))

    def _server_crash(self) -> None:
        if not self.clickhouse.up:
            return
        lies = self._rng.random() < 0.7
        self.watch.note(f"server crashes, lies: {lies}")
        running = list(self.clickhouse.running)
        self.clickhouse.crash(lies=lies)
        for insert in running:
            self._answer(insert, InsertAnswered(Outcome.FAILED, "connection reset"))

    def _server_restart(self) -> None:
        """So quick that nobody sees it away."""
        self._server_crash()
        self._advance(0.1)
        self._start_server()

    def _read_fails(self) -> None:
        reads = [(c, job) for c, job in self._jobs() if not isinstance(job.command, SendInsert)]
        if reads:
            consumer, job = self._rng.choice(reads)
            self.watch.note(f"c{consumer.number}'s read fails")
            consumer.run_job(job, self._now(), fails=True)

    def _stop(self) -> None:
        alive = self._alive()
        if alive:
            consumer = self._rng.choice(alive)
            self.watch.note(f"c{consumer.number} is told to stop")
            consumer.stop()

    def _long_pause(self) -> None:
        self.watch.note("a minute passes")
        self._advance(self._rng.choice((35.0, 61.0, 95.0)))

    def _window_passes(self) -> None:
        if self._profile.window_seconds is not None:
            self.watch.note("time passes, a part of the window")
            self._advance(self._profile.window_seconds * self._rng.choice((0.3, 0.6, 1.1)))

    def _other_inserts(self) -> None:
        self.watch.note("other partitions insert")
        self.clickhouse.other_inserts(40, self.seconds)

    def _reset(self) -> None:
        """Everyone is gone, and somebody moves the offsets. Inserts may still be running."""
        for consumer in self._alive():
            if self._rng.random() < 0.5:
                consumer.leave(heard=True)
            consumer.crash()
        for member in list(self.kafka.members):
            self.kafka.remove(member)
        number = self._rng.randrange(self._profile.partitions)
        offset, metadata = self.kafka.commits[number]
        some = self._rng.randint(self.kafka.lows[number], self.kafka.high(number))
        kind = self._rng.randrange(4)
        if kind == 0:
            moved: tuple[int | None, str | None] = (None, None)
        elif kind == 1:
            moved = (some, None)
        elif kind == 2:
            moved = (some, metadata if some != offset else None)
        else:
            moved = (some, "another tool was here")
        self.kafka.commits[number] = moved
        self.kafka.resets[number] += 1
        self.watch.note(f"offsets of {number} reset to {moved}")

    def _trim(self) -> None:
        number = self._rng.randrange(self._profile.partitions)
        landed = self.watch.landed_to(number)
        low = self._rng.randint(self.kafka.lows[number], max(self.kafka.lows[number], landed))
        if self.kafka.resets[number]:
            self.kafka.trim(number, low)
            self.watch.note(f"log of {number} trimmed to {low}")

    def _trim_unread(self) -> None:
        """Retention overtakes the consumers."""
        number = self._rng.randrange(self._profile.partitions)
        low = self._rng.randint(self.kafka.lows[number], self.kafka.high(number))
        self.watch.trimmed(number, low)
        self.kafka.trim(number, low)
        self.watch.note(f"log of {number} trimmed to {low}, read or not")

    def _recreate(self) -> None:
        if self.kafka.incarnation == 0:
            self.watch.note("the topic is deleted and made again")
            self.kafka.recreate()
            for number in range(self._profile.partitions):
                self.kafka.free(number)

    def _mend_the_view(self) -> None:
        """It takes now what it could not."""
        self.watch.note("the view is mended")
        self.clickhouse.strict = False

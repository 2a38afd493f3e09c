"""The pool of a process: what the work that a core asked for finds and does, when it is done.

Reads look at the server as it is then. An insert looks whether the server was restarted and at its
deadline, is sent, and lands stage by stage. What was asked for a partition that is given up goes on
where it can touch anything: inserts and restores. (Letters that are written late are only more
letters: nothing here hangs on them.)
"""

from __future__ import annotations

from consumer.batch import Letter
from consumer.commands import (
    CoverageRead,
    Event,
    InsertAnswered,
    Isolated,
    LettersWritten,
    Outcome,
    ReadFailed,
    Restored,
    Sifted,
    StampsRead,
    TopicRead,
)
from tests.exhaustive import server as model
from tests.exhaustive.cores import NOW, TOPIC, TOPIC_IDS
from tests.exhaustive.passing import rebuilt
from tests.exhaustive.server import Running
from tests.exhaustive.state import Isolating, Job, Sifting, World, add, remove
from tests.exhaustive.world import Rules


class Pool:
    def __init__(self, rules: Rules) -> None:
        self._rules = rules

    def answered(self, world: World, i: int, job: Job) -> World:
        """What needs one step."""
        if job.letters:
            return self.write(world, i, job, LettersWritten())
        return self._rules.answer(world, i, job, self._found(world, i, job))

    def _found(self, world: World, i: int, job: Job) -> Event:
        server, c = world.server, world.consumers[i]
        if job.topic is not None:
            return TopicRead(TOPIC_IDS[world.topic], job.topic.metadata)
        if not server.up:
            return ReadFailed("down")
        if job.sift is not None:
            return self._sifted(world, job.sift, c.version)
        if job.isolate is not None:
            return Isolated(self._isolated(world, job.isolate, c.version, c.topic))
        if job.read is None:
            assert job.insert is not None
            return StampsRead(
                model.missing(server, job.insert),
                model.rebuilt_since(server, job.insert, job.since_ms),
            )
        read, scope = job.read, self._rules.scope
        return CoverageRead(
            model.coverage(server, c.topic, read.offset, read.since_ms, scope, whole=read.whole)
        )

    def _sifted(self, world: World, sift: Sifting, version: int) -> Sifted:
        """A line that the table does not take is in no ClickHouse partition, and stays wanted."""
        landed = model.in_table(world.server)
        batch = self._rules.batches[sift.batch]
        rows = [model.row(line, version) for line in batch.lines()]
        wanted = [
            not r.part or (not landed & 1 << r.offset if sift.by_ids else r.part not in sift.landed)
            for r in rows
        ]
        missing = batch.only(wanted) if any(wanted) else None
        return Sifted(missing, frozenset(r.part for r in rows if r.part))

    def _isolated(
        self, world: World, isolating: Isolating, version: int, topic: int
    ) -> tuple[Letter, ...]:
        """What no insert can take; or else, after a refusal, the rows of it in the table that the
        view cannot."""
        batch, server = self._rules.batches[isolating.batch], world.server
        lines = [(*origin, model.row(origin[2], version)) for origin in batch.origins()]
        letters = [
            Letter(offset, line, text, "bad", "modelled")
            for offset, line, text, r in lines
            if not r.part
        ]
        if letters or not isolating.refused or isolating.epoch is None or not server.strict:
            return tuple(letters)
        least = TOPIC * topic
        landed = model.stamped(server, least + batch.first, least + batch.end, isolating.epoch)
        return tuple(
            Letter(
                offset, line, text, "view", "modelled", in_table=True, clickhouse_partition=r.part
            )
            for offset, line, text, r in lines
            if r.fault == "v" and landed & 1 << r.offset
        )

    def write(self, world: World, i: int, job: Job, answer: Event) -> World:
        """The letters are written, and answered so."""
        letters = world.letters
        for letter in job.letters:
            self._rules.promises.letter(world.server, letter)
            letters |= 1 << model.row(letter.value, 1).offset
        return self._rules.answer(world._replace(letters=letters), i, job, answer)

    def restore(self, world: World, i: int, job: Job) -> World:
        """At the moment at which it replaces: it holds new inserts, and lets those end that run."""
        assert job.restore is not None
        if not world.server.up:
            return self._rules.answer(world, i, job, ReadFailed("down"))
        task, least = job.restore, TOPIC * world.consumers[i].topic
        server = model.restore(world.server, least + task.first, least + task.end, task.partitions)
        world = rebuilt(self._rules, world._replace(server=server))
        return self._rules.answer(world, i, job, Restored())

    def send(self, world: World, i: int, job: Job) -> World:
        """It looks whether the server was restarted, and at the deadline, and is sent."""
        rules, server, insert = self._rules, world.server, job.insert
        assert insert is not None
        if not server.up:
            return rules.answer(world, i, job, InsertAnswered(Outcome.UNSENT, "down"))
        since = job.first_attempt_ms
        lies = not rules.scope.mends_log
        if not job.looked and since is not None and lies:
            if server.started_ms >= since:
                restarted = InsertAnswered(Outcome.RESTARTED, "restarted")
                return rules.answer(world, i, job, restarted)
            if world.left:  # the server can be restarted right after the look
                return add(remove(world, i, job), i, job._replace(looked=True))
        if job.deadline <= NOW:
            late = InsertAnswered(Outcome.UNSENT, "its deadline has passed")
            return rules.answer(world, i, job, late)
        if server.hold:
            return rules.answer(world, i, job, InsertAnswered(Outcome.FAILED, "held"))
        if "x" in insert.faults or "y" in insert.faults:
            untouched = "x" in insert.faults
            refused = InsertAnswered(Outcome.REFUSED, "a bad line", untouched=untouched)
            return rules.answer(world, i, job, refused)
        running = Running(insert, 0, NOW)
        world = remove(world, i, job)
        if job.mine:
            return add(world, i, Job(True, running=running))
        return self._orphan(world, running)

    def land(self, world: World, i: int, job: Job) -> World:
        running = job.running
        assert running is not None
        if model.throws(world.server, running, self._rules.scope):
            thrown = InsertAnswered(Outcome.REFUSED, "the view throws")
            return self._rules.answer(world, i, job, thrown)
        world, still = self._rules.land(world, running)
        if still is None:
            return self._rules.answer(world, i, job, InsertAnswered(Outcome.LANDED))
        return add(remove(world, i, job), i, job._replace(running=still))

    def land_orphan(self, world: World, running: Running) -> World:
        orphans = list(world.server.orphans)
        orphans.remove(running)
        world = world._replace(server=world.server._replace(orphans=tuple(orphans)))
        if model.throws(world.server, running, self._rules.scope):
            return world
        world, still = self._rules.land(world, running)
        return world if still is None else self._orphan(world, still)

    def _orphan(self, world: World, running: Running) -> World:
        orphans = tuple(sorted((*world.server.orphans, running)))
        return world._replace(server=world.server._replace(orphans=orphans))


def runs(world: World) -> bool:
    """Whether an insert runs on the server."""
    return bool(world.server.orphans) or any(
        job.running is not None for c in world.consumers for job in c.jobs
    )

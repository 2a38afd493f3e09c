"""Everything that can happen next in a searched world.

`Moves.of(world)` gives each next world with what happened, whether it was a fault, and its place in
the order in which a calm world does things. A move is as small as it can be while its order against
other moves makes a difference; what makes none is done at once:

- what a core commands is carried out with the step that commanded it;
- an answer is heard at once, for hearing it touches only the core that asked. Against an answer
  that waits only the passing of time can be told: so answers may wait while a pause is possible;
- records are read when a batch is begun, as one move that reads and closes it, of each size; one
  full batch may be read ahead, when an insert is commanded. Reading touches nothing else;
- a replay's range is read with the plan (while a pause is possible: as a move of its own);
- the group's wish and its member's hearing of it are one move;
- a member that was kicked out hears of it as soon as all it could still do without is to send
  commits, which are refused; while it can still insert, it goes on.

Timers of a backoff take no time: "later" is whenever their tick is moved. An insert's lost reply is
the case of one that is given up on before its last stage.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from consumer.commands import (
    Answer,
    CoverageRead,
    Event,
    InsertAnswered,
    Outcome,
    ReadFailed,
    Restored,
    Sifted,
    StampsRead,
)
from tests.exhaustive import server as model
from tests.exhaustive.cores import LATE_MS, NOW
from tests.exhaustive.faults import faults
from tests.exhaustive.passing import later
from tests.exhaustive.scope import JUMP
from tests.exhaustive.server import Running
from tests.exhaustive.state import Consumer, Job, Sifting, World, add, put, remove, unsent
from tests.exhaustive.world import Rules

# The order in which a calm world does what can be done: first what others wait for.
(
    STARTS, GROUP, LANDS, ARRIVES, HEARS, POOL, TICKS, ASSIGNED, READS, TIME, NEVER
) = range(11)  # fmt: skip


class Move(NamedTuple):
    what: str
    who: int | None
    detail: Any
    fault: bool
    rank: int
    world: World | None  # None: `wrong` says which promise was broken
    wrong: str = ""


class Moves:
    def __init__(self, rules: Rules) -> None:
        self._rules = rules

    def of(self, world: World) -> list[Move]:
        out = _Collected(self._rules)
        self._group(out, world)
        self._server(out, world)
        for i, c in enumerate(world.consumers):
            self._commits(out, world, i, c)
            self._core(out, world, i, c)
            self._pool(out, world, i, c)
        self._time(out, world)
        if world.left:
            for what, who, detail, make in faults(self._rules, world._replace(left=world.left - 1)):
                out.add(what, who, NEVER, make, detail=detail, fault=True)
        return out.moves

    # --- what needs no fault -----------------------------------------------------------------

    def _group(self, out: _Collected, world: World) -> None:
        rules = self._rules
        for g in set(world.ghosts):
            rest = list(world.ghosts)
            rest.remove(g)
            gone = world._replace(ghosts=tuple(rest))
            out.add("session timeout of a dead member", None, GROUP, _it, gone)
            for stray in g.strays:
                left = g._replace(strays=tuple(s for s in g.strays if s is not stray))
                after = world._replace(ghosts=tuple(sorted((*rest, left))))
                out.add("a dead member's commit is applied", None, NEVER,
                        rules.apply, after, stray, None, detail=stray.offset)  # fmt: skip
        owned = any(g.owner for g in world.ghosts) or any(c.owner for c in world.consumers)
        for i, c in enumerate(world.consumers):
            if not c.up:
                started = put(world, i, Consumer(c.version, jobs=c.jobs))
                out.add("starts", i, STARTS, _it, started)
            elif not c.member:
                out.add("learns that it was kicked out", i, GROUP, rules.leave, world, i)
            elif c.leaving:
                out.add("leaves the group, joins again", i, GROUP, rules.leave, world, i)
            elif not owned and c.core < 0:
                out.add("is assigned the partition", i, ASSIGNED, rules.assign, world, i)
            if c.core >= 0 and c.up:
                info = rules.cores.info[c.core]
                if info.stopping and info.at_rest:
                    out.add("has stopped", i, GROUP, partial(rules.leave, world, i, ends=True))

    def _server(self, out: _Collected, world: World) -> None:
        server = world.server
        if not server.up:
            up = server._replace(up=True, started_ms=LATE_MS)
            out.add("server starts", None, STARTS,
                    later, self._rules, world._replace(server=up), 0.0, 1000)  # fmt: skip
        for running in set(server.orphans):
            out.add("server lands", None, LANDS, self._land_orphan, world, running,
                    detail=_stage(running))  # fmt: skip

    def _commits(self, out: _Collected, world: World, i: int, c: Consumer) -> None:
        rules = self._rules
        if c.wire:
            request = c.wire[0]
            if request.answer is None:
                out.add("its commit arrives", i, ARRIVES, self._arrive, world, i,
                        detail=request.offset)  # fmt: skip
            elif request.answer:
                answer = Answer(request.answer)
                heard = put(world, i, c._replace(wire=c.wire[1:]))
                out.add("hears of its commit", i, HEARS,
                        rules.hear_commit, heard, i, request, answer,
                        detail=answer.value)  # fmt: skip
            elif rules.cores.info[c.core].outstanding:
                out.add("waits no longer for its commit", i, TICKS,
                        partial(rules.tick, world, i, late=True))  # fmt: skip
        for stray in c.strays:
            rest = c._replace(strays=tuple(s for s in c.strays if s is not stray))
            out.add("its late commit is applied", i, NEVER,
                    rules.apply, put(world, i, rest), stray, i, detail=stray.offset)  # fmt: skip

    def _core(self, out: _Collected, world: World, i: int, c: Consumer) -> None:
        if c.core < 0:
            return
        rules, info = self._rules, self._rules.cores.info[c.core]
        if info.timer or info.late:
            out.add("tick", i, TICKS, rules.tick, world, i, detail=info.phase.value)
        if c.leaving or info.position is None:
            return
        if info.unread is not None:
            out.add("reads a replay's records", i, READS, rules.read, world, i, info.unread)
        elif info.hungry:
            most = min(info.position + rules.scope.batch_rows, rules.scope.end)
            for end in range(most, info.position, -1):
                out.add("reads a batch", i, READS, rules.read, world, i, end,
                        detail=(info.position, end))  # fmt: skip
        elif info.ahead and any(unsent(job) and job.mine and not job.looked for job in c.jobs):
            end = info.position + rules.scope.batch_rows
            out.add("reads a batch ahead", i, NEVER, rules.read, world, i, end,
                    detail=(info.position, end))  # fmt: skip

    def _pool(self, out: _Collected, world: World, i: int, c: Consumer) -> None:
        for job in c.jobs:
            if job.answer is not None:
                out.add("hears", i, HEARS, self._rules.hear, remove(world, i, job), i, job.answer,
                        detail=job.answer)  # fmt: skip
            elif job.running is not None:
                out.add("server lands its insert's", i, LANDS, self._land, world, i, job,
                        detail=_stage(job.running))  # fmt: skip
            elif unsent(job):
                assert job.insert is not None
                what = "sends its insert" if job.mine else "sends the insert of what it gave up"
                out.add(what, i, POOL, self._send, world, i, job, detail=job.insert.token[:3])
            elif job.restore is not None:
                if not self._running(world):
                    what = "restores" if job.mine else "restores what it gave up"
                    out.add(what, i, POOL, self._restore, world, i, job, detail=job.restore)
            elif job.sift is not None:
                out.add("sifts", i, POOL, self._answered, world, i, job, detail=job.sift)
            else:
                out.add("reads stamps" if job.stamps else "reads the coverage", i, POOL,
                        self._answered, world, i, job)  # fmt: skip

    def _time(self, out: _Collected, world: World) -> None:
        info = self._rules.cores.info
        waits = any(c.member and c.core >= 0 and info[c.core].waits for c in world.consumers)
        if world.jumps or waits:
            jumps = max(0, world.jumps - 1)
            out.add("time passes", None, TIME if waits else NEVER,
                    later, self._rules, world._replace(jumps=jumps), JUMP, 0)  # fmt: skip

    # --- their parts -------------------------------------------------------------------------

    def _arrive(self, world: World, i: int) -> World:
        request = world.consumers[i].wire[0]
        world, answer = self._rules.arrive(world, i, request)
        c = world.consumers[i]
        if self._rules.may_pause(world):
            wire = (request._replace(answer=answer.value), *c.wire[1:])
            return put(world, i, c._replace(wire=wire))
        world = put(world, i, c._replace(wire=c.wire[1:]))
        return self._rules.hear_commit(world, i, request, answer)

    def _answered(self, world: World, i: int, job: Job) -> World:
        return self._rules.answer(
            world, i, job, self._found(world, job, world.consumers[i].version)
        )

    def _found(self, world: World, job: Job, version: int) -> Event:
        server = world.server
        if not server.up:
            return ReadFailed("down")
        if job.sift is not None:
            return self._sifted(world, job.sift, version)
        if job.read is None:
            assert job.insert is not None
            return StampsRead(
                model.missing(server, job.insert),
                model.rebuilt_since(server, job.insert, job.since_ms),
            )
        read = job.read
        return CoverageRead(
            model.coverage(server, read.offset, read.since_ms, self._rules.scope, whole=read.whole)
        )

    def _sifted(self, world: World, sift: Sifting, version: int) -> Sifted:
        landed = model.in_table(world.server)
        batch = self._rules.batches[sift.batch]
        parts = [model.part_of(line, version) for line in batch.lines()]
        wanted = [
            not landed & 1 << offset if sift.by_ids else part not in sift.landed
            for offset, part in parts
        ]
        missing = batch.only(wanted) if any(wanted) else None
        return Sifted(missing, frozenset(part for _, part in parts))

    def _running(self, world: World) -> bool:
        return bool(world.server.orphans) or any(
            job.running is not None for c in world.consumers for job in c.jobs
        )

    def _restore(self, world: World, i: int, job: Job) -> World:
        """At the moment at which it replaces: it holds new inserts, and lets those end that run."""
        assert job.restore is not None
        if not world.server.up:
            return self._rules.answer(world, i, job, ReadFailed("down"))
        task = job.restore
        server = model.restore(world.server, task.first, task.end, task.partitions)
        return self._rules.answer(world._replace(server=server), i, job, Restored())

    def _send(self, world: World, i: int, job: Job) -> World:
        """It looks whether the server was restarted, and at the deadline, and is sent."""
        rules, server = self._rules, world.server
        assert job.insert is not None
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
        running = Running(job.insert, 0, NOW)
        world = remove(world, i, job)
        if job.mine:
            return add(world, i, Job(True, running=running))
        return self._orphan(world, running)

    def _orphan(self, world: World, running: Running) -> World:
        orphans = tuple(sorted((*world.server.orphans, running)))
        return world._replace(server=world.server._replace(orphans=orphans))

    def _land(self, world: World, i: int, job: Job) -> World:
        assert job.running is not None
        world, running = self._rules.land(world, job.running)
        if running is None:
            return self._rules.answer(world, i, job, InsertAnswered(Outcome.LANDED))
        return add(remove(world, i, job), i, job._replace(running=running))

    def _land_orphan(self, world: World, running: Running) -> World:
        orphans = list(world.server.orphans)
        orphans.remove(running)
        world = world._replace(server=world.server._replace(orphans=tuple(orphans)))
        world, still = self._rules.land(world, running)
        return world if still is None else self._orphan(world, still)


class _Collected:
    """The moves of one world. A broken promise is a move too, with no world after it."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self.moves: list[Move] = []

    def add(
        self, what: str, who: int | None, rank: int, make: Callable[..., World], *args: Any,
        detail: Any = "", fault: bool = False,
    ) -> None:  # fmt: skip
        try:
            world = self._rules.settled(make(*args))
            self.moves.append(Move(what, who, detail, fault, rank, world))
        except AssertionError as error:
            wrong = str(error) or f"an assertion of the core: {error!r}"
            self.moves.append(Move(what, who, detail, fault, rank, None, wrong))


def _it(world: World) -> World:
    return world


def _stage(running: Running) -> tuple[Any, ...]:
    return (running.insert.stages[running.landed], *running.insert.token[:3])

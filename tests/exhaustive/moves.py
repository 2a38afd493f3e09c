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

from consumer.commands import Answer
from tests.exhaustive.faults import faults
from tests.exhaustive.passing import later, replaced, started
from tests.exhaustive.pool import Pool, runs
from tests.exhaustive.scope import JUMP
from tests.exhaustive.server import Running
from tests.exhaustive.state import Consumer, Job, World, put, remove, unsent
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
        self._pool_of = Pool(rules)

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
            less = world._replace(left=world.left - 1)
            for what, who, detail, make in faults(self._rules, self._pool_of, less):
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
        if world.high < len(rules.scope.logs[world.topic]):
            grown = world._replace(high=len(rules.scope.logs[world.topic]))
            out.add("the log grows", None, GROUP, _it, grown)
        owned = any(g.owner for g in world.ghosts) or any(c.owner for c in world.consumers)
        for i, c in enumerate(world.consumers):
            if not c.member:
                out.add("learns that it was kicked out", i, GROUP, rules.leave, world, i)
            elif c.topic != world.topic:
                out.add("learns that the topic is another", i, GROUP, rules.leave, world, i)
            elif c.leaving:
                out.add("leaves the group, joins again", i, GROUP, rules.leave, world, i)
            if c.member and not c.leaving and not owned and c.core < 0:
                out.add("is assigned the partition", i, ASSIGNED, rules.assign, world, i)
            if c.core >= 0:
                info = rules.cores.info[c.core]
                if info.stopping and info.at_rest:
                    out.add("has stopped", i, GROUP, partial(rules.leave, world, i, ends=True))

    def _server(self, out: _Collected, world: World) -> None:
        server = world.server
        if not server.up:
            out.add("server starts", None, STARTS, started, self._rules, world)
        if server.hold:
            if server.up and not runs(world):
                out.add("the rebuild replaces, and holds no longer", None, POOL,
                        replaced, self._rules, world, detail=server.hold)  # fmt: skip
            ends = world._replace(server=server._replace(hold=""))
            out.add("the rebuild dies, and its hold ends", None, NEVER, _it, ends)
        for running in set(server.orphans):
            out.add("server lands", None, LANDS, self._pool_of.land_orphan, world, running,
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
            if info.unread > world.high:
                return
            out.add("reads a replay's records", i, READS, rules.read, world, i, info.unread)
        elif info.hungry:
            most = min(info.position + rules.scope.batch_rows, world.high)
            for end in range(most, info.position, -1):
                out.add("reads a batch", i, READS, rules.read, world, i, end,
                        detail=(info.position, end))  # fmt: skip
        elif info.ahead and any(unsent(job) and job.mine and not job.looked for job in c.jobs):
            end = info.position + rules.scope.batch_rows
            if end > world.high:
                return
            out.add("reads a batch ahead", i, NEVER, rules.read, world, i, end,
                    detail=(info.position, end))  # fmt: skip

    def _pool(self, out: _Collected, world: World, i: int, c: Consumer) -> None:
        pool = self._pool_of
        for job in c.jobs:
            if job.answer is not None:
                out.add("hears", i, HEARS, self._rules.hear, remove(world, i, job), i, job.answer,
                        detail=job.answer)  # fmt: skip
            elif job.running is not None:
                out.add("server lands its insert's", i, LANDS, pool.land, world, i, job,
                        detail=_stage(job.running))  # fmt: skip
            elif unsent(job):
                assert job.insert is not None
                what = "sends its insert" if job.mine else "sends the insert of what it gave up"
                out.add(what, i, POOL, pool.send, world, i, job, detail=job.insert.token[:3])
            elif job.restore is not None:
                if not runs(world):
                    what = "restores" if job.mine else "restores what it gave up"
                    out.add(what, i, POOL, pool.restore, world, i, job, detail=job.restore)
            else:
                what, detail = _asked(job)
                out.add(what, i, POOL, pool.answered, world, i, job, detail=detail)

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


def _asked(job: Job) -> tuple[str, Any]:
    for what, detail in (
        ("sifts", job.sift),
        ("looks for bad lines", job.isolate),
        ("writes letters", [letter.offset for letter in job.letters] or None),
        ("asks for the topic's id", job.topic and job.topic.offset),
    ):
        if detail is not None:
            return what, detail
    return ("reads stamps" if job.stamps else "reads the coverage"), ""


def _it(world: World) -> World:
    return world


def _stage(running: Running) -> tuple[Any, ...]:
    return (running.insert.stages[running.landed], *running.insert.token[:3])

"""How time passes in a searched world: it is always now, and everything else moves into the past.

Two clocks: deadlines run on the cores' own, attempts grow old on the wall's. A running insert that
is past its longest time stops where it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from consumer.commands import (
    CoverageRead,
    Event,
    InsertAnswered,
    Outcome,
    ReadCoverage,
    TopicRead,
)
from tests.exhaustive import server as model
from tests.exhaustive.cores import NOW, moved_metadata, moved_ms
from tests.exhaustive.scope import DEADLINE_SECONDS, MAX_SECONDS
from tests.exhaustive.server import Running, Token
from tests.exhaustive.state import Asking, Request, World, put, unsent
from tests.exhaustive.world import Rules


def later(rules: Rules, world: World, seconds: float, ms: int) -> World:
    """Time passes: `seconds` on the clocks of the cores, `ms` on the wall's."""
    oldest = rules.scope.oldest_ms

    def aged(at: int) -> int:
        return moved_ms(at, ms, oldest)

    def named(token: Token) -> Token:
        return (*token[:5], aged(token[5]))

    def moved(running: Iterable[Running]) -> tuple[Running, ...]:
        over = NOW - MAX_SECONDS
        later = (
            r._replace(
                began_at=r.began_at - seconds,
                insert=r.insert._replace(token=named(r.insert.token)),
            )
            for r in running
        )
        return tuple(r for r in later if r.began_at > over)

    s = world.server
    server = s._replace(
        started_ms=aged(s.started_ms) if s.started_ms else 0,
        ledger=tuple(
            line._replace(
                at=aged(line.at), announced_ms=line.announced_ms and aged(line.announced_ms)
            )
            for line in s.ledger
        ),
        known=tuple(sorted((named(e[0]), e[1], aged(e[2])) for e in s.known)),
        others=tuple(aged(at) for at in s.others),
        rebuilt=tuple((part, aged(at)) for part, at in s.rebuilt),
        orphans=moved(s.orphans),
    )
    world = world._replace(
        metadata=moved_metadata(world.offset, world.metadata, ms, oldest),
        server=server,
        ghosts=tuple(g._replace(strays=_aged(g.strays, ms, oldest)) for g in world.ghosts),
    )
    for i, c in enumerate(world.consumers):
        jobs, late = [], []
        for job in c.jobs:
            if job.running is not None:
                still = moved((job.running,))
                if still:
                    jobs.append(job._replace(running=still[0]))
                else:
                    late.append(job)
                    jobs.append(job)
                continue
            read, first_ms = job.read, job.first_attempt_ms
            if read is not None and read.since_ms is not None:
                read = ReadCoverage(read.offset, aged(read.since_ms), read.whole)
            asking = job.topic
            if asking is not None:
                moved_to = moved_metadata(asking.offset, asking.metadata, ms, oldest)
                asking = asking._replace(metadata=moved_to or "")
            deadline = max(NOW, job.deadline - seconds) if unsent(job) else 0.0
            first_ms = None if first_ms is None else aged(first_ms)
            insert = job.insert and job.insert._replace(token=named(job.insert.token))
            jobs.append(
                job._replace(
                    read=read,
                    topic=asking,
                    answer=_aged_answer(job.answer, asking, aged),
                    deadline=deadline,
                    first_attempt_ms=first_ms,
                    insert=insert,
                    since_ms=aged(job.since_ms) if job.stamps else 0,
                )
            )
        p = c.prepared
        if p is not None:
            p = p._replace(sent_at=max(p.sent_at - seconds, NOW - 2 * DEADLINE_SECONDS))
        c = c._replace(
            core=c.core if c.core < 0 else rules.cores.later(c.core, seconds, ms),
            wire=_aged(c.wire, ms, oldest),
            strays=_aged(c.strays, ms, oldest),
            jobs=tuple(jobs),
            prepared=p,
        )
        world = put(world, i, c)
        for job in late:
            failed = InsertAnswered(Outcome.FAILED, "past max_execution_time")
            world = rules.answer(world, i, job, failed)
    return world


def started(rules: Rules, world: World) -> World:
    """The server comes up. What is announced from here on is later than that."""
    up = world._replace(server=model.start(world.server, rules.scope))
    return up if rules.scope.mends_log else later(rules, up, 0.0, 1000)


def replaced(rules: Rules, world: World) -> World:
    """Another's rebuild has put the view's ClickHouse partition in place, and holds no longer."""
    server = world.server
    server = model.rebuild(server, server.hold)._replace(hold="")
    return rebuilt(rules, world._replace(server=server))


def rebuilt(rules: Rules, world: World) -> World:
    """What is announced from here on is later than the rebuild, where that is looked at."""
    return later(rules, world, 0.0, 1000) if "rebuild" in rules.scope.faults else world


def _aged_answer(
    answer: Event | None, asking: Asking | None, aged: Callable[[int], int]
) -> Event | None:
    """An answer that waits to be heard: what it says of times is further in the past by now."""
    match answer:
        case CoverageRead(coverage):
            batches = tuple(
                replace(
                    c,
                    landed_ms=c.landed_ms and aged(c.landed_ms),
                    announced_ms=c.announced_ms and aged(c.announced_ms),
                )
                for c in coverage.batches
            )
            started = coverage.server_started_ms and aged(coverage.server_started_ms)
            return CoverageRead(replace(coverage, batches=batches, server_started_ms=started))
        case TopicRead(topic_id) if asking is not None:
            return TopicRead(topic_id, asking.metadata)
    return answer


def _aged(requests: tuple[Request, ...], ms: int, oldest: int) -> tuple[Request, ...]:
    return tuple(
        r._replace(metadata=moved_metadata(r.offset, r.metadata, ms, oldest) or "")
        for r in requests
    )

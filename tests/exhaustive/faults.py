"""What can go wrong next in a searched world, by the names of `scope.FAULTS`.

Each takes a world in which the fault is already paid for. What would change nothing is left out: a
kick or a crash of a consumer that owns nothing and has nothing on its way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from math import ceil
from typing import Any

from consumer.commands import Answer, InsertAnswered, Outcome, ReadFailed
from tests.exhaustive import server as model
from tests.exhaustive.cores import LATE_MS, decoded
from tests.exhaustive.passing import later, started
from tests.exhaustive.pool import Pool
from tests.exhaustive.scope import JUMP, JUMPS_PER_PAUSE
from tests.exhaustive.state import World, put
from tests.exhaustive.world import Rules

Found = tuple[str, int | None, Any, Callable[[], World]]


def faults(rules: Rules, pool: Pool, world: World) -> Iterator[Found]:
    """What, to whom, in what detail, and the world after it."""
    for fault in rules.scope.faults:
        yield from _FAULTS[fault](rules, world)
    if "letters fail" in rules.scope.faults:
        yield from _letters_fail(rules, pool, world)


def _it(world: World) -> World:
    return world


def _rebalance(rules: Rules, world: World) -> Iterator[Found]:
    for i, c in enumerate(world.consumers):
        if c.owner and c.core >= 0:
            yield "the partition is revoked", i, "", partial(rules.revoke, world, i)


def _kick(rules: Rules, world: World) -> Iterator[Found]:
    for i, c in enumerate(world.consumers):
        if c.owner:
            kicked = put(world, i, c._replace(member=False, owner=False, strays=()))
            yield "session times out, it does not know", i, "", partial(_it, kicked)


def _crash(rules: Rules, world: World) -> Iterator[Found]:
    for i, c in enumerate(world.consumers):
        if c.owner or c.core >= 0 or c.jobs:
            yield "crashes", i, "", partial(rules.crash, world, i)


def _commit_unknown(rules: Rules, world: World) -> Iterator[Found]:
    for i, c in enumerate(world.consumers):
        if c.wire and c.wire[0].answer is None:
            request = c.wire[0]
            strays = tuple(sorted((*c.strays, request))) if c.member else c.strays
            lost = put(world, i, c._replace(wire=c.wire[1:], strays=strays))
            yield (
                "loses its connection, its commit is unknown", i, request.offset,
                partial(rules.hear_commit, lost, i, request, Answer.LOST),
            )  # fmt: skip


def _commit_unanswered(rules: Rules, world: World) -> Iterator[Found]:
    for i, c in enumerate(world.consumers):
        if c.wire and c.wire[0].answer is None and c.member:

            def unanswered(i: int = i) -> World:
                after, _ = rules.arrive(world, i, world.consumers[i].wire[0])
                c = after.consumers[i]
                return put(after, i, c._replace(wire=(c.wire[0]._replace(answer=""), *c.wire[1:])))

            yield "its commit is applied, and never answered", i, c.wire[0].offset, unanswered


def _commit_refused(rules: Rules, world: World) -> Iterator[Found]:
    for i, c in enumerate(world.consumers):
        if c.wire and c.wire[0].answer is None and c.member:

            def refused(i: int = i, *, applied: bool = False) -> World:
                request, after = world.consumers[i].wire[0], world
                if applied:
                    after, _ = rules.arrive(world, i, request)
                after = put(after, i, after.consumers[i]._replace(wire=world.consumers[i].wire[1:]))
                return rules.hear_commit(after, i, request, Answer.TRY_AGAIN)

            yield "its commit is refused: try again", i, c.wire[0].offset, refused
            yield (
                "its commit is applied, and answered: try again", i, c.wire[0].offset,
                partial(refused, applied=True),
            )  # fmt: skip


def _leave_lost(rules: Rules, world: World) -> Iterator[Found]:
    for i, c in enumerate(world.consumers):
        if c.leaving and c.member:
            yield (
                "leaves, and the group does not hear it", i, "",
                partial(rules.leave, world, i, heard=False),
            )  # fmt: skip


def _insert_unanswered(rules: Rules, world: World) -> Iterator[Found]:
    for i, c in enumerate(world.consumers):
        for job in c.jobs:
            if job.running is not None:
                orphans = tuple(sorted((*world.server.orphans, job.running)))
                given_up = world._replace(server=world.server._replace(orphans=orphans))
                failed = InsertAnswered(Outcome.FAILED, "no answer")
                yield (
                    "gives up on its insert, the server goes on", i, job.running.insert.token[:3],
                    partial(rules.answer, given_up, i, job, failed),
                )  # fmt: skip


def _insert_throws(rules: Rules, world: World) -> Iterator[Found]:
    for i, c in enumerate(world.consumers):
        for job in c.jobs:
            if job.running is not None:
                for outcome in (Outcome.FAILED, Outcome.REFUSED):
                    thrown = InsertAnswered(outcome, "thrown")
                    yield (
                        "its insert throws", i, (outcome.value, *job.running.insert.token[:3]),
                        partial(rules.answer, world, i, job, thrown),
                    )  # fmt: skip


def _server_crash(rules: Rules, world: World) -> Iterator[Found]:
    if world.server.up:
        for lies in (False, True) if not rules.scope.mends_log else (False,):
            yield (
                "server crashes", None, "and its log lies" if lies else "",
                partial(_crashed, rules, world, lies=lies),
            )  # fmt: skip


def _restart(rules: Rules, world: World) -> Iterator[Found]:
    if world.server.up:
        for lies in (False, True) if not rules.scope.mends_log else (False,):

            def restarted(lies: bool = lies) -> World:
                after = _crashed(rules, world, lies=lies)
                return started(rules, after)

            yield (
                "server is restarted, nobody sees it away", None,
                "and its log lies" if lies else "", restarted,
            )  # fmt: skip


def _crashed(rules: Rules, world: World, *, lies: bool) -> World:
    jobs = [(i, j) for i, c in enumerate(world.consumers) for j in c.jobs if j.running is not None]
    running = [j.running for _, j in jobs if j.running is not None]
    server = model.crash(world.server, [*world.server.orphans, *running], rules.scope, lies=lies)
    world = world._replace(server=server)
    for i, job in jobs:
        world = rules.answer(world, i, job, InsertAnswered(Outcome.FAILED, "connection reset"))
    return world


def _read_fails(rules: Rules, world: World) -> Iterator[Found]:
    for i, c in enumerate(world.consumers):
        for job in c.jobs:
            read = job.read or job.stamps or job.sift or job.isolate
            if read or (job.restore and job.mine):
                yield (
                    "its read of the table fails", i, "",
                    partial(rules.answer, world, i, job, ReadFailed("modelled")),
                )  # fmt: skip


def _reset(rules: Rules, world: World) -> Iterator[Found]:
    """Everyone is out of the group, dead or not knowing it. Inserts may still be running."""
    if world.reset and not rules.scope.resets_again:
        return
    offset, end = world.offset, world.high
    further = min(end, (offset or 0) + 1)
    moves: list[tuple[int | None, str | None]] = [
        (None, None),
        (further, None),
        (0, "another tool was here"),
    ]
    if offset is not None and further != offset:
        moves.append((further, world.metadata))
    if rules.scope.foreign_alike:
        moves = [m for m in moves if m[0] is None or decoded(*m) is not None] or [(None, None)]
    for killed in (False, True):
        after = world._replace(ghosts=(), reset=world.left > 0)
        for i, c in enumerate(world.consumers):
            if killed:
                after = rules.crash(after, i)
            else:
                c = c._replace(member=False, owner=False, strays=(), seen=False)
                after = put(after, i, c)
        after = after._replace(ghosts=())
        for moved, metadata in moves:
            reset = after._replace(offset=moved, metadata=metadata)
            how = "all die" if killed else "all time out"
            yield f"{how}, and offsets are reset", None, (moved, metadata), partial(_it, reset)


def _trim(rules: Rules, world: World) -> Iterator[Found]:
    for low in range(world.low + 1, rules.promises.landed_to(world) + 1):
        trimmed = world._replace(low=low)
        yield "the log is trimmed", None, low, partial(_it, trimmed)


def _pause(rules: Rules, world: World) -> Iterator[Found]:
    """What is done between its beginning and its first jump could as well be done before it."""
    paused = world._replace(jumps=world.jumps + JUMPS_PER_PAUSE - 1)
    yield "nobody moves, time passes", None, "", partial(later, rules, paused, JUMP, 0)


def _window(rules: Rules, world: World) -> Iterator[Found]:
    seconds = rules.scope.window_seconds
    ms = 1000 if seconds is None else ceil(seconds * rules.scope.window_part) * 1000

    def passes() -> World:
        after = later(rules, world, 100.0, ms)
        if seconds is None:
            server = after.server
            others = tuple(sorted((*server.others, LATE_MS - ms)))
            after = after._replace(server=server._replace(others=others))
        return after

    yield "a part of the window passes", None, "", passes


def _stop(rules: Rules, world: World) -> Iterator[Found]:
    for i, c in enumerate(world.consumers):
        if c.core >= 0 and not rules.cores.info[c.core].stopping:
            stopped = put(world, i, c._replace(core=rules.cores.stop(c.core)))
            yield "is told to stop", i, "", partial(_it, stopped)


def _rebuild(rules: Rules, world: World) -> Iterator[Found]:
    """From the moment at which it holds new inserts."""
    server = world.server
    if server.up and not server.hold:
        for part in sorted({entry.part for entry in server.table}):
            held = world._replace(server=server._replace(hold=part))
            yield "somebody rebuilds the view of a partition", None, part, partial(_it, held)


def _view_mended(rules: Rules, world: World) -> Iterator[Found]:
    """At any time: also beside inserts that run, or were given up and may still be sent."""
    if world.server.strict:
        mended = world._replace(server=world.server._replace(strict=False))
        yield "the view is mended", None, "", partial(_it, mended)


def _letters_fail(rules: Rules, pool: Pool, world: World) -> Iterator[Found]:
    failed = ReadFailed("modelled")
    for i, c in enumerate(world.consumers):
        for job in c.jobs:
            if job.letters:
                refused = partial(rules.answer, world, i, job, failed)
                yield "its letters are refused", i, "", refused
                written = partial(pool.write, world, i, job, failed)
                yield "its letters are written, and not acknowledged", i, "", written


def _recreate(rules: Rules, world: World) -> Iterator[Found]:
    """The group's commits go with it, sooner or later. Its members do not notice by themselves."""
    if world.topic == 0:
        made = world._replace(topic=1, low=0, high=len(rules.scope.remade))
        empty = made._replace(high=0)
        for i, c in enumerate(made.consumers):
            if c.seen:
                empty = put(empty, i, c._replace(seen=False))
        gone = empty._replace(offset=None, metadata=None)
        for what, after in (
            ("and is empty", gone),
            ("and has grown", gone._replace(high=made.high)),
            ("and has grown, its commits are still there", made),
        ):
            yield "the topic is deleted and made again", None, what, partial(_it, after)


_FAULTS: dict[str, Callable[[Rules, World], Iterator[Found]]] = {
    "rebalance": _rebalance,
    "kick": _kick,
    "crash": _crash,
    "commit unknown": _commit_unknown,
    "commit unanswered": _commit_unanswered,
    "commit refused": _commit_refused,
    "leave lost": _leave_lost,
    "insert unanswered": _insert_unanswered,
    "insert throws": _insert_throws,
    "server crash": _server_crash,
    "restart": _restart,
    "read fails": _read_fails,
    "letters fail": lambda rules, world: iter(()),
    "view mended": _view_mended,
    "reset": _reset,
    "trim": _trim,
    "pause": _pause,
    "window": _window,
    "stop": _stop,
    "rebuild": _rebuild,
    "recreate": _recreate,
}

"""What the parts of a searched world do to one another: values in, values out.

Everything that a core commands is carried out here at once; what it is told comes back through
`hear`. How time passes is in `passing`, what must hold in `promises`.
"""

from __future__ import annotations

from collections.abc import Sequence

from consumer.batch import Batch
from consumer.commands import (
    Answer,
    Command,
    CommitAnswered,
    CommitRead,
    Event,
    Isolate,
    Isolated,
    ReadCommit,
    ReadCoverage,
    ReadStamps,
    ReadTopic,
    Rejoin,
    Report,
    Restore,
    SendCommit,
    SendInsert,
    Sift,
    TopicRead,
    WriteLetters,
)
from consumer.flight import Phase
from consumer.ledger import Intent, Mark, Open, encode, token
from consumer.recovery import Commit
from tests.exhaustive import server as model
from tests.exhaustive.cores import (
    NOW,
    NOW_MS,
    SOURCES,
    TOPIC,
    TOPIC_IDS,
    Cores,
    base,
    decoded,
    moved_metadata,
    moved_ms,
    written_now,
)
from tests.exhaustive.naming import name
from tests.exhaustive.promises import Promises
from tests.exhaustive.scope import Scope
from tests.exhaustive.server import Insert, Running, Server, Violation
from tests.exhaustive.state import (
    Asking,
    Consumer,
    Ghost,
    Isolating,
    Job,
    Prepared,
    Request,
    Sifting,
    World,
    add,
    put,
    remove,
    unsent,
    with_job,
)

# Where a core that was kicked out can do nothing but send commits. (It prepares: and is refused.)
_HARMLESS = frozenset(
    {Phase.PLANNING, Phase.WAITING, Phase.READING, Phase.CHECKING, Phase.COMMITTING,
     Phase.SIFTING, Phase.RESTORING, Phase.HALTED, Phase.LEAVING}
)  # fmt: skip


class Rules:
    """How one scope's worlds work."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.cores = Cores(scope)
        self._oldest_ms = scope.oldest_ms
        self.promises = Promises(scope)
        self._inserts: dict[tuple[str, str, int, int], Insert] = {}
        self.batches: list[Batch] = []
        self._batch_numbers: dict[tuple[int, int, str], int] = {}

    def first(self) -> World:
        versions = self.scope.versions
        consumers = tuple(
            Consumer(versions[n % len(versions)]) for n in range(self.scope.consumers)
        )
        note = encode(0, Open(0, 1, TOPIC_IDS[0], NOW_MS))
        offset, metadata = (None, None) if self.scope.fresh else (0, note)
        high = len(self.scope.log)
        return World(offset, metadata, 0, consumers, (), Server(), self.scope.together, high=high)

    def done(self, world: World) -> bool:
        """Everything is committed, and so has landed."""
        if world.offset is None or world.offset < len(self.scope.logs[world.topic]):
            return False
        note = decoded(world.offset, world.metadata)
        return isinstance(note, Open) and note.topic_id == TOPIC_IDS[world.topic]

    def settled(self, world: World) -> World:
        """With consumers that hear of their being kicked out, where nothing hangs on it any more.

        One that was kicked out can touch only ClickHouse, and only by inserts that were commanded
        before: what it plans, reads or prepares ends in a commit that is refused. Once it has none
        left, to be an idle member again allows all that it could do, and more.

        And without what was written of a topic that is gone, once nobody knows of it any more.
        """
        for i, c in enumerate(world.consumers):
            if not c.member and c.core >= 0:
                phase = self.cores.info[c.core].phase
                answers = any(r.answer is not None for r in c.wire)
                if (
                    phase in _HARMLESS
                    and not answers
                    and not any(j.mine and unsent(j) for j in c.jobs)
                ):
                    world = self.leave(world, i)
        if world.topic and not _knows_of_the_first(world):
            world = world._replace(server=model.without_the_first_topic(world.server))
        return world

    def may_pause(self, world: World) -> bool:
        return world.jumps > 0 or (world.left > 0 and "pause" in self.scope.faults)

    # --- Kafka -------------------------------------------------------------------------------

    def commit(self, world: World) -> Commit:
        return Commit(world.offset, world.metadata, world.low, world.high)

    def apply(self, world: World, request: Request, by: int | None) -> World:
        self.promises.commit(world, request.offset, request.metadata)
        consumers = tuple(
            c._replace(seen=n == by and request.latest)
            if c.seen or (n == by and request.latest)
            else c
            for n, c in enumerate(world.consumers)
        )
        return world._replace(offset=request.offset, metadata=request.metadata, consumers=consumers)

    def flush(self, world: World, i: int) -> World:
        """All that this member has sent arrives, before a request that follows it."""
        for n, request in enumerate(world.consumers[i].wire):
            if request.answer is None:
                world, answer = self.arrive(world, i, request)
                c = world.consumers[i]
                wire = (*c.wire[:n], request._replace(answer=answer.value), *c.wire[n + 1 :])
                world = put(world, i, c._replace(wire=wire))
        return world

    def arrive(self, world: World, i: int, request: Request) -> tuple[World, Answer]:
        if not world.consumers[i].member:
            return world, Answer.FENCED
        return self.apply(world, request, i), Answer.APPLIED

    # --- the core ----------------------------------------------------------------------------

    def assign(self, world: World, i: int) -> World:
        c = world.consumers[i]
        core, commands = self.cores.begin(self.commit(world), c.topic, c.version)
        world = put(world, i, c._replace(owner=True))
        return self.carry_out(world, i, core, commands)

    def hear(self, world: World, i: int, event: Event) -> World:
        c = world.consumers[i]
        core, commands = self.cores.on(c.core, event, c.version)
        return self.carry_out(world, i, core, commands)

    def hear_commit(self, world: World, i: int, request: Request, answer: Answer) -> World:
        c = world.consumers[i]
        if answer is Answer.APPLIED and request.latest and c.prepared is not None:
            world = put(world, i, c._replace(prepared=c.prepared._replace(answered=True)))
        return self.hear(world, i, CommitAnswered(request.metadata, answer, "modelled"))

    def read(self, world: World, i: int, end: int) -> World:
        c = world.consumers[i]
        position = self.cores.info[c.core].position
        assert position is not None
        if position < world.low:
            return put(world, i, c._replace(leaving=True))  # out of range
        return self.carry_out(world, i, *self.cores.read(c.core, world.topic, end, c.version))

    def tick(self, world: World, i: int, *, late: bool = False) -> World:
        c = world.consumers[i]
        return self.carry_out(world, i, *self.cores.tick(c.core, c.version, late=late))

    def carry_out(self, world: World, i: int, core: int, commands: Sequence[Command]) -> World:
        fresh = name(world, commands)
        c = world.consumers[i]._replace(core=self.cores.named(core, fresh))
        world = put(world, i, c)
        for command in commands:
            c = world.consumers[i]
            match command:
                case SendCommit(offset, metadata):
                    world = put(world, i, self._send_commit(c, offset, metadata, fresh))
                case SendInsert():
                    world = put(world, i, self._send_insert(c, command, fresh))
                case ReadCoverage(offset, since_ms, whole):
                    since_ms = since_ms and moved_ms(since_ms, 0, self._oldest_ms, fresh)
                    world = add(world, i, Job(True, read=ReadCoverage(offset, since_ms, whole)))
                case ReadStamps(batch, epoch, since_ms):
                    named = token(SOURCES[c.topic], batch, _stamp(epoch))
                    insert = self._insert(batch, named, c.version)
                    since_ms = moved_ms(since_ms, 0, self._oldest_ms, fresh)
                    job = Job(True, stamps=True, insert=insert, since_ms=since_ms)
                    world = add(world, i, job)
                case ReadTopic(asked):
                    at = offset_of(commands)
                    even = moved_metadata(at, asked, 0, self._oldest_ms, fresh) or ""
                    if "recreate" in self.scope.faults:
                        world = add(world, i, Job(True, topic=Asking(at or 0, even)))
                    else:
                        world = self.hear(world, i, TopicRead(TOPIC_IDS[c.topic], even))
                case Sift(batch, parts, by_ids):
                    sift = Sifting(self._batch(batch), parts, by_ids)
                    world = add(world, i, Job(True, sift=sift))
                case Restore():
                    world = add(world, i, Job(True, restore=command))
                case Isolate(batch, refusal, epoch) if self.scope.has_bad:
                    isolate = Isolating(self._batch(batch), bool(refusal), epoch)
                    world = add(world, i, Job(True, isolate=isolate))
                case Isolate():
                    world = self.hear(world, i, Isolated(()))
                case WriteLetters(letters):
                    world = add(world, i, Job(True, letters=letters))
                case ReadCommit():
                    world = self.flush(world, i)
                    world = self.hear(world, i, CommitRead(self.commit(world)))
                case Rejoin():
                    world = put(world, i, c._replace(leaving=True))
                case Report("halted", why, _) if c.owner and c.topic == world.topic:
                    # One that was kicked out, or of a topic that is gone, may stop over what it no
                    # longer understands: it is forgotten as soon as that consumer hears of it.
                    self.promises.halt(why)
        unread = self.cores.info[world.consumers[i].core].unread
        if unread is not None and unread <= world.high and not self.may_pause(world):
            world = self.read(world, i, unread)
        return world

    def _send_commit(self, c: Consumer, offset: int, metadata: str, fresh: int) -> Consumer:
        even = moved_metadata(offset, metadata, 0, self._oldest_ms, fresh)
        note = decoded(offset, even)
        if note is None or even is None:
            raise Violation(f"a commit without metadata of ours: {offset} {metadata!r}")
        if written_now(offset, metadata):
            c = c._replace(
                seen=False,
                wire=tuple(r._replace(latest=False) for r in c.wire),
                strays=tuple(r._replace(latest=False) for r in c.strays),
            )
        prepared = None
        if isinstance(note, Intent | Mark):
            digest = note.digest if isinstance(note, Intent) else ""
            least = base(note.topic_id)
            prepared = Prepared(least + offset, least + note.end, note.epoch, digest, NOW, False)
        return c._replace(wire=(*c.wire, Request(offset, even, True)), prepared=prepared)

    def _send_insert(self, c: Consumer, command: SendInsert, fresh: int) -> Consumer:
        insert = self._insert(command.batch, command.token, c.version, fresh)
        self.promises.insert(c, insert, command.deadline)
        first_ms = command.first_attempt_ms
        first_ms = None if first_ms is None else moved_ms(first_ms, 0, self._oldest_ms, fresh)
        job = Job(True, insert=insert, deadline=command.deadline, first_attempt_ms=first_ms)
        return c._replace(jobs=with_job(c.jobs, job))

    def _batch(self, batch: Batch) -> int:
        key = (batch.first, batch.end, batch.digest)
        if key not in self._batch_numbers:
            self._batch_numbers[key] = len(self.batches)
            self.batches.append(batch)
        return self._batch_numbers[key]

    def _insert(self, batch: Batch, named: str, version: int, fresh: int = 0) -> Insert:
        key = named, batch.digest, version, fresh
        insert = self._inserts.get(key)
        if insert is None:
            insert = self._inserts[key] = model.insert_of(batch, named, version, fresh)
        return insert

    # --- the pool ----------------------------------------------------------------------------

    def answer(self, world: World, i: int, job: Job, event: Event) -> World:
        """A job is over. Its answer is heard, where its partition is still owned."""
        world = remove(world, i, job)
        if not job.mine or world.consumers[i].core < 0:
            return world
        if self.may_pause(world):
            return add(world, i, Job(True, answer=event, topic=job.topic))
        return self.hear(world, i, event)

    def land(self, world: World, running: Running) -> tuple[World, Running | None]:
        """The next stage. None after the last one."""
        stage = running.insert.stages[running.landed]
        world = world._replace(server=model.step(world.server, running, self.scope))
        if stage == "view":
            self.promises.landed_view(world)
        landed = running.landed + 1
        if landed == len(running.insert.stages):
            return world, None
        return world, running._replace(landed=landed)

    def drop(self, world: World, i: int, *, killed: bool = False) -> World:
        """The core is forgotten. What the pool does goes on, unless the process is `killed`."""
        c = world.consumers[i]
        running = tuple(job.running for job in c.jobs if job.running is not None)
        jobs = (
            ()
            if killed
            else tuple(j._replace(mine=False) for j in c.jobs if unsent(j) or j.restore)
        )
        server = world.server
        if running:
            server = server._replace(orphans=tuple(sorted((*server.orphans, *running))))
        c = c._replace(core=-1, wire=(), seen=False, prepared=None, jobs=jobs)
        return put(world, i, c)._replace(server=server)

    # --- membership --------------------------------------------------------------------------

    def crash(self, world: World, i: int) -> World:
        c = world.consumers[i]
        world = self.haunt(world, c)
        world = self.drop(world, i, killed=True)
        return put(world, i, Consumer(c.version, world.topic))

    def haunt(self, world: World, c: Consumer) -> World:
        """A membership lives on without its process."""
        strays = (*c.strays, *(r for r in c.wire if r.answer is None))
        if not c.member or not (c.owner or strays):
            return world
        ghost = Ghost(c.owner, tuple(sorted(r._replace(latest=False) for r in strays)))
        return world._replace(ghosts=tuple(sorted((*world.ghosts, ghost))))

    def leave(self, world: World, i: int, *, heard: bool = True, ends: bool = False) -> World:
        """Out of the group, and in again as a new member, of a new process if this one `ends`."""
        world = self.flush(world, i) if heard else self.haunt(world, world.consumers[i])
        world = self.drop(world, i, killed=ends)
        c = world.consumers[i]
        return put(world, i, Consumer(c.version, world.topic, jobs=c.jobs))

    def revoke(self, world: World, i: int) -> World:
        """An unanswered commit is seen applied first, or the process ends at once."""
        c = world.consumers[i]
        if self.cores.info[c.core].outstanding:
            world = self.flush(world, i)
            if not world.consumers[i].seen:
                return self.crash(world, i)
        c = world.consumers[i]
        on_the_way = (*c.strays, *(r for r in c.wire if r.answer is None))
        world = self.drop(world, i)
        c = world.consumers[i]._replace(owner=False, strays=tuple(sorted(on_the_way)))
        return put(world, i, c)


def _knows_of_the_first(world: World) -> bool:
    """Whether anything can still be written of the topic that is gone."""
    return any(r.insert.token[0] < TOPIC for r in world.server.orphans) or any(
        c.topic == 0
        or any(j.insert is not None and j.insert.token[0] < TOPIC for j in c.jobs)
        or any(j.restore is not None and not j.mine for j in c.jobs)
        for c in world.consumers
    )


def offset_of(commands: Sequence[Command]) -> int | None:
    """Of the commit that is sent with them."""
    return next((c.offset for c in commands if isinstance(c, SendCommit)), None)


def _stamp(epoch: int) -> Mark:
    """Something announced under this epoch: stamps do not tell more."""
    return Mark(0, 1, epoch, 1, TOPIC_IDS[0], NOW_MS)

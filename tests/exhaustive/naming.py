"""Names for what is announced: two announcements are never made in the same millisecond.

A searched world's times are few, so an announcement carries a number in place of its milliseconds:
the least that tells it from all others of the same range and epoch that are known anywhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from consumer.commands import Command, SendCommit
from consumer.ledger import Intent, Mark
from tests.exhaustive.cores import announced, base, decoded
from tests.exhaustive.state import World

_Announced = tuple[int, int, int, int]  # first, end, epoch, epoch ms


def _announced(world: World) -> Iterator[_Announced]:
    """Everything announced that is still known somewhere."""
    tokens = [known[0] for known in world.server.known]
    tokens += [running.insert.token for running in world.server.orphans]
    commits: list[tuple[int | None, str | None]] = [(world.offset, world.metadata)]
    for c in world.consumers:
        commits += [(r.offset, r.metadata) for r in (*c.wire, *c.strays)]
        tokens += [job.insert.token for job in c.jobs if job.insert is not None]
        tokens += [job.running.insert.token for job in c.jobs if job.running is not None]
    for ghost in world.ghosts:
        commits += [(r.offset, r.metadata) for r in ghost.strays]
    for first, end, epoch, _, _, ms in tokens:
        yield first, end, epoch, ms
    for line in world.server.ledger:
        if line.announced_ms is not None:
            yield line.first, line.end, line.epoch, line.announced_ms
    for offset, metadata in commits:
        note = None if offset is None else decoded(offset, metadata)
        if isinstance(note, Intent | Mark):
            least = base(note.topic_id)
            yield least + note.first, least + note.end, note.epoch, note.time_ms


def name(world: World, commands: Sequence[Command]) -> int:
    """Of what these commands announce anew; 0 if they do not. (A mend's pieces: of its epoch.)"""
    for command in commands:
        if isinstance(command, SendCommit):
            note = announced(command.offset, command.metadata)
            if note is not None:
                used = {o[3] % 1000 for o in _announced(world) if _alike(note, o)}
                return next(n for n in range(990) if n not in used)
    return 0


def _alike(note: Intent | Mark, other: _Announced) -> bool:
    least = base(note.topic_id)
    same = other[:2] == (least + note.first, least + note.end) or isinstance(note, Mark)
    return same and other[2] == note.epoch

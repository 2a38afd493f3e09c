"""Breadth-first search of all worlds of a scope, and the shortest schedule to a broken promise.

Worlds are packed into numbers and visited once. For each the search keeps where it came from, and
the one move that a calm world would make next: a fixed order of moves without faults. Once all are
visited, each of them must come to its end by calm moves alone: everything landed and committed, or
stopped for a cause. So no reachable world is stuck, whatever happened before.

A schedule is told by walking the shortest way again, with consumers that keep their names.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.exhaustive.cores import decoded, moved_metadata
from tests.exhaustive.moves import NEVER, Move, Moves
from tests.exhaustive.scope import Scope
from tests.exhaustive.state import Packing, World
from tests.exhaustive.world import Rules


@dataclass
class Found:
    """What a search came to. `wrong`: the broken promise, and `schedule` the shortest way to it."""

    scope: Scope
    states: int = 0
    depth: int = 0
    cores: int = 0
    seconds: float = 0.0
    complete: bool = False
    wrong: str = ""
    schedule: list[str] = field(default_factory=list)


Progress = Callable[[int, int, int, float], None]  # states, frontier, depth, seconds


class Search:
    def __init__(self, scope: Scope) -> None:
        decoded.cache_clear()  # a test may have changed what they remember
        moved_metadata.cache_clear()
        self._scope = scope
        self._rules = Rules(scope)
        self._moves = Moves(self._rules)
        self._packing = Packing()
        self._before: dict[int, int] = {}
        self._calm: dict[int, int] = {}  # 0: at its end

    def run(
        self, seconds: float = 600.0, most: int = 5_000_000, progress: Progress | None = None
    ) -> Found:
        began = time.monotonic()
        found = Found(self._scope)
        first = self._packing.pack(self._rules.first())
        self._before[first] = 0
        frontier = [first]
        while frontier and not found.wrong:
            following: list[int] = []
            for n, packed in enumerate(frontier):
                wrong = self._visit(packed, following)
                if wrong is not None:
                    found.wrong = wrong.wrong
                    found.schedule = self._told(packed, wrong)
                    break
                if n % 500 == 0:
                    passed = time.monotonic() - began
                    if progress is not None:
                        progress(len(self._before), len(frontier) - n + len(following),
                                 found.depth, passed)  # fmt: skip
                    if passed > seconds or len(self._before) > most:
                        following.clear()
                        break
            else:
                found.depth += 1
                frontier = following
                continue
            break
        else:
            found.complete = not found.wrong
            if found.complete:
                self._all_end(found)
        found.states = len(self._before)
        found.cores = len(self._rules.cores)
        found.seconds = time.monotonic() - began
        return found

    def _visit(self, packed: int, following: list[int]) -> Move | None:
        """Take every move; the first that breaks a promise is returned."""
        world = self._packing.unpack(packed)
        before, pack = self._before, self._packing.pack
        calm, calmest = -1, NEVER
        for move in self._moves.of(world):
            if move.world is None:
                return move
            after = pack(move.world)
            if after not in before:
                before[after] = packed
                following.append(after)
            if move.rank < calmest and after != packed:
                calm, calmest = after, move.rank
        self._calm[packed] = 0 if self._rules.done(world) else calm
        return None

    def _all_end(self, found: Found) -> None:
        """Follow the calm moves of each world; what ends is not followed twice."""
        ends: set[int] = set()
        for packed in self._before:
            way: dict[int, None] = {}
            at = packed
            while at > 0 and at not in ends and at not in way:
                way[at] = None
                at = self._calm[at]
            if at == 0 or at in ends:
                ends.update(way)
                continue
            found.complete = False
            found.wrong = "it does not come to an end" + (
                ": it goes round" if at > 0 else ": nothing can happen"
            )
            found.schedule = self._told(packed, None, list(way))
            return

    # --- telling -----------------------------------------------------------------------------

    def _told(self, packed: int, last: Move | None, then: list[int] | None = None) -> list[str]:
        way = [packed]
        while self._before[way[-1]]:
            way.append(self._before[way[-1]])
        way.reverse()
        world = self._rules.first()
        lines: list[str] = []
        for to in way[1:]:
            world = self._tell(lines, world, to)
        if then is not None:
            lines.append("-- from here on without faults:")
            for to in then[1:]:
                world = self._tell(lines, world, to)
        if last is not None:
            for move in self._moves.of(world):
                if move.world is None and move.wrong == last.wrong:
                    lines.append(f"{len(lines) + 1:3} {told(move)}")
                    break
        return lines

    def _tell(self, lines: list[str], world: World, to: int) -> World:
        for move in self._moves.of(world):
            if move.world is not None and self._packing.pack(move.world) == to:
                lines.append(f"{len(lines) + 1:3} {told(move)}")
                return move.world
        raise AssertionError("a way that was found is not found again")


def told(move: Move) -> str:
    who = "" if move.who is None else f"c{move.who} "
    detail = "" if move.detail in ("", None) else f" {move.detail}"
    return f"{'FAULT ' if move.fault else ''}{who}{move.what}{detail}"

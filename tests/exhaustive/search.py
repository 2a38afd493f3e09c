"""Search of all worlds of a scope, and the shortest schedule to a broken promise.

Worlds are packed into numbers and visited once, those with fewer faults before those with more,
and of those the nearer before the farther. So a broken promise is shown with the fewest faults that
it takes; and a world that was already seen with more faults to come is not visited with less.

For each the search keeps where it came from, and the one move that a calm world would make next: a
fixed order of moves without faults. Once all are visited, each of them must come to its end by calm
moves alone: everything landed and committed. So no reachable world is stuck, whatever happened.

A schedule is told by walking the shortest way again, with consumers that keep their names.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.exhaustive.cores import decoded, moved_metadata
from tests.exhaustive.moves import NEVER, Move, Moves
from tests.exhaustive.scope import JUMPS_PER_PAUSE, Scope
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
        self._to_do: list[list[int]] = [[] for _ in range(scope.together + 1)]  # by faults left
        self._more = _budgets(scope)

    def run(
        self, seconds: float = 600.0, most: int = 5_000_000, progress: Progress | None = None
    ) -> Found:
        began = time.monotonic()
        found = Found(self._scope)
        first = self._packing.pack(self._rules.first())
        self._before[first] = 0
        self._to_do[self._scope.together] = [first]
        visited = 0
        for left in range(self._scope.together, -1, -1):
            depth = 0
            while self._to_do[left]:
                frontier, self._to_do[left] = self._to_do[left], []
                for packed in frontier:
                    wrong = self._visit(packed)
                    if wrong is not None:
                        found.wrong = wrong.wrong
                        found.schedule = self._told(packed, wrong)
                        return self._ended(found, began)
                    visited += 1
                    if visited % 500 == 0:
                        passed = time.monotonic() - began
                        if progress is not None:
                            progress(visited, len(self._before) - visited, found.depth, passed)
                        if passed > seconds or visited > most:
                            return self._ended(found, began)
                depth += 1
                found.depth = max(found.depth, depth)
        found.complete = True
        self._all_end(found)
        return self._ended(found, began)

    def _ended(self, found: Found, began: float) -> Found:
        found.states = len(self._before)
        found.cores = len(self._rules.cores)
        found.seconds = time.monotonic() - began
        return found

    def _visit(self, packed: int) -> Move | None:
        """Take every move; the first that breaks a promise is returned."""
        world = self._packing.unpack(packed)
        before, pack = self._before, self._packing.pack
        calm, calmest = -1, NEVER
        for move in self._moves.of(world):
            if move.world is None:
                return move
            after = pack(move.world)
            if after not in before:
                more = self._with_more(after)
                if more:
                    after = more
                else:
                    before[after] = packed
                    self._to_do[move.world.left].append(after)
            if move.rank < calmest and after != packed:
                calm, calmest = after, move.rank
        self._calm[packed] = 0 if self._rules.done(world) else calm
        return None

    def _as_much(self, packed: int, other: int) -> bool:
        """Whether the other is the same world with more that can still go wrong."""
        budget = packed % Packing.BUDGET
        return packed - budget == other - other % Packing.BUDGET and (
            other % Packing.BUDGET in self._more[budget]
        )

    def _with_more(self, packed: int) -> int:
        """The same world where more can still go wrong, if it was seen: all that can happen in this
        one can happen there. 0 if there is none."""
        budget = packed % Packing.BUDGET
        for other in self._more[budget]:
            if packed - budget + other in self._before:
                return packed - budget + other
        return 0

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
            if move.world is None:
                continue
            after = self._packing.pack(move.world)
            if after == to or self._as_much(after, to):
                lines.append(f"{len(lines) + 1:3} {told(move)}")
                budget = to % Packing.BUDGET
                return move.world._replace(left=budget % Packing.LEFT, jumps=budget // Packing.LEFT)
        raise AssertionError("a way that was found is not found again")


def _budgets(scope: Scope) -> dict[int, list[int]]:
    """To each number of faults and jumps that are left, those that allow all of it and more. A
    fault can always be spent on a pause, where there are pauses."""
    pauses = JUMPS_PER_PAUSE if "pause" in scope.faults else 0
    most = scope.together * pauses
    all_of = [(left, jumps) for left in range(scope.together + 1) for jumps in range(most + 1)]
    return {
        jumps * Packing.LEFT + left: [
            j * Packing.LEFT + n
            for n, j in reversed(all_of)
            if (n, j) != (left, jumps) and n >= left and j + (n - left) * pauses >= jumps
        ]
        for left, jumps in all_of
    }


def told(move: Move) -> str:
    who = "" if move.who is None else f"c{move.who} "
    detail = "" if move.detail in ("", None) else f" {move.detail}"
    return f"{'FAULT ' if move.fault else ''}{who}{move.what}{detail}"

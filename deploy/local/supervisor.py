"""Keeps the parts of the trial stack running: started in order, started again, stopped in order.

A part is a command with a question that tells when it is ready. `start` brings up one stage after
the other (the parts of a stage side by side) and gives up, in one line, when a part ends or is not
ready in time: at the start that is a mistake to be read, not a fault to be ridden out. From then on
`tend` starts whatever ended again, after a pause that doubles up to a cap and begins anew once the
part has stayed up for a while. `stop` goes through the stages backwards.

Everything happens on the thread that made the supervisor, which must be the main one: children are
tied to it (see `tether`). `interrupted` is asked in every wait.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from deploy.local.child import Child
from deploy.local.trouble import Trouble

FIRST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 10.0
STEADY_SECONDS = 30.0
_LOOK_SECONDS = 0.1


class Interrupted(Exception):
    """Somebody asked for the end while we waited."""


@dataclass(frozen=True)
class Part:
    """One process of the stack. Parts of a lower `stage` are ready before this one starts."""

    name: str
    command: Sequence[str]
    ready: Callable[[], bool]
    stage: int
    env: Mapping[str, str] | None = None
    ready_seconds: float = 60
    stop_seconds: float = 15


@dataclass
class _Tended:
    part: Part
    child: Child
    pause_seconds: float = FIRST_PAUSE_SECONDS
    started_at: float = 0.0
    start_again_at: float | None = None
    ready: bool = False
    restarts: int = 0


@dataclass(frozen=True)
class State:
    """How a part is, for whoever shows it."""

    name: str
    state: str
    restarts: int


@dataclass
class Supervisor:
    """`ended(part, exit_code)` is told of every end that nobody asked for."""

    parts: Sequence[Part]
    logs: Path
    say: Callable[[str], None]
    interrupted: Callable[[], bool]
    ended: Callable[[Part, int], None] = lambda _part, _code: None
    clock: Callable[[], float] = time.monotonic
    _tended: list[_Tended] = field(default_factory=list)

    def __post_init__(self) -> None:
        for part in self.parts:
            log = self.logs / f"{part.name}.log"
            self._tended.append(_Tended(part, Child(part.name, part.command, log, part.env)))

    def start(self, stage: int) -> None:
        """Start the parts of `stage` and wait until each is ready. Trouble when one is not."""
        ours = [tended for tended in self._tended if tended.part.stage == stage]
        for tended in ours:
            self._start(tended)
        for tended in ours:
            self._await(tended)

    def _start(self, tended: _Tended) -> None:
        tended.ready, tended.start_again_at = False, None
        tended.started_at = self.clock()
        tended.child.start()

    def _await(self, tended: _Tended) -> None:
        part, child = tended.part, tended.child
        while not part.ready():
            if self.interrupted():
                raise Interrupted
            if not child.alive:
                raise Trouble(
                    f"{part.name} ended with {child.exit_code} at its start{last_words(child)}"
                )
            if self.clock() - tended.started_at > part.ready_seconds:
                raise Trouble(
                    f"{part.name} is not ready after {part.ready_seconds:g} s{last_words(child)}"
                )
            time.sleep(_LOOK_SECONDS)
        tended.ready = True

    def tend(self) -> None:
        """One look at every part: note what ended, start what is due, keep the logs bounded."""
        now = self.clock()
        for tended in self._tended:
            if tended.start_again_at is not None:
                if now >= tended.start_again_at:
                    tended.restarts += 1
                    self._start(tended)
            elif not tended.child.alive:
                self._note_end(tended, now)
            elif not tended.ready and tended.part.ready():
                tended.ready = True
                self.say(f"{tended.part.name} is up again")
            tended.child.bound_log()

    def _note_end(self, tended: _Tended, now: float) -> None:
        if now - tended.started_at > STEADY_SECONDS:
            tended.pause_seconds = FIRST_PAUSE_SECONDS
        code = tended.child.exit_code
        tended.start_again_at = now + tended.pause_seconds
        self.say(
            f"{tended.part.name} {how_it_ended(code)} and is started again "
            f"in {tended.pause_seconds:g} s (log: {tended.child.log})"
        )
        tended.pause_seconds = min(tended.pause_seconds * 2, LONGEST_PAUSE_SECONDS)
        tended.ready = False
        self.ended(tended.part, code if code is not None else 0)

    def states(self) -> list[State]:
        return [
            State(
                tended.part.name,
                "up" if tended.ready else "starting" if tended.child.alive else "down",
                tended.restarts,
            )
            for tended in self._tended
        ]

    def stop(self, stage: int) -> None:
        """End the parts of `stage`, side by side, each within its time."""
        ours = [one for one in self._tended if one.part.stage == stage and one.child.alive]
        for tended in ours:
            tended.child.signal(signal.SIGTERM)
        for tended in ours:
            if not tended.child.stop(tended.part.stop_seconds):
                self.say(f"{tended.part.name} did not stop in time and was killed")

    def kill(self) -> None:
        for tended in self._tended:
            tended.child.kill()

    def stages(self) -> Iterable[int]:
        return sorted({part.stage for part in self.parts})


def how_it_ended(code: int | None) -> str:
    if code is not None and code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    return f"ended with {code}"


def last_words(child: Child) -> str:
    """The last line that a child wrote, as the end of a sentence."""
    lines = [line.strip() for line in child.tail(5).splitlines() if line.strip()]
    shown = f": {lines[-1][:300]}" if lines else ""
    return f"{shown} (log: {child.log})"

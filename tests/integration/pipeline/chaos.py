"""Killing the parts of a pipeline at random moments, and starting them again as supervisors do.

A plan is made from a seed before anything happens: which part dies when, and how long it stays
away. `Chaos.run` carries it out from the main thread (children are tied to the thread that starts
them) and returns when the plan is through and every part runs again.
"""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from deploy.local.child import Child
from deploy.local.waiting import wait_until
from tests.fixtures.pipeline import Pipeline

Act = Literal["kill", "join", "leave"]

_EVERY_SECONDS = 2.5
_AWAY_SECONDS = 3.0
_AIM_SECONDS = 1.0
_OFTEN = {"front": 4, "consumer-1": 2, "consumer-2": 2, "consumer-3": 2, "shim": 2}
# Where a kill is worth most: while a batch is announced, written or committed.
_AIMS = ("preparing", "inserting", "inserting", "checking", "committing")
SETTINGS: dict[str, Any] = {
    "BATCH_AGE_SECONDS": "0.3",
    "INSERTS_PER_SECOND": "20",
    "INSERT_DEADLINE_SECONDS": "8",
    "INSERT_MAX_SECONDS": "5",
    "COMMIT_TIMEOUT_SECONDS": "5",
    "SESSION_TIMEOUT_SECONDS": "3",
    "STOP_SECONDS": "15",
    "LOG_LEVEL": "debug",
}


@dataclass(frozen=True)
class Step:
    """At `at` seconds, do this to `part`, if it can be when a consumer has a partition in the phase
    `aim`; a killed one stays away for `away` seconds at least."""

    at: float
    act: Act
    part: str
    away: float = 0.0
    aim: str = ""


def plan(seed: int, seconds: float) -> list[Step]:
    """Kills all along; in the first half a third consumer joins, towards the end one leaves. The
    broker dies once, late: while it is away little else can go wrong, and it is slow to start."""
    rng = random.Random(seed)
    steps = [
        Step(
            rng.uniform(0.5, 0.8) * seconds, "kill", "kafka", rng.uniform(0, 1), rng.choice(_AIMS)
        ),
        Step(rng.uniform(0.1, 0.5) * seconds, "join", "consumer-3"),
        Step(rng.uniform(0.6, 0.9) * seconds, "leave", rng.choice(("consumer-1", "consumer-2"))),
    ]
    at = rng.expovariate(1 / _EVERY_SECONDS)
    while at < seconds:
        part = rng.choices(tuple(_OFTEN), tuple(_OFTEN.values()))[0]
        away = rng.choice((0.0, rng.uniform(0, _AWAY_SECONDS)))
        steps.append(Step(at, "kill", part, away, rng.choice(("", *_AIMS))))
        at += rng.expovariate(1 / _EVERY_SECONDS)
    return sorted(steps, key=lambda step: step.at)


class Chaos:
    """`parts`: what may be killed beside the consumers, by name."""

    def __init__(self, pipeline: Pipeline, parts: dict[str, Child]) -> None:
        self.kills: Counter[str] = Counter()
        self.exits: list[tuple[str, int | None]] = []
        self._pipeline = pipeline
        self._parts = parts | {c.child.name: c.child for c in pipeline.consumers}
        self._back_at: dict[str, float] = {}
        self._left: set[str] = set()

    def run(self, steps: list[Step]) -> None:
        began = time.monotonic()
        todo = list(steps)

        def through() -> bool:
            self._supervise()
            while todo and time.monotonic() - began >= todo[0].at:
                self._do(todo.pop(0))
            return not todo

        wait_until(through, steps[-1].at + 120, "the plan is carried out")

    def keep_running_until(self, seconds: float, what: str, done: Callable[[], bool]) -> None:
        """Supervise until `done()`."""

        def finished() -> bool:
            self._supervise()
            return done()

        wait_until(finished, seconds, what, 0.2)

    def _do(self, step: Step) -> None:
        if step.act == "join":
            consumer = self._pipeline.start_consumer(ready=False, **SETTINGS)
            self._parts[consumer.child.name] = consumer.child
            return
        child = self._parts.get(step.part)
        if child is None or not child.alive or step.part in self._left:
            return
        if step.act == "leave":
            self._left.add(step.part)
            child.signal(signal.SIGTERM)
            return
        if step.aim and self._aim(step):
            self.kills[f"{step.part} {step.aim}"] += 1
        else:
            self.kills[step.part] += 1
        child.kill()
        self._back_at[step.part] = time.monotonic() + step.away

    def _aim(self, step: Step) -> bool:
        """Wait a little for a partition in this phase: the victim's own, or anybody's."""
        everybody = self._pipeline.consumers
        aimed = [c for c in everybody if c.child.name == step.part] or everybody
        until = time.monotonic() + _AIM_SECONDS
        while time.monotonic() < until:
            if any(consumer.phases().get(step.aim) for consumer in aimed):
                return True
        return False

    def _supervise(self) -> None:
        """Start what died and has been away for long enough, as often as it takes."""
        for name, child in self._parts.items():
            if child.alive or name in self._left:
                continue
            back_at = self._back_at.get(name)
            if back_at is None:  # it ended by itself
                self.exits.append((name, child.exit_code))
                self._back_at[name] = time.monotonic() + 0.2
            elif time.monotonic() >= back_at:
                del self._back_at[name]
                child.start()

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
from dataclasses import dataclass
from typing import Literal

from deploy.local.child import Child
from deploy.local.waiting import wait_until
from tests.fixtures.pipeline import Pipeline

Act = Literal["kill", "join", "leave"]

_AWAY_SECONDS = 4.0
_SETTINGS = {
    "BATCH_AGE_SECONDS": "0.5",
    "INSERTS_PER_SECOND": "8",
    "INSERT_DEADLINE_SECONDS": "8",
    "INSERT_MAX_SECONDS": "5",
    "COMMIT_TIMEOUT_SECONDS": "5",
    "SESSION_TIMEOUT_SECONDS": "6",
    "STOP_SECONDS": "15",
    "LOG_LEVEL": "debug",
}


@dataclass(frozen=True)
class Step:
    """At `at` seconds, do this to `part`; it stays away for `away` seconds at least."""

    at: float
    act: Act
    part: str
    away: float = 0.0


def plan(seed: int, seconds: float) -> list[Step]:
    """Each part dies about once in ten seconds, the broker once in twenty; near the middle a third
    consumer joins, and later the first one leaves."""
    rng = random.Random(seed)
    steps = [
        Step(rng.uniform(0.2, 0.5) * seconds, "join", "consumer-3"),
        Step(rng.uniform(0.6, 0.9) * seconds, "leave", "consumer-1"),
    ]
    for part, every in (
        ("consumer-1", 15), ("consumer-2", 15), ("consumer-3", 15),
        ("shim", 15), ("front", 10), ("kafka", 22),
    ):  # fmt: skip
        at = rng.expovariate(1 / every)
        while at < seconds:
            steps.append(Step(at, "kill", part, rng.choice((0.0, rng.uniform(0, _AWAY_SECONDS)))))
            at += max(2.0, rng.expovariate(1 / every))
    return sorted(steps, key=lambda step: step.at)


class Chaos:
    """`parts`: what may be killed, by name. Consumers are added as they start."""

    def __init__(self, pipeline: Pipeline, parts: dict[str, Child]) -> None:
        self.kills: Counter[str] = Counter()
        self.exits: list[tuple[str, int | None]] = []
        self._pipeline = pipeline
        self._parts = parts
        self._back_at: dict[str, float] = {}
        self._left: set[str] = set()

    def start_consumer(self) -> None:
        consumer = self._pipeline.start_consumer(wait=False, **_SETTINGS)
        self._parts[consumer.child.name] = consumer.child

    def run(self, steps: list[Step]) -> None:
        began = time.monotonic()
        todo = list(steps)

        def through() -> bool:
            self._supervise()
            while todo and time.monotonic() - began >= todo[0].at:
                self._do(todo.pop(0))
            return not todo

        wait_until(through, steps[-1].at + 120, "the plan is carried out")

    def await_all_running(self, seconds: float = 60) -> None:
        def running() -> bool:
            self._supervise()
            return all(child.alive for name, child in self._parts.items() if name not in self._left)

        wait_until(running, seconds, "every part runs again")

    def keep_running_until(self, seconds: float, what: str, done: object) -> None:
        """Supervise until `done()`."""

        def finished() -> bool:
            self._supervise()
            assert callable(done)
            return bool(done())

        wait_until(finished, seconds, what, 0.2)

    def _do(self, step: Step) -> None:
        if step.act == "join":
            self.start_consumer()
            return
        child = self._parts.get(step.part)
        if child is None or not child.alive or step.part in self._left:
            return
        if step.act == "leave":
            self._left.add(step.part)
            child.signal(signal.SIGTERM)
            return
        child.kill()
        self.kills[step.part] += 1
        self._back_at[step.part] = time.monotonic() + step.away

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

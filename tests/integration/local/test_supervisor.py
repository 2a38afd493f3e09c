"""The supervisor, with small parts: what ends is started again, and what starts wrong is named."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deploy.local.supervisor import Interrupted, Part, Supervisor
from deploy.local.trouble import Trouble
from deploy.local.waiting import wait_until

STAYS = "import time; print('up', flush=True); time.sleep(600)"


class Stack:
    """Makes supervisors over parts that are Python one-liners, with a clock that can be moved."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.said: list[str] = []
        self.ended: list[tuple[str, int]] = []
        self.ahead_seconds = 0.0
        self.stop_asked = False
        self._made: list[Supervisor] = []

    def part(
        self,
        name: str,
        code: str = STAYS,
        stage: int = 1,
        ready: Callable[[], bool] | None = None,
        ready_seconds: float = 20,
    ) -> Part:
        log = self.folder / f"{name}.log"

        def has_spoken() -> bool:
            return log.is_file() and "up" in log.read_text(encoding="utf-8")

        command = [sys.executable, "-c", code]
        return Part(name, command, ready or has_spoken, stage, ready_seconds=ready_seconds)

    def supervise(self, *parts: Part) -> Supervisor:
        made = Supervisor(
            parts,
            self.folder,
            self.said.append,
            lambda: self.stop_asked,
            lambda part, code: self.ended.append((part.name, code)),
            lambda: time.monotonic() + self.ahead_seconds,
        )
        self._made.append(made)
        return made

    def close(self) -> None:
        for made in self._made:
            made.kill()


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    made = Stack(tmp_path)
    yield made
    made.close()


def states(supervisor: Supervisor) -> dict[str, tuple[str, int]]:
    return {state.name: (state.state, state.restarts) for state in supervisor.states()}


def kill(supervisor: Supervisor, name: str) -> None:
    next(one for one in supervisor._tended if one.part.name == name).child.kill()


def test_a_stage_is_started_alone_and_waited_for(stack: Stack) -> None:
    supervisor = stack.supervise(stack.part("first"), stack.part("second", stage=2))
    supervisor.start(1)
    assert states(supervisor) == {"first": ("up", 0), "second": ("down", 0)}
    supervisor.start(2)
    assert states(supervisor) == {"first": ("up", 0), "second": ("up", 0)}


def test_a_part_that_ends_at_its_start_is_named_with_its_last_words(stack: Stack) -> None:
    part = stack.part("shim", "import sys; print('first'); sys.exit('port 8080 is taken')")
    with pytest.raises(Trouble, match=r"^shim ended with 1 at its start: port 8080 is taken \(log"):
        stack.supervise(part).start(1)


def test_a_part_that_is_not_ready_in_time_is_named(stack: Stack) -> None:
    part = stack.part("front", ready=lambda: False, ready_seconds=0.3)
    with pytest.raises(Trouble, match=r"^front is not ready after 0.3 s"):
        stack.supervise(part).start(1)


def test_a_start_can_be_interrupted(stack: Stack) -> None:
    supervisor = stack.supervise(stack.part("slow", ready=lambda: False))
    stack.stop_asked = True
    with pytest.raises(Interrupted):
        supervisor.start(1)


def test_a_killed_part_is_started_again_and_the_others_stay(stack: Stack) -> None:
    supervisor = stack.supervise(stack.part("kafka"), stack.part("shim"))
    supervisor.start(1)
    kill(supervisor, "kafka")

    def is_up_again() -> bool:
        supervisor.tend()
        return states(supervisor)["kafka"] == ("up", 1)

    wait_until(is_up_again, 20, "kafka is up again")
    assert states(supervisor)["shim"] == ("up", 0)
    assert stack.ended == [("kafka", -9)]
    assert "kafka was ended by SIGKILL and is started again in 0.2 s" in stack.said[0]
    assert stack.said[-1] == "kafka is up again"


def test_the_pause_doubles_up_to_a_cap_and_begins_anew_after_a_steady_time(stack: Stack) -> None:
    supervisor = stack.supervise(stack.part("consumer", ready=lambda: True))
    supervisor.start(1)

    def pause_after_an_end() -> str:
        kill(supervisor, "consumer")
        supervisor.tend()
        said = stack.said[-1].partition(" again in ")[2].partition(" (log")[0]
        stack.ahead_seconds += 11  # past any pause
        supervisor.tend()
        return said

    pauses = [pause_after_an_end() for _ in range(8)]
    assert pauses == ["0.2 s", "0.4 s", "0.8 s", "1.6 s", "3.2 s", "6.4 s", "10 s", "10 s"]
    stack.ahead_seconds += 31
    assert pause_after_an_end() == "0.2 s"


def test_a_part_is_not_started_before_its_pause_is_over(stack: Stack) -> None:
    supervisor = stack.supervise(stack.part("consumer", ready=lambda: True))
    supervisor.start(1)
    stopped_at = time.monotonic()
    supervisor.clock = lambda: stopped_at
    kill(supervisor, "consumer")
    supervisor.tend()
    supervisor.tend()
    assert states(supervisor) == {"consumer": ("down", 0)}
    supervisor.clock = lambda: stopped_at + 0.21
    supervisor.tend()
    assert states(supervisor) == {"consumer": ("starting", 1)}


def test_stop_ends_one_stage_only(stack: Stack) -> None:
    supervisor = stack.supervise(stack.part("kafka"), stack.part("shim", stage=2))
    supervisor.start(1)
    supervisor.start(2)
    supervisor.stop(2)
    alive = {one.part.name: one.child.alive for one in supervisor._tended}
    assert alive == {"kafka": True, "shim": False}

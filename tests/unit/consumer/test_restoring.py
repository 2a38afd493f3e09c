"""A restore that is tried again: asked for once, and not for ever."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from consumer.commands import ReadFailed, Restore, Restored
from consumer.runner import Runner, _Asked

_COMMAND = Restore(0, 8, frozenset({"202601"}))


class Table:
    """Answers with what it is given, and remembers what it was asked."""

    def __init__(self, *answers: ReadFailed | Restored) -> None:
        self._answers = list(answers)
        self.asked: list[tuple[Any, ...]] = []

    def restore(self, *given: Any, last: bool) -> ReadFailed | Restored:
        self.asked.append((*given[1:], last))
        return self._answers.pop(0)


class Owned:
    source = "its source"


def test_it_is_asked_for_once_and_left_after_tries_that_were_whole_ones() -> None:
    away, spent = ReadFailed("away"), ReadFailed("time is over", spent=True)
    table = Table(away, spent, away, spent, spent, away, Restored())
    partition = Owned()
    asked = _Asked(_COMMAND, 1_000)
    runner: Any = SimpleNamespace(_table=table, _restores={"another": asked})
    answers = [Runner._restore(runner, partition, asked) for _ in range(7)]  # type: ignore[arg-type]
    assert answers[-1] == Restored()
    assert {given[:4] for given in table.asked} == {(0, 8, _COMMAND.partitions, 1_000)}
    assert [last for *_, last in table.asked] == [False] * 5 + [True] * 2

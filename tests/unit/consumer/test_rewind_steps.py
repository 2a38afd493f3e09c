"""What a rewind commits, in which order, and what it says when something stands in its way."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from clickhouse_connect.driver.exceptions import OperationalError

from consumer import rewinding
from consumer.config import consumer_settings
from consumer.ledger import Mark, Note, Open
from consumer.ports import LogError
from consumer.rewind_log import Joined
from consumer.rewind_plan import Refused, Step
from consumer.rewinding import Begun, NotRecorded, Rewind
from schemas.connection import SchemaError
from schemas.restore import Span
from schemas.settings import load
from tests.unit.consumer.test_rewind_plan import batch

_ID = "topic-id"
_SETTINGS = consumer_settings(
    load("consumer", None, {"PENSTOCK_CLICKHOUSE_URL": "http://127.0.0.1:9/penstock"})
)


class FakeLog:
    """A group's commits. `refused`: the number of the commit that is refused, or fails."""

    topic_id = _ID

    def __init__(self, refused: int = 0, error: Exception | None = None) -> None:
        self.sent: list[dict[int, tuple[int, Note]]] = []
        self._refused, self._error = refused, error or Joined()

    def commit(self, notes: Mapping[int, tuple[int, Note]]) -> None:
        self.sent.append(dict(notes))
        if len(self.sent) == self._refused:
            raise self._error

    def members(self) -> int:
        return 2


class Tables:
    """Takes note of what is done to them. `failing`: the step that fails."""

    server_settings: Mapping[str, str] = {}

    def __init__(self, log: FakeLog, monkeypatch: pytest.MonkeyPatch, failing: str = "") -> None:
        self.done: list[str] = []
        self._log, self._failing = log, failing
        monkeypatch.setattr(rewinding, "connect", lambda _: self)
        for name in ("remove", "rebuild", "forget"):
            monkeypatch.setattr(rewinding, name, getattr(self, name))

    def close(self) -> None:
        pass

    def command(self, statement: str, **_: Any) -> None:
        """Of `rewinds`, and nothing else."""
        assert statement.startswith("INSERT INTO penstock.rewinds ")
        said = [
            f"{partition} {what} [{first}, {end})"
            for partition, first, end, what in _RECORDED.findall(statement)
        ]
        self.done.append(f"record {', '.join(said)}")
        if self._failing == "record" and "skipped" in self.done[-1]:
            raise OperationalError("it is away")

    def query(self, statement: str, **_: Any) -> SimpleNamespace:
        return SimpleNamespace(result_rows=[[1_000]] if "now64" in statement else [])

    def remove(self, *given: Any, fence: Any, **_: Any) -> frozenset[str]:
        self._do(f"remove {_said(given[2])}", fence)
        return frozenset({"202610", "202611"})

    def rebuild(self, *given: Any, **_: Any) -> None:
        self._do(f"rebuild {given[2]}", lambda: None)

    def forget(self, *given: Any, fence: Any, **_: Any) -> None:
        self._do(f"forget {_said(given[2])}", fence)

    def _do(self, what: str, fence: Any) -> None:
        fence()
        if self._failing and what.startswith(self._failing):
            raise SchemaError(f"{what} failed")
        self.done.append(what)


def _said(span: Span) -> tuple[int, int, int | None]:
    return span.partition, span.first, span.end


_RECORDED = re.compile(r"\('topic-id', 'events', (\d+), (\d+), (\d+), \d+, '([a-z ]+)',")
BACK = Step(0, 90, 70, 90, 4, removed=(batch(70, 80), batch(80, 90)))
ALSO_BACK = Step(1, 20, 0, 20, 1, removed=(batch(0, 20),))
FORWARD = Step(2, 10, 30, 30, 2, skipped=(10, 30))
INTENDED = "record 0 read again [70, 90)"


def rewinding_over(log: FakeLog) -> Rewind:
    return Rewind(_SETTINGS, log, lambda _: None)  # type: ignore[arg-type]


def test_the_mark_comes_first_and_again_before_each_deletion(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log = FakeLog()
    tables = Tables(log, monkeypatch)
    rewinding_over(log).carry_out([BACK, ALSO_BACK, FORWARD])
    assert tables.done == [
        f"{INTENDED}, 1 read again [0, 20), 2 to skip [10, 30)",
        "remove (0, 70, 90)",
        "record 0 removed [70, 90)",
        "remove (1, 0, 20)",
        "record 1 removed [0, 20)",
        "rebuild 202610",
        "rebuild 202611",
        "forget (0, 70, 90)",
        "forget (1, 0, 20)",
        "record 2 skipped [10, 30)",
    ]
    assert [list(sent) for sent in log.sent] == [[0, 1], [0], [1], [0], [1], [0, 1, 2]]
    for sent in log.sent[:-1]:
        for partition, (offset, note) in sent.items():
            step = (BACK, ALSO_BACK)[partition]
            assert isinstance(note, Mark)
            assert (offset, note.first, note.end) == (step.target, step.target, step.end)
            assert note.epoch == step.epoch
    assert {
        p: (offset, note.epoch) for p, (offset, note) in log.sent[-1].items()
    } == {0: (70, 4), 1: (0, 1), 2: (30, 2)}  # fmt: skip
    assert all(isinstance(note, Open) for _, note in log.sent[-1].values())


def test_members_that_came_before_the_mark_refuse_it(monkeypatch: pytest.MonkeyPatch) -> None:
    log = FakeLog(refused=1)
    tables = Tables(log, monkeypatch)
    with pytest.raises(Refused, match="has 2 members: stop every consumer"):
        rewinding_over(log).carry_out([BACK])
    assert tables.done == [INTENDED]


@pytest.mark.parametrize("number", [2, 3, 4])
def test_members_that_came_later_end_it_at_once(
    monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    log = FakeLog(refused=number)
    tables = Tables(log, monkeypatch)
    with pytest.raises(Begun, match="a consumer has joined"):
        rewinding_over(log).carry_out([BACK])
    assert len(log.sent) == number
    after = {2: INTENDED, 3: "rebuild 202611", 4: "forget (0, 70, 90)"}
    assert tables.done[-1] == after[number]


@pytest.mark.parametrize("failing", ["remove", "rebuild", "forget"])
def test_what_fails_in_the_middle_says_that_it_was_begun(
    monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    log = FakeLog()
    Tables(log, monkeypatch, failing)
    with pytest.raises(Begun, match=f"{failing} .*failed"):
        rewinding_over(log).carry_out([BACK])
    assert not any(isinstance(note, Open) for sent in log.sent for _, note in sent.values())


def test_a_commit_that_is_not_answered_is_one_that_may_be_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log = FakeLog(refused=1, error=LogError("not answered in time"))
    Tables(log, monkeypatch)
    with pytest.raises(Begun, match="not answered"):
        rewinding_over(log).carry_out([BACK])


def test_a_fence_that_took_too_long_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    log = FakeLog()
    tables = Tables(log, monkeypatch)
    now = iter(range(0, 10_000, 31))  # the deadline is 30 s
    rewind = rewinding_over(log)
    monkeypatch.setattr(rewinding, "uptime_clock", lambda: float(next(now)))
    with pytest.raises(Begun, match="stood still"):
        rewind.carry_out([BACK])
    assert tables.done == [INTENDED]


def test_what_was_skipped_and_not_recorded_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    log = FakeLog()
    Tables(log, monkeypatch, "record")
    with pytest.raises(NotRecorded, match="it is away"):
        rewinding_over(log).carry_out([FORWARD])
    assert isinstance(log.sent[-1][2][1], Open), "it is done"

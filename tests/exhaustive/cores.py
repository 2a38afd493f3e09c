"""The real `Partition`, as a finite automaton that is discovered while it is searched.

A core is deterministic: its state, an event and the time give its next state and its commands. So
each state that is met is kept once, as a live object with a number, and each step is taken once:

    step(number, event)  ->  (next number, commands)

For that, a state is walked through, whatever its classes are, and written as a tuple. Time is taken
out on the way: it is always `NOW`, and passing of time moves every time in the state into the past,
to the point from where on it makes no difference (`_FLOORS`). What else makes states differ
without ever making a difference is evened out there too, and named: counters that only stretch
a backoff, words for people, and the milliseconds that tell two commits of the same content apart.
(Two commits are never the same: the world knows by itself which one Kafka shows.)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import fields, is_dataclass, replace
from enum import Enum
from functools import cache
from typing import Any, NamedTuple

from consumer import ledger as ledger_module
from consumer import partition as partition_module
from consumer import recovery as recovery_module
from consumer.batch import Batch, Records
from consumer.commands import Command, Event
from consumer.flight import Limits, Now, Phase
from consumer.ledger import Intent, Mark, Open, Source
from consumer.partition import Partition
from consumer.recovery import Commit
from consumer.retry import Backoff
from consumer.share import BadShare
from tests.exhaustive.memory import look_at
from tests.exhaustive.scope import (
    COMMIT_TIMEOUT_SECONDS,
    DEADLINE_SECONDS,
    GOOD,
    MAX_SECONDS,
    VIEW,
    Scope,
    line,
)

TOPIC_IDS = ("topic-id", "topic-id-2")
SOURCES = tuple(Source("cluster", "events", topic_id, 0) for topic_id in TOPIC_IDS)
TOPIC = 16  # the table's offsets of a topic made again begin here
NOW = 1000.0
NOW_MS = 1_000_000
_FRESH_MS = 998  # added to the clock while a core acts: what it writes now can be told by it
LATE_MS = NOW_MS + 999  # what a server does is after all that was announced at the same time

# How far into the past each time of a core makes a difference. Others: the longest wait there is.
_FLOORS = {
    "_quiet_at": 0.0,
    "_again_at": 0.0,
    "deadline": 0.0,
    "began_at": 0.0,
    "first_at": COMMIT_TIMEOUT_SECONDS,
    "_planned_at": DEADLINE_SECONDS + 1,
}
_FLOOR = 2 * (DEADLINE_SECONDS + MAX_SECONDS)
# They stretch a backoff, which takes no time here, or are words for people.
_EVENED = {"_failures": 0, "attempts": 0, "halted_why": "", "read_so_far": (0, 0), "why": ""}
_KEPT = (Limits, Source, Batch, Enum, range, bytes, bool, type(None))


class Info(NamedTuple):
    """What the world asks of a core. `unread`: up to where a replay's range, or a piece of a
    mend, is to be read."""

    phase: Phase
    outstanding: bool
    late: bool  # the unanswered commit was sent before the last jump
    timer: bool  # a tick now makes it go on
    waits: bool
    position: int | None
    unread: int | None
    hungry: bool  # would begin a new batch, if there is something to read
    ahead: bool  # would read a batch ahead of the one in flight, if there is one
    at_rest: bool
    stopping: bool


class Cores:
    """All states of a core that were met in one search."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self._oldest_ms = scope.oldest_ms
        self._limits = Limits(
            batch_rows=scope.batch_rows,
            batch_bytes=10**6,
            insert_deadline_seconds=DEADLINE_SECONDS,
            insert_max_seconds=MAX_SECONDS,
            commit_timeout_seconds=COMMIT_TIMEOUT_SECONDS,
            retry=Backoff(0.0, 0.0),
            refusal=Backoff(0.0, 0.0),
        )
        self._values = [
            [_record(topic * TOPIC + offset, kind) for offset, kind in enumerate(log)]
            for topic, log in enumerate(scope.logs)
        ]
        shortest = min(len(value) for log in self._values for value in log if value)
        self._buffer_bytes = 2 * scope.batch_rows * shortest  # of the limit on memory
        self._raw: list[Partition] = []  # after a step, with what it wrote not named yet
        self._named: dict[tuple[int, int], int] = {}
        self._numbers: dict[object, int] = {}
        self._objects: list[Partition] = []
        self.info: list[Info] = []
        self._steps: dict[tuple[Any, ...], tuple[int, tuple[Command, ...]]] = {}

    def __len__(self) -> int:
        return len(self._objects)

    # --- steps -------------------------------------------------------------------------------

    def begin(self, commit: Commit, topic: int, version: int) -> tuple[int, tuple[Command, ...]]:
        """`topic`: the one that the consumer knows of."""
        return self._step(
            (-1 - topic, "begin", commit, version), lambda c, now: c.begin(commit, now)
        )

    def on(self, number: int, event: Event, version: int) -> tuple[int, tuple[Command, ...]]:
        return self._step((number, "on", event, version), lambda c, now: c.on(event, now))

    def read(
        self, number: int, topic: int, end: int, version: int
    ) -> tuple[int, tuple[Command, ...]]:
        """Records of what is the topic now, up to `end`; what is then read and not closed is old
        enough to be closed."""

        def act(core: Partition, now: Now) -> list[Command]:
            first = core.position
            assert first is not None
            values = self._values[topic][first:end]
            commands = core.records(Records(range(first, end), values, end, 0), now)
            if core.phase is Phase.READING and core.filling:
                commands += core.tick(now, 0.0)
            return commands

        return self._step((number, "read", topic, end, version), act)

    def tick(
        self, number: int, version: int, *, late: bool = False
    ) -> tuple[int, tuple[Command, ...]]:
        """`late`: after the time in which a commit should have been answered."""

        def act(core: Partition, now: Now) -> list[Command]:
            if late:
                now = replace(now, seconds=now.seconds + COMMIT_TIMEOUT_SECONDS)
            return core.tick(now, 0.0)

        return self._step((number, "tick", late, version), act)

    def stop(self, number: int) -> int:
        def act(core: Partition, _: Now) -> list[Command]:
            core.stop()
            return []

        return self.named(self._step((number, "stop"), act)[0], 0)

    def later(self, number: int, seconds: float, ms: int) -> int:
        """The same core after time has passed: `seconds` on its clock, `ms` on the wall's."""
        key = (number, "later", seconds, ms)
        if key not in self._steps:
            moved = self._moved(self._objects[number], _Shift(seconds, ms, self._oldest_ms, 0))
            self._steps[key] = self._number(moved), ()
        return self._steps[key][0]

    def named(self, raw: int, fresh: int) -> int:
        """The core after a step, when it is known which number an announcement of its has."""
        key = raw, fresh
        if key not in self._named:
            self._named[key] = self._number(self._copy(self._raw[raw], fresh))
        return self._named[key]

    def _copy(self, core: Partition, fresh: int = 0) -> Partition:
        return self._moved(core, _Shift(0, 0, self._oldest_ms, fresh))

    def _moved(self, core: Partition, by: _Shift) -> Partition:
        copy: Partition = _rewritten(core, by)
        state = vars(copy)
        if copy.phase is not Phase.PLANNING:
            state["_commit"] = None  # only a plan looks at it, and after a wait at another
        if not state["_replays"] and all(replay is None for _, replay in state["_ready"]):
            state["_planned_at"] = NOW  # it says how old a replay's plan is
        return copy

    def _step(
        self,
        key: tuple[Any, ...],
        act: Callable[[Partition, Now], list[Command]],
    ) -> tuple[int, tuple[Command, ...]]:
        known = self._steps.get(key)
        if known is not None:
            return known
        rows_version(key[-1] if isinstance(key[-1], int) else 1)
        now = Now(NOW, NOW_MS + _FRESH_MS)
        if key[0] < 0:
            core = Partition(SOURCES[-1 - key[0]], self._limits, now)
        else:
            core = self._copy(self._objects[key[0]])
        commands = tuple(act(core, now))
        self._raw.append(core)
        self._steps[key] = len(self._raw) - 1, commands
        return self._steps[key]

    def _number(self, core: Partition) -> int:
        frozen = _frozen(core)
        number = self._numbers.get(frozen)
        if number is None:
            info = self._info(core)
            reads = info.hungry or info.ahead or info.unread is not None
            look_at(core, self._buffer_bytes, reads=reads)
            number = self._numbers[frozen] = len(self._objects)
            self._objects.append(core)
            self.info.append(info)
        return number

    def _info(self, core: Partition) -> Info:
        state = vars(core)
        sent, again, filling = state["_sent"], state["_again_at"], state["_filling"]
        outstanding = core.outstanding is not None
        replays, ready, mending = state["_replays"], state["_ready"], state["_mending"]
        position = core.position
        idle = filling is not None and filling.empty and not replays and not ready
        unread = replays[-1].end if replays else None
        if mending is not None:
            idle, piece = False, mending.segment
            if piece is not None and position is not None:
                unread = min(piece.end, position + self._scope.batch_rows)
        stopping = state["_stopping"]
        return Info(
            phase=core.phase,
            outstanding=outstanding,
            late=outstanding and sent.first_at <= NOW - COMMIT_TIMEOUT_SECONDS,
            timer=not outstanding
            and (
                again is not None
                or (core.phase is Phase.WAITING and state["_quiet_at"] <= NOW)
                # its prepare is answered, and the topic's id was not heard in time
                or (core.phase is Phase.PREPARING and state["_flight"].deadline <= NOW)
                # read ahead and not full, for a tombstone is no row: it is closed by its age
                or (core.phase is Phase.READING and core.filling and mending is None and not ready)
            ),
            waits=core.phase is Phase.WAITING and state["_quiet_at"] > NOW,
            position=position,
            unread=None if stopping else unread,
            hungry=core.phase is Phase.READING and idle and not stopping,
            ahead=core.phase is Phase.INSERTING and idle and not stopping,
            at_rest=core.at_rest,
            stopping=stopping,
        )


def base(topic_id: str) -> int:
    """What the table's offsets of this topic begin with."""
    return TOPIC * TOPIC_IDS.index(topic_id)


def _record(offset: int, kind: str) -> bytes | None:
    """The table's offset, the ClickHouse partition, what is wrong."""
    if kind == ".":
        return None
    if kind in GOOD:
        return line(f"{offset}/{kind}/")
    if kind in VIEW:
        return line(f"{offset}/{GOOD[VIEW.index(kind)]}/v")
    return line(f"{offset}//{kind}") + (b"\xff" if kind == "u" else b"")


def rows_version(version: int) -> None:
    """The version is a constant of a build: here several builds share one process."""
    for module in (partition_module, recovery_module):
        vars(module)["ROWS_VERSION"] = version


# --- time in texts ----------------------------------------------------------------------------


def moved_ms(ms: int, by: int, oldest: int, fresh: int = 0) -> int:
    """A wall time after `by` ms, not older than matters. The last three digits are no time but a
    name: they tell apart what was announced twice. `fresh`: that of what was written now."""
    name = ms % 1000
    return max(ms - name - by, NOW_MS - oldest) + (fresh if name == _FRESH_MS else name)


@cache
def moved_metadata(
    offset: int | None, metadata: str | None, by: int, oldest: int, fresh: int = 0
) -> str | None:
    """A commit's metadata after `by` ms have passed. What is not ours stays as it is."""
    if offset is None or metadata is None:
        return metadata
    note: Any = ledger_module.decode(offset, metadata)
    if note is None:
        return metadata
    times = {
        f.name: NOW_MS
        if f.name == "sent_ms" or isinstance(note, Open)
        else moved_ms(getattr(note, f.name), by, oldest, fresh)
        for f in fields(note)
        if f.name.endswith("_ms")
    }
    return ledger_module.encode(offset, replace(note, **times))


@cache
def decoded(offset: int, metadata: str | None) -> Any:
    return ledger_module.decode(offset, metadata)


def announced(offset: int, metadata: str) -> Intent | Mark | None:
    """What a core announces in a commit that it made in its last step, if it never did before."""
    note = decoded(offset, metadata)
    new = isinstance(note, Intent | Mark) and note.time_ms % 1000 == _FRESH_MS
    return note if new else None


def written_now(offset: int, metadata: str) -> bool:
    """Whether a core made this commit in its last step, and does not send an earlier one again."""
    note: Any = ledger_module.decode(offset, metadata)
    return note is None or any(
        getattr(note, f.name) % 1000 == _FRESH_MS for f in fields(note) if f.name.endswith("_ms")
    )


# --- walking through a state ------------------------------------------------------------------


class _Shift(NamedTuple):
    seconds: float
    ms: int
    oldest_ms: int
    fresh: int


def _rewritten(value: Any, by: _Shift, name: str = "") -> Any:
    """A copy of any part of a core with its times moved, and evened out."""
    if name in _EVENED:
        return _EVENED[name]
    if name == "_doubt":
        return "in doubt" if value else ""
    if name == "sent_ms":
        return NOW_MS
    if isinstance(value, BadShare):
        return BadShare(1.0, 1)  # no row is bad here
    if isinstance(value, _KEPT):
        return value
    if isinstance(value, float):
        return max(value - by.seconds, NOW - _FLOORS.get(name, _FLOOR))
    if isinstance(value, int):
        timed = name.endswith("_ms") and not name.endswith("append_ms")
        return moved_ms(value, by.ms, by.oldest_ms, by.fresh) if timed else value
    if isinstance(value, str):
        return value
    if isinstance(value, deque | list | tuple | set | frozenset):
        return type(value)(_rewritten(v, by, name) for v in value)
    if isinstance(value, dict):
        return {k: _rewritten(v, by, str(k)) for k, v in value.items()}
    if hasattr(value, "hexdigest"):
        return value.copy()
    copy = object.__new__(type(value))
    state = {k: _rewritten(v, by, k) for k, v in _members(value)}
    if "metadata" in state and "offset" in state:
        state["metadata"] = moved_metadata(
            state["offset"], state["metadata"], by.ms, by.oldest_ms, by.fresh
        )
    for key, member in state.items():
        object.__setattr__(copy, key, member)
    return copy


def _frozen(value: Any) -> Any:
    """What tells two states apart, as something that can be hashed."""
    if isinstance(value, deque | list | tuple):
        return tuple(_frozen(v) for v in value)
    if isinstance(value, set | frozenset):
        return frozenset(value)
    if isinstance(value, dict):
        return tuple((k, _frozen(v)) for k, v in sorted(value.items()))
    if hasattr(value, "hexdigest"):
        return value.hexdigest()
    if isinstance(value, Batch):
        return value.first, value.end, value.rows, value.digest
    if isinstance(value, (*_KEPT, float, int, str)):
        return value
    return type(value).__name__, tuple((k, _frozen(v)) for k, v in _members(value))


def _members(value: Any) -> Iterable[tuple[str, Any]]:
    if is_dataclass(value):
        return [(f.name, getattr(value, f.name)) for f in fields(value)]
    return list(vars(value).items())

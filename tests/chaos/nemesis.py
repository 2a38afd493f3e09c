"""Carries a plan out, and keeps the programs running as supervisors do.

It works from the main thread, since children are tied to the thread that starts them, in rounds of
a few hundredths of a second: what is due of the plan, what is due to be undone, who froze himself
at a cut point, who died and is to be started again.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from deploy.local.child import Child
from tests.chaos.cuts import POINTS, Cuts
from tests.chaos.plan import ANSWERS, THROWS, Fault
from tests.chaos.proxy import HttpLink, Link, Tamper
from tests.chaos.statements import Statements
from tests.fixtures.pipeline import Consumer, Pipeline

_STOPPED_FOR_OFFSETS_SECONDS = 20.0
_STILL_SECONDS = 6.0
_TERM_SECONDS = 10.0  # one that is told to end is killed after
_ALONE_SECONDS = 10.0  # of a consumer that is left alone: when it is struck, nobody goes on


@dataclass
class Slot:
    """A place for one consumer, with links of its own to Kafka and to ClickHouse."""

    number: int
    consumer: Consumer
    links: dict[str, Link]
    wanted: bool

    @property
    def child(self) -> Child:
        return self.consumer.child


class Nemesis:
    """`servers`: front, kafka and shim by name. `poison` produces so many records that are bad."""

    def __init__(
        self,
        pipeline: Pipeline,
        slots: list[Slot],
        servers: dict[str, Child],
        cuts: Cuts,
        poison: Callable[[int, float], None],
    ) -> None:
        self.happened: Counter[str] = Counter()
        self.struck: Counter[str] = Counter()
        self.exits: Counter[str] = Counter()
        self._pipeline = pipeline
        self._slots = {f"consumer-{slot.number}": slot for slot in slots}
        self._servers = servers
        self._cuts = cuts
        self._poison = poison
        self._back_at: dict[str, float] = {}
        self._undo: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._hits_seen = 0
        self._all_stopped_until = 0.0
        self._group_is_empty: Callable[[], None] | None = None
        self._statements = Statements(pipeline.clickhouse.url)

    @property
    def trouble(self) -> list[str]:
        """What could not be undone."""
        return self._statements.trouble

    @property
    def undone(self) -> bool:
        """Whether everything that it did has been taken back."""
        return self._statements.over and self._group_is_empty is None

    # --- rounds ----------------------------------------------------------------------------------

    def run(self, faults: list[Fault], seconds: float, progress: Callable[[float], None]) -> None:
        """Returns after `seconds`, with everything healed and running again, or starting.

        The plan's clock stands still while nothing lands: else, on a busy machine, faults would
        only meet what lies on the ground.
        """
        began = before = moved_at = time.monotonic()
        at, landed = 0.0, -1
        todo = list(reversed(faults))
        while (now := time.monotonic()) - began < seconds:
            if (moved := self._landed()) != landed:
                landed, moved_at = moved, now
            if now - moved_at < _STILL_SECONDS:
                at += now - before
            before = now
            while todo and at >= todo[-1].at:
                self._do(todo.pop())
            self.round()
            progress(now - began)
            time.sleep(0.03)
        self.heal()

    def _landed(self) -> int:
        passed = self._cuts.passed()
        return passed["commit: answered"] + passed["commit and prepare: answered"]

    def round(self) -> None:
        now = time.monotonic()
        while self._undo and self._undo[0][0] <= now:
            heapq.heappop(self._undo)[2]()
        for hit in self._cuts.hits()[self._hits_seen :]:
            self._hits_seen += 1
            self._note_hit(hit)
        if self._group_is_empty is not None:
            self._group_is_empty()
        else:
            self._supervise()

    def heal(self) -> None:
        """Undo everything that would be undone later."""
        self._cuts.disarm()
        while self._undo:
            heapq.heappop(self._undo)[2]()
        for slot in self._slots.values():
            for link in slot.links.values():
                link.heal()
            slot.child.signal(signal.SIGCONT)
        for hit in self._cuts.hits()[self._hits_seen :]:
            self._hits_seen += 1
            self._note_hit(hit, at_once=True)
        self._back_at.clear()
        for name in ("consumer-1", "consumer-2"):
            self._slots[name].wanted = True

    def _later(self, seconds: float, work: Callable[[], None]) -> None:
        heapq.heappush(self._undo, (time.monotonic() + seconds, next(self._order), work))

    def _note_hit(self, hit: dict[str, Any], *, at_once: bool = False) -> None:
        self.struck[str(hit["point"])] += 1
        self.happened[f"{hit['act']} at a cut point"] += 1
        if hit["act"] == "freeze":
            pid = int(hit["pid"])
            thaw = 0.0 if at_once else float(hit["seconds"])
            self._later(thaw, partial(_thaw, pid))
            if at_once:
                _thaw(pid)

    def _supervise(self) -> None:
        """Start what died and has been away for long enough, as often as it takes."""
        parts = dict(self._servers)
        parts |= {name: slot.child for name, slot in self._slots.items() if slot.wanted}
        for name, child in parts.items():
            if child.alive:
                continue
            back_at = self._back_at.get(name)
            if back_at is None:  # it ended by itself, or struck at a cut point
                if child.exit_code not in (None, -signal.SIGKILL):
                    self.exits[f"{name}: {child.exit_code}"] += 1
                self._back_at[name] = time.monotonic() + 0.1
            elif time.monotonic() >= back_at:
                del self._back_at[name]
                child.start()

    def _due(self, planned: str) -> str:
        """The planned cut point, or, where that has struck before, one that has not: some are
        passed so seldom that a plan of any length would miss them."""
        if not self.struck[planned]:
            return planned
        missed = [point for point in POINTS if not self.struck[point]]
        armed = self._cuts.armed()
        return next((point for point in missed if point not in armed), planned)

    # --- faults ----------------------------------------------------------------------------------

    def _do(self, fault: Fault) -> None:
        """Where what it is meant for is not there, nothing happens and nothing is counted."""
        details = fault.details
        if fault.kind == "cut":
            seconds = details.get("seconds", 0.0)
            point = self._due(fault.target)
            self._cuts.arm(point, details["act"], details["passings"], seconds=seconds)
            return
        if " to " in fault.target:
            name, server = fault.target.split(" to ")
            slot = self._alive(name)
            if slot is not None:
                self._count(fault, server)
                self._to_link(fault, slot.links[server])
            return
        match fault.kind:
            case "kill" | "term" | "freeze":
                self._to_program(fault)
            case "join":
                self._slots[fault.target].wanted = True
                self._count(fault)
            case "leave":
                slot = self._slots[fault.target]
                left = sum(s.wanted for s in self._slots.values() if s is not slot)
                if slot.child.alive and slot.wanted and left:
                    self._count(fault, f"{left} left")
                    slot.wanted = False
                    slot.child.signal(signal.SIGTERM)
                    if left == 1:
                        self._later(_ALONE_SECONDS, partial(setattr, slot, "wanted", True))
            case "throwing view":
                self._count(fault)
                self._throwing_view(details["mark"], details["seconds"])
            case "offsets":
                self._count(fault, details["to"])
                self._stop_all_for_offsets(details["to"])
            case "poison":
                self._count(fault)
                self._poison(details["records"], details["seed"])
            case "version":
                self._count(fault)
                self._other_version(self._slots[fault.target])
            case other:
                raise ValueError(other)

    def _alive(self, name: str) -> Slot | None:
        """This consumer, or the next one that is there."""
        names = list(self._slots)
        at = names.index(name)
        for other in (*names[at:], *names[:at]):
            if self._slots[other].child.alive:
                return self._slots[other]
        return None

    def _count(self, fault: Fault, more: str = "") -> None:
        name = fault.kind
        if "error" in fault.details:
            name += f": {fault.details['error']}"
        if fault.kind in ("kill", "term", "freeze"):
            name += f" {fault.target.split('-')[0]}"
        self.happened[f"{name} ({more})" if more else name] += 1

    def _to_program(self, fault: Fault) -> None:
        name = fault.target
        if name in self._slots:
            slot = self._alive(name)
            if slot is None:
                return
            name, child = f"consumer-{slot.number}", slot.child
        else:
            child = self._servers[name]
        if not child.alive:
            return
        self._count(fault)
        if fault.kind == "freeze":
            pids = [child.pid, *_children(child.pid)]
            for pid in pids:
                _signal(pid, signal.SIGSTOP)
            for pid in pids:
                self._later(fault.details["seconds"], partial(_thaw, pid))
            return
        if fault.kind == "kill":
            child.kill()
        else:
            child.signal(signal.SIGTERM)
            pid = child.pid
            self._later(_TERM_SECONDS, lambda: child.kill() if child.pid == pid else None)
        self._back_at[name] = time.monotonic() + fault.details["away"]

    def _to_link(self, fault: Fault, link: Link) -> None:
        details = fault.details
        match fault.kind:
            case "cut connections" | "reset connections":
                link.cut(reset=fault.kind.startswith("reset"))
            case "refuse":
                link.refuse(True)
                self._later(details["seconds"], lambda: link.refuse(False))
            case "delay":
                link.delay(details["delay"])
                self._later(details["seconds"], lambda: link.delay(0))
            case "deaf" | "half-open":
                way, new = details["way"], fault.kind == "deaf"
                link.deafen(way, True, new=new)
                self._later(details["seconds"], lambda: link.deafen(way, False, new=new))
            case how:
                assert isinstance(link, HttpLink)
                code, text = ANSWERS.get(details.get("error", ""), (0, ""))
                for _ in range(details["inserts"]):
                    link.tamper(Tamper(how, code, text, details.get("seconds", 0)))  # type: ignore[arg-type]

    def _throwing_view(self, mark: str, seconds: float) -> None:
        self._statements.give(
            "CREATE TABLE IF NOT EXISTS chaos_sink (x UInt8) ENGINE = Null",
            "CREATE MATERIALIZED VIEW IF NOT EXISTS chaos_throws TO chaos_sink AS SELECT "
            f"throwIf(endsWith(toString(id), '{mark}'), '{THROWS}') AS x FROM events",
        )
        self._later(seconds, lambda: self._statements.give("DROP VIEW IF EXISTS chaos_throws SYNC"))

    def _other_version(self, slot: Slot) -> None:
        """It is ended, and comes back with other rules for its rows, or with the usual ones."""
        env = slot.child.env
        env["CHAOS_ROWS_VERSION"] = "2" if env.get("CHAOS_ROWS_VERSION", "1") == "1" else "1"
        slot.child.kill()

    # --- offsets moved by hand -------------------------------------------------------------------

    def _stop_all_for_offsets(self, to: str) -> None:
        """End every consumer, and once the group is empty move its offsets, without metadata."""
        for slot in self._slots.values():
            slot.child.signal(signal.SIGCONT)
            slot.child.kill()
        until = time.monotonic() + _STOPPED_FOR_OFFSETS_SECONDS

        pipeline = self._pipeline
        command = [sys.executable, "-m", "tests.chaos.offsets", pipeline.kafka.bootstrap_servers]
        command += [pipeline.topic, str(pipeline.partitions), pipeline.group, to]
        mover = pipeline.make_child("offsets", command)

        def moved_or_late() -> None:
            for name, child in self._servers.items():
                if not child.alive and time.monotonic() >= self._back_at.get(name, 0):
                    self._back_at.pop(name, None)
                    child.start()
            if mover.alive:
                return
            late = time.monotonic() >= until
            if late or mover.exit_code == 0:
                self._group_is_empty = None
                self.happened[f"offsets moved: {'not in time' if late else to}"] += 1
            else:
                mover.start()

        self._group_is_empty = moved_or_late


def _thaw(pid: int) -> None:
    _signal(pid, signal.SIGCONT)


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _children(pid: int) -> list[int]:
    """What this process started itself: Apache Kafka is a Java under a program of ours."""
    with contextlib.suppress(OSError):
        return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []

"""Cut points: named places in a consumer's life at which the nemesis ends or freezes it.

The consumer knows nothing of them. `consumer_with_cuts` passes them from wrapped adapters; the
nemesis arms them through a folder that both share:

    arms/NAME.json    {"point": ..., "passings": n, "act": "kill" or "freeze", "slot": 0 or one}
    hits.jsonl        a line for each that struck, written before it does
    passed-SLOT.bin   how often each point was passed: a mapping, so that it outlives a kill -9

An arm is claimed by renaming it: of several consumers that pass, one is struck.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import mmap
import os
import signal
import struct
import threading
import time
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, Literal

import consumer.__main__ as program
from consumer import ledger
from consumer.clickhouse import ClickHouseTable

Act = Literal["kill", "freeze"]

SENDS = ("insert", "retry", "replay", "mend")
# By what the commit says: the last are commits of a landed batch, with and without the next intent.
COMMITS = ("prepare", "mark", "commit", "commit and prepare")
# Whatever else is asked of the tables is a call with points of its own, also what is to come.
CALLS = tuple(
    name
    for name, member in inspect.getmembers(ClickHouseTable, inspect.isfunction)
    if not name.startswith("_") and name not in ("client", "insert", "close")
)
LETTERS = "letters"


def _points() -> Iterator[str]:
    mends = hasattr(ledger, "Mark")
    for what in COMMITS:
        if what != "mark" or mends:
            yield from (f"{what}: {when}" for when in ("before", "sent", "answered"))
    for what in SENDS:
        if what != "mend" or mends:
            yield from (f"{what}: {when}" for when in ("before", "half sent", "sent", "answered"))
    for what in CALLS:
        yield from (f"{what}: {when}" for when in ("before", "within", "answered"))
    if hasattr(program, "KafkaDeadLetters"):
        yield from (f"{LETTERS}: {when}" for when in ("before", "answered"))
    yield from ("commit read", "assigned", "revoked")


POINTS = tuple(_points())
_COUNT = struct.Struct("<Q")


class Cuts:
    """The nemesis's side."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "arms").mkdir(parents=True, exist_ok=True)
        self._made = 0
        self._armed: dict[Path, str] = {}

    def arm(
        self, point: str, act: Act, passings: int = 1, slot: int = 0, seconds: float = 0
    ) -> None:
        """Strike at the `passings`-th passing of `point`, of this slot's consumer or any (0).
        `seconds`: for whoever thaws what froze. A point that is armed already stays as it is."""
        if point not in POINTS:
            raise ValueError(point)
        if point in self.armed():
            return
        self._made += 1
        arm = {"point": point, "passings": passings, "act": act, "slot": slot, "seconds": seconds}
        text = json.dumps(arm)
        name = f"{self._made:06}"
        unready = self.folder / f"{name}.unready"
        unready.write_text(text, encoding="utf-8")
        armed = unready.rename(self.folder / "arms" / f"{name}.json")
        self._armed[armed] = point

    def armed(self) -> Collection[str]:
        """The points that are armed and have not struck."""
        self._armed = {path: point for path, point in self._armed.items() if path.exists()}
        return self._armed.values()

    def disarm(self) -> int:
        """Take back what has not struck; how many there were."""
        left = list((self.folder / "arms").glob("*.json"))
        for arm in left:
            arm.unlink(missing_ok=True)
        return len(left)

    def hits(self) -> list[dict[str, Any]]:
        """What struck: point, act, slot, pid, at (seconds)."""
        with contextlib.suppress(FileNotFoundError):
            lines = (self.folder / "hits.jsonl").read_text(encoding="utf-8").splitlines()
            return [json.loads(line) for line in lines]
        return []

    def passed(self) -> Counter[str]:
        """How often all consumers together passed each point."""
        counts: Counter[str] = Counter()
        for file in self.folder.glob("passed-*.bin"):
            values = struct.iter_unpack(_COUNT.format, file.read_bytes())
            for point, (count,) in zip(POINTS, values, strict=True):
                counts[point] += count
        return counts


class Passing:
    """The consumer's side, in its own program."""

    def __init__(self, folder: Path, slot: int) -> None:
        self._folder = folder
        self._slot = slot
        self._lock = threading.Lock()
        self._since: Counter[Path] = Counter()  # passings since this process saw the arm
        path = folder / f"passed-{slot}.bin"
        if not path.exists():
            path.write_bytes(bytes(_COUNT.size * len(POINTS)))
        with path.open("r+b") as file:
            self._counts = mmap.mmap(file.fileno(), 0)

    def __call__(self, point: str) -> None:
        with self._lock:
            at = POINTS.index(point) * _COUNT.size
            (count,) = _COUNT.unpack_from(self._counts, at)
            _COUNT.pack_into(self._counts, at, count + 1)
            for path, arm in self._arms():
                if arm["point"] == point and arm["slot"] in (0, self._slot):
                    self._since[path] += 1
                    if self._since[path] >= arm["passings"]:
                        self._strike(path, arm)

    def _arms(self) -> Iterator[tuple[Path, dict[str, Any]]]:
        for path in sorted((self._folder / "arms").iterdir()):
            with contextlib.suppress(FileNotFoundError):
                yield path, json.loads(path.read_text(encoding="utf-8"))

    def _strike(self, path: Path, arm: dict[str, Any]) -> None:
        claimed = self._folder / f"{path.stem}.struck"
        try:
            path.rename(claimed)
        except FileNotFoundError:
            return  # another consumer was first
        hit = {**arm, "slot": self._slot, "pid": os.getpid(), "at": time.time()}
        line = json.dumps(hit).encode() + b"\n"
        hits = os.open(self._folder / "hits.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(hits, line)  # one write: lines of several consumers do not mix
        os.close(hits)
        os.kill(os.getpid(), signal.SIGKILL if arm["act"] == "kill" else signal.SIGSTOP)

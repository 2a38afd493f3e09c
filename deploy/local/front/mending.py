"""The engine's deduplication logs, put right before the engine reads them.

A MergeTree table that is not replicated keeps, for each block it took, a line in
`deduplication_logs/deduplication_log_<n>.txt` of its data folder:

    <operation: 1 add, 2 drop> TAB <part> TAB <block id> LF

The line is written *before* the part is renamed into place. Killed between the two, the engine
comes back with a line for a part that never was, and drops the replay of that block: the rows
are lost, and the insert is acknowledged. And a line that was torn by the kill gets the next line
appended to it, so that the engine stops reading there and forgets every later block.

So, while no engine has the folder open:

1. Read each table's log files in order and strike out lines that a later drop has undone.
2. An addition stands if its part is on disk, or a part is that covers it (same partition, its
   blocks within, level and mutation not lower): merges, mutations and dropped ranges all cover.
3. An addition also stands if it was proven before. Parts may vanish for good reasons without a
   drop line (REPLACE PARTITION, MOVE PARTITION, TTL, ALTER DELETE), and such a token must stay
   taken. So while the engine runs, a thread looks once a second at what was added to the logs
   and remembers (`proven.json`) up to where every line has been seen to be true. A crash leaves
   only about the last second to be judged by rule 2 alone.
4. Any other addition cannot be true and goes; so does what follows the last line end. The file
   is written anew, synced and renamed over the old one.

Lines that cannot be understood are left as they are, and their whole table with them.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

LOOK_SECONDS = 1.0
_ADD, _DROP = b"1", b"2"


@dataclass(frozen=True, slots=True)
class Mending:
    """What one mending did; `unreadable_logs` were left alone."""

    logs: int
    dropped_entries: int
    torn_lines: int
    unreadable_logs: int

    def as_fields(self) -> dict[str, object]:
        return {
            "logs": self.logs,
            "dropped_entries": self.dropped_entries,
            "torn_lines": self.torn_lines,
            "unreadable_logs": self.unreadable_logs,
        }


class Part(NamedTuple):
    partition: str
    first_block: int
    last_block: int
    level: int
    mutation: int

    def covers(self, other: Part) -> bool:
        return (
            self.partition == other.partition
            and self.first_block <= other.first_block
            and self.last_block >= other.last_block
            and self.level >= other.level
            and self.mutation >= other.mutation
        )


def parse_part(name: str) -> Part | None:
    """`<partition>_<first>_<last>_<level>[_<mutation>]`; None for any other name."""
    fields = name.split("_")
    if len(fields) not in (4, 5) or not fields[0]:
        return None
    if not all(text.isascii() and text.isdigit() for text in fields[1:]):
        return None
    numbers = [int(text) for text in fields[1:]]
    return Part(fields[0], numbers[0], numbers[1], numbers[2], numbers[3] if numbers[3:] else 0)


@dataclass(frozen=True, slots=True)
class Line:
    """One whole line of a log; `text` has no line end."""

    text: bytes
    operation: bytes
    part: Part
    block_id: bytes


class Unreadable(Exception):
    """A log that is not in the known form."""


def read_lines(data: bytes) -> tuple[list[Line], int]:
    """The whole lines of one file, and how many bytes they take (what follows is torn)."""
    whole = data.rfind(b"\n") + 1
    lines = []
    for text in data[:whole].split(b"\n")[:-1]:
        fields = text.split(b"\t")
        part = parse_part(fields[1].decode("utf-8", "replace")) if len(fields) == 3 else None
        if part is None or fields[0] not in (_ADD, _DROP):
            raise Unreadable(text[:200].decode("utf-8", "replace"))
        lines.append(Line(text, fields[0], part, fields[2]))
    return lines, whole


class PartsOnDisk:
    """The parts of one table's folder, asked whether they hold a given part's blocks."""

    def __init__(self, names: Iterable[str]) -> None:
        self._by_partition: dict[str, list[Part]] = {}
        for name in names:
            part = parse_part(name)
            if part is not None:
                self._by_partition.setdefault(part.partition, []).append(part)

    def hold(self, part: Part) -> bool:
        return any(held.covers(part) for held in self._by_partition.get(part.partition, ()))


def undone_lines(lines: list[Line]) -> set[int]:
    """Indexes of additions that a later drop line has taken back."""
    last: dict[bytes, int] = {}
    undone = set()
    for index, line in enumerate(lines):
        if line.operation == _DROP:
            if line.block_id in last:
                undone.add(last.pop(line.block_id))
        else:
            last[line.block_id] = index
    return undone


class ProvenEntries:
    """Mends the logs under one engine folder, and keeps the record of what is proven.

    `record` maps each log file (relative to the folder) to the bytes at its start whose lines
    are proven, and the additions among them that are not (yet)."""

    def __init__(self, engine_folder: Path, record: Path) -> None:
        self._folder, self._record = engine_folder, record
        self._proven: dict[str, tuple[int, frozenset[bytes]]] = {}
        self._read_record()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._looking = threading.Lock()

    # Before the engine opens

    def mend(self) -> Mending:
        """Mend every log. Must not run while an engine has the folder open."""
        total = Mending(0, 0, 0, 0)
        proven: dict[str, tuple[int, frozenset[bytes]]] = {}
        for table, files in self._tables():
            total = replace(total, logs=total.logs + len(files))
            try:
                dropped, torn = self._mend_table(table, files, proven)
            except Unreadable:
                total = replace(total, unreadable_logs=total.unreadable_logs + len(files))
                continue
            total = replace(
                total,
                dropped_entries=total.dropped_entries + dropped,
                torn_lines=total.torn_lines + torn,
            )
        self._proven = proven
        self._write_record()
        return total

    def _mend_table(
        self,
        table: Path,
        files: list[Path],
        proven: dict[str, tuple[int, frozenset[bytes]]],
    ) -> tuple[int, int]:
        parts = PartsOnDisk(entry.name for entry in table.iterdir())
        contents = [(file, file.read_bytes()) for file in files]
        read = [read_lines(data) for _, data in contents]
        undone = undone_lines([line for lines, _ in read for line in lines])
        dropped = torn = index = 0
        for (file, data), (lines, whole) in zip(contents, read, strict=True):
            until, unproven = self._proven.get(self._name(file), (0, frozenset()))
            kept, at = [], 0
            for line in lines:
                at += len(line.text) + 1
                known = at <= until <= len(data) and line.text not in unproven
                stands = line.operation == _DROP or index in undone or known
                if stands or parts.hold(line.part):
                    kept.append(line.text + b"\n")
                else:
                    dropped += 1
                index += 1
            torn += whole < len(data)
            mended = b"".join(kept)
            if mended != data:
                self._replace(file, mended)
            proven[self._name(file)] = (len(mended), frozenset())
        return dropped, torn

    # While the engine runs

    def watch(self) -> None:
        """Look at the logs once a second, in a thread of its own, until `stop`."""
        self._thread = threading.Thread(target=self._watch, name="proven", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(LOOK_SECONDS):
            # A table dropped in this moment takes its files with it; the next look sees that.
            with contextlib.suppress(OSError):
                self.look()

    def look(self) -> None:
        """Prove what was added since the last look."""
        with self._looking:
            changed = False
            for table, files in self._tables():
                for file in files:
                    with contextlib.suppress(FileNotFoundError, Unreadable):
                        changed |= self._look_at(table, file)
            if changed:
                self._write_record()

    def _look_at(self, table: Path, file: Path) -> bool:
        name = self._name(file)
        until, unproven = self._proven.get(name, (0, frozenset()))
        size = file.stat().st_size
        if size == until and not unproven:
            return False
        if size < until:
            until, unproven = 0, frozenset()
        with file.open("rb") as opened:
            opened.seek(until)
            lines, whole = read_lines(opened.read())
        waiting, _ = read_lines(b"".join(text + b"\n" for text in unproven))
        additions = [line for line in [*waiting, *lines] if line.operation == _ADD]
        parts = PartsOnDisk(entry.name for entry in table.iterdir())
        left = frozenset(line.text for line in additions if not parts.hold(line.part))
        if (until + whole, left) == (until, unproven):
            return False
        self._proven[name] = (until + whole, left)
        return True

    # Files

    def _tables(self) -> Iterator[tuple[Path, list[Path]]]:
        """Each table's folder with its log files, oldest first. `store` holds Atomic databases,
        `data` the others (and links into `store`)."""
        seen = set()
        for pattern in ("store/*/*/deduplication_logs", "data/*/*/deduplication_logs"):
            for logs in self._folder.glob(pattern):
                table = logs.resolve().parent
                if table in seen:
                    continue
                seen.add(table)
                numbered = []
                for file in (table / "deduplication_logs").glob("deduplication_log_*.txt"):
                    number = file.stem.rpartition("_")[2]
                    if number.isdigit():
                        numbered.append((int(number), file))
                yield table, [file for _, file in sorted(numbered)]

    def _name(self, file: Path) -> str:
        return str(file.relative_to(self._folder))

    def _read_record(self) -> None:
        with contextlib.suppress(OSError, ValueError, TypeError, AttributeError, KeyError):
            for name, entry in json.loads(self._record.read_text()).items():
                unproven = frozenset(text.encode() for text in entry["unproven"])
                self._proven[str(name)] = (int(entry["bytes"]), unproven)

    def _write_record(self) -> None:
        entries = {
            name: {"bytes": size, "unproven": sorted(text.decode() for text in unproven)}
            for name, (size, unproven) in self._proven.items()
            if (self._folder / name).exists()
        }
        self._replace(self._record, json.dumps(entries).encode())

    def _replace(self, file: Path, data: bytes) -> None:
        """Write `data` in place of `file`, whole or not at all. The new file grows beside the
        record, since the engine may take whatever lies in its own folders for a log."""
        new = self._record.with_suffix(".new")
        with new.open("wb") as opened:
            opened.write(data)
            opened.flush()
            os.fsync(opened.fileno())
        new.replace(file)
        folder = os.open(file.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

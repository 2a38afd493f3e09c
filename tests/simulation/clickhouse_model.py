"""A ClickHouse as the protocol needs to see it: tables, views, deduplication log, running inserts.

An insert lands in stages: one for each ClickHouse partition of the table, then the ledger, then the
view; each is skipped where the deduplication log knows it. It can stop after any of them: by a
thrown error, by `max_execution_time`, by a crash. Where the log is not mended at the start, a crash
can leave an entry in it whose part never appeared. (In the table only: a view's lost part is beyond
what stamps can show, and is left to the rule that a restart makes an attempt old.)

A line may be bad: the whole insert is refused and nothing lands. Or it is bad for the view alone:
then the view's stage throws, when the table has landed.

A rebuild holds new inserts, lets those that run come to their end, and then makes a ClickHouse
partition of the view what the table has, at once. A hold whose owner died ends by itself.

The log is a window of entries (and of seconds, where the profile has them). A deployment sizes its
window so that what lands within two deadlines and the longest insert is less than half of it. Here
the server keeps that by itself: past such a rate it answers "too many parts" and lands nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from consumer.batch import Batch
from consumer.recovery import Coverage, Covered
from tests.simulation.faults import DEADLINE_SECONDS, MAX_SECONDS, Profile
from tests.simulation.kafka_model import record_of

HOLD_SECONDS = 20.0
_NOTHING = (None, None, None)
_RATE_SECONDS = 2 * DEADLINE_SECONDS + MAX_SECONDS


class Violation(AssertionError):
    """The protocol broke a promise."""


@dataclass(frozen=True)
class Row:
    """A record as the table sees it."""

    partition: int
    offset: int
    line: int
    clickhouse_partition: str
    fault: str = ""

    @property
    def record(self) -> Record:
        return self.partition, self.offset, self.line


Record = tuple[int, int, int]  # topic and Kafka partition, offset, line


def row(line: bytes, version: int = 1) -> Row:
    """What the rules of `version` make of a line: they differ in the ClickHouse partition."""
    partition, offset, number, part, fault = record_of(line).split("/")
    part = part if version == 1 else part + "2"
    return Row(int(partition), int(offset), int(number), part, fault)


Stamp = tuple[int, int, int, int]  # topic and Kafka partition, first, end, epoch


@dataclass(eq=False)
class Insert:
    """An insert that runs on the server. `version` is that of the rules that mapped its rows."""

    token: str
    stamp: Stamp
    rows: tuple[Row, ...]
    began_at: float
    stages: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.stages = [*sorted({r.clickhouse_partition for r in self.rows}), "ledger", "view"]


@dataclass(eq=False)
class Restoring:
    """A restore on its way. `held_until`: when its hold ends by itself."""

    stamp: Stamp
    partitions: frozenset[str]
    held_until: float = 0.0
    before: list[Insert] = field(default_factory=list)


class ClickHouse:
    def __init__(self, profile: Profile, now: float) -> None:
        self.profile = profile
        self.up = True
        self.started_at = now
        self.crashes = 0
        self.running: list[Insert] = []
        self._log: dict[tuple[str, str], tuple[int, float]] = {}  # (token, stage) -> count, time
        self._entries = 0
        self._landings: list[float] = []
        self.table: dict[Row, Stamp] = {}
        self.landed: set[Record] = set()
        self.ledger: dict[tuple[Stamp, str], tuple[float, int]] = {}  # -> when, rows
        # rows, version, epoch ms, as listed: of a line that was restored the rows alone
        self.announced: dict[Stamp, tuple[int, int | None, int | None]] = {}
        self.view: Counter[Record] = Counter()
        self.parts: dict[Record, str] = {}  # the ClickHouse partition that a record fell into
        self.rebuilt: dict[str, float] = {}  # ClickHouse partition -> when last
        self.holds: list[Restoring] = []
        self.strict = True  # the view throws on rows that are bad for it
        self.may_double: Callable[[Row, Stamp], bool] = lambda row, stamp: False
        self.others: list[float] = []  # ledger rows of partitions that are not modelled
        self.ledger_first = True  # the views of a table come in any order, and keep to it

    @property
    def keeps_log(self) -> bool:
        return self.profile.mends_log

    # --- inserting ---------------------------------------------------------------------------

    def begin(self, token: str, stamp: Stamp, rows: tuple[Row, ...], now: float) -> Insert | None:
        """The insert, or None where the server pushes back."""
        self.holds = [hold for hold in self.holds if hold.held_until > now]
        if self.holds:
            return None
        recent = sum(1 for at in self._landings if at > now - _RATE_SECONDS)
        if recent + len(rows) + 2 > self.profile.window_entries // 2:
            return None
        insert = Insert(token, stamp, rows, now)
        if not self.ledger_first:
            insert.stages[-2:] = ["view", "ledger"]
        self.running.append(insert)
        return insert

    def throws(self, insert: Insert) -> bool:
        """Whether its next stage does: on the view's, which the deduplication log may skip."""
        stage = insert.stages[0]
        known = self._known(insert.token, stage, insert.began_at)
        return stage == "view" and not known and self.refuses(insert.rows)

    def refuses(self, rows: tuple[Row, ...]) -> bool:
        return self.strict and any(r.fault == "view" for r in rows)

    def step(self, insert: Insert, now: float) -> bool:
        """Land the next stage. Whether it was the last."""
        stage = insert.stages.pop(0)
        if not self._known(insert.token, stage, now):
            self._note(insert.token, stage, now)
            self._land(insert, stage, now)
        if not insert.stages:
            self.running.remove(insert)
        return not insert.stages

    def end(self, insert: Insert) -> None:
        """It stops where it is."""
        if insert in self.running:
            self.running.remove(insert)

    def overdue(self, now: float) -> list[Insert]:
        return [i for i in self.running if now >= i.began_at + MAX_SECONDS]

    def crash(self, *, lies: bool) -> None:
        if lies and not self.profile.mends_log:
            for insert in self.running:
                if insert.stages[0] not in ("ledger", "view"):
                    # Written before the part was renamed into place, and the part is gone.
                    self._log.setdefault((insert.token, insert.stages[0]), (self._entries, 1e9))
        self.crashes += 1
        self.running.clear()
        self.up = False

    def start(self, now: float) -> None:
        self.up = True
        self.started_at = now

    def forget(self, stage: str) -> None:
        """The deduplication log knows no token of it any more."""
        for token, known in list(self._log):
            if known == stage:
                del self._log[token, known]

    def other_inserts(self, count: int, now: float) -> None:
        """Batches of partitions outside the model land, as fast as the window allows."""
        recent = sum(1 for at in self._landings if at > now - _RATE_SECONDS)
        for _ in range(max(0, min(count, self.profile.window_entries // 2 - recent - 12))):
            self._entries += 1
            self._landings.append(now)
            self.others.append(now)

    def _known(self, token: str, stage: str, now: float) -> bool:
        entry = self._log.get((token, stage))
        if entry is None:
            return False
        number, at = entry
        seconds = self.profile.window_seconds
        expired = seconds is not None and now - at > seconds
        return not expired and self._entries - number < self.profile.window_entries

    def _note(self, token: str, stage: str, now: float) -> None:
        if stage not in ("ledger", "view"):
            self._entries += 1
            self._landings.append(now)
        self._log[token, stage] = (self._entries, now)

    def _land(self, insert: Insert, stage: str, now: float) -> None:
        if stage == "ledger":
            fields = insert.token.split(":")
            self.announced[insert.stamp] = (int(fields[4]), int(fields[8]), int(fields[9]))
            parts = Counter(r.clickhouse_partition for r in insert.rows)
            for part, rows in sorted(parts.items()):
                self._land_ledger(insert.stamp, part, rows, now)
        elif stage == "view":
            for r in insert.rows:
                if self.view[r.record] and not self.may_double(r, insert.stamp):
                    raise Violation(f"double in the view: {r}, by {insert.stamp}")
                self.view[r.record] += 1
                self.parts[r.record] = r.clickhouse_partition
        else:
            for r in insert.rows:
                if r.clickhouse_partition == stage:
                    if r.record in self.landed:
                        raise Violation(f"double in the table: {r}, by {insert.stamp}")
                    if r.partition != insert.stamp[0]:
                        raise Violation(f"{r} landed under another topic's id: {insert.stamp}")
                    self.landed.add(r.record)
                    self.table[r] = insert.stamp

    def _land_ledger(self, stamp: Stamp, part: str, rows: int, now: float) -> None:
        partition, first, end, _ = stamp
        for (other, other_part), _at in self.ledger.items():
            overlaps = other[0] == partition and other[1] < end and first < other[2]
            stamped = any(
                s == other and r.clickhouse_partition == part for r, s in self.table.items()
            )
            if other_part == part and overlaps and stamped:
                raise Violation(f"double in the ledger: {stamp} over {other}")
        self.ledger[stamp, part] = (now, rows)

    # --- restoring ---------------------------------------------------------------------------

    def restore(self, restoring: Restoring, now: float) -> bool:
        """A step of it. Whether it is done."""
        if now >= restoring.held_until:  # not begun, or its hold has ended
            restoring.held_until = now + HOLD_SECONDS
            restoring.before = list(self.running)
            self.holds.append(restoring)
            return False
        if any(insert in self.running for insert in restoring.before):
            return False
        self._restore(restoring, now)
        self.holds.remove(restoring)
        return True

    def _restore(self, restoring: Restoring, now: float) -> None:
        partition, first, end, _ = restoring.stamp
        lines = Counter((s, r.clickhouse_partition) for r, s in self.table.items())
        for (stamp, part), rows in lines.items():
            if stamp[0] == partition and stamp[1] < end and first < stamp[2]:
                self.ledger.setdefault((stamp, part), (now, rows))
        for part in restoring.partitions:
            self.rebuilt[part] = now
            for record in [r for r in self.view if self.parts.get(r) == part]:
                del self.view[record]
            for r in self.table:
                if r.clickhouse_partition == part:
                    self.view[r.record] = 1

    # --- reading -----------------------------------------------------------------------------

    def coverage(self, partition: int, offset: int, since_ms: int | None, whole: bool) -> Coverage:
        listed: dict[Stamp, dict[str, tuple[float, int]]] = {}
        for (stamp, part), line in self.ledger.items():
            if stamp[0] == partition and stamp[2] > offset:
                listed.setdefault(stamp, {})[part] = line
        stamped: dict[Stamp, set[str]] = {}
        if whole:
            for r, stamp in self.table.items():
                if stamp[0] == partition and stamp[2] > offset:
                    stamped.setdefault(stamp, set()).add(r.clickhouse_partition)
        batches = tuple(
            Covered(
                first=stamp[1],
                end=stamp[2],
                epoch=stamp[3],
                stamped=frozenset(stamped.get(stamp, ())),
                listed=frozenset(listed.get(stamp, ())),
                landed_ms=int(
                    min((at for at, _ in listed.get(stamp, {}).values()), default=0) * 1000
                ),
                listed_rows=sum(rows for _, rows in listed.get(stamp, {}).values()),
                expected_rows=self.announced.get(stamp, _NOTHING)[0],
                version=self.announced.get(stamp, _NOTHING)[1],
                announced_ms=self.announced.get(stamp, _NOTHING)[2],
            )
            for stamp in sorted(listed.keys() | stamped.keys())
        )
        if since_ms is None:
            since_ms = min((c.landed_ms for c in batches), default=10**15)
        return Coverage(
            batches,
            self.entries_since(since_ms),
            self.profile.window_entries,
            self.profile.window_seconds,
            int(self.started_at * 1000),
            self.profile.mends_log,
        )

    def entries_since(self, since_ms: int) -> int:
        times = [*(at for at, _ in self.ledger.values()), *self.others]
        return sum(1 for at in times if at * 1000 >= since_ms)

    def rebuilt_since(self, batch: Batch, since_ms: int, version: int) -> frozenset[str]:
        parts = {row(line, version).clickhouse_partition for line in batch.lines()}
        return frozenset(p for p in parts if self.rebuilt.get(p, -1.0) * 1000 >= since_ms)

    def missing(self, batch: Batch, stamp: Stamp, version: int) -> frozenset[str]:
        """Not those of which every record is there, whoever brought it."""
        rows = [row(line, version) for line in batch.lines()]
        needed = {
            r.clickhouse_partition for r in rows if r.fault != "bad" and r.record not in self.landed
        }
        landed = {r.clickhouse_partition for r, s in self.table.items() if s == stamp}
        return frozenset(needed - landed)

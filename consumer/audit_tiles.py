"""Do the batches tile the offsets? Faults of one Kafka partition, from its parts in their order.

A **part** is what one batch has in one ClickHouse partition, as the ledger lists it and as the
rows' own stamps have it. Parts come ordered by (first, end, epoch, ClickHouse partition), and only
those that a later one can still overlap are kept: memory does not grow with the ledger.

Two parts overlap only within one ClickHouse partition: what was missing of a range is inserted
under a new epoch, and then several stamps cover its offsets, each elsewhere. So batches that
overlap at all are judged together, as one **run**: it is whole when the parts add up to what was
announced. Of several epochs, the one that announced most knows how much that is.

A batch whose lines were written from its rows, because the ledger had none, has 0 for what it
announced: not known. It is whole where batches of later epochs hold all its offsets, since what is
inserted over a batch that landed in part is what it lacks. Else nothing in the table proves it.

A part is there when *one* row of it is: rows collapse with equal ids, expire and are erased.

Pure: no clock, no server.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from consumer.audit_run import Overlap, Part, Run


class Kind(StrEnum):
    """What can be wrong. The value is what a person reads."""

    GAP = "gap"  # offsets that no batch holds
    PAST_END = "commit past the log's end"  # Kafka has lost what was read once
    OVERLAP = "overlap"  # offsets that two batches hold in one ClickHouse partition
    DOUBLE = "double"  # a part that landed twice under one epoch
    SHORT = "short batch"  # fewer rows than announced: it did not land whole
    LONG = "long batch"  # more, under one epoch or several
    UNKNOWN = "size not known"  # nothing says how many rows were announced
    NO_ROWS = "no rows"  # the ledger lists a part of which the table has no row
    NO_LEDGER = "not in the ledger"  # rows of a part that the ledger does not list
    NO_BATCH = "rows without a batch"  # rows that no batch brought


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that needs an explanation, within `[first, end)`. `rows`: how many are concerned
    (offsets, of a gap). `landed_ms`: when the latest of what is concerned landed. `unlisted`: of a
    short batch, rows that bear its stamp beyond those that the ledger lists."""

    kind: Kind
    topic_id: str
    partition: int
    first: int
    end: int
    clickhouse_partition: str
    epochs: tuple[int, ...]
    rows: int
    landed_ms: int
    what: str
    unlisted: int = 0


@dataclass(slots=True)
class _Recent:
    """A part that a later one may overlap. `covered`: its offsets that others have here too."""

    part: Part
    covered: int = 0


class Walk:
    """The parts of one Kafka partition, given in order with `take`, and `finish` after the last.

    `start`: the log's start, from which on there must be batches, None: from the first on.
    `limit`: Kafka's commit, None: unknown. Batches that end past it are in flight: they cover, and
    are not judged.
    Without a limit, those are that landed after `quiet_ms`.
    """

    def __init__(
        self,
        topic_id: str,
        partition: int,
        start: int | None,
        limit: int | None,
        quiet_ms: int | None = None,
    ) -> None:
        self.topic_id = topic_id
        self.partition = partition
        self.first: int | None = None
        self.reach: int | None = None
        self.batches = 0
        self.rows = 0
        self.in_flight = 0
        self._start = start
        self.limit = limit
        self._quiet_ms = quiet_ms
        self._last: tuple[int, int, int] | None = None
        self._told = False  # what the last batch announced
        self._untold: Part | None = None  # its first part, where it does not say
        self._run: Run | None = None
        self._recent: list[_Recent] = []

    def take(self, part: Part) -> Iterator[Fault]:
        flies = (
            part.end > self.limit
            if self.limit is not None
            else self._quiet_ms is not None and part.landed_ms > self._quiet_ms
        )
        if self._run is not None and part.first >= self._run.end:
            yield from self._close()
        yield from self._passed(part.first)
        if self.first is None:
            self.first = part.first
        if self.reach is None:
            self.reach = part.first if self._start is None else min(self._start, part.first)
        if part.first > self.reach and (self.limit is None or self.reach < self.limit):
            yield self._gap(self.reach, min(part.first, self.limit or part.first))
        self.reach = max(self.reach, part.end)
        if self._run is None:
            self._run = Run(part.first, part.end)
        self._add(self._run, part, flies)

    def finish(self) -> Iterator[Fault]:
        if self._run is not None:
            yield from self._close()
        yield from self._passed(None)
        reach = self._start if self.reach is None else self.reach
        if self.limit is not None and reach is not None and reach < self.limit:
            yield self._gap(reach, self.limit)

    # --- one part ----------------------------------------------------------------------------

    def _add(self, run: Run, part: Part, flies: bool) -> None:
        batch = (part.first, part.end, part.epoch)
        if batch != self._last:
            self._last = batch
            self.batches += not flies
            self.in_flight += flies
            run.expected[part.epoch] += 0
            self._told, self._untold = False, None
        if not self._told:
            self._tell(run, part)
        rows = part.rows if part.times else part.stamped
        run.add(part, rows)
        run.in_flight |= flies
        if flies:
            return
        self.rows += rows
        mine = _Recent(part)
        for other in self._recent:
            if other.part.clickhouse_partition != part.clickhouse_partition:
                continue
            self._overlap(run, other.part, part)
            both = min(other.part.end, part.end) - part.first
            other.covered += both if part.stamped else 0
            mine.covered += both if other.part.stamped else 0
        self._recent.append(mine)

    def _tell(self, run: Run, part: Part) -> None:
        """What its batch announced: the first of its parts that knows says it."""
        if part.expected_rows:
            self._told = True
            run.announce(part)
            if self._untold is not None:
                run.unknown.remove(self._untold)
        elif part.times and self._untold is None:
            self._untold = part
            run.unknown.append(part)

    def _overlap(self, run: Run, other: Part, part: Part) -> None:
        known = run.overlaps.setdefault(
            part.clickhouse_partition, Overlap(part.first, part.first, set(), 0)
        )
        known.end = max(known.end, min(other.end, part.end))
        known.epochs |= {other.epoch, part.epoch}
        known.landed_ms = max(known.landed_ms, other.landed_ms, part.landed_ms)
        known.times += 1

    def _passed(self, first: int | None) -> Iterator[Fault]:
        """Judge the parts that nothing from `first` on can overlap, and forget them."""
        kept = []
        for recent in self._recent:
            if first is not None and recent.part.end > first:
                kept.append(recent)
            else:
                yield from self._judge(recent)
        self._recent = kept

    def _judge(self, recent: _Recent) -> Iterator[Fault]:
        part = recent.part
        if not part.times:
            yield self._fault(Kind.NO_LEDGER, part, part.stamped,
                              f"{part.stamped} rows bear the stamp of a batch that the ledger "
                              "does not list here")  # fmt: skip
        elif not part.stamped:
            if recent.covered < part.end - part.first:  # else they are under another epoch
                yield self._fault(Kind.NO_ROWS, part, part.rows,
                                  f"the ledger lists {part.rows} rows, and the table has none of "
                                  "this batch")  # fmt: skip
        elif part.stamped > part.rows:
            yield self._fault(Kind.DOUBLE, part, part.stamped - part.rows,
                              f"the table has {part.stamped} rows of this batch, and the ledger "
                              f"{part.rows}")  # fmt: skip
        if part.times > 1:
            yield self._fault(Kind.DOUBLE, part, part.rows * (part.times - 1),
                              f"the ledger lists it {part.times} times: the views may have "
                              "counted it as often")  # fmt: skip

    # --- a run -------------------------------------------------------------------------------

    def _close(self) -> Iterator[Fault]:
        run, self._run = self._run, None
        assert run is not None
        for where, found in run.overlaps.items():
            several = f", {found.times} pairs of parts" if found.times > 1 else ""
            yield Fault(
                Kind.OVERLAP, self.topic_id, self.partition, found.first, found.end, where,
                tuple(sorted(found.epochs)), 0, found.landed_ms,
                "these offsets landed more than once in this ClickHouse partition" + several,
            )  # fmt: skip
        if run.in_flight:
            return
        for part in run.unknown:
            if not run.proves(part):
                yield self._unknown(part)
        expected = max(run.expected.values())
        most: defaultdict[str, int] = defaultdict(int)
        for (where, _), rows in run.landed.items():
            most[where] = max(most[where], rows)
        landed = sum(most.values())
        if landed < expected:
            yield Fault(
                Kind.SHORT, self.topic_id, self.partition, run.first, run.end, "",
                tuple(sorted(run.expected)), expected - landed, run.landed_ms,
                f"{landed} of {expected} rows landed", run.unlisted,
            )  # fmt: skip
        run.fold()
        if (long := run.long) is not None:
            yield Fault(
                Kind.LONG, self.topic_id, self.partition, long.first, long.end, "",
                tuple(sorted(long.epochs)), long.landed - long.expected, run.landed_ms,
                f"{long.landed} rows landed, and {long.expected} were announced",
            )  # fmt: skip

    def _unknown(self, part: Part) -> Fault:
        return Fault(
            Kind.UNKNOWN, self.topic_id, self.partition, part.first, part.end, "", (part.epoch,),
            part.rows, part.landed_ms,
            "the ledger's lines of it were lost and written again from its rows: how many it "
            "announced is not known",
        )  # fmt: skip

    def _fault(self, kind: Kind, part: Part, rows: int, what: str) -> Fault:
        return Fault(
            kind, self.topic_id, self.partition, part.first, part.end, part.clickhouse_partition,
            (part.epoch,), rows, part.landed_ms, what,
        )  # fmt: skip

    def _gap(self, first: int, end: int) -> Fault:
        return Fault(
            Kind.GAP, self.topic_id, self.partition, first, end, "", (), end - first, 0,
            "no batch holds these offsets",
        )  # fmt: skip

"""What rewinds did, in the table `rewinds`: what the audit may take for a cause.

A rewind can end anywhere, and what it only meant to do explains nothing: a row that stood there
before anything was done would hide every later loss in its range. So each row says what is so:

| `what` | says of [first, end) | written |
|---|---|---|
| removed | no row is left of its batches of an epoch before `epoch` | once the server is seen to be done with deleting them |
| skipped | reading goes on at `end` | once Kafka's commit says so |
| to skip | nothing yet | before that commit, which bears its `epoch` and, as its time, its `at` |
| read again | what was skipped from `first` on is skipped no more; nothing, until its `epoch` is seen | before anything is done |

An epoch is **seen** in Kafka's commit (a rewind's mark or last commit, and any later one), in a
batch, or in another row that is written when something was done. A rewind that was killed before
its mark has none of these, and the next one takes the same epoch: of each, only the last such row
can be so. (A consumer's mend after it may come to that epoch too: then what was skipped is shown as
a gap.)

Killed between a commit and its "skipped", a rewind is finished by the next one: a commit with the
epoch and the time of a "to skip" is that rewind's own, and no consumer's. Until then, and for good
where a consumer has gone on meanwhile, the audit shows what was skipped as a gap.
"""  # noqa: E501 - a table

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from consumer.ledger import Open
from consumer.recovery import Commit, judge
from consumer.rewind_plan import Step
from schemas.connection import SchemaError
from schemas.hold import Database
from schemas.layout import literal
from schemas.tables import REWINDS

REMOVED, SKIPPED, TO_SKIP, READ_AGAIN = "removed", "skipped", "to skip", "read again"

IN_ORDER = f"at, what = {literal(READ_AGAIN)} DESC"  # as they were written


class Row(NamedTuple):
    """`what`: one of the above. `at_ms`: epoch milliseconds."""

    first: int
    end: int
    epoch: int
    what: str
    at_ms: int = 0


def reads_again(rows: Sequence[Row], seen: int) -> list[Row]:
    """Of one partition's rows those by which lines are read again. `seen`: the latest epoch of
    Kafka's commit and of batches."""
    done = {row.epoch for row in rows if row.what in (REMOVED, SKIPPED)}
    last = {row.epoch: row for row in rows if row.what == READ_AGAIN}
    again = [row for epoch, row in last.items() if epoch <= seen or epoch in done]
    return [row for row in rows if row.what == REMOVED or row in again]


def believed(rows: Sequence[Row], seen: int) -> list[Row]:
    """What is so, of one partition's rows in the order in which they were written. `seen`: as
    above."""
    again = reads_again(rows, seen)
    found: list[Row] = []
    for row in rows:
        if row.what == READ_AGAIN and row in again:
            kept = (
                each._replace(end=min(each.end, row.first)) if each.what == SKIPPED else each
                for each in found
            )
            found = [each for each in kept if each.first < each.end]
        elif row.what in (REMOVED, SKIPPED):
            found.append(row)
    return sorted(found)


class Record:
    """The rows of one topic. Raises the client's errors, and SchemaError without the table."""

    def __init__(self, database: Database, topic_id: str, topic: str) -> None:
        self._database = database
        self._topic_id = topic_id
        self._topic = topic
        self._undone: dict[int, list[Row]] = {}

    def check_there(self) -> None:
        found = self._database.ask(
            "SELECT count() FROM system.tables "
            "WHERE database = {database:String} AND name = {name:String}",
            database=self._database.name,
            name=REWINDS,
        )
        if not found[0][0]:
            table = self._database.table(REWINDS)
            raise SchemaError(f"{table} is missing: run penstock-schemas apply")

    def intend(self, steps: Sequence[Step]) -> int:
        """Before anything is done. Returns the time that the last commit has to bear."""
        at_ms = self._database.now_ms()
        before = self._rows()
        made: dict[int, list[Row]] = {}
        for step in steps:
            rows = made.setdefault(step.partition, [])
            if step.skipped is not None:
                rows.append(Row(*step.skipped, step.epoch, TO_SKIP, at_ms))
            if step.removed or step.skipped is None:
                end = max(step.end, step.commit or 0)
                rows.append(Row(step.target, end, step.epoch, READ_AGAIN, at_ms))
                self._undone[step.partition] = [
                    row
                    for row in believed(before.get(step.partition, ()), step.epoch - 1)
                    if row.what == SKIPPED and row.end > step.target
                ]
        self._write(made)
        return at_ms

    def not_begun(self) -> None:
        """After `intend`: nothing was done, and what was skipped before still is."""
        now_ms = self._database.now_ms()
        self._write(
            {p: [row._replace(at_ms=now_ms) for row in rows] for p, rows in self._undone.items()}
        )

    def removed(self, step: Step) -> None:
        row = Row(step.target, step.end, step.epoch, REMOVED, self._database.now_ms())
        self._write({step.partition: [row]})

    def skipped(self, steps: Sequence[Step]) -> None:
        now_ms = self._database.now_ms()
        self._write(
            {
                step.partition: [Row(*step.skipped, step.epoch, SKIPPED, now_ms)]
                for step in steps
                if step.skipped is not None
            }
        )

    def finish(self, commits: Mapping[int, Commit]) -> list[tuple[int, int, int]]:
        """Record what was skipped by a rewind that was cut off before it could: (partition, first,
        end) of each."""
        missing: dict[int, list[Row]] = {}
        now_ms = self._database.now_ms()
        for partition, rows in self._rows().items():
            note = judge(commits[partition], self._topic_id).note if partition in commits else None
            if not isinstance(note, Open):
                continue
            done = {row[:3] for row in rows if row.what == SKIPPED}
            said = (commits[partition].offset, note.epoch, note.time_ms)
            missing[partition] = [
                row._replace(what=SKIPPED, at_ms=now_ms)
                for row in rows
                if row.what == TO_SKIP
                and (row.end, row.epoch, row.at_ms) == said
                and row[:3] not in done
            ]
        self._write(missing)
        return [(p, row.first, row.end) for p, rows in missing.items() for row in rows]

    def _rows(self) -> dict[int, list[Row]]:
        """By partition, the oldest first."""
        found: dict[int, list[Row]] = {}
        for partition, *row in self._database.ask(
            "SELECT partition, first, end, epoch, what, toUnixTimestamp64Milli(at) AS at_ms "  # noqa: S608
            f"FROM {self._database.table(REWINDS)} "
            f"WHERE topic_id = {{topic_id:String}} ORDER BY {IN_ORDER}",
            topic_id=self._topic_id,
        ):
            found.setdefault(partition, []).append(Row(*row))
        return found

    def _write(self, rows: Mapping[int, Sequence[Row]]) -> None:
        whose = f"{literal(self._topic_id)}, {literal(self._topic)}"
        values = [
            f"({whose}, {partition:d}, {row.first:d}, {row.end:d}, {row.epoch:d}, "
            f"{literal(row.what)}, fromUnixTimestamp64Milli({row.at_ms:d}, 'UTC'))"
            for partition, several in rows.items()
            for row in several
        ]
        if values:
            self._database.do(
                f"INSERT INTO {self._database.table(REWINDS)} "  # noqa: S608 - our names
                "(topic_id, topic, partition, first, end, epoch, what, at) "
                f"VALUES {', '.join(values)}",
                async_insert=0,
                insert_deduplicate=0,
            )

"""A rewind, decided and carried out.

The order in which it can die anywhere:

1. With the group empty, wait until no insert can be running that a stopped member left behind.
   Only then read commits and table, and decide; nothing but what was agreed to is done.
2. Record in `rewinds` what it is about to do, which is no cause of anything yet.
3. Commit a **mark** over all that will be taken out, at the target. From here on any consumer that
   starts finds a mend that was begun: it waits, looks at the table, inserts what is missing there
   and restores the views. So what is half taken out is put back, and nothing is lost or doubled.
4. Delete the rows, record that they are gone, rebuild the views, delete the ledger's lines. Before
   each deletion the mark is committed again: the broker refuses that once the group has a member,
   and a member that joins after it waits for as long as the deletion may still be sent (the
   insert's deadline, as for any write), and until the server has done with it.
5. Commit the target with nothing open, under a new epoch.
6. Record what was skipped by that.

Killed before 3 nothing is changed. Killed later, either a consumer puts it back, or the command is
run again and finishes: each step can be done twice. What counts of the records: `rewind_record`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from functools import partial

import urllib3
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError

from consumer.clickhouse import ClickHouseTable
from consumer.commands import ReadFailed
from consumer.config import ConsumerSettings
from consumer.ledger import ROWS_VERSION, Mark, Open
from consumer.ports import LogError
from consumer.recovery import Commit, Covered
from consumer.rewind_log import GroupLog, Joined
from consumer.rewind_plan import Refused, Step, Wanted, decide
from consumer.rewind_record import Record
from consumer.rewind_words import number
from schemas.connection import SchemaError, connect, first_line
from schemas.hold import Database
from schemas.rebuild import check_possible, rebuild, uptime_clock
from schemas.restore import Span, forget, remove
from schemas.tables import REBUILDABLE

_SAY_SECONDS = 5.0
_CLICKHOUSE = (ClickHouseError, urllib3.exceptions.HTTPError, OSError)

Target = str | int | tuple[int]  # earliest or latest; an offset; (a time in epoch milliseconds,)


class Begun(Exception):
    """It failed after something was changed."""


class NotRecorded(Exception):
    """It is done, and that it skipped something is not recorded."""


class Rewind:
    """One run of it. `say`: takes a line about how far it is."""

    def __init__(
        self, settings: ConsumerSettings, log: GroupLog, say: Callable[[str], None]
    ) -> None:
        self.settings = settings
        self.log = log
        self._say = say
        self._said_at = uptime_clock()
        self._table = ClickHouseTable(settings, uptime_clock)
        self._database = settings.clickhouse.database
        self._members_wait = (
            settings.limits.insert_deadline_seconds + settings.limits.insert_max_seconds
        )

    # --- deciding ----------------------------------------------------------------------------

    def has_members(self, members: int) -> str:
        return (
            f"the group {self.settings.kafka_group} has {number(members, 'member')}: stop every "
            "consumer first (SIGTERM, or scale them to 0); one that was killed leaves the group "
            f"after its session timeout ({self.settings.session_timeout_seconds:g} s)"
        )

    def decide(self, to: Target, only: Sequence[int] | None) -> list[Step]:
        """A step for each partition. Raises Refused, LogError, SchemaError."""
        commits = self.log.commits()
        unknown = sorted(set(only or ()) - commits.keys())
        if unknown:
            raise Refused(
                f"{self.settings.kafka_topic} has no partition {unknown[0]}: it has "
                f"{number(len(commits), 'partition')}"
            )
        chosen = {p: commits[p] for p in sorted(set(only) if only else commits)}
        wanted = self._wanted(to, chosen)
        return [self._step(p, commit, wanted[p]) for p, commit in chosen.items()]

    def _wanted(self, to: Target, commits: Mapping[int, Commit]) -> dict[int, Wanted]:
        match to:
            case "earliest":
                return {p: Wanted(commit.low, exact=False) for p, commit in commits.items()}
            case int():
                return {p: Wanted(to, exact=True) for p in commits}
            case (int() as time_ms,):
                found = self.log.at_time(time_ms, commits)
                if all(found[p] >= commit.high for p, commit in commits.items()):
                    raise Refused(
                        "no record was appended then or later: to go to the log's end, say latest"
                    )
                return {p: Wanted(offset, exact=False) for p, offset in found.items()}
            case _:
                return {p: Wanted(commit.high, exact=False) for p, commit in commits.items()}

    def _step(self, partition: int, commit: Commit, wanted: Wanted) -> Step:
        def read(offset: int) -> Sequence[Covered]:
            found = self._table.coverage(self.log.source(partition), offset, None, whole=True)
            if isinstance(found, ReadFailed):
                raise SchemaError(f"ClickHouse: {found.why}")
            return found.coverage.batches

        return decide(partition, commit, self.log.topic_id, wanted, read)

    def check_possible(self, steps: Sequence[Step]) -> None:
        """Raises SchemaError for what could not be brought to its end."""
        months = frozenset[str]().union(*(step.months for step in steps))
        with self._connected() as client:
            self._record(client).check_there()
            if months:
                # of the whole course: what is refused in its middle, no later run can finish
                seconds = self.settings.restore_seconds * (len(months) + 2 * len(steps) + 1)
                check_possible(client, self._database, months, REBUILDABLE, seconds)

    def wait(self) -> None:
        """Until every insert is over that a member of this group may have left behind."""
        seconds = self._members_wait
        until = uptime_clock() + seconds
        self._say(f"waiting {seconds:g} s, until no insert of a stopped consumer can be running")
        while (left := until - uptime_clock()) > 0:
            time.sleep(min(left, _SAY_SECONDS))
            if left > 2 * _SAY_SECONDS:
                self._say(f"waiting, {left - _SAY_SECONDS:.0f} s are left")

    def decide_again(self, agreed: Sequence[Step]) -> list[Step]:
        """What was agreed to, as it is now. Raises Refused where it is not the same any more."""
        members = self.log.members()
        if members:
            raise Refused(self.has_members(members))
        steps = []
        commits = self.log.commits()
        for before in agreed:
            wanted = Wanted(before.target, exact=True)
            step = self._step(before.partition, commits[before.partition], wanted)
            if (step.target, step.commit) != (before.target, before.commit):
                raise Refused(
                    f"partition {step.partition} has changed meanwhile: run it again, and look at "
                    "what it says"
                )
            steps.append(step)
        self.check_possible(steps)
        return steps

    # --- doing -------------------------------------------------------------------------------

    def carry_out(self, steps: Sequence[Step]) -> None:
        """Raises what `decide` does while nothing is changed, and Begun after that."""
        marked = [step for step in steps if step.removed]
        with self._connected() as client:
            record = self._record(client)
            at_ms = record.intend(steps)
            try:
                self._mark(marked, begun=False)
                self._take_out(client, record, marked)
                self._open(steps, at_ms)
            except Joined:
                record.not_begun()
                raise Refused(self.has_members(max(1, self.log.members()))) from None
            except KeyboardInterrupt:
                raise Begun("stopped") from None
            except (LogError, SchemaError) as error:
                raise Begun(str(error)) from error
            except _CLICKHOUSE as error:
                raise Begun(f"ClickHouse: {first_line(error)}") from error
            try:
                record.skipped(steps)
            except _CLICKHOUSE as error:
                raise NotRecorded(f"ClickHouse: {first_line(error)}") from error
            except KeyboardInterrupt:
                raise NotRecorded("stopped") from None

    def finish(self) -> None:
        """Record what a rewind skipped that was cut off after its last commit."""
        with self._connected() as client:
            record = self._record(client)
            record.check_there()
            for partition, first, end in record.finish(self.log.commits()):
                self._say(
                    f"partition {partition}: [{first}, {end}) was skipped by a rewind that was cut "
                    "off: it is recorded now"
                )

    def _record(self, client: Client) -> Record:
        server = Database(client, self._database)
        return Record(server, self.log.topic_id, self.settings.kafka_topic)

    def _mark(self, steps: Sequence[Step], *, begun: bool = True) -> None:
        """The fence before each deletion, too."""
        deadline = uptime_clock() + self.settings.limits.insert_deadline_seconds
        now_ms = int(time.time() * 1000)
        try:
            self.log.commit(
                {
                    step.partition: (
                        step.target,
                        Mark(
                            step.target, step.end, step.epoch, ROWS_VERSION, self.log.topic_id,
                            now_ms, now_ms,
                        ),
                    )
                    for step in steps
                }
            )  # fmt: skip
        except Joined:
            if not begun:
                raise
            raise Begun("a consumer has joined the group meanwhile") from None
        if uptime_clock() >= deadline:
            raise Begun("this program stood still for too long")

    def _take_out(self, client: Client, record: Record, steps: Sequence[Step]) -> None:
        seconds = self.settings.restore_seconds
        touched: set[str] = set()
        for step in steps:
            doing = (
                f"partition {step.partition}: removing {number(len(step.removed), 'batch')} of "
                f"[{step.target}, {step.end})"
            )
            self._say(doing)
            touched |= remove(
                client, self._database, self._span(step),
                seconds=seconds, fence=partial(self._mark, [step]),
                sleep=partial(self._pause, f"{doing}: the server is at it"),
            )  # fmt: skip
            record.removed(step)
        for count, month in enumerate(sorted(touched), 1):
            self._say(f"rebuilding the views of {month} ({count} of {len(touched)})")
            rebuild(
                client, self._database, month, REBUILDABLE,
                seconds=seconds, progress=self._say_at_times,
            )  # fmt: skip
        for step in steps:
            fence = partial(self._mark, [step])
            forget(client, self._database, self._span(step), seconds=seconds, fence=fence)

    def _span(self, step: Step) -> Span:
        return Span(self.log.topic_id, step.partition, step.target, step.end)

    def _say_at_times(self, text: str) -> None:
        if uptime_clock() - self._said_at >= _SAY_SECONDS:
            self._said_at = uptime_clock()
            self._say(text)

    def _pause(self, doing: str, seconds: float) -> None:
        self._say_at_times(doing)
        time.sleep(seconds)

    def _open(self, steps: Sequence[Step], at_ms: int) -> None:
        try:
            self.log.commit(
                {
                    step.partition: (
                        step.target,
                        Open(step.epoch, ROWS_VERSION, self.log.topic_id, at_ms),
                    )
                    for step in steps
                }
            )
        except Joined:
            if not any(step.removed for step in steps):
                raise
            raise Begun("a consumer has joined the group meanwhile") from None

    def _connected(self) -> closing[Client]:
        return closing(connect(self.settings.clickhouse))

"""Make one ClickHouse partition of the views again from `events`, exactly, beside running inserts.

The sums (`sessions_daily`, `pages_daily`) can come out wrong after a doubt: short where a view's
part of an insert was lost, too high where it was written twice. `events FINAL` is right, as it
knows each event by its id. So the partition is counted again from there, and put in place of the
old one. The difficulty is that batches go on landing in both while it is being counted.

The protocol, for a partition P and tables T. Nothing that readers see changes before step 6.

1. **Snapshot.** `ATTACH PARTITION P FROM events` into a scratch table: hard links to the parts of
   one moment. An insert's part is in it wholly or not at all. The names of the parts that `events`
   has are read just before, so whatever lies in a part of such a name is in the snapshot.
2. **Fill.** For each t in T a twin (`CREATE TABLE ... AS t`) is filled with the query of t's own
   view, over the snapshot FINAL in place of `events`. This is the work of minutes; nobody waits.
3. **Catch up**, again and again while that takes long: a new snapshot; the keys (the sorting key of
   `events`, which tells events apart) in parts of `events` that are new since the last one; those
   of them that the last snapshot lacks are counted from the new one, into the twins. So each key
   is counted once, whatever merges have done to parts and copies, and whatever the stamps say.
   (`sessions` is idempotent by id, and takes all the keys.) A merge makes the parts that it wrote
   new, so its keys are looked at once more, in memory: where a merge of 100 million rows ends in
   a rebuild, it takes some gigabytes.
4. **Hold** (schemas/hold.py). First a row in `rebuilds` says until when; then the constraint; then
   the inserts that had begun are seen to end. What is in `events` now is behind every view, unless
   its insert failed, and no row comes.
5. **Catch up** once more, from a snapshot under the hold. Now the twins are `events FINAL`.
6. **Replace.** `ALTER TABLE t REPLACE PARTITION ... FROM twin`, atomic for each t. The server
   itself refuses it past a moment well before the hold's end, because the partition is given as
   `tuple(if(now < fence, P, 190001))`: a rebuild that was suspended between its look at the clock
   and the send replaces nothing. Past the fence: again from 4, a bounded number of times.
7. **Release**, write `finished_at`, and drop the scratch tables.

**Killed anywhere** before 6, nothing was changed; between two replacements each table is either
old or right; inserts are refused until the hold's end at most. Scratch tables carry in their name
when their rebuild must be over: any later rebuild drops those, and constraints whose time is over.
Two rebuilds at once are two holds and two sets of twins, each right when it is put in place.

**The server killed** within 6 is worse, on a plain MergeTree: the new part is renamed into place
first, then an empty part that covers the old ones. Between the two renames (some milliseconds) a
kill leaves both, and the partition of that table doubled, until it is rebuilt again. The row in
`rebuilds` stays unfinished: `rebuilds.cut_off` names such partitions, and `penstock-schemas check`
prints them.

**Rows that go** meanwhile (a mutation, a dropped partition) would stay in the twins: unfinished
mutations are waited for at first, and a new one, or a part that no part covers any more, starts it
all again. Of copies of one event that differ in what the sums
count, which a client must not send, the one counted is that which the first snapshot kept.

**Days that may have lost events** to the TTL of `events` (schemas/expiry.py) cannot be counted, as
their sums keep what the rows no longer have. A rebuild of a month that has any is refused, or, with
`whole_days`, counts the other days and keeps the sums of these. They are read in step 5, under the
hold: every insert is then behind its view or has failed, so nothing of them is missed or doubled.
What a batch in doubt has left wrong in them stays wrong. A day counts as expiring if it does before
the rebuild must be over. Where another rebuild was at work meanwhile, the hold is tried again: what
was read of a kept day may be what that one has made right. Such a rebuild stands in `rebuilds` as
one in part.

**Replays.** REPLACE PARTITION leaves the deduplication log of a plain MergeTree as it is: a token
that had landed in the view stays taken. A batch whose rows were in `events`, and whose token was
*not* in the view's log, is counted by the rebuild, and its replay would count it again. Whoever
replays a batch that was in doubt asks `rebuilt_since` the time of its first attempt, after the
replay, and has those partitions rebuilt once more.

**Replicated tables** are refused. There REPLACE PARTITION removes the partition's block ids from
Keeper, so the replay of *any* batch would count again in the view; and an insert on another replica
may not know the constraint yet, and is not in this server's list. Stop ingestion for those, and
run what `penstock-schemas rebuild --by-hand` prints (schemas/by_hand.py).
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError, DatabaseError

from schemas import hold, rebuilds
from schemas.connection import SchemaError
from schemas.expiry import expiry, month_is_over
from schemas.hold import Database
from schemas.recount import Anew, Course, Heavy, Recount, Slow, drop_leftovers, drop_scratch
from schemas.tables import BATCHES, EVENTS, REBUILDABLE, SUMMED

HOLD_SECONDS = 10.0
_HOLDS = 5  # tries to replace before the hold's fence
_STARTS = 3  # times to begin anew when rows were removed meanwhile
_ROUNDS = 5  # of catching up without a hold
_QUICK_SECONDS = 1.0  # a round as short as this leaves little for the hold
_PAUSE_SECONDS = 0.01
_MARGIN_SECONDS = 60.0  # by which the last hold of a rebuild may outlast it
_NO_MONTH = 190001  # a partition that `events` cannot have
_BAD_ARGUMENTS, _TIMEOUT = 36, 159


@dataclass(frozen=True)
class Rebuilt:
    """What was made again. `rows` of `events`, copies included; `holds` that it took, 0 when there
    was nothing to do; `held_seconds` that inserts were refused in all; the days `kept` as they
    were."""

    partition: str
    tables: tuple[str, ...]
    rows: int
    holds: int
    held_seconds: float
    seconds: float
    kept: tuple[str, ...] = ()


class Refused(SchemaError):
    """It cannot be done here as things are: to try again would change nothing."""


class _Late(Exception):
    """The hold's fence was passed, or may have been: hold again."""


def uptime_clock() -> float:
    """Seconds on a clock that runs through suspend, where the system has one."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def rebuild(
    client: Client,
    database: str,
    partition: str,
    tables: Iterable[str] = SUMMED,
    *,
    seconds: float,
    hold_seconds: float = HOLD_SECONDS,
    expired: bool = False,
    whole_days: bool = False,
    progress: Callable[[str], None] | None = None,
    clock: Callable[[], float] = uptime_clock,
    sleep: Callable[[float], None] = time.sleep,
) -> Rebuilt:
    """Make `tables` again in one ClickHouse partition ('202611'), within `seconds`.

    Where the TTL of `events` may have taken rows: `expired` counts what is left of them;
    `whole_days` counts the other days, and keeps these (of the sums only). Raises ValueError for a
    partition or table that there is not, Refused, SchemaError when it could not be done (it can be
    tried again), and the client's errors. After any of these each table is as it was, or right.
    """
    wanted = frozenset(tables)
    check_names(partition, wanted)
    names = tuple(name for name in REBUILDABLE if name in wanted)
    server = Database(client, database)
    _refuse_replicated(server, names)
    kept: tuple[str, ...] = ()
    if whole_days and wanted <= set(SUMMED) and not expired:
        ending = expiry(server, partition, seconds + _MARGIN_SECONDS)
        kept = ending.days
        if month_is_over(ending, partition):
            return Rebuilt(partition, names, 0, 0, 0.0, 0.0, kept)
    elif not expired:
        _refuse_expired(server, partition, seconds + _MARGIN_SECONDS)
    course = Course(clock() + seconds, clock, sleep, progress or (lambda _: None))
    why = ""
    for _ in range(_STARTS):
        drop_leftovers(server)
        recount = Recount(server, partition, names, course, kept)
        try:
            return _rebuilt(recount, course, hold_seconds)
        except Anew as again:
            why = str(again)
            course.say(f"{why}: from the start again")
        finally:
            with contextlib.suppress(ClickHouseError):  # the next rebuild does it
                drop_scratch(server, recount.prefix)
    raise SchemaError(f"{partition} was not rebuilt: {why}, {_STARTS} times")


def check_names(partition: str, tables: Iterable[str]) -> None:
    """Raises ValueError with what is wrong with them."""
    if not re.fullmatch(r"20(1[5-9]|[2-9][0-9])(0[1-9]|1[0-2])", partition):
        raise ValueError(f"{partition!r} is not a ClickHouse partition: a month, like 202611")
    known = ", ".join(REBUILDABLE)
    for table in tables:
        if table == BATCHES:
            raise ValueError(
                f"{BATCHES} is the ledger, and has no months to be replaced: a reconcile writes "
                f"the rows that it lacks; what can be rebuilt is {known}"
            )
        if table not in REBUILDABLE:
            raise ValueError(f"no table {table!r} can be rebuilt: there are {known}")


def check_possible(
    client: Client, database: str, partitions: Iterable[str], tables: Iterable[str], seconds: float
) -> None:
    """Raises SchemaError when a rebuild of these would be refused, now or within `seconds`."""
    server = Database(client, database)
    _refuse_replicated(server, tables)
    for partition in sorted(set(partitions)):
        _refuse_expired(server, partition, seconds + _MARGIN_SECONDS)


def _rebuilt(recount: Recount, course: Course, hold_seconds: float) -> Rebuilt:
    """One course of the protocol, steps 1 to 7."""
    began, began_ms = course.clock(), recount.server.now_ms()
    rows = recount.begin()
    if not rows and not recount.targets_have_rows():
        seconds = course.clock() - began
        return Rebuilt(recount.partition, recount.tables, 0, 0, 0.0, seconds, recount.kept)
    took = recount.fill()
    for _ in range(_ROUNDS):
        if took <= _QUICK_SECONDS:
            break
        took = recount.catch_up()
    holds, held = _replaced(recount, course, hold_seconds, began_ms)
    return Rebuilt(
        recount.partition, recount.tables, recount.rows(), holds, held, course.clock() - began,
        recount.kept,
    )  # fmt: skip


def _replaced(
    recount: Recount, course: Course, hold_seconds: float, began_ms: int
) -> tuple[int, float]:
    """Steps 4 to 7: how many holds it took, and for how long they stood."""
    server, held = recount.server, 0.0
    why, too_heavy = "", 0

    def record(until_ms: int, *, finished: bool) -> None:
        rebuilds.write(
            server, recount.key, recount.partition, recount.tables,
            began_ms=began_ms, until_ms=until_ms, finished=finished, partly=bool(recount.kept),
        )  # fmt: skip

    for number in range(1, _HOLDS + 1):
        course.check()
        recount.prepare()
        recount.prepare_to_keep()
        placed_at = course.clock()
        until_ms = server.now_ms() + int(hold_seconds * 1000)
        record(until_ms, finished=False)
        name = hold.name(recount.key, until_ms)
        try:
            hold.place(server, name, until_ms)
            _under_hold(recount, course, placed_at, until_ms, hold_seconds)
            done = True
        except (_Late, Slow) as late:
            done, why = False, str(late)
            too_heavy += isinstance(late, Heavy)
        finally:
            with contextlib.suppress(ClickHouseError):  # it ends by itself
                hold.release(server, name)
            held += course.clock() - placed_at
        if done:
            record(until_ms, finished=True)
            return number, held
        course.say(f"{why}: inserts go on, and the hold is tried again")
        course.sleep(min(hold_seconds, 1.0) * number)
        recount.catch_up()
    kind = Refused if too_heavy == _HOLDS else SchemaError
    raise kind(f"{recount.partition} was not rebuilt: {why}, {_HOLDS} times")


def _under_hold(
    recount: Recount, course: Course, placed_at: float, until_ms: int, hold_seconds: float
) -> None:
    server = recount.server
    # the last part of the hold is left for a replacement that was sent in time to be over
    fence_ms = until_ms - int(hold_seconds * 300)
    running = hold.see_inserts_end(
        server,
        lambda: course.clock() - placed_at < hold_seconds * 0.4,
        lambda: course.sleep(_PAUSE_SECONDS),
    )
    if running:
        raise _Late(f"an insert did not end ({running})")
    recount.catch_up(until=placed_at + hold_seconds * 0.7)
    recount.keep_days(until=placed_at + hold_seconds * 0.7)
    held_since_ms = until_ms - int(hold_seconds * 1000)
    for table in recount.tables:
        recount.refuse_removals()
        if recount.kept and rebuilds.others_since(
            server, recount.key, recount.partition, held_since_ms
        ):
            raise _Late("another rebuild may have made the days again that are kept here")
        if server.now_ms() >= fence_ms:
            raise _Late("the hold was too short")
        _replace(recount, table, fence_ms)
        # answered before the fence, it was not refused by it; after, that cannot be told
        if server.now_ms() >= fence_ms:
            raise _Late("the replacement was answered late")
        course.say(f"{table}: replaced")


def _replace(recount: Recount, table: str, fence_ms: int) -> None:
    fenced = (
        f"tuple(if(toUnixTimestamp64Milli(now64(3)) < {fence_ms}, "
        f"{recount.partition}, {_NO_MONTH}))"
    )
    try:
        recount.server.do(
            f"ALTER TABLE {recount.server.table(table)} REPLACE PARTITION {fenced} "
            f"FROM {recount.source(table)}",
            lock_acquire_timeout=2,
            max_execution_time=2,
            # a month of which nothing is left; past the fence it is nothing for nothing
            allow_replace_partition_from_empty_source=1,
        )
    except DatabaseError as error:
        if error.code not in (_BAD_ARGUMENTS, _TIMEOUT):
            raise
        if recount.server.now_ms() < fence_ms:
            raise
        raise _Late("the hold was too short") from error


def _refuse_replicated(server: Database, tables: Iterable[str]) -> None:
    for name, engine in server.ask(
        "SELECT name, engine FROM system.tables "
        "WHERE database = {database:String} AND name IN {names:Array(String)}",
        database=server.name,
        names=[EVENTS, *tables],
    ):
        if engine.startswith(("Replicated", "Shared")):
            raise Refused(
                f"{server.table(name)} is replicated: replacing a partition there forgets which "
                "batches landed, so it is not done beside running inserts; with every consumer "
                "stopped, run what --by-hand prints"
            )


def _refuse_expired(server: Database, partition: str, seconds: float) -> None:
    ending = expiry(server, partition, seconds)
    if ending.days:
        raise Refused(
            f"rows of {partition} may have expired from {server.table(EVENTS)} (TTL "
            f"{ending.rule}), and a rebuild would take them out of the views too: --whole-days "
            "leaves the sums of such days as they are, --expired counts what is left of them"
        )

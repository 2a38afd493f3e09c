"""The preflight's questions to ClickHouse: tables and windows, settings, rights, clocks.

**Windows.** `schemas.check` finds a window that is missing or smaller than the layout's, on our
tables and on the target of every view that an insert reaches. Whether that is large enough depends
on the rate: an intent is replayed only while less than half of a window has passed since it. What
may lie between is the life of an insert (deadline and `max_execution_time`) and the time until a
successor has it (session timeout). Past that a batch is reconciled, which is as right and slower:
so a window that is too small for the rate is a warning.

**Clocks.** Ages are counted across clocks: an intent's time is one consumer's, a ledger row's the
server's, and whoever recovers compares both by its own, with a margin of five seconds. A consumer
that is at most half of that from the server's clock is at most all of it from another consumer's.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError, DatabaseError, ProgrammingError

from consumer.clickhouse import INSERT_SETTINGS
from consumer.config import ConsumerSettings
from consumer.findings import Finding, warning
from schemas.check import differences
from schemas.layout import quoted
from schemas.rebuilds import cut_off
from schemas.tables import (
    BATCHES,
    DEDUPLICATED,
    DEDUPLICATION_WINDOW,
    EVENTS,
    LANDING,
)

_CLOCK_WARNS_SECONDS = 1.0
_CLOCK_REFUSES_SECONDS = 2.5
_USUAL_PARTITIONS = 2  # of ClickHouse that a batch touches: events come late over a month's turn
_UNTRIED_PARTITIONS = 100  # more in one block are refused
_FATAL = {164, 452, 497}  # read-only, a constraint, no right

# Right by right, the tables it is needed on ("*": the database, "": the server).
_INSERTING = {"INSERT": (LANDING,), "SELECT": (EVENTS, BATCHES)}
_PLACES = {"*": "the database", "": "the server"}
# What a mend and a rebuild need: scratch tables, whose names nobody can know before, parts put in
# place, inserts held and looked at.
_MENDING = {
    "SELECT": ("*",),
    "INSERT": ("*",),
    "ALTER DELETE": ("*",),
    "ALTER CONSTRAINT": ("*",),
    "CREATE TABLE": ("*",),
    "DROP TABLE": ("*",),
    "TRUNCATE": ("*",),
    "SYSTEM MERGES": ("*",),
    "KILL QUERY": ("",),
}


def look(settings: ConsumerSettings, client: Client, members: int) -> list[Finding]:
    """Raises ClickHouseError when the server does not answer. `members`: of the group, if known."""
    database = settings.clickhouse.database
    found = list(_distributed(client, database))
    for difference in differences(client, database):
        if not any(difference.what.startswith(f"{table} ") for table, _ in found):
            found.append((difference.what, Finding(difference.what, difference.mend)))
    findings = [finding for _, finding in found]
    findings += _clock(client)
    if any(" is missing" in finding.what for finding in findings):
        return findings  # nothing can be tried on tables that are not there
    findings += _cut_off(client, database)
    rights = [*_rights(settings, client)]
    return [
        *findings,
        *rights,
        *([] if any(r.refuses for r in rights) else _insert(settings, client)),
        *_windows(settings, client, members),
    ]


def _cut_off(client: Client, database: str) -> Iterator[Finding]:
    """A server that was killed within a replacement can have left the old and the new."""
    for partition, tables in cut_off(client, database).items():
        yield warning(
            f"a rebuild of {', '.join(tables)} in ClickHouse partition {partition} was cut off: "
            "they can be wrong there",
            f"penstock-schemas rebuild --partition {partition} "
            + " ".join(f"--table {table}" for table in tables),
        )


def _distributed(client: Client, database: str) -> Iterator[tuple[str, Finding]]:
    rows = client.query(
        "SELECT name FROM system.tables WHERE database = {database:String} "
        "AND name IN {names:Array(String)} AND engine = 'Distributed' ORDER BY name",
        parameters={"database": database, "names": [LANDING, *DEDUPLICATED]},
    ).result_rows
    for (name,) in rows:
        full = f"{quoted(database)}.{name}"
        yield (
            full,
            Finding(
                f"{full} is a Distributed table: it acknowledges before its shards have the rows, "
                "and tokens are not shared across shards",
                "point PENSTOCK_CLICKHOUSE_URL at a shard's own tables",
            ),
        )


# --- settings ------------------------------------------------------------------------------------


def _insert(settings: ConsumerSettings, client: Client) -> Iterator[Finding]:
    """Whether the settings of our inserts hold, and whether an insert is let in: one of no rows."""
    pinned = {name: v for name, v in INSERT_SETTINGS.items() if name in client.server_settings}
    given: dict[str, object] = {
        **pinned,
        "insert_deduplication_token": "preflight",
        "max_execution_time": settings.limits.insert_max_seconds,
    }
    user = quoted(settings.clickhouse.username)
    try:
        read = ", ".join(f"toInt64(getSetting('{name}'))" for name in pinned)
        values = client.query(f"SELECT {read}", settings=given).result_rows[0]
        for (name, wanted), value in zip(pinned.items(), values, strict=True):
            if value != wanted:
                yield Finding(
                    f"{name} stays {value} where an insert asks for {wanted}",
                    f"ALTER USER {user} MODIFY SETTING {name} = {wanted}, and take it out of the "
                    "profiles that constrain it",
                )
        no_rows = (row for row in (b"",))
        client.raw_insert(LANDING, insert_block=no_rows, settings=given, fmt="JSONEachRow")
    except ClickHouseError as error:
        code = error.code if isinstance(error, DatabaseError) else None
        if code not in _FATAL and not isinstance(error, ProgrammingError):
            raise
        yield Finding(
            f"an insert of no rows, with the settings of every insert, is refused: {_line(error)}",
            f"let {user} write and change the settings of its inserts: ALTER USER {user} SETTINGS "
            "readonly = 0, and take these settings out of the profiles that constrain them",
        )


# --- rights --------------------------------------------------------------------------------------


def _rights(settings: ConsumerSettings, client: Client) -> Iterator[Finding]:
    database, user = quoted(settings.clickhouse.database), quoted(settings.clickhouse.username)
    for wanted, refuses, without in (
        (_INSERTING, True, "nothing can be inserted"),
        (_MENDING, False, "a batch that landed in part, or a view that is short, stays so"),
    ):
        lacking = {
            right: [on for on in places if not _granted(client, database, right, on)]
            for right, places in wanted.items()
        }
        lacking = {right: places for right, places in lacking.items() if places}
        if not lacking:
            continue
        shown = "; ".join(
            f"{right} on {', '.join(_PLACES.get(on, on) for on in places)}"
            for right, places in lacking.items()
        )
        here = ", ".join(right for right, places in lacking.items() if "" not in places)
        grants = [f"GRANT {here} ON {database}.* TO {user}"] if here else []
        grants += [f"GRANT {r} ON *.* TO {user}" for r, places in lacking.items() if "" in places]
        what = f"user {user} has no right to {shown}: {without}"
        yield Finding(what, "; ".join(grants), refuses)


def _granted(client: Client, database: str, right: str, on: str) -> bool:
    try:
        answer = client.query(f"CHECK GRANT {right} ON {_place(database, on)}").result_rows
    except DatabaseError as error:
        if error.code == 62:  # a server that does not know CHECK GRANT
            return True
        raise
    return int(str(answer[0][0])) == 1


def _place(database: str, on: str) -> str:
    return f"{database}.{on}" if on else "*.*"


# --- clocks and windows --------------------------------------------------------------------------


def _clock(client: Client) -> Iterator[Finding]:
    ahead, unsure = min((_ahead(client) for _ in range(3)), key=lambda pair: pair[1])
    off = abs(ahead) - unsure
    if off <= _CLOCK_WARNS_SECONDS:
        return
    direction = "ahead of" if ahead > 0 else "behind"
    yield Finding(
        f"the server's clock is {abs(ahead):.1f} seconds {direction} this machine's: whether a "
        "batch may still be replayed is counted across clocks",
        "synchronise both with NTP: timedatectl set-ntp true, or chronyc makestep",
        refuses=off > _CLOCK_REFUSES_SECONDS,
    )


def _ahead(client: Client) -> tuple[float, float]:
    """(seconds that the server is ahead, how far off that can be)."""
    began, before = time.time(), time.monotonic()
    theirs_ms = client.query("SELECT toUnixTimestamp64Milli(now64(3))").result_rows[0][0]
    half = (time.monotonic() - before) / 2
    return theirs_ms / 1000 - (began + half), half


def _windows(settings: ConsumerSettings, client: Client, members: int) -> Iterator[Finding]:
    limits = settings.limits
    span = (
        limits.insert_deadline_seconds
        + limits.insert_max_seconds
        + settings.session_timeout_seconds
    )
    touched = max(_USUAL_PARTITIONS, min(_UNTRIED_PARTITIONS, _touched(client)))
    rate = settings.shares.inserts_per_second * max(1, members) * touched
    needed = 2 * round(rate * span)
    if needed > DEDUPLICATION_WINDOW:
        yield from _too_small(settings, client, needed, rate, span)


def _touched(client: Client) -> int:
    """ClickHouse partitions that a batch touched in the last day, on the average, rounded up."""
    rows = client.query(
        "SELECT ceil(count() / greatest(1, uniq(topic_id, partition, first, end))) "  # noqa: S608
        f"FROM {BATCHES} WHERE landed_at > now() - INTERVAL 1 DAY"
    ).result_rows
    return int(rows[0][0])


def _too_small(
    settings: ConsumerSettings, client: Client, needed: int, rate: float, span: float
) -> Iterator[Finding]:
    database = settings.clickhouse.database
    rows = client.query(
        "SELECT name, engine, engine_full FROM system.tables "
        "WHERE database = {database:String} AND name IN {names:Array(String)} ORDER BY name",
        parameters={"database": database, "names": list(DEDUPLICATED)},
    ).result_rows
    for name, engine, engine_full in rows:
        kind = "replicated" if engine.startswith("Replicated") else "non_replicated"
        stated = re.search(rf"\b{kind}_deduplication_window = (\d+)", engine_full)
        entries = int(stated[1]) if stated else 0
        if entries >= needed:
            continue
        full = f"{quoted(database)}.{name}"
        yield warning(
            f"{full} has {kind}_deduplication_window = {entries}: at {rate:g} entries a second "
            f"half of it is over before the {span:g} seconds are in which a batch may have to be "
            "replayed, and then it is reconciled, which is slower",
            f"ALTER TABLE {full} MODIFY SETTING {kind}_deduplication_window = {needed}",
        )


def _line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:500]

"""Which days of a ClickHouse partition may have lost events to the TTL of `events`.

The sums of a day outlive its events, so they can be counted again only while all of these are
there. A TTL deletes by a time that it computes from each row. Where that takes `created_at` alone,
it is computed for each hour of the month; where it asks for more (a project's own rule, say), any
day may have lost some. A rule that was shorter once, and what it took then, is not known.
"""

from __future__ import annotations

import re
from calendar import monthrange
from collections.abc import Iterator
from dataclasses import dataclass

from clickhouse_connect.driver.exceptions import DatabaseError

from schemas.hold import Database
from schemas.layout import literal
from schemas.tables import EVENTS

_TTL = re.compile(r" TTL (.+?)(?: SETTINGS |$)", re.DOTALL)
_PIECE = re.compile(r"'(?:[^'\\]|\\.)*'|[(\[]|[)\]]|,|[^'()\[\],]+")
PASSING = frozenset({159, 202, 210, 241, 394})  # the server's trouble, and not the rule's
_DELETES_NOTHING = re.compile(
    r" (?:TO (?:DISK|VOLUME) (?:IF EXISTS )?'[^']*'|RECOMPRESS CODEC\(.+\))$"
)


@dataclass(frozen=True)
class Expiry:
    """`rule`: the TTL as the server writes it, empty where none deletes rows. `days`: those of the
    month ('2026-11-01') that may lack events, in order."""

    rule: str
    days: tuple[str, ...]


def expiry(server: Database, partition: str, seconds: float) -> Expiry:
    """Of the month ('202611'), by now and for `seconds` to come."""
    rules = deleting(server)
    if not rules:
        return Expiry("", days=())
    shown = ", ".join(rules)
    first, count = f"{partition[:4]}-{partition[4:]}-", _days_of(partition)
    over = " OR ".join(
        f"({parsed(rule)[0]}) <= now() + toIntervalSecond({seconds:.0f})" for rule in rules
    )
    try:
        found = server.ask(
            "SELECT toString(toDate(created_at)) AS day FROM ("  # noqa: S608
            f"SELECT toDateTime64({literal(first + '01 00:00:00')}, 3, 'UTC') "
            f"+ toIntervalHour(number) AS created_at FROM numbers({count * 24})) "
            f"GROUP BY day HAVING max({over}) ORDER BY day"
        )
    except DatabaseError as error:
        if error.code in PASSING:
            raise
        every = tuple(f"{first}{n:02}" for n in range(1, count + 1))
        return Expiry(shown, days=every)  # it asks for more than the time
    return Expiry(shown, days=tuple(str(day) for (day,) in found))


def month_is_over(expired: Expiry, partition: str) -> bool:
    """Whether every day of it may lack events."""
    return len(expired.days) == _days_of(partition)


def _days_of(partition: str) -> int:
    return monthrange(int(partition[:4]), int(partition[4:]))[1]


def deleting(server: Database) -> list[str]:
    """The rules of the TTL of `events` that delete rows, as the server writes them."""
    found = server.ask(
        "SELECT engine_full FROM system.tables "
        "WHERE database = {database:String} AND name = {name:String}",
        database=server.name,
        name=EVENTS,
    )
    ttl = _TTL.search(found[0][0]) if found else None
    return [rule for rule in _parts(ttl[1]) if not _DELETES_NOTHING.search(rule)] if ttl else []


def parsed(rule: str) -> tuple[str, str]:
    """Its time, and the condition on the rows that it deletes then, empty where it deletes all."""
    time, _, condition = rule.partition(" WHERE ")
    return time.removesuffix(" DELETE"), condition


def _parts(text: str) -> Iterator[str]:
    """What commas separate, but not those within brackets or quotes."""
    depth, part = 0, ""
    for piece in [*_PIECE.findall(text), ","]:
        depth += (piece in "([") - (piece in ")]")
        if piece == "," and not depth:
            yield part.strip()
            part = ""
        else:
            part += piece

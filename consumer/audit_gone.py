"""Events that are not in the table, line by line: erased, expired, resent, or lost.

A deletion that came later does not explain a part that is gone, nor does a TTL that is over for the
first day of its month: they explain the rows for which they hold. So where Kafka's log still has
the records, each line is accounted for: its id is in the table, or a deletion's condition or the
TTL's rule holds for the row that it makes (`erased.look`). One line that is none of these makes the
fault unexplained.

A line that was set aside is explained by its letter while its id is not in the table.

Where the log has them no more, or too many batches were read again, or a condition cannot be tried,
nobody can tell: such a fault counts as explained, and the cause says that it could not be checked.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import NamedTuple

from clickhouse_connect.driver.exceptions import DatabaseError

from consumer.audit_tables import Tables
from consumer.audit_tiles import Fault
from consumer.content import Content
from consumer.erased import Deletion, deletions, look
from consumer.placing import Placed, place
from schemas.expiry import PASSING, deleting, parsed
from schemas.hold import Database

_LINES_AT_ONCE = 5_000
_EVER = 1 << 62


class Line(NamedTuple):
    """`aside`: it has a letter that explains why it would not be in the table; `lettered`: it has
    one."""

    text: bytes
    aside: bool = False
    lettered: bool = False

    @property
    def place(self) -> Placed | None:
        """Where it falls; None where that cannot be read from it."""
        return place(self.text)


@dataclass
class Account:
    """What became of the events of a fault, but for those `aside`, which letters explain.
    `missing`: not in the table, and of no rule; where it is not 0, counting stopped there, unless
    something is `untold`: rules, each with why they say nothing of the rest. `unread`: nobody can
    say where they would be. `present`: ClickHouse partitions of those that are in the table.
    `letters`: of all lines."""

    events: int = 0
    aside: int = 0
    letters: int = 0
    missing: int = 0
    unread: int = 0
    gone: Counter[Deletion] = field(default_factory=Counter)
    present: set[str] = field(default_factory=set)
    untold: dict[Deletion, str] = field(default_factory=dict)

    @property
    def expired(self) -> bool:
        """Whether some are gone by the TTL's rules."""
        return any(rule.at_ms == _EVER for rule in self.gone)

    @property
    def whole(self) -> str:
        """Where none is missing."""
        if not self.gone:
            return f"each of its {self.events} events is in the table"
        return f"each of its {self.events} events is in the table, but for {self.said}"

    @property
    def said(self) -> str:
        """What became of those that are not in the table."""
        return ", ".join(
            f"{_named(each)} ({number} of its {self.events} events)"
            for each, number in self.gone.items()
        )


class Gone:
    """The rules by which rows go, and whose rows went by them. Raises the client's errors."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    @cached_property
    def deletions(self) -> list[Deletion]:
        return deletions(self._tables.client)

    def since(self, landed_ms: int) -> list[Deletion]:
        """Deletions of what had landed by then. The server has whole seconds."""
        return [each for each in self.deletions if each.at_ms + 999 >= landed_ms]

    @cached_property
    def expiries(self) -> list[Deletion]:
        """The rules of the TTL that delete rows."""
        client = self._tables.client
        return [_expiry(rule) for rule in deleting(Database(client, client.database or ""))]

    def erased(self, lines: Sequence[bytes]) -> bool:
        """Whether deletions on record hold for all of them."""
        looked = look(self._tables.client, lines, self.deletions)
        return all(by is not None for by in looked.by)

    def account(self, lines: Iterable[Line], rules: Sequence[Deletion], *, landed: bool) -> Account:
        """`landed`: the rows had been in the table when the deletions were made."""
        account, left = Account(), iter(lines)
        while some := list(islice(left, _LINES_AT_ONCE)):
            looked = look(self._tables.client, [line.text for line in some], rules, landed=landed)
            account.untold |= looked.untold
            self._count(account, some, looked.by)
            if account.missing and not account.untold and not any(r.elsewhere for r in rules):
                return account
        account.untold |= {r: "it asks other tables" for r in rules if r.elsewhere}
        return account

    def _count(
        self, account: Account, lines: Sequence[Line], by: Sequence[Deletion | None]
    ) -> None:
        places = [line.place for line in lines]
        there = Content(self._tables.client).there([where for where in places if where])
        aside = 0
        for where, line, rule in zip(places, lines, by, strict=True):
            if where is not None and where.id in there:
                account.present.add(where.partition)
            elif line.aside:
                aside += 1
            elif rule is not None:
                account.gone[rule] += 1
            elif where is None:
                account.unread += 1
            else:
                account.missing += 1
        account.aside += aside
        account.events += len(lines) - aside
        account.letters += sum(line.lettered for line in lines)

    # --- of a part that is gone ------------------------------------------------------------------

    def explain(self, fault: Fault, lines: Iterable[Line]) -> str | None:
        """Why the table has no row of a part, by the lines that the log has of it."""
        rules = [*self.since(fault.landed_ms), *self.expiries]
        account = self.account(lines, rules, landed=True)
        if account.missing:
            return self.untold(account)
        if account.events < fault.rows <= account.events + account.aside:
            return None  # so many had landed: not all of these were set aside
        if account.events < fault.rows and rules:
            return self.unchecked(fault, f"Kafka's log has {account.events} of its events")
        if account.gone.total() == account.events > 0:
            return account.said
        return f"resends: {account.whole}" if account.events else None

    def untold(self, account: Account) -> str | None:
        """Why nobody can tell what became of those that are missing."""
        what = f"{account.missing} of its {account.events} events"
        for each, why in account.untold.items():
            return f"{_named(each)}: could not be checked for {what}: {why}"
        return None

    def unchecked(self, fault: Fault, why: str) -> str | None:
        """Why it may be, where its lines cannot be looked at."""
        for rule in self.expiries:
            over = self._over(rule, fault.clickhouse_partition)
            if over == (True, True):
                return _named(rule)
            if over is None or over[0]:
                return f"{_named(rule)}: could not be checked for each row: {why}"
        for each in self.since(fault.landed_ms):
            return f"{_named(each)}: could not be checked: {why}"
        return None

    def _over(self, rule: Deletion, month: str) -> tuple[bool, bool] | None:
        """Whether the first and the last row that the month can have have expired; None where the
        rule asks more than a time: nobody can say for a whole ClickHouse partition."""
        if not re.fullmatch(r"\d{6}", month):
            return False, False
        try:
            rows = self._tables.rows(
                f"SELECT {rule.condition} FROM (SELECT arrayJoin([first, addMonths(first, 1) "  # noqa: S608
                "- INTERVAL 1 SECOND]) AS created_at, created_at AS received_at FROM "
                "(SELECT toDateTime64({first:String}, 3, 'UTC') AS first)) ORDER BY created_at",
                first=f"{month[:4]}-{month[4:]}-01 00:00:00",
            )
        except DatabaseError as error:
            if error.code in PASSING:
                raise
            return None
        return bool(rows[0][0]), bool(rows[1][0])


def _named(rule: Deletion) -> str:
    return rule.command if rule.at_ms == _EVER else f"erasure: {rule.command}"


def _expiry(rule: str) -> Deletion:
    at, where = parsed(rule)
    condition = f"(toDateTime({at}) <= now())" + (f" AND ({where})" if where else "")
    return Deletion(_EVER, f"TTL {rule}", condition)

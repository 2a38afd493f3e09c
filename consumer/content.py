"""What the lines of a batch hold, and what the table has of them.

Only after a doubt: the happy path never looks into a line. A line that cannot be read here is in no
ClickHouse partition; whether it is bad is for `schemas.record` to say.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import msgspec
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError

from consumer.batch import Batch, Letter
from consumer.by_number import not_quoted, read_before, unreadable
from consumer.commands import Sifted
from consumer.erased import deletions, look
from consumer.ledger import Source
from schemas.logs import fact
from schemas.record import Fault, faults
from schemas.tables import EVENTS, clickhouse_partition

log = logging.getLogger("consumer.content")

# created_at first: it prunes to the few parts and granules that can hold a batch's rows.
_BETWEEN = (
    "created_at >= fromUnixTimestamp64Milli({least:Int64}, 'UTC') "
    "AND created_at <= fromUnixTimestamp64Milli({most:Int64}, 'UTC')"
)
_STAMPED = (
    f"{_BETWEEN} AND _topic_id = {{topic_id:String}} AND _partition = {{partition:UInt32}} "
    "AND _first = {first:UInt64} AND _end = {end:UInt64} AND _epoch = {epoch:UInt32}"
)
_IDS_AT_ONCE = 2_000  # in a statement's text, which has a limit
_MOST_RESENDS = 5_000
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_VIEW = re.compile(r"while pushing to view `?(\w+)`?\.`?(\w+)`?")
_LOOKS = 2_000  # tries of a view, in a search for the rows that it cannot take


T = TypeVar("T")


class _Line(msgspec.Struct):
    id: str
    created_at: int


@dataclass(frozen=True, slots=True)
class Placed:
    """Where a line falls: its id, its time (epoch milliseconds), and its ClickHouse partition.

    Only a line with an id that ClickHouse takes, and that it could have landed with, is placed."""

    id: str
    created_at: int
    partition: str


def placed(batch: Batch) -> Iterator[Placed | None]:
    """Of each line, in order; None where that cannot be read from it."""
    decode = msgspec.json.Decoder(_Line).decode
    for text in batch.lines():
        try:
            line = decode(text)
            partition = clickhouse_partition(line.created_at)
        except (msgspec.MsgspecError, ValueError):
            yield None
            continue
        event_id = line.id.lower()
        yield Placed(event_id, line.created_at, partition) if _UUID.fullmatch(event_id) else None


class Content:
    """Questions about a batch's lines, asked of the table. Raises what the client raises."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def missing(self, source: Source, batch: Batch, epoch: int) -> tuple[set[str], set[str]]:
        """ClickHouse partitions that the batch maps to and that have no row of it; and all that it
        maps to."""
        lines: dict[str, list[Placed]] = {}
        for line in placed(batch):
            if line is not None:
                lines.setdefault(line.partition, []).append(line)
        stamped = {
            row[0]
            for row in self._stamped(
                "DISTINCT _partition_id", source, batch, epoch,
                [line for several in lines.values() for line in several],
            )
        }  # fmt: skip
        unstamped = lines.keys() - stamped
        return {p for p in unstamped if not self._all_there(lines[p])}, set(lines)

    def _all_there(self, lines: list[Placed]) -> bool:
        """Whether the table has every one of these ids, whoever brought it. A batch of resends
        collapses into the rows that came before it, and can lose its last stamp so."""
        wanted = {line.id for line in lines}
        return len(wanted) <= _MOST_RESENDS and wanted <= self.there(lines)

    def there(self, lines: list[Placed], *, anywhere: bool = False) -> set[str]:
        """Those of the ids that the table has. `anywhere`: whatever their time is there."""
        found: set[str] = set()
        for some in _parts(lines):
            rows = self._client.query(
                f"SELECT DISTINCT toString(id) FROM {EVENTS} "
                f"WHERE {'1' if anywhere else _BETWEEN} AND {_among(some)}",
                parameters=_times(some),
            ).result_rows
            found |= {row[0] for row in rows}
        return found

    def _stamped(
        self, what: str, source: Source, batch: Batch, epoch: int, lines: list[Placed],
        only: str = "",
    ) -> Sequence[Sequence[str]]:  # fmt: skip
        """Of the rows that this very batch brought."""
        if not lines:
            return ()
        rows: Sequence[Sequence[str]] = self._client.query(
            f"SELECT {what} FROM {EVENTS} WHERE {_STAMPED} {only}",
            parameters={**_times(lines), **_stamp(source, batch, epoch)},
        ).result_rows
        return rows

    def sift(self, batch: Batch, landed: frozenset[str], *, by_ids: bool) -> Sifted:
        """See `commands.Sift`. A line that cannot be placed is kept: a refusal will show it. One
        that a deletion on record erased is not: see `erased`."""
        lines = list(placed(batch))
        partitions = frozenset(line.partition for line in lines if line is not None)
        if by_ids:
            there = self.there([line for line in lines if line is not None], anywhere=True)
            wanted = [line is None or line.id not in there for line in lines]
        else:
            wanted = [line is None or line.partition not in landed for line in lines]
        self._keep_erased(batch, lines, wanted)
        return Sifted(batch.only(wanted) if any(wanted) else None, partitions)

    def _keep_erased(
        self, batch: Batch, lines: Sequence[Placed | None], wanted: list[bool]
    ) -> None:
        """Of the lines that are wanted, those that were erased are wanted no more."""
        asked = [i for i, line in enumerate(lines) if wanted[i] and line is not None]
        on_record = deletions(self._client) if asked else []
        if not on_record:
            return
        texts = list(batch.lines())
        looked = look(
            self._client, [texts[i] for i in asked], on_record, unknown_ms=batch.oldest_append_ms
        )
        place: dict[str, object] = {"first": batch.first, "end": batch.end}
        for each, why in looked.untold.items():
            what = "a deletion could not be tried: lines that it may have erased are inserted"
            fact(log, logging.WARNING, what, deletion=each.command[:500], why=why, **place,
                 mend="delete them once more when the mend is over")  # fmt: skip
        for i, by in zip(asked, looked.by, strict=True):
            wanted[i] = by is None
        for each, erased in Counter(filter(None, looked.by)).items():
            fact(log, logging.INFO, "erased lines are left out", lines=erased, **place,
                 deletion=each.command[:500])  # fmt: skip

    def letters(
        self,
        source: Source,
        batch: Batch,
        refusal: str,
        landed_epoch: int | None,
        settings: Mapping[str, int],
    ) -> tuple[Letter, ...]:
        """See `commands.Isolate`: the lines that are at fault by themselves; or else the row that
        ClickHouse named, with those like it. Where a view on `events` threw, the rows that it
        cannot take, and no others: ClickHouse has read every line, so a line that is at fault by
        our rules alone is in the table already. For the same reason, and because looking costs
        about what reading does, the lines before the row that could not be read are not looked at.
        `settings`: those of an insert."""
        origins = list(batch.origins())
        view = None if landed_epoch is None else self._view(refusal)
        if view is not None and landed_epoch is not None:
            found = self._thrown_out(view, source, batch, landed_epoch)
        else:
            lines = [text for _, _, text in origins]
            read = read_before(refusal)
            found = {read + index: fault for index, fault in faults(lines[read:])}
            if read and read not in found:  # what is wrong with that row is not for us to say
                found |= faults(lines[:read])
            if not found:
                named = unreadable(self._client, settings, lines, refusal)
                found = {index: Fault("refused", why) for index, why in named.items()}
        if not found:
            return ()
        in_table = self._in_table(source, batch, landed_epoch, found)
        return tuple(
            Letter(
                *origins[index],
                fault.reason,
                fault.error,
                index in in_table,
                in_table.get(index, ""),
            )
            for index, fault in sorted(found.items())
        )

    def _thrown_out(self, view: str, source: Source, batch: Batch, epoch: int) -> dict[int, Fault]:
        """The rows that a view on `events` cannot take. They are in the table when it throws, so
        its SELECT is tried on them there, on ever fewer: nothing is inserted for it."""
        lines = {i: line for i, line in enumerate(placed(batch)) if line is not None}
        found: dict[int, Fault] = {}
        looks = 0
        suspects = _parts(list(lines))
        while suspects and looks < _LOOKS:
            some = suspects.pop()
            looks += 1
            why = self._refusal(view, source, batch, epoch, [lines[i] for i in some])
            if not why:
                continue
            if len(some) == 1:
                found[some[0]] = Fault("refused", why)
            else:
                half = len(some) // 2
                suspects += [some[half:], some[:half]]
        return found

    def _view(self, refusal: str) -> str | None:
        """The SELECT of the view on `events` that threw, over `{rows}` instead of `events`."""
        for database, name in _VIEW.findall(not_quoted(refusal)):
            rows = self._client.query(
                "SELECT as_select FROM system.tables "
                "WHERE database = {database:String} AND name = {name:String}",
                parameters={"database": database, "name": name},
            ).result_rows
            of_events = re.compile(rf"\bFROM `?{database}`?\.`?{EVENTS}`?(?= AS | *$|\s)")
            select = rows[0][0] if rows else ""
            if len(of_events.findall(select)) == 1:
                source = of_events.search(select)
                assert source is not None
                before, after = select[: source.start()], select[source.end() :]
                alias = "" if after.lstrip().startswith("AS ") else f" AS {EVENTS}"
                return f"{before}FROM {{rows}}{alias}{after}"
        return None

    def _refusal(
        self, view: str, source: Source, batch: Batch, epoch: int, lines: list[Placed]
    ) -> str:
        """Why the view cannot take these rows; empty where it can."""
        rows = f"(SELECT * FROM {EVENTS} WHERE {_STAMPED} AND {_among(lines)})"
        try:
            self._client.raw_query(
                view.replace("{rows}", rows),
                parameters={**_stamp(source, batch, epoch), **_times(lines)},
                fmt="Null",
            )
        except DatabaseError as error:
            return (str(error).strip() or "refused").splitlines()[0][:1000]
        return ""

    def _in_table(
        self, source: Source, batch: Batch, epoch: int | None, found: Mapping[int, Fault]
    ) -> dict[int, str]:
        """Those lines of which the row itself is in the table, brought by this batch, and in which
        ClickHouse partition."""
        if epoch is None:
            return {}
        lines = {i: line for i, line in enumerate(placed(batch)) if i in found and line is not None}
        there: set[str] = set()
        for some in _parts(list(lines.values())):
            what, among = "DISTINCT toString(id)", f"AND {_among(some)}"
            rows = self._stamped(what, source, batch, epoch, some, among)
            there |= {row[0] for row in rows}
        return {i: line.partition for i, line in lines.items() if line.id in there}


def _parts(items: list[T]) -> list[list[T]]:
    return [items[at : at + _IDS_AT_ONCE] for at in range(0, len(items), _IDS_AT_ONCE)]


def _among(lines: Iterable[Placed]) -> str:
    """In the text, not as a parameter: so many the client would send as a form. They are UUIDs."""
    return f"id IN ({', '.join(sorted({repr(line.id) for line in lines}))})"


def _stamp(source: Source, batch: Batch, epoch: int) -> dict[str, object]:
    return {
        "topic_id": source.topic_id,
        "partition": source.partition,
        "first": batch.first,
        "end": batch.end,
        "epoch": epoch,
    }


def _times(lines: Iterable[Placed]) -> dict[str, int]:
    times = [line.created_at for line in lines]
    return {"least": min(times), "most": max(times)} if times else {}

"""What the lines of a batch hold, and what the table has of them.

Only after a doubt: the happy path never looks into a line.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence

from clickhouse_connect.driver.client import Client

from consumer.batch import Batch, Letter
from consumer.by_number import read_before, unreadable
from consumer.commands import Sifted
from consumer.erased import deletions, look
from consumer.ledger import Source
from consumer.placing import BETWEEN, STAMPED, Placed, among, parts, place, placed, stamp, times
from consumer.thrown import thrown_out, view_of
from schemas.logs import fact
from schemas.record import Fault, faults
from schemas.tables import EVENTS

log = logging.getLogger("consumer.content")

_MOST_RESENDS = 5_000


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
        for some in parts(lines):
            rows = self._client.query(
                f"SELECT DISTINCT toString(id) FROM {EVENTS} "
                f"WHERE {'1' if anywhere else BETWEEN} AND {among(some)}",
                parameters=times(some),
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
            f"SELECT {what} FROM {EVENTS} WHERE {STAMPED} {only}",
            parameters={**times(lines), **stamp(source, batch, epoch)},
        ).result_rows
        return rows

    def sift(self, batch: Batch, landed: frozenset[str], *, by_ids: bool) -> Sifted:
        """See `commands.Sift`. A line that cannot be placed is kept: it has not landed, and a
        refusal will show it. One that a deletion on record erased is not: see `erased`."""
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
        view = None if landed_epoch is None else view_of(self._client, refusal)
        if view is not None and landed_epoch is not None:
            found = thrown_out(self._client, view, source, batch, landed_epoch)
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
        where = {index: place(origins[index][2]) for index in found}
        in_table = self._in_table(source, batch, landed_epoch, where)
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

    def _in_table(
        self, source: Source, batch: Batch, epoch: int | None, found: Mapping[int, Placed | None]
    ) -> dict[int, str]:
        """Those lines of which the row itself is in the table, brought by this batch, and in which
        ClickHouse partition."""
        if epoch is None:
            return {}
        lines = {index: line for index, line in found.items() if line is not None}
        there: set[str] = set()
        for some in parts(list(lines.values())):
            what, only = "DISTINCT toString(id)", f"AND {among(some)}"
            rows = self._stamped(what, source, batch, epoch, some, only)
            there |= {row[0] for row in rows}
        return {i: line.partition for i, line in lines.items() if line.id in there}

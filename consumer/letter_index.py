"""What stands in the dead-letter topic, by identity, however much that is.

The topic is the only record of what was done with a letter, so it is read whole before anything is
said of it. A letter that was written twice is one; a marker settles it wherever the two stand; a
letter that stands where a replay put an event has **returned**: the fix did not help.

The topic can be long and is not held in memory: the index is a private database in a temporary
file, of which a few megabytes are in memory at a time, and it does not have the letters' bytes.
Those are read again where they are needed, a page at a time (`letter_topic`).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

_CACHE_KIB = 8 * 1024
_ERROR_CHARACTERS = 200  # of each: the record has it whole
_MOST = (1 << 63) - 1

_TABLES = """
CREATE TABLE letters (
    topic_id TEXT, partition INT, offset INT, line INT, topic TEXT, reason TEXT, error TEXT,
    at_ms INT, in_table INT, bytes INT, stands_in INT, stands_at INT, copies INT DEFAULT 1,
    UNIQUE (topic_id, partition, offset, line)
);
CREATE TABLE markers (
    topic_id TEXT, partition INT, offset INT, line INT, done TEXT, settled_ms INT,
    to_topic_id TEXT, to_partition INT, to_offset INT,
    PRIMARY KEY (topic_id, partition, offset, line)
) WITHOUT ROWID;
CREATE TABLE arrivals (
    topic_id TEXT, partition INT, offset INT,
    from_topic_id TEXT, from_partition INT, from_offset INT, from_line INT,
    PRIMARY KEY (topic_id, partition, offset)
) WITHOUT ROWID;
CREATE TABLE chosen (number INTEGER PRIMARY KEY, letter INT);
"""
# Of two copies the first is it, unless only the later one was found to be in the table.
_ADD_LETTER = """
INSERT INTO letters VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 1)
ON CONFLICT (topic_id, partition, offset, line) DO UPDATE SET copies = copies + 1
"""
_FOUND_IN_TABLE = """
UPDATE letters SET topic = ?, reason = ?, error = ?, at_ms = ?, in_table = 1, bytes = ?,
    stands_in = ?, stands_at = ?
WHERE (topic_id, partition, offset, line) = (?, ?, ?, ?) AND NOT in_table
"""
_OF_CHOSEN = "FROM chosen JOIN letters ON letters.rowid = chosen.letter"
_WITH_MARKER = "LEFT JOIN markers USING (topic_id, partition, offset, line)"
_CAME_BACK = """
EXISTS (
    SELECT 1 FROM arrivals AS a WHERE (a.topic_id, a.partition, a.offset)
        = (letters.topic_id, letters.partition, letters.offset)
    AND (a.from_topic_id, a.from_partition, a.from_offset, a.from_line)
        != (letters.topic_id, letters.partition, letters.offset, letters.line)
)
"""


class Identity(NamedTuple):
    """Which line of which record. A topic id tells a topic from a later one of the same name."""

    topic_id: str
    partition: int
    offset: int
    line: int


class Position(NamedTuple):
    topic_id: str
    partition: int
    offset: int


@dataclass(frozen=True, slots=True)
class Marker:
    """What was done with a letter, and when (epoch milliseconds); of a replay also where to."""

    identity: Identity
    done: str  # replayed, dropped
    at_ms: int
    to: Position | None = None


@dataclass(frozen=True, slots=True)
class Letter:
    """What is said of a letter. `stands_at`: its partition and offset in the topic of letters."""

    identity: Identity
    topic: str
    reason: str
    error: str
    at_ms: int
    in_table: bool
    stands_at: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Stored(Letter):
    """A letter's record."""

    value: bytes


@dataclass(frozen=True, slots=True)
class Listed(Letter):
    """A letter as the index knows it. `error` is its beginning; `size`: the bytes of its line."""

    size: int
    copies: int
    marker: Marker | None


@dataclass(frozen=True)
class Filter:
    """Which letters; nothing given lets every open one through. `since_ms`: epoch milliseconds."""

    reasons: Sequence[str] = ()
    partitions: Sequence[int] = ()
    since_ms: int | None = None
    settled_too: bool = False
    limit: int | None = None


class Index:
    """Everything in the topic that was `add`ed. Not for several threads; `close` ends it.

    `choose` fixes what the rest is about. Raises sqlite3.Error where there is no room for it.
    """

    def __init__(self) -> None:
        self.strangers = 0  # records that are neither
        self._base = sqlite3.connect("", isolation_level=None)
        for pragma in (f"cache_size = -{_CACHE_KIB}", "journal_mode = OFF", "synchronous = OFF"):
            self._base.execute(f"PRAGMA {pragma}")
        self._base.executescript(_TABLES)
        self._base.execute("BEGIN")  # never committed, as it ends with the connection

    def close(self) -> None:
        self._base.close()

    def add(self, record: Stored | Marker | None) -> None:
        if record is None:
            self.strangers += 1
        elif isinstance(record, Marker):
            to = record.to or (None, None, None)
            self._base.execute(
                "INSERT OR IGNORE INTO markers VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (*record.identity, record.done, record.at_ms, *to),
            )
            if record.to is not None:
                self._base.execute(
                    "INSERT OR REPLACE INTO arrivals VALUES (?, ?, ?, ?, ?, ?, ?)",
                    (*record.to, *record.identity),
                )
        else:
            said = (record.topic, record.reason, record.error[:_ERROR_CHARACTERS], record.at_ms)
            stands = (len(record.value), *record.stands_at)
            self._base.execute(_ADD_LETTER, (*record.identity, *said, record.in_table, *stands))
            if record.in_table:
                self._base.execute(_FOUND_IN_TABLE, (*said, *stands, *record.identity))

    @property
    def letters(self) -> int:
        return self._count("SELECT count(*) FROM letters")

    def returns(self, identity: Identity) -> int:
        """How often the event was replayed before it came to be this letter."""
        passed = {identity}
        before = self._arrived_from(identity)
        while before is not None and before not in passed:  # only a forged marker makes a circle
            passed.add(before)
            before = self._arrived_from(before)
        return len(passed) - 1

    def _arrived_from(self, identity: Identity) -> Identity | None:
        found = self._base.execute(
            "SELECT from_topic_id, from_partition, from_offset, from_line FROM arrivals "
            "WHERE (topic_id, partition, offset) = (?, ?, ?)",
            identity[:3],
        ).fetchone()
        return None if found is None else Identity(*found)

    # --- what was chosen ---------------------------------------------------------------------

    def choose(self, among: Filter) -> int:
        """Those that the filter lets through now, the oldest first; how many."""
        conditions, values = ["TRUE"], list[object]()
        if not among.settled_too:
            conditions.append("done IS NULL")
        for column, wanted in (("reason", among.reasons), ("partition", among.partitions)):
            if wanted:
                some = [each for each in wanted if isinstance(each, str) or abs(each) <= _MOST]
                conditions.append(f"{column} IN ({', '.join('?' * len(some))})")
                values += some
        if among.since_ms is not None:
            conditions.append("at_ms >= ?")
            values.append(among.since_ms)
        values.append(-1 if among.limit is None else min(among.limit, _MOST))
        self._base.execute("DELETE FROM chosen")
        self._base.execute(
            f"INSERT INTO chosen (letter) SELECT letters.rowid FROM letters {_WITH_MARKER} "  # noqa: S608 - our words
            f"WHERE {' AND '.join(conditions)} "
            "ORDER BY at_ms, topic_id, partition, offset, line LIMIT ?",
            values,
        )
        return self._count("SELECT count(*) FROM chosen")

    def leave_in_table(self) -> int:
        """Take those out that are in the table; how many."""
        return self._leave("in_table")

    def leave_settled(self) -> int:
        """Take those out that were settled since they were chosen; how many."""
        return self._leave("done IS NOT NULL")

    def _leave(self, condition: str) -> int:
        return self._base.execute(
            f"DELETE FROM chosen WHERE number IN (SELECT number {_OF_CHOSEN} {_WITH_MARKER} "  # noqa: S608
            f"WHERE {condition})"
        ).rowcount

    def chosen(self) -> Iterator[Listed]:
        for row in self._base.execute(
            "SELECT topic_id, partition, offset, line, topic, reason, error, at_ms, in_table, "
            "bytes, stands_in, stands_at, copies, done, settled_ms, to_topic_id, to_partition, "
            f"to_offset {_OF_CHOSEN} {_WITH_MARKER} ORDER BY number"
        ):
            topic, reason, error, at_ms, in_table, size, *stands_at, copies = row[4:13]
            done, settled_ms, *to = row[13:]
            identity, marker = Identity(*row[:4]), None
            if done is not None:
                place = None if to[0] is None else Position(*to)
                marker = Marker(identity, done, settled_ms, place)
            yield Listed(
                identity, topic, reason, error, at_ms, bool(in_table),
                (stands_at[0], stands_at[1]), size, copies, marker,
            )  # fmt: skip

    def pages(self, most: int, most_bytes: int) -> Iterator[list[Listed]]:
        """What was chosen, in pages of so many letters and so many bytes, but one at least."""
        page, size = list[Listed](), 0
        for letter in self.chosen():
            if page and (len(page) == most or size + letter.size > most_bytes):
                yield page
                page, size = [], 0
            page.append(letter)
            size += letter.size
        if page:
            yield page

    def came_back(self) -> int:
        """How many of those chosen stand where a replay put an event."""
        return self._count(f"SELECT count(*) {_OF_CHOSEN} WHERE {_CAME_BACK}")

    def reasons(self) -> list[tuple[str, int]]:
        """Of those chosen, the most frequent first."""
        return self._base.execute(
            f"SELECT reason, count(*) AS of_it {_OF_CHOSEN} GROUP BY reason "
            "ORDER BY of_it DESC, reason"
        ).fetchall()

    def partitions(self) -> list[int]:
        """Of the events, those that the chosen letters are of."""
        found = self._base.execute(f"SELECT DISTINCT partition {_OF_CHOSEN} ORDER BY partition")
        return [row[0] for row in found]

    def _count(self, query: str) -> int:
        return int(self._base.execute(query).fetchone()[0])

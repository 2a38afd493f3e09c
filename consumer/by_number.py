"""Lines that ClickHouse refuses by their number, and that nothing here explains.

A refusal names one row, the first that could not be read, and says nothing of those after it. To
learn of them by inserting again would take as many inserts as there are bad lines, and past the
insert's deadline it would begin anew.

Mostly one member is to blame: someone made its column narrower, or dropped it. The refusal names
that too. So of the lines behind, the server reads this member again and nothing else, each of its
values once, numbered and with errors allowed: what does not come back, it cannot read. A value is
read alike whatever stands beside it. Whole lines would have to go as a statement's text, which
costs more than inserting them. Lines that another member spoils the next insert names.

Where that does not find the line that was named, the lines that follow it are read as they are and
thrown away, from one bad line to the next: `null()` is a table function that takes rows of any
columns and keeps none. Given those of the landing table, it reads them as an insert does.

A constraint's refusal names its row too, but reading asks no constraint: of such lines each insert
finds one.
"""

from __future__ import annotations

import re
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence

import msgspec
import orjson
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError

from consumer.reading import ERRORS_ALLOWED, GAP, parts, structure
from schemas.connection import told
from schemas.layout import literal

_AT_ONCE = 2_000  # lines at first: twice as many after good ones, near a bad line's distance else
_LEAST_AT_ONCE = 200
_TOLD = 1_000  # characters of what the server said, in a letter
_SECONDS = 10.0  # what is not found by then, the next insert names
_READ_ALONE = 16  # values of which the server is asked what it has against each
# A number in a text that is quoted must not be taken for the server's own: a constraint's stands
# before what it quotes, a row's after.
_CONSTRAINT = re.compile(r"[^:]*code: 469,.*? is violated at row (\d+)\.", re.DOTALL)
_AT_ROW = re.compile(r"\(at row (\d+)\)")
_MEMBER = re.compile(
    r"(?:\(while reading the value of key ([^()]+)\)|"
    r"Unknown field found while parsing JSONEachRow format: ([^():]+)): \(at row \d+\)"
)


def row_of(refusal: str) -> int | None:
    """The index of the row that a refusal names."""
    if (broken := _CONSTRAINT.match(refusal)) is not None:
        return int(broken[1]) - 1
    named = _AT_ROW.findall(refusal)
    return int(named[-1]) - 1 if named else None


def read_before(refusal: str) -> int:
    """How many lines, from the first on, the server had read when it came to one that it could not.
    None, where something else than reading failed: a constraint is checked when all is read, and
    names the first row of those that break this one."""
    return 0 if _CONSTRAINT.match(refusal) else row_of(refusal) or 0


def not_quoted(refusal: str) -> str:
    """What a refusal says behind the text of the row that it quotes."""
    return _AT_ROW.split(refusal)[-1]


def member_of(refusal: str) -> str | None:
    """The member that could not be read in the row that a refusal names."""
    named = _MEMBER.findall(refusal)
    return "".join(named[-1]) if named else None


def unreadable(
    client: Client, settings: Mapping[str, int], lines: Sequence[bytes], refusal: str
) -> dict[int, str]:
    """The line that was named, and those after it that the server cannot read either; each with
    what it said. `settings`: those of an insert. Each line has to be one object."""
    named = row_of(refusal)
    if named is None or not 0 <= named < len(lines):
        return {}
    found = {named: refusal[:_TOLD]}
    if _CONSTRAINT.match(refusal):
        return found
    reader = _Reader(client, settings)
    member = member_of(refusal)
    alike = {} if member is None else _alike(reader, lines, named, member, refusal)
    return alike or {**found, **_one_by_one(reader, lines, named + 1)}


class _Reader:
    """The server as one that reads lines, as an insert into the landing table would."""

    def __init__(self, client: Client, settings: Mapping[str, int]) -> None:
        self._client = client
        self._settings = settings
        self._structure = structure(client)
        self._until = time.monotonic() + _SECONDS

    def in_time(self) -> bool:
        return time.monotonic() < self._until

    def refusal(self, lines: Sequence[bytes]) -> str:
        """What the server says of these lines. Empty where it can read them."""
        try:
            self._client.raw_insert(
                f"FUNCTION null({literal(self._structure)})",
                insert_block=b"\n".join(lines),
                fmt="JSONEachRow",
                settings=dict(self._settings),
            )
        except DatabaseError as error:
            return told(error)
        except UnicodeDecodeError:  # the client's, where a quoted letter is cut in half
            return "a line cannot be read"
        return ""

    def unread(self, texts: Sequence[str]) -> list[int]:
        """Those of the texts, each an object without its first brace, that it cannot read."""
        columns = literal(f"{self._structure}, `_line` UInt64")
        numbered = [f'{{"_line":{index},{text}{GAP}'.encode() for index, text in enumerate(texts)]
        found: list[int] = []
        for some in parts(numbered):
            if not self.in_time():
                break
            text = literal(b"\n".join(numbered[some.start : some.stop]).decode())
            # one value: an answer that broke off is none
            asked = f"SELECT groupArray(_line) FROM format(JSONEachRow, {columns}, {text})"  # noqa: S608
            try:
                answer = self._client.raw_query(
                    asked, fmt="JSONCompactEachRow",
                    settings={**self._settings, **ERRORS_ALLOWED,
                              "max_query_size": len(asked.encode()) + 1_000,
                              "output_format_json_quote_64bit_integers": 0},
                )  # fmt: skip
                (read,) = orjson.loads(answer)
            except (DatabaseError, orjson.JSONDecodeError):
                continue  # no right to do this, perhaps, or a value that is too long
            found += sorted({*some} - {*read})
        return found


def _alike(
    reader: _Reader, lines: Sequence[bytes], named: int, member: str, refusal: str
) -> dict[int, str]:
    """The line that was named and those after it in which the server cannot read this member.
    Nothing, where it can read the one of the line that was named."""
    bearers = _bearers(lines, named, member)
    texts = [f"{orjson.dumps(member).decode()}:{value}}}" for value in bearers]
    several = list(bearers.values())
    unread = reader.unread(texts)
    if unread[:1] != [0] or named not in several[0]:
        return {}
    others = f"ClickHouse could not read it; of another line of this batch it said: {refusal}"
    said = [refusal]
    for index in unread[1 : _READ_ALONE + 1]:
        if not reader.in_time():
            break
        why = reader.refusal([b"{" + texts[index].encode()])
        if not why:
            return {}  # so what did not come back says nothing
        said.append(others if row_of(why) is None else why)
    said += [others] * (len(unread) - len(said))
    return {
        line: why[:_TOLD]
        for index, why in zip(unread, said, strict=True)
        for line in several[index]
    }


def _bearers(lines: Sequence[bytes], first: int, member: str) -> dict[str, list[int]]:
    """The texts that this member has in the lines from `first` on, and which lines have each."""
    value = ("value", msgspec.Raw, msgspec.field(default=msgspec.Raw(), name=member))
    decode = msgspec.json.Decoder(msgspec.defstruct("_Line", [value])).decode
    found: defaultdict[str, list[int]] = defaultdict(list)
    for index in range(first, len(lines)):
        try:
            text = bytes(decode(lines[index]).value).decode()  # type: ignore[attr-defined]
        except (msgspec.MsgspecError, ValueError, RecursionError):
            continue  # raw control characters, perhaps
        if text:
            found[text].append(index)
    return found


def _one_by_one(reader: _Reader, lines: Sequence[bytes], at: int) -> dict[int, str]:
    """The lines from there on that the server cannot read."""
    found: dict[int, str] = {}
    size = _AT_ONCE
    while at < len(lines) and reader.in_time():
        some = lines[at : at + size]
        why = reader.refusal(some)
        if why:
            row = row_of(why)
            if row is None or not 0 <= row < len(some):
                break  # no right to do this, perhaps
            found[at + row] = why[:_TOLD]
            at += row + 1
            size = max(_LEAST_AT_ONCE, 2 * row)
        else:
            at += size
            size *= 2
    return found

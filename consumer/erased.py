"""Deletions on record, and whose lines they are: an erased row must stay erased.

Rows that a person deleted from `events` (`ALTER TABLE ... DELETE`, or lightweight `DELETE FROM`)
leave the ledger's line and, where no row of a batch is left in a ClickHouse partition, no stamp. A
mend cannot tell that from a part that was lost, and reads the batch again. The server keeps what it
was told to delete in `system.mutations`; so each line is tried on the conditions there, as the row
that the landing view would make of it, on the server and without inserting it.

A line is erased by a deletion when its condition holds for the row and the event was received
before the deletion was made: what came later is another event. Of a line that does not say when it
was received, the record's time in Kafka does; where neither does, it is taken to be older.

| a deletion | is |
|---|---|
| that names a stamp (`_topic_id`, `_first`, ...) | no erasure: it takes out batches, as a rewind |
| that was killed | none |
| with `now()`, `today()` and the like | tried with the time at which it was made |
| that asks other tables | tried on them as they are now |
| that is not deterministic, or that the server cannot evaluate (a table is gone) | **untold** |

Lines that only an untold deletion may have erased are inserted, and a warning names it. The other
choice would lose events for good as soon as one such deletion is on record and a part is lost;
what comes back is taken out by the same deletion, given once more.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec
import orjson
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError, OperationalError

from consumer.errors import unanswered
from consumer.reading import ERRORS_ALLOWED, GAP, parts, structure
from schemas.connection import first_line
from schemas.layout import literal
from schemas.tables import EVENTS, LANDING

_TOLD = 300  # characters of why a deletion could not be tried
_AT_ONCE = 1_000  # lines, and as many conditions

_LITERAL = r"'(?:[^'\\]|\\.)*'"
_STAMPS = re.compile(r"\b_(topic_id|partition|first|end|epoch)\b")
_COMMAND = re.compile(
    r"(?:DELETE|UPDATE _row_exists = 0)(?: IN PARTITION (?P<where>.+?))? WHERE (?P<rule>.+)",
    re.DOTALL,
)
_MONTH = re.compile(r"(?:ID )?'?(\d{6})'?")
# What the condition said when it was made, and what it may say of the same row another time.
_NOW = re.compile(
    rf"(?P<literal>{_LITERAL})|"
    r"\b(?P<name>now|now64|today|yesterday|curdate|current_date)\((?P<given>[^()]*)\)",
    re.IGNORECASE,
)
_CHANGING = re.compile(
    r"\b(rand\w*|generate\w+|rowNumber\w+|block(Number|Size)|nowInBlock\w*|neighbor|"
    r"runningDifference\w*|arrayShuffle|arrayRandomSample|fuzzBits|utc_?timestamp)\(|"
    r"\b(localtime|current_timestamp)",
    re.IGNORECASE,
)
_ELSEWHERE = re.compile(
    r"\b(SELECT|dictGet|dictHas|dictIsIn|joinGet|IN \(?[A-Za-z_`\"][\w.`\"]*(?![\w.`\"(]))"
)
_READING = {
    **ERRORS_ALLOWED,  # a line that cannot be read is nobody's
    "input_format_skip_unknown_fields": 1,
    "input_format_parallel_parsing": 0,
}


@dataclass(frozen=True, slots=True)
class Deletion:
    """`at_ms`: when it was made, by the server's clock in whole seconds. `condition`: of a row,
    empty where it cannot be told. `elsewhere`: it asks other tables, which may have changed."""

    at_ms: int
    command: str
    condition: str
    elsewhere: bool = False


@dataclass(frozen=True, slots=True)
class Looked:
    """`by`: of each line the deletion that erased it, or None. `untold`: those that could not be
    tried on these lines, each with the reason."""

    by: list[Deletion | None]
    untold: dict[Deletion, str] = field(default_factory=dict)


class _Received(msgspec.Struct):
    received_at: int = 0


_received = msgspec.json.Decoder(_Received)


def deletions(client: Client) -> list[Deletion]:
    """Those of rows of `events` that the server has on record, and that are not by stamps. It keeps
    the last 100 that are done (`finished_mutations_to_keep`)."""
    rows = client.query(
        "SELECT toUnixTimestamp(create_time), command FROM system.mutations "
        "WHERE database = currentDatabase() AND table = {table:String} "
        "AND match(command, '^[( ]*(DELETE|UPDATE _row_exists = 0) ') "
        "AND NOT is_killed ORDER BY create_time, mutation_id",
        parameters={"table": EVENTS},
    ).result_rows
    found = [_read(int(at) * 1000, str(command)) for at, command in rows]
    return [each for each in found if not _STAMPS.search(_without_literals(each.command))]


def _read(at_ms: int, said: str) -> Deletion:
    command = said.strip()
    if command.startswith("("):
        command = command[1:].removesuffix(")")
    found = _COMMAND.fullmatch(command)
    month = _MONTH.fullmatch(found["where"]) if found is not None and found["where"] else None
    bare = _without_literals(command)
    if found is None or (found["where"] and month is None) or _CHANGING.search(bare):
        return Deletion(at_ms, command, "")
    condition = f"({_as_of(at_ms // 1000, found['rule'])})"
    if month is not None:
        condition = f"_partition_id = '{month[1]}' AND {condition}"
    elsewhere = _ELSEWHERE.search(_without_literals(found["rule"]))
    return Deletion(at_ms, command, condition, elsewhere is not None)


def _without_literals(text: str) -> str:
    return re.sub(_LITERAL, "''", text)


def _as_of(seconds: int, condition: str) -> str:
    """The condition at that time."""

    def then(found: re.Match[str]) -> str:
        if found["literal"]:
            return found["literal"]
        name, given = found["name"].lower(), found["given"].strip()
        if name == "now":
            return f"toDateTime({seconds}{', ' * bool(given)}{given})"
        if name == "now64":
            return f"toDateTime64({seconds}, {given or 3})"
        day = f"toDate(toDateTime({seconds}))"
        return f"({day} - 1)" if name == "yesterday" else day

    return _NOW.sub(then, condition)


def look(
    client: Client,
    lines: Sequence[bytes],
    on_record: Sequence[Deletion],
    *,
    unknown_ms: int = 0,
    landed: bool = False,
) -> Looked:
    """Which of the lines they erased. `unknown_ms`: when a line came that does not say so (0:
    nobody knows). `landed`: they were in the table before, whenever they were received.

    Raises what the client raises, but for what a deletion is to blame for."""
    came = [0 if landed else _received_ms(line) or unknown_ms for line in lines]
    asked = [each for each in on_record if came and min(came) < each.at_ms]
    looked = Looked([None] * len(lines))
    if not asked:
        return looked
    rows = _landing(client)
    told = []
    for each in asked:
        why = "it cannot be told of a row alone" if not each.condition else ""
        why = why or _why_not(client, rows, each)
        if why:
            looked.untold[each] = why
        else:
            told.append(each)
    for some in parts(lines, _AT_ONCE) if told else ():
        text = _numbered(lines, came, some)
        for several in parts([each.condition for each in told], _AT_ONCE):
            tried = told[several.start : several.stop]
            try:
                found = _holds(client, rows, text, tried)
            except DatabaseError as error:  # one of them, on one of the rows; or two of one alias
                if unanswered(error):
                    raise
                found = _one_by_one(client, rows, text, tried, looked)
            for index, each in found.items():
                looked.by[index] = each
    return looked


def _received_ms(line: bytes) -> int:
    try:
        return _received.decode(line).received_at
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return 0


def _why_not(client: Client, rows: str, deletion: Deletion) -> str:
    """Why the server cannot evaluate it, tried on no row."""
    try:
        _holds(client, rows, "", [deletion])
    except DatabaseError as error:
        if unanswered(error):
            raise
        return first_line(error)[:_TOLD]
    return ""


def _one_by_one(
    client: Client, rows: str, text: str, told: Sequence[Deletion], looked: Looked
) -> dict[int, Deletion]:
    found: dict[int, Deletion] = {}
    for each in told:
        try:
            found |= _holds(client, rows, text, [each])
        except DatabaseError as error:
            if unanswered(error):
                raise
            looked.untold[each] = first_line(error)[:_TOLD]
    return found


def _holds(client: Client, rows: str, text: str, told: Sequence[Deletion]) -> dict[int, Deletion]:
    """Of the numbered lines in `text` those that one of them erased, and which."""
    cases = ", ".join(
        f"(_came < {each.at_ms}) AND ({each.condition}), {number}"
        for number, each in enumerate(told, 1)
    )
    given = rows.replace(_TEXT, literal(text))
    asked = (
        f"SELECT _line, multiIf({cases}, 0) AS _by FROM "  # noqa: S608
        f"(SELECT *, toString(toYYYYMM(created_at)) AS _partition_id FROM ({given})) AS {EVENTS} "
        "WHERE _by > 0"
    )
    answer = client.raw_query(
        asked, fmt="JSONCompactEachRow",
        settings={**_READING, "max_query_size": len(asked.encode()) + 1_000,
                  "output_format_json_quote_64bit_integers": 0},
    )  # fmt: skip
    try:
        return {index: told[by - 1] for index, by in map(orjson.loads, answer.splitlines())}
    except orjson.JSONDecodeError:
        raise OperationalError("an answer broke off") from None


_TEXT = "{the lines}"


def _landing(client: Client) -> str:
    """What the landing view makes of lines, with the members that `_numbered` adds; _TEXT stands
    for them. Raises DatabaseError where there is no such view: then nothing can be inserted."""
    views = client.query(
        "SELECT as_select, database FROM system.tables WHERE database = currentDatabase() "
        "AND name = concat({landing:String}, '_mv')",
        parameters={"landing": LANDING},
    ).result_rows
    if len(views) != 1:
        raise DatabaseError(f"there is no view {LANDING}_mv")
    select, database = views[0]
    columns = literal(f"{structure(client)}, `_line` UInt64, `_came` Int64")
    source = re.compile(rf"\s+FROM `?{re.escape(database)}`?\.`?{LANDING}`?(?= AS |\s|$)")
    given = f", _line, _came FROM format(JSONEachRow, {columns}, {_TEXT})"
    return source.sub(lambda _: given, str(select), count=1)


def _numbered(lines: Sequence[bytes], came: Sequence[int], some: range) -> str:
    """These lines, each with its number and when it came. What is not UTF-8 is left out: it is not
    inserted either."""
    found = []
    for index in some:
        members = lines[index].strip().removeprefix(b"{")
        try:
            found.append(f'{{"_line":{index},"_came":{came[index]},{members.decode()}{GAP}')
        except UnicodeDecodeError:
            continue
    return "\n".join(found)

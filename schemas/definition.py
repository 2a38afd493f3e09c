"""What a CREATE statement says, read from the one-line form that ClickHouse itself gives it.

Both sides of a comparison come in that form: the layout's statement through the server's
`formatQuerySingleLine`, the live table from `system.tables.create_table_query`. So there is nothing
here about spaces, quotes or the names of types: the server has put them the same way.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

_TABLE = re.compile(r"^CREATE TABLE (?:IF NOT EXISTS )?(?P<name>\S+) (?:UUID '\S+' )?\(")
_VIEW = re.compile(
    r"^CREATE MATERIALIZED VIEW (?:IF NOT EXISTS )?(?P<name>\S+) (?:TO (?P<target>\S+) )?"
)
_CLAUSE = re.compile(r" (PARTITION BY|PRIMARY KEY|ORDER BY|SAMPLE BY|TTL|SETTINGS|COMMENT) ")


@dataclass(frozen=True)
class Table:
    """`columns` and `constraints` by name; `engine` without Replicated, `arguments` without the
    path and replica of a replicated one; `keys` by clause (PARTITION BY, PRIMARY KEY, ORDER BY)."""

    columns: Mapping[str, str]
    constraints: Mapping[str, str]
    engine: str
    arguments: str
    replicated: bool
    keys: Mapping[str, str]
    settings: Mapping[str, str] = field(default_factory=dict)

    def key(self, clause: str) -> str:
        """A primary key that is not given is the sorting key."""
        by_default = self.keys.get("ORDER BY", "") if clause == "PRIMARY KEY" else ""
        return self.keys.get(clause, by_default)


@dataclass(frozen=True)
class View:
    """A materialized view. `target` is None for one that keeps its rows itself."""

    target: str | None
    query: str


def table(statement: str) -> Table:
    """Raises ValueError when the statement is not the CREATE TABLE of a table with columns."""
    start = _TABLE.match(statement)
    if start is None:
        raise ValueError(f"not a table: {statement[:80]}")
    inside, rest = _closed(statement[start.end() :])
    columns: dict[str, str] = {}
    constraints: dict[str, str] = {}
    for part in split(inside):
        word, _, text = part.partition(" ")
        if word == "CONSTRAINT":
            name, _, rule = text.partition(" CHECK ")
            constraints[name] = rule
        elif word not in ("INDEX", "PROJECTION"):
            columns[word.strip("`")] = split(text, " ")[0]
    _, _, engine = rest.partition(" ENGINE = ")
    head, *clauses = _CLAUSE.split(engine)
    found = dict(zip(clauses[::2], (c.strip() for c in clauses[1::2]), strict=True))
    name, arguments, is_replicated = _engine(head)
    return Table(
        columns=columns,
        constraints=constraints,
        engine=name,
        arguments=arguments,
        replicated=is_replicated,
        keys={
            clause: _unwrapped(found[clause])
            for clause in ("PARTITION BY", "PRIMARY KEY", "ORDER BY")
            if clause in found
        },
        settings=dict(_setting(s) for s in split(found.get("SETTINGS", ""))),
    )


def view(statement: str) -> View:
    """Raises ValueError when the statement is not that of a materialized view."""
    start = _VIEW.match(statement)
    if start is None:
        raise ValueError(f"not a materialized view: {statement[:80]}")
    rest = statement[start.end() :]
    if rest.startswith("("):  # the server lists the columns here
        _, rest = _closed(rest[1:])
    _, _, query = (" " + rest).partition(" AS ")
    return View(start["target"], query)


def split(text: str, separator: str = ",") -> list[str]:
    """Cut at separators that are in no bracket and no quotes; empty parts are dropped."""
    cuts = [-1, *(at for at, depth in _plain(text) if depth == 0 and text[at] == separator)]
    ends = [*cuts[1:], len(text)]
    parts = (text[cut + 1 : end].strip() for cut, end in zip(cuts, ends, strict=True))
    return [part for part in parts if part]


def _closed(text: str) -> tuple[str, str]:
    """`text` begins inside a bracket: what is in it, and what comes after."""
    for at, depth in _plain(text):
        if depth == -1:
            return text[:at], text[at + 1 :]
    raise ValueError(f"a bracket is not closed: {text[:80]}")


def _plain(text: str) -> Iterator[tuple[int, int]]:
    """Each position outside of quotes, with the bracket depth after its letter."""
    depth, quote, escaped = 0, "", False
    for at, letter in enumerate(text):
        if quote:
            if escaped:
                escaped = False
            elif letter == "\\":
                escaped = True
            elif letter == quote:
                quote = ""
            continue
        if letter in "'`":
            quote = letter
            continue
        depth += (letter in "([") - (letter in ")]")
        yield at, depth


def _engine(head: str) -> tuple[str, str, bool]:
    name, bracket, rest = head.strip().strip("`").partition("(")
    arguments = split(_closed(rest)[0]) if bracket else []
    short = re.sub(r"^(Replicated|Shared)", "", name)
    is_replicated = short != name
    if is_replicated and len(arguments) >= 2 and arguments[0].startswith("'"):
        arguments = arguments[2:]
    return short, ", ".join(arguments), is_replicated


def _unwrapped(key: str) -> str:
    """`(a, b)` as `a, b`, and `tuple()` as nothing, as system.tables shows a key."""
    if key == "tuple()":
        return ""
    if key.startswith("("):
        inside, rest = _closed(key[1:])
        if not rest:
            return inside
    return key


def _setting(text: str) -> tuple[str, str]:
    name, _, value = text.partition(" = ")
    return name, value

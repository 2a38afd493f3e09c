"""The layouts: folders of numbered SQL files, one statement a file, applied in that order.

A file is plain SQL for one server, as a DBA would pipe it into clickhouse-client. Everything else
is derived from its text by small replacements that a test can read:

- **qualified**: every table of the layout gets its database's name, so that a statement means the
  same whatever the connection's own database is;
- **replicated** (`--cluster NAME`): `ON CLUSTER`, `Replicated...MergeTree`, and the deduplication
  windows of replicated tables in place of the other. Their defaults would be 10 000 entries and one
  hour; they are set explicitly, since what may be replayed is decided from them.

That works because the files keep to a form: `CREATE TABLE IF NOT EXISTS name`, `ENGINE = Name` at
the start of a line, and tables of the layout named after CREATE, TO and FROM.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from schemas.tables import DEDUPLICATION_WINDOW_SECONDS

FOLDER = Path(__file__).with_name("layouts")
LAYOUTS = ("hybrid",)

_NAMED = re.compile(
    r"\b(?P<word>TABLE IF NOT EXISTS|VIEW IF NOT EXISTS|TO|FROM)(?P<space>\s+)(?P<name>[a-z]\w*)\b"
)
_CREATED = re.compile(
    r"^(?P<create>CREATE (?:TABLE|MATERIALIZED VIEW|VIEW) IF NOT EXISTS \S+)", re.M
)
_ENGINE = re.compile(r"^ENGINE = (?P<name>\w*MergeTree)(?:\((?P<arguments>[^)]*)\))?", re.M)
_WINDOW = re.compile(r"\bnon_replicated_deduplication_window = (?P<entries>\d+)")


@dataclass(frozen=True)
class Migration:
    """One file of a layout: `name` is its file name, `creates` the table or view it makes."""

    name: str
    sql: str

    @property
    def checksum(self) -> str:
        """Of the statement alone: comments and spaces may be changed at any time."""
        return hashlib.sha256(" ".join(_plain(self.sql).split()).encode()).hexdigest()

    @property
    def creates(self) -> str:
        found = _CREATED.search(self.sql)
        if found is None:
            raise ValueError(f"{self.name} does not begin with CREATE ... IF NOT EXISTS")
        return found["create"].split()[-1]

    def statement(self, database: str, cluster: str | None = None) -> str:
        """The statement for one database, on one server or on every server of a cluster."""
        sql = qualified(self.sql, database)
        return sql if cluster is None else replicated(sql, cluster)


def read(layout: str = "hybrid") -> tuple[Migration, ...]:
    """The files of a layout, in the order in which they are applied."""
    files = sorted((FOLDER / layout).glob("*.sql"))
    if not files:
        raise ValueError(f"there is no layout {layout!r}")
    return tuple(Migration(file.name, file.read_text(encoding="utf-8")) for file in files)


def quoted(name: str) -> str:
    """A name as an identifier, as `clickhouse-client` would show it."""
    if re.fullmatch(r"[A-Za-z_]\w*", name):
        return name
    return "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"


def literal(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def qualified(sql: str, database: str) -> str:
    """Name the database of every table. Comments are dropped: they may hold the same words."""
    return _NAMED.sub(
        lambda m: f"{m['word']}{m['space']}{quoted(database)}.{m['name']}", _plain(sql)
    )


def _plain(sql: str) -> str:
    """Without comments, empty lines and the semicolon."""
    lines = (_uncommented(line) for line in sql.splitlines())
    return "\n".join(line for line in lines if line).rstrip(";\n ")


def _uncommented(line: str) -> str:
    """The line up to `--`. No text of a layout holds two dashes, which a test makes sure of."""
    return line.split("--", 1)[0].rstrip()


def replicated(sql: str, cluster: str) -> str:
    """The replicated form of a qualified statement."""
    sql = _CREATED.sub(lambda m: f"{m['create']} ON CLUSTER {literal(cluster)}", sql)
    sql = _ENGINE.sub(_replicated_engine, sql)
    return _WINDOW.sub(
        lambda m: (
            f"replicated_deduplication_window = {m['entries']}, "
            f"replicated_deduplication_window_seconds = {DEDUPLICATION_WINDOW_SECONDS}"
        ),
        sql,
    )


def _replicated_engine(found: re.Match[str]) -> str:
    arguments = ["'/clickhouse/tables/{uuid}/{shard}'", "'{replica}'"]
    if found["arguments"]:
        arguments.append(found["arguments"])
    return f"ENGINE = Replicated{found['name']}({', '.join(arguments)})"

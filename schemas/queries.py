"""Named queries: plain SQL files in `queries/`, each beginning with `-- name:` and its parameters.

They name the layout's tables without a database, and are run on a connection that has one.
Parameters are the server's own (`{project_id:String}`), so nothing is ever put into the text.
"""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).with_name("queries")


def names() -> tuple[str, ...]:
    return tuple(sorted(file.stem for file in FOLDER.glob("*.sql")))


def load(name: str) -> str:
    """The text of a named query, without a semicolon. Raises KeyError for an unknown name."""
    if name not in names():
        raise KeyError(f"no query is named {name!r}; there are {', '.join(names())}")
    text = (FOLDER / f"{name}.sql").read_text(encoding="utf-8").strip().rstrip(";")
    if not text.startswith(f"-- name: {name}\n"):
        raise ValueError(f"{name}.sql must begin with '-- name: {name}'")
    return text

"""chDB in its three generations, behind one call.

- *connected* (26.x): one engine in the process, any number of connections that run in parallel.
  A connection costs 0.15 ms, so every request has its own and no setting, temporary table or
  current database can leak from one request into the next.
- *serial* (25.x): the same, but a running query keeps Python's lock, so nothing else moves.
- *stateless* (24.x): every statement opens the data folder, runs and closes it, in a child
  process (0.3 s), because an engine that was opened twice in one process crashes in DROP.

The last two are there to test the protocol against older engines, one statement at a time; the
trial stack runs on the first.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.local.front.statement import DataInsert

_CODE = re.compile(r"Code: (\d+)\.")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*\Z")


_ONE_STATEMENT = """
import json, os, sys, chdb
path, fmt = sys.argv[1:]
try:
    result = chdb.query(sys.stdin.buffer.read(), fmt, path=path)
    head = {"rows": result.rows_read(), "bytes": result.bytes_read(),
            "elapsed_ns": int(result.elapsed() * 1e9)}
    body = result.bytes() or b""
except UnicodeDecodeError as error:
    head, body = {"error": error.object.decode(errors="backslashreplace")}, b""
except Exception as error:
    head, body = {"error": str(error)}, b""
sys.stdout.buffer.write(json.dumps(head).encode() + b"\\n" + body)
sys.stdout.buffer.flush()
os._exit(0)  # this engine crashes in its own clean-up at exit
"""


class EngineError(Exception):
    """What the engine said, with its code (1002 when it gave none)."""

    def __init__(self, message: str) -> None:
        at = message.find("Code: ")
        self.text = message[at:].strip() if at >= 0 else message.strip()
        found = _CODE.match(self.text)
        self.code = int(found.group(1)) if found else 1002
        if not found:
            self.text = f"Code: {self.code}. DB::Exception: {self.text}"
        super().__init__(self.text)


@dataclass(frozen=True, slots=True)
class Outcome:
    body: bytes
    read_rows: int
    read_bytes: int
    written_rows: int
    written_bytes: int
    elapsed_ns: int


@dataclass(frozen=True, slots=True)
class Call:
    """One statement (bytes, or an insert with the path of its rows) and what surrounds it."""

    statement: bytes | tuple[DataInsert, str]
    format: str
    database: str
    settings: Mapping[str, str]


def quote(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _assignments(settings: Mapping[str, str]) -> str:
    """`a = 'x', b = 'y'`. The engine turns quoted numbers back into numbers."""
    for name in settings:
        if not _NAME.match(name):
            raise EngineError(
                f"Code: 115. DB::Exception: Unknown setting '{name}'. (UNKNOWN_SETTING)"
            )
    return ", ".join(f"{name} = {quote(value)}" for name, value in settings.items())


def _outcome(result: Any, is_insert: bool) -> Outcome:
    def figure(name: str) -> int:
        return int(getattr(result, name)()) if hasattr(result, name) else 0

    read, size = figure("rows_read"), figure("bytes_read")
    return Outcome(
        body=result.bytes() or b"",
        read_rows=read,
        read_bytes=size,
        written_rows=figure("rows_written") or (read if is_insert else 0),
        written_bytes=figure("bytes_written") or (size if is_insert else 0),
        elapsed_ns=int(result.elapsed() * 1e9),
    )


class Engine:
    """The engine over one data folder. `run` may be called from many threads."""

    def __init__(self, folder: Path) -> None:
        os.environ["TZ"] = "UTC"  # the engine takes its time zone from here
        import chdb

        low_level = chdb._chdb
        if hasattr(low_level, "set_signal_handlers_enabled"):
            low_level.set_signal_handlers_enabled(0)
        self._chdb: Any = chdb
        self._path = str(folder)
        self.version = str(chdb.engine_version)
        self.parallel = hasattr(low_level, "set_signal_handlers_enabled")
        self._turn = threading.Lock()
        # While this one is open the engine stays open between requests.
        self._keeper = chdb.connect(self._path) if hasattr(chdb, "connect") else None
        self.run(Call(b"SELECT 1", "Null", "default", {}))

    def run(self, call: Call) -> Outcome:
        """Run one statement. Raises EngineError."""
        try:
            if self._keeper is None:
                with self._turn:
                    return self._run_stateless(call)
            if not self.parallel:
                with self._turn:
                    return self._run_connected(call)
            return self._run_connected(call)
        except EngineError:
            raise
        except UnicodeDecodeError as error:  # its message, which quotes a letter cut in half
            raise EngineError(error.object.decode(errors="backslashreplace")) from error
        except Exception as error:
            raise EngineError(str(error)) from error

    def _run_connected(self, call: Call) -> Outcome:
        connection = self._chdb.connect(self._path)
        try:
            if call.settings:
                connection.query(f"SET {_assignments(call.settings)}", "Null")
            if call.database != "default":
                connection.query(f"USE `{_escaped(call.database)}`", "Null")
            if isinstance(call.statement, tuple):
                insert, path = call.statement
                return _outcome(connection.query(insert.from_file(path), call.format), True)
            return _outcome(connection.query(call.statement, call.format), False)
        finally:
            connection.close()

    def _run_stateless(self, call: Call) -> Outcome:
        before = f"USE `{_escaped(call.database)}`; " if call.database != "default" else ""
        if isinstance(call.statement, tuple):
            # Here an insert from a file cannot follow a SET: its settings stand in itself.
            insert, path = call.statement
            text = insert.from_file(path, _assignments(call.settings).encode())
        else:
            if call.settings:
                before += f"SET {_assignments(call.settings)}; "
            text = call.statement
        # This engine writes down every SET (without its quotes) and USE in its folder and runs
        # them again at the next start, that is: before every statement.
        for kept in ("set_statements", "default_database"):
            (Path(self._path) / kept).unlink(missing_ok=True)
        done = subprocess.run(
            [sys.executable, "-c", _ONE_STATEMENT, self._path, call.format],
            input=before.encode() + text,
            capture_output=True,
            check=False,
        )
        head, _, body = done.stdout.partition(b"\n")
        if done.returncode or not head:
            raise EngineError(f"the engine died with {done.returncode}: {done.stderr[-500:]!r}")
        fields = json.loads(head)
        if "error" in fields:
            raise EngineError(fields["error"])
        rows, size = fields["rows"], fields["bytes"]
        wrote = isinstance(call.statement, tuple)
        return Outcome(
            body, rows, size, rows if wrote else 0, size if wrote else 0, fields["elapsed_ns"]
        )

    def close(self) -> None:
        if self._keeper is not None:
            self._keeper.close()
            self._keeper = None


def _escaped(name: str) -> str:
    return name.replace("\\", "\\\\").replace("`", "\\`")

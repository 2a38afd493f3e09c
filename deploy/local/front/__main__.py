"""`python -m deploy.local.front --data DIR [--host H] [--port P] [--database NAME]`

The order of a start matters: arguments, the data folder and its lock, the port, the spool emptied,
the deduplication logs mended, the engine opened, the database made, and only then requests.
The port is bound before the engine opens, so a taken one is found at once, and clients that come
early wait in its queue. `--port 0` takes any free port; the log line `listening` names it.

Exit codes: 0 stopped by SIGTERM or SIGINT, 1 failed (one line on standard error says why),
2 wrong usage.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TextIO

from deploy.local.front.engine import Call, Engine, EngineError
from deploy.local.front.mending import Mending, ProvenEntries
from deploy.local.front.server import Limits, Server

STOP_SECONDS = 20.0


class Failed(Exception):
    """Why the front cannot start, in one line."""


def log(event: str, /, **fields: object) -> None:
    line = {"at": round(time.time(), 3), "level": "info", "part": "front", "event": event, **fields}
    print(json.dumps(line), file=sys.stderr, flush=True)


def main(arguments: list[str] | None = None) -> int:
    options = _options(arguments)
    try:
        return _run(options)
    except Failed as error:
        print(f"front: {error}", file=sys.stderr, flush=True)
        return 1


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m deploy.local.front", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--data", type=Path, required=True, help="folder of the data")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8123)
    parser.add_argument("--database", default="penstock", help="made at start if missing")
    parser.add_argument("--body-bytes", type=int, default=Limits.body_bytes, help="largest body")
    parser.add_argument("--running", type=int, default=Limits.running, help="statements at once")
    parser.add_argument(
        "--no-mending",
        action="store_true",
        help="leave the deduplication logs as they are (shows what a kill does to them)",
    )
    options = parser.parse_args(arguments)
    if not 0 <= options.port < 65536:
        parser.error("--port must be between 0 and 65535")
    if options.body_bytes < 1 or options.running < 1:
        parser.error("--body-bytes and --running must be at least 1")
    if not options.database or "\0" in options.database:
        parser.error("--database needs a name")
    return options


def _run(options: argparse.Namespace) -> int:
    started_at = int(time.time() * 1000)
    stopped = threading.Event()
    _handle_signals(stopped.set)
    engine_folder, spool_folder, lock = _prepare_folder(options.data)
    listener = _bind(options.host, options.port)
    mending = Mending(0, 0, 0, 0)
    proven = ProvenEntries(engine_folder, options.data / "proven.json")
    if not options.no_mending:
        try:
            mending = proven.mend()
        except OSError as error:
            raise Failed(f"cannot mend the deduplication logs: {error}") from error
        log("deduplication_logs_mended", **mending.as_fields())
    engine = _open(engine_folder, options.database)

    def about() -> dict[str, object]:
        return {
            "front": "chdb",
            "version": engine.version,
            "mends_deduplication_log": not options.no_mending,
            "started_at": started_at,
            "mended_entries": mending.dropped_entries,
            "mended_torn_lines": mending.torn_lines,
            "database": options.database,
        }

    limits = replace(Limits(), body_bytes=options.body_bytes, running=options.running)
    server = Server(engine, listener, spool_folder, about, limits)
    _handle_signals(server.stop)
    if stopped.is_set():
        server.stop()
    host, port = listener.getsockname()[:2]
    log("listening", host=host, port=port, url=f"http://{host}:{port}/{options.database}")
    if not options.no_mending:
        proven.watch()
    server.serve()
    ended = server.drain(STOP_SECONDS)
    proven.stop()
    if not ended:
        log("stopped_with_running_statements", level="warning", waited_seconds=STOP_SECONDS)
        os._exit(0)  # the engine cannot be closed under a running statement
    engine.close()
    proven.look()
    log("stopped")
    lock.close()
    # Not by way of the interpreter's end: the oldest engine crashes in its own clean-up there.
    os._exit(0)


def _handle_signals(stop: Callable[[], None]) -> None:
    def handler(_signal: int, _frame: object) -> None:
        stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handler)


def _prepare_folder(data: Path) -> tuple[Path, Path, TextIO]:
    """The engine's folder, the emptied spool, and the lock that keeps other fronts out."""
    engine_folder, spool_folder = data / "clickhouse", data / "spool"
    try:
        engine_folder.mkdir(parents=True, exist_ok=True)
        spool_folder.mkdir(exist_ok=True)
        lock = (data / "front.lock").open("a+")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.seek(0)
            holder = lock.read().strip() or "unknown"
            raise Failed(f"{data} is in use by another front (pid {holder})") from error
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        for left in spool_folder.iterdir():
            left.unlink()
    except OSError as error:
        raise Failed(f"cannot use {data} as data folder: {error.strerror or error}") from error
    return engine_folder.resolve(), spool_folder.resolve(), lock


def _bind(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(128)
    except OSError as error:
        raise Failed(f"cannot listen on {host}:{port}: {error.strerror or error}") from error
    return listener


def _open(folder: Path, database: str) -> Engine:
    quoted = "`" + database.replace("\\", "\\\\").replace("`", "\\`") + "`"
    with _standard_error_aside() as said:
        try:
            engine = Engine(folder)
            create = f"CREATE DATABASE IF NOT EXISTS {quoted} ENGINE = Atomic"
            if database != "default":
                engine.run(Call(create.encode(), "Null", "default", {}))
        except ImportError as error:
            raise Failed(f"chDB is not installed for {sys.executable}: {error}") from error
        except (EngineError, RuntimeError, OSError) as error:
            said.seek(0)
            line = " ".join(f"{said.read()} {error}".split())[:1000]
            raise Failed(f"the engine cannot open {folder}: {line}") from error
    return engine


@contextlib.contextmanager
def _standard_error_aside() -> Iterator[TextIO]:
    """What the engine prints goes to a file: the reason why it cannot open a folder is often
    there alone, and is to come as one line with ours."""
    with tempfile.TemporaryFile("w+", errors="replace") as aside:
        sys.stderr.flush()
        kept = os.dup(2)
        os.dup2(aside.fileno(), 2)
        try:
            yield aside
        finally:
            os.dup2(kept, 2)
            os.close(kept)


if __name__ == "__main__":
    raise SystemExit(main())

"""One worker: its socket, its clock, and how it stops.

Stopping (SIGTERM or SIGINT), in order:

    1. the socket closes, idle connections end, and a post that comes now is refused with 503
    2. open packs are closed at once; Kafka answers for what was taken
    3. each request that was taken gets its answer, and its connection ends
    4. when no connection is left, or STOP_SECONDS are over, the worker leaves

The clock ticks four times a second: it ends requests that do not come to an end, looks at the keys
file, and brings the gauges up to date.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
import time
from typing import Final

from schemas.logs import fact

from .admin import Admin, state_cell
from .config import Config
from .http import Connection
from .intake import Intake
from .metrics import Board
from .pack import Packer
from .produce import Kafka
from .projects import ProjectsFile
from .routes import Routes

_log = logging.getLogger(__name__)
_TICK_SECONDS: Final = 0.25
_STOPPING_TICK_SECONDS: Final = 0.01
_LOOK_TICKS: Final = 4
_BACKLOG: Final = 4096
_GC_OBJECTS: Final = 20_000  # requests die by reference count; cycles are rare


def listening_socket(host: str, port: int, share: bool) -> socket.socket:
    """A bound socket. `share`: other processes of ours bind the same port (SO_REUSEPORT).
    Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if share:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind((host, port))
    except OSError:
        sock.close()
        raise
    return sock


class Worker:
    """Everything that one process runs."""

    def __init__(
        self,
        config: Config,
        board: Board,
        projects: ProjectsFile,
        sock: socket.socket,
        admin_sock: socket.socket | None,
        parent: int | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._config = config
        self._board = board
        self._projects = projects
        self._sock = sock
        self._admin_sock = admin_sock
        self._parent = parent
        self._kafka = Kafka(config, board, self._loop)
        packer = Packer(
            self._loop, self._kafka, config.lanes, config.pack_milliseconds, config.pack_bytes
        )
        self._intake = Intake(board, packer, self._kafka, config.lanes, config.queue_events)
        self._routes = Routes(config, board, projects, self._intake)
        self._admin = Admin(board, time.monotonic, self._refresh)
        self._stop = asyncio.Event()

    async def run(self) -> int:
        """Serve until told to stop. Returns the exit code."""
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._stop.set)
        self._kafka.start()
        server = await self._loop.create_server(
            lambda: Connection(self._routes), sock=self._sock, backlog=_BACKLOG
        )
        admin = None
        if self._admin_sock is not None:
            admin = await self._loop.create_server(
                lambda: Connection(self._admin), sock=self._admin_sock
            )
        fact(_log, logging.INFO, "listening", **self._addresses())
        # What stands now stays: the collector need not look at it again and again.
        gc.collect()
        gc.freeze()
        gc.set_threshold(_GC_OBJECTS, 20, 20)
        try:
            await self._serve()
            server.close()
            code = await self._finish()
        finally:
            if admin is not None:
                admin.close()
            for connection in list(self._admin.connections | self._routes.connections):
                connection.abort()
            self._kafka.stop()
        fact(_log, logging.INFO, "stopped", unanswered_events=self._intake.queued)
        return code

    def _addresses(self) -> dict[str, object]:
        addresses: dict[str, object] = {"port": self._sock.getsockname()[1], "pid": os.getpid()}
        if self._admin_sock is not None:
            addresses["admin_port"] = self._admin_sock.getsockname()[1]
        return addresses

    async def _serve(self) -> None:
        ticks = 0
        while not self._stop.is_set():
            ticks += 1
            self._tick()
            if ticks % _LOOK_TICKS == 0:
                if self._projects.look():
                    self._routes.forget()
                if self._parent is not None and os.getppid() != self._parent:
                    _log.error("the supervisor is gone")
                    return
            try:
                async with asyncio.timeout(_TICK_SECONDS):
                    await self._stop.wait()
            except TimeoutError:
                continue

    async def _finish(self) -> int:
        fact(_log, logging.INFO, "stopping", events=self._intake.queued)
        deadline = time.monotonic() + self._config.stop_seconds
        self._intake.stopping = True
        self._intake.flush()
        while time.monotonic() < deadline:
            for connection in list(self._routes.connections):
                connection.finish()
            self._tick()
            if not self._routes.connections and not self._kafka.waiting():
                return 0
            await asyncio.sleep(_STOPPING_TICK_SECONDS)
        return 1 if self._intake.queued else 0

    def _tick(self) -> None:
        now = time.monotonic()
        for connection in list(self._routes.connections | self._admin.connections):
            connection.sweep(now, self._config.body_seconds)
        self._kafka.sweep()
        self._refresh()

    def _refresh(self) -> None:
        board, kafka = self._board, self._kafka
        board.put("produce_queue_events", self._intake.queued)
        state = "stopping" if self._intake.stopping else kafka.refuses()
        board.put("worker_state", state_cell(state))
        if kafka.backlog is not None:
            board.put("produce_backlog_bytes", kafka.backlog.largest)

"""Several workers on one port: processes that are started, watched, added up and stopped.

The supervisor takes no traffic. It reserves the port (bound, never listening, so the kernel gives
it no connection), starts each worker as a program of its own with a share of one memory map for the
metrics, starts one again that died, and answers the admin port for all of them.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from schemas.logs import fact

from .admin import Admin, state_cell
from .config import Config
from .http import Connection
from .metrics import Board

_log = logging.getLogger(__name__)
_AGAIN_SECONDS: Final = 1.0
_GRACE_SECONDS: Final = 5.0
_SWEEP_SECONDS: Final = 1.0


class Supervisor:
    """Runs `config.workers` workers, each with the arguments this program was given."""

    def __init__(
        self,
        config: Config,
        arguments: Sequence[str],
        port: int,
        admin_sock: socket.socket,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._config = config
        self._arguments = arguments
        self._port = port
        self._admin_sock = admin_sock
        self._shared = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the program
        self._shared.truncate(Board.bytes_for(config.workers))
        self._board = Board(config.workers, 0, self._shared.fileno())
        self._admin = Admin(self._board, time.monotonic)
        self._running: dict[int, asyncio.subprocess.Process] = {}
        self._stop = asyncio.Event()

    async def run(self) -> int:
        """Until told to stop: 0 when every worker left cleanly, else 1."""
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._stop.set)
        admin = await self._loop.create_server(
            lambda: Connection(self._admin), sock=self._admin_sock
        )
        keepers = [
            self._loop.create_task(self._keep(number)) for number in range(self._config.workers)
        ]
        sweep = self._loop.create_task(self._sweep())
        fact(
            _log,
            logging.INFO,
            "supervising",
            workers=self._config.workers,
            port=self._port,
            admin_port=self._admin_sock.getsockname()[1],
        )
        await self._stop.wait()
        for process in self._running.values():
            with suppress(ProcessLookupError):
                process.terminate()
        done, late = await asyncio.wait(keepers, timeout=self._config.stop_seconds + _GRACE_SECONDS)
        for process in self._running.values():
            with suppress(ProcessLookupError):
                process.kill()
        if late:
            await asyncio.wait(late)
        sweep.cancel()
        admin.close()
        for connection in list(self._admin.connections):
            connection.abort()
        return 0 if not late and all(task.result() == 0 for task in done) else 1

    async def _keep(self, number: int) -> int:
        """Keep one worker running. Returns the exit code with which it left at the end."""
        code = 0
        while not self._stop.is_set():
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "producer_shim",
                *self._arguments,
                "--worker",
                f"{number}:{self._shared.fileno()}:{self._port}:{os.getpid()}",
                pass_fds=(self._shared.fileno(),),
                start_new_session=True,  # Ctrl-C comes through the supervisor, once
            )
            self._running[number] = process
            if self._stop.is_set():
                process.terminate()
            code = await process.wait()
            del self._running[number]
            stopping = self._stop.is_set()
            state = state_cell("stopping") if stopping else 0
            self._board.put("worker_state", state, worker=number)
            self._board.put("produce_queue_events", 0, worker=number)
            if not stopping:
                fact(_log, logging.ERROR, "worker died", worker=number, exit_code=code)
                with suppress(TimeoutError):
                    async with asyncio.timeout(_AGAIN_SECONDS):
                        await self._stop.wait()
        return code

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            now = time.monotonic()
            for connection in list(self._admin.connections):
                connection.sweep(now, self._config.body_seconds)

"""A process of ours: started with its output in a file, seen to end, stopped with a deadline.

It runs in a process group of its own inside the session of its starter, so that Ctrl-C on a
terminal reaches the starter alone, which then stops its parts in order; `tether` ends it when the
starter is killed. Start children from the main thread: the kernel ties them to the thread.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

_TETHER = Path(__file__).with_name("tether.py")
LOG_BYTES = 8 << 20


class Child:
    """One command. `start` and `stop` may be called again and again; the log goes on."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        self.name = name
        self.command = tuple(command)
        self.log = log
        self.env = dict(os.environ if env is None else env)
        self.cwd = cwd
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        if self.alive:
            raise RuntimeError(f"{self.name} runs already")
        self.log.parent.mkdir(parents=True, exist_ok=True)
        # -S -I: nothing but the interpreter stands between us and the command.
        tether = (sys.executable, "-S", "-I", str(_TETHER), str(os.getpid()))
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                (*tether, *self.command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=self.env,
                cwd=self.cwd,
                process_group=0,
            )

    @property
    def pid(self) -> int:
        if self._process is None:
            raise RuntimeError(f"{self.name} was not started")
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def exit_code(self) -> int | None:
        """As subprocess has it: negative for a signal, None while it runs or was never started."""
        return None if self._process is None else self._process.poll()

    def signal(self, number: int) -> None:
        if self.alive:
            os.kill(self.pid, number)

    def wait(self, seconds: float) -> int:
        """Its exit code; TimeoutError when it does not end in time."""
        if self._process is None:
            raise RuntimeError(f"{self.name} was not started")
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"{self.name} did not end within {seconds:g} s") from None

    def stop(self, seconds: float = 30) -> bool:
        """SIGTERM, then SIGKILL after `seconds`. False when it had to be killed."""
        if not self.alive:
            return True
        self.signal(signal.SIGTERM)
        try:
            self.wait(seconds)
        except TimeoutError:
            self.kill()
            return False
        return True

    def kill(self) -> None:
        """SIGKILL, to its whole process group, and wait."""
        if self._process is None:
            return
        if self.alive:
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait(30)

    def tail(self, lines: int = 40) -> str:
        """The last lines of its output."""
        return tail(self.log, lines)

    def bound_log(self, limit_bytes: int = LOG_BYTES) -> None:
        """Keep the log file and one predecessor, each of about `limit_bytes`.

        The child appends through a descriptor that it keeps, so the file is copied and cut, not
        renamed; what it writes in between is lost, which a log can bear.
        """
        try:
            if self.log.stat().st_size <= limit_bytes:
                return
            with self.log.open("rb") as full:
                full.seek(-limit_bytes, os.SEEK_END)
                self.log.with_suffix(".log.1").write_bytes(full.read())
            os.truncate(self.log, 0)
        except OSError:
            return  # a full disk must not end the stack


def tail(path: Path, lines: int = 40) -> str:
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - 64 * 1024))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-lines:])

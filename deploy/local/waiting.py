"""Wait for a condition, and ask for ports: what starting and testing parts has in common."""

from __future__ import annotations

import random
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable

from deploy.local.trouble import Trouble

HOST = "127.0.0.1"

PORTS = range(20_000, 32_000)  # below those that outgoing connections are given

_given: set[int] = set()


def wait_until(
    condition: Callable[[], bool], seconds: float, what: str, pause_seconds: float = 0.05
) -> None:
    """Return when `condition()` holds; TimeoutError naming `what` when it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() >= deadline:
            raise TimeoutError(f"{what}: not within {seconds:g} s")
        time.sleep(pause_seconds)


def accepts(port: int, host: str = HOST) -> bool:
    """Whether something listens there."""
    try:
        with socket.create_connection((host, port), timeout=1):
            return True
    except OSError:
        return False


def answers(url: str, status: int = 200, timeout_seconds: float = 1) -> bool:
    """Whether a GET of this http URL is answered with `status`."""
    try:
        with urllib.request.urlopen(url, timeout=timeout_seconds) as reply:  # noqa: S310
            return bool(reply.status == status)
    except urllib.error.HTTPError as refusal:
        with refusal:
            return refusal.code == status
    except (OSError, ValueError):
        return False


def is_free(port: int, host: str = HOST) -> bool:
    """Whether a server could listen there now."""
    with socket.socket() as probe:
        # As servers do: connections of the last run in TIME_WAIT do not take the port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError:
            return False
        return True


def require_free(port: int, use: str) -> None:
    """Trouble when `port` is taken; `use` names who wants it."""
    if not is_free(port):
        raise Trouble(f"port {port} on {HOST}, for {use}, is taken: stop what listens there")


def free_port() -> int:
    """A port of PORTS that was free a moment ago.

    Never the same twice in one process: the first to be told may not listen on it yet.
    """
    for _ in range(1000):
        port = random.choice(PORTS)
        if port not in _given and is_free(port):
            _given.add(port)
            return port
    raise Trouble(f"no free port between {PORTS[0]} and {PORTS[-1]}")

"""Statements that somebody gives ClickHouse while the run goes on: a view comes, a view goes.

They are carried out one after the other in the background, each tried again for a minute: the
nemesis must not wait for a server that it may have stopped itself.
"""

from __future__ import annotations

import http.client
import threading
import time
import urllib.request
from urllib.parse import urlsplit, urlunsplit

_TRY_SECONDS = 60.0
_ANSWER_SECONDS = 10.0


class Statements:
    """On the database that `url` names. `trouble`: what could not be carried out."""

    def __init__(self, url: str) -> None:
        server = urlsplit(url)
        self._address = urlunsplit(server._replace(path="/", query=f"database={server.path[1:]}"))
        self._threads: list[threading.Thread] = []
        self.trouble: list[str] = []

    def give(self, *statements: str) -> None:
        before = self._threads[-1:]

        def work() -> None:
            for earlier in before:
                earlier.join()
            until = time.monotonic() + _TRY_SECONDS
            for statement in statements:
                while (why := self._execute(statement)) is not None:
                    if time.monotonic() >= until:
                        self.trouble.append(f"{statement}: {why}")
                        return
                    time.sleep(0.2)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        self._threads.append(thread)

    @property
    def over(self) -> bool:
        return not any(thread.is_alive() for thread in self._threads)

    def _execute(self, statement: str) -> str | None:
        """None, or why not."""
        request = urllib.request.Request(self._address, statement.encode())
        try:
            with urllib.request.urlopen(request, timeout=_ANSWER_SECONDS) as reply:
                reply.read()
        except (OSError, http.client.HTTPException) as error:
            return str(error) or type(error).__name__
        return None

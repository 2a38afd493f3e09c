"""Rebuilds that are killed with SIGKILL before their n-th statement that changes something.

    python -m tests.integration.schemas.dying URL MONTH

For each line `n` on standard input a child of this process rebuilds, and dies there; the answer is
`killed`, or `done` when it had no n-th statement. (A child of its own, since what is imported and
forked dies much sooner than what is started.)
"""

from __future__ import annotations

import os
import signal
import sys

import clickhouse_connect

from schemas.hold import Database
from schemas.rebuild import rebuild

HOLD_SECONDS = 5.0
SECONDS = 100.0


def rebuild_until(url: str, month: str, last: int) -> None:
    client = clickhouse_connect.get_client(dsn=url, autogenerate_session_id=False)
    sent = 0
    really_do = Database.do

    def do(self: Database, statement: str, **settings: object) -> None:
        nonlocal sent
        if sent == last:
            os.kill(os.getpid(), signal.SIGKILL)
        sent += 1
        really_do(self, statement, **settings)

    Database.do = do  # type: ignore[method-assign]
    rebuild(client, client.database or "", month, seconds=SECONDS, hold_seconds=HOLD_SECONDS)


def main(url: str, month: str) -> None:
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            rebuild_until(url, month, int(line))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        print("killed" if killed else "done" if status == 0 else f"failed: {status}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

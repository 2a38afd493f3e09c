"""A rewind that is killed with SIGKILL at a named step.

    python -m tests.integration.consumer.dying_rewind WHEN STEP COUNT FLAGS...

WHEN is `before` or `after` the COUNT-th time that it does STEP. What waits for inserts of stopped
consumers to end is left out: the test has seen them end.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable, Mapping

from consumer import rewind
from consumer.config import consumer_settings
from consumer.ledger import Mark, Note
from consumer.rewind_log import GroupLog
from consumer.rewinding import Rewind
from schemas.hold import Database
from schemas.settings import load

# By what they begin with, or have in them.
_STATEMENTS = {
    "record": ("INSERT INTO", ".rewinds "),
    "delete events": ("ALTER TABLE", ".events DELETE"),
    "delete batches": ("ALTER TABLE", ".batches DELETE"),
    "replace": ("ALTER TABLE", " REPLACE PARTITION "),
}


def main(when: str, step: str, count: int, flags: list[str]) -> int:
    done: Counter[str] = Counter()

    def around(name: str, really: Callable[[], None]) -> None:
        done[name] += 1
        here = name == step and done[name] == count
        if here and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        really()
        if here:
            os.kill(os.getpid(), signal.SIGKILL)

    really_do, really_commit = Database.do, GroupLog.commit

    def do(self: Database, statement: str, **settings: object) -> None:
        names = [
            name
            for name, (begins, has) in _STATEMENTS.items()
            if statement.startswith(begins) and has in statement
        ]
        around(names[0] if names else "", lambda: really_do(self, statement, **settings))

    def commit(self: GroupLog, notes: Mapping[int, tuple[int, Note]]) -> None:
        marks = any(isinstance(note, Mark) for _, note in notes.values())
        around("mark" if marks else "open", lambda: really_commit(self, notes))

    Database.do = do  # type: ignore[method-assign]
    GroupLog.commit = commit  # type: ignore[method-assign]
    Rewind.wait = lambda self: None  # type: ignore[method-assign]
    parser = argparse.ArgumentParser()
    rewind.add_parser(parser.add_subparsers())
    return rewind.run(
        parser.parse_args(["rewind", *flags]), consumer_settings(load("consumer", None, os.environ))
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4:]))

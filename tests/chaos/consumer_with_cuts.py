"""`python -m tests.chaos.consumer_with_cuts run`: the consumer as it is, between adapters that pass
cut points. CHAOS_CUTS names the folder that is shared with the nemesis, CHAOS_SLOT the consumer.

Which insert is which: the first send of a token is an `insert`, or a `replay` when somebody else
may have sent it before; another send of it is a `retry`. Under a mark of ours it is a `mend`. Which
commit is which: an intent is a `prepare`, and after a landed insert a commit as well.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import urllib3.connection

import consumer.__main__ as program
from consumer.batch import Batch
from consumer.clickhouse import ClickHouseTable
from consumer.commands import CommitAnswered, InsertAnswered, Outcome
from consumer.kafka import KafkaLog
from consumer.ledger import decode
from consumer.ports import Listener, LogError
from consumer.recovery import Commit
from tests.chaos.cuts import CALLS, LETTERS, Passing

passes = Passing(Path(os.environ["CHAOS_CUTS"]), int(os.environ["CHAOS_SLOT"]))
_landed: set[int] = set()  # partitions whose last insert landed and is not committed
_marked: set[int] = set()  # partitions whose last commit was a mend's mark
_sending = threading.local()  # .what: the kind of insert whose body this thread has sent


class LogWithCuts(KafkaLog):
    """Passes each commit on its way there and back, and the group's callbacks."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._kinds: dict[str, str] = {}

    def join(self, listener: Listener) -> None:
        def assigned(commits: Mapping[int, Commit | LogError]) -> None:
            listener.assigned(commits)
            if commits:
                passes("assigned")

        def revoked(numbers: Any) -> None:
            listener.revoked(numbers)
            passes("revoked")

        def answered(number: int, event: CommitAnswered) -> None:
            kind = self._kinds.pop(event.metadata, "")
            if kind:
                passes(f"{kind}: answered")
            listener.answered(number, event)

        super().join(Listener(assigned, revoked, listener.lost, answered))

    def commit(self, partition: int, offset: int, metadata: str) -> None:
        kind = {"Open": "commit", "Intent": "prepare"}.get(type(decode(offset, metadata)).__name__)
        (_marked.discard if kind else _marked.add)(partition)
        if kind == "prepare" and partition in _landed:
            kind = "commit and prepare"
        _landed.discard(partition)
        kind = kind or "mark"
        self._kinds[metadata] = kind
        passes(f"{kind}: before")
        super().commit(partition, offset, metadata)
        passes(f"{kind}: sent")

    def read_commit(self, partition: int) -> Commit:
        found = super().read_commit(partition)
        passes("commit read")
        return found


class _BatchWithCuts:
    """A batch whose body passes a point once its first part was taken."""

    def __init__(self, batch: Batch, what: str) -> None:
        self._batch, self._what = batch, what

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def body(self) -> Iterator[bytes]:
        for number, chunk in enumerate(self._batch.body()):
            half = len(chunk) // 2
            yield chunk[:half]
            if not number:
                passes(f"{self._what}: half sent")
            yield chunk[half:]
        _sending.what = self._what  # the next answer that this thread reads is the insert's


class TableWithCuts(ClickHouseTable):
    """Passes each insert and each read."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._tokens: dict[int, str] = {}  # by partition: the last token that was sent

    def insert(
        self, batch: Batch, token: str, deadline: float, first_attempt_ms: int | None
    ) -> InsertAnswered:
        partition = int(token.split(":")[2])
        if self._tokens.get(partition) == token:
            what = "retry"
        elif partition in _marked:
            what = "mend"
        else:
            what = "insert" if first_attempt_ms is None else "replay"
        self._tokens[partition] = token
        passes(f"{what}: before")
        try:
            answer = super().insert(
                cast(Batch, _BatchWithCuts(batch, what)), token, deadline, first_attempt_ms
            )
        finally:
            _sending.what = None
        if answer.outcome is Outcome.LANDED:
            _landed.add(partition)
        passes(f"{what}: answered")
        return answer


def _with_points(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
    """Around a call, and within it at each answer of the server that it waits for."""

    def passing(*given: Any, **named: Any) -> Any:
        passes(f"{name}: before")
        _sending.within = name
        try:
            answer = call(*given, **named)
        finally:
            _sending.within = None
        passes(f"{name}: answered")
        return answer

    return passing


for _name in CALLS:
    setattr(TableWithCuts, _name, _with_points(_name, getattr(ClickHouseTable, _name)))


_getresponse = urllib3.connection.HTTPConnection.getresponse


def _with_cut(connection: urllib3.connection.HTTPConnection) -> Any:
    """The whole request was sent, and nothing of the answer was read."""
    within = getattr(_sending, "within", None)
    if within is not None:
        passes(f"{within}: within")
    what = getattr(_sending, "what", None)
    if what is not None:
        _sending.what = None
        passes(f"{what}: sent")
    return _getresponse(connection)


def _take_rows_version(version: int) -> None:
    """As if this program had been built with other rules for its rows."""
    for name, module in list(sys.modules.items()):
        if name.startswith("consumer.") and hasattr(module, "ROWS_VERSION"):
            setattr(module, "ROWS_VERSION", version)  # noqa: B010 - a constant elsewhere


def _cut_letters() -> None:
    writer = getattr(program, "KafkaDeadLetters", None)
    if writer is None:
        return
    write = writer.write

    def passing(*given: Any, **named: Any) -> Any:
        passes(f"{LETTERS}: before")
        answer = write(*given, **named)
        passes(f"{LETTERS}: answered")
        return answer

    writer.write = passing


if __name__ == "__main__":
    setattr(urllib3.connection.HTTPConnection, "getresponse", _with_cut)  # noqa: B010
    setattr(program, "KafkaLog", LogWithCuts)  # noqa: B010
    setattr(program, "ClickHouseTable", TableWithCuts)  # noqa: B010
    _cut_letters()
    _take_rows_version(int(os.environ.get("CHAOS_ROWS_VERSION", "1")))
    sys.exit(program.main())

"""The admin port: /metrics, /livez and /readyz, for one worker or for all of them added up.

Alive means that this program answers. Ready means that posts are taken: every worker has Kafka's
metadata, and none is stopping. A worker says so in a cell of its own, so whoever answers here needs
nothing from it but the shared board.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import orjson

from .answers import Answer, Rejected
from .http import ROUTE_OTHER, Connection, Head, Plan, Request
from .metrics import PRODUCE_REASONS, Board, ProduceReason

_READY: Final = 1.0
_NOT_STARTED: Final = 0.0
_METRICS_TYPE: Final = "text/plain; version=1.0.0; charset=utf-8"


def state_cell(state: ProduceReason | None) -> float:
    """A worker's readiness as the number in its `worker_state` cell."""
    return _READY if state is None else 2.0 + PRODUCE_REASONS.index(state)


def _reason(cell: float) -> ProduceReason | None:
    if cell == _NOT_STARTED:
        return "starting"
    return None if cell == _READY else PRODUCE_REASONS[int(cell) - 2]


_DETAILS: Final[dict[ProduceReason, str]] = {
    "starting": "the worker has not seen Kafka yet",
    "unreachable": "no broker answers at KAFKA_BOOTSTRAP_SERVERS",
    "topic_missing": "KAFKA_TOPIC does not exist on the brokers",
    "lanes": "LANES does not divide the partitions of KAFKA_TOPIC",
    "backlog": "a partition has BACKLOG_BYTES that KAFKA_GROUP has not committed",
    "queue_full": "QUEUE_EVENTS are waiting for Kafka",
    "stopping": "the shim is stopping",
}


class Admin:
    """Serves the admin port. `refresh` brings this process's own gauges up to date."""

    def __init__(
        self, board: Board, now: Callable[[], float], refresh: Callable[[], None] = lambda: None
    ) -> None:
        self.connections: set[Connection] = set()
        self.heads: dict[bytes, Head] = {}
        self.now = now
        self._board = board
        self._refresh = refresh

    def closing(self) -> bool:
        return False

    def plan(self, head: Head) -> Plan:
        return Plan(ROUTE_OTHER, 0, self._serve)

    def answered(self, request: Request, answer: Answer) -> None:
        """Looking at the shim is not its traffic: nothing is counted."""

    def _serve(self, request: Request) -> None:
        if request.head.method not in (b"GET", b"HEAD"):
            raise Rejected(405, "allowed are GET, HEAD", (("Allow", "GET, HEAD"),))
        self._refresh()
        path = request.head.url.partition(b"?")[0]
        if path == b"/metrics":
            request.answer(Answer(200, self._board.page(), _METRICS_TYPE))
        elif path == b"/livez":
            request.answer(Answer(200, b'{"alive":true}'))
        elif path == b"/readyz":
            request.answer(self._ready())
        else:
            raise Rejected(404, "there are /metrics, /livez and /readyz")

    def _ready(self) -> Answer:
        reasons = [_reason(cell) for cell in self._board.each("worker_state")]
        first = next((reason for reason in reasons if reason is not None), None)
        if first is None:
            return Answer(200, b'{"ready":true}')
        body = {
            "ready": False,
            "reason": first,
            "detail": _DETAILS.get(first, first),
            "workers": [reason or "ready" for reason in reasons],
        }
        return Answer(503, orjson.dumps(body))

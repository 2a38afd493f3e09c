"""From events to Kafka and back to one answer.

    enrich each event -> its line -> the lanes' packs ...delivery reports... 202, 400 or 503

A `Submission` is a request that waits for Kafka. It is answered when the last of its packs is, and
only then are its events no longer queued.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final, Protocol

from schemas.event import Event, Refused

from . import enrich
from .answers import PIXEL, Answer, accepted, accepted_in_part, problem
from .enrich import finish, line
from .http import Request
from .metrics import START, Board, ProduceReason
from .pack import Packer
from .projects import Grant
from .validate import Bad, Posted

RETRY_AFTER: Final = ("Retry-After", "2")


class Health(Protocol):
    """What may stand in the way of taking events."""

    def refuses(self) -> ProduceReason | None:
        """Why nothing can be taken now, or None."""


class Submission:
    """A request whose valid events are on their way to Kafka."""

    __slots__ = (
        "_events",
        "_failed",
        "_intake",
        "_reason",
        "_request",
        "pending",
        "picture",
        "valid",
    )

    def __init__(
        self, intake: Intake, request: Request, events: Sequence[Event | Bad], valid: int
    ) -> None:
        self._intake = intake
        self._request = request
        self._events = events
        self._failed: set[int] | None = None
        self._reason: ProduceReason = "refused"
        self.valid = valid
        self.pending = 0
        self.picture = False

    def delivered(self, positions: Sequence[int], failed: ProduceReason | None) -> None:
        if failed is not None:
            self._reason = failed
            if self._failed is None:
                self._failed = set()
            self._failed.update(positions)
        self.pending -= 1
        if self.pending == 0:
            self._intake.settled(self, self._request, self._events, self._failed, self._reason)


class Intake:
    """Takes events of one worker. `queued`: events taken and not yet answered."""

    def __init__(
        self, board: Board, packer: Packer, health: Health, lanes: int, most_queued: int
    ) -> None:
        self.stopping = False
        self.queued = 0
        self._board = board
        self._cells = board.cells
        self._packer = packer
        self._health = health
        self._lanes = lanes
        self._most_queued = most_queued
        self._accepted_cell = START[("events", "accepted", "")]

    def flush(self) -> None:
        self._packer.flush()

    def take(
        self,
        request: Request,
        taken: Posted,
        grant: Grant,
        bot: bool,
        dry_run: bool,
        picture: bool = False,
    ) -> None:
        """Enrich the events and hand them to the packer; what is wrong is answered at once."""
        now = int(time.time() * 1000)
        corrected_by = enrich.correction(taken.sent_at, now) if grant.public else 0
        ending = enrich.tail(now, bot)
        events = taken.events
        lines: list[bytes] = []
        positions: list[int] = []
        for position, event in enumerate(events):
            if isinstance(event, Bad):
                continue
            try:
                finish(event, grant, now, corrected_by)
            except Refused as refused:
                events = list(events)
                events[position] = Bad(refused.refusal, str(event.id))
                continue
            lines.append(line(event, ending))
            positions.append(position)
        valid = len(lines)
        if valid < len(events):
            self._count_rejected(events)
        if not valid:
            request.answer(_nothing_valid(events))
            return
        if dry_run:
            self._board.count("events", "dry_run", "", by=valid)
            request.answer(_taken(200, events, valid))
            return
        refused_for = self._refuses(valid)
        if refused_for is not None:
            self._board.count("produce_errors", refused_for)
            self._unacknowledged(request, events, set(positions), refused_for)
            return
        self.queued += valid
        submission = Submission(self, request, events, valid)
        submission.picture = picture
        self._submit(submission, events, lines, positions)

    def _submit(
        self,
        submission: Submission,
        events: Sequence[Event | Bad],
        lines: list[bytes],
        positions: list[int],
    ) -> None:
        packer = self._packer
        if self._lanes == 1:
            submission.pending = packer.add(0, lines, submission, positions)
            return
        by_lane: dict[int, tuple[list[bytes], list[int]]] = {}
        for single, position in zip(lines, positions, strict=True):
            event = events[position]
            assert isinstance(event, Event)
            mine = by_lane.setdefault(packer.lane(event.session_id), ([], []))
            mine[0].append(single)
            mine[1].append(position)
        for lane, (some, at) in by_lane.items():
            submission.pending += packer.add(lane, some, submission, at)

    def settled(
        self,
        submission: Submission,
        request: Request,
        events: Sequence[Event | Bad],
        failed: set[int] | None,
        reason: ProduceReason,
    ) -> None:
        """Kafka has spoken about every pack of a submission."""
        valid = submission.valid
        self.queued -= valid
        if failed:
            self._cells[self._accepted_cell] += valid - len(failed)
            self._unacknowledged(request, events, failed, reason)
            return
        self._cells[self._accepted_cell] += valid
        if submission.picture:
            request.answer(PIXEL)
        else:
            request.answer(_taken(202, events, valid))

    def _refuses(self, events: int) -> ProduceReason | None:
        if self.stopping:
            return "stopping"
        if self.queued + events > self._most_queued:
            return "queue_full"
        return self._health.refuses()

    def _unacknowledged(
        self,
        request: Request,
        events: Sequence[Event | Bad],
        failed: set[int],
        reason: ProduceReason,
    ) -> None:
        self._board.count("events", "unacknowledged", reason, by=len(failed))
        results = _results(events, failed)
        members = {
            "reason": reason,
            "accepted": sum(result["status"] == "ok" for result in results),
            "rejected": sum(result["status"] == "drop" for result in results),
            "results": results,
        }
        detail = (
            "Kafka has not acknowledged every event: send all again, or those marked retry, "
            "with the same ids"
        )
        request.answer(problem(503, detail, (RETRY_AFTER,), members))

    def _count_rejected(self, events: Sequence[Event | Bad]) -> None:
        for event in events:
            if isinstance(event, Bad):
                self._board.count("events", "rejected", event.refusal.code)


def _results(events: Sequence[Event | Bad], failed: set[int]) -> list[dict[str, object]]:
    results: list[dict[str, object]] = []
    for index, event in enumerate(events):
        if isinstance(event, Bad):
            results.append(
                {
                    "index": index,
                    "id": event.id,
                    "status": "drop",
                    "reason": event.refusal.reason,
                    "detail": event.refusal.detail,
                }
            )
        else:
            status = "retry" if index in failed else "ok"
            results.append({"index": index, "id": str(event.id), "status": status})
    return results


def _taken(status: int, events: Sequence[Event | Bad], valid: int) -> Answer:
    if valid == len(events):
        return accepted(status, valid)
    return accepted_in_part(status, valid, _results(events, set()))


def _nothing_valid(events: Sequence[Event | Bad]) -> Answer:
    results = _results(events, set())
    return problem(
        400,
        str(results[0]["detail"]) if len(results) == 1 else "none of the events is valid",
        members={"accepted": 0, "rejected": len(results), "results": results},
    )

"""The application: what each route does with a request, and the one answer it gives.

    POST /v1/events   key -> body -> events -> lines -> packs ...delivery reports... 202 or 503
    GET  /v1/pixel.gif  the same for one event from the query
    GET  /penstock.js

A `Submission` is a post that waits for Kafka. It is answered when the last of its packs is.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from importlib.resources import files
from typing import Final

from schemas.event import Event, Refused

from . import enrich
from .answers import PIXEL, Answer, Rejected, accepted, accepted_in_part, preflight, problem
from .body import Media, decompressed, form_fields, form_json, media_of
from .config import Config
from .http import Connection, Request
from .metrics import ROUTES, START, STATUSES, Board, ProduceReason
from .pack import Packer
from .produce import Kafka
from .projects import Grant, ProjectsFile, origin_of
from .validate import Bad, Posted, pixel, posted

EVENTS, PIXEL_ROUTE, SDK, OTHER = range(4)
_ROUTES: Final = {b"/v1/events": EVENTS, b"/v1/pixel.gif": PIXEL_ROUTE, b"/penstock.js": SDK}
_METHODS: Final = {
    EVENTS: (b"POST",),
    PIXEL_ROUTE: (b"GET", b"HEAD"),
    SDK: (b"GET", b"HEAD"),
}
_ALLOWED: Final = {
    EVENTS: "POST, OPTIONS",
    PIXEL_ROUTE: "GET, HEAD, OPTIONS",
    SDK: "GET, HEAD, OPTIONS",
}
_PREFLIGHT: Final = {route: preflight(allowed) for route, allowed in _ALLOWED.items()}
_RETRY_AFTER: Final = ("Retry-After", "2")
_CACHED_TARGETS: Final = 1024
_FIRST: Final = (0,)


class Target:
    """What a URL asks for."""

    __slots__ = ("dry_run", "fields", "grant", "key", "route")

    def __init__(self, route: int, fields: dict[str, bytes]) -> None:
        self.route = route
        self.fields = fields
        self.key = fields.get("key")
        self.grant: Grant | None = None
        self.dry_run = fields.get("dry_run", b"0") not in (b"0", b"false", b"")


class Submission:
    """A request whose valid events are on their way to Kafka."""

    __slots__ = ("_events", "_failed", "_intake", "_reason", "_request", "pending", "valid")

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
    """Serves the public port of one worker."""

    def __init__(
        self,
        config: Config,
        board: Board,
        loop: asyncio.AbstractEventLoop,
        projects: ProjectsFile,
        kafka: Kafka,
    ) -> None:
        self.connections: set[Connection] = set()
        self.now = time.monotonic  # the loop's own clock stands still within a turn
        self.stopping = False
        self.queued = 0
        self._config = config
        self._board = board
        self._cells = board.cells
        self._projects = projects
        self._kafka = kafka
        self._packer = Packer(
            loop, kafka, config.lanes, config.pack_milliseconds, config.pack_bytes
        )
        self._seconds = board.histogram("http_request_duration_seconds")
        self._targets: dict[bytes, Target] = {}
        self._answered_cells = [
            {status: START[("http_requests", route, str(status))] for status in STATUSES}
            for route in ROUTES
        ]
        self._accepted_cell = START[("events", "accepted", "")]
        self._sdk = Answer(
            200,
            files(__package__).joinpath("sdk/penstock.js").read_bytes(),
            "text/javascript; charset=utf-8",
            (("Cache-Control", "public, max-age=3600"),),
        )

    # --- what a connection asks

    def closing(self) -> bool:
        return self.stopping

    def body_cap(self, request: Request) -> int:
        target = self._target(request)
        if request.method != b"POST" or target.route != EVENTS:
            return 0
        headers = request.headers
        if b"content-length" not in headers and b"transfer-encoding" not in headers:
            raise Rejected(411, "a body needs Content-Length or Transfer-Encoding: chunked")
        grant = self._granted(request, target)
        return self._cap(grant) if grant is not None else self._config.body_bytes

    def answered(self, request: Request, answer: Answer) -> None:
        self._cells[self._answered_cells[request.route][answer.status]] += 1.0
        self._seconds.observe(self.now() - request.started)

    def complete(self, request: Request) -> None:
        target = self._target(request)
        route = target.route
        if route == OTHER:
            raise Rejected(404, "there is nothing here")
        if request.method == b"OPTIONS":
            request.answer(_PREFLIGHT[route])
        elif request.method not in _METHODS[route]:
            raise Rejected(405, f"allowed are {_ALLOWED[route]}", (("Allow", _ALLOWED[route]),))
        elif route == EVENTS:
            self._post(request, target)
        elif route == SDK:
            request.answer(self._sdk)
        else:
            self._pixel(request, target)

    def forget_targets(self) -> None:
        """After a new keys file: what a URL allows is looked up again."""
        self._targets.clear()

    def flush(self) -> None:
        self._packer.flush()

    # --- routes

    def _target(self, request: Request) -> Target:
        """What the URL asks for. Only URLs that carry a good key and nothing else of their
        own are remembered, so nobody else can fill the memory."""
        target = self._targets.get(request.url)
        if target is None:
            path, _, query = request.url.partition(b"?")
            route = _ROUTES.get(path, OTHER)
            target = Target(route, form_fields(query) if query and route != OTHER else {})
            if target.key is not None:
                target.grant = self._projects.current.grant(target.key)
            if route == EVENTS and (target.grant is not None or target.key is None):
                if len(self._targets) >= _CACHED_TARGETS:
                    self._targets.clear()
                self._targets[request.url] = target
        request.route = target.route
        return target

    def _post(self, request: Request, target: Target) -> None:
        headers = request.headers
        media = media_of(headers.get(b"content-type", b""))
        grant = self._granted(request, target)
        config = self._config
        body = request.body
        encoding = headers.get(b"content-encoding")
        if encoding is not None:
            cap = self._cap(grant) if grant is not None else config.body_bytes
            body = decompressed(body, encoding, cap)
        size, key = len(body), ""
        if media is Media.FORM and body[:1] not in (b"{", b"["):  # those are curl -d without -H
            body, key = form_json(body)
        taken = posted(body, media is Media.NDJSON, config.body_events)
        if grant is None:
            grant = self._grant_in_body(request, key or taken.key)
            if max(size, request.size) > self._cap(grant):
                raise Rejected(413, f"the body is larger than {self._cap(grant)} bytes")
        self._take(request, taken, grant, target.dry_run)

    def _pixel(self, request: Request, target: Target) -> None:
        grant = self._granted(request, target)
        if grant is None:
            raise _unauthorized()
        fields = dict(target.fields)
        fields.pop("key", None)
        fields.pop("dry_run", None)
        self._take(request, pixel(fields), grant, target.dry_run)

    def _take(self, request: Request, taken: Posted, grant: Grant, dry_run: bool) -> None:
        """Enrich the events and hand them to the packer; what is wrong is answered at once."""
        now = int(time.time() * 1000)
        corrected_by = enrich.correction(taken.sent_at, now) if grant.public else 0
        bot = grant.public and enrich.is_bot(request.headers.get(b"user-agent", b""))
        events = taken.events
        lines: list[bytes] = []
        positions: list[int] = []
        for position, event in enumerate(events):
            if isinstance(event, Bad):
                continue
            try:
                enrich.finish(event, grant, now, corrected_by)
            except Refused as refused:
                events = list(events)
                events[position] = Bad(refused.refusal, str(event.id))
                continue
            lines.append(enrich.line(event, now, bot))
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
        refused_for = self._cannot_take(valid)
        if refused_for is not None:
            self._board.count("produce_errors", refused_for)
            self._unacknowledged(request, events, set(positions), refused_for)
            return
        self._submit(request, events, lines, positions)

    def _submit(
        self,
        request: Request,
        events: Sequence[Event | Bad],
        lines: list[bytes],
        positions: list[int],
    ) -> None:
        valid = len(lines)
        submission = Submission(self, request, events, valid)
        self.queued += valid
        packer = self._packer
        if valid == 1:
            event = events[positions[0]]
            assert isinstance(event, Event)
            submission.pending = packer.add(
                packer.lane(event.session_id), lines, submission, positions
            )
            return
        if self._config.lanes == 1:
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
        if request.route == PIXEL_ROUTE:
            request.answer(PIXEL)
        else:
            request.answer(_taken(202, events, valid))

    # --- decisions

    def _cap(self, grant: Grant) -> int:
        return self._config.browser_body_bytes if grant.public else self._config.body_bytes

    def _granted(self, request: Request, target: Target) -> Grant | None:
        """The grant of the key in URL or header; None when neither has one."""
        if target.key is not None:
            grant = target.grant
        else:
            given = request.headers.get(b"authorization")
            if given is None:
                return None
            scheme, _, key = given.partition(b" ")
            if scheme.lower() != b"bearer":
                raise _unauthorized()
            grant = self._projects.current.grant(key.strip())
        if grant is None:
            raise _unauthorized()
        return _checked(request, grant)

    def _grant_in_body(self, request: Request, key: str) -> Grant:
        grant = self._projects.current.grant(key.encode()) if key else None
        if grant is None:
            raise _unauthorized()
        return _checked(request, grant)

    def _cannot_take(self, events: int) -> ProduceReason | None:
        if self.stopping:
            return "stopping"
        kafka = self._kafka
        if kafka.state is not None:
            return kafka.state
        if self.queued + events > self._config.queue_events:
            return "queue_full"
        if kafka.backlog is not None and kafka.backlog.full():
            return "backlog"
        return None

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
        request.answer(problem(503, detail, (_RETRY_AFTER,), members))

    def _count_rejected(self, events: Sequence[Event | Bad]) -> None:
        for event in events:
            if isinstance(event, Bad):
                self._board.count("events", "rejected", event.refusal.code)


def _checked(request: Request, grant: Grant) -> Grant:
    if grant.public and not grant.any_origin:
        headers = request.headers
        if not grant.allows(origin_of(headers.get(b"origin"), headers.get(b"referer"))):
            raise Rejected(403, "the key is not for this origin")
    return grant


def _unauthorized() -> Rejected:
    return Rejected(
        401,
        "a known key is needed: ?key=, Authorization: Bearer, or key in the body object",
        (("WWW-Authenticate", 'Bearer realm="penstock"'),),
    )


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

"""The public port: what a request's head asks for, and may have.

    POST /v1/events     key -> content type -> body -> events -> intake
    GET  /v1/pixel.gif  the same for one event from the query
    GET  /penstock.js   the script for pages

Everything that a head alone decides (route, key, origin, content type, whether the sender is a bot)
is decided once, in `plan`; a head that comes again brings its plan with it. A new keys file makes
all plans void.
"""

from __future__ import annotations

import time
from importlib.resources import files
from typing import Final

from . import enrich
from .answers import Answer, Rejected, preflight
from .body import Media, decompressed, form_fields, form_json, media_of
from .config import Config
from .http import Connection, Head, Plan, Request
from .intake import Intake
from .metrics import ROUTES, START, STATUSES, Board
from .projects import Grant, ProjectsFile, origin_of
from .validate import pixel, posted

EVENTS, PIXEL, SDK, OTHER = range(4)
_ROUTES: Final = {b"/v1/events": EVENTS, b"/v1/pixel.gif": PIXEL, b"/penstock.js": SDK}
_METHODS: Final = {EVENTS: (b"POST",), PIXEL: (b"GET", b"HEAD"), SDK: (b"GET", b"HEAD")}
_ALLOWED: Final = {
    EVENTS: "POST, OPTIONS",
    PIXEL: "GET, HEAD, OPTIONS",
    SDK: "GET, HEAD, OPTIONS",
}
_PREFLIGHT: Final = {route: preflight(allowed) for route, allowed in _ALLOWED.items()}


class EventsPlan(Plan):
    """What is known about a post before its body."""

    __slots__ = ("bot", "dry_run", "encoding", "grant", "media")

    grant: Grant | None  # None: the key is in the body, if anywhere
    media: Media
    encoding: bytes
    dry_run: bool
    bot: bool


class Routes:
    """Serves the public port of one worker."""

    def __init__(
        self, config: Config, board: Board, projects: ProjectsFile, intake: Intake
    ) -> None:
        self.connections: set[Connection] = set()
        self.heads: dict[bytes, Head] = {}
        self.now = time.monotonic
        self._config = config
        self._cells = board.cells
        self._projects = projects
        self._intake = intake
        self._observe = board.histogram("http_request_duration_seconds").observe
        self._answered = [
            {status: START[("http_requests", route, str(status))] for status in STATUSES}
            for route in ROUTES
        ]
        self._sdk = Answer(
            200,
            files(__package__).joinpath("sdk/penstock.js").read_bytes(),
            "text/javascript; charset=utf-8",
            (("Cache-Control", "public, max-age=3600"),),
        )

    def closing(self) -> bool:
        return self._intake.stopping

    def answered(self, request: Request, answer: Answer) -> None:
        self._cells[self._answered[request.head.plan.route][answer.status]] += 1.0
        self._observe(self.now() - request.started)

    def forget(self) -> None:
        """After a new keys file: what a head may have is decided again."""
        self.heads.clear()

    def plan(self, head: Head) -> Plan:
        """Never raises: a refusal is planned too, so that it is counted for its route."""
        path, _, query = head.url.partition(b"?")
        route = _ROUTES.get(path, OTHER)
        try:
            return self._planned(route, head, query)
        except Rejected as rejected:
            answer = rejected.answer
            cap = self._config.body_bytes if route == EVENTS else 0
            return Plan(route, cap, lambda request: request.answer(answer))

    def _planned(self, route: int, head: Head, query: bytes) -> Plan:
        if route == OTHER:
            raise Rejected(404, "there is nothing here")
        if head.method == b"OPTIONS":
            return Plan(route, 0, lambda request: request.answer(_PREFLIGHT[route]))
        if head.method not in _METHODS[route]:
            raise Rejected(405, f"allowed are {_ALLOWED[route]}", (("Allow", _ALLOWED[route]),))
        if route == SDK:
            return Plan(route, 0, lambda request: request.answer(self._sdk))
        fields = form_fields(query)
        key = fields.pop("key", None)
        dry_run = fields.pop("dry_run", b"0") not in (b"0", b"false", b"")
        grant = self._granted(head, key)
        if route == PIXEL:
            return Plan(route, 0, lambda request: self._pixel(request, grant, fields, dry_run))
        return self._events_plan(head, grant, dry_run)

    def _events_plan(self, head: Head, grant: Grant | None, dry_run: bool) -> EventsPlan:
        headers = head.headers
        if b"content-length" not in headers and b"transfer-encoding" not in headers:
            raise Rejected(411, "a body needs Content-Length or Transfer-Encoding: chunked")
        plan = EventsPlan(EVENTS, self._cap(grant), self._post, keep=True)
        plan.grant = grant
        plan.media = media_of(headers.get(b"content-type", b""))
        plan.encoding = headers.get(b"content-encoding", b"")
        plan.dry_run = dry_run
        plan.bot = self._bot(head, grant)
        return plan

    def _post(self, request: Request) -> None:
        head, body = request.head, request.body
        plan = head.plan
        assert isinstance(plan, EventsPlan)
        config, grant, media = self._config, plan.grant, plan.media
        if plan.encoding:
            body = decompressed(body, plan.encoding, plan.cap)
        size, key = len(body), ""
        if media is Media.FORM and body[:1] not in (b"{", b"["):  # those are curl -d without -H
            body, key = form_json(body)
        taken = posted(body, media is Media.NDJSON, config.body_events)
        bot = plan.bot
        if grant is None:
            grant = self._allowed(head, (key or taken.key).encode())
            if max(size, len(request.body)) > self._cap(grant):
                raise Rejected(413, f"the body is larger than {self._cap(grant)} bytes")
            bot = self._bot(head, grant)
        self._intake.take(request, taken, grant, bot, plan.dry_run)

    def _pixel(
        self, request: Request, grant: Grant | None, fields: dict[str, bytes], dry_run: bool
    ) -> None:
        if grant is None:
            raise _unauthorized()
        bot = self._bot(request.head, grant)
        self._intake.take(request, pixel(fields), grant, bot, dry_run, picture=True)

    def _cap(self, grant: Grant | None) -> int:
        public = grant is not None and grant.public
        return self._config.browser_body_bytes if public else self._config.body_bytes

    def _bot(self, head: Head, grant: Grant | None) -> bool:
        """Only a browser's name says who the visitor is; a server's is its own."""
        if grant is None or not grant.public:
            return False
        return enrich.is_bot(head.headers.get(b"user-agent", b""))

    def _granted(self, head: Head, key: bytes | None) -> Grant | None:
        """The grant of the key in URL or header; None when neither has one."""
        if key is None:
            given = head.headers.get(b"authorization")
            if given is None:
                return None
            scheme, _, key = given.partition(b" ")
            if scheme.lower() != b"bearer":
                raise _unauthorized()
        return self._allowed(head, key.strip())

    def _allowed(self, head: Head, key: bytes) -> Grant:
        grant = self._projects.current.grant(key)
        if grant is None:
            raise _unauthorized()
        if grant.public and not grant.any_origin:
            headers = head.headers
            if not grant.allows(origin_of(headers.get(b"origin"), headers.get(b"referer"))):
                raise Rejected(403, "the key is not for this origin")
        return grant


def _unauthorized() -> Rejected:
    return Rejected(
        401,
        "a known key is needed: ?key=, Authorization: Bearer, or key in the body object",
        (("WWW-Authenticate", 'Bearer realm="penstock"'),),
    )

"""HTTP/1.1 on the event loop's own protocol: bytes in, complete requests out, answers in order.

    data_received -> httptools -> Head -> Application.plan(head) -> body -> plan.handle(request)
                                                                     ...some time later...
    transport.write <- in the order of the requests <- request.answer(Answer)

A sender's heads repeat, byte for byte: so what httptools and the application made of one is kept
under its bytes, and the same bytes again need no parser. Only heads are kept that httptools has
read whole, that end where the first empty line is, and whose body has a stated length.

Requests may be pipelined: each is handled when it is complete, and its answer waits until those
before it are written. A connection reads no further while too many are open, or while its peer does
not read.

What a peer may cost is bounded before it is known who it is: the head in bytes and headers, the
body by the plan's cap, a request in time. A refusal that leaves part of a body unread ends the
connection, and lingers a moment so that the peer can read the refusal.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol, cast

import httptools

from .answers import Answer, Rejected, problem

_log = logging.getLogger(__name__)

HEAD_BYTES: Final = 16 * 1024
URL_BYTES: Final = 8 * 1024
HEADERS: Final = 100
IDLE_SECONDS: Final = 75.0
LINGER_SECONDS: Final = 2.0
OPEN_REQUESTS: Final = 64
KEPT_HEADS: Final = 1024
KEPT_HEAD_BYTES: Final = 2048
ROUTE_OTHER: Final = 3


class Plan:
    """What the application makes of a head. `cap`: the largest body; `handle`: called with the
    whole request, may raise Rejected; `keep`: whether the same head will mean the same again."""

    __slots__ = ("cap", "handle", "keep", "route")

    def __init__(
        self, route: int, cap: int, handle: Callable[[Request], None], keep: bool = False
    ) -> None:
        self.route = route
        self.cap = cap
        self.handle = handle
        self.keep = keep


class Head:
    """A request line and its headers, by lower-case name; the last of a name counts."""

    __slots__ = ("close", "headers", "length", "method", "plan", "url")

    def __init__(self) -> None:
        self.method = b""
        self.url = b""
        self.headers: dict[bytes, bytes] = {}
        self.close = False
        self.length = 0  # of the body, as stated
        self.plan = _NO_PLAN


class Application(Protocol):
    """What a connection serves. `now` is a monotonic clock in seconds."""

    connections: set[Connection]
    heads: dict[bytes, Head]

    def now(self) -> float: ...

    def plan(self, head: Head) -> Plan:
        """What to do with a request that has this head. May raise Rejected."""

    def answered(self, request: Request, answer: Answer) -> None:
        """An answer is written: count it."""

    def closing(self) -> bool:
        """Whether connections are to end after the answer at hand."""


class Request:
    """One request, whole."""

    __slots__ = ("_connection", "body", "close", "head", "reply", "started")

    def __init__(self, connection: Connection, head: Head, started: float, body: bytes) -> None:
        self._connection = connection
        self.head = head
        self.started = started
        self.body = body
        self.close = head.close
        self.reply: Answer | None = None

    def answer(self, reply: Answer) -> None:
        """Answer this request, once. The peer may have gone away: then nothing happens."""
        self.reply = reply
        self._connection.flush(self)


class Connection(asyncio.Protocol):
    """One client's connection."""

    def __init__(self, application: Application) -> None:
        self._application = application
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._reading: Head | None = None  # the head of the request that httptools reads
        self._open: deque[Request] = deque()  # complete and not yet written, in order
        self._head = 0  # bytes of the head being read; -1 within a body
        self._ended = False  # whether a request ended in the data at hand
        self._headers = 0  # how many
        self._candidate: bytes | None = None  # a head that may be worth keeping
        self._size = 0  # of the headers, then of the body
        self._chunks: list[bytes] = []
        self._deaf = False  # nothing more is read from this peer
        self._eof = False  # the peer has ended its side
        self._linger = False  # part of a body stays unread
        self._paused = False
        self._since = application.now()  # the last sign of life, or a request's first byte

    # --- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._application.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._application.connections.discard(self)

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        if self._reading is None:
            data = self._kept(data)
            if not data:
                return
        self._ended = False
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # The request was taken as plain HTTP/1.1; what follows it is another protocol's.
            self._deaf = self._eof = True
            if not self._open and self._transport is not None:
                self._transport.close()
        except httptools.HttpParserCallbackError as error:
            cause = error.__context__
            if isinstance(cause, Rejected):
                self._refuse(cause.answer)
            else:
                _log.error("a request could not be read", exc_info=cause)
                self._refuse(problem(500, "the shim failed on this request; its log says why"))
        except httptools.HttpParserError as error:
            if not self._deaf:  # bytes after a request that asked to close are no request
                self._refuse(problem(400, f"not HTTP/1.1: {error}"))
        if self._reading is not None and self._head >= 0 and not self._ended:
            self._head += len(data)
            if self._head > HEAD_BYTES:
                self._refuse(problem(431, f"the request's head is larger than {HEAD_BYTES} bytes"))

    def _kept(self, data: bytes) -> bytes:
        """Take the requests at the start of `data` whose heads are known; returns the rest."""
        heads = self._application.heads
        begin, size = 0, len(data)
        while not self._deaf:
            end = data.find(b"\r\n\r\n", begin) + 4
            if end < 4:
                self._candidate = None
                break
            raw = data[begin:end]
            head = heads.get(raw)
            if head is None:
                self._candidate = raw
                break
            stop = end + head.length
            if stop > size:
                self._candidate = None
                break
            now = self._since = self._application.now()
            self._took(Request(self, head, now, data[end:stop]))
            begin = stop
            if begin == size:
                return b""
        return data[begin:] if begin else data

    def eof_received(self) -> bool:
        """A peer that has ended its side may still wait for answers."""
        self._deaf = self._eof = True
        return bool(self._open)

    def pause_writing(self) -> None:
        self._pause()

    def resume_writing(self) -> None:
        self._resume()

    # --- httptools

    def on_message_begin(self) -> None:
        self._since = self._application.now()
        self._reading = Head()
        self._head = 0
        self._headers = 0
        self._size = 0

    def on_url(self, url: bytes) -> None:
        head = cast("Head", self._reading)
        head.url = head.url + url if head.url else url
        if len(head.url) > URL_BYTES:
            raise Rejected(414, f"the URL is longer than {URL_BYTES} bytes")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers += 1
        self._size += len(name) + len(value)
        cast("Head", self._reading).headers[name.lower()] = value
        if self._headers > HEADERS or self._size > HEAD_BYTES:
            raise Rejected(
                431, f"the headers are more than {HEADERS} or larger than {HEAD_BYTES} bytes"
            )

    def on_headers_complete(self) -> None:
        self._head = -1
        self._size = 0
        head = cast("Head", self._reading)
        head.method = self._parser.get_method()
        head.close = not self._parser.should_keep_alive()
        headers = head.headers
        head.length = int(headers.get(b"content-length", b"0"))
        plan = head.plan = self._application.plan(head)
        if head.length > plan.cap:
            raise _too_large(plan.cap)
        if b"expect" in headers:
            if headers[b"expect"].lower() != b"100-continue":
                raise Rejected(417, "only Expect: 100-continue is understood")
            if not self._open and self._transport is not None:
                self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        candidate, self._candidate = self._candidate, None
        if candidate is not None and plan.keep and _keepable(candidate, head):
            heads = self._application.heads
            if len(heads) >= KEPT_HEADS:
                heads.clear()
            heads[candidate] = head

    def on_body(self, body: bytes) -> None:
        self._size += len(body)
        cap = cast("Head", self._reading).plan.cap
        if self._size > cap:
            raise _too_large(cap)
        self._chunks.append(body)

    def on_message_complete(self) -> None:
        head = cast("Head", self._reading)
        self._reading = None
        self._head = 0
        self._ended = True
        body, chunks = b"", self._chunks
        if chunks:
            body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
            chunks.clear()
        self._took(Request(self, head, self._since, body))

    def _took(self, request: Request) -> None:
        self._open.append(request)
        if request.close:
            self._deaf = True
        if len(self._open) > OPEN_REQUESTS:
            self._pause()
        try:
            request.head.plan.handle(request)
        except Rejected as rejected:
            request.answer(rejected.answer)
        except Exception:
            _log.exception("a request could not be handled")
            request.close = True
            request.answer(problem(500, "the shim failed on this request; its log says why"))

    # --- answers

    def flush(self, request: Request) -> None:
        """Write what is next in order, if `request` is."""
        waiting = self._open
        if not waiting or waiting[0] is not request:
            return
        stopping, close = self._application.closing(), False
        out = []
        while waiting and not close and (reply := waiting[0].reply) is not None:
            request = waiting.popleft()
            close = request.close or (stopping and not waiting)
            out.append(reply.write(close, request.head.method != b"HEAD"))
            self._application.answered(request, reply)
        transport = self._transport
        if transport is None:
            return
        transport.write(out[0] if len(out) == 1 else b"".join(out))
        if close:
            self._deaf = True
            waiting.clear()
            if self._linger and transport.can_write_eof():
                transport.write_eof()  # closing now would reset, and take the answer with it
            else:
                transport.close()
        elif self._eof and not waiting:
            transport.close()
        elif self._paused:
            self._resume()
        self._since = self._application.now()

    def _refuse(self, answer: Answer) -> None:
        """Answer what is being read with a refusal, after which nothing more is read."""
        if self._deaf:
            return
        self._deaf = self._linger = True
        request = Request(self, self._reading or Head(), self._since, b"")
        self._reading = None
        self._chunks.clear()
        request.close = True
        self._open.append(request)
        request.answer(answer)

    # --- called by the server's sweep

    def sweep(self, now: float, body_seconds: float) -> None:
        """End what takes too long: a request that does not come, a peer that has nothing to say."""
        if self._transport is None:
            return
        age = now - self._since
        if self._reading is not None and age > body_seconds:
            self._refuse(problem(408, f"the request was not complete within {body_seconds:g} s"))
        elif self._reading is None and not self._open and age > self._allowed():
            self._transport.close()

    def _allowed(self) -> float:
        return LINGER_SECONDS if self._deaf else IDLE_SECONDS

    def finish(self) -> None:
        """The server stops: an idle connection ends now, others after their answers."""
        if self._transport is not None and self._reading is None and not self._open:
            self._transport.close()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _pause(self) -> None:
        if self._transport is not None and not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def _resume(self) -> None:
        if self._transport is not None and self._paused and len(self._open) <= OPEN_REQUESTS:
            self._paused = False
            self._transport.resume_reading()


def _too_large(cap: int) -> Rejected:
    return Rejected(413, f"the body is larger than {cap} bytes")


def _keepable(raw: bytes, head: Head) -> bool:
    """Whether these bytes are this head and nothing else, whoever sends them."""
    headers = head.headers
    return (
        len(raw) <= KEPT_HEAD_BYTES
        and not head.close
        and raw[:1].isalpha()
        and raw.count(b"\n") == raw.count(b"\r\n")
        and b"content-length" in headers
        and b"transfer-encoding" not in headers
        and b"expect" not in headers
    )


def _unplanned(request: Request) -> None:
    raise Rejected(400, "the request's head is not complete")


_NO_PLAN: Final = Plan(ROUTE_OTHER, 0, _unplanned)

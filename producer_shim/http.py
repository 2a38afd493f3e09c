"""HTTP/1.1 on the event loop's own protocol: bytes in, complete requests out, answers in order.

    data_received -> httptools -> Request (head, then body) -> Application.complete(request)
                                                                  ...some time later...
    transport.write <- in the order of the requests <- request.answer(Answer)

Requests may be pipelined: each is handled when it is complete, and its answer waits until those
before it are written. A connection reads no further while too many are open, or while its peer does
not read.

What a peer may cost is bounded before it is known who it is: the head in bytes and headers, the
body by the application's cap, a request in time. A refusal that leaves part of a body unread ends
the connection, and lingers a moment so that the peer can read the refusal.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final, Protocol, cast

import httptools

from .answers import Answer, Rejected, problem

HEAD_BYTES: Final = 16 * 1024
URL_BYTES: Final = 8 * 1024
HEADERS: Final = 100
IDLE_SECONDS: Final = 75.0
LINGER_SECONDS: Final = 2.0
OPEN_REQUESTS: Final = 64
ROUTE_OTHER: Final = 3


class Application(Protocol):
    """What a connection serves. `now` is a monotonic clock in seconds."""

    connections: set[Connection]

    def now(self) -> float: ...

    def body_cap(self, request: Request) -> int:
        """The largest body for this request, asked when its head is complete. May raise
        Rejected."""

    def complete(self, request: Request) -> None:
        """A whole request: answer it now or later. May raise Rejected."""

    def answered(self, request: Request, answer: Answer) -> None:
        """An answer is written: count it."""

    def closing(self) -> bool:
        """Whether connections are to end after the answer at hand."""


class Request:
    """One request. `headers` by lower-case name; the last of a name counts."""

    __slots__ = (
        "_connection",
        "_reply",
        "body",
        "cap",
        "close",
        "headers",
        "method",
        "route",
        "size",
        "started",
        "url",
    )

    def __init__(self, connection: Connection, started: float) -> None:
        self._connection = connection
        self._reply: Answer | None = None
        self.started = started
        self.method = b""
        self.url = b""
        self.headers: dict[bytes, bytes] = {}
        self.body = b""
        self.size = 0
        self.cap = 0
        self.close = False
        self.route = ROUTE_OTHER

    def answer(self, reply: Answer) -> None:
        """Answer this request, once. The peer may have gone away: then nothing happens."""
        self._reply = reply
        self._connection.flush(self)

    @property
    def peer(self) -> str:
        return self._connection.peer()


class Connection(asyncio.Protocol):
    """One client's connection."""

    def __init__(self, application: Application) -> None:
        self._application = application
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._request: Request | None = None  # the one being read
        self._open: deque[Request] = deque()  # complete and not yet written, in order
        self._head = 0  # bytes of the head being read; -1 within a body
        self._headers = 0
        self._chunks: list[bytes] = []
        self._deaf = False  # nothing more is read from this peer
        self._eof = False  # the peer has ended its side
        self._linger = False  # part of a body stays unread
        self._paused = False
        self._since = application.now()

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
        if self._head >= 0:
            self._head += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._refuse(problem(400, "this server speaks HTTP/1.1 only"))
        except httptools.HttpParserCallbackError as error:
            cause = error.__context__
            if not isinstance(cause, Rejected):
                raise
            self._refuse(cause.answer)
        except httptools.HttpParserError as error:
            if not self._deaf:  # bytes after a request that asked to close are no request
                self._refuse(problem(400, f"not HTTP/1.1: {error}"))
        if self._head > HEAD_BYTES + len(data):
            self._refuse(problem(431, f"the request's head is larger than {HEAD_BYTES} bytes"))

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
        self._request = Request(self, self._since)
        self._head = 0
        self._headers = 0

    def on_url(self, url: bytes) -> None:
        request = cast("Request", self._request)
        request.url = request.url + url if request.url else url
        if len(request.url) > URL_BYTES:
            raise Rejected(414, f"the URL is longer than {URL_BYTES} bytes")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers += len(name) + len(value)
        headers = cast("Request", self._request).headers
        headers[name.lower()] = value
        if self._headers > HEAD_BYTES or len(headers) > HEADERS:
            raise Rejected(
                431, f"the headers are more than {HEADERS} or larger than {HEAD_BYTES} bytes"
            )

    def on_headers_complete(self) -> None:
        self._head = -1
        request = cast("Request", self._request)
        request.method = self._parser.get_method()
        request.close = not self._parser.should_keep_alive()
        if request.method == b"GET":
            return
        headers = request.headers
        request.cap = self._application.body_cap(request)
        length = headers.get(b"content-length")
        if length is not None and int(length) > request.cap:
            raise _too_large(request.cap)
        if b"expect" in headers:
            if headers[b"expect"].lower() != b"100-continue":
                raise Rejected(417, "only Expect: 100-continue is understood")
            if not self._open and self._transport is not None:
                self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        request = cast("Request", self._request)
        request.size += len(body)
        if request.size > request.cap:
            raise _too_large(request.cap)
        self._chunks.append(body)

    def on_message_complete(self) -> None:
        request = cast("Request", self._request)
        self._request = None
        self._head = 0
        chunks = self._chunks
        if chunks:
            request.body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
            chunks.clear()
        self._open.append(request)
        if request.close:
            self._deaf = True
        if len(self._open) > OPEN_REQUESTS:
            self._pause()
        try:
            self._application.complete(request)
        except Rejected as rejected:
            request.answer(rejected.answer)

    # --- answers

    def flush(self, request: Request) -> None:
        """Write what is next in order, if `request` is."""
        waiting = self._open
        if not waiting or waiting[0] is not request:
            return
        close = self._application.closing()
        out = []
        while waiting and (reply := waiting[0]._reply) is not None:
            request = waiting.popleft()
            close = close or request.close
            out.append(reply.write(close, request.method != b"HEAD"))
            self._application.answered(request, reply)
            if close:
                break
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
        request = self._request or Request(self, self._since)
        self._request = None
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
        if self._request is not None and age > body_seconds:
            self._refuse(problem(408, f"the request was not complete within {body_seconds:g} s"))
        elif self._request is None and not self._open and age > self._allowed(body_seconds):
            self._transport.close()

    def _allowed(self, body_seconds: float) -> float:
        if self._deaf:
            return LINGER_SECONDS
        return body_seconds if self._head > 0 else IDLE_SECONDS

    def finish(self) -> None:
        """The server stops: an idle connection ends now, others after their answers."""
        if self._transport is not None and self._request is None and not self._open:
            self._transport.close()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def peer(self) -> str:
        address = self._transport and self._transport.get_extra_info("peername")
        return str(address[0]) if address else ""

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

"""Sockets and threads: HTTP/1.1 for a handful of local clients.

A thread a connection, at most `connections` of them; when they are all taken, the one that has
been idle longest is closed, and if none is idle the newcomer gets 503. At most `running`
statements run at once; the others wait their turn in their threads. Bodies have a size each and
together (body.py), heads and silent moments have limits too, so no client can hold more than its
share. Requests that a browser sends for another site (an `Origin` that is not this machine) are
refused: there is no password here.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import selectors
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from deploy.local.front.answer import STATEMENT_BYTES, Answer, plain, query_answer
from deploy.local.front.body import (
    BadRequest,
    Budget,
    Disconnected,
    Reader,
    Spool,
    content_length,
    read_body,
)
from deploy.local.front.engine import Engine
from deploy.local.front.form import form_fields, is_form

_REASONS = {
    100: "Continue", 200: "OK", 400: "Bad Request", 401: "Unauthorized", 403: "Forbidden",
    404: "Not Found", 405: "Method Not Allowed", 408: "Request Timeout",
    411: "Length Required", 413: "Content Too Large", 415: "Unsupported Media Type",
    431: "Request Header Fields Too Large", 500: "Internal Server Error",
    501: "Not Implemented", 503: "Service Unavailable",
}  # fmt: skip
_LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")
LINE_BYTES = 200_000
HEADER_COUNT = 100


@dataclass(frozen=True)
class Limits:
    connections: int = 128
    running: int = 8
    body_bytes: int = 256 << 20
    bodies_bytes: int = 1 << 30
    idle_seconds: float = 600.0
    silent_seconds: float = 30.0
    request_seconds: float = 300.0


@dataclass(eq=False)
class _Connection:
    socket: socket.socket
    idle_since: float | None = None
    threads: list[threading.Thread] = field(default_factory=list)


@dataclass(slots=True)
class _Request:
    method: str
    path: str
    params: dict[str, str]
    headers: dict[str, str]
    keep_alive: bool


class Server:
    """Serves `engine` on `listener` until `stop` is called (from any thread or signal)."""

    def __init__(
        self,
        engine: Engine,
        listener: socket.socket,
        spool_folder: Path,
        about: Callable[[], dict[str, object]],
        limits: Limits,
    ) -> None:
        self._engine, self._listener, self._about = engine, listener, about
        self._spool_folder, self._limits = spool_folder, limits
        self._budget = Budget(limits.bodies_bytes)
        self._turns = threading.BoundedSemaphore(limits.running)
        self._lock = threading.Lock()
        self._connections: set[_Connection] = set()
        self._stopping = False
        self._wake_read, self._wake_write = socket.socketpair()
        self._wake_write.setblocking(False)

    # Start and stop

    def stop(self) -> None:
        self._stopping = True
        with contextlib.suppress(BlockingIOError):
            self._wake_write.send(b".")

    def serve(self) -> None:
        """Accept until stopped."""
        self._listener.setblocking(False)
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            selector.register(self._wake_read, selectors.EVENT_READ)
            while not self._stopping:
                selector.select(timeout=1.0)
                with contextlib.suppress(OSError):
                    connection, _ = self._listener.accept()
                    self._take(connection)
        self._listener.close()

    def drain(self, seconds: float) -> bool:
        """Close what is idle, wait for running requests; True if all ended in time."""
        deadline = time.monotonic() + seconds
        while True:
            with self._lock:
                left = list(self._connections)
            for connection in left:
                if connection.idle_since is not None:
                    _shut(connection.socket)
            if not left:
                return True
            if time.monotonic() > deadline:
                return False
            for connection in left:
                for thread in connection.threads:
                    thread.join(0.05)

    def _take(self, accepted: socket.socket) -> None:
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self._lock:
            full = len(self._connections) >= self._limits.connections
            if full:
                idle = [c for c in self._connections if c.idle_since is not None]
                if idle:
                    _shut(min(idle, key=lambda c: c.idle_since or 0.0).socket)
                    full = len(self._connections) >= self._limits.connections + 16
        if full:
            with contextlib.suppress(OSError):
                accepted.settimeout(1.0)
                accepted.sendall(_render(plain(503, "too many connections\n"), False, True))
            accepted.close()
            return
        connection = _Connection(accepted)
        thread = threading.Thread(target=self._converse, args=(connection,), daemon=True)
        connection.threads.append(thread)
        with self._lock:
            self._connections.add(connection)
        thread.start()

    # One connection

    def _converse(self, connection: _Connection) -> None:
        reader = Reader(connection.socket)
        try:
            while not self._stopping:
                connection.idle_since = time.monotonic() if reader.empty else None
                reader.deadline = float("inf")
                if reader.empty and not reader.fill(self._limits.idle_seconds):
                    return
                connection.idle_since = None
                reader.deadline = time.monotonic() + self._limits.request_seconds
                if not self._exchange(connection.socket, reader):
                    return
        except Disconnected:
            return
        finally:
            with self._lock:
                self._connections.discard(connection)
            connection.socket.close()

    def _exchange(self, to: socket.socket, reader: Reader) -> bool:
        """One request and its answer; False when the connection is to be closed."""
        try:
            request = self._read_head(reader)
            until = time.monotonic() + _execution_seconds(request.params)
            reader.deadline = min(reader.deadline, until)
            answer = self._answer(request, to, reader, until)
        except BadRequest as refused:
            self._send(to, plain(refused.status, f"{refused}\n"), False, True)
            _linger(to)
            return False
        keep = request.keep_alive and not self._stopping
        answer = _compressed(answer, request)
        self._send(to, answer, keep, request.method != "HEAD")
        return keep

    def _read_head(self, reader: Reader) -> _Request:
        silent = self._limits.silent_seconds
        line = b""
        for _ in range(3):  # a stray line end between requests is allowed
            line = reader.line(LINE_BYTES, silent)
            if line:
                break
        parts = line.decode("latin-1").split(" ")
        if len(parts) != 3 or not parts[2].startswith("HTTP/1."):
            raise BadRequest(400, "not an HTTP/1.1 request")
        headers: dict[str, str] = {}
        for _ in range(HEADER_COUNT + 1):
            text = reader.line(LINE_BYTES, silent).decode("latin-1")
            if not text:
                break
            name, colon, value = text.partition(":")
            name = name.lower()
            if not colon or name != name.strip():
                raise BadRequest(400, "a header line is malformed")
            if name in headers and name in ("content-length", "transfer-encoding"):
                raise BadRequest(400, f"{name} is given twice")
            headers[name] = value.strip()
        else:
            raise BadRequest(431, "too many headers")
        split = urlsplit(parts[1])
        params = dict(parse_qsl(split.query, keep_blank_values=True, max_num_fields=1000))
        connection = headers.get("connection", "").lower()
        keep = "close" not in connection and (parts[2] != "HTTP/1.0" or "keep-alive" in connection)
        return _Request(parts[0], split.path or "/", params, headers, keep)

    def _answer(self, request: _Request, to: socket.socket, reader: Reader, until: float) -> Answer:
        """`until`: when max_execution_time is over. As on a server it counts from the request's
        head, so that an insert whose client froze in its body cannot land later than that."""
        _refuse_other_sites(request.headers)
        if request.method not in ("GET", "HEAD", "POST"):
            raise BadRequest(405, "GET, HEAD and POST only")
        if content_length(request.headers) > self._limits.body_bytes:
            raise BadRequest(413, f"a body may hold {self._limits.body_bytes} bytes")
        if request.headers.get("expect", "").lower() == "100-continue":
            to.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        with Spool(self._spool_folder, self._budget, self._limits.body_bytes) as body:
            read_body(reader, request.headers, body, self._limits.silent_seconds)
            if request.path in ("/ping", "/replicas_status"):
                return plain(200, "Ok.\n")
            if request.path == "/penstock":
                text = json.dumps({**self._about(), **self._load()}) + "\n"
                return Answer(200, text.encode(), {"Content-Type": "application/json"})
            if request.path != "/":
                return plain(404, f"There is no handle {request.path}\n")
            params = request.params
            if is_form(request.headers):
                if body.size > STATEMENT_BYTES:
                    raise BadRequest(413, f"a form may hold {STATEMENT_BYTES} bytes")
                params = {**params, **form_fields(request.headers, body.read())}
                body.replace_start(body.size, b"")
            if not body.size and not params.get("query"):
                return plain(200, "Ok.\n")
            with self._turns:
                left = until - time.monotonic()
                if left <= 0:
                    raise BadRequest(408, "max_execution_time passed before its turn")
                if left < float("inf"):
                    params = {**params, "max_execution_time": f"{left:.3f}"}
                return query_answer(self._engine, request.method, params, request.headers, body)

    def _load(self) -> dict[str, object]:
        with self._lock:
            connections = list(self._connections)
        busy = sum(connection.idle_since is None for connection in connections)
        return {"connections": len(connections), "open_requests": busy}

    def _send(self, to: socket.socket, answer: Answer, keep: bool, with_body: bool) -> None:
        try:
            to.settimeout(self._limits.silent_seconds)
            to.sendall(_render(answer, keep, with_body))
        except OSError as error:
            raise Disconnected from error


def _render(answer: Answer, keep: bool, with_body: bool) -> bytes:
    lines = [
        f"HTTP/1.1 {answer.status} {_REASONS.get(answer.status, 'Unknown')}",
        f"Content-Length: {len(answer.body)}",
        "Connection: keep-alive" if keep else "Connection: close",
        *(f"{name}: {_printable(value)}" for name, value in answer.headers.items()),
    ]
    head = "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"
    return head + answer.body if with_body else head


def _execution_seconds(params: dict[str, str]) -> float:
    """The query's max_execution_time; infinite where there is none, or none that is a number."""
    try:
        return float(params.get("max_execution_time", "0")) or float("inf")
    except ValueError:
        return float("inf")  # the engine refuses it with its own words


def _printable(value: str) -> str:
    """What a client gave (a query id, a format) must not start another header."""
    return "".join(c if " " <= c <= "~" else "?" for c in value)


def _compressed(answer: Answer, request: _Request) -> Answer:
    """gzip, where the client asks for it as ClickHouse wants to be asked."""
    wanted = request.params.get("enable_http_compression", "0") not in ("0", "false", "")
    if not wanted or "gzip" not in request.headers.get("accept-encoding", "") or not answer.body:
        return answer
    headers = {**answer.headers, "Content-Encoding": "gzip"}
    return Answer(answer.status, gzip.compress(answer.body, compresslevel=1), headers)


def _refuse_other_sites(headers: dict[str, str]) -> None:
    origin = headers.get("origin")
    if origin and urlsplit(origin).hostname not in _LOCAL_HOSTS:
        raise BadRequest(403, "requests from other sites are refused")


def _shut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def _linger(connection: socket.socket) -> None:
    """Take in some of what the client still sends, or a reset would swallow the answer."""
    deadline = time.monotonic() + 2.0
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_WR)
        while (left := deadline - time.monotonic()) > 0:
            connection.settimeout(left)
            if not connection.recv(1 << 18):
                return

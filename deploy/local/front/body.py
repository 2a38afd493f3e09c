"""Request bodies: read to their end, unpacked, and kept in memory files until the insert is over.

**A body that is cut short lands nothing.** NDJSON has no end mark, so a body that stops at a line
end looks whole: its first part would land under the full batch's token, and the replay of the
token would then be dropped as a double. So the engine sees no byte before the body's end was seen
in every layer: all of Content-Length, the last chunk of a chunked body with its closing line, and
the end mark of each compressed stream.

Bodies go to anonymous memory (`memfd_create`): nothing of them is left anywhere when the process
dies. Where the system has none (macOS) they go to files in the spool folder, which is emptied at
start. The engine reads either by path.
"""

from __future__ import annotations

import importlib
import os
import socket
import tempfile
import threading
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

READ_BYTES = 1 << 18


class BadRequest(Exception):
    """The client's fault. `status` is the HTTP answer; after it the connection is closed."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Disconnected(Exception):
    """The other side went away or fell silent."""


class Reader:
    """Buffered reading from a socket with one deadline for the whole request."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._buffer = bytearray(READ_BYTES)
        self._view = memoryview(self._buffer)
        self._start = self._end = 0
        self.deadline = float("inf")

    @property
    def empty(self) -> bool:
        return self._start == self._end

    def fill(self, idle_seconds: float) -> bool:
        """Read more; False at the end of the stream. Silence is `Disconnected`."""
        if self._start == self._end:
            self._start = self._end = 0
        elif self._end == len(self._buffer):
            if self._start == 0:
                raise BadRequest(431, "a line is too long")
            held = self._end - self._start
            self._buffer[:held] = self._buffer[self._start : self._end]
            self._start, self._end = 0, held
        left = min(idle_seconds, self.deadline - time.monotonic())
        if left <= 0:
            raise Disconnected
        try:
            self._connection.settimeout(left)
            count = self._connection.recv_into(self._view[self._end :])
        except OSError as error:
            raise Disconnected from error
        self._end += count
        return count > 0

    def line(self, limit: int, idle_seconds: float) -> bytes:
        """One line without its end; at most `limit` bytes."""
        searched = self._start
        while True:
            at = self._buffer.find(b"\n", searched, self._end)
            if at >= 0:
                break
            if self._end - self._start > limit:
                raise BadRequest(431, "a line is too long")
            held = self._end - self._start
            if not self.fill(idle_seconds):
                raise Disconnected
            searched = self._start + held
        text = bytes(self._buffer[self._start : at])
        self._start = at + 1
        if len(text) > limit:
            raise BadRequest(431, "a line is too long")
        return text[:-1] if text.endswith(b"\r") else text

    def copy(self, count: int, sink: Callable[[memoryview], object], idle_seconds: float) -> None:
        """Hand exactly `count` bytes to `sink`, in pieces that it must not keep."""
        while count:
            if self._start == self._end and not self.fill(idle_seconds):
                raise Disconnected
            take = min(count, self._end - self._start)
            sink(self._view[self._start : self._start + take])
            self._start += take
            count -= take


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, /) -> bytes: ...


class Spool:
    """A body's bytes, in memory or in the spool folder. `path` is how the engine opens it."""

    def __init__(self, folder: Path, budget: Budget, limit: int) -> None:
        self._budget, self._limit, self.size = budget, limit, 0
        self._file: Path | None = None
        if hasattr(os, "memfd_create"):
            self.fd = os.memfd_create("penstock-body")
            self.path = f"/proc/{os.getpid()}/fd/{self.fd}"
        else:
            self.fd, self.path = tempfile.mkstemp(dir=folder)
            self._file = Path(self.path)

    def write(self, piece: memoryview | bytes) -> None:
        if self.size + len(piece) > self._limit:
            raise BadRequest(413, f"a body may hold {self._limit} bytes")
        self._budget.take(len(piece))
        self.size += len(piece)
        view = memoryview(piece)
        while view:
            view = view[os.write(self.fd, view) :]

    def replace_start(self, skip: int, start: bytes) -> None:
        """Drop the first `skip` bytes and put `start` before the rest."""
        if not skip and not start:
            return
        rest = os.pread(self.fd, self.size - skip, skip)
        self._budget.give(self.size)
        self.size = 0
        os.ftruncate(self.fd, 0)
        os.lseek(self.fd, 0, os.SEEK_SET)
        self.write(start)
        self.write(rest)

    def head(self, count: int) -> bytes:
        return os.pread(self.fd, count, 0)

    def read(self) -> bytes:
        return os.pread(self.fd, self.size, 0) if self.size else b""

    def __enter__(self) -> Spool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self.fd)
        if self._file is not None:
            self._file.unlink(missing_ok=True)
        self._budget.give(self.size)


class Budget:
    """How many bytes all bodies together may hold."""

    def __init__(self, total: int) -> None:
        self._left, self._lock = total, threading.Lock()

    def take(self, count: int) -> None:
        with self._lock:
            if self._left < count:
                raise BadRequest(503, "too many bytes in requests at once")
            self._left -= count

    def give(self, count: int) -> None:
        with self._lock:
            self._left += count


def _decompressor(encoding: str) -> Callable[[], _Decompressor]:
    if encoding in ("gzip", "x-gzip"):
        return lambda: zlib.decompressobj(31)
    if encoding == "deflate":
        return lambda: zlib.decompressobj(15)
    module = {"zstd": "zstandard", "lz4": "lz4.frame"}.get(encoding)
    if module is None:
        raise BadRequest(415, f"unknown Content-Encoding: {encoding}")
    try:
        loaded: Any = importlib.import_module(module)
    except ImportError as error:
        raise BadRequest(415, f"the front has no {module} installed") from error
    if encoding == "zstd":
        return lambda: loaded.ZstdDecompressor().decompressobj()
    return lambda: loaded.LZ4FrameDecompressor()


class Unpacking:
    """Decompresses piece by piece into a spool, over several joined streams if need be."""

    def __init__(self, encoding: str, write: Callable[[bytes], None]) -> None:
        self._new = _decompressor(encoding)
        self._stream = self._new()
        self._fresh = True
        self._write = write

    def feed(self, piece: memoryview) -> None:
        # Small steps: one step can grow a thousandfold before the spool can refuse it.
        for at in range(0, len(piece), 1 << 16):
            self._feed(bytes(piece[at : at + (1 << 16)]))

    def _feed(self, data: bytes) -> None:
        try:
            while data:
                if self._stream.eof:
                    self._stream = self._new()
                out = self._stream.decompress(data)
                self._fresh = False
                if out:
                    self._write(out)
                data = self._stream.unused_data or b"" if self._stream.eof else b""
        except BadRequest:
            raise
        except Exception as error:
            raise BadRequest(400, f"the compressed body is damaged: {error}") from error

    def finish(self) -> None:
        if not self._fresh and not self._stream.eof:
            raise BadRequest(400, "the compressed body ends before its end mark")


def read_body(reader: Reader, headers: dict[str, str], spool: Spool, idle_seconds: float) -> None:
    """Read the whole body, as `headers` announce it, into `spool`.

    Raises BadRequest or Disconnected when any layer ends early; what is in the spool then is
    nothing that may be used."""
    encoding = headers.get("content-encoding", "identity").strip().lower()
    unpacking = None if encoding in ("", "identity") else Unpacking(encoding, spool.write)
    sink: Callable[[memoryview], object] = unpacking.feed if unpacking else spool.write
    transfer = headers.get("transfer-encoding", "").strip().lower()
    if transfer:
        if transfer != "chunked":
            raise BadRequest(501, f"unknown Transfer-Encoding: {transfer}")
        if "content-length" in headers:
            raise BadRequest(400, "both Content-Length and Transfer-Encoding")
        _read_chunks(reader, sink, idle_seconds)
    else:
        reader.copy(content_length(headers), sink, idle_seconds)
    if unpacking:
        unpacking.finish()


def content_length(headers: dict[str, str]) -> int:
    text = headers.get("content-length", "0").strip()
    if not (text.isascii() and text.isdigit()):
        raise BadRequest(400, "Content-Length is no number")
    return int(text)


def _read_chunks(reader: Reader, sink: Callable[[memoryview], object], idle_seconds: float) -> None:
    while True:
        text = reader.line(256, idle_seconds).split(b";", 1)[0].strip()
        if not text or text.strip(b"0123456789abcdefABCDEF"):
            raise BadRequest(400, "a chunk's size is no number")
        size = int(text, 16)
        if size == 0:
            break
        reader.copy(size, sink, idle_seconds)
        if reader.line(2, idle_seconds):
            raise BadRequest(400, "a chunk does not end where it says")
    for _ in range(100):
        if not reader.line(8192, idle_seconds):
            return
    raise BadRequest(431, "too many trailers")

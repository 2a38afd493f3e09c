"""A TCP proxy that does to a connection what networks do, and to an insert what servers do.

A `Link` is one address in front of another. It can cut and reset connections, refuse new ones,
delay what passes, and go deaf in one direction: the other side then talks to nobody, and neither
is told (a half-open connection). `HttpLink` knows where a request ends, and can take an insert
apart: cut it in its body, answer in the server's place before or after the server has carried it
out, lose the answer, or deliver a request late, when its sender is gone.

All of it lives on one event loop in a thread of its own; every method may be called from any.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections import Counter, deque
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass
from typing import Any, Literal

from deploy.local.waiting import HOST

Direction = Literal["up", "down"]
Tampering = Literal["cut in the body", "answer before", "answer after", "lose the answer", "late"]

_READ_BYTES = 1 << 16
_HEAD_BYTES = 1 << 20
_RESET = struct.pack("ii", 1, 0)


class ProxyThread:
    """The event loop that links live on. `close` ends it and every connection."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        self._links: list[Link] = []

    def call(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(30)

    def add(self, link: Link) -> None:
        self._links.append(link)

    def close(self) -> None:
        for link in self._links:
            self.call(link.close())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)
        self.loop.close()


@dataclass(eq=False)
class _Pair:
    """One connection through the link, both ends of it."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    deaf: set[Direction]
    spoiled: bool = False  # bytes were swallowed: it can never be whole again

    def end(self, *, reset: bool) -> None:
        for writer in (self.client, self.server):
            end_connection(writer, reset=reset)


def end_connection(writer: asyncio.StreamWriter, *, reset: bool) -> None:
    """A FIN, or the RST of a host that knows nothing of the connection."""
    if reset:
        with contextlib.suppress(OSError, AttributeError):
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        writer.transport.abort()
    else:
        writer.close()


class Link:
    """Carries bytes from its `port` to `target` and back."""

    def __init__(self, name: str, proxies: ProxyThread, target: int) -> None:
        self.name = name
        self.target = target
        self.happened: Counter[str] = Counter()
        self._proxies = proxies
        self._pairs: set[_Pair] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._delay_seconds = 0.0
        self._refuses = False
        self._deaf: set[Direction] = set()
        self._server: asyncio.Server = proxies.call(self._listen())
        self.port: int = self._server.sockets[0].getsockname()[1]
        proxies.add(self)

    # --- what the nemesis does -------------------------------------------------------------------

    def cut(self, *, reset: bool) -> None:
        """End every connection that there is."""
        self._soon(self._cut, reset)

    def refuse(self, on: bool) -> None:
        """Reset every connection, also each new one."""
        self._soon(self._refuse, on)

    def delay(self, seconds: float) -> None:
        self._soon(setattr, self, "_delay_seconds", seconds)

    def deafen(self, direction: Direction, on: bool, *, new: bool) -> None:
        """Swallow what goes in that direction, on new connections too or on those there are; when
        it is over, those that lost bytes are reset."""
        self._soon(self._deafen, direction, on, new)

    def heal(self) -> None:
        self._soon(self._heal)

    async def close(self) -> None:
        self._server.close()
        self._cut(True)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # --- on the loop -----------------------------------------------------------------------------

    def _soon(self, work: Any, *given: Any) -> None:
        self._proxies.loop.call_soon_threadsafe(work, *given)

    def _cut(self, reset: bool) -> None:
        self.happened["connections cut"] += len(self._pairs)
        for pair in list(self._pairs):
            pair.end(reset=reset)

    def _refuse(self, on: bool) -> None:
        self._refuses = on
        if on:
            self._cut(True)

    def _deafen(self, direction: Direction, on: bool, new: bool) -> None:
        if on:
            if new:
                self._deaf.add(direction)
            for pair in self._pairs:
                pair.deaf.add(direction)
            return
        self._deaf.discard(direction)
        for pair in list(self._pairs):
            pair.deaf.discard(direction)
            if pair.spoiled:
                pair.end(reset=True)

    def _heal(self) -> None:
        self._delay_seconds = 0.0
        self._refuses = False
        for direction in ("up", "down"):
            self._deafen(direction, False, True)

    async def _listen(self) -> asyncio.Server:
        return await asyncio.start_server(self._accepted, HOST, 0, limit=_HEAD_BYTES)

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            if self._refuses:
                end_connection(writer, reset=True)
                return
            upstream_reader, upstream = await self._connect()
            pair = _Pair(writer, upstream, set(self._deaf))
            self._pairs.add(pair)
            back = asyncio.create_task(self._down(upstream_reader, pair))
            try:
                await self._up(reader, pair)
            finally:
                self._pairs.discard(pair)
                pair.end(reset=False)
                back.cancel()
                await asyncio.gather(back, return_exceptions=True)
        except (OSError, EOFError, asyncio.LimitOverrunError):
            end_connection(writer, reset=True)
        except asyncio.CancelledError:
            writer.transport.abort()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(HOST, self.target, limit=_HEAD_BYTES)

    async def _up(self, reader: asyncio.StreamReader, pair: _Pair) -> None:
        while data := await reader.read(_READ_BYTES):
            await self._forward(data, pair, "up")

    async def _down(self, reader: asyncio.StreamReader, pair: _Pair) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(_READ_BYTES):
                await self._forward(data, pair, "down")
        pair.end(reset=False)

    async def _forward(self, data: bytes, pair: _Pair, direction: Direction) -> None:
        if self._delay_seconds:
            await asyncio.sleep(self._delay_seconds)
        if direction in pair.deaf:
            pair.spoiled = True
            self.happened[f"deaf {direction}: bytes swallowed"] += len(data)
            return
        writer = pair.server if direction == "up" else pair.client
        writer.write(data)
        await writer.drain()


@dataclass(frozen=True)
class Tamper:
    """What is done to one insert. `code` and `text`: the error that is answered; `seconds`: how
    late it is delivered."""

    how: Tampering
    code: int = 0
    text: str = ""
    seconds: float = 0.0


class HttpLink(Link):
    """A link that ClickHouse's clients speak HTTP/1.1 through, one request at a time."""

    def __init__(self, name: str, proxies: ProxyThread, target: int) -> None:
        self._tampers: deque[Tamper] = deque()
        super().__init__(name, proxies, target)

    def tamper(self, tamper: Tamper) -> None:
        """With the next insert."""
        self._soon(self._tampers.append, tamper)

    def _heal(self) -> None:
        super()._heal()
        self._tampers.clear()

    async def _up(self, reader: asyncio.StreamReader, pair: _Pair) -> None:
        while True:
            try:
                head = await reader.readuntil(b"\r\n\r\n")
            except asyncio.IncompleteReadError:
                return
            body = _body(reader, head)
            if self._tampers and _is_insert(head.split(b"\r\n", 1)[0]):
                tamper = self._tampers.popleft()
                self.happened[f"insert: {tamper.how} {tamper.code or ''}".strip()] += 1
                if not await self._tampered(tamper, head, body, pair):
                    return
                continue
            await self._forward(head, pair, "up")
            async for part in body:
                await self._forward(part, pair, "up")

    async def _tampered(
        self, tamper: Tamper, head: bytes, body: AsyncIterator[bytes], pair: _Pair
    ) -> bool:
        """Whether the connection goes on."""
        if tamper.how == "cut in the body":
            await self._forward(head, pair, "up")
            async for part in body:
                await self._forward(part[: len(part) // 2], pair, "up")
                break
            pair.end(reset=True)
            return False
        whole = head + b"".join([part async for part in body])
        if tamper.how == "late":
            pair.end(reset=True)
            await asyncio.sleep(tamper.seconds)
        if tamper.how != "answer before":
            await self._carried_out(whole)
        if tamper.how in ("late", "lose the answer"):
            pair.end(reset=True)
            return False
        await self._forward(_refusal(tamper), pair, "down")
        return True

    async def _carried_out(self, request: bytes) -> None:
        """Have the server do it, on a connection of its own, and swallow its answer."""
        reader, writer = await self._connect()
        try:
            writer.write(request)
            await writer.drain()
            head = await reader.readuntil(b"\r\n\r\n")
            async for _ in _body(reader, head):
                pass
        finally:
            writer.close()


def _is_insert(line: bytes) -> bool:
    return b"insert_deduplication_token=" in line and b"INSERT" in line


async def _body(reader: asyncio.StreamReader, head: bytes) -> AsyncIterator[bytes]:
    """The body that follows this head, as it stands on the wire."""
    headers = head.lower().split(b"\r\n")[1:]
    if any(line.startswith(b"transfer-encoding:") and b"chunked" in line for line in headers):
        while True:
            line = await reader.readuntil(b"\r\n")
            size = int(line.split(b";")[0], 16)
            yield line + await reader.readexactly(size + 2)
            if not size:
                return
    lengths = [line for line in headers if line.startswith(b"content-length:")]
    left = int(lengths[0].split(b":")[1]) if lengths else 0
    while left:
        part = await reader.read(min(left, _READ_BYTES))
        if not part:
            raise EOFError("the body is short")
        left -= len(part)
        yield part


def _refusal(tamper: Tamper) -> bytes:
    text = f"Code: {tamper.code}. DB::Exception: {tamper.text}\n".encode()
    return (
        b"HTTP/1.1 500 Internal Server Error\r\n"
        b"Content-Type: text/plain; charset=UTF-8\r\n"
        + f"X-ClickHouse-Exception-Code: {tamper.code}\r\n".encode()
        + f"Content-Length: {len(text)}\r\n\r\n".encode()
        + text
    )

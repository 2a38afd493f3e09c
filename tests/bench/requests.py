"""The shim's side: CPU an acknowledged request, beside an empty-answer uvicorn in the same run."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

import uvloop

from deploy.local.child import Child
from deploy.local.waiting import accepts, answers, free_port, wait_until
from tests.bench.parts import Parts, cpu_seconds

Say = Callable[[str], None]

_CONNECTIONS = 64
_PROJECTS = (
    '[bench]\npublic_keys = ["bench-public"]\nsecret_keys = ["bench-secret"]\norigins = ["*"]\n'
)


class _Client(asyncio.Protocol):
    """Keep-alive: sends the next request when the answer to the last has come."""

    def __init__(self, load: _Load) -> None:
        self._load = load
        self._seen = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports do not inherit from asyncio's
        self._transport = cast(asyncio.Transport, transport)
        self._send()

    def data_received(self, data: bytes) -> None:
        self._seen += data
        head = self._seen.find(b"\r\n\r\n")
        if head < 0:
            return
        length = self._seen.lower().find(b"content-length:")
        size = (
            int(self._seen[length + 15 : self._seen.index(b"\r\n", length)]) if length >= 0 else 0
        )
        if len(self._seen) < head + 4 + size:
            return
        self._load.answered(self._seen[9:12])
        self._seen = b""
        self._send()

    def connection_lost(self, error: Exception | None) -> None:
        self._load.closed()

    def _send(self) -> None:
        request = self._load.next_request()
        if request is None:
            self._transport.close()
        else:
            self._transport.write(request)


class _Load:
    """So many requests over so many connections, and what the answers were."""

    def __init__(self, port: int, requests: int, request: Callable[[int], bytes]) -> None:
        self._port = port
        self._left = requests
        self._request = request
        self.statuses: dict[str, int] = {}
        self._open = _CONNECTIONS
        self._done = asyncio.Event()

    def next_request(self) -> bytes | None:
        if self._left <= 0:
            return None
        self._left -= 1
        return self._request(self._left)

    def answered(self, status: bytes) -> None:
        text = status.decode()
        self.statuses[text] = self.statuses.get(text, 0) + 1

    def closed(self) -> None:
        self._open -= 1
        if not self._open:
            self._done.set()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(_CONNECTIONS):
            await loop.create_connection(lambda: _Client(self), "127.0.0.1", self._port)
        await self._done.wait()


def _event(number: int, index: int, salt: str) -> dict[str, object]:
    return {
        "id": f"00000000-0000-4000-8000-{number * 10 + index:012x}",
        "session_id": f"{salt}-{number % 5000}",
        "name": "screen_view",
        "path": f"/products/category-{number % 40}/item-{number % 700}",
        "previous_path": "/products",
        "duration": number % 60,
        "referrer": "https://www.search.example/?q=shoes",
        "properties": {"plan": "basic", "variant": "b"},
    }


def _post(number: int, events: int, salt: str) -> bytes:
    """A request with one event by itself, or with several in an array."""
    made = [_event(number, index, salt) for index in range(events)]
    body = json.dumps(made if events > 1 else made[0]).encode()
    return (
        b"POST /v1/events?key=bench-public HTTP/1.1\r\nHost: bench\r\nOrigin: https://bench.example"
        b"\r\nContent-Type: text/plain\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:143.0) "
        b"Gecko/20100101 Firefox/143.0\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    )


def _measured(child: Child, port: int, requests: int, events: int) -> dict[str, float]:
    """CPU microseconds of `child` a request, and requests a second on the wall."""
    bodies = [_post(number, events, str(port)) for number in range(10_000)]

    async def load(count: int) -> None:
        driver = _Load(port, count, lambda number: bodies[number % len(bodies)])
        await driver.run()
        refused = {status: n for status, n in driver.statuses.items() if status != "202"}
        if refused or sum(driver.statuses.values()) != count:
            raise RuntimeError(f"{child.name} answered {driver.statuses} to {count} requests")

    uvloop.run(load(2_000))
    before, began = cpu_seconds(child.pid), time.perf_counter()
    uvloop.run(load(requests))
    wall = time.perf_counter() - began
    return {"us": 1e6 * (cpu_seconds(child.pid) - before) / requests, "per_second": requests / wall}


def measure(parts: Parts, folder: Path, requests: int, say: Say) -> dict[str, object]:
    """One event a request, ten events a request, and the empty answer."""
    say("empty-answer uvicorn")
    port = free_port()
    uvicorn = parts.children(
        "uvicorn",
        [sys.executable, "-m", "uvicorn", "tests.bench.empty:app", "--port", str(port),
         "--no-access-log", "--log-level", "warning"],
        until=lambda: accepts(port),
    )  # fmt: skip
    empty = _measured(uvicorn, port, requests, 1)
    uvicorn.stop()
    projects = folder / "projects.toml"
    projects.write_text(_PROJECTS)
    shim_port, admin_port = free_port(), free_port()
    shim = parts.children(
        "shim",
        [sys.executable, "-m", "producer_shim"],
        env=parts.environment(
            PENSTOCK_KAFKA_TOPIC=parts.create_topic(8),
            PENSTOCK_HTTP_HOST="127.0.0.1",
            PENSTOCK_HTTP_PORT=str(shim_port),
            PENSTOCK_ADMIN_PORT=str(admin_port),
            PENSTOCK_PROJECTS_FILE=str(projects),
        ),
    )
    wait_until(lambda: answers(f"http://127.0.0.1:{admin_port}/readyz"), 30, "the shim is ready")
    say("the shim, one event a request")
    single = _measured(shim, shim_port, requests, 1)
    say("the shim, ten events a request")
    ten = _measured(shim, shim_port, requests // 4, 10)
    shim.stop()
    return {
        "requests": requests,
        "connections": _CONNECTIONS,
        "empty_uvicorn_us": round(empty["us"], 2),
        "shim_single_us": round(single["us"], 2),
        "shim_over_empty_uvicorn": round(single["us"] / empty["us"], 2),
        "shim_requests_per_second_per_core": round(1e6 / single["us"]),
        "shim_ten_events_us": round(ten["us"], 2),
        "shim_events_per_second_per_core_in_tens": round(1e7 / ten["us"]),
        "wall_requests_per_second": round(single["per_second"]),
    }

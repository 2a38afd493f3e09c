"""The shim's baseline: an ASGI app that answers every request with nothing, for uvicorn."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

Send = Callable[[Mapping[str, Any]], Awaitable[None]]


async def app(scope: Mapping[str, Any], receive: object, send: Send) -> None:
    if scope["type"] != "http":
        return
    headers = [(b"content-length", b"0")]
    await send({"type": "http.response.start", "status": 202, "headers": headers})
    await send({"type": "http.response.body", "body": b""})

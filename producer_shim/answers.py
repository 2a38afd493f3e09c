"""What the shim answers: status, headers and body, ready to be written.

    Answer(202, b'{"accepted":1}')          the common one is made once and kept
    problem(401, "...")                     RFC 9457, for every error

Everything under /v1 may be read by any page (`Access-Control-Allow-Origin: *`): who may *send* is
decided by the key and its origins, and no cookie plays a part in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

import orjson

_REASONS: Final = {status.value: status.phrase for status in HTTPStatus}
_CORS: Final = b"Access-Control-Allow-Origin: *\r\nAccess-Control-Expose-Headers: Retry-After\r\n"
PREFLIGHT_SECONDS: Final = 86_400

Header = tuple[str, str]


class Answer:
    """One HTTP response. `head` is all of it up to the headers' end, without `Connection`."""

    __slots__ = ("body", "head", "status", "whole")

    def __init__(
        self,
        status: int,
        body: bytes = b"",
        content_type: str = "application/json",
        headers: Sequence[Header] = (),
    ) -> None:
        lines = [f"HTTP/1.1 {status} {_REASONS[status]}\r\n"]
        if status != HTTPStatus.NO_CONTENT:
            lines.append(f"Content-Length: {len(body)}\r\n")
            if body:
                lines.append(f"Content-Type: {content_type}\r\n")
        lines.extend(f"{name}: {value}\r\n" for name, value in headers)
        self.status = status
        self.body = body
        self.head = "".join(lines).encode("latin-1") + _CORS
        self.whole = self.head + b"\r\n" + body

    def write(self, close: bool, with_body: bool = True) -> bytes:
        if close:
            return self.head + b"Connection: close\r\n\r\n" + (self.body if with_body else b"")
        return self.whole if with_body else self.head + b"\r\n"


def problem(
    status: int,
    detail: str,
    headers: Sequence[Header] = (),
    members: Mapping[str, Any] | None = None,
) -> Answer:
    """An error as application/problem+json. `detail` is for a person; `members` for a program."""
    body = orjson.dumps(
        {
            "type": "about:blank",
            "title": _REASONS[status],
            "status": status,
            "detail": detail,
            **(members or {}),
        }
    )
    return Answer(status, body, "application/problem+json", headers)


class Rejected(Exception):
    """A request that is answered with a problem, whatever events are in it."""

    def __init__(self, status: int, detail: str, headers: Sequence[Header] = ()) -> None:
        super().__init__(detail)
        self.answer = problem(status, detail, headers)


def accepted(status: int, count: int) -> Answer:
    """All of it was valid, and is acknowledged (202) or was a dry run (200)."""
    answer = _ACCEPTED.get((status, count))
    if answer is None:
        answer = Answer(status, b'{"accepted":%d}' % count)
        if count <= 1000:
            _ACCEPTED[(status, count)] = answer
    return answer


def accepted_in_part(status: int, count: int, results: Sequence[Mapping[str, Any]]) -> Answer:
    """Some of it was valid; `results` has one entry an event."""
    body = {"accepted": count, "rejected": len(results) - count, "results": results}
    return Answer(status, orjson.dumps(body))


_ACCEPTED: dict[tuple[int, int], Answer] = {}


def preflight(methods: str) -> Answer:
    return Answer(
        204,
        headers=(
            ("Allow", methods),
            ("Access-Control-Allow-Methods", methods),
            ("Access-Control-Allow-Headers", "Authorization, Content-Encoding, Content-Type"),
            ("Access-Control-Max-Age", str(PREFLIGHT_SECONDS)),
        ),
    )


# The smallest transparent GIF.
PIXEL: Final = Answer(
    200,
    b"GIF89a\x01\x00\x01\x00\x80\x00\x00\x00\x00\x00\xff\xff\xff!\xf9\x04\x01\x00\x00\x00\x00,"
    b"\x00\x00\x00\x00\x01\x00\x01\x00\x00\x02\x02D\x01\x00;",
    "image/gif",
    (("Cache-Control", "no-store"),),
)

"""From a body as it was sent to the JSON in it: content type, gzip, form."""

from __future__ import annotations

import zlib
from enum import Enum
from typing import Final
from urllib.parse import unquote_to_bytes

from .answers import Rejected


class Media(Enum):
    """How a body's JSON lies in it."""

    JSON = "json"  # JSON, or NDJSON that its sender did not name
    NDJSON = "ndjson"
    FORM = "form"


_MEDIA: Final = {
    b"": Media.JSON,
    b"application/json": Media.JSON,
    b"text/plain": Media.JSON,
    b"application/x-ndjson": Media.NDJSON,
    b"application/ndjson": Media.NDJSON,
    b"application/x-www-form-urlencoded": Media.FORM,
}
_GZIP_WINDOW: Final = 31


def media_of(content_type: bytes) -> Media:
    """Raises Rejected (415) for what is not understood, other charsets than UTF-8 included."""
    media = _MEDIA.get(content_type)
    if media is not None:
        return media
    name, *parameters = content_type.lower().split(b";")
    media = _MEDIA.get(name.strip())
    if media is None:
        raise Rejected(
            415,
            "the content type must be application/json, text/plain, application/x-ndjson "
            "or application/x-www-form-urlencoded",
        )
    for parameter in parameters:
        member, _, value = parameter.partition(b"=")
        if member.strip() == b"charset" and value.strip().strip(b'"') not in (b"utf-8", b"utf8"):
            raise Rejected(415, "the charset must be utf-8")
    return media


def decompressed(body: bytes, encoding: bytes, cap: int) -> bytes:
    """The body without its content encoding; never more than `cap` bytes are made."""
    encoding = encoding.strip().lower()
    if encoding in (b"", b"identity"):
        return body
    if encoding not in (b"gzip", b"x-gzip"):
        raise Rejected(415, "the content encoding must be gzip or identity")
    parts: list[bytes] = []
    left = cap
    while True:  # a gzip file may be several, one after the other
        stream = zlib.decompressobj(wbits=_GZIP_WINDOW)
        try:
            parts.append(stream.decompress(body, left + 1))
        except zlib.error:
            raise Rejected(400, "the body is not valid gzip") from None
        left -= len(parts[-1])
        if left < 0:
            raise Rejected(413, f"the decompressed body is larger than {cap} bytes")
        if not stream.eof:
            raise Rejected(400, "the gzip body is truncated")
        body = stream.unused_data
        if not body:
            return parts[0] if len(parts) == 1 else b"".join(parts)


def form_fields(text: bytes) -> dict[str, bytes]:
    """The fields of a form or a query. Raises Rejected when one is given twice."""
    fields: dict[str, bytes] = {}
    for pair in text.split(b"&", _MANY):
        if not pair:
            continue
        name, _, value = pair.partition(b"=")
        key = _plain(name).decode("utf-8", "replace")
        if key in fields:
            raise Rejected(400, f"{key[:128]} is given twice")
        fields[key] = _plain(value)
    return fields


_MANY: Final = 200


def form_json(body: bytes) -> tuple[bytes, str]:
    """The JSON in a form's `data`, and its `key`."""
    fields = form_fields(body.strip())
    data, key = fields.pop("data", None), fields.pop("key", b"")
    if data is None:
        raise Rejected(400, "data is missing from the form")
    if fields:
        raise Rejected(400, f"{next(iter(fields))[:128]} is not a field: data and key are")
    return data, key.decode("utf-8", "replace")


def _plain(text: bytes) -> bytes:
    return unquote_to_bytes(text.replace(b"+", b" "))

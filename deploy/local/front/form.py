"""Parameters that are too long for a URL, which a client sends as a form in the body."""

from __future__ import annotations

from email.parser import BytesParser
from email.policy import HTTP

from deploy.local.front.body import BadRequest


def is_form(headers: dict[str, str]) -> bool:
    return headers.get("content-type", "").lower().startswith("multipart/form-data")


def form_fields(headers: dict[str, str], body: bytes) -> dict[str, str]:
    """By name. Raises BadRequest for what is no such form, and for one with a file in it."""
    head = f"Content-Type: {headers['content-type']}\r\n\r\n".encode("latin-1")
    form = BytesParser(policy=HTTP).parsebytes(head + body)
    if form.defects or not form.is_multipart():
        raise BadRequest(400, "the body is not the form that its Content-Type announces")
    fields: dict[str, str] = {}
    for part in form.iter_parts():
        name = part.get_param("name", header="content-disposition")
        value = part.get_payload(decode=True)
        if part.get_filename() is not None:
            raise BadRequest(501, "the embedded front takes no files and no external tables")
        if not isinstance(name, str) or not isinstance(value, bytes) or part.defects:
            raise BadRequest(400, "a part of the form has no name, or is damaged")
        try:
            fields[name] = value.decode()
        except UnicodeDecodeError:
            raise BadRequest(400, f"the form's {name!r} is not UTF-8") from None
    return fields

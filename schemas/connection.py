"""A connection to ClickHouse from PENSTOCK_CLICKHOUSE_URL, and its troubles told in one line.

The client is connected without a database, because the database may not exist yet; every statement
of this package names it. It has no session: a statement that is cut off must not lock the next out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

import clickhouse_connect
from clickhouse_connect.common import set_setting
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError, Error

CONNECT_SECONDS = 5

_DENIED = {192, 193, 194, 516}  # unknown user, wrong password, required password, authentication
_NO_RIGHTS = 497
_TOLD = 8_000  # characters of an error

# Whole errors: what a row holds is quoted in front of the server's own words. (The client documents
# a bound of 1024 characters, which 1.12 does not hold to.) `told` bounds them.
set_setting("max_error_size", 0)


class SchemaError(Exception):
    """What kept a command from being done, in one line for a person."""


@dataclass(frozen=True)
class Address:
    """A ClickHouse URL in its parts. `shown` is what may stand in a message."""

    interface: str
    host: str
    port: int
    username: str
    password: str = field(repr=False)
    database: str

    @property
    def base_url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.interface}://{host}:{self.port}"

    @property
    def shown(self) -> str:
        return f"{self.base_url}/{self.database}"


def parse(url: str) -> Address:
    """Raises ValueError, with what the URL should look like, when it cannot be used."""
    form = "must be http(s)://user:password@host:port/database"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError(form) from None
    database = unquote(parts.path.strip("/"))
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(form)
    if parts.query or parts.fragment or "/" in database:
        raise ValueError(form)
    return Address(
        interface=parts.scheme,
        host=parts.hostname,
        port=port or (8443 if parts.scheme == "https" else 8123),
        username=unquote(parts.username or "default"),
        password=unquote(parts.password or ""),
        database=database or "penstock",
    )


def open_client(address: Address, answer_seconds: float, **more: Any) -> Client:
    """`answer_seconds`: to wait for an answer. `more`: what else the client takes, such as its
    database, which need not be there for those who make it. Raises ClickHouseError."""
    return clickhouse_connect.get_client(
        interface=address.interface,
        host=address.host,
        port=address.port,
        username=address.username,
        password=address.password,
        autogenerate_session_id=False,
        connect_timeout=CONNECT_SECONDS,
        send_receive_timeout=answer_seconds,
        **more,
    )


def connect(address: Address) -> Client:
    """Raises SchemaError when the server cannot be reached or refuses the user."""
    try:
        return open_client(address, 300)
    except ClickHouseError as error:
        raise explained(error, address) from None


def explained(error: ClickHouseError, address: Address) -> SchemaError:
    """The one line for an error of the client."""
    code = error.code if isinstance(error, Error) else None
    if code in _DENIED:
        return SchemaError(
            f"ClickHouse at {address.shown} refuses user {address.username!r}: "
            "wrong name or password"
        )
    if code == _NO_RIGHTS:
        return SchemaError(
            f"user {address.username!r} lacks a right on ClickHouse at {address.shown}: "
            f"{first_line(error)}"
        )
    if code is None:
        return SchemaError(f"ClickHouse at {address.shown} cannot be reached: {_cause(error)}")
    return SchemaError(f"ClickHouse at {address.shown}: {first_line(error)}")


def told(error: BaseException) -> str:
    """What an error says, in one line. Of a long one both ends: the middle is what it quotes."""
    text = " ".join(str(error).split("\n")).strip() or type(error).__name__
    if len(text) > _TOLD:
        text = f"{text[: _TOLD // 2]} [...] {text[-_TOLD // 2 :]}"
    return text


def _cause(error: ClickHouseError) -> str:
    """What the operating system said, out of the several layers that wrapped it."""
    text = first_line(error)
    found = re.search(r"\[Errno -?\d+\] ([^\"')]+)", text)
    return found[1] if found else text


def first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0]

"""An insert whose connection is cut or redirected, with and without TLS.

The transport below the client sends some requests again by itself. A body that is read as it is
sent would then go on where it stopped: the rest of a batch, or nothing, under the token of all.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import trustme

from consumer.commands import Outcome
from consumer.runner import clock
from tests.fixtures.batches import batch, name
from tests.fixtures.clickhouse import ClickHouse
from tests.integration.consumer.test_inserts import lines, rows, table_of
from tests.integration.consumer.test_table import land

Strike = Callable[[socket.socket], None]


class _Wire:
    """A port that leads to a server's, and does something else with the first insert."""

    def __init__(self, target: int, strike: Strike, tls: ssl.SSLContext | None) -> None:
        self.inserts = 0
        self._target = target
        self._strike = strike
        self._tls = tls
        self._ends: list[socket.socket] = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listening.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # it was closed
            while True:
                came, _ = self._listening.accept()
                threading.Thread(target=self._carry, args=(came,), daemon=True).start()

    def _carry(self, came: socket.socket) -> None:
        with contextlib.suppress(OSError):
            if self._tls is not None:
                came = self._tls.wrap_socket(came, server_side=True)
            onward = socket.create_connection(("127.0.0.1", self._target))
            self._ends += [came, onward]
            threading.Thread(target=self._back, args=(onward, came), daemon=True).start()
            while data := came.recv(1 << 16):
                if b"INSERT+INTO" in data:
                    self.inserts += 1
                    if self.inserts == 1:
                        self._strike(came)
                        break
                onward.sendall(data)
            onward.close()
            came.close()

    def _back(self, onward: socket.socket, came: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := onward.recv(1 << 16):
                came.sendall(data)

    def close(self) -> None:
        self._listening.close()
        for end in self._ends:
            end.close()


@pytest.fixture(params=[True, False], ids=["TLS", "plain"])
def tls(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> ssl.SSLContext | None:
    """The server's side of it, with a certificate that clients trust from here on."""
    if not request.param:
        return None
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


@contextmanager
def _wired(
    server: ClickHouse, strike: Strike, tls: ssl.SSLContext | None
) -> Iterator[tuple[_Wire, ClickHouse]]:
    parts = urlsplit(server.url)
    wire = _Wire(parts.port or 0, strike, tls)
    url = f"http{'s' if tls else ''}://127.0.0.1:{wire.port}"
    try:
        yield wire, ClickHouse(url, server.database)
    finally:
        wire.close()


def _cut(came: socket.socket) -> None:
    came.close()


def _redirect(came: socket.socket) -> None:
    came.sendall(
        b"HTTP/1.1 307 Temporary Redirect\r\nLocation: /?query=INSERT+INTO+events_landing+FORMAT+"
        b"JSONEachRow&insert_deduplication_token=x\r\nContent-Length: 0\r\n"
        b"Connection: close\r\n\r\n"
    )
    while came.recv(1 << 16):
        pass


@pytest.mark.parametrize("strike", [_cut, _redirect])
def test_a_body_is_never_sent_in_two_halves(
    clickhouse_with_schema: ClickHouse, strike: Strike, tls: ssl.SSLContext | None
) -> None:
    client = clickhouse_with_schema.client()
    with _wired(clickhouse_with_schema, strike, tls) as (wire, server):
        table = table_of(server)
        made = batch(0, *lines(20_000))
        answer = table.insert(made, name(made), clock() + 60, None)
        assert (answer.outcome, wire.inserts) == (Outcome.FAILED, 1), answer.why
        assert rows(client, "SELECT count() FROM events") == [(0,)]
        land(table, made)
        assert wire.inserts == 2
    assert rows(client, "SELECT count() FROM events") == [(20_000,)]

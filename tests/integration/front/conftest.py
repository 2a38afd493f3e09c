"""A front of a test's own, and a plain HTTP client that shows what came over the wire."""

from __future__ import annotations

import http.client
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from urllib.parse import urlencode

import pytest

from deploy.local.child import Child
from deploy.local.waiting import answers, free_port
from tests.fixtures.children import Children, await_start


@dataclass(frozen=True)
class Reply:
    status: int
    headers: Message
    body: bytes


class Front:
    """`ask` and `post` go to the database `penstock`, each over a connection of its own."""

    def __init__(self, child: Child, port: int, data: Path) -> None:
        self.child, self.port, self.data = child, port, data

    def answers(self) -> bool:
        return answers(f"http://127.0.0.1:{self.port}/ping")

    def restart(self) -> None:
        self.child.start()
        await_start(self.child, self.answers, 60)

    def ask(self, statement: str) -> Reply:
        return self.post({}, statement.encode())

    def get(self, params: dict[str, str]) -> Reply:
        return self._request("GET", params, b"", {})

    def post(
        self, params: dict[str, str], body: bytes = b"", headers: dict[str, str] | None = None
    ) -> Reply:
        return self._request("POST", params, body, headers or {})

    def about(self) -> dict[str, object]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request("GET", "/penstock")
        fields: dict[str, object] = json.loads(connection.getresponse().read())
        connection.close()
        return fields

    def _request(
        self, method: str, params: dict[str, str], body: bytes, headers: dict[str, str]
    ) -> Reply:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            url = "/?" + urlencode({"database": "penstock", **params})
            connection.request(method, url, body=body, headers=headers)
            answer = connection.getresponse()
            return Reply(answer.status, answer.headers, answer.read())
        finally:
            connection.close()


def command(data: Path, port: int, *options: str) -> list[str]:
    python = os.environ.get("FRONT_PYTHON", sys.executable)
    fixed = ["-m", "deploy.local.front", "--data", str(data), "--port", str(port)]
    return [python, *fixed, *options]


def run_front(start: Children, data: Path, *options: str) -> Front:
    port = free_port()
    url = f"http://127.0.0.1:{port}/ping"
    child = start("front", command(data, port, *options), until=lambda: answers(url), seconds=60)
    return Front(child, port, data)


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    """One front for a module's tests that do not kill it."""
    folder = tmp_path_factory.mktemp("front")
    children = Children(folder / "logs")
    yield run_front(children, folder / "data")
    children.close()

"""A shim that runs as its users run it, and what a test asks of it."""

from __future__ import annotations

import http.client
import json
import socket
import sys
import time
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, TopicPartition
from prometheus_client.parser import text_string_to_metric_families

from deploy.local.child import Child
from deploy.local.waiting import free_port, wait_until
from tests.fixtures.children import Children

PROJECTS = """
[demo]
public_keys = ["demo-public"]
secret_keys = ["demo-secret"]
origins = ["*"]

[shop]
public_keys = ["shop-public", "shop-public-2"]
secret_keys = ["shop-secret"]
origins = ["https://shop.example", "https://*.shop.example"]
"""
NOBODY = "127.0.0.1:1"  # no broker listens there


@dataclass(frozen=True)
class Reply:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Shim:
    """One `penstock-shim`, with its settings as environment."""

    def __init__(
        self,
        start: Children,
        folder: Path,
        bootstrap_servers: str,
        topic: str,
        wait: bool = True,
        **more: str,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.topic = topic
        self.bootstrap_servers = bootstrap_servers
        self.port, self.admin_port = free_port(), free_port()
        self.projects = folder / "projects.toml"
        self.projects.write_text(PROJECTS)
        settings = {
            "KAFKA_BOOTSTRAP_SERVERS": bootstrap_servers,
            "KAFKA_TOPIC": topic,
            "HTTP_HOST": "127.0.0.1",
            "HTTP_PORT": str(self.port),
            "ADMIN_PORT": str(self.admin_port),
            "PROJECTS_FILE": str(self.projects),
            "LOG_FORMAT": "json",
            **more,
        }
        self.child: Child = start(
            "shim",
            [sys.executable, "-m", "producer_shim"],
            {f"PENSTOCK_{name}": value for name, value in settings.items()},
            until=self.ready if wait else self.alive,
        )

    def ready(self) -> bool:
        try:
            return self.admin("/readyz").status == 200
        except OSError:
            return False

    def alive(self) -> bool:
        try:
            return self.admin("/livez").status == 200
        except OSError:
            return False

    def admin(self, path: str) -> Reply:
        return request(self.admin_port, "GET", path)

    def metric(self, name: str, **labels: str) -> float:
        """The sum over all series of this name that have these labels."""
        page = self.admin("/metrics").body.decode()
        found = [
            sample.value
            for family in text_string_to_metric_families(page)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        ]
        assert found, f"no series {name} {labels}"
        return sum(found)

    def post(
        self,
        body: bytes | str | list[Any] | dict[str, Any],
        key: str | None = "demo-public",
        query: str = "",
        content_type: str = "application/json",
        **headers: str,
    ) -> Reply:
        data = (
            body
            if isinstance(body, bytes)
            else (body.encode() if isinstance(body, str) else json.dumps(body).encode())
        )
        parts = [f"key={key}"] if key else []
        parts += [query] if query else []
        path = "/v1/events" + ("?" + "&".join(parts) if parts else "")
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        if content_type:
            given["Content-Type"] = content_type
        return request(self.port, "POST", path, data, given)

    def get(self, path: str, **headers: str) -> Reply:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        return request(self.port, "GET", path, None, given)


def request(
    port: int,
    method: str,
    path: str,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
) -> Reply:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path, body, dict(headers or {}))
        answer = connection.getresponse()
        return Reply(answer.status, dict(answer.getheaders()), answer.read())
    finally:
        connection.close()


class Wire:
    """A bare connection, for what no HTTP client would send."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self._file = self.socket.makefile("rb")

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def reply(self, with_body: bool = True) -> Reply:
        """The next answer. ConnectionError when the peer has closed."""
        line = self._file.readline()
        if not line:
            raise ConnectionError("closed")
        status = int(line.split()[1])
        headers: dict[str, str] = {}
        while (line := self._file.readline()) not in (b"\r\n", b""):
            name, _, value = line.decode().partition(":")
            headers[name] = value.strip()
        length = int(headers.get("Content-Length", "0")) if with_body else 0
        return Reply(status, headers, self._file.read(length))

    def closed(self) -> bool:
        """Whether the peer ends the connection; waits for it."""
        try:
            return self._file.read(1) == b""
        except ConnectionResetError:
            return True


def event(**members: Any) -> dict[str, Any]:
    """A small valid event; the id makes it findable in the topic."""
    return {"id": str(uuid.uuid4()), "session_id": "s-1", "name": "screen_view", **members}


def post_bytes(body: bytes, path: str = "/v1/events?key=demo-public", more: str = "") -> bytes:
    """A whole request as bytes."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n{more}\r\n"
    )
    return head.encode() + body


@dataclass(frozen=True)
class Record:
    partition: int
    value: bytes

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.value.split(b"\n")]


def records(bootstrap_servers: str, topic: str) -> list[Record]:
    """Everything in the topic now."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap_servers,
            "group.id": f"reader-{uuid.uuid4()}",
            "enable.auto.commit": False,
            "fetch.wait.max.ms": 10,
            "log_level": 0,
        }
    )
    try:
        found: list[Record] = []
        ends: dict[int, int] = {}
        starts = []
        for partition in consumer.list_topics(topic, timeout=10).topics[topic].partitions:
            place = TopicPartition(topic, partition)
            low, high = consumer.get_watermark_offsets(place, timeout=10)
            if high > low:
                ends[partition] = high
                starts.append(TopicPartition(topic, partition, low))
        consumer.assign(starts)
        deadline = time.monotonic() + 30
        while ends:
            assert time.monotonic() < deadline, f"{topic} was not read to its end"
            for message in consumer.consume(10_000, timeout=0.02):
                assert message.error() is None, message.error()
                value, offset, partition = message.value(), message.offset(), message.partition()
                assert value is not None
                assert offset is not None
                assert partition is not None
                found.append(Record(partition, bytes(value)))
                if offset + 1 >= ends.get(partition, 0):
                    ends.pop(partition, None)
        return found
    finally:
        consumer.close()


def stored(shim: Shim, ids: Iterable[str]) -> dict[str, dict[str, Any]]:
    """The lines of these ids in the shim's topic, by id."""
    wanted = set(ids)
    return {
        line["id"]: line
        for record in records(shim.bootstrap_servers, shim.topic)
        for line in record.lines
        if line["id"] in wanted
    }


def until(condition: Any, what: str, seconds: float = 20) -> None:
    wait_until(condition, seconds, what)

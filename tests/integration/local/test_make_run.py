"""`python -m deploy.local` as a person meets it: it comes up, rides out kills, and stops."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import urllib.request
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from deploy.local.child import Child
from deploy.local.stack import Ports
from deploy.local.waiting import HOST, answers, free_port, is_free, wait_until
from tests.fixtures.children import Children, await_start

MODULE = [sys.executable, "-m", "deploy.local"]
PARTS = {"kafka", "clickhouse", "consumer", "shim", "page"}
UP_SECONDS = 60
VISIBLE_SECONDS = 3


def distinct_ports() -> Ports:
    chosen: set[int] = set()
    while len(chosen) < len(fields(Ports)):
        chosen.add(free_port())
    return Ports(*chosen)


class MakeRun:
    """One stack on ports and data of its own."""

    def __init__(self, data: Path, children: Children, kafka: str = "embedded") -> None:
        self.data = data
        self.ports = distinct_ports()
        self._children = children
        self.command = [*MODULE, "--data", str(data), "--kafka", kafka]
        for port in fields(Ports):
            number = str(getattr(self.ports, port.name))
            self.command += [f"--{port.name.replace('_', '-')}-port", number]
        self.env: dict[str, str] = {}
        self.run: Child | None = None
        self._kills: Counter[str] = Counter()

    def start(self) -> None:
        url = f"http://{HOST}:{self.ports.page}/"

        run = self._children.make("make-run", self.command, self.env)
        self.run = run
        run.start()
        await_start(run, lambda: f"Penstock runs: {url}" in run.tail(), UP_SECONDS)

    @property
    def pid(self) -> int:
        assert self.run is not None
        return self.run.pid

    def pids(self) -> dict[str, int]:
        """Process ids of the parts, by name."""
        found = {}
        for path in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split():
            words = Path(f"/proc/{path}/cmdline").read_bytes().decode().split("\0")
            module = words[words.index("-m") + 1] if "-m" in words else ""
            name = {
                "deploy.local.mock_broker": "kafka",
                "deploy.local.apache_kafka": "kafka",
                "deploy.local.front": "clickhouse",
                "deploy.local.page": "page",
                "producer_shim": "shim",
            }.get(module, module)
            found[name] = int(path)
        return found

    def query(self, sql: str) -> str:
        url = f"http://{HOST}:{self.ports.clickhouse}/?database=penstock"
        with urllib.request.urlopen(url, sql.encode(), timeout=10) as reply:
            text: str = reply.read().decode().strip()
        return text

    def post(self, session: str) -> None:
        """One screen view, sent under one id until it is acknowledged."""
        event = {"id": str(uuid.uuid4()), "session_id": session, "name": "screen_view"}
        body = json.dumps({**event, "path": f"/{session}"}).encode()
        url = f"http://{HOST}:{self.ports.shim}/v1/events?key=demo-secret"
        headers = {"Content-Type": "application/json"}

        def accepted() -> bool:
            request = urllib.request.Request(url, body, headers)
            try:
                with urllib.request.urlopen(request, timeout=10) as reply:
                    return bool(json.load(reply) == {"accepted": 1})
            except OSError:
                return False

        wait_until(accepted, 30, "the event is acknowledged")

    def counts(self) -> dict[str, str]:
        return {
            "events": self.query("SELECT count() FROM events"),
            "sessions": self.query("SELECT uniqExact(session_id) FROM sessions"),
            "sessions_daily": self.query("SELECT sum(events) FROM sessions_daily"),
            "pages_daily": self.query("SELECT sum(views) FROM pages_daily"),
        }

    def await_counts(self, expected: int, seconds: float) -> None:
        def all_there() -> bool:
            try:
                return set(self.counts().values()) == {str(expected)}
            except OSError:
                return False

        wait_until(all_there, seconds, f"{expected} events in every table")

    def figures(self) -> dict[str, Any]:
        url = f"http://{HOST}:{self.ports.page}/figures.json"
        with urllib.request.urlopen(url, timeout=10) as reply:
            found: dict[str, Any] = json.load(reply)
        return found

    def kill(self, name: str) -> None:
        os.kill(self.pids()[name], signal.SIGKILL)
        self._kills[name] += 1

    def await_parts_up(self) -> None:
        """Every part is up, and was started again as often as it was killed."""

        def up() -> bool:
            try:
                parts = self.figures()["stack"]["parts"]
            except OSError:
                return False
            found = {part["name"]: (part["state"], part["restarts"]) for part in parts}
            return found == {name: ("up", self._kills[name]) for name in PARTS}

        wait_until(up, 60, "every part is up")

    def ports_are_free(self) -> bool:
        return all(is_free(getattr(self.ports, port.name)) for port in fields(Ports))


@pytest.fixture
def make_run(tmp_path: Path, start: Children) -> Callable[..., MakeRun]:
    made: list[MakeRun] = []

    def make(kafka: str = "embedded") -> MakeRun:
        made.append(MakeRun(tmp_path / "data", start, kafka))
        return made[-1]

    return make


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="processes are looked up in /proc"),
]


@pytest.mark.alone
def test_an_event_is_in_every_table_within_three_seconds_and_stays(
    make_run: Callable[..., MakeRun],
) -> None:
    stack = make_run()
    stack.start()
    stack.post("first")
    stack.await_counts(1, VISIBLE_SECONDS)
    ledger = stack.figures()["ledger"]
    assert (ledger["ok"], ledger["rows"]) == (True, 1)
    pids = stack.pids()
    assert set(pids) == PARTS
    assert {os.getsid(pid) for pid in pids.values()} == {os.getsid(stack.pid)}

    stack.post("second")  # and at once:
    assert stack.run is not None
    assert stack.run.stop(40), stack.run.tail()
    assert stack.run.exit_code == 0
    assert stack.ports_are_free()

    stack.start()
    stack.await_counts(2, 0.1)
    stack.post("third")
    stack.await_counts(3, VISIBLE_SECONDS)


def test_a_killed_part_is_started_again_and_nothing_is_lost_or_doubled(
    make_run: Callable[..., MakeRun],
) -> None:
    stack = make_run()
    stack.start()
    sent = 0
    for name in ("shim", "consumer", "clickhouse", "page"):
        stack.kill(name)
        stack.post(f"after-{name}")
        sent += 1
        stack.await_parts_up()
        stack.await_counts(sent, 60)
    notices = [notice["text"] for notice in stack.figures()["stack"]["notices"]]
    assert len(notices) == 4
    assert not any(notice.endswith("gone") for notice in notices)

    stack.kill("kafka")
    stack.await_parts_up()
    assert stack.figures()["stack"]["notices"][-1]["text"].endswith("is gone")
    stack.post("after-kafka")
    stack.await_counts(sent + 1, 60)
    assert stack.figures()["ledger"]["faults"] == []


def test_its_parts_end_when_it_is_killed(make_run: Callable[..., MakeRun]) -> None:
    stack = make_run()
    stack.start()
    assert stack.run is not None
    stack.run.kill()
    wait_until(stack.ports_are_free, 20, "every port is free again")
    stack.start()


@pytest.mark.long  # the chaos kills brokers too
@pytest.mark.usefixtures("kafka_jars")
def test_with_apache_kafka_a_kill_of_the_broker_loses_nothing(
    make_run: Callable[..., MakeRun], kafka_jars: Path
) -> None:
    stack = make_run("apache")
    stack.data.mkdir()
    (stack.data / "jars").symlink_to(kafka_jars)
    stack.start()
    stack.post("before")
    stack.kill("kafka")
    stack.post("after")
    stack.await_parts_up()
    stack.await_counts(2, 60)
    assert stack.figures()["ledger"]["faults"] == []


def one_line(start: Children, stack: MakeRun, code: int = 1, **env: str) -> str:
    """What it says before it ends with `code`."""
    child = start("make-run", stack.command, env=env)
    assert child.wait(60) == code
    lines = child.tail().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


@pytest.mark.parametrize("part", ["shim", "page", "clickhouse", "kafka", "consumer_admin"])
def test_a_taken_port_is_one_line_before_anything_starts(
    make_run: Callable[..., MakeRun], start: Children, part: str
) -> None:
    stack = make_run()
    port = getattr(stack.ports, part)
    with socket.create_server((HOST, port)):
        said = one_line(start, stack)
    assert said.startswith(f"port {port} on {HOST}, for ")
    assert list((stack.data / "logs").iterdir()) == []


def test_a_data_folder_that_is_none_is_one_line(
    make_run: Callable[..., MakeRun], start: Children
) -> None:
    stack = make_run()
    stack.data.touch()
    assert one_line(start, stack).startswith(f"the data folder {stack.data} cannot be used: ")


def test_a_broken_clickhouse_folder_is_one_line_and_leaves_nothing_running(
    make_run: Callable[..., MakeRun], start: Children
) -> None:
    stack = make_run()
    stack.data.mkdir()
    (stack.data / "clickhouse").touch()
    assert one_line(start, stack).startswith("clickhouse ended with 1 at its start: ")
    assert stack.ports_are_free()


def test_a_missing_java_is_one_line(
    make_run: Callable[..., MakeRun], start: Children, tmp_path: Path
) -> None:
    said = one_line(start, make_run("apache"), PATH=str(tmp_path), JAVA_HOME="")
    assert said.startswith("Apache Kafka needs Java 17 or newer, and none was found")


def test_a_wrong_setting_is_refused(make_run: Callable[..., MakeRun], start: Children) -> None:
    said = one_line(start, make_run(), code=2, PENSTOCK_BATCH_ROW="7")
    assert "PENSTOCK_BATCH_ROWS" in said


def test_a_second_one_on_the_same_data_is_refused(
    make_run: Callable[..., MakeRun], start: Children
) -> None:
    first, second = make_run(), make_run()
    first.start()
    assert "is in use" in one_line(start, second)
    assert answers(f"http://{HOST}:{first.ports.page}/healthz")


def test_it_uses_a_clickhouse_and_a_kafka_from_the_environment(
    make_run: Callable[..., MakeRun], kafka_address: str, clickhouse_server: str
) -> None:
    """Neither is started, and both are used."""
    name = uuid.uuid4().hex[:12]
    stack = make_run()
    stack.env = {
        "PENSTOCK_KAFKA_BOOTSTRAP_SERVERS": kafka_address,
        "PENSTOCK_KAFKA_TOPIC": f"test-{name}",
        "PENSTOCK_KAFKA_GROUP": f"test-{name}",
        "PENSTOCK_CLICKHOUSE_URL": f"{clickhouse_server}test_{name}",
    }
    stack.start()
    assert set(stack.pids()) == PARTS - {"kafka", "clickhouse"}
    stack.post("elsewhere")
    wait_until(lambda: stack.figures()["totals"] == {"events": 1}, 10, "the event is there")

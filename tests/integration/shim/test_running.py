"""Starting, stopping, several workers, a keys file that changes, and a real Kafka."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from deploy.local.waiting import free_port
from tests.fixtures.children import Children
from tests.fixtures.kafka import Kafka
from tests.integration.shim.running import (
    NOBODY,
    PROJECTS,
    Shim,
    Wire,
    event,
    post_bytes,
    records,
    stored,
    until,
)

StartShim = Callable[..., Shim]


class Load:
    """Posts from several connections until told to stop; remembers what was acknowledged."""

    def __init__(self, shim: Shim, connections: int) -> None:
        self.accepted: list[str] = []
        self.statuses: set[int] = set()
        self._shim = shim
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(connections)]
        for thread in self._threads:
            thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                with Wire(self._shim.port) as wire:
                    while not self._stop.is_set():
                        one = event()
                        wire.send(post_bytes(json.dumps(one).encode()))
                        status = wire.reply().status
                        self.statuses.add(status)
                        if status == 202:
                            self.accepted.append(one["id"])
            except OSError:
                continue

    def end(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)


def test_sigterm_under_load_loses_nothing_that_was_acknowledged(start_shim: StartShim) -> None:
    shim = start_shim()
    load = Load(shim, 8)
    try:
        until(lambda: len(load.accepted) > 300, "there is load")
        shim.child.signal(signal.SIGTERM)
        assert shim.child.wait(10) == 0
    finally:
        load.end()
    assert load.statuses <= {202, 503}
    kept = [line["id"] for r in records(shim.bootstrap_servers, shim.topic) for line in r.lines]
    assert len(kept) == len(set(kept))
    assert set(load.accepted) <= set(kept)


def test_sigterm_answers_what_was_taken(start_shim: StartShim) -> None:
    shim = start_shim(PACK_MILLISECONDS="1000")
    one = event()
    with Wire(shim.port) as wire, Wire(shim.port) as idle, Wire(shim.port) as begun:
        request = post_bytes(json.dumps(event()).encode())
        begun.send(request[:-1])
        wire.send(post_bytes(json.dumps(event()).encode()) + post_bytes(json.dumps(one).encode()))
        until(lambda: shim.metric("penstock_produce_queue_events") == 2, "both are taken")
        shim.child.signal(signal.SIGTERM)
        assert wire.reply().status == 202
        reply = wire.reply()
        assert (reply.status, reply.headers["Connection"]) == (202, "close")
        assert wire.closed()
        assert idle.closed()
        begun.send(request[-1:])  # comes too late to be taken
        late = begun.reply()
        assert (late.status, late.json["reason"]) == (503, "stopping")
    assert shim.child.wait(10) == 0
    assert one["id"] in stored(shim, [one["id"]])


def test_stopping_does_not_wait_longer_than_told(start_shim: StartShim) -> None:
    shim = start_shim(STOP_SECONDS="1")
    with Wire(shim.port) as wire:
        wire.send(b"POST /v1/events?key=demo-public HTTP/1.1\r\nContent-Length: 5\r\n\r\n")
        until(lambda: shim.metric("penstock_worker_state") == 1, "it serves")
        shim.child.signal(signal.SIGTERM)
        assert shim.child.wait(8) == 0


def workers_of(shim: Shim) -> list[int]:
    path = Path(f"/proc/{shim.child.pid}/task/{shim.child.pid}/children")
    return [int(pid) for pid in path.read_text().split()]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_workers_share_a_port_and_add_up(start_shim: StartShim) -> None:
    shim = start_shim(WORKERS="2")
    assert len(workers_of(shim)) == 2
    for _ in range(60):  # the kernel spreads connections
        assert shim.post(event()).status == 202
    assert shim.metric("penstock_http_requests_total", route="events", status="202") == 60
    assert shim.metric("penstock_events_total", outcome="accepted") == 60
    assert len(records(shim.bootstrap_servers, shim.topic)) == 60
    victim = workers_of(shim)[0]
    os.kill(victim, signal.SIGKILL)
    until(lambda: not shim.ready(), "the missing worker is seen")
    until(shim.ready, "it is started again")
    assert victim not in workers_of(shim)
    assert len(workers_of(shim)) == 2
    assert shim.metric("penstock_events_total", outcome="accepted") == 60
    pids = workers_of(shim)
    shim.child.signal(signal.SIGTERM)
    assert shim.child.wait(10) == 0
    assert not any(alive(pid) for pid in pids)


def test_workers_end_with_their_supervisor(start_shim: StartShim) -> None:
    shim = start_shim(WORKERS="2")
    pids = workers_of(shim)
    shim.child.kill()
    until(lambda: not any(alive(pid) for pid in pids), "orphans leave")


def test_workers_under_load_stop_cleanly(start_shim: StartShim) -> None:
    shim = start_shim(WORKERS="2")
    load = Load(shim, 8)
    try:
        until(lambda: len(load.accepted) > 300, "there is load")
        shim.child.signal(signal.SIGTERM)
        assert shim.child.wait(15) == 0
    finally:
        load.end()
    kept = {line["id"] for r in records(shim.bootstrap_servers, shim.topic) for line in r.lines}
    assert set(load.accepted) <= kept


def test_a_new_keys_file_is_taken_up(start_shim: StartShim) -> None:
    shim = start_shim()
    assert shim.post(event(), key="demo-public").status == 202
    assert shim.post(event(), key="demo-next").status == 401
    shim.projects.write_text(PROJECTS.replace('"demo-public"', '"demo-next"'))
    until(lambda: shim.post(event(), key="demo-next").status == 202, "the new key is known")
    assert shim.post(event(), key="demo-public").status == 401


def test_a_broken_keys_file_changes_nothing(start_shim: StartShim) -> None:
    shim = start_shim()
    with Wire(shim.port) as wire:
        wire.send(post_bytes(json.dumps(event()).encode()))
        assert wire.reply().status == 202
        shim.projects.write_text("[demo")
        until(lambda: shim.metric("penstock_projects_file_errors_total") == 1, "it is noted")
        wire.send(post_bytes(json.dumps(event()).encode()))
        assert wire.reply().status == 202
        shim.projects.unlink()
        until(lambda: shim.metric("penstock_projects_file_errors_total") == 2, "that too")
        assert shim.post(event(), key="demo-secret").status == 202
        shim.projects.write_text(PROJECTS.replace('["demo-secret"]', "[]"))
        until(lambda: shim.post(event(), key="demo-secret").status == 401, "the file is read")
    assert "demo-public" not in shim.child.tail()


def run_to_its_end(start: Children, **settings: str) -> tuple[int, str]:
    """Exit code and output of a shim that cannot start."""
    child = start(
        "shim",
        [sys.executable, "-m", "producer_shim"],
        {
            "PENSTOCK_KAFKA_BOOTSTRAP_SERVERS": NOBODY,
            "PENSTOCK_HTTP_HOST": "127.0.0.1",
            "PENSTOCK_HTTP_PORT": "0",
            "PENSTOCK_ADMIN_PORT": "0",
            **{f"PENSTOCK_{name}": value for name, value in settings.items()},
        },
    )
    return child.wait(20), child.tail()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"HTTP_PROT": "1"}, "did you mean PENSTOCK_HTTP_PORT"),
        ({"PACK_BYTES": "2000000"}, "message.max.bytes"),
        ({"BROWSER_BODY_BYTES": "2000000"}, "PENSTOCK_BODY_BYTES"),
        ({"BODY_EVENTS": "1000", "QUEUE_EVENTS": "10"}, "PENSTOCK_QUEUE_EVENTS"),
        ({"PROJECTS_FILE": "/nowhere/projects.toml"}, "PENSTOCK_PROJECTS_FILE"),
        ({"KAFKA__ACKS": "1"}, "PENSTOCK_KAFKA__ACKS is reserved"),
        ({"KAFKA__NO_SUCH_THING": "1"}, "no.such.thing"),
        ({"WORKERS": "0"}, "PENSTOCK_WORKERS"),
    ],
)
def test_wrong_settings_are_one_line_and_2(
    start: Children, tmp_path: Path, settings: dict[str, str], words: str
) -> None:
    projects = tmp_path / "projects.toml"
    projects.write_text(PROJECTS)
    code, output = run_to_its_end(start, **{"PROJECTS_FILE": str(projects), **settings})
    assert code == 2
    assert words in output
    assert len(output.splitlines()) == 1


def test_a_keys_file_with_mistakes_names_them_all(start: Children, tmp_path: Path) -> None:
    projects = tmp_path / "projects.toml"
    projects.write_text(
        '[a]\npublic_keys = ["k1"]\n[b]\nsecret_key = []\norigins = ["shop"]\n'
        '[c]\nsecret_keys = ["same", "same"]\n'
    )
    code, output = run_to_its_end(start, PROJECTS_FILE=str(projects))
    assert code == 2
    assert len(output.splitlines()) == 4
    for words in ("no origins", "'secret_key'", "'shop'", "secret_keys[1] is used twice"):
        assert words in output
    assert "same" not in output


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("which", ["HTTP_PORT", "ADMIN_PORT"])
def test_a_taken_port_is_one_line_and_1(
    start: Children, tmp_path: Path, workers: str, which: str
) -> None:
    projects = tmp_path / "projects.toml"
    projects.write_text(PROJECTS)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        code, output = run_to_its_end(
            start,
            **{
                "HTTP_PORT": str(free_port()),
                "PROJECTS_FILE": str(projects),
                "WORKERS": workers,
                which: port,
            },
        )
    assert code == 1
    assert f"PENSTOCK_{which} {port}" in output
    assert len(output.splitlines()) == 1


def test_real_kafka_has_what_was_acknowledged(kafka: Kafka, start_shim: StartShim) -> None:
    topic = kafka.create_topic(partitions=4)
    shim = start_shim(bootstrap_servers=kafka.bootstrap_servers, topic=topic)
    load = Load(shim, 16)
    try:
        until(lambda: len(load.accepted) > 2000, "there is load")
        shim.child.signal(signal.SIGTERM)
        assert shim.child.wait(10) == 0
    finally:
        load.end()
    kept = [line["id"] for r in records(kafka.bootstrap_servers, topic) for line in r.lines]
    assert len(kept) == len(set(kept))
    assert set(load.accepted) <= set(kept)

"""What the benchmark runs on: a real Kafka, the real engine behind its front, and CPU clocks.

CPU is what a process used by the kernel's own account, so a busy machine shows less in it than on
the wall; still, only ratios against a baseline of the same run mean anything.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import urllib.request
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import clickhouse_connect
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from deploy.local.apache_kafka.node import metadata_answers
from deploy.local.child import Child
from deploy.local.waiting import answers, free_port, wait_until
from tests.fixtures.children import ROOT, Children, await_start

_TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and its reaped children."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return sum(int(field) for field in fields[11:15]) / _TICKS


class Parts:
    """Kafka and ClickHouse for one run of the benchmark."""

    def __init__(self, folder: Path) -> None:
        self.children = Children(folder / "logs")
        kafka_port = free_port()
        self.kafka = f"127.0.0.1:{kafka_port}"
        self.kafka_child = self._python(
            "kafka", "deploy.local.apache_kafka", "--data", str(folder / "kafka"), "--port",
            str(kafka_port), "--controller-port", str(free_port()), "--jars",
            str(ROOT / ".penstock" / "jars"),
        )  # fmt: skip
        port = free_port()
        self.clickhouse = f"http://127.0.0.1:{port}/penstock"
        self.front = self._python(
            "front", "deploy.local.front", "--data", str(folder / "clickhouse"), "--port", str(port)
        )
        wait_until(lambda: metadata_answers(self.kafka, 1), 120, "Kafka answers")
        wait_until(lambda: answers(f"http://127.0.0.1:{port}/ping"), 60, "ClickHouse answers")
        self.database = 0

    def fresh_database(self) -> None:
        """Tables without a row, so that no case pays for the merges of another's."""
        base, _, _ = self.clickhouse.rpartition("/")
        self.database += 1
        self.clickhouse = f"{base}/bench_{self.database}"
        self.run("schemas", "apply")

    def drop_database(self) -> None:
        client = clickhouse_connect.get_client(dsn=self.clickhouse, autogenerate_session_id=False)
        client.command(f"DROP DATABASE bench_{self.database} SYNC")
        client.close()

    def _python(self, name: str, module: str, *arguments: str) -> Child:
        return self.children(name, [sys.executable, "-m", module, *arguments])

    def environment(self, **more: str) -> dict[str, str]:
        return {
            "PENSTOCK_KAFKA_BOOTSTRAP_SERVERS": self.kafka,
            "PENSTOCK_CLICKHOUSE_URL": self.clickhouse,
            "PENSTOCK_LOG_FORMAT": "json",
            **more,
        }

    def run(self, module: str, *arguments: str) -> str:
        """Run a module to its end and return what it printed."""
        environment = {**os.environ, **self.environment()}
        done = subprocess.run(
            [sys.executable, "-m", module, *arguments],
            env=environment, cwd=ROOT, capture_output=True, text=True, timeout=900,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"{module} {arguments}: {done.stderr[-2000:]}")
        return done.stdout

    def loop(self, *arguments: str) -> float:
        """A baseline of `loops`: CPU microseconds an event."""
        told = json.loads(self.run("tests.bench.loops", *arguments, "--kafka", self.kafka))
        return 1e6 * float(told["cpu_seconds"]) / int(told["events"])

    def create_topic(self, partitions: int, name: str = "") -> str:
        topic = name or f"bench-{uuid.uuid4().hex[:8]}"
        admin = AdminClient({"bootstrap.servers": self.kafka, "log_level": 0})
        config = {"message.timestamp.type": "LogAppendTime"}
        admin.create_topics([NewTopic(topic, partitions, 1, config=config)])[topic].result(30)
        wait_until(
            lambda: (
                len(admin.list_topics(topic, timeout=10).topics[topic].partitions) == partitions
            ),
            30,
            f"{topic} is there",
        )
        return topic

    @contextmanager
    def consumer(self, topic: str, **settings: str) -> Iterator[tuple[Child, int]]:
        """A consumer of the topic that is ready, and its admin port."""
        port = free_port()
        env = self.environment(
            PENSTOCK_KAFKA_TOPIC=topic,
            PENSTOCK_KAFKA_GROUP=topic,
            PENSTOCK_ADMIN_PORT=str(port),
            **settings,
        )
        child = self.children.make("consumer", [sys.executable, "-m", "consumer", "run"], env)
        child.start()
        try:
            ready = f"http://127.0.0.1:{port}/readyz"
            await_start(child, lambda: answers(ready), 120)
            yield child, port
        finally:
            child.stop(60)

    def close(self) -> None:
        self.children.close()


def metrics(port: int) -> Mapping[str, float]:
    """Every sample of an admin port by its name with labels."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as reply:
        text = reply.read().decode()
    return {
        name: float(value)
        for name, value in re.findall(r"^([a-z_]+(?:\{.*\})?) (\S+)$", text, re.M)
    }

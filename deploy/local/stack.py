"""What the trial stack consists of: its parts, their ports, their settings and their order.

    stage 1   kafka       in memory, or Apache Kafka from its jars; none when an address is given
              clickhouse  chDB behind the front; none when a URL is given
    then      the tables, and on a real broker the topics
    stage 2   consumer
    stage 3   shim, page

Everything listens on 127.0.0.1 only. A setting from the environment reaches every part; what makes
this machine's stack (addresses, ports, keys) is set here and wins.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from deploy.local.apache_kafka.node import metadata_answers
from deploy.local.supervisor import Part
from deploy.local.trouble import Trouble
from deploy.local.waiting import HOST, accepts, answers, require_free
from schemas import settings

PARTITIONS = 4
# The in-memory broker keeps 4.8 MB a partition or so. What the shim lets wait stays well below.
_EMBEDDED_BACKLOG_BYTES = 3_000_000

_PROJECTS = """\
# Made by the trial stack; the shim reads it again when it changes.
[demo]
public_keys = ["demo-public"]
secret_keys = ["demo-secret"]
origins = ["*"]
"""


@dataclass(frozen=True)
class Ports:
    shim: int = 8080
    page: int = 8088
    clickhouse: int = 8123
    kafka: int = 9092
    kafka_controller: int = 9093
    shim_admin: int = 9400
    consumer_admin: int = 9401


@dataclass(frozen=True)
class Stack:
    """One trial stack. `kafka`: embedded, apache, or external (an address from the environment)."""

    data: Path
    ports: Ports
    kafka: str
    bootstrap_servers: str
    topic: str
    clickhouse_url: str
    own_clickhouse: bool
    environ: Mapping[str, str]

    @classmethod
    def plan(cls, data: Path, ports: Ports, kafka: str, environ: Mapping[str, str]) -> Stack:
        """Settle what runs from the wish and the environment. SettingsError when that is wrong."""
        values = settings.load("consumer", None, environ)
        given_kafka = "PENSTOCK_KAFKA_BOOTSTRAP_SERVERS" in environ
        given_clickhouse = {"PENSTOCK_CLICKHOUSE_URL", "PENSTOCK_CLICKHOUSE_URL_FILE"} & set(
            environ
        )
        return cls(
            data=data,
            ports=ports,
            kafka="external" if given_kafka else kafka,
            bootstrap_servers=values.text("KAFKA_BOOTSTRAP_SERVERS")
            if given_kafka
            else f"{HOST}:{ports.kafka}",
            topic=values.text("KAFKA_TOPIC"),
            clickhouse_url=values.text("CLICKHOUSE_URL")
            if given_clickhouse
            else f"http://{HOST}:{ports.clickhouse}/penstock",
            own_clickhouse=not given_clickhouse,
            environ=environ,
        )

    @property
    def page_url(self) -> str:
        return f"http://{HOST}:{self.ports.page}/"

    def require_ports(self) -> None:
        """Trouble when a port that this stack needs is taken."""
        unused = set() if self.own_clickhouse else {"clickhouse"}
        if self.kafka == "external":
            unused |= {"kafka"}
        if self.kafka != "apache":
            unused |= {"kafka_controller"}
        for port in fields(Ports):
            if port.name not in unused:
                require_free(getattr(self.ports, port.name), port.name.replace("_", "'s "))

    def write_projects(self) -> Path:
        """The projects file with the demo's keys; an edited one stays as it is."""
        path = self.data / "projects.toml"
        if not path.exists():
            path.write_text(_PROJECTS, encoding="utf-8")
        return path

    def env(self, **more: str) -> dict[str, str]:
        """For a part: defaults fit for a trial, the environment as given, what is fixed here."""
        fit = {
            "PENSTOCK_BATCH_AGE_SECONDS": "1",
            "PENSTOCK_SESSION_TIMEOUT_SECONDS": "6",
            "PENSTOCK_STOP_SECONDS": "10",
            # Their sum is how long a consumer waits that finds a log it does not know, as after
            # each restart of the in-memory broker. Batches are small here.
            "PENSTOCK_COMMIT_TIMEOUT_SECONDS": "5",
            "PENSTOCK_INSERT_DEADLINE_SECONDS": "5",
            "PENSTOCK_INSERT_MAX_SECONDS": "10",
        }
        fixed = {
            "PYTHONUNBUFFERED": "1",
            "PENSTOCK_KAFKA_BOOTSTRAP_SERVERS": self.bootstrap_servers,
            "PENSTOCK_CLICKHOUSE_URL": self.clickhouse_url,
        }
        given = {k: v for k, v in self.environ.items() if k != "PENSTOCK_CLICKHOUSE_URL_FILE"}
        return {**fit, **given, **fixed, **more}

    def parts(self) -> list[Part]:
        made = [self._consumer(), self._shim(), self._page()]
        if self.own_clickhouse:
            made.insert(0, self._clickhouse())
        if self.kafka != "external":
            made.insert(0, self._kafka())
        return made

    def _kafka(self) -> Part:
        port = ("--port", str(self.ports.kafka))
        if self.kafka == "apache":
            command = [sys.executable, "-m", "deploy.local.apache_kafka", *port]
            command += ["--controller-port", str(self.ports.kafka_controller)]
            command += ["--data", str(self.data / "kafka"), "--jars", str(self.data / "jars")]
        else:
            command = [sys.executable, "-m", "deploy.local.mock_broker", *port]
            command += ["--partitions", str(PARTITIONS)]
            command += ["--topic", self.topic, "--topic", f"{self.topic}.dead"]
        return Part(
            "kafka",
            command,
            lambda: accepts(self.ports.kafka) and metadata_answers(self.bootstrap_servers, 1),
            stage=1,
            env=self.env(),
            ready_seconds=90,
            stop_seconds=35,
        )

    def _clickhouse(self) -> Part:
        command = [sys.executable, "-m", "deploy.local.front"]
        command += ["--data", str(self.data / "clickhouse"), "--port", str(self.ports.clickhouse)]
        ping = f"http://{HOST}:{self.ports.clickhouse}/ping"
        return Part(
            "clickhouse", command, lambda: answers(ping), stage=1, env=self.env(), stop_seconds=25
        )

    def _consumer(self) -> Part:
        env = self.env(PENSTOCK_ADMIN_PORT=str(self.ports.consumer_admin))
        ready = f"http://{HOST}:{self.ports.consumer_admin}/readyz"
        command = [sys.executable, "-m", "consumer", "run"]
        return Part("consumer", command, lambda: answers(ready), stage=2, env=env)

    def _shim(self) -> Part:
        env = self.env(
            PENSTOCK_HTTP_HOST=HOST,
            PENSTOCK_HTTP_PORT=str(self.ports.shim),
            PENSTOCK_PROJECTS_FILE=str(self.data / "projects.toml"),
            PENSTOCK_ADMIN_PORT=str(self.ports.shim_admin),
        )
        if self.kafka == "embedded":
            env["PENSTOCK_BACKLOG_BYTES"] = str(_EMBEDDED_BACKLOG_BYTES)
        ready = f"http://{HOST}:{self.ports.shim_admin}/readyz"
        command = [sys.executable, "-m", "producer_shim"]
        return Part("shim", command, lambda: answers(ready), stage=3, env=env)

    def _page(self) -> Part:
        command = [sys.executable, "-m", "deploy.local.page", "--port", str(self.ports.page)]
        command += ["--shim", f"http://{HOST}:{self.ports.shim}"]
        command += ["--consumer", f"http://{HOST}:{self.ports.consumer_admin}"]
        command += ["--status", str(self.data / "status.json")]
        ready = f"{self.page_url}healthz"
        return Part("page", command, lambda: answers(ready), stage=3, env=self.env())

    def create_topics(self) -> None:
        """On a real broker: the topic and its dead letters, where they are missing."""
        client = AdminClient({**self._kafka_properties(), "log_level": 0})
        config = {"message.timestamp.type": "LogAppendTime"}
        # Letters are kept, and are an event's size and its headers': what `check` asks for.
        letters = config | {"retention.ms": "-1", "max.message.bytes": "1056780"}
        try:
            there = client.list_topics(timeout=15).topics
            wanted = [
                NewTopic(self.topic, PARTITIONS, config=config),
                NewTopic(f"{self.topic}.dead", 1, config=letters),
            ]
            missing = [topic for topic in wanted if topic.topic not in there]
            if missing:
                for answer in client.create_topics(missing).values():
                    answer.result(30)
        except KafkaException as error:
            raise Trouble(
                f"Kafka at {self.bootstrap_servers} has no topic {self.topic} and made none: "
                f"{error.args[0].str()}"
            ) from None

    def _kafka_properties(self) -> dict[str, str]:
        passed = settings.load("consumer", None, self.environ).kafka
        return {**passed, "bootstrap.servers": self.bootstrap_servers}


def repository() -> Path:
    """Where `python -m consumer` and the others are found; parts run there."""
    return Path(__file__).resolve().parents[2]

"""One KRaft node on one data folder.

    DIR/log/            the broker's and the controller's log, formatted once
    DIR/node.properties its settings, written at every start
    DIR/broker.log      its warnings

A second start goes on where the first one ended, also when that was a kill -9: Kafka recovers its
log by itself. Formatting is done under another name and renamed, so that a folder with the right
name is whole.
"""

from __future__ import annotations

import base64
import fcntl
import os
import re
import shutil
import subprocess
import uuid
from dataclasses import dataclass
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from deploy.local.child import Child, tail
from deploy.local.trouble import Trouble
from deploy.local.waiting import HOST, accepts, require_free, wait_until

_LOG4J = Path(__file__).with_name("log4j2.properties")
_START_SECONDS = 60
_EXCEPTION = re.compile(r"[\w.$]+(Exception|Error): ")

# One node has nobody to replicate to, and small internal topics start quicker. Clients create
# topics on purpose or not at all: a misspelt name must not become an empty topic. A node that was
# killed may come back only when its old session has ended: hence the short one.
_SETTINGS = """
process.roles=broker,controller
node.id=1
listeners=PLAINTEXT://{host}:{port},CONTROLLER://{host}:{controller_port}
advertised.listeners=PLAINTEXT://{host}:{port}
controller.listener.names=CONTROLLER
controller.quorum.bootstrap.servers={host}:{controller_port}
log.dirs={log_dir}
auto.create.topics.enable=false
default.replication.factor=1
min.insync.replicas=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=2
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=1
broker.heartbeat.interval.ms=500
broker.session.timeout.ms=3000
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
log.cleaner.dedupe.buffer.size=8388608
num.network.threads=2
num.io.threads=4
"""


@dataclass(frozen=True)
class Node:
    """Where a node lives and listens; `java` and `jars` are what `jars` found and brought."""

    data: Path
    port: int
    controller_port: int
    java: str
    jars: Path
    properties: tuple[str, ...] = ()  # NAME=VALUE, each stronger than the settings above

    @property
    def address(self) -> str:
        return f"{HOST}:{self.port}"

    @property
    def broker_log(self) -> Path:
        return self.data / "broker.log"

    def _command(self, *options: str) -> list[str]:
        return [self.java, *options, "-cp", str(self.jars / "*")]

    def _write_settings(self, log_dir: Path, name: str) -> Path:
        # Java's property files know backslash escapes, and a comma parts two log folders.
        if set(str(log_dir)) & set(",\\\n\r"):
            raise Trouble(f"the data folder's name, {self.data}, has a character Kafka cannot take")
        text = _SETTINGS.lstrip().format(
            host=HOST, port=self.port, controller_port=self.controller_port, log_dir=log_dir
        )
        path = self.data / name
        path.write_text("\n".join((text, *self.properties, "")), encoding="utf-8")
        return path

    def _lock(self) -> None:
        """Hold the folder until this program ends; a second start would cut the first one's log."""
        lock = os.open(self.data / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Trouble(f"Kafka's data folder {self.data} is in use by another Kafka") from None

    def prepare(self) -> None:
        """Make the data folder ready: format it where it is new. Trouble when it is not usable."""
        try:
            self.data.mkdir(parents=True, exist_ok=True)
            self._lock()
            settings = self._write_settings(self.data / "log", "node.properties")
            if (self.data / "log").exists():
                _ = (self.data / "log" / "meta.properties").read_bytes()
                return
            shutil.rmtree(self.data / "formatting", ignore_errors=True)
            settings = self._write_settings(self.data / "formatting", "formatting.properties")
        except OSError as error:
            raise Trouble(f"Kafka's data folder {self.data} is not usable: {error}") from None
        cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode()
        # An id that starts with a dash would be read as an option.
        format_it = ["kafka.tools.StorageTool", "format", f"--cluster-id=A{cluster[1:]}"]
        done = subprocess.run(
            [*self._command(), *format_it, "--config", str(settings), "--standalone"],
            capture_output=True,
            text=True,
            timeout=120,
        )
        if done.returncode != 0:
            lines = (done.stdout + done.stderr).strip().splitlines()
            raise Trouble(f"Kafka could not format {self.data}: {lines[-1] if lines else '?'}")
        (self.data / "formatting").rename(self.data / "log")
        settings.unlink()

    def start(self) -> Child:
        """The Java process, answering clients. Trouble when it does not come up."""
        require_free(self.port, "Kafka")
        require_free(self.controller_port, "Kafka's controller")
        self.broker_log.write_bytes(b"")
        options = ["-Xmx512m", "-XX:+ExitOnOutOfMemoryError", "-Djava.awt.headless=true"]
        options += [f"-Dlog4j2.configurationFile={_LOG4J}", f"-Dpenstock.log={self.broker_log}"]
        command = [*self._command(*options), "kafka.Kafka", str(self.data / "node.properties")]
        child = Child("Apache Kafka", command, self.data / "java.log")
        child.log.unlink(missing_ok=True)
        child.start()
        try:
            wait_until(
                lambda: not child.alive or self._answers(), _START_SECONDS, "Apache Kafka's start"
            )
        except TimeoutError as late:
            child.kill()
            raise Trouble(f"{late}{self._complaint()}") from None
        if not child.alive:
            raise Trouble(f"Apache Kafka ended with {child.exit_code} at start{self._complaint()}")
        return child

    def _answers(self) -> bool:
        if not accepts(self.port):
            return False
        return metadata_answers(self.address)

    def _complaint(self) -> str:
        """What its log says went wrong: the first exception, else the first error."""
        lines = tail(self.broker_log, 400).splitlines()
        causes = [line for line in lines if _EXCEPTION.match(line)]
        causes += [line.split(" ", 1)[-1] for line in lines if " ERROR " in line]
        cause = f": {causes[0][:300]}" if causes else ""
        return f"{cause} (more in {self.broker_log})"


def metadata_answers(address: str, seconds: float = 2) -> bool:
    """Whether a broker there says which topics it has."""
    client = AdminClient({"bootstrap.servers": address, "log_level": 0, "socket.timeout.ms": 1000})
    try:
        return bool(client.list_topics(timeout=seconds).brokers)
    except KafkaException:
        return False

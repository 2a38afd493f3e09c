"""The whole pipeline on this machine: `python -m deploy.local [--kafka embedded|apache]`.

`make run` calls it. Ctrl-C or SIGTERM stop it: first what takes events, then, once they have landed
(the in-memory broker would lose them), the consumer, then ClickHouse and Kafka. A second Ctrl-C
does not wait. Exit codes: 0 stopped, 1 failed (one line says why), 2 wrong usage or settings.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, fields
from pathlib import Path
from typing import IO

from deploy.local.apache_kafka.jars import bring, find_java, folder_of
from deploy.local.metrics_page import total
from deploy.local.stack import Ports, Stack, repository
from deploy.local.supervisor import Interrupted, Part, Supervisor, how_it_ended
from deploy.local.trouble import Trouble
from schemas import settings

_DRAIN_SECONDS = 10
_NOTICE_SECONDS = 0.7
_KEPT_NOTICES = 20


class Run:
    """One `make run`: what is planned, what runs, and what there is to tell."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.signals = 0
        self._woken = threading.Event()
        self._notices: list[dict[str, object]] = []
        self._shown = ""
        self.supervisor = Supervisor(
            stack.parts(), stack.data / "logs", say, lambda: self.signals > 0, self._ended
        )

    def stop_asked(self, *_: object) -> None:
        self.signals += 1
        self._woken.set()

    def start(self) -> None:
        self.supervisor.start(1)
        if self.stack.kafka != "embedded":
            self.stack.create_topics()
        apply_schemas(self.stack)
        self.supervisor.start(2)
        self.supervisor.start(3)

    def tend_until_stopped(self) -> None:
        while not self.signals:
            self.supervisor.tend()
            self.write_status()
            self._woken.wait(0.2)

    def stop(self) -> None:
        asked = self.signals
        self.supervisor.stop(3)
        now = time.monotonic()
        # The consumer has to see the shim's last records before its lag can tell of them.
        quiet_until = now + (_NOTICE_SECONDS if self.stack.kafka == "embedded" else 0)
        while time.monotonic() < now + _DRAIN_SECONDS and self.signals <= asked:
            if not self._backlog() and time.monotonic() >= quiet_until:
                break
            time.sleep(0.1)
        if self.signals > asked:
            self.supervisor.kill()
        for stage in (2, 1):
            self.supervisor.stop(stage)

    def _backlog(self) -> float:
        """Events that no commit covers yet; 0 when nobody can say."""
        metrics = f"http://127.0.0.1:{self.stack.ports.consumer_admin}/metrics"
        return total(metrics, "penstock_lag_events") or 0

    def _ended(self, part: Part, code: int) -> None:
        text = f"{part.name} {how_it_ended(code)} and was started again"
        if part.name == "kafka" and self.stack.kafka == "embedded":
            loss = "what it held in memory and ClickHouse had not yet is gone"
            say(loss)
            text += f"; {loss}"
        self._notices.append({"at": int(time.time() * 1000), "text": text})
        del self._notices[:-_KEPT_NOTICES]

    def write_status(self) -> None:
        """For the page: written when it changes, and never seen half written."""
        status = json.dumps(
            {
                "kafka": self.stack.kafka,
                "bootstrap_servers": self.stack.bootstrap_servers,
                "parts": [asdict(state) for state in self.supervisor.states()],
                "notices": self._notices,
            }
        )
        if status != self._shown:
            coming = self.stack.data / "status.json.coming"
            try:
                coming.write_text(status, encoding="utf-8")
                coming.replace(self.stack.data / "status.json")
            except OSError:
                return  # a full disk must not end the stack; tried again at the next look
            self._shown = status


def say(text: str) -> None:
    print(text, flush=True)


def lock_data(data: Path) -> IO[str]:
    """The data folder, ours until we end. Trouble when it cannot be used or is in use."""
    try:
        (data / "logs").mkdir(parents=True, exist_ok=True)
        lock = (data / "lock").open("w", encoding="utf-8")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise Trouble(f"the data folder {data} is in use: another `make run` runs") from None
        return lock
    except OSError as error:
        raise Trouble(f"the data folder {data} cannot be used: {error.strerror}") from None


def bring_kafka(data: Path) -> None:
    find_java()
    if not folder_of(data / "jars").is_dir():
        say("bringing Apache Kafka's jars with Maven (once, 43 MB) ...")
    bring(data / "jars")


def apply_schemas(stack: Stack) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "schemas", "apply"],
        env=stack.env(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    (stack.data / "logs" / "schemas.log").write_text(done.stdout + done.stderr, encoding="utf-8")
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines()
        raise Trouble(f"the tables could not be made: {lines[-1] if lines else done.returncode}")


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m deploy.local", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--kafka", choices=("embedded", "apache"), default="embedded")
    parser.add_argument("--data", type=Path, default=Path(".penstock"))
    for port in fields(Ports):
        flag = f"--{port.name.replace('_', '-')}-port"
        parser.add_argument(flag, dest=f"{port.name}_port", type=int, default=port.default)
    return parser.parse_args(argv)


def run(options: argparse.Namespace) -> int:
    ports = Ports(**{port.name: getattr(options, f"{port.name}_port") for port in fields(Ports)})
    data = options.data.absolute()
    stack = Stack.plan(data, ports, options.kafka, os.environ)
    os.chdir(repository())
    with lock_data(data):
        stack.require_ports()
        if stack.kafka == "apache":
            bring_kafka(data)
        stack.write_projects()
        this = Run(stack)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, this.stop_asked)
        try:
            this.write_status()
            began = time.monotonic()
            this.start()
            say(f"up in {time.monotonic() - began:.1f} s; {KAFKA_NOTES[stack.kafka]}")
            say(f"data and logs: {options.data}    stop: Ctrl-C")
            say(f"\n    Penstock runs: {stack.page_url}\n")
            this.tend_until_stopped()
            say("stopping ...")
            this.stop()
            say("stopped")
        except Interrupted:
            this.stop()
        except Trouble:
            this.stop()
            raise
        finally:
            this.supervisor.kill()
    return 0


KAFKA_NOTES = {
    "embedded": "Kafka is librdkafka's, in memory: what it holds is gone when it stops",
    "apache": "Kafka is Apache Kafka, and durable",
    "external": "Kafka is the one from the environment",
}


def main(argv: list[str] | None = None) -> int:
    options = arguments(argv)
    try:
        return run(options)
    except settings.SettingsError as error:
        for problem in error.problems:
            print(problem, file=sys.stderr)
        return 2
    except Trouble as trouble:
        print(trouble, file=sys.stderr, flush=True)
        return 1


if __name__ == "__main__":
    sys.exit(main())

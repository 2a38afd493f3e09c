"""`python -m deploy.local.apache_kafka --data DIR --port 9092`: run it until SIGTERM or SIGINT."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from pathlib import Path

from deploy.local.apache_kafka.jars import bring, find_java
from deploy.local.apache_kafka.node import Node
from deploy.local.trouble import Trouble
from deploy.local.waiting import require_free, wait_until

_STOP_SECONDS = 30


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m deploy.local.apache_kafka", description=__doc__
    )
    parser.add_argument("--data", type=Path, required=True, help="folder that keeps the log")
    parser.add_argument("--port", type=int, default=9092)
    parser.add_argument("--controller-port", type=int, help="default: the port after it")
    parser.add_argument("--jars", type=Path, default=Path(".penstock/jars"), help="cache of jars")
    parser.add_argument(
        "--property", action="append", default=[], metavar="NAME=VALUE", help="of the broker's"
    )
    parser.add_argument("--only-bring-jars", action="store_true")
    return parser.parse_args(argv)


def run(arguments: argparse.Namespace) -> int:
    told_to_stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: told_to_stop.set())
    controller_port = arguments.controller_port or arguments.port + 1
    if not arguments.only_bring_jars:
        require_free(arguments.port, "Kafka")
        require_free(controller_port, "Kafka's controller")
    java = find_java()
    jars = bring(arguments.jars.resolve())
    if arguments.only_bring_jars:
        return 0
    data, properties = arguments.data.resolve(), tuple(arguments.property)
    node = Node(data, arguments.port, controller_port, java, jars, properties)
    node.prepare()
    if told_to_stop.is_set():
        return 0
    child = node.start()
    print(f"Apache Kafka answers on {node.address}, data in {node.data}", flush=True)
    wait_until(lambda: told_to_stop.is_set() or not child.alive, float("inf"), "a reason to stop")
    if not told_to_stop.is_set():
        raise Trouble(f"Apache Kafka ended with {child.exit_code}: see {node.broker_log}")
    child.stop(_STOP_SECONDS)
    return 0


def main(argv: list[str] | None = None) -> int:
    arguments = _arguments(argv)
    try:
        return run(arguments)
    except Trouble as trouble:
        print(trouble, file=sys.stderr, flush=True)
        return 1


if __name__ == "__main__":
    sys.exit(main())

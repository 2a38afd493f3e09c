"""librdkafka's own Kafka broker, on a fixed port: `python -m deploy.local.mock_broker`.

The confluent-kafka wheel carries librdkafka, and that carries a mock cluster for its tests, which
speaks the real protocol to any client: groups, idempotent producers and commit metadata work. It is
**memory only**: what it holds is gone when it stops, and while it is up it keeps the newest 5 MB or
so of each partition, which also bounds its memory. Topic ids and cluster id are new at each start,
so nobody takes the new log for the old one. Good for a trial and for quick tests, never for a claim
of durability.

The cluster is made through ctypes on the wheel's library. It listens on a port of the system's
choice, and clients need one that they can be told beforehand: so a socket of ours, bound to the
wanted port, is put in the place of its listening descriptor (`dup2`), before any client comes. No
forwarder stands between.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import socket
import stat
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import confluent_kafka

from deploy.local.trouble import Trouble
from deploy.local.waiting import HOST

_RD_KAFKA_PRODUCER = 0
_BROKER_ID = 1
_LISTEN_BACKLOG = 512


def _library() -> ctypes.CDLL:
    """The librdkafka that confluent_kafka itself has loaded."""
    package = Path(confluent_kafka.__file__).parent
    for folder in (package.parent / "confluent_kafka.libs", package / ".dylibs"):
        for path in folder.glob("librdkafka*"):
            library = ctypes.CDLL(str(path))
            library.rd_kafka_conf_new.restype = ctypes.c_void_p
            library.rd_kafka_new.restype = ctypes.c_void_p
            library.rd_kafka_mock_cluster_new.restype = ctypes.c_void_p
            library.rd_kafka_mock_cluster_bootstraps.restype = ctypes.c_char_p
            return library
    raise Trouble("the confluent-kafka wheel with its own librdkafka is needed for the broker")


class MockBroker:
    """One broker, from construction to `close`. `port` 0 takes any free one."""

    def __init__(self, port: int = 0, topics: Mapping[str, int] | None = None) -> None:
        listener = socket.socket()
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((HOST, port))
            listener.listen(_LISTEN_BACKLOG)
            listener.setblocking(False)
            self.port: int = listener.getsockname()[1]
            self._library = _library()
            self._open(listener, topics or {})
        except OSError as error:
            raise Trouble(
                f"port {port} on {HOST}, for the in-memory Kafka, cannot be had: {error.strerror}"
            ) from None
        finally:
            listener.close()

    def _open(self, listener: socket.socket, topics: Mapping[str, int]) -> None:
        library, message = self._library, ctypes.create_string_buffer(512)
        settings = ctypes.c_void_p(library.rd_kafka_conf_new())
        # Else it warns that its own client, which nobody uses, has no address.
        library.rd_kafka_conf_set(settings, b"log_level", b"0", message, len(message))
        handle = library.rd_kafka_new(_RD_KAFKA_PRODUCER, settings, message, len(message))
        if not handle:
            raise Trouble(f"librdkafka did not start: {message.value.decode()}")
        self._handle = ctypes.c_void_p(handle)
        cluster = library.rd_kafka_mock_cluster_new(self._handle, 1)
        if not cluster:
            raise Trouble("librdkafka did not start its mock cluster")
        self._cluster = ctypes.c_void_p(cluster)
        first = library.rd_kafka_mock_cluster_bootstraps(self._cluster).decode()
        # Before a client can come: one that asks for an unknown topic would create it.
        for name, partitions in topics.items():
            self.create_topic(name, partitions)
        os.dup2(listener.fileno(), _listening_descriptor(int(first.rpartition(":")[2])))
        library.rd_kafka_mock_broker_set_host_port(
            self._cluster, _BROKER_ID, HOST.encode(), self.port
        )
        # Without a controller, clients that ask for one (describe_topics does) wait in vain.
        library.rd_kafka_mock_set_controller_id(self._cluster, _BROKER_ID)
        library.rd_kafka_mock_group_initial_rebalance_delay_ms(self._cluster, 100)

    @property
    def address(self) -> str:
        return f"{HOST}:{self.port}"

    def create_topic(self, name: str, partitions: int) -> None:
        failed = self._library.rd_kafka_mock_topic_create(
            self._cluster, name.encode(), partitions, 1
        )
        if failed:
            raise Trouble(f"topic {name} with {partitions} partitions was refused ({failed})")

    def fail_next(self, request: int, code: int) -> None:
        """Answer the next request of this kind (the protocol's API key) with this error."""
        self._library.rd_kafka_mock_push_request_errors_array(
            self._cluster, ctypes.c_int16(request), ctypes.c_size_t(1), (ctypes.c_int * 1)(code)
        )

    def close(self) -> None:
        self._library.rd_kafka_mock_cluster_destroy(self._cluster)
        self._library.rd_kafka_destroy(self._handle)


def _listening_descriptor(port: int) -> int:
    """The descriptor of this process's socket that listens on `port`."""
    for descriptor in _sockets():
        with socket.socket(fileno=os.dup(descriptor)) as candidate:
            try:
                listens = candidate.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
                if listens and candidate.getsockname()[1] == port:
                    return descriptor
            except OSError:
                continue
    raise Trouble("librdkafka's mock cluster does not listen where it says")


def _sockets() -> Iterator[int]:
    folder = Path("/proc/self/fd") if sys.platform == "linux" else Path("/dev/fd")
    for name in sorted(int(path.name) for path in folder.iterdir()):
        try:
            if stat.S_ISSOCK(os.fstat(name).st_mode):
                yield name
        except OSError:
            continue  # the descriptor of the listing itself


@contextmanager
def mock_broker(port: int = 0, topics: Mapping[str, int] | None = None) -> Iterator[MockBroker]:
    broker = MockBroker(port, topics)
    try:
        yield broker
    finally:
        broker.close()


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m deploy.local.mock_broker",
        description="Run librdkafka's in-memory Kafka broker until SIGTERM or SIGINT.",
    )
    parser.add_argument("--port", type=int, default=9092)
    parser.add_argument(
        "--topic", action="append", default=[], help="a topic to create; may be given again"
    )
    parser.add_argument("--partitions", type=int, default=4, help="of each --topic")
    arguments = parser.parse_args(argv)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        topics = dict.fromkeys(arguments.topic or ["events"], arguments.partitions)
        with mock_broker(arguments.port, topics) as broker:
            print(
                f"in-memory Kafka answers on {broker.address}: what it holds is gone when it stops",
                flush=True,
            )
            stop.wait()
    except Trouble as trouble:
        print(trouble, file=sys.stderr, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

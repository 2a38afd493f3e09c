"""The baselines on the consumer's side, each a process of its own: `python -m tests.bench.loops`.

    floor     consume and look at each value, nothing else: what librdkafka's binding costs
    obvious   what one writes first: orjson, a list of rows, `insert()`

Prints one JSON object: events, and the process's CPU seconds from the first record to the last.
"""

from __future__ import annotations

import argparse
import json
import resource
from datetime import UTC, datetime
from uuid import UUID

import clickhouse_connect
import orjson
from confluent_kafka import Consumer, TopicPartition

_COLUMNS = (
    "id", "project_id", "session_id", "name", "created_at", "received_at", "path", "previous_path",
    "duration", "referrer", "referrer_name", "utm_source", "utm_campaign", "country", "city",
    "device", "browser", "browser_version", "os", "os_version", "properties",
)  # fmt: skip
_TIMES = ("created_at", "received_at")
_BATCH_ROWS = 50_000


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _consumer(address: str, topic: str, partitions: int) -> Consumer:
    consumer = Consumer(
        {
            "bootstrap.servers": address,
            "group.id": "bench-loops",
            "enable.auto.commit": False,
            "fetch.queue.backoff.ms": 10,
            "queued.max.messages.kbytes": 16 * 1024,
        }
    )
    consumer.assign([TopicPartition(topic, number, 0) for number in range(partitions)])
    return consumer


def floor(arguments: argparse.Namespace) -> tuple[int, float]:
    """Consume, and touch each value."""
    consumer = _consumer(arguments.kafka, arguments.topic, arguments.partitions)
    records, began = 0, 0.0
    while records < arguments.records:
        messages = consumer.consume(arguments.messages, 1.0)
        began = began or cpu_seconds()
        for message in messages:
            message.value()
        records += len(messages)
    return arguments.events, cpu_seconds() - began


def obvious(arguments: argparse.Namespace) -> tuple[int, float]:
    """Parse each event, make a row of it, insert rows."""
    consumer = _consumer(arguments.kafka, arguments.topic, arguments.partitions)
    client = clickhouse_connect.get_client(dsn=arguments.clickhouse, autogenerate_session_id=False)
    rows: list[list[object]] = []
    taken, began = 0, 0.0
    while taken < arguments.events:
        messages = consumer.consume(arguments.messages, 1.0)
        began = began or cpu_seconds()
        for message in messages:
            for text in (message.value() or b"").split(b"\n"):
                event = orjson.loads(text)
                event["id"] = UUID(event["id"])
                for name in _TIMES:
                    event[name] = datetime.fromtimestamp(event[name] / 1000, UTC)
                rows.append([event.get(name) for name in _COLUMNS])
        if len(rows) >= _BATCH_ROWS or (rows and taken + len(rows) >= arguments.events):
            client.insert("obvious", rows, column_names=_COLUMNS)
            taken += len(rows)
            rows = []
    return taken, cpu_seconds() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("loop", choices=("floor", "obvious"))
    parser.add_argument("--kafka", required=True)
    parser.add_argument("--clickhouse")
    parser.add_argument("--topic", required=True)
    parser.add_argument("--partitions", type=int, required=True)
    parser.add_argument("--records", type=int, required=True)
    parser.add_argument("--events", type=int, required=True)
    parser.add_argument("--messages", type=int, required=True)
    arguments = parser.parse_args()
    events, seconds = (floor if arguments.loop == "floor" else obvious)(arguments)
    print(json.dumps({"events": events, "cpu_seconds": seconds}))


if __name__ == "__main__":
    main()

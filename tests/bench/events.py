"""Events for measuring: about 500 bytes as a record line, spread over sessions, pages and two days.

Made by a formula, not by chance: two runs measure the same bytes.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from itertools import cycle, islice

from confluent_kafka import Producer

_DAY_MS = 86_400_000
_FIRST_MS = 1_790_000_000_000
_COUNTRIES = ("DE", "FR", "US", "BR", "JP", "IN", "GB", "PL")
_SOURCES = ("", "newsletter", "google", "partner", "")


def line(number: int) -> bytes:
    """Event `number` as the shim writes it."""
    created = _FIRST_MS + number * 7919 % (2 * _DAY_MS)
    event_id = uuid.UUID(int=(number * 0x9E3779B97F4A7C15F39CC0605CEDC835) % (1 << 128))
    return (
        f'{{"id":"{event_id}","project_id":"site-{number % 5}","session_id":"s-{number // 12:09d}",'
        f'"name":"screen_view","created_at":{created},"received_at":{created + 300},'
        f'"path":"/products/category-{number % 40}/item-{number % 700}",'
        f'"previous_path":"/products/category-{(number + 1) % 40}","duration":{number % 90},'
        f'"referrer":"https://www.search.example/?q=shoes","referrer_name":"search.example",'
        f'"utm_source":"{_SOURCES[number % 5]}","utm_campaign":"autumn","country":'
        f'"{_COUNTRIES[number % 8]}","city":"Springfield","device":"desktop","browser":"Firefox",'
        f'"browser_version":"143.0","os":"Linux","os_version":"6.1","properties":'
        f'{{"plan":"basic","variant":"b"}}}}'
    ).encode()


def fill(address: str, topic: str, partitions: int, events: int, packs: Sequence[int]) -> int:
    """Write events as records of `packs` events each (over and over), one partition after another.

    Returns the bytes written.
    """
    producer = Producer(
        {
            "bootstrap.servers": address,
            "acks": "all",
            "enable.idempotence": True,
            "linger.ms": 20,
            "queue.buffering.max.messages": 1_000_000,
            "message.max.bytes": 1_000_000,
        }
    )
    failed: list[object] = []

    def delivered(error: object, _: object) -> None:
        if error is not None:
            failed.append(error)

    lines: Iterator[bytes] = map(line, range(1, events + 1))
    size = 0
    for record, pack in enumerate(cycle(packs)):
        value = b"\n".join(islice(lines, pack))
        if not value:
            break
        size += len(value)
        while True:
            try:
                producer.produce(topic, value, partition=record % partitions, on_delivery=delivered)
                break
            except BufferError:
                producer.poll(0.1)
        producer.poll(0)
    if producer.flush(120) or failed:
        raise RuntimeError(f"{topic} could not be filled: {failed[:1]}")
    return size

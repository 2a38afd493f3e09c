"""What the run came to, where what happened allows more than a quiet pipeline does.

A mend leaves ledger rows of several epochs over one range, each with what it brought; so the ledger
is held to two laws: every good line of the topic is counted once by ClickHouse partition, and no
offset is in two ranges unless one is a later attempt's. Dead letters must be exactly the bad lines;
one may be written more than once.
"""

from __future__ import annotations

import json
import time
from collections import Counter, defaultdict

from clickhouse_connect.driver.client import Client
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from tests.fixtures.tables import Topic, rows_of
from tests.fixtures.truth import month


def ledger_problems(client: Client, topic: Topic, thrown: Letters) -> list[str]:
    """`thrown`: letters of events that are in the table and that some view could not take: a ledger
    line, which a view writes as well, may lack them."""
    problems: list[str] = []
    lacking: dict[int, Counter[str]] = defaultdict(Counter)
    for (partition, _, _), text in thrown.items():
        lacking[partition][month(json.loads(text)["created_at"])] += 1
    counted: dict[int, Counter[str]] = defaultdict(Counter)
    ranges: dict[int, set[tuple[int, int, int]]] = defaultdict(set)
    seen = set()
    for partition, first, end, epoch, into, rows in rows_of(
        client,
        "SELECT partition, first, end, epoch, clickhouse_partition, rows FROM batches "
        f"WHERE topic_id = '{topic.id}'",
    ):
        key = partition, first, end, epoch, into
        if key in seen:
            problems.append(f"ledger: partition {partition} [{first}, {end}) {into} landed twice")
        seen.add(key)
        counted[partition][into] += rows
        ranges[partition].add((first, end, epoch))
    for partition, records in topic.records.items():
        expected = Counter(month(line["created_at"]) for _, lines in records for line in lines)
        found = counted[partition]
        if not (expected - lacking[partition] <= found <= expected):
            has = f"partition {partition} has {dict(found)}, not {dict(expected)}"
            problems.append(f"ledger: {has} less at most {dict(lacking[partition])}")
        problems += _tiling(topic, partition, sorted(ranges[partition]))
    return problems[:20]


def _tiling(topic: Topic, partition: int, ranges: list[tuple[int, int, int]]) -> list[str]:
    problems, position, epoch_before = [], 0, -1
    for first, end, epoch in ranges:
        named = f"ledger: partition {partition} [{first}, {end}) of epoch {epoch}"
        if first < position and epoch <= epoch_before:
            problems.append(f"{named} overlaps what ends at {position}")
        if lost := len(topic.between(partition, position, first)):
            problems.append(f"{named} leaves a gap of {lost} events after {position}")
        position, epoch_before = max(position, end), epoch
    if lost := len(topic.between(partition, position, topic.ends[partition])):
        problems.append(f"ledger: partition {partition}: {lost} events after {position} lack")
    return problems


Letters = dict[tuple[int, int, int], bytes]


def read_letters(
    servers: str, topic: str, partitions: int, *, in_table: bool | None = None
) -> tuple[Letters, int]:
    """The letters' values by (partition, offset, line), and how many records they came in.
    `in_table`: only those of events that are in the table and some view could not take, or only the
    others; None: all."""
    consumer = Consumer(
        {
            "bootstrap.servers": servers,
            "group.id": f"reader-{topic}",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "fetch.message.max.bytes": 8 << 20,
            "log_level": 0,
        }
    )
    letters: Letters = {}
    records = 0
    try:
        consumer.assign([TopicPartition(topic, number, 0) for number in range(partitions)])
        unread = set(range(partitions))
        deadline = time.monotonic() + 60
        while unread:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{topic} was not read to its end")
            for message in consumer.consume(500, 0.2):
                error = message.error()
                if error is not None:
                    if error.code() != KafkaError._PARTITION_EOF:
                        raise KafkaException(error)
                    unread.discard(message.partition())
                    continue
                records += 1
                told = dict(message.headers() or [])
                if in_table not in (None, "penstock.in_table" in told):
                    continue
                names = ("penstock.partition", "penstock.offset", "penstock.line")
                partition, offset, line = (int(told[name] or b"") for name in names)
                letters[partition, offset, line] = message.value() or b""
    finally:
        consumer.close()
    return letters, records


def letter_problems(topic: Topic, letters: Letters) -> list[str]:
    problems = [
        f"dead letters: {key} is missing: {topic.bad[key][:80]!r}"
        for key in topic.bad.keys() - letters.keys()
    ]
    problems += [
        f"dead letters: {key} was no bad line: {letters[key][:80]!r}"
        for key in letters.keys() - topic.bad.keys()
    ]
    problems += [
        f"dead letters: {key} has other bytes: {letters[key][:80]!r}, not {topic.bad[key][:80]!r}"
        for key in letters.keys() & topic.bad.keys()
        if letters[key] != topic.bad[key]
    ]
    return problems[:10]

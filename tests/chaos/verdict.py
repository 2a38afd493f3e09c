"""What the run came to, where what happened allows more than a quiet pipeline does.

A mend leaves ledger rows of several epochs over one range, each with what it brought; so the ledger
is held to two laws: every good line of the topic is counted once by ClickHouse partition, and no
offset is in two ranges unless one is a later attempt's. Dead letters must be exactly the bad lines,
and besides only events that a view of the plan threw on; one may be written more than once.
"""

from __future__ import annotations

import json
import time
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from clickhouse_connect.driver.client import Client
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from tests.chaos.plan import THROWS
from tests.fixtures.odd import event_id
from tests.fixtures.tables import Topic, rows_of
from tests.fixtures.truth import month


def lost_and_doubled(sent: Counter[str], rows: Counter[str]) -> tuple[int, int]:
    """Events without a row, and rows that no copy in the topic explains. By id: `sent`, how often
    the topic holds it; `rows`, how often the table does without FINAL. A merge that took a row too
    many hides it here; the sums still have it."""
    return len(sent.keys() - rows.keys()), (rows - sent).total()


def ledger_problems(client: Client, topic: Topic, letters: Iterable[Letter]) -> list[str]:
    """Of events that are in the table and that some view could not take, a ledger line, which a
    view writes as well, may lack some."""
    problems: list[str] = []
    lacking: dict[int, Counter[str]] = defaultdict(Counter)
    thrown = {letter.at: letter.value for letter in letters if letter.in_table}
    for (partition, _, _), text in thrown.items():
        lacking[partition][month(json.loads(text, strict=False)["created_at"])] += 1
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


@dataclass(frozen=True, slots=True)
class Letter:
    """One record of the dead-letter topic. `at`: (partition, offset, line) of what it is about."""

    at: tuple[int, int, int]
    value: bytes
    error: str = ""
    in_table: bool = False


def read_letters(servers: str, topic: str, partitions: int) -> list[Letter]:
    """Every record: one line's may be there more than once."""
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
    letters = []
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
                letters.append(_letter(message))
    finally:
        consumer.close()
    return letters


def _letter(message: Message) -> Letter:
    told = {
        name: value.decode() if isinstance(value, bytes) else value or ""
        for name, value in dict(message.headers() or []).items()
    }
    partition, offset, line = (
        int(told[f"penstock.{name}"]) for name in ("partition", "offset", "line")
    )
    value, in_table = message.value() or b"", "penstock.in_table" in told
    return Letter((partition, offset, line), value, told["penstock.error"], in_table)


def thrown_problems(topic: Topic, letters: Iterable[Letter], marks: Collection[str]) -> list[str]:
    """The letters of events that are in the table: some view of the plan must have thrown on each.
    `marks`: how the ids end that such views throw on."""
    thrown = [letter for letter in letters if letter.in_table]
    wanted = {letter.at[:2] for letter in thrown}
    held = {
        (partition, offset): {line["id"] for line in lines}
        for partition, records in topic.records.items()
        for offset, lines in records
        if (partition, offset) in wanted
    }
    problems = []
    for letter in thrown:
        identity = event_id(letter.value)
        why = ""
        if identity not in held.get(letter.at[:2], ()):
            why = "no event of its record"
        elif not identity.endswith(tuple(marks)):
            why = f"{identity}, which no view throws on"
        elif f"DB::Exception: {THROWS}:" not in letter.error:
            why = f"{identity}, for another reason: {letter.error[:200]}"
        if why:
            problems.append(f"dead letters: {letter.at}, said to be in the table, is {why}")
    return problems[:10]


def letter_problems(topic: Topic, found: Iterable[Letter]) -> list[str]:
    """The other letters: the bad lines, and nothing else."""
    letters = {letter.at: letter.value for letter in found if not letter.in_table}
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

"""What bad lines cost: batches of 50 000 events that have none, one, or a hundred.

One consumer, one partition, one batch at a time, and the cases in turn, each turn from another one
on, so that whatever else the machine and the table do meets all of them. The time of a batch is
from the broker's append of its last event to the consumer's fact that it landed; what finds bad
lines, writes their letters and inserts the rest is all within it. A case is compared with the
batches without a bad line of the same run.

    not JSON, wrong type    lines that are found by looking at them
    by number               lines that nothing is wrong with by our rules and that this table
                            refuses all the same, by their row's number: someone made a column of
                            the landing table narrower
    a view throws on        lines that are in the table when a view of someone's own cannot take
                            them, which no error names: found by trying the view, some 17 times
                            each
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field

import clickhouse_connect
from confluent_kafka import Message, Producer

from deploy.local.child import Child
from deploy.local.waiting import wait_until
from tests.bench.events import line
from tests.bench.facts_log import Log
from tests.bench.parts import Parts, cpu_seconds

Say = Callable[[str], None]

EVENTS = 50_000
_PACK = 100
_SETTINGS = {
    "PENSTOCK_LOG_LEVEL": "debug",  # says when each batch was inserted
    "PENSTOCK_BATCH_ROWS": str(EVENTS),
    "PENSTOCK_BATCH_AGE_SECONDS": "600",  # the rows alone close a batch
    "PENSTOCK_BAD_SHARE": "0.1",
}


@dataclass
class _Case:
    name: str
    bad: int
    spoil: Callable[[bytes], bytes]
    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)


def _as_it_is(text: bytes) -> bytes:
    return text


def _not_json(text: bytes) -> bytes:
    return text[:-20]


def _wrong_type(text: bytes) -> bytes:
    return text.replace(b'"duration":', b'"duration":"long","max_scroll":', 1)


def _unknown_country(text: bytes) -> bytes:
    return text.replace(b'"country":"', b'"country":"Z', 1)


def measure(parts: Parts, repeats: int, say: Say) -> list[dict[str, object]]:
    """Of each case: seconds and CPU seconds of a batch, and both over the batch with none bad."""
    seen = _measured(
        parts,
        [
            _Case("none", 0, _as_it_is),
            _Case("1 not JSON", 1, _not_json),
            _Case("1 of a wrong type", 1, _wrong_type),
            _Case("100 not JSON", 100, _not_json),
            _Case("100 of a wrong type", 100, _wrong_type),
        ],
        repeats, say,
    )  # fmt: skip
    by_number = _measured(
        parts,
        [
            _Case("none, a narrower column", 0, _as_it_is),
            _Case("1 by number", 1, _unknown_country),
            _Case("100 by number", 100, _unknown_country),
        ],
        repeats, say,
        "ALTER TABLE events_landing MODIFY COLUMN country "
        "Enum8('' = 0, 'DE', 'FR', 'US', 'BR', 'JP', 'IN', 'GB', 'PL')",
    )  # fmt: skip
    thrown = _measured(
        parts,
        [
            _Case("none, a strict view", 0, _as_it_is),
            _Case("1 a view throws on", 1, _unknown_country),
            _Case("10 a view throws on", 10, _unknown_country),
        ],
        repeats, say,
        "CREATE TABLE strict (day Date, events UInt64) ENGINE = SummingMergeTree ORDER BY day "
        "SETTINGS non_replicated_deduplication_window = 100000",
        "CREATE MATERIALIZED VIEW strict_mv TO strict AS SELECT toDate(created_at) AS day, "
        "sum(1 + throwIf(length(country) > 2, 'unknown')) AS events FROM events GROUP BY day",
    )  # fmt: skip
    return seen + by_number + thrown


def _measured(
    parts: Parts, cases: list[_Case], repeats: int, say: Say, *statements: str
) -> list[dict[str, object]]:
    parts.fresh_database()
    topic = parts.create_topic(1)
    parts.create_topic(1, f"{topic}.dead")
    say("starting")
    with parts.consumer(topic, **_SETTINGS) as (child, _):
        for statement in statements:  # now: the preflight would have refused some
            _command(parts, statement)
        log = Log(child.log)
        # The first batch of an assignment is closed where the log ends: it must not be one of ours.
        _append(parts.kafka, topic, [line(0x7FFF_FFFF)])
        wait_until(lambda: bool(log.inserts()), 30, "an event is inserted")
        number = 1
        for turn in range(repeats + 1):  # the first warms up, and is not counted
            for case in cases[turn % len(cases) :] + cases[: turn % len(cases)]:
                seconds, cpu = _batch(parts, topic, child, log, case, number)
                number += EVENTS
                if turn:
                    case.seconds.append(seconds)
                    case.cpu_seconds.append(cpu)
            say(", ".join(f"{case.name} {case.seconds[-1]:.2f} s" for case in cases if turn))
    parts.drop_database()
    normal = cases[0]
    return [_figures(case, normal) for case in cases]


def _command(parts: Parts, statement: str) -> None:
    client = clickhouse_connect.get_client(dsn=parts.clickhouse, autogenerate_session_id=False)
    client.command(statement)
    client.close()


def _batch(
    parts: Parts, topic: str, child: Child, log: Log, case: _Case, number: int
) -> tuple[float, float]:
    """Write one batch and see it land. Its seconds, and CPU seconds of consumer and ClickHouse."""
    lines = [line(number + index) for index in range(EVENTS)]
    for index in range(case.bad):
        at = (2 * index + 1) * EVENTS // (2 * case.bad)  # evenly, none at an end
        lines[at] = case.spoil(lines[at])
    before = cpu_seconds(child.pid) + cpu_seconds(parts.front.pid)
    end = log.inserts()[-1].end + EVENTS // _PACK
    appended = _append(parts.kafka, topic, lines)
    wait_until(lambda: log.inserts()[-1].end >= end, 300, f"a batch with {case.name}", 0.01)
    landed = log.inserts()[-1]
    if (landed.first, landed.end) != (end - EVENTS // _PACK, end):
        raise RuntimeError(f"{case.name}: not one batch, but up to [{landed.first}, {landed.end})")
    cpu = cpu_seconds(child.pid) + cpu_seconds(parts.front.pid) - before
    return landed.at - appended, cpu


def _append(address: str, topic: str, lines: list[bytes]) -> float:
    """Write the lines in packs. The broker's time of the last one, epoch seconds."""
    producer = Producer({"bootstrap.servers": address, "acks": "all", "linger.ms": 5})
    times: list[int] = []

    def delivered(error: object, message: Message) -> None:
        if error is not None:
            raise RuntimeError(f"{topic} could not be filled: {error}")
        times.append(message.timestamp()[1])

    for at in range(0, len(lines), _PACK):
        value = b"\n".join(lines[at : at + _PACK])
        producer.produce(topic, value, partition=0, on_delivery=delivered)
        producer.poll(0)
    if producer.flush(60):
        raise RuntimeError(f"{topic} could not be filled in time")
    return max(times) / 1000


def _figures(case: _Case, normal: _Case) -> dict[str, object]:
    seconds, usual = statistics.median(case.seconds), statistics.median(normal.seconds)
    cpu, usual_cpu = statistics.median(case.cpu_seconds), statistics.median(normal.cpu_seconds)
    return {
        "case": case.name,
        "events": EVENTS,
        "bad": case.bad,
        "batches": len(case.seconds),
        "seconds": round(seconds, 3),
        "seconds_worst": round(max(case.seconds), 3),
        "over_none": round(seconds / usual, 2),
        "cpu_seconds": round(cpu, 3),
        "cpu_over_none": round(cpu / usual_cpu, 2),
    }

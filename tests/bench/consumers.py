"""The consumer's side: CPU an event, beside what consuming alone and the obvious consumer cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import clickhouse_connect

from deploy.local.waiting import wait_until
from tests.bench.events import fill
from tests.bench.packs import pack_sizes
from tests.bench.parts import Parts, cpu_seconds, metrics

Say = Callable[[str], None]

_DEADLINES = {"PENSTOCK_INSERT_DEADLINE_SECONDS": "30", "PENSTOCK_INSERT_MAX_SECONDS": "30"}


@dataclass(frozen=True)
class Case:
    """A topic to measure on. `packs`: how many events its records hold, over and over."""

    name: str
    partitions: int
    packs: Sequence[int]
    share: float  # of the events asked for


def cases() -> list[Case]:
    made = [
        Case("packed by 100, 8 partitions", 8, (100,), 1),
        Case("unpacked, 8 partitions", 8, (1,), 0.4),
    ]
    for rate in (5_000, 50_000):
        sizes = pack_sizes(rate)
        mean = sum(sizes) / len(sizes)
        made += [
            Case(f"packs of {rate}/s (mean {mean:.0f}), {n} partitions", n, sizes, 0.5)
            for n in (8, 64)
        ]
    return made


def measure(parts: Parts, case: Case, events: int, say: Say) -> dict[str, object]:
    """CPU microseconds an event: floor, ours, ClickHouse's; and ours over the floor."""
    parts.fresh_database()
    topic = parts.create_topic(case.partitions)
    say("claiming the topic")
    with parts.consumer(topic, **_DEADLINES):
        pass  # an empty topic becomes ours at once: the measured start has nothing to wait for
    say(f"writing {events} events")
    size = fill(parts.kafka, topic, case.partitions, events, case.packs)
    records = _records(case, events)
    mean = events / records
    say("floor")
    floor = parts.loop(
        "floor", "--topic", topic, "--partitions", str(case.partitions), "--events", str(events),
        "--records", str(records), "--messages", str(max(20, min(2000, int(2000 / mean)))),
    )  # fmt: skip
    say("consuming")
    with parts.consumer(topic, **_DEADLINES) as (child, port):
        ours, theirs = cpu_seconds(child.pid), cpu_seconds(parts.front.pid)
        wait_until(
            lambda: metrics(port).get("penstock_insert_rows_total", 0) >= events,
            600,
            f"{events} events are inserted",
            pause_seconds=0.25,
        )
        ours = 1e6 * (cpu_seconds(child.pid) - ours) / events
        theirs = 1e6 * (cpu_seconds(parts.front.pid) - theirs) / events
        batches = metrics(port)["penstock_batch_rows_count"]
    parts.drop_database()
    say(f"floor {floor:.2f}, consumer {ours:.2f}, ClickHouse {theirs:.2f} us an event")
    return {
        "case": case.name,
        "events": events,
        "bytes_per_event": round(size / events),
        "events_per_record": round(mean, 1),
        "rows_per_insert": round(events / batches),
        "floor_us": round(floor, 3),
        "consumer_us": round(ours, 3),
        "consumer_over_floor": round(ours / floor, 2),
        "consumer_events_per_second_per_core": round(1e6 / ours),
        "clickhouse_us": round(theirs, 3),
        "together_us": round(ours + theirs, 3),
    }


def obvious(parts: Parts, events: int, say: Say) -> dict[str, object]:
    """The obvious consumer on a packed topic, into a table like `events`."""
    parts.fresh_database()
    client = clickhouse_connect.get_client(dsn=parts.clickhouse, autogenerate_session_id=False)
    client.command(
        "CREATE TABLE obvious AS events ENGINE = MergeTree PARTITION BY toYYYYMM(created_at) "
        "PRIMARY KEY (project_id, toDate(created_at), session_id) "
        "ORDER BY (project_id, toDate(created_at), session_id, created_at)"
    )
    topic = parts.create_topic(8)
    say(f"writing {events} events")
    fill(parts.kafka, topic, 8, events, (100,))
    say("the obvious consumer")
    cost = parts.loop(
        "obvious", "--topic", topic, "--partitions", "8", "--events", str(events), "--records", "0",
        "--messages", "20", "--clickhouse", parts.clickhouse,
    )  # fmt: skip
    client.command("DROP TABLE obvious")
    client.close()
    return {"events": events, "obvious_us": round(cost, 3)}


def _records(case: Case, events: int) -> int:
    """How many records `fill` makes of so many events."""
    whole, rest = divmod(events, sum(case.packs))
    records = whole * len(case.packs)
    for pack in case.packs:
        if rest <= 0:
            break
        rest -= pack
        records += 1
    return records

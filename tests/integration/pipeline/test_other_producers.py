"""Records that another producer wrote, one event each and otherwise too, land like the shim's."""

from __future__ import annotations

import random

from tests.fixtures.events import made_events
from tests.fixtures.pipeline import PROJECTS, Pipeline
from tests.fixtures.records import line, packs, produce
from tests.fixtures.tables import rows_of

_SEED = 7
_EVENTS = 3000


def test_records_of_another_producer(pipeline: Pipeline) -> None:
    """One event a record, to any partition, among tombstones, empty records and stray line ends."""
    events = made_events(_SEED, _EVENTS, PROJECTS)
    rng = random.Random(_SEED)
    records: list[tuple[int, bytes | None]] = []
    for number, made in enumerate(events):
        text = line(made, is_bot=int(rng.random() < 0.1))
        around = rng.choice((b"%b", b"%b", b"%b", b"%b\n", b"\n%b", b"\n\n%b\n\n", b"%b\r\n"))
        records.append((rng.randrange(4), around % text))
        if rng.random() < 0.1:
            records.append((rng.randrange(4), rng.choice((None, b"", b"\n", b"\n\n"))))
        if number == _EVENTS // 2:
            # As many in a row as fill batches of their own, and one partition with nothing else.
            records += [(partition, None) for partition in (0, 1, 4) for _ in range(600)]
    records += [(partition, b"") for partition in range(5)]

    pipeline.create_topic(partitions=6)  # the last one stays empty
    produce(pipeline.kafka.bootstrap_servers, pipeline.topic, records)
    # On a topic with records and no commit an older insert could still be running: the first start
    # waits for as long as one may.
    pipeline.start_consumer(
        BATCH_AGE_SECONDS=0.2,
        BATCH_ROWS=500,
        INSERTS_PER_SECOND=50,
        INSERT_DEADLINE_SECONDS=2,
        INSERT_MAX_SECONDS=2,
        COMMIT_TIMEOUT_SECONDS=2,
    )
    pipeline.await_landed()

    topic = pipeline.read_topic()
    assert topic.ends[4] == 601
    assert {each["id"] for each in topic.lines()} == {made.id for made in events}
    assert pipeline.problems(topic) == []
    client = pipeline.clickhouse.client()
    assert list(rows_of(client, "SELECT DISTINCT partition FROM batches ORDER BY 1")) == [
        [0], [1], [2], [3],
    ]  # fmt: skip
    assert next(rows_of(client, "SELECT sum(is_bot) FROM events FINAL"))[0] > 0


def test_records_come_to_a_running_consumer(pipeline: Pipeline) -> None:
    """Packs and single events in turn, while the consumer is there: each lands by age alone."""
    events = made_events(_SEED + 1, 600, PROJECTS)
    pipeline.create_topic(partitions=2)
    pipeline.start_consumer(BATCH_AGE_SECONDS=0.1)
    for at in range(0, 600, 200):
        some = events[at : at + 200]
        values = [line(made) for made in some[:50]] + packs(some[50:], 30)
        produce(
            pipeline.kafka.bootstrap_servers,
            pipeline.topic,
            [(number % 2, value) for number, value in enumerate(values)],
        )
        pipeline.await_landed(30)
    assert pipeline.problems() == []

"""Made events through the whole pipeline, and every table held against a truth of its own."""

from __future__ import annotations

import os
import random
from collections import Counter

import pytest

from tests.fixtures.events import made_events
from tests.fixtures.loading import Loader
from tests.fixtures.pipeline import PROJECTS, Pipeline, line_problems
from tests.fixtures.tables import rows_of

SEED = 20261122
EVENTS = int(os.environ.get("TRUTH_EVENTS", "200000"))


@pytest.mark.slow
def test_every_table_equals_the_truth(pipeline: Pipeline) -> None:
    """EVENTS events, 1% of them sent twice, two consumers, eight partitions."""
    events = made_events(SEED, EVENTS, PROJECTS)
    rng = random.Random(SEED)
    resent = rng.sample(range(len(events)), EVENTS // 100)
    # A copy follows its original, in the same body or in one much later.
    order = [(at, made) for at, made in enumerate(events)]
    order += [(at + rng.choice((1, 1000, EVENTS)), events[at]) for at in resent]
    order.sort(key=lambda pair: pair[0])

    pipeline.create_topic(partitions=8)
    pipeline.start_shim()
    pipeline.start_consumers(2, BATCH_AGE_SECONDS=1, BATCH_ROWS=10_000, SESSION_TIMEOUT_SECONDS=6)
    loaded = Loader(pipeline.shim_port, [made for _, made in order], seed=SEED).run()
    assert loaded.refused == {}
    assert loaded.answers.keys() == {"202"}
    assert len(loaded.acknowledged) == EVENTS

    pipeline.await_landed()
    topic = pipeline.read_topic()
    assert sum(1 for _ in topic.lines()) == EVENTS + len(resent)
    assert line_problems(events, topic) == []
    client = pipeline.clickhouse.client()
    assert list(rows_of(client, "SELECT count(), uniqExact(id) FROM events FINAL")) == [
        [EVENTS, EVENTS]
    ]
    assert pipeline.problems(topic) == []
    assert pipeline.halted() == []
    read_by = Counter(
        consumer.metric("penstock_insert_rows_total") > 0 for consumer in pipeline.consumers
    )
    assert read_by == {True: 2}, "both consumers had a part in it"

"""Everything is killed with -9 at random moments, and nothing is lost or doubled.

CHAOS_SEED chooses the run again that failed; CHAOS_SECONDS and CHAOS_EVENTS how long and how much.
"""

from __future__ import annotations

import os
import random
import threading
from collections import Counter
from pathlib import Path

import pytest

from tests.fixtures.children import Children
from tests.fixtures.clickhouse import OwnClickHouse
from tests.fixtures.events import made_events
from tests.fixtures.kafka import OwnKafka
from tests.fixtures.loading import Loader
from tests.fixtures.pipeline import PROJECTS, Pipeline, line_problems
from tests.integration.pipeline.chaos import SETTINGS, Chaos, plan

SEED = int(os.environ.get("CHAOS_SEED", random.SystemRandom().randrange(10**6)))
SECONDS = float(os.environ.get("CHAOS_SECONDS", "30"))
EVENTS = int(os.environ.get("CHAOS_EVENTS", "30000"))
_CALM = 2000

_TELLING = (
    "batch inserted",
    "batch replayed",
    "insert failed",
    "insert unsent",
    "partitions assigned",
    "partitions revoked",
    "partitions lost",
    "joining the group again",
    "past the deadline: planning again",
    "waiting for older inserts to end",
)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_kills_lose_nothing_and_double_nothing(
    own_kafka: OwnKafka, own_clickhouse: OwnClickHouse, start: Children, tmp_path: Path
) -> None:
    print(f"CHAOS_SEED={SEED}")
    own_clickhouse.apply_schema()
    pipeline = Pipeline(own_kafka, own_clickhouse, start, tmp_path)
    pipeline.create_topic(partitions=8)
    shim = pipeline.start_shim()
    events = made_events(SEED, EVENTS, PROJECTS, turns=("2026-02-28", "2026-03-31"))
    pipeline.start_consumers(2, **SETTINGS)
    # With a first commit on every partition; until then their owners would mostly wait.
    calm = Loader(pipeline.shim_port, events[:_CALM], seed=SEED, body_events=20).run()
    pipeline.await_landed()
    loader = Loader(
        pipeline.shim_port,
        events[_CALM:],
        seed=SEED,
        body_events=20,
        connections=8,
        seconds=SECONDS,
        abandons=0.03,
    )
    loading = threading.Thread(target=loader.run, daemon=True)
    loading.start()

    chaos = Chaos(pipeline, {"shim": shim, "front": own_clickhouse.child, "kafka": own_kafka.child})
    steps = plan(SEED, SECONDS)
    chaos.run(steps)
    chaos.keep_running_until(60, "everything was sent", lambda: not loading.is_alive())
    try:
        chaos.keep_running_until(90, "everything has landed", pipeline.has_landed)
    except TimeoutError:
        assert pipeline.halted() == []
        raise

    loaded = loader.loaded
    said = Counter(str(fact["message"]) for c in pipeline.consumers for fact in c.facts())
    print(f"kills {dict(chaos.kills)}, exits {chaos.exits}, answers {dict(loaded.answers)}")
    print(f"consumers said: { {text: said[text] for text in _TELLING if said[text]} }")
    assert pipeline.halted() == []
    assert loaded.refused == {}
    topic = pipeline.read_topic()
    on_topic = {line["id"] for line in topic.lines()}
    acknowledged = calm.acknowledged | loaded.acknowledged
    assert acknowledged - on_topic == set()
    assert len(acknowledged | loaded.abandoned) == EVENTS
    assert line_problems(events, topic) == []
    assert pipeline.problems(topic) == []

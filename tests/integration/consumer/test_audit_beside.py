"""`audit` beside running consumers: what is under way is no finding, and nobody is disturbed."""

from __future__ import annotations

import io
import threading
from pathlib import Path

import pytest

from consumer.audit import Asked, audit
from consumer.audit_report import Bar, Verdict
from consumer.config import consumer_settings
from schemas.settings import load
from tests.fixtures.children import Children
from tests.fixtures.clickhouse import ClickHouse
from tests.fixtures.events import made_events
from tests.fixtures.kafka import Kafka
from tests.fixtures.pipeline import PROJECTS, Pipeline
from tests.fixtures.records import line, produce


@pytest.fixture
def pipeline(
    kafka: Kafka, clickhouse_with_schema: ClickHouse, start: Children, tmp_path: Path
) -> Pipeline:
    return Pipeline(kafka, clickhouse_with_schema, start, tmp_path)


def test_consumers_go_on_and_are_found_whole(pipeline: Pipeline) -> None:
    events = made_events(11, 6_000, PROJECTS)
    records = [(number % 4, line(made)) for number, made in enumerate(events)]
    pipeline.create_topic(partitions=4)
    consumer = pipeline.start_consumer(BATCH_AGE_SECONDS=0.1, BATCH_ROWS=100, INSERTS_PER_SECOND=50)
    settings = consumer_settings(load("consumer", None, pipeline.environment()))

    def look() -> list[Verdict]:
        return audit(settings, Asked(), Bar(io.StringIO()))

    loading = threading.Thread(
        target=produce, args=(pipeline.kafka.bootstrap_servers, pipeline.topic, records)
    )
    loading.start()
    looks = 0
    while loading.is_alive() or looks < 3:
        assert [f for verdict in look() for f in verdict.shown] == []
        looks += 1
    loading.join()
    pipeline.await_landed()
    verdicts = look()
    assert sum(verdict.rows for verdict in verdicts) == len(events)
    assert [verdict.text for verdict in verdicts] == ["whole"] * 4
    assert consumer.metric("penstock_rebalances_total", kind="revoked") == 0, "no member came"

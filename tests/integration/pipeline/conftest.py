"""The pipeline on the run's Kafka and ClickHouse; tests that kill those make their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fixtures.children import Children
from tests.fixtures.clickhouse import ClickHouse
from tests.fixtures.kafka import Kafka
from tests.fixtures.pipeline import Pipeline


@pytest.fixture
def pipeline(
    kafka: Kafka, clickhouse_with_schema: ClickHouse, start: Children, tmp_path: Path
) -> Pipeline:
    """Tables applied; topic, shim and consumers are the test's to start."""
    return Pipeline(kafka, clickhouse_with_schema, start, tmp_path)

"""A shim over librdkafka's in-memory broker: one for the run, or one of a test's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deploy.local.mock_broker import mock_broker
from tests.fixtures.children import Children
from tests.fixtures.kafka import MockKafka
from tests.integration.shim.running import Shim

StartShim = Callable[..., Shim]


@pytest.fixture(scope="session")
def shim(session_folder: Path, shared_children: Children) -> Iterator[Shim]:
    """The run's shim, with default limits except a short time for a body. Tests know their own
    events by id."""
    with mock_broker() as broker:
        topic = MockKafka(broker).create_topic(partitions=4)
        running = Shim(
            shared_children,
            session_folder / "shim",
            broker.address,
            topic,
            BODY_SECONDS="1.5",
        )
        yield running
        running.child.stop()


@pytest.fixture
def start_shim(start: Children, tmp_path: Path, mock_kafka: MockKafka) -> StartShim:
    """Start a shim of the test's own: `start_shim(partitions=4, LANES="2")`."""

    def started(
        partitions: int = 4,
        bootstrap_servers: str = "",
        topic: str = "",
        wait: bool = True,
        **settings: str,
    ) -> Shim:
        if not topic:
            topic = mock_kafka.create_topic(partitions)
        return Shim(
            start,
            tmp_path / topic,
            bootstrap_servers or mock_kafka.bootstrap_servers,
            topic,
            wait,
            **settings,
        )

    return started

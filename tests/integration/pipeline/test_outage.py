"""What the consumer does while something is away, refused, stopped or killed, and after it."""

from __future__ import annotations

import itertools
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from deploy.local.waiting import wait_until
from tests.fixtures.children import Children
from tests.fixtures.clickhouse import OwnClickHouse
from tests.fixtures.events import Made, made_events
from tests.fixtures.kafka import Kafka
from tests.fixtures.pipeline import PROJECTS, Pipeline
from tests.fixtures.records import packs, produce

_SHORT: dict[str, Any] = {
    "BATCH_AGE_SECONDS": 0.2,
    "INSERT_DEADLINE_SECONDS": 2,
    "INSERT_MAX_SECONDS": 4,
    "COMMIT_TIMEOUT_SECONDS": 2,
    "SESSION_TIMEOUT_SECONDS": 6,
}
_MIB = 1 << 20


@pytest.fixture
def lonely(
    kafka: Kafka, own_clickhouse: OwnClickHouse, start: Children, tmp_path: Path
) -> Pipeline:
    """A pipeline whose ClickHouse is its own, for stopping and killing."""
    own_clickhouse.apply_schema()
    return Pipeline(kafka, own_clickhouse, start, tmp_path)


def _produce(pipeline: Pipeline, events: list[Made], size: int = 20) -> None:
    """Packs of the events over all partitions in turn."""
    values = packs(events, size)
    records = [(number % pipeline.partitions, value) for number, value in enumerate(values)]
    produce(pipeline.kafka.bootstrap_servers, pipeline.topic, records)


def _members(pipeline: Pipeline) -> set[str]:
    found = pipeline.kafka.admin().describe_consumer_groups([pipeline.group])
    return {member.member_id for member in found[pipeline.group].result(30).members}


def test_clickhouse_is_away_for_longer_than_the_deadline(
    lonely: Pipeline, own_clickhouse: OwnClickHouse
) -> None:
    """The consumer keeps its place in the group, says so once, and catches up by itself."""
    events = made_events(11, 3000, PROJECTS)
    lonely.create_topic(partitions=4)
    consumer = lonely.start_consumer(**_SHORT)
    _produce(lonely, events[:1000])
    lonely.await_landed()
    members = _members(lonely)
    rebalances = consumer.metric("penstock_rebalances_total")
    assert consumer.metric("penstock_clickhouse_up") == 1

    own_clickhouse.kill()
    _produce(lonely, events[1000:2000])
    wait_until(lambda: consumer.metric("penstock_clickhouse_up") == 0, 20, "it is seen to be away")
    until = time.monotonic() + 2 + 4  # the time in which an insert must be over
    wait_until(lambda: time.monotonic() >= until, 20, "every deadline has passed")
    _produce(lonely, events[2000:])
    assert sum(lonely.lags().values()) > 0
    assert consumer.metric("penstock_insert_errors_total", reason="unsent") > 0

    own_clickhouse.start()
    lonely.await_landed()
    assert lonely.problems() == []
    assert _members(lonely) == members
    assert consumer.metric("penstock_rebalances_total") == rebalances
    assert consumer.metric("penstock_clickhouse_up") == 1
    said = [
        fact["message"]
        for fact in consumer.facts()
        if fact["message"] in ("ClickHouse answers", "ClickHouse is away: waiting")
    ]
    # Once a change of state, whatever the number of tries. A slow machine may see more changes.
    assert said[:3] == ["ClickHouse answers", "ClickHouse is away: waiting", "ClickHouse answers"]
    assert all(one != following for one, following in itertools.pairwise(said))
    assert len(said) < consumer.metric("penstock_insert_errors_total", reason="unsent")


def test_clickhouse_dies_in_the_middle_of_an_insert(
    lonely: Pipeline, own_clickhouse: OwnClickHouse
) -> None:
    """An insert that nobody answered may have landed or not: either way it counts once."""
    events = made_events(12, 4000, PROJECTS)
    lonely.create_topic(partitions=2)
    consumer = lonely.start_consumer(**_SHORT)
    for begin in range(0, 4000, 1000):
        own_clickhouse.child.signal(signal.SIGSTOP)
        _produce(lonely, events[begin : begin + 1000])
        wait_until(lambda: consumer.phases().get("inserting", 0) > 0, 20, "an insert is running")
        own_clickhouse.kill()
        own_clickhouse.start()
        lonely.await_landed()
    assert lonely.problems() == []
    assert lonely.halted() == []
    assert consumer.metric("penstock_insert_errors_total", reason="failed") > 0


@pytest.mark.parametrize("lands", [True, False])
def test_a_consumer_dies_in_the_middle_of_an_insert(
    lonely: Pipeline, own_clickhouse: OwnClickHouse, lands: bool
) -> None:
    """Its insert lands after its death, or dies with the server: the successor sends the announced
    range again, and either way it counts once."""
    events = made_events(18, 3000, PROJECTS)
    lonely.create_topic(partitions=2)
    settings = {**_SHORT, "INSERT_DEADLINE_SECONDS": 30, "INSERT_MAX_SECONDS": 30}
    first = lonely.start_consumer(**settings)
    _produce(lonely, events[:1000])
    lonely.await_landed()
    before = lonely.landed_rows()

    own_clickhouse.child.signal(signal.SIGSTOP)
    _produce(lonely, events[1000:2000])
    wait_until(lambda: first.phases().get("inserting") == 2, 20, "both partitions are inserting")
    first.child.kill()
    _produce(lonely, events[2000:])
    if lands:
        own_clickhouse.child.signal(signal.SIGCONT)
        wait_until(lambda: lonely.landed_rows() > before, 20, "an insert lands by itself")
    else:
        own_clickhouse.kill()
        own_clickhouse.start()
        assert lonely.landed_rows() == before
    second = lonely.start_consumer(**settings)
    lonely.await_landed()
    assert lonely.problems() == []
    assert second.metric("penstock_batches_total", outcome="replayed") == 2
    assert second.facts("waiting for older inserts to end") == []


def test_sigterm_sees_the_running_insert_to_its_end(
    lonely: Pipeline, own_clickhouse: OwnClickHouse
) -> None:
    """The insert lands, its commit is seen, the exit is clean, and the next consumer reads on."""
    events = made_events(14, 2000, PROJECTS)
    settings = {**_SHORT, "INSERT_DEADLINE_SECONDS": 20, "INSERT_MAX_SECONDS": 20}
    lonely.create_topic(partitions=1)
    first = lonely.start_consumer(**settings, STOP_SECONDS=30)
    own_clickhouse.child.signal(signal.SIGSTOP)
    _produce(lonely, events[:1000])
    wait_until(lambda: first.phases() == {"inserting": 1}, 20, "an insert is running")
    _produce(lonely, events[1000:])
    first.child.signal(signal.SIGTERM)
    wait_until(
        lambda: bool(first.facts("stopping: the running inserts are seen to their end")),
        10,
        "it is told",
    )
    assert first.child.alive, "the insert is still running"
    own_clickhouse.child.signal(signal.SIGCONT)
    assert first.child.wait(30) == 0
    landed = lonely.landed_rows()
    assert 0 < landed <= 1000
    assert lonely.committed_rows() == landed, "what has landed is committed"

    second = lonely.start_consumer(**settings)
    lonely.await_landed()
    assert second.metric("penstock_batches_total", outcome="replayed") == 0
    assert lonely.problems() == []


def test_memory_stays_bounded_while_clickhouse_is_away(
    lonely: Pipeline, own_clickhouse: OwnClickHouse
) -> None:
    """A backlog of many times the buffer is not read into memory, and lands when it can."""
    limit = 2 * _MIB
    events = made_events(15, 20_000, PROJECTS, turns=("2026-02-28",))
    lonely.create_topic(partitions=4)
    consumer = lonely.start_consumer(**_SHORT, BUFFER_BYTES=limit, BATCH_BYTES=_MIB // 4)
    own_clickhouse.kill()
    _produce(lonely, events, size=50)
    size = sum(len(value) for value in packs(events, 50))
    assert size > 4 * limit
    seen: list[float] = []

    def filled() -> bool:
        seen.append(consumer.metric("penstock_buffered_bytes"))
        # The gauge is set once a second: several of the same in a row are several looks.
        return len(seen) > 40 and len(set(seen[-40:])) == 1 and seen[-1] > 0

    wait_until(filled, 60, "the buffer is full and stays so", 0.1)
    assert 0.5 * limit <= seen[-1]
    assert consumer.metric("penstock_consumed_bytes_total") < size / 2
    own_clickhouse.start()

    def landed() -> bool:
        seen.append(consumer.metric("penstock_buffered_bytes"))
        return lonely.has_landed()

    wait_until(landed, 90, "everything has landed", 0.1)
    # What one fetch brings, about a megabyte, comes on top.
    assert max(seen) <= limit + 1.5 * _MIB
    assert lonely.problems() == []


def test_a_killed_consumer_is_succeeded(pipeline: Pipeline) -> None:
    """Its partitions go to the other one after the session timeout, and nobody waits for more."""
    events = made_events(16, 6000, PROJECTS)
    settings = {**_SHORT, "INSERT_DEADLINE_SECONDS": 30, "INSERT_MAX_SECONDS": 30}
    pipeline.create_topic(partitions=4)
    first, second = pipeline.start_consumers(2, **settings)
    _produce(pipeline, events[:3000])
    wait_until(
        lambda: first.metric("penstock_insert_rows_total") > 0, 30, "the first one has inserted"
    )
    first.child.kill()
    killed_at = time.monotonic()
    _produce(pipeline, events[3000:])
    pipeline.await_landed(45)
    # Session timeout, a rebalance and an insert, with room for a slow machine; a successor that
    # waited for older inserts to end would need a minute more.
    assert time.monotonic() - killed_at < 6 + 24
    assert second.metric("penstock_assigned_partitions") == 4
    assert second.facts("waiting for older inserts to end") == []
    assert pipeline.problems() == []


def test_a_joining_consumer_disturbs_nobody(pipeline: Pipeline) -> None:
    """A commit that meets a rebalance is sent again under the new generation: no member has to
    leave the group for it, which would be one more rebalance for all."""
    events = made_events(17, 3000, PROJECTS)
    settings = {**_SHORT, "BATCH_AGE_SECONDS": 0.01, "INSERTS_PER_SECOND": 1000}
    pipeline.create_topic(partitions=8)
    pipeline.start_consumer(**settings)
    records = [(number % 8, value) for number, value in enumerate(packs(events, 1))]
    second = pipeline.start_consumer(ready=False, **settings)
    sent = 0
    while not second.ready or sent < 1000:
        produce(pipeline.kafka.bootstrap_servers, pipeline.topic, records[sent : sent + 8])
        sent += 8
        assert sent < len(records), "the second consumer is ready in time"
    pipeline.await_landed()
    assert [c.metric("penstock_rebalances_total", kind="rejoined") for c in pipeline.consumers] == [
        0, 0,
    ]  # fmt: skip
    assert pipeline.problems() == []

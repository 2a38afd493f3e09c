"""Bad events, and what a token cannot settle, as users meet them: nothing stops or is lost."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Container
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient

from deploy.local.waiting import wait_until
from tests.chaos.verdict import read_letters
from tests.fixtures.events import Made, made_events
from tests.fixtures.pipeline import PROJECTS, Pipeline
from tests.fixtures.records import line, packs, produce
from tests.fixtures.tables import rows_of

_SHORT: dict[str, Any] = {
    "BATCH_AGE_SECONDS": 0.2,
    "INSERT_DEADLINE_SECONDS": 3,
    "INSERT_MAX_SECONDS": 4,
    "COMMIT_TIMEOUT_SECONDS": 3,
    "SESSION_TIMEOUT_SECONDS": 6,
}
_BAD = {
    b"not json": "malformed_json",
    b'{"id":"\xff"}': "invalid_utf8",
    b"[]": "not_one_object",
}


def _produce(pipeline: Pipeline, events: list[Made], only: int | None = None) -> None:
    """Packs of the events over all partitions in turn, or to one."""
    values = packs(events, 20)
    records: list[tuple[int, bytes | None]] = [
        (n % pipeline.partitions if only is None else only, value) for n, value in enumerate(values)
    ]
    produce(pipeline.kafka.bootstrap_servers, pipeline.topic, records)


def _command(pipeline: Pipeline, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "consumer", *arguments],
        env={**pipeline.environment(), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def _wrong(pipeline: Pipeline, bad: Container[bytes] = ()) -> list[str]:
    """What is not as the truth has it. Letters and mends make a range's rows other than announced:
    whether the ledger explains them is for the audit to say."""
    problems = pipeline.problems(pipeline.read_topic(bad))
    audit = _command(pipeline, "audit")
    return [each for each in problems if "announces" not in each] + (
        [audit.stdout + audit.stderr] if audit.returncode else []
    )


def test_bad_events_are_set_aside_and_those_that_are_replayed_unmended_return(
    pipeline: Pipeline,
) -> None:
    """Each letter tells its record; what is still bad returns, and is counted."""
    events = made_events(31, 900, PROJECTS)
    pipeline.create_topic(partitions=2)
    pipeline.kafka.create_topic(1, f"{pipeline.topic}.dead")
    consumer = pipeline.start_consumer(**_SHORT)
    _produce(pipeline, events[:400])
    beside = [b"\n".join((line(made), bad)) for made, bad in zip(events[400:], _BAD, strict=False)]
    too_early = line(events[403], created_at=-1)
    produce(
        pipeline.kafka.bootstrap_servers,
        pipeline.topic,
        [(0, None), *((0, value) for value in beside), (1, too_early)],
    )
    _produce(pipeline, events[404:])
    pipeline.await_landed(60)

    bad = {*_BAD, too_early}
    assert _wrong(pipeline, bad) == []
    letters = read_letters(pipeline.kafka.bootstrap_servers, f"{pipeline.topic}.dead", 1)
    assert len(letters) == 4
    assert {letter.value for letter in letters} == bad
    for reason in (*_BAD.values(), "out_of_range"):
        assert consumer.metric("penstock_dead_letters_total", reason=reason) == 1

    # None of them is mended: each is put back once, and comes back, counted, without a loop.
    client = pipeline.clickhouse.client()
    listed = _command(pipeline, "dead-letters", "list", "--json")
    assert len(listed.stdout.splitlines()) == 4, listed.stderr
    done = _command(pipeline, "dead-letters", "replay", "--yes")
    assert done.returncode == 0, done.stderr
    wait_until(
        lambda: len(_command(pipeline, "dead-letters", "list", "--json").stdout.splitlines()) == 4,
        60,
        "all four have come back",
    )
    assert "4 came back after a replay" in _command(pipeline, "dead-letters", "list").stdout
    assert next(rows_of(client, "SELECT uniqExact(id) FROM events"))[0] == len(events) - 1


def test_a_missing_dead_letter_topic_makes_the_batch_wait_and_nothing_is_dropped(
    pipeline: Pipeline,
) -> None:
    events = made_events(32, 300, PROJECTS)
    pipeline.create_topic(partitions=2)
    consumer = pipeline.start_consumer(**_SHORT)
    produce(
        pipeline.kafka.bootstrap_servers,
        pipeline.topic,
        [(0, b"\n".join((line(events[0]), b"bad", line(events[1]))))],
    )
    wait_until(lambda: bool(consumer.facts("will try again")), 60, "it says that it waits")
    why = str(consumer.facts("will try again")[-1]["why"])
    assert f"topic {pipeline.topic}.dead does not exist: create it" in why
    _produce(pipeline, events[2:], only=1)
    wait_until(lambda: pipeline.lags()[1] == 0, 60, "the other partition goes on")
    assert pipeline.lags()[0] == 1

    pipeline.kafka.create_topic(1, f"{pipeline.topic}.dead")
    pipeline.await_landed(60)
    assert _wrong(pipeline, {b"bad"}) == []


def test_a_broken_deploy_stops_its_partition_loudly_and_sets_nothing_aside(
    pipeline: Pipeline,
) -> None:
    events = made_events(33, 2400, PROJECTS)
    pipeline.create_topic(partitions=2)
    pipeline.kafka.create_topic(1, f"{pipeline.topic}.dead")
    consumer = pipeline.start_consumer(**_SHORT)
    broken = b"\n".join(line(made, created_at=-1) for made in events[:1200])
    produce(pipeline.kafka.bootstrap_servers, pipeline.topic, [(0, broken)])
    wait_until(lambda: bool(consumer.facts("partition stopped")), 60, "it stops")
    why = str(consumer.facts("partition stopped")[0]["why"])
    assert "1200 of the last 1200 events cannot be inserted, more than 10%" in why
    wait_until(lambda: consumer.metric("penstock_halted_partitions") == 1, 20, "the metric says so")
    _produce(pipeline, events[1200:], only=1)
    wait_until(lambda: pipeline.lags()[1] == 0, 60, "the other partition goes on")
    assert read_letters(pipeline.kafka.bootstrap_servers, f"{pipeline.topic}.dead", 1) == []


@pytest.mark.timeout(200)
def test_what_no_token_can_settle_is_mended_from_the_log(pipeline: Pipeline) -> None:
    """Offsets are gone; of what landed a ClickHouse partition and sums are missing, and all that
    the ledger knew of one Kafka partition: after the wait each event is there once."""
    events = made_events(34, 3000, PROJECTS)
    pipeline.create_topic(partitions=2)
    first = pipeline.start_consumer(**_SHORT, BATCH_ROWS=300)
    _produce(pipeline, events[:1500])
    pipeline.await_landed(60)
    first.child.stop(20)

    client = pipeline.clickhouse.client()
    months = [
        row[0] for row in rows_of(client, "SELECT DISTINCT _partition_id FROM events ORDER BY 1")
    ]
    assert len(months) > 1
    client.command(f"ALTER TABLE events DROP PARTITION '{months[0]}'")
    client.command(
        "ALTER TABLE batches DELETE WHERE partition = 0",
        settings={"mutations_sync": 2},
    )
    client.command("TRUNCATE TABLE sessions_daily")
    client.command(f"ALTER TABLE pages_daily DROP PARTITION '{months[1]}'")
    admin = AdminClient({"bootstrap.servers": pipeline.kafka.bootstrap_servers})

    def deleted() -> bool:
        try:
            admin.delete_consumer_groups([pipeline.group])[pipeline.group].result(10)
        except Exception:
            return False
        return True

    wait_until(deleted, 30, "the group's offsets are gone")
    _produce(pipeline, events[1500:])
    second = pipeline.start_consumer(**_SHORT, BATCH_ROWS=300)
    pipeline.await_landed(90)
    assert second.metric("penstock_mends_total") >= 1
    assert _wrong(pipeline) == []

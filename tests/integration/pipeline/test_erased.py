"""Rows that a person erased, and a part that was lost beside them: a mend brings back the lost."""

from __future__ import annotations

import subprocess
import sys
import time
import uuid
from typing import Any

import orjson
import pytest
from confluent_kafka.admin import AdminClient

from deploy.local.waiting import wait_until
from tests.fixtures.pipeline import Pipeline
from tests.fixtures.records import produce
from tests.fixtures.tables import rows_of

_JANUARY, _FEBRUARY = 1_767_225_600_000, 1_769_904_000_000  # 2026-01-01, 2026-02-01
_SHORT: dict[str, Any] = {
    "BATCH_AGE_SECONDS": 0.2,
    "INSERT_DEADLINE_SECONDS": 2,
    "INSERT_MAX_SECONDS": 1,
    "COMMIT_TIMEOUT_SECONDS": 1.5,
    "SESSION_TIMEOUT_SECONDS": 6,
}


def _event(session: str, created_at: int, received_at: int = _FEBRUARY) -> bytes:
    named = {"project_id": "p", "session_id": session, "name": "screen_view"}
    times = {"created_at": created_at, "received_at": received_at}
    return orjson.dumps({"id": str(uuid.uuid4()), **named, **times})


@pytest.mark.timeout(120)
def test_an_erased_row_stays_erased_and_what_was_lost_beside_it_comes_back(
    pipeline: Pipeline,
) -> None:
    """A foreign commit over a batch of which one ClickHouse partition was erased by hand."""
    pipeline.create_topic(partitions=1)
    first = pipeline.start_consumer(**_SHORT)
    lines = [_event("gone", _JANUARY + n) for n in range(10)]
    lines += [_event("stays", _FEBRUARY + n) for n in range(10)]
    produce(pipeline.kafka.bootstrap_servers, pipeline.topic, [(0, b"\n".join(lines))])
    pipeline.await_landed(60)
    first.child.stop(20)

    client = pipeline.clickhouse.client()
    client.command("ALTER TABLE events DELETE WHERE session_id = 'gone'",
                   settings={"mutations_sync": 1})  # fmt: skip
    client.command("ALTER TABLE events DROP PARTITION '202602'")
    client.command("ALTER TABLE batches UPDATE announced_at = 0 WHERE 1",
                   settings={"mutations_sync": 1})  # fmt: skip
    admin = AdminClient({"bootstrap.servers": pipeline.kafka.bootstrap_servers})

    def deleted() -> bool:
        try:
            admin.delete_consumer_groups([pipeline.group])[pipeline.group].result(10)
        except Exception:
            return False
        return True

    wait_until(deleted, 30, "the group's offsets are gone")
    now = int(time.time() * 1000) + 1_000
    later = [_event("stays", _JANUARY, now), _event("gone", _FEBRUARY, now)]
    produce(pipeline.kafka.bootstrap_servers, pipeline.topic, [(0, line) for line in later])
    second = pipeline.start_consumer(**_SHORT)
    pipeline.await_landed(60)

    counts = "SELECT session_id, toString(toYYYYMM(created_at)), count() FROM events GROUP BY 1, 2"
    assert sorted(rows_of(client, counts)) == [
        ["gone", "202602", 1],
        ["stays", "202601", 1],
        ["stays", "202602", 10],
    ]
    assert second.metric("penstock_mends_total") == 1
    (said,) = second.facts("erased lines are left out")
    assert said["lines"] == 10
    audit = subprocess.run(
        [sys.executable, "-m", "consumer", "audit"],
        env={**pipeline.environment(), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert audit.returncode == 0, audit.stdout + audit.stderr
    assert "erasure: DELETE WHERE session_id = 'gone'" in audit.stdout

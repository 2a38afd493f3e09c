"""What the page asks ClickHouse."""

from __future__ import annotations

from datetime import datetime, timedelta

from schemas.queries import load

PROJECT = "demo"

# Events of each of the last 60 seconds, by the server's clock, and how long ago that second was.
RATE = """
SELECT toInt32(dateDiff('second', received_at, now64(3))) AS ago, count() AS events
FROM events
WHERE received_at > now64(3) - INTERVAL 62 SECOND
GROUP BY ago ORDER BY ago
"""

TOTALS = "SELECT count() AS events FROM events"

# From the shim's receipt to the moment the batch landed, over the batches of the last minute.
FRESHNESS = """
SELECT
    count() AS events,
    quantile(0.5)(age) / 1000 AS median_seconds,
    max(age) / 1000 AS most_seconds
FROM
(
    SELECT dateDiff('millisecond', e.received_at, b.landed) AS age
    FROM (SELECT received_at, _topic_id, _partition, _first, _epoch FROM events
          WHERE received_at > now64(3) - INTERVAL 120 SECOND) AS e
    INNER JOIN
    (
        SELECT topic_id, partition, first, epoch, max(landed_at) AS landed
        FROM batches WHERE landed_at > now64(3) - INTERVAL 60 SECOND
        GROUP BY topic_id, partition, first, epoch
    ) AS b
    ON e._topic_id = b.topic_id AND e._partition = b.partition
        AND e._first = b.first AND e._epoch = b.epoch
)
"""

# The rest are the project's named queries, as anybody else would ask them.
SESSIONS = load("session_list")
PAGES = load("pages")
LEDGER = load("ledger_verdict")


def parameters(now: datetime) -> dict[str, dict[str, str]]:
    """What the named queries are asked for: the demo's last two days."""
    yesterday, tomorrow = now - timedelta(days=1), now + timedelta(days=1)
    return {
        SESSIONS: {
            "project_id": PROJECT,
            "start": f"{yesterday:%Y-%m-%d %H:%M:%S}",
            "end": f"{tomorrow:%Y-%m-%d %H:%M:%S}",
            "limit": "12",
        },
        PAGES: {
            "project_id": PROJECT,
            "start": f"{yesterday:%Y-%m-%d}",
            "end": f"{tomorrow:%Y-%m-%d}",
            "limit": "12",
        },
    }

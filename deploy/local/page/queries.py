"""What the page asks ClickHouse, in its words. Each answer is a list of objects.

Sessions are always read grouped, since `sessions` holds partial states. The ledger is read distinct
by (first, end, ClickHouse partition): a view may write a row of it again after a doubt.
"""

from __future__ import annotations

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

SESSIONS = """
SELECT
    session_id,
    toUnixTimestamp64Milli(max(s.ended_at)) AS ended,
    length(maxMap(counted)) AS events,
    arraySum(value -> value % 2, mapValues(maxMap(counted))) AS page_views,
    arraySum(value -> intDiv(value, 2), mapValues(maxMap(counted))) AS engaged_seconds,
    argMinMerge(s.entry_path) AS entry,
    argMaxMerge(s.exit_path) AS exit
FROM sessions AS s
WHERE date >= today() - 1
GROUP BY project_id, session_id
ORDER BY ended DESC
LIMIT 12
"""

PAGES = """
SELECT
    path,
    sum(views) AS views,
    sum(time_spent) AS seconds,
    if(uniqMerge(timed_sessions) = 0, 0, sum(time_spent) / uniqMerge(timed_sessions)) AS average
FROM pages_daily
WHERE date >= today() - 1
GROUP BY path
ORDER BY seconds DESC, views DESC
LIMIT 12
"""

# One row a topic and partition: where its ranges do not join, and whose rows do not add up.
LEDGER = """
WITH ranges AS
(
    SELECT topic_id, partition, first, end, max(epoch) AS last_epoch,
           any(expected_rows) AS expected, sum(rows) AS landed
    FROM
    (
        SELECT topic_id, partition, first, end, epoch, clickhouse_partition,
               any(expected_rows) AS expected_rows, any(rows) AS rows
        FROM batches
        GROUP BY topic_id, partition, first, end, epoch, clickhouse_partition
    )
    GROUP BY topic_id, partition, first, end
)
SELECT
    topic_id, partition,
    count() AS batches, min(first) AS log_start, max(end) AS log_end,
    sum(landed) AS rows,
    arraySort(groupArray((first, end))) AS sorted,
    length(sorted) AS n,
    arrayCount(i -> sorted[i].1 > sorted[i - 1].2, range(2, n + 1)) AS gaps,
    arrayCount(i -> sorted[i].1 < sorted[i - 1].2, range(2, n + 1)) AS overlaps,
    countIf(landed > expected) AS doubles,
    countIf(landed < expected) AS short
FROM ranges
GROUP BY topic_id, partition
ORDER BY topic_id, partition
"""

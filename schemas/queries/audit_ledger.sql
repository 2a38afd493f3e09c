-- name: audit_ledger
-- The ledger's parts (a batch in one ClickHouse partition) in order, each with how often it stands
-- there. `ranges`: (topic id, partition, first, end) of offsets to look at; empty: all.
SELECT
    topic_id,
    partition,
    first,
    end,
    epoch,
    clickhouse_partition,
    max(b.expected_rows) AS expected_rows,
    max(b.rows) AS rows,
    count() AS times,
    toUnixTimestamp64Milli(max(b.landed_at)) AS landed_ms
FROM batches AS b
WHERE topic_id IN {topic_ids:Array(String)}
  AND (empty({ranges:Array(Tuple(String, UInt32, UInt64, UInt64))})
       OR arrayExists(r -> r.1 = topic_id AND r.2 = partition AND first < r.4 AND end > r.3,
                      {ranges:Array(Tuple(String, UInt32, UInt64, UInt64))}))
GROUP BY topic_id, partition, first, end, epoch, clickhouse_partition
ORDER BY topic_id, partition, first, end, epoch, clickhouse_partition
SETTINGS optimize_aggregation_in_order = 1

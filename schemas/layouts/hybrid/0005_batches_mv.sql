-- Rows that came without a batch's token have no topic id, and get no row in the ledger.
CREATE MATERIALIZED VIEW IF NOT EXISTS batches_mv TO batches AS
WITH splitByChar(':', getSetting('insert_deduplication_token')) AS token
SELECT
    _topic_id AS topic_id,
    token[8] AS topic,
    toUInt16OrZero(token[9]) AS rows_version,
    fromUnixTimestamp64Milli(toInt64OrZero(token[10]), 'UTC') AS announced_at,
    _partition AS partition,
    _first AS first,
    _end AS end,
    toUInt64OrZero(token[5]) AS expected_rows,
    _epoch AS epoch,
    toString(toYYYYMM(created_at)) AS clickhouse_partition,
    count() AS rows,
    now64(3, 'UTC') AS landed_at
FROM events
WHERE _topic_id != ''
GROUP BY topic_id, topic, rows_version, announced_at, partition, first, end, expected_rows, epoch,
    clickhouse_partition;

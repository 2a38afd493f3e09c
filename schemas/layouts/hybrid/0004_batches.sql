-- The ledger: one row for each batch and ClickHouse partition that landed. Per topic and partition the
-- ranges [first, end) tile the offsets; a gap, an overlap or a double is a fault that one query shows.
--
-- `rows` are those that landed in this ClickHouse partition, `expected_rows` those of the whole batch.
-- Read it distinct by (first, end, clickhouse_partition): a view may write a row again after a doubt.
CREATE TABLE IF NOT EXISTS batches
(
    topic_id             LowCardinality(String),
    topic                LowCardinality(String),
    partition            UInt32,
    first                UInt64,
    end                  UInt64,
    expected_rows        UInt64,
    epoch                UInt32,
    clickhouse_partition LowCardinality(String),
    rows                 UInt64,
    landed_at            DateTime64(3, 'UTC'),
    -- of the rules that made the rows (0: not known), and when the batch was announced first (1970:
    -- not known), both from the token
    rows_version         UInt16,
    announced_at         DateTime64(3, 'UTC')
)
ENGINE = MergeTree
ORDER BY (topic_id, partition, first, end, epoch, clickhouse_partition)
SETTINGS non_replicated_deduplication_window = 100000;

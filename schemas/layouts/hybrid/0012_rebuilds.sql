-- Which ClickHouse partitions of the views were, or are being, made again from `events`. A row is
-- written before anything is replaced, one for each hold; `hold_until` is the latest moment at which
-- that hold's replacement can happen. It is written again with `finished_at` when all is done, so a
-- row that stays at 1970 is of a rebuild that was cut off, or had to hold once more.
CREATE TABLE IF NOT EXISTS rebuilds
(
    id                   String,
    clickhouse_partition LowCardinality(String),
    tables               Array(LowCardinality(String)),
    began_at             DateTime64(3, 'UTC'),
    hold_until           DateTime64(3, 'UTC'),
    finished_at          DateTime64(3, 'UTC')
)
ENGINE = ReplacingMergeTree(finished_at)
ORDER BY (clickhouse_partition, hold_until, id);

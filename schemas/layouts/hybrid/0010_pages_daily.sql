CREATE TABLE IF NOT EXISTS pages_daily
(
    project_id     LowCardinality(String),
    date           Date,
    path           String,
    views          SimpleAggregateFunction(sum, UInt64),
    timed_views    SimpleAggregateFunction(sum, UInt64),
    time_spent     SimpleAggregateFunction(sum, UInt64),
    sessions       AggregateFunction(uniq, String),
    timed_sessions AggregateFunction(uniq, String)
)
ENGINE = AggregatingMergeTree
PARTITION BY toYYYYMM(date)
ORDER BY (project_id, date, path)
SETTINGS non_replicated_deduplication_window = 100000;

CREATE TABLE IF NOT EXISTS sessions_daily
(
    project_id      LowCardinality(String),
    date            Date,
    sessions        AggregateFunction(uniq, String),
    events          SimpleAggregateFunction(sum, UInt64),
    page_views      SimpleAggregateFunction(sum, UInt64),
    engaged_seconds SimpleAggregateFunction(sum, UInt64)
)
ENGINE = AggregatingMergeTree
PARTITION BY toYYYYMM(date)
ORDER BY (project_id, date)
SETTINGS non_replicated_deduplication_window = 100000;

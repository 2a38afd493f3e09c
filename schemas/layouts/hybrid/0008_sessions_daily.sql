-- Sums by project and UTC day. Exact through the token: a replayed batch adds nothing. An event that
-- a client itself sent twice is counted twice here, unlike in `sessions` and in `events` FINAL.
CREATE TABLE IF NOT EXISTS sessions_daily
(
    project_id      LowCardinality(String),
    date            Date,
    -- sessions seen on that day; merge it, never add it up: exact up to some 50 000 of a state
    sessions        AggregateFunction(uniq, String),
    events          SimpleAggregateFunction(sum, UInt64),
    page_views      SimpleAggregateFunction(sum, UInt64),
    engaged_seconds SimpleAggregateFunction(sum, UInt64)
)
ENGINE = AggregatingMergeTree
PARTITION BY toYYYYMM(date)
ORDER BY (project_id, date)
SETTINGS non_replicated_deduplication_window = 100000;

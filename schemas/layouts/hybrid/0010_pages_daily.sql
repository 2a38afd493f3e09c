-- Views and time by page and UTC day. An event views its `path` if it is a screen_view, and adds its
-- duration to its `previous_path`, the page that the time was spent on. Durations are increments, so
-- a page's mean time divides time_spent by the sessions that were timed on it, not by reports.
--
-- Exact through the token, as sessions_daily is.
CREATE TABLE IF NOT EXISTS pages_daily
(
    project_id     LowCardinality(String),
    date           Date,
    path           String,
    views          SimpleAggregateFunction(sum, UInt64),
    timed_views    SimpleAggregateFunction(sum, UInt64),  -- events that reported a time on it
    time_spent     SimpleAggregateFunction(sum, UInt64),  -- seconds
    sessions       AggregateFunction(uniq, String),       -- that viewed it
    timed_sessions AggregateFunction(uniq, String)        -- that spent time on it
)
ENGINE = AggregatingMergeTree
PARTITION BY toYYYYMM(date)
ORDER BY (project_id, date, path)
SETTINGS non_replicated_deduplication_window = 100000;

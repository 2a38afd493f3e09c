-- A session's running state, a row for each session and UTC day: read it grouped by session_id.
--
-- Nothing in it moves when an event comes a second time. The counters are a map from the event's
-- hash to what it counts (duration * 2 + 1 if it is a page view), merged by maximum; the rest are
-- minima, maxima and the values of the first or last event, which a second copy leaves as they are.
CREATE TABLE IF NOT EXISTS sessions
(
    project_id  LowCardinality(String),
    date        Date,
    session_id  String,
    started_at  SimpleAggregateFunction(min, DateTime64(3, 'UTC')),
    ended_at    SimpleAggregateFunction(max, DateTime64(3, 'UTC')),
    counted     SimpleAggregateFunction(maxMap, Map(UInt64, UInt64)),
    max_scroll  SimpleAggregateFunction(max, UInt8),
    -- of the first and the last page view by created_at
    entry_path  AggregateFunction(argMin, String, UInt64),
    exit_path   AggregateFunction(argMax, String, UInt64),
    -- of the first event by created_at that came from somewhere:
    -- referrer, referrer_name, referrer_kind, utm_source, _medium, _campaign, _term, _content, click_id_kind
    origin      AggregateFunction(argMin, Tuple(String, String, String, String, String, String, String, String, String), UInt64),
    -- of the event received first: country, city, device, browser, browser_version, os, os_version, is_bot
    visitor     AggregateFunction(argMin, Tuple(String, String, String, String, String, String, String, UInt8), UInt64)
)
ENGINE = AggregatingMergeTree
PARTITION BY toYYYYMM(date)
ORDER BY (project_id, date, session_id)
SETTINGS non_replicated_deduplication_window = 100000;

-- A session's running state, one row or more for each session and UTC day: always read it grouped by
-- session_id, as schemas/queries/session_list.sql does.
--
-- Nothing in it moves when an event comes a second time. The counters are a map from the event's hash
-- to what it counts, merged by maximum. The rest are minima, maxima and the values of one chosen
-- event, which a second copy of an event leaves as they are.
--
-- `origin` and `visitor` hold several texts, joined by the unit separator \x1f, in the order that is
-- named beside them: one state for nine columns costs a third of nine states. splitByChar opens them.
CREATE TABLE IF NOT EXISTS sessions
(
    project_id LowCardinality(String),
    date       Date,
    session_id String,
    started_at SimpleAggregateFunction(min, DateTime64(3, 'UTC')),
    ended_at   SimpleAggregateFunction(max, DateTime64(3, 'UTC')),
    -- by sipHash64(id): duration * 2, and 1 more for a page view
    counted    SimpleAggregateFunction(maxMap, Map(UInt64, UInt64)),
    max_scroll SimpleAggregateFunction(max, UInt8),
    -- of the first and of the last page view by created_at
    entry_path AggregateFunction(argMin, String, UInt64),
    exit_path  AggregateFunction(argMax, String, UInt64),
    -- of the first event by created_at (of several in that millisecond, one that has a referrer or
    -- utm_source): referrer, referrer_name, referrer_kind, utm_source, utm_medium, utm_campaign,
    -- utm_term, utm_content, click_id_kind
    origin     AggregateFunction(argMin, String, UInt64),
    -- of the event received first:
    -- country, city, device, browser, browser_version, os, os_version, is_bot
    visitor    AggregateFunction(argMin, String, UInt64)
)
ENGINE = AggregatingMergeTree
PARTITION BY toYYYYMM(date)
ORDER BY (project_id, date, session_id)
SETTINGS non_replicated_deduplication_window = 100000, min_bytes_for_wide_part = 67108864;

CREATE MATERIALIZED VIEW IF NOT EXISTS sessions_daily_mv TO sessions_daily AS
SELECT
    project_id,
    toDate(created_at) AS date,
    uniqState(session_id) AS sessions,
    count() AS events,
    countIf(name = 'screen_view') AS page_views,
    sum(duration) AS engaged_seconds
FROM events
GROUP BY project_id, date;

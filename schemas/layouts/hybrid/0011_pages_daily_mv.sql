CREATE MATERIALIZED VIEW IF NOT EXISTS pages_daily_mv TO pages_daily AS
SELECT
    project_id,
    toDate(created_at) AS date,
    page AS path,
    sum(is_view) AS views,
    countIf(is_view = 0) AS timed_views,
    sumIf(duration, is_view = 0) AS time_spent,
    uniqStateIf(session_id, is_view = 1) AS sessions,
    uniqStateIf(session_id, is_view = 0) AS timed_sessions
FROM events
ARRAY JOIN
    [if(name = 'screen_view', events.path, ''), previous_path] AS page,
    [1, 0] AS is_view
WHERE page != ''
GROUP BY project_id, date, page;

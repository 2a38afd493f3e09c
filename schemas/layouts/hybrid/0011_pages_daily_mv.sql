CREATE MATERIALIZED VIEW IF NOT EXISTS pages_daily_mv TO pages_daily AS
SELECT
    e.project_id AS project_id,
    toDate(e.created_at) AS date,
    page AS path,
    sum(is_view) AS views,
    countIf(is_view = 0) AS timed_views,
    sumIf(e.duration, is_view = 0) AS time_spent,
    uniqStateIf(e.session_id, is_view = 1) AS sessions,
    uniqStateIf(e.session_id, is_view = 0) AS timed_sessions
FROM events AS e
ARRAY JOIN [if(e.name = 'screen_view', e.path, ''), e.previous_path] AS page, [1, 0] AS is_view
WHERE page != ''
GROUP BY project_id, date, path;

-- name: dashboard
-- Totals by UTC day, for the days in [start, end).
-- project_id String, start and end Date
--
-- `sessions` are those seen on that day: a session over midnight counts on both, so days must not be
-- added up.
SELECT
    d.date AS date,
    uniqMerge(d.sessions) AS sessions,
    sum(d.events) AS events,
    sum(d.page_views) AS page_views,
    sum(d.engaged_seconds) AS engaged_seconds,
    sum(d.engaged_seconds) / uniqMerge(d.sessions) AS engaged_seconds_per_session
FROM sessions_daily AS d
WHERE d.project_id = {project_id:String}
  AND d.date >= {start:Date}
  AND d.date < {end:Date}
GROUP BY d.date
ORDER BY d.date

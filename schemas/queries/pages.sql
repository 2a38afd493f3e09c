-- name: pages
-- Views and time by page, for the UTC days in [start, end), the page with the most time first.
-- project_id String, start and end Date, limit UInt32
--
-- Time comes in increments, so the mean divides by (session, page) pairs: the seconds that a session
-- which was timed on the page spent there.
SELECT
    p.path AS path,
    sum(p.views) AS views,
    uniqMerge(p.sessions) AS sessions,
    sum(p.timed_views) AS timed_views,
    sum(p.time_spent) AS time_spent,
    uniqMerge(p.timed_sessions) AS timed_sessions,
    if(timed_sessions = 0, 0, time_spent / timed_sessions) AS time_per_session
FROM pages_daily AS p
WHERE p.project_id = {project_id:String}
  AND p.date >= {start:Date}
  AND p.date < {end:Date}
GROUP BY p.path
ORDER BY time_spent DESC, views DESC, path
LIMIT {limit:UInt32}

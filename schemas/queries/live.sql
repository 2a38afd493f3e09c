-- name: live
-- What happened in the `minutes` before `now`: (now - minutes, now].
-- project_id String, now DateTime64(3, 'UTC'), minutes UInt32
SELECT
    uniqExact(session_id) AS sessions,
    uniqExact(id) AS events,
    uniqExactIf(id, name = 'screen_view') AS page_views
FROM events
WHERE project_id = {project_id:String}
  AND toDate(created_at) >= toDate({now:DateTime64(3, 'UTC')} - toIntervalMinute({minutes:UInt32}))
  AND created_at > {now:DateTime64(3, 'UTC')} - toIntervalMinute({minutes:UInt32})
  AND created_at <= {now:DateTime64(3, 'UTC')}
